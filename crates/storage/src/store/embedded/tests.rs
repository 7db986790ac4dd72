//! The embedded node: what must survive, be noticed, or be collected.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::store::BlockStoreExt;
use crate::store::fault::FaultStore;
use crate::store::suite::{self, node, unique_leaf, unique_tree};
use pxfs_base::clock::ManualClock;
use pxfs_base::durable::simulated::{Power, Sync};
use pxfs_format::cid::leaf_cid;

const HOUR: Duration = Duration::from_secs(3600);

struct Fixture {
    dir: TempDir,
    clock: Arc<ManualClock>,
    store: EmbeddedStore,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(1_800_000_000_000_000_000));
        let store = EmbeddedStore::open(dir.path(), clock.clone()).unwrap();
        Self { dir, clock, store }
    }

    fn restart(self) -> Self {
        let Self { dir, clock, store } = self;
        drop(store);
        let store = EmbeddedStore::open(dir.path(), clock.clone()).unwrap();
        Self { dir, clock, store }
    }

    fn files(&self, folder: &str) -> Vec<PathBuf> {
        let mut folders = vec![self.dir.path().join(folder)];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push(path);
                }
            }
        }
        files
    }

    fn file_of(&self, cid: &Cid) -> PathBuf {
        let name = cid.to_string();
        let files = self.files("blocks");
        files.into_iter().find(|f| f.ends_with(&name)).unwrap()
    }

    async fn put_tree(&self, width: usize) -> (Vec<Block>, Cid) {
        let tree = unique_tree(width);
        self.store.put_many(&tree).await.unwrap();
        let root = tree[tree.len() - 1].cid;
        (tree, root)
    }

    async fn collect(&self) -> u64 {
        let collected = self.store.collect(EmbeddedStore::GRACE).await.unwrap();
        collected.removed_count
    }
}

#[tokio::test]
async fn the_embedded_node_passes() {
    let fixture = Fixture::new();
    suite::passes(Arc::new(fixture.store.clone())).await;
}

#[tokio::test]
async fn the_embedded_node_passes_behind_each_wrapper() {
    let fixture = Fixture::new();
    let inner = || Arc::new(fixture.store.clone());
    suite::passes(Arc::new(FaultStore::new(inner()))).await;
}

#[tokio::test]
async fn blocks_and_pins_are_there_after_a_restart() {
    let fixture = Fixture::new();
    let (tree, root) = fixture.put_tree(4).await;
    fixture.store.pin(&root, None).await.unwrap();
    let fixture = fixture.restart();
    for block in &tree {
        assert_eq!(fixture.store.get(&block.cid).await, Ok(block.data.clone()));
    }
    assert_eq!(fixture.store.pins().await, Ok(vec![root]));
    fixture.store.unpin(&root).await.unwrap();
    assert_eq!(fixture.restart().store.pins().await, Ok(vec![]));
}

/// The syncs behind the folder's promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// Of the folder's own name, and its parents'.
    Folders,
    /// Of names inside it.
    Below,
    Bytes,
    Shards,
    Pin,
    Unpin,
}

/// A promise that a power cut breaks if syncs of that kind are lost.
async fn lost_without(left_out: Option<Kept>) -> Option<String> {
    let power = Power::on();
    let is_out = |kept| left_out == Some(kept);
    let clock = Arc::new(ManualClock::at(1_800_000_000_000_000_000));
    match left_out {
        Some(Kept::Folders) => power.lose(Some(
            |sync| matches!(sync, Sync::Names(folder) if !folder.ends_with("node")),
        )),
        Some(Kept::Below) => power.lose(Some(
            |sync| matches!(sync, Sync::Names(folder) if folder.ends_with("node")),
        )),
        _ => {}
    }
    let store = EmbeddedStore::open(&power.folder().join("a/node"), clock.clone()).unwrap();
    match left_out {
        Some(Kept::Bytes) => power.lose(Some(|sync| matches!(sync, Sync::Bytes))),
        Some(Kept::Shards) => power.lose(Some(
            |sync| matches!(sync, Sync::Names(folder) if !folder.ends_with("pins")),
        )),
        _ => power.lose(None),
    }
    let (tree, other) = (unique_tree(4), unique_tree(2));
    let (root, other_root) = (tree[tree.len() - 1].cid, other[other.len() - 1].cid);
    for tree in [&tree, &other] {
        store.put_many(tree).await.unwrap();
    }
    if is_out(Kept::Pin) {
        power.lose(Some(|sync| matches!(sync, Sync::Names(_))));
    }
    store.pin(&other_root, None).await.unwrap();
    store.pin(&root, None).await.unwrap();
    let left = power.cut();
    let dir = left.path().join("a/node");
    if !dir.join("format").exists() {
        return Some("it is not known what the folder holds".to_owned());
    }
    let found = EmbeddedStore::open(&dir, clock.clone()).unwrap();
    for block in tree.iter().chain(&other) {
        match found.get(&block.cid).await {
            Ok(bytes) if bytes == block.data => {}
            other => return Some(format!("{}: {other:?}", block.cid)),
        }
    }
    let pins = found.pins().await.unwrap();
    if !pins.contains(&root) || !pins.contains(&other_root) {
        return Some(format!("of two pins there are {pins:?}"));
    }
    if is_out(Kept::Unpin) {
        power.lose(Some(|sync| matches!(sync, Sync::Names(_))));
    }
    store.unpin(&other_root).await.unwrap();
    let left = power.cut();
    let found = EmbeddedStore::open(&left.path().join("a/node"), clock).unwrap();
    let pins = found.pins().await.unwrap();
    (pins != [root]).then(|| format!("{pins:?} are pinned, not {root}"))
}

