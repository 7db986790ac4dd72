//! `fsck` on a node that has lost blocks and searches its network.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;
use tokio::time::{sleep, timeout};

use crate::archive::fsck;
use crate::billing;
use crate::cache::Presence;
use crate::fs::{Built, Caller, Drive, FsError};
use crate::pack::chunk;
use crate::pack::cid::leaf_cid;
use crate::pack::entry::Kind;
use crate::run::tests::World;
use crate::status::FsckAnswer;
use crate::store::hook::Hook;
use crate::store::retry::Policy;
use crate::store::{Block, BlockStore, BlockStoreExt, StoreError};
use crate::types::{Ino, TokenId};

const SEARCH: Duration = Duration::from_millis(50);

/// The embedded node, losing blocks behind its pins. Its network has all losses, or none.
struct Lossy {
    inner: Arc<dyn BlockStore>,
    lost: Mutex<HashSet<Cid>>,
    is_found: bool,
    searches: AtomicUsize,
    under_way: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Lossy {
    fn lacks(&self, cid: &Cid) -> bool {
        self.lost.lock().unwrap().contains(cid)
    }

    fn lose(&self, cids: impl IntoIterator<Item = Cid>) {
        self.lost.lock().unwrap().extend(cids);
    }
}

#[async_trait]
impl Hook for Lossy {
    fn inner(&self) -> &dyn BlockStore {
        self.inner.as_ref()
    }

    async fn put_many(&self, blocks: &[Block]) -> Result<(), StoreError> {
        self.inner.put_many(blocks).await?;
        let mut lost = self.lost.lock().unwrap();
        for block in blocks {
            lost.remove(&block.cid);
        }
        Ok(())
    }
    async fn get(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        if self.lacks(cid) {
            self.searches.fetch_add(1, Ordering::SeqCst);
            let at_once = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
            sleep(SEARCH).await;
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            if !self.is_found {
                return Err(StoreError::Missing(*cid));
            }
            self.lost.lock().unwrap().remove(cid);
        }
        self.inner.get(cid).await
    }
    async fn get_local(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        match self.lacks(cid) {
            true => Err(StoreError::Missing(*cid)),
            false => self.inner.get(cid).await,
        }
    }
    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(!self.lacks(cid) && self.inner.has(cid).await?)
    }
}

/// A machine has published so many files in each of so many directories.
const DIRECTORIES: usize = 10;
const FILES: usize = 4;

fn content(dir: usize, file: usize) -> Vec<u8> {
    format!("{dir} {file}").into_bytes()
}

fn large() -> Vec<u8> {
    (0..5_u8).flat_map(|chunk| vec![chunk; 700_000]).collect()
}

fn leaves() -> impl Iterator<Item = Cid> {
    let all = (0..DIRECTORIES).flat_map(|dir| (0..FILES).map(move |file| (dir, file)));
    all.map(|(dir, file)| leaf_cid(&content(dir, file)))
}

/// A machine that only reads, all of it if `reads`, with an empty cache, on such a node.
async fn reader(reads: bool, is_found: bool) -> (World, Arc<Lossy>, TokenId) {
    let world = World::new().await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    world.look(token).await;
    let drive = &world.ground.drive;
    let root = drive.lookup(Ino::ROOT, b"1").unwrap().ino;
    let caller = Caller {
        uid: 0,
        gid: 0,
        umask: 0,
    };
    for dir in 0..DIRECTORIES {
        let name = format!("d{dir}");
        let made = drive.mkdir(caller, root, name.as_bytes(), 0o755).unwrap();
        for file in 0..FILES {
            let name = format!("f{file}");
            let (attr, opened) = drive
                .create(caller, made.ino, name.as_bytes(), 0o640, 2)
                .unwrap();
            let bytes = content(dir, file);
            drive.write(attr.ino, opened.fh, 0, &bytes, false).unwrap();
            drive.flush(attr.ino, opened.fh).unwrap();
            drive.release(attr.ino, opened.fh);
        }
    }
    world.write("1", "large", &large()).unwrap();
    world.write("1", "small", b"of two names").unwrap();
    let small = drive.lookup(root, b"small").unwrap().ino;
    drive.link(small, root, b"twin").unwrap();
    world.flush().await;
    let (cache, state) = (
        world.parts.config.cache_dir.clone(),
        world.parts.config.state_dir.clone(),
    );
    let dir = world.end().await;
    std::fs::remove_dir_all(state.join("volumes")).unwrap();
    let mut node = None;
    let world = World::begin_with(dir, |parts| {
        parts.config.take_over = true;
        let lossy = Arc::new(Lossy {
            inner: Arc::clone(&parts.node.store),
            lost: Mutex::default(),
            is_found,
            searches: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        });
        parts.node.store = Arc::<Lossy>::clone(&lossy);
        parts.node.reads = Arc::<Lossy>::clone(&lossy);
        node = Some(lossy);
    })
    .await;
    world.look(token).await;
    // A take-over makes its own commit.
    world.flush().await;
    world.show();
    if reads {
        let root = world.ground.drive.lookup(Ino::ROOT, b"1").unwrap().ino;
        for dir in 0..DIRECTORIES {
            let name = format!("d{dir}");
            let found = call(&world, |drive| drive.lookup(root, name.as_bytes()))
                .await
                .unwrap();
            for file in 0..FILES {
                let name = format!("f{file}");
                let found = call(&world, |drive| drive.lookup(found.ino, name.as_bytes()));
                let file = found.await.unwrap();
                read(&world, file.ino, 100).await.unwrap();
            }
        }
    }
    world.ground.cache.forget();
    std::fs::remove_dir_all(cache.join("v1")).unwrap();
    // It notices that its files are gone.
    let _ = world.ground.cache.usage();
    (world, node.unwrap(), token)
}

