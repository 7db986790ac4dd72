//! What a reader would lose if fetching were wrong: right bytes, an answer in time, or bandwidth.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::time::sleep;

use super::source::Held;
use super::*;
use crate::cache::{CHUNK_BYTES, Presence};
use crate::fs::{Behind, LoadedEntry, LostBlock, Place};
use crate::pack::cid::leaf_cid;
use crate::pack::entry::{Attr, Entry, Inode, Kind, TreeRef, row_key};
use crate::pack::holes::Holes;
use crate::pack::tree::{self, TreeKind};
use crate::pack::{Blocks, Child, chunk, file};
use crate::store::fault::{Call, Fault, FaultStore};
use crate::store::many::ManyStore;
use crate::store::memory::MemoryStore;
use crate::store::{Block, BlockStoreExt, StoreError};
use crate::types::{TokenId, TokenKey};

const MIB: u64 = CHUNK_BYTES;
const STEP: u64 = 128 << 10;

/// A mount without volumes, or with one.
#[derive(Default)]
struct Mount(Option<Arc<Sink>>);

impl Volumes for Mount {
    fn volume(&self, slot: u16) -> Option<Arc<dyn DirectorySink>> {
        let sink = self.0.clone().filter(|_| slot == 7)?;
        Some(sink)
    }
}

struct Stage {
    memory: Arc<MemoryStore>,
    store: Arc<FaultStore>,
    cache: Arc<Cache>,
    fetcher: Fetcher,
}

impl Stage {
    fn new(cache: Cache) -> Self {
        Self::with(cache, Mount::default(), Duration::from_secs(120))
    }

    fn with(cache: Cache, mount: Mount, patience: Duration) -> Self {
        let memory = Arc::new(MemoryStore::new());
        let store = Arc::new(FaultStore::new(memory.clone()));
        Self::over(memory, store, cache, mount, patience)
    }

    fn over(
        memory: Arc<MemoryStore>,
        store: Arc<FaultStore>,
        cache: Cache,
        mount: Mount,
        patience: Duration,
    ) -> Self {
        let cache = Arc::new(cache);
        let fetcher = Fetcher::new(
            store.clone(),
            None,
            cache.clone(),
            Arc::new(mount),
            patience,
        );
        Self {
            memory,
            store,
            cache,
            fetcher,
        }
    }

    /// The same store, and nothing else of it, as after a restart.
    fn restart(self, cache: impl FnOnce() -> Cache) -> Self {
        let Self {
            memory,
            store,
            cache: old,
            fetcher,
        } = self;
        drop((fetcher, old));
        let patience = Duration::from_secs(120);
        store.reset_counts();
        Self::over(memory, store, cache(), Mount::default(), patience)
    }

    async fn put(&self, blocks: &[Block]) {
        self.memory.put_many(blocks).await.unwrap();
    }

    /// Publishes a content of `size` bytes.
    async fn publish(&self, size: u64) -> Published {
        let mut blocks = Vec::new();
        let mut builder = file::Builder::new();
        for index in 0..chunk::count(size) {
            let block = chunk::leaf(bytes_of(size, index).into());
            let len = block.data.len() as u64;
            let out = &mut |node| blocks.push(node);
            builder.push(block.cid, len, out).unwrap();
            self.put(&[block]).await;
        }
        let (child, size) = builder.finish(&mut |node| blocks.push(node)).unwrap();
        self.put(&blocks).await;
        Published {
            cid: child.cid,
            size,
        }
    }

    /// As `fs` reads: what is here, else fetch and again.
    async fn read(&self, content: Published, offset: u64, len: u64) -> Result<Vec<u8>, FsError> {
        let Published { cid, size } = content;
        let mut buf = vec![0; len as usize];
        for _ in 0..100 {
            if self.cache.read(&cid, size, offset, &mut buf) {
                return Ok(buf);
            }
            let want = Want::Content {
                slot: 0,
                ino: Ino(2),
                cid,
                size,
                offset,
                len,
            };
            self.fetcher.fetch(want).await?;
        }
        panic!("what was fetched is never there");
    }

