//! What was removed while the kernel holds it.

use super::rig::{CALLER, Rig};
use crate::fs::{FsError, Kind, SetAttr};

#[test]
fn a_removed_folder_is_there_for_who_holds_it_and_costs_nothing_when_nobody_does() {
    let mut rig = Rig::new();
    let drive = &rig.drive;
    let dir = drive.mkdir(CALLER, rig.root, b"d", 0o750).unwrap();
    drive
        .mknod(CALLER, dir.ino, b"f", Kind::Fifo, 0o600, 0)
        .unwrap();
    let fifo = drive.lookup(dir.ino, b"f").unwrap();
    drive.unlink(dir.ino, b"f").unwrap();
    drive.rmdir(rig.root, b"d").unwrap();
    let used = rig.volume.with_quota(|quota| quota.used_bytes());

    let held = drive.getattr(dir.ino).unwrap();
    assert_eq!((held.nlink, held.mode), (0, 0o750));
    assert_eq!(drive.getattr(fifo.ino).unwrap().nlink, 0);
    drive.opendir(dir.ino).unwrap();
    // What the C library takes for the end of an empty listing.
    let listed = drive.readdir(dir.ino, 0, true, &mut |_, _| true);
    assert_eq!(listed, Err(FsError::NotFound));
    let made = drive.mkdir(CALLER, dir.ino, b"new", 0o755);
    assert_eq!(made, Err(FsError::NotFound));
    assert_eq!(drive.lookup(dir.ino, b"f"), Err(FsError::NotFound));
    let mode = SetAttr {
        mode: Some(0o700),
        ..SetAttr::default()
    };
    assert_eq!(drive.setattr(dir.ino, None, &mode).unwrap().mode, 0o700);
    drive.setxattr(dir.ino, b"user.a", b"1", 0).unwrap();
    assert_eq!(drive.getxattr(dir.ino, b"user.a").unwrap(), b"1");
    assert_eq!(rig.volume.with_quota(|quota| quota.used_bytes()), used);

    drive.forget(fifo.ino);
    assert_eq!(drive.getattr(fifo.ino), Err(FsError::NotFound));
    drive.getattr(dir.ino).unwrap();
    drive.forget(dir.ino);
    assert_eq!(drive.getattr(dir.ino), Err(FsError::NotFound));
    assert_eq!(drive.opendir(dir.ino), Err(FsError::NotFound));
    assert_eq!(rig.volume.removed.count(), 0);

    // What was changed without a name reaches neither journal nor node.
    let dir = rig.drive.mkdir(CALLER, rig.root, b"d", 0o750).unwrap();
    rig.drive.rmdir(rig.root, b"d").unwrap();
    rig.drive.setattr(dir.ino, None, &mode).unwrap();
    rig.drive.sync().unwrap();
    rig.reopen();
    assert_eq!(rig.drive.getattr(dir.ino), Err(FsError::NotFound));
}
