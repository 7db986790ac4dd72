//! Golden files: the bytes of version 1, which every later version must read.
//!
//! `PXFS_BLESS=1 cargo test golden` writes those that are missing or differ; a change of one that
//! was released is a new version of the format.

use std::path::Path;

use super::*;
use crate::page::Body;

/// Fails when `block` is not what the golden file says.
fn same(name: &str, block: &Block) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden/pack")
        .join(name);
    if std::env::var_os("PXFS_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &block.data).unwrap();
    }
    let golden = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(golden == block.data, "{name} is {} now", block.cid);
}

fn usual(name: &str, ino: u64, kind: Kind) -> Entry {
    let mut entry = named(name.as_bytes(), ino, kind);
    if let Some(inode) = &mut entry.inode {
        inode.attr = Attr {
            mode: 0o644,
            uid: 1000,
            gid: 100,
            mtime_ns: 1_700_000_000_123_456_789,
            ctime_ns: 1_700_000_001_000_000_000,
            birth_ns: -1,
            xattrs: BTreeMap::new(),
        };
    }
    entry
}

fn node_child(stamp: u8) -> Child {
    Child::new(crate::cid::node_of_digest([stamp; 32]), 5_000_345)
}

/// One of everything.
fn everything() -> Vec<Entry> {
    let sparse = Kind::File {
        content: node_child(1),
        size: 5_000_000,
        holes: [0..2, 4..5].into_iter().collect(),
    };
    let lost = Child {
        tsize: 0,
        damaged: true,
        ..node_child(2)
    };
    let below = TreeRef {
        root: node_child(3),
        sums: entry::Sums {
            bytes: 123_456,
            inodes: 7,
            entries: 8,
            subdirs: 2,
        },
    };
    let mut tagged = usual("tagged", 12, small(3));
    if let Some(inode) = &mut tagged.inode {
        let tag =
            |name: &'static str, value: &'static [u8]| (name.into(), Bytes::from_static(value));
        inode.attr.xattrs = [tag("user.b", b""), tag("user.a", b"\x00\xff")]
            .into_iter()
            .collect();
    }
    let mut bytes = usual("?", 13, small(4));
    bytes.key = Bytes::from_static(b"caf\xe9");
    let shared = Entry {
        inode: None,
        ..usual("shared", 14, Kind::Fifo)
    };
    let mut all = vec![
        usual("file", 2, small(1)),
        usual("sparse", 3, sparse),
        usual(
            "lost",
            4,
            Kind::File {
                content: lost,
                size: 5_000_000,
                holes: Holes::none(),
            },
        ),
        usual("directory", 5, Kind::Directory(below)),
        usual(
            "symlink",
            6,
            Kind::Symlink(Bytes::from_static(b"../target")),
        ),
        usual("fifo", 7, Kind::Fifo),
        usual("socket", 8, Kind::Socket),
        usual("char", 9, Kind::CharDevice(0x0501)),
        usual("block", 10, Kind::BlockDevice(0x0800)),
        usual("_px_begins so", 11, small(2)),
        usual("ünï", Ino::MAX.0, small(5)),
        tagged,
        bytes,
        shared,
    ];
    all.sort_by(|a, b| a.key.cmp(&b.key));
    all
}

#[test]
fn a_page_of_version_1_is_read_and_written() {
    let body = Body::Entries(everything());
    let (block, _) = body.encode(TreeKind::Directory).unwrap();
    same("directory.bin", &block);
    assert_eq!(
        Body::decode(TreeKind::Directory, &block.cid, &block.data),
        Ok(body)
    );
    let empty = tree_block(TreeKind::Directory);
    same("empty-directory.bin", &empty);
}

#[test]
fn an_inode_table_of_version_1_is_read_and_written() {
    let rows = [("a", 2, 2), ("b", 300, 1), ("c", 1 << 47, 65_000)].map(|(_, ino, links)| {
        let mut row = usual("x", ino, small(ino));
        row.key = row_key(Ino(ino));
        row.inode.as_mut().unwrap().links = links;
        row
    });
    let body = Body::Entries(rows.to_vec());
    let (block, _) = body.encode(TreeKind::Table).unwrap();
    same("table.bin", &block);
    assert_eq!(
        Body::decode(TreeKind::Table, &block.cid, &block.data),
        Ok(body)
    );
    same("empty-table.bin", &tree_block(TreeKind::Table));
}