    /// Reads a content from its first byte to its last, in steps as the kernel's.
    async fn read_all(&self, content: Published) {
        let mut at = 0;
        let mut whole = Vec::new();
        while at < content.size {
            let len = STEP.min(content.size - at);
            let found = self.read(content, at, len).await.unwrap();
            let within = (at % MIB) as usize;
            if within == 0 {
                whole = bytes_of(content.size, at / MIB);
            }
            assert_eq!(found, whole[within..within + len as usize], "at {at}");
            at += len;
        }
    }

    fn gets(&self) -> u64 {
        self.store.count(Call::Get)
    }
}

#[derive(Clone, Copy)]
struct Published {
    cid: Cid,
    size: u64,
}

fn bytes_of(size: u64, index: u64) -> Vec<u8> {
    let len = chunk::len(size, index) as usize;
    let mut bytes = (index + 1).to_le_bytes().repeat(len / 8 + 1);
    bytes.truncate(len);
    bytes
}

fn on_disk(dir: &Path, cap: u64) -> Cache {
    Cache::open(dir, cap).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_jumps_costs_one_block_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::new(on_disk(dir.path(), 64 * MIB));
    let content = stage.publish(20 * MIB).await;
    for (count, index) in [7_u64, 3, 15, 11, 1].into_iter().enumerate() {
        let found = stage.read(content, index * MIB + 5, 100).await.unwrap();
        assert_eq!(found, bytes_of(content.size, index)[5..105]);
        // The node above the leaves was read once.
        assert_eq!(stage.gets(), 2 + count as u64);
    }
    stage.read(content, 7 * MIB + 900_000, 10).await.unwrap();
    assert_eq!(stage.gets(), 6);
    stage.read(content, 9 * MIB - 10, 20).await.unwrap();
    assert_eq!(stage.gets(), 8, "a range over two chunks");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_file_of_16_tib_costs_a_few_blocks_wherever_it_is_read_elsewhere() {
    let stage = Stage::new(Cache::in_memory());
    let size = 16 << 40;
    let at = 11_111_111;
    let bytes = bytes_of(size, at);
    let leaf = chunk::leaf(bytes.clone().into());
    let mut holes = Holes::all(size);
    holes.remove(at..at + 1);
    let mut blocks = vec![leaf.clone()];
    let child = file::rebuild(
        None,
        size,
        &holes,
        &BTreeMap::from([(at, leaf.cid)]),
        &Held::new(),
        &mut |block| blocks.push(block),
    );
    let content = Published {
        cid: child.unwrap().cid,
        size,
    };
    stage.put(&blocks).await;
    for offset in [at * MIB + 5, 0, size - 100] {
        stage.store.reset_counts();
        let found = stage.read(content, offset, 100).await.unwrap();
        let wanted = match offset / MIB == at {
            true => bytes[5..105].to_vec(),
            false => vec![0; 100],
        };
        assert!(found == wanted, "at {offset}");
        assert!(stage.gets() <= 5, "{} blocks at {offset}", stage.gets());
    }
    // A leaf that the node loses is found again here, wherever in the file it lies.
    let source = stage.fetcher.source();
    let held = source.cached(&leaf.cid, &content.cid, Some(size), None);
    assert!(held.await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_goes_straight_on_costs_each_leaf_once() {
    let dir = tempfile::tempdir().unwrap();
    for cache in [on_disk(dir.path(), 128 * MIB), Cache::in_memory()] {
        let stage = Stage::new(cache);
        let content = stage.publish(36 * MIB + 12_345).await;
        stage.read_all(content).await;
        assert_eq!(stage.gets(), 1 + 37);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_comes_onto_the_disk_though_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::new(on_disk(dir.path(), 128 * MIB));
    let content = stage.publish(36 * MIB + 12_345).await;
    stage.read_all(content).await;
    let missing = || {
        stage.cache.forget();
        let Published { cid, size } = content;
        (0..37).find(|index| stage.cache.presence(&cid, size, *index) != Presence::Verified)
    };
    let end = Instant::now() + Duration::from_secs(30);
    while let Some(index) = missing() {
        assert!(Instant::now() < end, "chunk {index} never comes");
        sleep(Duration::from_millis(10)).await;
    }
    stage.read_all(content).await;
    assert_eq!(stage.gets(), 1 + 37, "from the disk the second time");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reader_wants_next_is_on_its_way_before_he_asks() {
    let stage = Stage::new(Cache::in_memory());
    let content = stage.publish(20 * MIB).await;
    stage.read(content, 0, STEP).await.unwrap();
    assert_eq!(stage.gets(), 2);
    stage.read(content, MIB, STEP).await.unwrap();
    let is_here = |index| {
        let Published { cid, size } = content;
        stage.cache.read(&cid, size, index * MIB, &mut [0])
    };
    while !(is_here(2) && is_here(3)) {
        tokio::task::yield_now().await;
    }
    stage.read(content, 2 * MIB, 2 * MIB).await.unwrap();
    assert_eq!(stage.gets(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reader_in_equal_strides_wants_next_is_on_its_way_before_he_asks() {
    for order in [[0, 3, 6, 9, 12, 15, 18], [19, 16, 13, 10, 7, 4, 1]] {
        let stage = Stage::new(Cache::in_memory());
        let content = stage.publish(20 * MIB).await;
        for index in &order[..3] {
            stage.read(content, index * MIB, STEP).await.unwrap();
        }
        let is_here = |index| {
            let Published { cid, size } = content;
            stage.cache.read(&cid, size, index * MIB, &mut [0])
        };
        while !(is_here(order[3]) && is_here(order[4])) {
            tokio::task::yield_now().await;
        }
        // The node above the leaves, and what is wanted, each once; at the end there is no more.
        for index in &order[3..] {
            stage.read(content, index * MIB, STEP).await.unwrap();
        }
        assert_eq!(stage.gets(), 1 + 7, "{order:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_turns_from_strides_to_going_straight_on_is_followed_and_who_jumps_is_not() {
    let stage = Stage::new(Cache::in_memory());
    let content = stage.publish(40 * MIB).await;
    for index in [30, 7, 22, 1, 35, 13, 38, 5] {
        stage.read(content, index * MIB, STEP).await.unwrap();
    }
    assert_eq!(stage.gets(), 1 + 8);
    stage.read(content, 6 * MIB, STEP).await.unwrap();
    let is_here = |index| {
        let Published { cid, size } = content;
        stage.cache.read(&cid, size, index * MIB, &mut [0])
    };
    while !is_here(8) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_miss_one_chunk_fetch_it_once() {
    let stage = Stage::new(Cache::in_memory());
    let content = stage.publish(4 * MIB).await;
    let reads = (0..50).map(|at| stage.read(content, 2 * MIB + at, 10));
    for found in futures::future::join_all(reads).await {
        assert_eq!(found.unwrap().len(), 10);
    }
    assert_eq!(stage.gets(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bytes_than_the_block_s_are_damage_and_never_read() {
    let stage = Stage::new(Cache::in_memory());
    let content = stage.publish(3 * MIB).await;
    stage.read(content, 0, 1).await.unwrap();
    stage.store.set(Call::Get, Fault::Corrupt, None);
    let answer = stage.read(content, 2 * MIB, 1).await;
    assert!(matches!(answer, Err(FsError::Lost(_))), "{answer:?}");
    stage.store.clear();
    let whole = stage.read(content, 2 * MIB, MIB).await.unwrap();
    assert_eq!(whole, bytes_of(content.size, 2));
    // The node above the leaves, changed.
    let other = stage.publish(2 * MIB).await;
    stage.store.set(Call::Get, Fault::Corrupt, None);
    let answer = stage.read(other, 0, 1).await;
    assert!(matches!(answer, Err(FsError::Lost(_))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_came_as_another_is_asked_for_once_more_before_it_is_lost() {
    let stage = Stage::new(Cache::in_memory());
    let content = stage.publish(3 * MIB).await;
    stage.read(content, 0, 1).await.unwrap();
    stage.store.set(Call::Get, Fault::Corrupt, Some(1));
    let whole = stage.read(content, 2 * MIB, MIB).await.unwrap();
    assert_eq!(whole, bytes_of(content.size, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_block_is_named() {
    let stage = Stage::new(Cache::in_memory());
    let content = stage.publish(3 * MIB).await;
    let leaf = leaf_cid(&bytes_of(content.size, 1));
    assert!(stage.memory.lose(&leaf));
    match stage.read(content, MIB, 1).await {
        Err(FsError::Lost(lost)) => {
            assert_eq!((lost.cid, lost.chunk), (leaf, Some(1)));
            assert!(lost.why.contains(&leaf.to_string()), "{lost:?}");
        }
        other => panic!("{other:?}"),
    }
    // The rest of the file is still read, straight on up to the loss and behind it.
    for index in [0, 2] {
        let found = stage.read(content, index * MIB, MIB).await.unwrap();
        assert_eq!(found, bytes_of(content.size, index));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_of_another_length_is_damage() {
    let stage = Stage::new(Cache::in_memory());
    let short = chunk::leaf(Bytes::from_static(b"short"));
    stage.put(std::slice::from_ref(&short)).await;
    let content = Published {
        cid: short.cid,
        size: 6,
    };
    let answer = stage.read(content, 0, 1).await;
    assert!(matches!(answer, Err(FsError::Damaged(_))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_for_a_moment_is_tried_again() {
    let stage = Stage::new(Cache::in_memory());
    let content = stage.publish(3 * MIB).await;
    let busy = StoreError::Transient("busy".to_owned());
    stage.store.set(Call::Get, Fault::Before(busy), Some(3));
    let found = stage.read(content, MIB, MIB).await.unwrap();
    assert_eq!(found, bytes_of(content.size, 1));
    assert_eq!(stage.gets(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_or_fails_for_long_ends_in_a_time_out() {
    let busy = StoreError::Transient("busy".to_owned());
    for fault in [Fault::Hang, Fault::Before(busy)] {
        let patience = Duration::from_millis(300);
        let sink = Arc::new(Sink::default());
        let mount = Mount(Some(sink.clone()));
        let stage = Stage::with(Cache::in_memory(), mount, patience);
        let content = stage.publish(30 * MIB).await;
        *sink.tree.lock().unwrap() = Some(stage.directory(10, |_| false).await.0);

        stage.store.set_all(&fault);
        let reads = (0..30).map(|index| stage.read(content, index * MIB, 1));
        for answer in futures::future::join_all(reads).await {
            assert_eq!(answer, Err(FsError::TimedOut));
        }
        let answer = stage.fetcher.fetch(directory()).await;
        assert_eq!(answer, Err(FsError::TimedOut));
        let root = stage.fetcher.load_root(&content.cid, &volume(1)).await;
        assert_eq!(root, Err(FsError::TimedOut));

        // It goes on by itself when the store does, for who asks again.
        stage.store.clear();
        while stage.read(content, 29 * MIB, 1).await == Err(FsError::TimedOut) {}
        while stage.fetcher.fetch(directory()).await == Err(FsError::TimedOut) {}
        assert_eq!(
            stage.read(content, 29 * MIB, 8).await.unwrap(),
            [30, 0, 0, 0, 0, 0, 0, 0]
        );
        assert!(*sink.finished.lock().unwrap());
    }
}

/// A node, another one that may have gone, and a gateway, none of which has anything.
struct Fallback {
    nodes: [Arc<FaultStore>; 2],
    gateway: Arc<FaultStore>,
    held: Arc<MemoryStore>,
    sink: Arc<Sink>,
    fetcher: Fetcher,
}

impl Fallback {
    fn new(patience: Duration) -> Self {
        let empty = || Arc::new(FaultStore::new(Arc::new(MemoryStore::new())));
        let (nodes, held) = ([empty(), empty()], Arc::new(MemoryStore::new()));
        let gateway = Arc::new(FaultStore::new(held.clone()));
        let keepers: Vec<Arc<dyn BlockStore>> = vec![nodes[0].clone(), nodes[1].clone()];
        let mut near = keepers.clone();
        near.push(gateway.clone());
        let many = Arc::new(ManyStore::new(nodes[0].clone(), near));
        let own_nodes = Arc::new(ManyStore::new(nodes[0].clone(), keepers));
        let (cache, sink) = (Arc::new(Cache::in_memory()), Arc::new(Sink::default()));
        let mount = Arc::new(Mount(Some(sink.clone())));
        Self {
            nodes,
            gateway,
            held,
            sink,
            fetcher: Fetcher::new(many, Some(own_nodes), cache, mount, patience),
        }
    }

    async fn read(&self, leaf: &Block) -> Result<(), FsError> {
        let want = Want::Content {
            slot: 7,
            ino: Ino(2),
            cid: leaf.cid,
            size: leaf.data.len() as u64,
            offset: 0,
            len: 1,
        };
        self.fetcher.fetch(want).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_node_has_is_lost_and_named_also_where_a_gateway_never_says_so() {
    let busy = StoreError::Transient("the gateway answers 504".to_owned());
    for fault in [Fault::Hang, Fault::Before(busy)] {
        let stage = Fallback::new(Duration::from_secs(2));
        stage.gateway.set_all(&fault);
        let leaf = chunk::leaf(Bytes::from_static(b"lost"));
        let answer = stage.read(&leaf).await;
        assert!(matches!(answer, Err(FsError::Lost(_))), "{answer:?}");
        let noted = stage.sink.lost.lock().unwrap().clone();
        assert_eq!(noted, [(Ino(2), leaf.cid, leaf.cid)]);
        // Who would act on it is not told so: the gateway may have it.
        let root = stage.fetcher.load_root(&leaf.cid, &volume(1)).await;
        assert_eq!(root, Err(FsError::TimedOut));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_that_is_away_may_have_is_not_lost() {
    let away = StoreError::Transient("away".to_owned());
    for fault in [Fault::Hang, Fault::Before(away.clone())] {
        let stage = Fallback::new(Duration::from_millis(600));
        stage.gateway.set_all(&Fault::Before(away.clone()));
        stage.nodes[1].set_all(&fault);
        let leaf = chunk::leaf(Bytes::from_static(b"elsewhere"));
        assert_eq!(stage.read(&leaf).await, Err(FsError::TimedOut));
        assert_eq!(*stage.sink.lost.lock().unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_gives_after_it_was_busy_is_not_lost() {
    let stage = Fallback::new(Duration::from_secs(60));
    let leaf = chunk::leaf(Bytes::from_static(b"behind"));
    let blocks = std::slice::from_ref(&leaf);
    stage.held.put_many(blocks).await.unwrap();
    let busy = StoreError::Transient("the gateway answers 429".to_owned());
    stage.gateway.set(Call::Get, Fault::Before(busy), Some(4));
    assert_eq!(stage.read(&leaf).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_deleted_while_it_is_read_from_costs_bandwidth_alone() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("cache");
    let stage = Stage::new(on_disk(&home, 64 * MIB));
    let content = stage.publish(10 * MIB + 1).await;
    stage.read_all(content).await;
    std::fs::remove_dir_all(&home).unwrap();
    stage.read_all(content).await;
    let other = stage.publish(3 * MIB).await;
    stage.read_all(other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_larger_than_the_cache_is_read_and_the_cap_holds() {
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::new(on_disk(dir.path(), 8 * MIB));
    let content = stage.publish(20 * MIB).await;
    for _ in 0..2 {
        stage.read_all(content).await;
        assert!(stage.cache.usage().disk_bytes <= 8 * MIB);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_changed_between_two_runs_is_noticed_and_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::new(on_disk(dir.path(), 64 * MIB));
    let content = stage.publish(6 * MIB).await;
    let small = stage.publish(1000).await;
    stage.read_all(content).await;
    stage.read_all(small).await;

    // Untouched, it costs nothing.
    let stage = stage.restart(|| on_disk(dir.path(), 64 * MIB));
    stage.read_all(content).await;
    stage.read_all(small).await;
    assert_eq!(stage.gets(), 0);

    let stage = stage.restart(|| {
        let mut changed = 0;
        for shelf in std::fs::read_dir(dir.path().join("v1/files")).unwrap() {
            for file in std::fs::read_dir(shelf.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[MIB as usize * 2 + 77] ^= 1;
                std::fs::write(&path, bytes).unwrap();
                changed += 1;
            }
        }
        let log = dir.path().join("v1/small/1.log");
        let mut bytes = std::fs::read(&log).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 1);
        std::fs::write(&log, bytes).unwrap();
        assert_eq!(changed, 1);
        on_disk(dir.path(), 64 * MIB)
    });
    stage.read_all(content).await;
    stage.read_all(small).await;
    // The changed chunk, the node above the leaves, the small content.
    assert_eq!(stage.gets(), 3);
}

/// A volume that notes what it is given.
#[derive(Default)]
struct Sink {
    tree: Mutex<Option<TreeRef>>,
    table: Mutex<Option<TreeRef>>,
    entries: Mutex<Vec<LoadedEntry>>,
    largest: Mutex<usize>,
    finished: Mutex<bool>,
    lost: Mutex<Vec<(Ino, Cid, Cid)>>,
}

impl DirectorySink for Sink {
    fn note_lost(&self, ino: Ino, of: &Cid, lost: &LostBlock) {
        self.lost.lock().unwrap().push((ino, *of, lost.cid));
    }

    fn unloaded_tree(&self, dir: Ino) -> Result<Option<TreeRef>, FsError> {
        assert_eq!(dir, Ino(42));
        Ok(*self.tree.lock().unwrap())
    }

    fn published_table(&self) -> Result<Option<TreeRef>, FsError> {
        Ok(*self.table.lock().unwrap())
    }

    fn enter_loaded(&self, dir: Ino, _of: &Cid, entries: &[LoadedEntry]) -> Result<(), FsError> {
        assert_eq!(dir, Ino(42));
        let mut largest = self.largest.lock().unwrap();
        *largest = (*largest).max(entries.len());
        self.entries.lock().unwrap().extend_from_slice(entries);
        Ok(())
    }

    fn finish_loading(&self, dir: Ino, _of: &Cid) -> Result<(), FsError> {
        assert_eq!(dir, Ino(42));
        *self.finished.lock().unwrap() = true;
        *self.tree.lock().unwrap() = None;
        Ok(())
    }

    fn place_of(&self, _ino: Ino) -> Result<Option<Place>, FsError> {
        Ok(None)
    }

    fn behind(&self, _place: Place, _most: usize) -> Result<Vec<Behind>, FsError> {
        Ok(Vec::new())
    }
}

fn directory() -> Want {
    Want::Directory {
        slot: 7,
        dir: Ino(42),
    }
}

fn inode(ino: u64, links: u32) -> Inode {
    Inode {
        attr: Attr {
            mode: 0o644,
            mtime_ns: i64::try_from(ino).unwrap(),
            ..Attr::default()
        },
        kind: Kind::Fifo,
        links,
    }
}

impl Stage {
    /// Publishes a directory of `count` entries, those that `is_hard` by way of the table.
    async fn directory(&self, count: u64, is_hard: impl Fn(u64) -> bool) -> (TreeRef, TreeRef) {
        let mut blocks = Vec::new();
        let changes = |table: bool| -> Vec<(Bytes, Option<Entry>)> {
            (2..count + 2)
                .filter(|ino| !table || is_hard(*ino))
                .map(|ino| {
                    let hard = is_hard(ino);
                    let key = if table {
                        row_key(Ino(ino))
                    } else {
                        Bytes::from(format!("name {ino:08}"))
                    };
                    let inode = (table || !hard).then(|| inode(ino, if hard { 2 } else { 1 }));
                    let entry = Entry {
                        key: key.clone(),
                        ino: Ino(ino),
                        inode,
                    };
                    (key, Some(entry))
                })
                .collect()
        };
        let none = std::collections::HashMap::<Cid, Bytes>::new();
        let mut make = |kind, changes: Vec<_>| {
            tree::update(kind, None, &changes, &none as &dyn Blocks, &mut |block| {
                blocks.push(block);
            })
            .unwrap()
        };
        let trees = (
            make(TreeKind::Directory, changes(false)),
            make(TreeKind::Table, changes(true)),
        );
        self.put(&blocks).await;
        trees
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_directory_comes_whole_in_bounded_steps() {
    let sink = Arc::new(Sink::default());
    let mount = Mount(Some(sink.clone()));
    let stage = Stage::with(Cache::in_memory(), mount, Duration::from_secs(60));
    let count = 10_500;
    let (tree, table) = stage.directory(count, |ino| ino % 3 == 0).await;
    *sink.tree.lock().unwrap() = Some(tree);
    *sink.table.lock().unwrap() = Some(table);
    let both = futures::future::join(
        stage.fetcher.fetch(directory()),
        stage.fetcher.fetch(directory()),
    );
    assert_eq!(both.await, (Ok(()), Ok(())));
    let entries = sink.entries.lock().unwrap().clone();
    assert_eq!(entries.len() as u64, count, "loaded twice, or not whole");
    assert!(*sink.largest.lock().unwrap() <= 4000);
    let inos: BTreeSet<u64> = entries.iter().map(|entry| entry.ino.0).collect();
    assert!(inos.into_iter().eq(2..count + 2));
    for entry in entries.iter() {
        let ino = entry.ino.0;
        assert_eq!(entry.name, format!("name {ino:08}"));
        assert_eq!(entry.hard, ino % 3 == 0);
        let links = if entry.hard { 2 } else { 1 };
        assert_eq!(entry.inode, inode(ino, links));
    }
    assert!(*sink.finished.lock().unwrap());
    // Nothing is read a second time.
    let gets = stage.gets();
    stage.fetcher.fetch(directory()).await.unwrap();
    assert_eq!(stage.gets(), gets);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_directory_is_not_taken_for_a_whole_one() {
    let sink = Arc::new(Sink::default());
    let mount = Mount(Some(sink.clone()));
    let stage = Stage::with(Cache::in_memory(), mount, Duration::from_secs(60));
    let (tree, table) = stage.directory(12_000, |ino| ino == 11_000).await;
    *sink.tree.lock().unwrap() = Some(tree);
    let fails = async |what: &str| match stage.fetcher.fetch(directory()).await {
        Err(FsError::Damaged(_) | FsError::Lost(_)) => {
            assert!(!*sink.finished.lock().unwrap(), "{what}");
        }
        other => panic!("{what}: {other:?}"),
    };
    fails("an inode that no table has").await;
    // A tree that promises one entry more than there is.
    *sink.table.lock().unwrap() = Some(table);
    let mut wrong = tree;
    wrong.sums.entries += 1;
    *sink.tree.lock().unwrap() = Some(wrong);
    fails("sums that are wrong").await;
    *sink.tree.lock().unwrap() = Some(TreeRef {
        root: Child::new(leaf_cid(b"no page"), 0),
        ..tree
    });
    fails("a page that is missing").await;
    *sink.tree.lock().unwrap() = Some(tree);
    assert_eq!(stage.fetcher.fetch(directory()).await, Ok(()));
    let gone = Want::Directory {
        slot: 8,
        dir: Ino(42),
    };
    assert_eq!(stage.fetcher.fetch(gone).await, Err(FsError::NotFound));
}

fn volume(epoch: u64) -> VolumeKey {
    VolumeKey {
        token: TokenKey {
            chain_id: 31_337,
            contract: alloy::primitives::Address::ZERO,
            token: TokenId::from(1),
        },
        epoch,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_of_another_volume_is_not_mounted() {
    let stage = Stage::new(Cache::in_memory());
    let (tree, table) = stage.directory(3, |_| false).await;
    let header = Header::plain([9; 16]);
    let header_block = header.encode().unwrap();
    let root = Root {
        volume: volume(2),
        sequence: 5,
        parent: None,
        versions: Default::default(),
        writer: crate::pack::root::WriterId([1; 16]),
        time_ns: 1,
        next_inode: Ino(5),
        attr: Attr::default(),
        tree,
        table,
        header: Child::new(header_block.cid, header_block.data.len() as u64),
    };
    let block = root.encode().unwrap();
    stage.put(&[header_block.clone(), block.clone()]).await;
    let load = async |epoch| stage.fetcher.load_root(&block.cid, &volume(epoch)).await;
    assert_eq!(load(2).await, Ok((root.clone(), header)));
    match load(3).await {
        Err(FsError::Damaged(text)) => assert!(text.contains("epoch 2"), "{text}"),
        other => panic!("{other:?}"),
    }
    stage.memory.lose(&header_block.cid);
    assert!(matches!(load(2).await, Err(FsError::Lost(_))));
    let not_a_root = stage.fetcher.load_root(&tree.root.cid, &volume(2)).await;
    assert!(matches!(not_a_root, Err(FsError::Damaged(_))));
}

/// More than all of these reads take on a loaded machine, less than one that waits for its deadline.
const AT_ONCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_cold_files_is_refused_at_once_while_no_node_runs_and_comes_when_one_does() {
    let stage = Stage::new(Cache::in_memory());
    let mut contents = Vec::new();
    for size in 1..=100 {
        contents.push(stage.publish(1000 + size).await);
    }
    let away = StoreError::Away("cannot be reached: connection refused".into());
    stage.store.set(Call::Get, Fault::Before(away), None);
    let begin = Instant::now();
    for content in &contents {
        let refused = stage.read(*content, 0, 10).await;
        assert_eq!(refused, Err(FsError::TimedOut));
    }
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    stage.store.clear();
    for content in &contents {
        while stage.read(*content, 0, 10).await.is_err() {
            assert!(begin.elapsed() < 2 * AT_ONCE, "it is never asked again");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_a_folder_waits_for_a_silent_node_once_and_not_for_each_file() {
    let patience = Duration::from_secs(4);
    let stage = Stage::with(Cache::in_memory(), Mount::default(), patience);
    let mut contents = Vec::new();
    for size in 1..=100 {
        contents.push(stage.publish(1000 + size).await);
    }
    stage.store.set(Call::Get, Fault::Hang, None);
    let begin = Instant::now();
    for content in &contents {
        // As the calls of a mount, which count from their arrival.
        let read = timeout_at(Instant::now() + patience, stage.read(*content, 0, 10));
        assert!(!matches!(read.await, Ok(Ok(_))));
    }
    let all = patience * 100;
    assert!(begin.elapsed() < all / 4, "{:?}", begin.elapsed());
    stage.store.clear();
    while stage.read(contents[0], 0, 10).await.is_err() {
        assert!(begin.elapsed() < all, "it is never asked again");
        sleep(Duration::from_millis(10)).await;
    }
}
