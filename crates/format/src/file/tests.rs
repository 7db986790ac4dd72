//! Content: CIDs that stock tools print, and rebuilds that equal builds from nothing.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::cid::leaf_cid;

type Store = HashMap<Cid, Bytes>;

fn keep(store: &mut Store) -> impl FnMut(Block) + '_ {
    |block| {
        assert!(cid::verify(&block.cid, &block.data).is_ok());
        assert!(block.data.len() <= 1 << 20);
        store.insert(block.cid, block.data);
    }
}

fn zeros(size: u64) -> (Child, Store) {
    let mut store = Store::new();
    let mut builder = Builder::new();
    builder
        .push_holes(size / CHUNK_SIZE, &mut keep(&mut store))
        .unwrap();
    if !size.is_multiple_of(CHUNK_SIZE) {
        let last = chunk::zero_leaf(size % CHUNK_SIZE);
        builder
            .push(last.cid, size % CHUNK_SIZE, &mut keep(&mut store))
            .unwrap();
        keep(&mut store)(last);
    }
    let (child, built) = builder.finish(&mut keep(&mut store)).unwrap();
    assert_eq!(built, size);
    (child, store)
}

/// As both networks' `add` prints them.
const ZEROS: [(u64, &str); 8] = [
    (
        0,
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
    ),
    (
        1,
        "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu",
    ),
    (
        1_048_576,
        "bafkreibq4fevl27rgurgnxbp7adh42aqiyd6ouflxhj3gzmcxcxzbh6lla",
    ),
    (1_048_577, "QmdgGr3sX9CpRfjgSSGFWFbCCg2X6ERxmugcxucY4TYyJK"),
    (5_000_000, "QmdnyN8eAUECdNRHihY2jDLJPrUdkccf3CgSktcYTkZa7N"),
    (
        182_452_224,
        "QmXSvM3PdBeHzKZjxoaFhvpXpC8mteHXjjH6fGQiW8xopB",
    ),
    (
        182_452_225,
        "QmPF2vdixtsps1dD9KeDMSdGW8YrZZctcFRQLqrEdEKM27",
    ),
    (
        400_000_000,
        "QmYeyYGiKGEk8DkTUhVQP4LeYQmxyQYcsuB7o7KZhjHGaL",
    ),
];

#[test]
fn zeros_have_the_cids_that_stock_tools_print() {
    for (size, wanted) in ZEROS {
        assert_eq!(zeros(size).0.cid.to_string(), wanted, "{size} zeros");
        let mut store = Store::new();
        let child = rebuild(
            None,
            size,
            &Holes::all(size),
            &BTreeMap::new(),
            &Store::new(),
            &mut keep(&mut store),
        );
        assert_eq!(
            child.unwrap().cid.to_string(),
            wanted,
            "{size} zeros of holes"
        );
    }
}

#[test]
fn text_has_the_cids_that_stock_tools_print() {
    let cases = [
        (
            1_000_000u32,
            6_888_896,
            "QmTmu9PasFHWvTvv5mJP2oedK4JtU3nxHbhu5sTR8oXeHq",
        ),
        (
            50_000_000,
            438_888_897,
            "QmX6C3kLDbBavu3CDzxzvgmRX6dWS8Zk63iwZ1L1YUTmJd",
        ),
    ];
    for (last, size, wanted) in cases {
        let mut builder = Builder::new();
        let mut text = Vec::new();
        for thousand in 0..=last / 1000 {
            append_thousand(thousand, last, &mut text);
            if text.len() as u64 >= CHUNK_SIZE {
                let rest = text.split_off(CHUNK_SIZE as usize);
                builder
                    .push(leaf_cid(&text), CHUNK_SIZE, &mut |_| {})
                    .unwrap();
                text = rest;
            }
        }
        builder
            .push(leaf_cid(&text), text.len() as u64, &mut |_| {})
            .unwrap();
        let (child, built) = builder.finish(&mut |_| {}).unwrap();
        assert_eq!((built, child.cid.to_string().as_str()), (size, wanted));
    }
}