#[tokio::test]
async fn power_loss_undoes_no_confirmed_store_pin_or_unpin() {
    assert_eq!(lost_without(None).await, None);
    for kept in [
        Kept::Folders,
        Kept::Below,
        Kept::Bytes,
        Kept::Shards,
        Kept::Pin,
        Kept::Unpin,
    ] {
        let lost = lost_without(Some(kept)).await;
        assert!(lost.is_some(), "nobody notices that {kept:?} is left out");
    }
}

#[tokio::test]
async fn a_damaged_block_file_is_detected_and_repaired_by_the_next_put() {
    let fixture = Fixture::new();
    let block = unique_leaf(1000);
    let put = || fixture.store.put_many(std::slice::from_ref(&block));
    put().await.unwrap();
    let path = fixture.file_of(&block.cid);
    let mut changed = block.data.to_vec();
    changed[500] ^= 1;
    for damage in [&changed[..], &block.data[..999], b"", &[0; 2 << 20]] {
        fs::write(&path, damage).unwrap();
        let got = fixture.store.get(&block.cid).await;
        assert!(matches!(got, Err(StoreError::Corrupt(cid, _)) if cid == block.cid));
        put().await.unwrap();
        assert_eq!(fixture.store.get(&block.cid).await, Ok(block.data.clone()));
    }
}

#[tokio::test]
async fn a_damaged_node_stops_its_pin() {
    let fixture = Fixture::new();
    let (tree, root) = fixture.put_tree(2).await;
    let page = tree[4].cid;
    fs::write(fixture.file_of(&page), b"garbage").unwrap();
    let refused = fixture.store.pin(&root, None).await;
    assert!(matches!(refused, Err(StoreError::Corrupt(cid, _)) if cid == page));
    assert_eq!(fixture.store.pins().await, Ok(vec![]));
}

#[tokio::test]
async fn what_a_crash_left_unfinished_is_swept() {
    let fixture = Fixture::new();
    fixture.store.put_many(&[unique_leaf(100)]).await.unwrap();
    assert_eq!(fixture.files("new").len(), 0);
    fs::write(fixture.dir.path().join("new/77-1"), b"half a blo").unwrap();
    assert_eq!(fixture.restart().files("new").len(), 0);
}

#[tokio::test]
async fn a_put_that_is_refused_leaves_no_file() {
    let fixture = Fixture::new();
    let wrong = Block {
        cid: leaf_cid(b"a"),
        data: Bytes::from_static(b"b"),
    };
    let blocks: Vec<Block> = (0..20).map(|_| unique_leaf(10)).chain([wrong]).collect();
    assert!(fixture.store.put_many(&blocks).await.is_err());
    assert_eq!(
        fixture.files("new").len() + fixture.files("blocks").len(),
        0
    );
}

#[tokio::test]
async fn a_folder_in_use_or_of_unknown_format_is_refused() {
    let fixture = Fixture::new();
    let open = || EmbeddedStore::open(fixture.dir.path(), fixture.clock.clone());
    let Err(StoreError::Permanent(why)) = open().map(|_| ()) else {
        panic!("opened twice");
    };
    assert!(why.contains("in use by another pxfs") && !why.contains('\n'));
    let Fixture { dir, clock, store } = fixture;
    drop(store);
    fs::write(dir.path().join("format"), "pxfs blocks 9\n").unwrap();
    let refused = EmbeddedStore::open(dir.path(), clock).map(|_| ());
    assert!(matches!(refused, Err(StoreError::Permanent(why)) if why.contains("blocks 9")));
}

