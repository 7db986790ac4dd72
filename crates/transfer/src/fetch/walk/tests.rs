//! What a reader of many small files would lose: time, where nothing is fetched ahead of him; bandwidth,
//! where too much is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::yield_now;

use super::*;
use crate::cache::Cache;
use crate::fetch::{Fetcher, Volumes};
use crate::fs::{LoadedEntry, LostBlock, Want};
use crate::pack::chunk;
use crate::pack::entry::TreeRef;
use crate::store::fault::{Call, Fault, FaultStore};
use crate::store::memory::MemoryStore;
use crate::store::{Block, BlockStoreExt, StoreError};

/// The number of the folder above all.
const TOP: u64 = 1;

/// A folder of folders of files. File `f` of folder `d` is inode `1000 * d + f`.
struct Tree {
    folders: Vec<Vec<Block>>,
}

impl Tree {
    fn new(folders: u64, files: u64) -> Self {
        let file =
            |d: u64, f: u64| chunk::leaf(Bytes::from(format!("file {f} of folder {d}").repeat(50)));
        let folder = |d| (1..=files).map(|f| file(d, f)).collect();
        Self {
            folders: (2..folders + 2).map(folder).collect(),
        }
    }

    fn folder(&self, dir: Ino) -> &[Block] {
        &self.folders[dir.0 as usize - 2]
    }

    fn file(&self, ino: u64) -> &Block {
        &self.folder(Ino(ino / 1000))[ino as usize % 1000 - 1]
    }

    /// All files, in order.
    fn files(&self) -> Vec<u64> {
        let folders = self.folders.iter().zip(2..);
        folders
            .flat_map(|(files, d)| (1..=files.len() as u64).map(move |f| 1000 * d + f))
            .collect()
    }
}

impl DirectorySink for Tree {
    fn unloaded_tree(&self, _: Ino) -> Result<Option<TreeRef>, FsError> {
        Ok(None)
    }

    fn published_table(&self) -> Result<Option<TreeRef>, FsError> {
        Ok(None)
    }

    fn enter_loaded(&self, _: Ino, _: &Cid, _: &[LoadedEntry]) -> Result<(), FsError> {
        Ok(())
    }

    fn note_lost(&self, _: Ino, _: &Cid, _: &LostBlock) {}

    fn finish_loading(&self, _: Ino, _: &Cid) -> Result<(), FsError> {
        Ok(())
    }

    fn place_of(&self, ino: Ino) -> Result<Option<Place>, FsError> {
        Ok(match ino.0 {
            TOP => None,
            d if d < 1000 => Some(Place {
                dir: Ino(TOP),
                at: d,
            }),
            file => Some(Place {
                dir: Ino(file / 1000),
                at: file % 1000,
            }),
        })
    }

    fn behind(&self, place: Place, most: usize) -> Result<Vec<Behind>, FsError> {
        let entry = |at: u64, what| Behind {
            place: Place { at, ..place },
            what,
        };
        let all: Vec<Behind> = match place.dir.0 {
            TOP => (2..self.folders.len() as u64 + 2)
                .map(|d| entry(d, What::Directory(Ino(d))))
                .collect(),
            _ => (1..)
                .zip(self.folder(place.dir))
                .map(|(at, file)| entry(at, What::Leaf(file.cid, file.data.len() as u64)))
                .collect(),
        };
        let behind = all.into_iter().filter(|entry| entry.place.at > place.at);
        Ok(behind.take(most).collect())
    }
}

struct Mount(Arc<Tree>);

impl Volumes for Mount {
    fn volume(&self, _: u16) -> Option<Arc<dyn DirectorySink>> {
        let tree = Arc::clone(&self.0);
        Some(tree)
    }
}

struct Stage {
    tree: Arc<Tree>,
    store: Arc<FaultStore>,
    cache: Arc<Cache>,
    fetcher: Fetcher,
}

impl Stage {
    async fn new(folders: u64, files: u64) -> Self {
        let tree = Arc::new(Tree::new(folders, files));
        let memory = Arc::new(MemoryStore::new());
        memory.put_many(&tree.folders.concat()).await.unwrap();
        let store = Arc::new(FaultStore::new(memory));
        let cache = Arc::new(Cache::in_memory());
        let mount = Arc::new(Mount(Arc::clone(&tree)));
        let patience = Duration::from_secs(20);
        let fetcher = Fetcher::new(store.clone(), None, cache.clone(), mount, patience);
        Self {
            tree,
            store,
            cache,
            fetcher,
        }
    }

    fn is_here(&self, ino: u64) -> bool {
        let file = self.tree.file(ino);
        let mut bytes = vec![0; file.data.len()];
        let size = bytes.len() as u64;
        self.cache.read(&file.cid, size, 0, &mut bytes) && bytes == file.data
    }

    /// As `fs` reads. True when it had to be waited for.
    async fn read(&self, ino: u64) -> bool {
        let file = self.tree.file(ino);
        let want = Want::Content {
            slot: 7,
            ino: Ino(ino),
            cid: file.cid,
            size: file.data.len() as u64,
            offset: 0,
            len: file.data.len() as u64,
        };
        let was_here = self.is_here(ino);
        while !self.is_here(ino) {
            self.fetcher.fetch(want.clone()).await.unwrap();
        }
        // What is on its way arrives before the next: a reader takes his time.
        while !self.fetcher.walks.is_at_rest() {
            yield_now().await;
        }
        !was_here
    }

    fn gets(&self) -> u64 {
        self.store.count(Call::Get)
    }
}

impl Walks {
    fn is_at_rest(&self) -> bool {
        self.following.load(Ordering::Acquire) == 0
            && self.lock().iter().all(|walk| !walk.is_planning)
            && self.room.available_permits() == BATCHES_AT_ONCE
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_file_after_file_rarely_waits_and_nothing_is_fetched_twice() {
    let stage = Stage::new(6, 300).await;
    let mut waits = 0;
    for ino in stage.tree.files() {
        waits += usize::from(stage.read(ino).await);
    }
    assert!(waits < 40, "{waits} of 1800");
    assert_eq!(stage.gets(), 1800);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_fetched_ahead_of_one_who_jumps() {
    let stage = Stage::new(4, 500).await;
    // Steps of 7 and more, forwards and backwards, from folder to folder.
    for turn in 0..200 {
        let (folder, file) = (2 + turn % 4, 1 + turn * 263 % 500);
        stage.read(1000 * folder + file).await;
    }
    assert_eq!(stage.gets(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_after_a_few_files_has_fetched_a_few() {
    let stage = Stage::new(2, 900).await;
    for file in 1..=10 {
        stage.read(2000 + file).await;
    }
    assert!(
        stage.gets() <= 10 + 3 * FIRST_FILES as u64,
        "{}",
        stage.gets()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_do_not_come_together_come_one_by_one() {
    let stage = Stage::new(1, 60).await;
    for ino in stage.tree.files() {
        // Some of each call that begins behind one of these.
        if ino % 10 == 2 {
            let busy = StoreError::Transient("busy".to_owned());
            stage.store.set(Call::Get, Fault::Before(busy), Some(2));
        }
        stage.read(ino).await;
        assert!(stage.is_here(ino));
    }
    assert!(stage.gets() < 2 * 60, "{}", stage.gets());
}
