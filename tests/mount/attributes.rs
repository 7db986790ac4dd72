//! Extended attributes: those that are kept come back with every byte, on this machine and on another, and ACLs are
//! refused wherever they could be set, asked for, or be handed on.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;

use rustix::fs::{
    CWD, FileType, Mode, XattrFlags, lgetxattr, llistxattr, lremovexattr, lsetxattr, mknodat,
};
use rustix::io::Errno;

use crate::harness::Machine;
use crate::samples::pattern;

/// More than any value here has.
const ROOM: usize = 64 << 10;

/// As `setcap cap_net_bind_service=ep` makes it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

type Attributes = BTreeMap<String, Vec<u8>>;

fn set(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty())
        .unwrap_or_else(|why| panic!("{name} of {}: {why}", path.display()));
}

/// All that `path` itself has.
fn attributes(path: &Path) -> Attributes {
    let mut list = vec![0; ROOM];
    let len = llistxattr(path, &mut list[..]).expect("llistxattr");
    list.truncate(len);
    let names = list
        .split_inclusive(|byte| *byte == 0)
        .map(|name| String::from_utf8(name[..name.len() - 1].to_vec()).expect("UTF-8"));
    let with_value = |name: String| {
        let mut value = vec![0; ROOM];
        let len = lgetxattr(path, name.as_str(), &mut value[..])
            .unwrap_or_else(|why| panic!("{name} of {}: {why}", path.display()));
        value.truncate(len);
        (name, value)
    };
    names.map(with_value).collect()
}

/// Inodes of each kind, which keep what is theirs in different places.
const INODES: [&str; 9] = [
    "",
    "inline",
    "staged",
    "linked",
    "folder",
    "folder/below",
    "symlink",
    "fifo",
    "device",
];

fn make_inodes(dir: &Path) {
    fs::write(dir.join("inline"), "x").expect("write");
    fs::write(dir.join("staged"), pattern(1, 0, 200_000)).expect("write");
    fs::create_dir(dir.join("folder")).expect("mkdir");
    fs::write(dir.join("folder/below"), "").expect("write");
    fs::write(dir.join("linked"), "two names").expect("write");
    fs::hard_link(dir.join("linked"), dir.join("folder/second")).expect("link");
    symlink("inline", dir.join("symlink")).expect("symlink");
    let null = rustix::fs::makedev(1, 3);
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("device", FileType::CharacterDevice, null),
    ] {
        mknodat(CWD, dir.join(name), kind, Mode::RUSR, device).expect("mknod");
    }
}

#[test]
fn attributes_of_every_kind_come_back_after_a_crash_a_new_mount_and_on_another_machine() {
    let mut machine = Machine::demo_with(&["--commit-idle", "1h", "--commit-max", "1h"]);
    let dir = machine.dir();
    make_inodes(&dir);
    let mut expected = BTreeMap::new();
    for (number, inode) in INODES.into_iter().enumerate() {
        let path = dir.join(inode);
        let mut all = Attributes::from([
            ("security.test".to_owned(), format!("of {inode}\0").into()),
            ("trusted.test".to_owned(), vec![0, 255, b'\n', number as u8]),
            ("trusted.empty".to_owned(), Vec::new()),
        ]);
        let kind = fs::symlink_metadata(&path).expect("stat").file_type();
        // The kernel gives the others none.
        if kind.is_file() || kind.is_dir() {
            all.insert("user.long".to_owned(), pattern(number as u64, 0, 20_000));
            all.insert(format!("user.{}", "n".repeat(250)), b"long name".to_vec());
        }
        if kind.is_file() {
            all.insert("security.capability".to_owned(), CAPABILITY.to_vec());
        }
        for (name, value) in &all {
            set(&path, name, value);
        }
        expected.insert(inode, all);
    }
    let check = |dir: &Path, expected: &BTreeMap<&str, Attributes>, when: &str| {
        for (inode, all) in expected {
            assert!(attributes(&dir.join(inode)) == *all, "{inode:?} {when}");
        }
        let second = attributes(&dir.join("folder/second"));
        assert!(second == expected["linked"], "a second name, {when}");
    };
    check(&dir, &expected, "at once");
    // By the journal alone: nothing is published yet.
    File::open(&dir)
        .and_then(|dir| dir.sync_all())
        .expect("fsync of the folder");
    machine.kill();
    machine.start();
    check(&dir, &expected, "after a crash");
    machine.flush();
    machine.restart();
    check(&dir, &expected, "after a new mount");
    // Taken away, made anew, replaced by what is longer and by what is shorter: of what is published.
    for (inode, all) in &mut expected {
        let path = dir.join(inode);
        lremovexattr(&path, "trusted.empty").expect("removexattr");
        all.remove("trusted.empty");
        for (name, value) in [
            ("security.test", "changed, and longer than it was before"),
            ("trusted.test", ""),
            ("trusted.new", "new"),
        ] {
            set(&path, name, value.as_bytes());
            all.insert(name.to_owned(), value.into());
        }
    }
    check(&dir, &expected, "after a change");
    machine.stop();
    let second = Machine::second(&machine);
    check(&second.dir(), &expected, "on another machine");
}

