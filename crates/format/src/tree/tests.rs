//! Trees against a map; how much an update touches.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use ::cid::Cid;
use proptest::prelude::*;

use super::shape::Shape;
use super::update::shaped;
use super::*;
use crate::block::MAX_BLOCK_BYTES;
use crate::cid;
use crate::entry::{Kind, row_key};
use crate::tests::{named, small};
use pxfs_base::types::Ino;

/// A shape that makes deep trees of few entries.
const SMALL: Shape = Shape {
    split: 3000,
    part: 2000,
    join: 800,
    joined: 2400,
    single: 6000,
    whole: 4000,
};

type Store = HashMap<Cid, Bytes>;
/// A batch of changes: keys, each with a new stamp or gone.
type Batch = BTreeMap<u16, Option<u64>>;

/// Runs `call` with what it asked for, fetched from `store`; counts the rounds of fetching.
fn fetched<T>(
    store: &Store,
    mut call: impl FnMut(&Store) -> Result<T, PackError>,
) -> (Result<T, PackError>, usize, Store) {
    let mut at_hand = Store::new();
    for round in 0..20 {
        match call(&at_hand) {
            Err(PackError::Need(cids)) => {
                assert!(!cids.is_empty());
                for cid in cids {
                    let bytes = store
                        .get(&cid)
                        .expect("only blocks that were given out are needed");
                    assert!(at_hand.insert(cid, bytes.clone()).is_none(), "asked again");
                }
            }
            done => return (done, round, at_hand),
        }
    }
    panic!("no end of asking");
}

/// Blocks below a tree, each page's size and weight checked.
fn reachable(store: &Store, root: Cid) -> HashSet<Cid> {
    let (mut seen, mut below) = (HashSet::new(), vec![root]);
    while let Some(cid) = below.pop() {
        let Some(bytes) = store.get(&cid) else {
            continue;
        };
        if seen.insert(cid) {
            let node = crate::dagpb::Node::decode(&cid, bytes).unwrap();
            below.extend(node.links.iter().map(|link| link.cid));
        }
    }
    seen
}

fn table_row(ino: u64, stamp: u64) -> Entry {
    let mut row = named(b"x", ino, small(stamp));
    row.key = row_key(Ino(ino));
    row
}

fn put(store: &mut Store) -> impl FnMut(Block) + '_ {
    |block| {
        assert_eq!(cid::verify(&block.cid, &block.data), Ok(()));
        assert!(block.data.len() <= MAX_BLOCK_BYTES);
        store.insert(block.cid, block.data);
    }
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let key = prop_oneof![0u16..400, (0u16..20).prop_map(|i| i * 20)];
    let spread =
        prop::collection::btree_map(key, prop::option::weighted(0.6, any::<u64>()), 0..120);
    let range = (
        0u16..400,
        1u16..200,
        prop::option::weighted(0.4, any::<u64>()),
    )
        .prop_map(|(from, len, stamp)| {
            (from..from.saturating_add(len).min(400))
                .map(|k| (k, stamp))
                .collect()
        });
    prop::collection::vec(prop_oneof![3 => spread, 2 => range], 1..14)
}

fn key_of(key: u16, kind: TreeKind) -> Bytes {
    match kind {
        TreeKind::Directory => format!("{:04}{:-<2$}", key, "", usize::from(key % 97)).into(),
        TreeKind::Table => row_key(Ino(u64::from(key) + 2)),
    }
}

fn entry_of(key: u16, stamp: u64, kind: TreeKind) -> Entry {
    if kind == TreeKind::Table {
        return table_row(u64::from(key) + 2, stamp);
    }
    let what = match stamp % 5 {
        0 => Kind::Symlink(stamp.to_string().into()),
        1 => Kind::Fifo,
        _ => small(stamp),
    };
    named(&key_of(key, kind), u64::from(key) + 2, what)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Else a name would be lost or come back, or the sums lie.
    #[test]
    fn a_tree_is_the_map_that_its_changes_make(batches in batches(), table in any::<bool>(), probe in 0u16..400, limit in 1usize..80) {
        let kind = if table { TreeKind::Table } else { TreeKind::Directory };
        let mut map: BTreeMap<Bytes, Entry> = BTreeMap::new();
        let mut store = Store::new();
        let mut tree: Option<TreeRef> = None;
        for batch in batches {
            let changes: Vec<Change> = batch
                .into_iter()
                .map(|(key, stamp)| (key_of(key, kind), stamp.map(|stamp| entry_of(key, stamp, kind))))
                .collect();
            for (key, entry) in &changes {
                match entry {
                    Some(entry) => map.insert(key.clone(), entry.clone()),
                    None => map.remove(key),
                };
            }
            let mut new = Store::new();
            let (done, rounds, _) = fetched(&store, |blocks| {
                new.clear();
                shaped(SMALL, kind, tree.as_ref(), &changes, blocks, &mut put(&mut new))
            });
            let now = done.unwrap();
            prop_assert!(rounds < 12);
            let before = tree.map_or(HashSet::new(), |tree| reachable(&store, tree.root.cid));
            store.extend(new.clone());
            let after = reachable(&store, now.root.cid);
            prop_assert!(new.keys().all(|cid| after.contains(cid)), "a block was made that nobody links");
            prop_assert!(after.iter().all(|cid| before.contains(cid) || new.contains_key(cid)), "a block is missing");
            tree = Some(now);

            let (all, ..) = fetched(&store, |blocks| scan(kind, &now, None, usize::MAX, blocks));
            let all = all.unwrap();
            prop_assert!(all.iter().eq(map.values()));
            prop_assert_eq!(now.sums, map.values().map(|e| e.sums(kind)).sum());
            prop_assert_eq!(open(kind, now.root, &store).unwrap(), now);
            let key = key_of(probe, kind);
            let (one, ..) = fetched(&store, |blocks| lookup(kind, &now, &key, blocks));
            prop_assert_eq!(one.unwrap(), map.get(&key).cloned());
            let (some, ..) = fetched(&store, |blocks| scan(kind, &now, Some(&key), limit, blocks));
            let wanted = map.range((std::ops::Bound::Excluded(key.clone()), std::ops::Bound::Unbounded));
            prop_assert!(some.unwrap().iter().eq(wanted.map(|(_, e)| e).take(limit)));
        }
        let changes: Vec<Change> = map.keys().map(|key| (key.clone(), None)).collect();
        let tree = tree.unwrap();
        let mut rest = Store::new();
        let empty_again = shaped(SMALL, kind, Some(&tree), &changes, &store, &mut put(&mut rest)).unwrap();
        prop_assert_eq!(empty_again, empty(kind, &mut |_| {}).unwrap());
    }
}