/// The lines of `seq` from `thousand` × 1000 on, fewer than 1000 at both ends of the text. All have
/// one form but for the first digits, else this would be slow without optimisation.
fn append_thousand(thousand: u32, last: u32, text: &mut Vec<u8>) {
    let from = (thousand * 1000).max(1);
    if thousand == 0 || from + 999 > last {
        let lines = (from..=last.min(thousand * 1000 + 999)).map(|n| format!("{n}\n"));
        return text.extend(lines.flat_map(String::into_bytes));
    }
    let digits = thousand.to_string();
    let at = text.len();
    let ends = (0..1000).map(|n| format!("{digits}{n:03}\n"));
    thread_local! {
        static LINES: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    LINES.with_borrow_mut(|lines| {
        let line = digits.len() + 4;
        if lines.len() != 1000 * line {
            *lines = ends.flat_map(String::into_bytes).collect();
        }
        for one in lines.chunks_exact_mut(line) {
            one[..digits.len()].copy_from_slice(digits.as_bytes());
        }
        text.extend_from_slice(lines);
    });
    assert_eq!(text.len() - at, 1000 * (digits.len() + 4));
}

#[test]
fn sixteen_tebibytes_of_hole_cost_a_handful_of_nodes() {
    let size = 16 << 40;
    let mut store = Store::new();
    let child = rebuild(
        None,
        size,
        &Holes::all(size),
        &BTreeMap::new(),
        &Store::new(),
        &mut keep(&mut store),
    )
    .unwrap();
    assert!(store.len() < 12, "{} blocks", store.len());
    assert_eq!(child.cid, zeros(size).0.cid);
    // A byte in the middle, and the file cut short: the way to it, nothing else.
    let old = Content {
        root: child,
        size,
        holes: Holes::all(size),
    };
    let mut holes = old.holes.clone();
    holes.remove(9_999_999..10_000_000);
    let changed = BTreeMap::from([(9_999_999, leaf_cid(b"x"))]);
    let mut made = 0;
    let new = rebuild(Some(&old), size, &holes, &changed, &store, &mut |_| {
        made += 1
    })
    .unwrap();
    assert_eq!(made, 4);
    assert_ne!(new.cid, child.cid);
}

#[test]
fn a_file_that_is_not_of_its_size_is_refused() {
    let (child, store) = zeros(5_000_000);
    assert_eq!(
        leaves(&child.cid, 5_000_000, 0..9, &store).unwrap().len(),
        5
    );
    assert_eq!(
        leaves(&child.cid, 5_000_000, 1..3, &store).unwrap().len(),
        2
    );
    for size in [0, 1, 4_999_999, 5_000_001, 500_000_000] {
        assert!(matches!(
            leaves(&child.cid, size, 0..9, &store),
            Err(PackError::Malformed(..))
        ));
    }
    assert_eq!(
        leaves(&child.cid, 5_000_000, 0..9, &Store::new()),
        Err(PackError::Need(vec![child.cid]))
    );
}

#[test]
fn what_the_caller_forgot_is_not_made_up() {
    let (root, store) = zeros(5_000_000);
    let old = Content {
        root,
        size: 5_000_000,
        holes: Holes::none(),
    };
    let none = BTreeMap::new();
    let mut none_out = |_: Block| {};
    for size in [4_999_999, 5_000_001, 6_000_000] {
        let done = rebuild(
            Some(&old),
            size,
            &Holes::none(),
            &none,
            &store,
            &mut none_out,
        );
        assert!(matches!(done, Err(PackError::Contradiction(_))), "{size}");
    }
    let one = BTreeMap::from([(5, leaf_cid(b"x"))]);
    assert!(
        rebuild(
            Some(&old),
            5_000_000,
            &Holes::none(),
            &one,
            &store,
            &mut none_out
        )
        .is_err()
    );
    let hole: Holes = std::iter::once(0..1).collect();
    let one = BTreeMap::from([(0, leaf_cid(b"x"))]);
    assert!(rebuild(Some(&old), 5_000_000, &hole, &one, &store, &mut none_out).is_err());
}

/// Counts the blocks that are read.
struct Counted<'a>(&'a Store, Cell<usize>);

impl Blocks for Counted<'_> {
    fn get(&self, cid: &Cid) -> Option<Bytes> {
        self.1.set(self.1.get() + 1);
        Blocks::get(self.0, cid)
    }
}

/// A leaf for a chunk, by what was last written there and the chunk's length.
fn written(stamp: u32, len: u64) -> Cid {
    leaf_cid(format!("{stamp} {len}").as_bytes())
}

#[test]
fn changing_one_chunk_rebuilds_only_its_path_to_the_root() {
    let size = CHUNK_SIZE * 174 * 174 * 2;
    let (mut store, mut builder) = (Store::new(), Builder::new());
    for _ in 0..chunk::count(size) {
        builder
            .push(written(0, CHUNK_SIZE), CHUNK_SIZE, &mut keep(&mut store))
            .unwrap();
    }
    let (root, _) = builder.finish(&mut keep(&mut store)).unwrap();
    let old = Content {
        root,
        size,
        holes: Holes::none(),
    };
    let counted = Counted(&store, Cell::new(0));
    let changed = BTreeMap::from([(40_000, written(1, CHUNK_SIZE))]);
    let mut made = 0;
    rebuild(
        Some(&old),
        size,
        &Holes::none(),
        &changed,
        &counted,
        &mut |_| made += 1,
    )
    .unwrap();
    assert_eq!((counted.1.get(), made), (3, 3));
}