#[test]
fn an_index_of_version_1_is_read_and_written() {
    let rows = [("", false), ("k", true), ("m", false)]
        .into_iter()
        .zip(1u8..);
    let rows = rows.map(|((border, damaged), i)| page::Row {
        border: border.into(),
        child: Child {
            damaged,
            tsize: if damaged { 0 } else { 70_000 },
            ..node_child(i)
        },
        weight: 66_000,
        sums: entry::Sums {
            bytes: 1 << i,
            inodes: 300,
            entries: 300,
            subdirs: 0,
        },
    });
    for (name, kind) in [
        ("index.bin", TreeKind::Directory),
        ("table-index.bin", TreeKind::Table),
    ] {
        let body = Body::Rows(1, rows.clone().collect());
        let (block, _) = body.encode(kind).unwrap();
        same(name, &block);
        assert_eq!(Body::decode(kind, &block.cid, &block.data), Ok(body));
    }
}

#[test]
fn a_root_and_header_of_version_1_are_read_and_written() {
    let header = Header::plain(*b"0123456789abcdef").encode().unwrap();
    same("header.bin", &header);
    let mut store = Store::default();
    let entries = everything();
    let tree = Body::Entries(entries).encode(TreeKind::Directory).unwrap();
    let tree = tree::open(
        TreeKind::Directory,
        tree.1,
        &HashMap::from([(tree.0.cid, tree.0.data)]),
    );
    let table = tree::empty(TreeKind::Table, &mut store.put()).unwrap();
    let mut root = store.root(tree.unwrap(), table);
    root.header = Child::leaf(&header);
    root.volume.token = TokenKey {
        chain_id: 1029,
        contract: Address::repeat_byte(0x5a),
        token: TokenId::from(7),
    };
    root.volume.epoch = 3;
    root.sequence = 42;
    root.time_ns = 1_700_000_002_000_000_000;
    root.next_inode = Ino(15);
    root.attr = usual("x", 2, Kind::Fifo).inode.unwrap().attr;
    let version = Version {
        sequence: 41,
        root: [4; 32],
    };
    root.note(root.writer, version);
    root.note(
        WriterId([8; 16]),
        Version {
            sequence: 12,
            ..version
        },
    );
    let block = root.encode().unwrap();
    same("root.bin", &block);
    assert_eq!(Root::decode(&block), Ok(root.clone()));
    let first = Root {
        parent: None,
        versions: BTreeMap::new(),
        ..root
    };
    same("first-root.bin", &first.encode().unwrap());
}

#[test]
fn files_and_symlinks_of_version_1_are_written() {
    let mut last = None;
    let holes = Holes::all(5_000_000);
    let none: HashMap<Cid, Bytes> = HashMap::new();
    rebuild(
        None,
        5_000_000,
        &holes,
        &BTreeMap::new(),
        &none,
        &mut |block| {
            last = Some(block);
        },
    )
    .unwrap();
    same("file.bin", &last.unwrap());
    let target = Bytes::from_static(b"../target");
    same("symlink.bin", &dagpb::symlink(&target).unwrap().0);
}

fn tree_block(kind: TreeKind) -> Block {
    let mut found = None;
    tree::empty(kind, &mut |block| found = Some(block)).unwrap();
    found.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Else a node could make a mount show something else, or fall.
    #[test]
    fn changed_bytes_of_a_page_are_refused_or_mean_something_else(
        at in any::<usize>(), to in any::<u8>(), table in any::<bool>(), cut in any::<bool>(),
    ) {
        let (kind, body) = if table {
            let mut row = usual("x", 300, small(1));
            row.key = row_key(Ino(300));
            (TreeKind::Table, Body::Entries(vec![row]))
        } else {
            (TreeKind::Directory, Body::Entries(everything()))
        };
        let mut bytes = body.encode(kind).unwrap().0.data.to_vec();
        let at = at % bytes.len();
        bytes[at] = to;
        if cut {
            bytes.truncate(at);
        }
        let bytes = Bytes::from(bytes);
        let cid = crate::cid::node_cid(&bytes);
        if let Ok(other) = Body::decode(kind, &cid, &bytes) {
            prop_assert_eq!(other.encode(kind).unwrap().0.data, bytes);
        }
    }
}
