//! Extended attributes come back with every byte, on this machine and on another.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
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
fn xattrs_of_all_kinds_survive_crash_remount_and_another_machine() {
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

#[test]
fn an_xattr_of_maximum_length_reaches_another_machine() {
    let mut machine = Machine::demo();
    let dir = machine.dir();
    fs::create_dir(dir.join("folder")).expect("mkdir");
    fs::write(dir.join("file"), "x").expect("write");
    let long = format!("user.{}", "n".repeat(250));
    let mut expected = BTreeMap::new();
    for (inode, name, len) in [
        ("", "user.a", 65_535),
        ("folder", long.as_str(), 65_536),
        ("file", "user.a", 65_536),
    ] {
        set(&dir.join(inode), name, &pattern(7, 0, len));
        expected.insert(
            inode,
            Attributes::from([(name.to_owned(), pattern(7, 0, len))]),
        );
    }
    // The list of names is never longer than the kernel takes it.
    fs::write(dir.join("names"), "").expect("write");
    let named = |number| format!("user.{number:0>250}");
    let count = (0..).take_while(|number| {
        let set = lsetxattr(dir.join("names"), named(*number), b"", XattrFlags::empty());
        set.map_err(|why| assert_eq!(why, Errno::NOSPC)).is_ok()
    });
    let names = (0..count.count()).map(|number| (named(number), Vec::new()));
    expected.insert("names", names.collect());
    let check = |dir: &Path| {
        for (inode, all) in &expected {
            assert!(attributes(&dir.join(inode)) == *all, "{inode:?}");
        }
    };
    check(&dir);
    machine.restart();
    check(&dir);
    machine.stop();
    check(&Machine::second(&machine).dir());
}
