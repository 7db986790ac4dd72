//! Whole volumes: what they take on a node never passes what they are charged.

use std::collections::{BTreeMap, HashMap, HashSet};

use ::cid::Cid;
use alloy_primitives::{Address, U256};
use bytes::Bytes;
use proptest::prelude::*;

use super::chunk::CHUNK_SIZE;
use super::dagpb::Node;
use super::entry::{Attr, Entry, Inode, Kind, TreeKind, TreeRef, row_key};
use super::file::rebuild;
use super::header::Header;
use super::holes::Holes;
use super::root::{MAX_WRITERS, Root, Version, WriterId};
use super::*;
use crate::block::{Block, MAX_BLOCK_BYTES};
use pxfs_base::types::{Ino, TokenId, TokenKey, VolumeKey};

mod golden;

/// Every number as long as it gets.
pub(super) fn attr() -> Attr {
    Attr {
        mode: 0o7777,
        uid: u32::MAX,
        gid: u32::MAX,
        mtime_ns: i64::MIN,
        ctime_ns: i64::MAX,
        birth_ns: i64::MIN,
        xattrs: BTreeMap::new(),
    }
}

/// An entry of a directory.
pub(super) fn named(name: &[u8], ino: u64, kind: Kind) -> Entry {
    Entry {
        key: Bytes::copy_from_slice(name),
        ino: Ino(ino),
        inode: Some(Inode {
            attr: attr(),
            kind,
            links: 1,
        }),
    }
}

/// A small file whose content is named by `stamp`.
pub(super) fn small(stamp: u64) -> Kind {
    let block = chunk::leaf(Bytes::from(stamp.to_string()));
    Kind::File {
        content: Child::new(block.cid, 10 << 10),
        size: 10 << 10,
        holes: Holes::none(),
    }
}

/// Blocks by CID; leaves whose bytes nobody made count with their length.
#[derive(Default)]
pub(super) struct Store {
    pub(super) blocks: HashMap<Cid, Bytes>,
    leaves: HashMap<Cid, u64>,
}

impl Store {
    pub(super) fn put(&mut self) -> impl FnMut(Block) + '_ {
        |block| {
            assert_eq!(super::cid::verify(&block.cid, &block.data), Ok(()));
            assert!(block.data.len() <= MAX_BLOCK_BYTES);
            self.blocks.insert(block.cid, block.data);
        }
    }

    /// Bytes of all distinct blocks below `root`.
    pub(super) fn stored(&self, root: Cid) -> u64 {
        let (mut seen, mut below, mut sum) = (HashSet::new(), vec![root], 0);
        while let Some(cid) = below.pop() {
            if !seen.insert(cid) {
                continue;
            }
            if let Some(bytes) = self.blocks.get(&cid) {
                sum += bytes.len() as u64;
                if super::cid::kind(&cid) == Ok(super::cid::Kind::Node) {
                    let node = Node::decode(&cid, bytes).unwrap();
                    below.extend(node.links.iter().map(|link| link.cid));
                }
            } else {
                sum += self
                    .leaves
                    .get(&cid)
                    .expect("every block below the root was given out");
            }
        }
        sum
    }

    /// A file of leaves that no other file has.
    fn file(&mut self, stamp: u64, size: u64, holes: Holes) -> Kind {
        let mut changed = BTreeMap::new();
        for index in (0..chunk::count(size)).filter(|i| size > 0 && !holes.contains(*i)) {
            let cid = chunk::leaf(format!("{stamp} {index}").into()).cid;
            self.leaves.insert(cid, chunk::len(size, index));
            changed.insert(index, cid);
        }
        let none: HashMap<Cid, Bytes> = HashMap::new();
        let content = rebuild(None, size, &holes, &changed, &none, &mut self.put()).unwrap();
        Kind::File {
            content,
            size,
            holes,
        }
    }

    fn tree(&mut self, kind: TreeKind, entries: Vec<Entry>) -> TreeRef {
        let changes: BTreeMap<Bytes, Option<Entry>> = entries
            .into_iter()
            .map(|entry| (entry.key.clone(), Some(entry)))
            .collect();
        let changes: Vec<_> = changes.into_iter().collect();
        let none: HashMap<Cid, Bytes> = HashMap::new();
        tree::update(kind, None, &changes, &none, &mut self.put()).unwrap()
    }

    /// The root of a volume, in the block store.
    pub(super) fn root(&mut self, tree: TreeRef, table: TreeRef) -> Root {
        let header = Header::plain([7; 16]).encode().unwrap();
        let root = Root {
            volume: VolumeKey {
                token: TokenKey {
                    chain_id: u64::MAX,
                    contract: Address::repeat_byte(0xaa),
                    token: TokenId(U256::MAX),
                },
                epoch: u64::MAX,
            },
            sequence: u64::MAX,
            parent: Some(super::cid::node_of_digest([3; 32])),
            versions: BTreeMap::new(),
            writer: WriterId([9; 16]),
            time_ns: i64::MAX,
            next_inode: Ino::MAX,
            attr: attr(),
            tree,
            table,
            header: Child::leaf(&header),
        };
        self.put()(header);
        self.put()(root.encode().unwrap());
        root
    }
}

