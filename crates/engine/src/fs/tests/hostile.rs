//! A published tree that no pxfs has made: what contradicts itself is refused as damage.

use std::collections::BTreeMap;

use super::rig::Rig;
use crate::fs::{FsError, LoadedEntry};
use crate::pack::Child;
use crate::pack::cid::{leaf_cid, node_cid};
use crate::pack::entry::{Attr, Inode, Kind, Sums, TreeRef};
use crate::pack::root::{Root, WriterId};
use crate::types::Ino;

/// The first inode number that the tree has given to nothing.
const NEXT: u64 = 100;

fn attr() -> Attr {
    Attr {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime_ns: 1,
        ctime_ns: 1,
        birth_ns: 1,
        xattrs: BTreeMap::new(),
    }
}

fn tree(name: &[u8]) -> TreeRef {
    TreeRef {
        root: Child::new(node_cid(name), 0),
        sums: Sums::default(),
    }
}

fn entry(name: &'static str, ino: u64, kind: Kind) -> LoadedEntry {
    LoadedEntry {
        name: name.into(),
        ino: Ino(ino),
        inode: Inode {
            attr: attr(),
            kind,
            links: 1,
        },
        hard: false,
    }
}

fn file(name: &'static str, ino: u64) -> LoadedEntry {
    entry(name, ino, Kind::Symlink(b"target".as_slice().into()))
}

fn directory(name: &'static str, ino: u64) -> LoadedEntry {
    entry(name, ino, Kind::Directory(tree(name.as_bytes())))
}

fn hard(name: &'static str, ino: u64) -> LoadedEntry {
    LoadedEntry {
        hard: true,
        ..file(name, ino)
    }
}

/// A volume with the directories `a` (2) and `b` (3), `a` with the file 4 and the directory 5, and `twice`, 6, which has
/// another name elsewhere.
fn rig() -> Rig {
    let rig = Rig::new();
    let root = Root {
        volume: rig.volume.key(),
        sequence: 1,
        parent: None,
        versions: BTreeMap::new(),
        writer: WriterId([1; 16]),
        time_ns: 1,
        next_inode: Ino(NEXT),
        attr: attr(),
        tree: tree(b"root"),
        table: tree(b"table"),
        header: Child::new(leaf_cid(b""), 0),
    };
    assert!(rig.volume.adopt_root(&root, Vec::new()).unwrap());
    let entries = [directory("a", 2), directory("b", 3)];
    enter(&rig, Ino::ROOT, b"root", &entries).unwrap();
    let entries = [file("f", 4), directory("d", 5), hard("twice", 6)];
    enter(&rig, Ino(2), b"a", &entries).unwrap();
    rig
}

fn enter(rig: &Rig, dir: Ino, of: &[u8], entries: &[LoadedEntry]) -> Result<(), FsError> {
    rig.volume.enter_loaded(dir, &node_cid(of), entries)
}

#[test]
fn a_tree_that_repeats_or_nests_an_inode_is_refused_as_damage() {
    for (what, bad) in [
        ("the root", vec![directory("x", 1)]),
        ("a directory in itself", vec![directory("x", 3)]),
        ("one above it", vec![directory("x", 2)]),
        ("one beside it", vec![directory("x", 5)]),
        ("a file of another directory", vec![file("x", 4)]),
        ("one that is no more than that", vec![hard("x", 4)]),
        ("one of several names as if it had one", vec![file("x", 6)]),
        ("two names of one file", vec![file("x", 7), file("y", 7)]),
        ("no inode", vec![file("x", 0)]),
        ("one that is given to nothing", vec![file("x", NEXT)]),
        (
            "a directory of several names",
            vec![LoadedEntry {
                hard: true,
                ..directory("x", 8)
            }],
        ),
    ] {
        let rig = rig();
        let refused = enter(&rig, Ino(3), b"b", &bad);
        assert!(
            matches!(refused, Err(FsError::Damaged(_))),
            "{what}: {refused:?}"
        );
        assert!(
            rig.volume.unloaded_tree(Ino(3)).unwrap().is_some(),
            "{what}"
        );
    }
}

#[test]
fn what_a_tree_says_once_is_entered_also_a_second_time() {
    let rig = rig();
    let good = [file("x", 7), directory("y", 8), hard("again", 6)];
    enter(&rig, Ino(3), b"b", &good).unwrap();
    enter(&rig, Ino(3), b"b", &good).unwrap();
    rig.volume.finish_loading(Ino(3), &node_cid(b"b")).unwrap();
    let b = rig.drive.lookup(rig.root, b"b").unwrap().ino;
    for name in ["x", "y", "again"] {
        rig.drive.lookup(b, name.as_bytes()).unwrap();
    }
}