/// One step of a file's life: the new size, then writes and holes by chunk.
#[derive(Clone, Debug)]
struct Step {
    size: u64,
    writes: Vec<u64>,
    punched: Vec<(u64, u64)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let chunks = prop_oneof![0u64..4, 170u64..180, 340u64..360, 30_270u64..30_290,];
    let step = (
        chunks,
        prop_oneof![Just(0), 1..CHUNK_SIZE],
        prop::collection::vec(any::<u64>(), 0..5),
        prop::collection::vec((any::<u64>(), 1u64..400), 0..3),
    )
        .prop_map(|(chunks, tail, writes, punched)| {
            let size = chunks * CHUNK_SIZE + tail;
            let count = chunk::count(size);
            Step {
                size,
                writes: writes.into_iter().map(|i| i % count).collect(),
                punched: punched
                    .into_iter()
                    .map(|(at, len)| (at % count, (at % count + len).min(count)))
                    .collect(),
            }
        });
    prop::collection::vec(step, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Else the same bytes would have two CIDs, or a chunk would be lost on the way.
    #[test]
    fn a_rebuilt_file_equals_one_built_from_nothing(steps in steps()) {
        let mut store = Store::new();
        let mut old: Option<Content> = None;
        // What each written chunk holds; others are holes.
        let mut content: BTreeMap<u64, u32> = BTreeMap::new();
        for (stamp, step) in steps.iter().enumerate() {
            let count = chunk::count(step.size);
            let mut changed = BTreeMap::new();
            let old_size = old.as_ref().map_or(0, |old| old.size);
            content.retain(|i, _| *i < count && step.size > 0);
            if step.size > 0 {
                for (from, to) in &step.punched {
                    content.retain(|i, _| !(*from..*to).contains(i));
                }
                for i in &step.writes {
                    content.insert(*i, stamp as u32);
                    changed.insert(*i, written(stamp as u32, chunk::len(step.size, *i)));
                }
                for (i, kept) in &content {
                    if chunk::len(step.size, *i) != chunk::len(old_size, *i) {
                        changed.insert(*i, written(*kept, chunk::len(step.size, *i)));
                    }
                }
            }
            let mut holes = Holes::all(step.size);
            content.keys().for_each(|i| holes.remove(*i..*i + 1));
            prop_assume!(holes.runs().len() <= crate::holes::MAX_RUNS);

            let mut new = Store::new();
            let root = rebuild(old.as_ref(), step.size, &holes, &changed, &store, &mut keep(&mut new)).unwrap();
            store.extend(new);

            let mut builder = Builder::new();
            let mut tsizes = Store::new();
            for i in 0..count.min(step.size) {
                let len = chunk::len(step.size, i);
                match content.get(&i) {
                    Some(stamp) => builder.push(written(*stamp, len), len, &mut keep(&mut tsizes)),
                    None => builder.push(chunk::zero_leaf(len).cid, len, &mut keep(&mut tsizes)),
                }.unwrap();
            }
            let (direct, _) = builder.finish(&mut keep(&mut tsizes)).unwrap();
            prop_assert_eq!(root, direct);
            let all = leaves(&root.cid, step.size, 0..count, &store).unwrap();
            prop_assert_eq!(all.len() as u64, count);
            old = Some(Content { root, size: step.size, holes });
        }
    }
}

#[test]
fn a_leaf_in_a_16_tib_sparse_file_needs_few_nodes() {
    let size = 16 << 40;
    let at = 11_111_111;
    let leaf = chunk::leaf(vec![7; CHUNK_SIZE as usize].into());
    let mut holes = Holes::all(size);
    holes.remove(at..at + 1);
    let mut store = Store::new();
    let changed = BTreeMap::from([(at, leaf.cid)]);
    let child = rebuild(
        None,
        size,
        &holes,
        &changed,
        &Store::new(),
        &mut keep(&mut store),
    );
    let root = child.unwrap().cid;
    let blocks = Counted(&store, Cell::new(0));
    assert_eq!(chunk_of(&root, size, &leaf.cid, &blocks), Some(at));
    let zeros = chunk::zero_leaf(CHUNK_SIZE).cid;
    assert_eq!(chunk_of(&root, size, &zeros, &blocks), Some(0));
    let absent = leaf_cid(b"absent");
    assert_eq!(chunk_of(&root, size, &absent, &blocks), None);
    let asked = blocks.1.get();
    assert!(asked <= 40, "{asked} nodes were read");
}