/// The two names that ACLs go by.
const ACLS: [&str; 2] = ["system.posix_acl_access", DEFAULT];
const DEFAULT: &str = "system.posix_acl_default";

/// As `setfacl -m u:65534:rwx` makes it of mode 640.
fn acl() -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, who) in [
        (1_u16, 6_u16, u32::MAX),
        (2, 7, 65_534),
        (4, 4, u32::MAX),
        (0x10, 7, u32::MAX),
        (0x20, 0, u32::MAX),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(who.to_le_bytes());
    }
    acl
}

/// Neither `path` nor what is made in it has an ACL, or can get one.
#[track_caller]
fn refuses_acls(path: &Path, when: &str) {
    let is_dir = fs::symlink_metadata(path).expect("stat").is_dir();
    let mode = fs::symlink_metadata(path).expect("stat").mode();
    for name in ACLS {
        let at = format!("{name} of {} {when}", path.display());
        // What new entries inherit is asked of folders alone: of all else the kernel refuses it itself.
        let (set, removed) = match name {
            DEFAULT if !is_dir => (Err(Errno::ACCESS), Ok(())),
            _ => (Err(Errno::OPNOTSUPP), Err(Errno::OPNOTSUPP)),
        };
        let every = [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE];
        for flags in every {
            assert_eq!(lsetxattr(path, name, &acl(), flags), set, "{at}");
        }
        let mut value = [0; 256];
        let got = lgetxattr(path, name, &mut value[..]);
        assert_eq!(got, Err(Errno::OPNOTSUPP), "{at}");
        assert_eq!(lremovexattr(path, name), removed, "{at}");
    }
    let names = attributes(path).into_keys().collect::<Vec<_>>();
    assert!(
        !names.iter().any(|name| name.starts_with("system.")),
        "{names:?} {when}"
    );
    let mode_now = fs::symlink_metadata(path).expect("stat").mode();
    assert_eq!(mode_now, mode, "{} {when}", path.display());
    if is_dir {
        let (file, folder) = (path.join("new"), path.join("new-folder"));
        // The mode alone says who may: no ACL of the folder takes from it or adds to it.
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(&file);
        made.expect("create");
        DirBuilder::new()
            .mode(0o750)
            .create(&folder)
            .expect("mkdir");
        for (made, mode) in [(&file, 0o640), (&folder, 0o750)] {
            let found = fs::metadata(made).expect("stat").mode() & 0o7777;
            assert_eq!(
                (found, attributes(made)),
                (mode, Attributes::new()),
                "{when}"
            );
        }
        fs::remove_file(file)
            .and_then(|()| fs::remove_dir(folder))
            .expect("removal");
    }
}

#[test]
fn acls_are_refused_on_every_inode_at_every_mount_and_nothing_is_inherited() {
    let mut machine = Machine::demo_with(&["-o", "allow_other"]);
    let dir = machine.dir();
    make_inodes(&dir);
    let check = |dir: &Path, when: &str| {
        for inode in INODES {
            if inode != "symlink" {
                refuses_acls(&dir.join(inode), when);
            }
        }
        let mountpoint = dir.parent().expect("the mountpoint");
        for name in ACLS {
            for (at, refused) in [
                (dir.join("symlink").as_path(), Errno::OPNOTSUPP),
                (mountpoint, Errno::PERM),
            ] {
                let set = lsetxattr(at, name, &acl(), XattrFlags::empty());
                assert_eq!(set, Err(refused), "{} {when}", at.display());
                let mut value = [0; 256];
                let got = lgetxattr(at, name, &mut value[..]);
                assert_eq!(got, Err(Errno::OPNOTSUPP), "{} {when}", at.display());
            }
        }
    };
    check(&dir, "at once");
    machine.restart();
    check(&dir, "after a new mount");
    machine.stop();
    let mut second = Machine::prepared_second(&machine);
    second.set_env("PXFS_TAKE_OVER", "1");
    second.start();
    second.wait_for("1", "state", "ok");
    check(&second.dir(), "on another machine");
}
