//! ACLs: in step with the mode, handed on to what is made in a folder, and charged like any attribute.

use super::rig::{CALLER, READ_WRITE, Rig};
use crate::fs::{Attr, Caller, FsError, Kind, SetAttr};
use crate::types::Ino;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const NONE: u32 = u32::MAX;

/// The access ACL and the default one, as the two attributes hold them.
type Acls = [Option<Vec<u8>>; 2];

/// As the kernel sends it: tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// Owner, the user 5, group, mask and others.
fn named(owner: u16, user: u16, group: u16, mask: u16, others: u16) -> Vec<u8> {
    acl(&[
        (0x01, owner, NONE),
        (0x02, user, 5),
        (0x04, group, NONE),
        (0x10, mask, NONE),
        (0x20, others, NONE),
    ])
}

fn minimal(owner: u16, group: u16, others: u16) -> Vec<u8> {
    acl(&[(1, owner, NONE), (4, group, NONE), (0x20, others, NONE)])
}

fn set(rig: &Rig, ino: Ino, name: &[u8], value: &[u8]) -> Result<(), FsError> {
    rig.drive.setxattr(CALLER, ino, name, value, 0)
}

fn mode(rig: &Rig, ino: Ino) -> u16 {
    rig.drive.getattr(ino).unwrap().mode
}

fn chmod(rig: &Rig, ino: Ino, mode: u16) {
    let set = SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    };
    rig.drive.setattr(ino, None, &set).unwrap();
}

/// The two ACLs of an inode.
fn acls(rig: &Rig, ino: Ino) -> [Option<Vec<u8>>; 2] {
    [ACCESS, DEFAULT].map(|name| match rig.drive.getxattr(ino, name) {
        Err(FsError::NoAttribute) => None,
        value => Some(value.unwrap()),
    })
}

#[test]
fn the_mode_and_the_acl_of_a_file_never_say_different_things() {
    let mut rig = Rig::new();
    rig.put("f", b"x").unwrap();
    let ino = rig.ino("f");
    set(&rig, ino, ACCESS, &named(7, 6, 4, 6, 1)).unwrap();
    assert_eq!(mode(&rig, ino), 0o761, "the mask is the group's part");
    chmod(&rig, ino, 0o4640);
    assert_eq!(mode(&rig, ino), 0o4640);
    let now = named(6, 6, 4, 4, 0);
    assert_eq!(acls(&rig, ino), [Some(now.clone()), None]);
    assert_eq!(rig.drive.listxattr(ino).unwrap(), [ACCESS, b"\0"].concat());
    rig.drive.sync().unwrap();
    rig = rig.crash();
    let ino = rig.ino("f");
    assert_eq!(
        (mode(&rig, ino), acls(&rig, ino)),
        (0o4640, [Some(now), None])
    );
    // What the mode can say alone is no ACL, as on a local disk, and its room is free again.
    let before = rig.used();
    set(&rig, ino, ACCESS, &minimal(7, 5, 0)).unwrap();
    assert_eq!((mode(&rig, ino), acls(&rig, ino)), (0o4750, [None, None]));
    assert!(rig.used() < before);
    set(&rig, ino, ACCESS, &named(7, 6, 4, 6, 1)).unwrap();
    rig.drive.removexattr(ino, ACCESS).unwrap();
    assert_eq!((mode(&rig, ino), acls(&rig, ino)), (0o4761, [None, None]));
}

#[test]
fn a_new_entry_inherits_its_directorys_default_acl() {
    let mut rig = Rig::new();
    let by = Caller {
        umask: 0o077,
        ..CALLER
    };
    let dir = rig.drive.mkdir(by, rig.root, b"dir", 0o777).unwrap();
    assert_eq!(dir.mode, 0o700, "without one the umask counts");
    let dir = dir.ino;
    let default = named(7, 6, 5, 7, 4);
    set(&rig, dir, DEFAULT, &default).unwrap();
    assert_eq!(
        mode(&rig, dir),
        0o700,
        "it says nothing of the folder itself"
    );

    let made: [(Attr, u16, Acls); 5] = [
        (
            rig.drive
                .create(by, dir, b"file", 0o666, READ_WRITE)
                .unwrap()
                .0,
            0o664,
            [Some(named(6, 6, 5, 6, 4)), None],
        ),
        (
            rig.drive
                .create(by, dir, b"own", 0o600, READ_WRITE)
                .unwrap()
                .0,
            0o600,
            [Some(named(6, 6, 5, 0, 0)), None],
        ),
        (
            rig.drive.mkdir(by, dir, b"folder", 0o777).unwrap(),
            0o774,
            [Some(named(7, 6, 5, 7, 4)), Some(default)],
        ),
        (
            rig.drive
                .mknod(by, dir, b"fifo", Kind::Fifo, 0o644, 0)
                .unwrap(),
            0o644,
            [Some(named(6, 6, 5, 4, 4)), None],
        ),
        (
            rig.drive.symlink(by, dir, b"symlink", b"file").unwrap(),
            0o777,
            [None, None],
        ),
    ];
    let used = rig.used();
    for saved in [false, true] {
        if saved {
            rig.drive.sync().unwrap();
            rig = rig.crash();
        }
        for (attr, bits, expected) in &made {
            assert_eq!(mode(&rig, attr.ino), *bits, "{attr:?}");
            assert_eq!(acls(&rig, attr.ino), *expected, "{attr:?}");
        }
        assert_eq!(rig.used(), used);
    }
    // One that names nobody is handed on, and is a mode in what is no folder.
    set(&rig, dir, DEFAULT, &minimal(7, 7, 0)).unwrap();
    let (attr, _) = rig
        .drive
        .create(by, dir, b"plain", 0o666, READ_WRITE)
        .unwrap();
    assert_eq!((attr.mode, acls(&rig, attr.ino)), (0o660, [None, None]));
    let folder = rig.drive.mkdir(by, dir, b"plain folder", 0o777).unwrap();
    assert_eq!(folder.mode, 0o770);
    assert_eq!(acls(&rig, folder.ino), [None, Some(minimal(7, 7, 0))]);
}