/// Blocks that record what is read.
struct Recorded<'a>(&'a Store, RefCell<Vec<Cid>>);

impl Blocks for Recorded<'_> {
    fn get(&self, cid: &Cid) -> Option<Bytes> {
        self.1.borrow_mut().push(*cid);
        self.0.get(cid).cloned()
    }
}

fn large(count: u64) -> (TreeRef, Store) {
    let changes: Vec<Change> = (0..count)
        .map(|i| {
            let entry = named(format!("file-{i:08}").as_bytes(), i + 2, small(i));
            (entry.key.clone(), Some(entry))
        })
        .collect();
    let mut store = Store::new();
    let tree = update(
        TreeKind::Directory,
        None,
        &changes,
        &Store::new(),
        &mut put(&mut store),
    )
    .unwrap();
    (tree, store)
}

#[test]
fn changing_one_of_100_000_files_rewrites_only_its_path() {
    let (tree, mut store) = large(100_000);
    assert_eq!(tree.sums.entries, 100_000);
    for (name, gone) in [
        ("file-00050000", false),
        ("file-00000000", true),
        ("file-00050000x", false),
        ("zzz", false),
    ] {
        let entry = named(name.as_bytes(), 200_000, small(7));
        let changes = [(entry.key.clone(), (!gone).then_some(entry))];
        let blocks = Recorded(&store, RefCell::default());
        let mut new = Store::new();
        update(
            TreeKind::Directory,
            Some(&tree),
            &changes,
            &blocks,
            &mut put(&mut new),
        )
        .unwrap();
        let read = blocks.1.take().len();
        assert!(
            read <= 2 && new.len() <= 2,
            "{name}: {read} read, {} written",
            new.len()
        );
        store.extend(new);
    }
}

#[test]
fn a_directory_is_one_block_until_it_would_pass_1_mib() {
    let (tree, store) = large(6_000);
    assert_eq!(store.len(), 1);
    assert!(store[&tree.root.cid].len() > MAX_BLOCK_BYTES * 7 / 10);
    let more: Vec<Change> = (0..3_000)
        .map(|i| {
            let entry = named(format!("more-{i:08}").as_bytes(), i + 10_000, small(i));
            (entry.key.clone(), Some(entry))
        })
        .collect();
    let mut both = store.clone();
    let mut new = Store::new();
    let grown = update(
        TreeKind::Directory,
        Some(&tree),
        &more,
        &both,
        &mut put(&mut new),
    )
    .unwrap();
    assert!(new.len() > 10);
    both.extend(new);
    // And whole again, for stock tools, once it is small enough.
    let gone: Vec<Change> = (0..3_000)
        .map(|i| (format!("more-{i:08}").into(), None))
        .chain((2_000..6_000).map(|i| (format!("file-{i:08}").into(), None)))
        .collect::<BTreeMap<Bytes, _>>()
        .into_iter()
        .collect();
    let mut last = Store::new();
    let shrunk = update(
        TreeKind::Directory,
        Some(&grown),
        &gone,
        &both,
        &mut put(&mut last),
    )
    .unwrap();
    assert_eq!(last.len(), 1);
    assert_eq!(shrunk, large(2_000).0);
}

