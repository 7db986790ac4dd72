//! Entries: what they take and what they are charged.

use minicbor::Encoder;
use proptest::prelude::*;

use super::*;
use crate::chunk::CHUNK_SIZE;
use crate::holes::MAX_RUNS;
use crate::tests::{attr, named, small};
use crate::{cid, dagpb};

/// Bytes that an entry takes in its page, with its link at the greatest position.
fn taken(entry: &Entry, tree: TreeKind) -> usize {
    let mut out = Encoder::new(Vec::new());
    write(entry, tree, 65_535, &mut out).unwrap();
    let link = link_of(entry, tree).unwrap();
    out.into_writer().len() + link.map_or(0, |l| dagpb::link_len(&l.cid, l.name.len(), l.tsize))
}

/// One of each kind, every number as long as it gets.
fn longest(name: &[u8]) -> Vec<Entry> {
    let node = Child::new(cid::node_of_digest([7; 32]), u64::MAX);
    let runs = |count: u64| {
        (0..count)
            .map(|i| (i << 30) + 1..(i << 30) + (1 << 29))
            .collect::<Holes>()
    };
    let file = |count: u64| Kind::File {
        content: node,
        size: (1 << 30) * CHUNK_SIZE * count.max(1),
        holes: runs(count),
    };
    let sums = Sums {
        bytes: u64::MAX,
        inodes: u64::MAX,
        entries: u64::MAX,
        subdirs: u64::MAX,
    };
    vec![
        named(name, Ino::MAX.0, small(1)),
        named(name, Ino::MAX.0, file(0)),
        named(name, Ino::MAX.0, file(1)),
        named(name, Ino::MAX.0, file(MAX_RUNS as u64)),
        named(
            name,
            Ino::MAX.0,
            Kind::Directory(TreeRef { root: node, sums }),
        ),
        named(name, Ino::MAX.0, Kind::Symlink(vec![b't'; 1].into())),
        named(
            name,
            Ino::MAX.0,
            Kind::Symlink(vec![b't'; MAX_TARGET].into()),
        ),
        named(name, Ino::MAX.0, Kind::Fifo),
        named(name, Ino::MAX.0, Kind::BlockDevice(u32::MAX)),
        Entry {
            inode: None,
            ..named(name, Ino::MAX.0, Kind::Fifo)
        },
    ]
}

/// The charge without the bytes of content, whose nodes are charged for themselves.
fn metadata_charge(entry: &Entry, tree: TreeKind) -> u64 {
    let all = entry.sums(tree).bytes;
    match entry.inode.as_ref().map(|inode| &inode.kind) {
        Some(Kind::File { size, holes, .. }) => {
            let content = file_charge(*size, holes.whole(*size));
            let runs = holes.whole(*size).min(MAX_RUNS as u64);
            all - content + 24 * runs
        }
        Some(Kind::Directory(_)) => {
            charge::entry_charge(
                &entry.key,
                entry.inode.as_ref().unwrap().attr.xattrs_bytes(),
                0,
            ) + DIRECTORY
        }
        _ => all,
    }
}