#[tokio::test]
async fn collection_keeps_what_pins_reach_and_takes_the_rest() {
    let fixture = Fixture::new();
    let (kept, root) = fixture.put_tree(4).await;
    let (gone, _) = fixture.put_tree(4).await;
    fixture.store.pin(&root, None).await.unwrap();
    fixture.clock.advance(2 * HOUR);
    assert_eq!(fixture.collect().await, gone.len() as u64);
    for block in &kept {
        assert_eq!(fixture.store.get(&block.cid).await, Ok(block.data.clone()));
    }
    for block in &gone {
        assert_eq!(fixture.store.has(&block.cid).await, Ok(false));
    }
    let usage = fixture.store.usage().await.unwrap();
    let bytes: usize = kept.iter().map(|b| b.data.len()).sum();
    assert_eq!(usage.block_count, kept.len() as u64);
    assert_eq!(usage.block_bytes, bytes as u64);
}

#[tokio::test]
async fn an_upload_under_way_is_not_collected() {
    let fixture = Fixture::new();
    let (old, root) = fixture.put_tree(3).await;
    fixture.clock.advance(2 * HOUR);
    let young = unique_leaf(100);
    fixture
        .store
        .put_many(std::slice::from_ref(&young))
        .await
        .unwrap();
    // Put again: the next upload relies on it as on a new one.
    fixture.store.put_many(&old).await.unwrap();
    assert_eq!(fixture.collect().await, 0);
    fixture.clock.advance(HOUR + HOUR / 2);
    fixture.store.pin(&root, None).await.unwrap();
    assert_eq!(fixture.collect().await, 1);
    assert_eq!(fixture.store.has(&young.cid).await, Ok(false));
}

#[tokio::test]
async fn a_shared_block_stays_until_the_last_pin_goes() {
    let fixture = Fixture::new();
    let (tree, a) = fixture.put_tree(3).await;
    let b = node(&[tree[9].cid, tree[10].cid]);
    fixture
        .store
        .put_many(std::slice::from_ref(&b))
        .await
        .unwrap();
    fixture.store.pin(&a, None).await.unwrap();
    fixture.store.pin(&b.cid, Some(&a)).await.unwrap();
    fixture.clock.advance(2 * HOUR);
    assert_eq!(fixture.collect().await, 0);
    fixture.store.unpin(&a).await.unwrap();
    // Root a, its third node and that node's leaves.
    assert_eq!(fixture.collect().await, 5);
    assert_eq!(fixture.store.has(&tree[0].cid).await, Ok(true));
    fixture.store.unpin(&b.cid).await.unwrap();
    assert_eq!(fixture.collect().await, 9);
    assert_eq!(fixture.store.usage().await, Ok(Usage::default()));
}

#[tokio::test]
async fn a_damaged_pinned_tree_stops_collection_rather_than_losing_what_is_below() {
    let fixture = Fixture::new();
    let (tree, root) = fixture.put_tree(3).await;
    fixture.store.pin(&root, None).await.unwrap();
    fixture.clock.advance(2 * HOUR);
    let page = &tree[9];
    fs::remove_file(fixture.file_of(&page.cid)).unwrap();
    assert_eq!(
        fixture.store.collect(HOUR).await,
        Err(StoreError::Missing(page.cid))
    );
    fixture
        .store
        .put_many(std::slice::from_ref(page))
        .await
        .unwrap();
    assert_eq!(fixture.collect().await, 0);
    for block in &tree {
        assert_eq!(fixture.store.has(&block.cid).await, Ok(true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_and_pins_during_a_collection_lose_nothing() {
    let fixture = Fixture::new();
    // Old garbage that is put again and pinned during its collection.
    let mut trees = Vec::new();
    for _ in 0..8 {
        trees.push(fixture.put_tree(6).await);
    }
    fixture.clock.advance(2 * HOUR);
    let collecting = tokio::spawn({
        let store = fixture.store.clone();
        async move {
            for _ in 0..4 {
                store.collect(HOUR).await.unwrap();
            }
        }
    });
    for (tree, root) in &trees {
        fixture.store.put_many(tree).await.unwrap();
        fixture.store.pin(root, None).await.unwrap();
    }
    collecting.await.unwrap();
    fixture.clock.advance(2 * HOUR);
    assert_eq!(fixture.collect().await, 0);
    for block in trees.iter().flat_map(|(tree, _)| tree) {
        assert_eq!(fixture.store.get(&block.cid).await, Ok(block.data.clone()));
    }
}

#[tokio::test]
async fn a_file_that_is_none_of_ours_is_left_alone() {
    let fixture = Fixture::new();
    let foreign = fixture.dir.path().join("blocks/0/README");
    fs::write(&foreign, "not a block").unwrap();
    fs::write(fixture.dir.path().join("pins/README"), "not a pin").unwrap();
    fixture.clock.advance(2 * HOUR);
    assert_eq!(fixture.collect().await, 0);
    assert!(foreign.exists());
    assert_eq!(fixture.store.pins().await, Ok(vec![]));
}