#[test]
fn an_empty_volume_stays_within_its_overhead() {
    let mut store = Store::default();
    let tree = tree::empty(TreeKind::Directory, &mut store.put()).unwrap();
    let table = tree::empty(TreeKind::Table, &mut store.put()).unwrap();
    let mut root = store.root(tree, table);
    assert_eq!(root.usage(), charge::VOLUME_OVERHEAD);
    for i in 0..2 * MAX_WRITERS as u8 {
        let version = Version {
            sequence: u64::MAX - u64::from(i),
            root: [i; 32],
        };
        root.note(WriterId([i; 16]), version);
    }
    assert_eq!(root.versions.len(), MAX_WRITERS);
    let block = root.encode().unwrap();
    assert_eq!(Root::decode(&block), Ok(root));
    store.put()(block.clone());
    // The usage metadata of such a root, with all numbers at their longest, has below 900 bytes.
    assert!(store.stored(block.cid) + 900 <= charge::VOLUME_OVERHEAD);
}

#[test]
fn the_writer_that_was_noted_last_stays() {
    let mut store = Store::default();
    let tree = tree::empty(TreeKind::Directory, &mut store.put()).unwrap();
    let table = tree::empty(TreeKind::Table, &mut store.put()).unwrap();
    let mut root = store.root(tree, table);
    for i in 0..=MAX_WRITERS as u8 {
        let version = Version {
            sequence: 100 - u64::from(i),
            root: [i; 32],
        };
        root.note(WriterId([i; 16]), version);
    }
    assert!(
        root.versions
            .contains_key(&WriterId([MAX_WRITERS as u8; 16]))
    );
    assert!(
        !root
            .versions
            .contains_key(&WriterId([MAX_WRITERS as u8 - 1; 16]))
    );
}

#[test]
fn a_root_whose_usage_is_wrong_is_damage() {
    let mut store = Store::default();
    let tree = tree::empty(TreeKind::Directory, &mut store.put()).unwrap();
    let table = tree::empty(TreeKind::Table, &mut store.put()).unwrap();
    let block = store.root(tree, table).encode().unwrap();
    let wrong = [0x19, 0x10, 0x00];
    let at = block.data.windows(3).position(|w| w == wrong).unwrap();
    let mut bytes = block.data.to_vec();
    bytes[at + 2] = 1;
    let data = Bytes::from(bytes);
    let cid = super::cid::node_cid(&data);
    let refused = Root::decode(&Block { cid, data });
    assert!(matches!(refused, Err(PackError::Malformed(_, why)) if why.contains("usage")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_changed_byte_of_a_root_is_refused_or_means_something_else(at in any::<usize>(), to in any::<u8>()) {
        let mut store = Store::default();
        let tree = tree::empty(TreeKind::Directory, &mut store.put()).unwrap();
        let table = tree::empty(TreeKind::Table, &mut store.put()).unwrap();
        let root = store.root(tree, table);
        let mut bytes = root.encode().unwrap().data.to_vec();
        let at = at % bytes.len();
        let changed = bytes[at] != to;
        bytes[at] = to;
        let data = Bytes::from(bytes);
        let cid = super::cid::node_cid(&data);
        if let Ok(other) = Root::decode(&Block { cid, data: data.clone() }) {
            prop_assert_eq!(changed, other != root);
            prop_assert_eq!(other.encode().unwrap().data, data);
        }
    }
}

/// A name, of any bytes that a name may have, and short or long.
fn names() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'a'), Just(b'_'), Just(0xffu8), 1u8..=255]
        .prop_filter("not in names", |b| *b != b'/');
    prop_oneof![
        4 => "[a-z]{1,3}".prop_map(String::into_bytes),
        2 => "[a-z]{60,255}".prop_map(String::into_bytes),
        1 => prop::collection::vec(byte, 1..255),
        1 => "_px_[a-z]{0,9}".prop_map(String::into_bytes),
    ]
    .prop_filter("not a name", |name| name != b"." && name != b"..")
}

#[derive(Clone, Debug)]
enum What {
    File(u64, Vec<(u64, u64)>),
    Symlink(usize),
    Fifo,
    Device,
    Shared(u64),
    Directory(Vec<(Vec<u8>, usize, What)>),
}

fn whats() -> impl Strategy<Value = What> {
    let file = (
        prop_oneof![0u64..40_000, 0u64..400 * CHUNK_SIZE],
        prop::collection::vec((0u64..400, 1u64..300), 0..6),
    );
    let leaf = prop_oneof![
        6 => file.prop_map(|(size, holes)| What::File(size, holes)),
        2 => (1usize..4096).prop_map(What::Symlink),
        1 => Just(What::Fifo),
        1 => Just(What::Device),
        2 => (2u64..6).prop_map(What::Shared),
    ];
    leaf.prop_recursive(3, 60, 12, |inner| {
        prop::collection::vec((names(), xattrs(), inner), 0..12).prop_map(What::Directory)
    })
}