#[test]
fn no_entry_takes_more_than_its_charge() {
    for len in [1, 2, 23, 24, 80, 126, 127, 128, 255] {
        for first in [b'a', b'_', 0xff] {
            let mut name = vec![b'n'; len];
            name[0] = first;
            for mut entry in longest(&name) {
                for xattrs in [0, 1, 40] {
                    if let Some(inode) = &mut entry.inode {
                        inode.attr.xattrs = (0..xattrs)
                            .map(|i| (format!("{i:04}").into(), Bytes::new()))
                            .collect();
                    }
                    let mut stored = taken(&entry, TreeKind::Directory) as u64;
                    if let Some(Kind::Symlink(target)) = entry.inode.as_ref().map(|i| &i.kind) {
                        stored += dagpb::symlink(target).unwrap().0.data.len() as u64;
                    }
                    if let Some(Kind::Directory(_)) = entry.inode.as_ref().map(|i| &i.kind) {
                        stored += crate::page::FRAME as u64;
                    }
                    let charged = metadata_charge(&entry, TreeKind::Directory);
                    // What the index above the page costs, see the rule of the charge.
                    assert!(
                        stored + stored / 33 <= charged,
                        "{stored} of {charged}: {entry:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn no_row_takes_more_than_its_charge() {
    for mut entry in longest(b"x") {
        entry.key = row_key(entry.ino);
        let Some(inode) = &mut entry.inode else {
            continue;
        };
        inode.links = u32::MAX;
        if entry.check(TreeKind::Table).is_ok() {
            let mut stored = taken(&entry, TreeKind::Table) as u64;
            if let Some(Kind::Symlink(target)) = entry.inode.as_ref().map(|i| &i.kind) {
                stored += dagpb::symlink(target).unwrap().0.data.len() as u64;
            }
            let charged = metadata_charge(&entry, TreeKind::Table);
            assert!(stored + stored / 33 <= charged, "{stored} of {charged}");
        }
    }
}

#[test]
fn chmod_chown_and_utimes_need_no_quota() {
    let mut entry = named(b"file", 2, small(1));
    let before = entry.sums(TreeKind::Directory);
    entry.inode.as_mut().unwrap().attr = Attr::default();
    assert_eq!(entry.sums(TreeKind::Directory), before);
    assert!(
        weight(&entry, TreeKind::Directory)
            < weight(&named(b"file", 2, small(1)), TreeKind::Directory)
    );
}

#[test]
fn what_the_format_cannot_hold_is_refused() {
    let dir = TreeKind::Directory;
    assert_eq!(named(b"ok", 2, small(1)).check(dir), Ok(()));
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'n'; 256]] {
        assert!(named(name, 2, small(1)).check(dir).is_err(), "{name:?}");
    }
    for ino in [0, 1, Ino::MAX.0 + 1] {
        assert!(named(b"x", ino, small(1)).check(dir).is_err());
    }
    for target in [0, MAX_TARGET + 1] {
        assert!(
            named(b"x", 2, Kind::Symlink(vec![b't'; target].into()))
                .check(dir)
                .is_err()
        );
    }
    let large = Kind::File {
        content: Child::new(cid::leaf_cid(b"x"), 9),
        size: CHUNK_SIZE + 1,
        holes: Holes::none(),
    };
    assert!(named(b"x", 2, large).check(dir).is_err());
    let mut entry = named(b"x", 2, small(1));
    let inode = entry.inode.as_mut().unwrap();
    let long = Bytes::from(vec![b'n'; MAX_NAME]);
    inode.attr.xattrs.insert(long, vec![0; 64 << 10].into());
    assert_eq!(entry.check(dir), Ok(()), "the longest value, by any name");
    let xattrs = &mut entry.inode.as_mut().unwrap().attr.xattrs;
    xattrs.insert("user.x".into(), vec![0; 800].into());
    assert!(entry.check(dir).is_err());
    let mut row = named(b"x", 2, small(1));
    row.key = row_key(Ino(3));
    assert!(row.check(TreeKind::Table).is_err());
    row.key = row_key(Ino(2));
    assert_eq!(row.check(TreeKind::Table), Ok(()));
    row.inode.as_mut().unwrap().links = 0;
    assert!(row.check(TreeKind::Table).is_err());
}

proptest! {
    /// Pages are cut by weight; a wrong one would make blocks that no node takes.
    #[test]
    fn the_weight_of_an_entry_is_what_it_takes(
        name in prop::collection::vec(any::<u8>(), 1..256),
        numbers in any::<(u16, u32, u32, i64, i64, i64)>(),
        shift in 0u32..64,
        which in 0usize..10,
        values in prop::collection::btree_map("[a-z]{1,30}", 0usize..300, 0..30),
    ) {
        let mut entry = longest(&name).swap_remove(which);
        entry.ino = Ino((u64::MAX >> shift).clamp(2, Ino::MAX.0));
        if let Some(inode) = &mut entry.inode {
            let (mode, uid, gid, mtime, ctime, birth) = numbers;
            inode.attr = Attr {
                mode: mode & 0o7777,
                uid: uid >> (shift / 2),
                gid,
                mtime_ns: mtime >> shift,
                ctime_ns: ctime >> (shift / 2),
                birth_ns: birth,
                xattrs: values.into_iter().map(|(n, len)| (n.into(), vec![0; len].into())).collect(),
            };
            match &mut inode.kind {
                Kind::File { content, .. } if shift > 32 => content.damaged = true,
                Kind::File { content, .. } => content.tsize >>= shift,
                Kind::Directory(tree) => tree.sums.bytes >>= shift,
                _ => {}
            }
        }
        let (weight, taken) = (weight(&entry, TreeKind::Directory), taken(&entry, TreeKind::Directory));
        prop_assert!(weight == taken || (which == 6 && weight <= taken + 2 && weight >= taken), "{weight} {taken}");
    }
}

#[test]
fn attributes_of_the_longest_entries_are_the_longest() {
    assert!(attr().check().is_ok());
}