/// Calls the drive, fetching what it wants.
async fn call<T>(world: &World, call: impl Fn(&Drive) -> Result<T, FsError>) -> Result<T, FsError> {
    loop {
        match call(&world.ground.drive) {
            Err(FsError::NotLocal(want)) => world.ground.fetcher.fetch(*want).await?,
            other => return other,
        }
    }
}

async fn read(world: &World, ino: Ino, len: u32) -> Result<Vec<u8>, FsError> {
    let opened = world.ground.drive.open(ino, 0)?;
    let read = call(world, |drive| drive.read(ino, opened.fh, 0, len)).await;
    world.ground.drive.release(ino, opened.fh);
    read
}

/// The published pages of the directories.
fn pages(world: &World) -> Vec<Cid> {
    let volume = world.volume();
    let root = world.ground.drive.lookup(Ino::ROOT, b"1").unwrap().ino;
    let of = |dir: usize| {
        let name = format!("d{dir}");
        let found = world.ground.drive.lookup(root, name.as_bytes()).unwrap();
        let ino = Ino(found.ino.0 & Ino::MAX.0);
        let tree = volume.loaded_tree(ino).unwrap();
        let tree = tree.or_else(|| volume.unloaded_tree(ino).unwrap());
        tree.unwrap().root.cid
    };
    (0..DIRECTORIES).map(of).collect()
}

async fn check(world: &World, token: TokenId, repair: bool) -> FsckAnswer {
    let policy = Policy::default();
    let checked = fsck::check(&world.ground, token, repair, policy, &|_, _| {});
    checked.await.unwrap()
}

fn paths(answer: &FsckAnswer) -> Vec<&str> {
    let mut paths: Vec<&str> = answer.damaged.iter().map(|row| &*row.path).collect();
    paths.sort_unstable();
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_makes_the_directories_again_where_they_were_only_read() {
    let (world, node, token) = reader(true, false).await;
    node.lose(pages(&world));
    let mended = check(&world, token, true).await;
    assert_eq!(paths(&mended), [""; 0]);
    assert_eq!(mended.repaired, DIRECTORIES as u64);
    assert!(node.lost.lock().unwrap().is_empty());
    assert_eq!(check(&world, token, false).await.damaged, []);
    world.end().await;
}

/// The cache has evicted what was read long ago.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_rebuilds_lost_nodes_of_files_that_were_only_read() {
    let (world, node, token) = reader(true, false).await;
    let root = world.ground.drive.lookup(Ino::ROOT, b"1").unwrap().ino;
    let file = call(&world, |drive| drive.lookup(root, b"large")).await;
    let read = read(&world, file.unwrap().ino, 8 << 20).await.unwrap();
    assert!(read == large());
    let cache = &world.ground.cache;
    std::fs::remove_dir_all(world.parts.config.cache_dir.join("v1/small")).unwrap();
    cache.forget();
    let _ = cache.usage();
    let view = world.volume().view().unwrap();
    let entry = view.entry(Ino::ROOT, &"large".into(), &Built::default());
    let Kind::File { content, .. } = entry.unwrap().unwrap().inode.unwrap().kind else {
        panic!("a file");
    };
    let lost = [content.cid, view.table().unwrap().unwrap().root.cid];
    drop(view);
    // Chunks reach the disk after they were read.
    let size = large().len() as u64;
    let is_here = |chunk| cache.presence(&content.cid, size, chunk) != Presence::Absent;
    let all = async {
        while !(0..chunk::count(size)).all(is_here) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), all).await.unwrap();
    for cid in &lost {
        assert_eq!(cache.node(cid), None);
    }
    node.lose(lost);
    let mended = check(&world, token, true).await;
    assert_eq!((paths(&mended), mended.repaired), (vec![], 2));
    assert_eq!(check(&world, token, false).await.damaged, []);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_blocks_are_searched_in_parallel_and_no_longer_than_it_helps() {
    let (world, node, token) = reader(true, false).await;
    node.lose(leaves());
    let told = check(&world, token, false).await;
    assert_eq!(told.damaged.len(), DIRECTORIES * FILES);
    assert!(paths(&told).contains(&"d3/f2"), "{told:?}");
    let searches = node.searches.load(Ordering::SeqCst);
    let at_once = node.most_at_once.load(Ordering::SeqCst);
    assert!(searches < 24, "{searches} searches");
    assert!(at_once > 4, "{at_once} searches at one time");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_the_network_still_has_are_not_reported_as_damage() {
    let (world, node, token) = reader(true, true).await;
    let whole = check(&world, token, false).await;
    assert_eq!(whole.damaged, []);
    node.lose(pages(&world));
    node.lose(leaves());
    assert_eq!(check(&world, token, false).await, whole);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_stays_in_the_status_until_a_later_fsck_clears_it() {
    let (world, node, token) = reader(false, false).await;
    let damaged = async || {
        let local = world.look(token).await.local.unwrap();
        let mut paths: Vec<String> = local.damaged.into_iter().map(|row| row.path).collect();
        paths.sort();
        paths
    };
    assert_eq!(damaged().await, [""; 0]);
    let root = world.ground.drive.lookup(Ino::ROOT, b"1").unwrap().ino;
    call(&world, |drive| drive.lookup(root, b"d1"))
        .await
        .unwrap();
    node.lose([pages(&world)[7], leaf_cid(&content(2, 3))]);
    assert_eq!(paths(&check(&world, token, false).await), ["d2/f3", "d7"]);
    assert_eq!(damaged().await, ["d2/f3", "d7"]);
    node.lost.lock().unwrap().clear();
    assert_eq!(check(&world, token, false).await.damaged, []);
    assert_eq!(damaged().await, [""; 0]);
    world.end().await;
}