#[test]
fn entries_of_any_weight_fit_into_blocks() {
    let mut changes = Vec::new();
    for i in 0..200u64 {
        let mut entry = named(format!("{i:03}").as_bytes(), i + 2, small(i));
        if i % 3 == 0 {
            let value = Bytes::from(vec![i as u8; 65_000]);
            entry
                .inode
                .as_mut()
                .unwrap()
                .attr
                .xattrs
                .insert("user.x".into(), value);
        }
        changes.push((entry.key.clone(), Some(entry)));
    }
    let mut store = Store::new();
    let tree = update(
        TreeKind::Directory,
        None,
        &changes,
        &Store::new(),
        &mut put(&mut store),
    )
    .unwrap();
    assert_eq!(
        scan(TreeKind::Directory, &tree, None, 1000, &store)
            .unwrap()
            .len(),
        200
    );
}

#[test]
fn a_lost_page_is_rebuilt_from_the_entries_in_its_range() {
    let (tree, store) = large(100_000);
    let all = scan(TreeKind::Directory, &tree, None, usize::MAX, &store).unwrap();
    let known = reachable(&store, tree.root.cid);
    let made = known.iter().filter(|cid| {
        let mut left = store.clone();
        left.remove(*cid);
        let keys = keys_of(TreeKind::Directory, &tree, cid, &left).unwrap();
        let Some((first, end)) = keys else {
            return false;
        };
        let within =
            |entry: &&Entry| entry.key >= first && end.as_ref().is_none_or(|end| entry.key < *end);
        let entries = all.iter().filter(within).cloned().collect();
        // More than one page takes is none.
        page(TreeKind::Directory, entries).is_ok_and(|made| made.cid == **cid)
    });
    // All but the topmost, which is an index.
    assert!(known.len() > 10);
    assert_eq!(made.count(), known.len() - 1);
    let other = cid::node_cid(b"another");
    assert_eq!(
        keys_of(TreeKind::Directory, &tree, &other, &store),
        Ok(None)
    );
}

#[test]
fn a_page_that_is_not_what_its_index_says_is_damage() {
    let (tree, store) = large(20_000);
    let mut lies = tree;
    lies.sums.bytes += 1;
    let refused = lookup(TreeKind::Directory, &lies, b"file-00000000", &store);
    assert!(matches!(refused, Err(PackError::Malformed(_, why)) if why.contains("sums")));
    // An index that says wrong sums of one page, and is right in itself.
    let Body::Rows(level, mut rows) =
        Body::decode(TreeKind::Directory, &tree.root.cid, &store[&tree.root.cid]).unwrap()
    else {
        panic!("20,000 entries are more than one page");
    };
    for change in 0..4 {
        let mut wrong = rows.clone();
        match change {
            0 => wrong[3].sums.inodes += 1,
            1 => wrong[3].weight += 1,
            2 => wrong[3].border = "file-zzzzzzzz".into(),
            _ => wrong[3].child = wrong[2].child,
        }
        if change == 2 {
            wrong.truncate(4);
        }
        let (block, root) = Body::Rows(level, wrong.clone())
            .encode(TreeKind::Directory)
            .unwrap();
        let sums = wrong.iter().map(|row| row.sums).sum();
        let mut blocks = store.clone();
        blocks.insert(block.cid, block.data);
        let refused = scan(
            TreeKind::Directory,
            &TreeRef { root, sums },
            None,
            usize::MAX,
            &blocks,
        );
        assert!(
            matches!(refused, Err(PackError::Malformed(..))),
            "{change}: {refused:?}"
        );
    }
    rows[3].child.damaged = true;
    let (block, root) = Body::Rows(level, rows).encode(TreeKind::Directory).unwrap();
    let blocks = store
        .into_iter()
        .chain([(block.cid, block.data)])
        .collect::<Store>();
    let tree = TreeRef { root, ..tree };
    assert!(matches!(
        scan(TreeKind::Directory, &tree, None, usize::MAX, &blocks),
        Err(PackError::Damaged(_))
    ));
    assert!(
        lookup(TreeKind::Directory, &tree, b"file-00000000", &blocks)
            .unwrap()
            .is_some()
    );
}

#[test]
fn all_pages_of_a_directory_are_asked_for_at_once() {
    let (tree, store) = large(20_000);
    let (all, rounds, _) = fetched(&store, |blocks| {
        scan(TreeKind::Directory, &tree, None, usize::MAX, blocks)
    });
    assert_eq!((all.unwrap().len(), rounds), (20_000, 2));
    let (some, _, read) = fetched(&store, |blocks| {
        scan(
            TreeKind::Directory,
            &tree,
            Some(b"file-00010000"),
            10,
            blocks,
        )
    });
    assert_eq!(
        some.unwrap().first().map(|e| e.key.clone()),
        Some("file-00010001".into())
    );
    assert!(read.len() <= 3);
}

#[test]
fn changes_that_contradict_each_other_are_refused() {
    let entry = named(b"b", 2, small(1));
    let none = Store::new();
    let cases: [Vec<Change>; 3] = [
        vec![("b".into(), None), ("a".into(), None)],
        vec![("b".into(), None), ("b".into(), Some(entry.clone()))],
        vec![("c".into(), Some(entry))],
    ];
    for changes in cases {
        let refused = update(TreeKind::Directory, None, &changes, &none, &mut |_| {});
        assert!(matches!(refused, Err(PackError::Contradiction(_))));
    }
}