fn xattrs() -> impl Strategy<Value = usize> {
    prop_oneof![6 => Just(0usize), 1 => 0usize..200, 1 => 60_000usize..65_000]
}

/// Makes entries of a directory; shared inodes go to `shared`.
fn make(
    store: &mut Store,
    list: &[(Vec<u8>, usize, What)],
    next: &mut u64,
    shared: &mut BTreeMap<u64, u32>,
) -> TreeRef {
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    for (name, xattrs, what) in list.iter().filter(|(name, ..)| seen.insert(name.clone())) {
        *next += 1;
        let stamp = *next;
        let kind = match what {
            What::File(size, holes) => {
                let count = chunk::count(*size);
                let runs = holes.iter().map(|(at, len)| *at..(at + len).min(count));
                let holes = runs.filter(|_| *size > 0).collect();
                store.file(stamp, *size, holes)
            }
            What::Symlink(len) => Kind::Symlink(vec![b'a' + (stamp % 26) as u8; *len].into()),
            What::Fifo => Kind::Fifo,
            What::Device => Kind::CharDevice(u32::MAX),
            What::Directory(list) => Kind::Directory(make(store, list, next, shared)),
            What::Shared(ino) => {
                *shared.entry(*ino).or_default() += 1;
                entries.push(Entry {
                    key: Bytes::copy_from_slice(name),
                    ino: Ino(Ino::MAX.0 - ino),
                    inode: None,
                });
                continue;
            }
        };
        let mut entry = named(name, Ino::MAX.0 - 1000 - stamp, kind);
        if let Some(inode) = entry.inode.as_mut().filter(|_| *xattrs > 0) {
            let value = Bytes::from(vec![stamp as u8; *xattrs]);
            inode
                .attr
                .xattrs
                .insert(Bytes::from_static(b"user.x"), value);
        }
        entries.push(entry);
    }
    store.tree(TreeKind::Directory, entries)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Else a volume could be full on the node and not here, or a commit fail for want of quota.
    #[test]
    fn a_volume_is_charged_at_least_what_it_takes(list in prop::collection::vec((names(), xattrs(), whats()), 0..30)) {
        let mut store = Store::default();
        let (mut next, mut shared) = (0, BTreeMap::new());
        let tree = make(&mut store, &list, &mut next, &mut shared);
        let mut rows = Vec::new();
        for (ino, links) in shared {
            let number = Ino(Ino::MAX.0 - ino);
            let kind = store.file(ino << 40, 3 * CHUNK_SIZE + ino, Holes::none());
            let mut row = named(b"x", number.0, kind);
            row.key = row_key(number);
            row.inode.as_mut().unwrap().links = links;
            rows.push(row);
        }
        let table = store.tree(TreeKind::Table, rows);
        let root = store.root(tree, table);
        let stored = store.stored(root.encode().unwrap().cid);
        // 900 bytes of usage metadata.
        prop_assert!(stored + 900 <= root.usage(), "{stored} stored, {} charged", root.usage());
        prop_assert_eq!(root.tree.sums, tree::open(TreeKind::Directory, root.tree.root, &store.blocks).unwrap().sums);
    }
}

/// The worst that deleting can leave: every page as small as it may be beside its neighbours.
#[test]
fn thinned_out_directories_stay_within_their_charge() {
    for len in [1usize, 244] {
        let mut store = Store::default();
        let name = |i: u64| format!("{i:05}{:x<1$}", "", len).into_bytes();
        let files: Vec<_> = (0..9_000u64)
            .map(|i| named(&name(i), i + 2, small(i)))
            .collect();
        for file in &files {
            let Some(Kind::File { content, .. }) = file.inode.as_ref().map(|i| &i.kind) else {
                continue;
            };
            store.leaves.insert(content.cid, 10 << 10);
        }
        let mut dir = store.tree(TreeKind::Directory, files);
        let table = tree::empty(TreeKind::Table, &mut store.put()).unwrap();
        for round in 0..6u64 {
            let gone: Vec<_> = (0..9_000)
                .filter(|i| (i / 100) % 3 != 0 && (i * 7 + i / 100) % 6 == round)
                .map(|i| (Bytes::from(name(i)), None))
                .collect();
            let mut new = HashMap::new();
            let mut put = |block: Block| {
                new.insert(block.cid, block.data);
            };
            dir = tree::update(
                TreeKind::Directory,
                Some(&dir),
                &gone,
                &store.blocks,
                &mut put,
            )
            .unwrap();
            store.blocks.extend(new);
            let root = store.root(dir, table);
            let stored = store.stored(root.encode().unwrap().cid);
            let metadata = stored - root.tree.sums.entries * (10 << 10);
            let charged = root.usage() - root.tree.sums.entries * (10 << 10);
            assert!(
                metadata + 900 <= charged,
                "{metadata} stored, {charged} charged"
            );
        }
    }
}