#[test]
fn acls_count_against_the_quota_when_set_or_inherited() {
    let rig = Rig::new();
    let dir = rig
        .drive
        .mkdir(CALLER, rig.root, b"dir", 0o777)
        .unwrap()
        .ino;
    let make = |name: &[u8]| rig.drive.mkdir(CALLER, dir, name, 0o777);
    let cost = |name: &[u8]| {
        let before = rig.used();
        make(name).unwrap();
        rig.used() - before
    };
    let plain = cost(b"a");
    set(&rig, dir, DEFAULT, &named(7, 7, 7, 7, 7)).unwrap();
    let with_acls = cost(b"b");
    assert!(with_acls > plain + 2 * 44, "{plain} {with_acls}");
    let room = rig.volume.with_quota(|quota| quota.room_bytes());
    rig.volume.with_quota(|quota| {
        quota.grow(room).unwrap();
        // A directory is small enough for the reserve.
        let share = quota.reserve_bytes() / 2;
        quota.adjust((share - with_acls + 1) as i64);
    });
    let used = rig.used();
    assert_eq!(make(b"c"), Err(FsError::Quota));
    assert_eq!(rig.used(), used);
    rig.volume.with_quota(|quota| quota.adjust(-1));
    make(b"c").unwrap();
}

#[test]
fn an_invalid_or_unsupported_acl_is_refused_and_changes_nothing() {
    let rig = Rig::new();
    rig.put("f", b"x").unwrap();
    let (file, before) = (rig.ino("f"), mode(&rig, rig.ino("f")));
    let good = named(7, 7, 7, 7, 7);
    for bad in [
        &b""[..],
        b"x",
        &good[..good.len() - 1],
        &good[..20],
        &[7; 4100],
    ] {
        for (ino, name) in [(file, ACCESS), (rig.root, ACCESS), (rig.root, DEFAULT)] {
            assert_eq!(set(&rig, ino, name, bad), Err(FsError::Invalid), "{bad:?}");
        }
    }
    let link = rig.drive.symlink(CALLER, rig.root, b"l", b"f").unwrap().ino;
    for (ino, name) in [(file, DEFAULT), (link, ACCESS), (link, DEFAULT)] {
        assert_eq!(set(&rig, ino, name, &good), Err(FsError::NotSupported));
    }
    assert_eq!((mode(&rig, file), acls(&rig, file)), (before, [None, None]));
    // The kernel asks the mountpoint, too, and lets nobody in where the answer is an error.
    assert_eq!(acls(&rig, Ino::ROOT), [None, None]);
    let refused = set(&rig, Ino::ROOT, ACCESS, &good);
    assert_eq!(refused, Err(FsError::NotPermitted));
    let other = rig.drive.getxattr(rig.root, b"system.other");
    assert_eq!(other, Err(FsError::NotSupported));
}

#[test]
fn setting_an_acl_clears_setgid_for_callers_outside_the_group() {
    let rig = Rig::new();
    rig.put("f", b"x").unwrap();
    let ino = rig.ino("f");
    for (uid, gid, after) in [(0, 9, 0o2761), (9, 0, 0o2761), (9, 9, 0o761)] {
        chmod(&rig, ino, 0o2755);
        let by = Caller { uid, gid, umask: 0 };
        let value = named(7, 6, 4, 6, 1);
        rig.drive.setxattr(by, ino, ACCESS, &value, 0).unwrap();
        assert_eq!(mode(&rig, ino), after, "{uid} {gid}");
    }
}
