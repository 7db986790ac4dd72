//! A drive with one token, whose published contents are kept in a map.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cid::Cid;
use tempfile::TempDir;

use crate::cache::Cache;
use crate::clock::{Clock, ManualClock};
use crate::fs::{
    Allowance, Attr, Built, Caller, ChainTime, Changes, Cut, Drive, FsError, Limits, Opened,
    Volume, VolumeOptions, Want,
};
use crate::journal::{Disk, FolderDisk, JournalError, Without};
use crate::pack::chunk::CHUNK_SIZE;
use crate::pack::entry::{Sums, TreeRef};
use crate::pack::{Child, chunk, cid as cids};
use crate::types::{Fh, Ino, TokenId, TokenKey, VolumeKey};

pub(super) const CALLER: Caller = Caller {
    uid: 0,
    gid: 0,
    umask: 0,
};
pub(super) const QUOTA: u64 = 104_857_600;
pub(super) const READ_WRITE: i32 = 2;

/// How many contents were built.
static BUILT: AtomicU64 = AtomicU64::new(0);

pub(super) struct Rig {
    pub(super) drive: Drive,
    pub(super) volume: Arc<Volume>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) root: Ino,
    folder: TempDir,
    /// What "the node" has.
    pub(super) published: HashMap<Cid, Vec<u8>>,
    cache: Arc<Cache>,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with_quota(QUOTA)
    }

    pub(super) fn with_quota(size_bytes: u64) -> Self {
        let folder = scratch();
        let clock = Arc::new(ManualClock::at(1_700_000_000_000_000_000));
        let cache = Arc::new(Cache::in_memory());
        let (drive, volume, root) = open_in(&folder, &clock, &cache);
        let allowance = allowance(&clock, size_bytes);
        volume.set_allowance(&allowance).unwrap();
        Self {
            drive,
            volume,
            clock,
            root,
            folder,
            published: HashMap::new(),
            cache,
        }
    }

    /// As after a kill -9: what is not in the journal file is gone.
    pub(super) fn crash(mut self) -> Self {
        self.reopen();
        self
    }

    pub(super) fn reopen(&mut self) {
        let spare = scratch();
        let (drive, volume, root) = open_in(&spare, &self.clock, &self.cache);
        self.drive = drive;
        self.volume = volume;
        let (drive, volume, root) = {
            let _ = root;
            open_in(&self.folder, &self.clock, &self.cache)
        };
        (self.drive, self.volume, self.root) = (drive, volume, root);
    }

    /// As if the cache folder had been deleted.
    pub(super) fn forget_cache(&mut self) {
        self.cache = Arc::new(Cache::in_memory());
        self.drive.sync().unwrap();
        self.reopen();
    }

    /// Where the stage's files are.
    pub(super) fn stage(&self) -> std::path::PathBuf {
        self.folder.path().join("stage")
    }

    /// How many files the stage has on the disk.
    pub(super) fn stage_files(&self) -> usize {
        std::fs::read_dir(self.stage()).unwrap().count()
    }

    /// Nothing of what was published is at hand any more.
    pub(super) fn evict(&self) {
        self.cache.forget();
    }

    pub(super) fn create(&self, name: &str) -> (Attr, Opened) {
        self.drive
            .create(CALLER, self.root, name.as_bytes(), 0o644, READ_WRITE)
            .unwrap()
    }

    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> Result<(), FsError> {
        let (attr, opened) =
            self.drive
                .create(CALLER, self.root, name.as_bytes(), 0o644, READ_WRITE)?;
        self.drive.write(attr.ino, opened.fh, 0, bytes, false)?;
        self.drive.flush(attr.ino, opened.fh)?;
        self.drive.release(attr.ino, opened.fh);
        Ok(())
    }

    pub(super) fn ino(&self, name: &str) -> Ino {
        self.drive.lookup(self.root, name.as_bytes()).unwrap().ino
    }

    pub(super) fn read(&mut self, name: &str) -> Vec<u8> {
        let attr = self.drive.lookup(self.root, name.as_bytes()).unwrap();
        let opened = self.drive.open(attr.ino, 0).unwrap();
        let bytes = self.read_handle(attr.ino, opened.fh, 0, attr.size as u32);
        self.drive.release(attr.ino, opened.fh);
        bytes
    }

    /// Reads, and fetches from "the node" what is not here.
    pub(super) fn read_handle(&mut self, ino: Ino, fh: Fh, offset: u64, len: u32) -> Vec<u8> {
        loop {
            match self.drive.read(ino, fh, offset, len) {
                Ok(bytes) => return bytes,
                Err(FsError::NotLocal(want)) => {
                    let Want::Content { cid, size, .. } = *want else {
                        panic!("{want:?}");
                    };
                    let content = self.published.get(&cid).expect("published content");
                    assert_eq!(content.len() as u64, size);
                    for (index, part) in content.chunks(CHUNK_SIZE as usize).enumerate() {
                        self.cache.fill(&cid, size, index as u64, part);
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(super) fn used(&self) -> u64 {
        self.volume.with_quota(|quota| quota.used_bytes())
    }

    /// Builds the contents of a cut as a commit would; gives them by inode.
    pub(super) fn build(&mut self, cut: &Cut, changes: &Changes) -> (Built, HashMap<Ino, Vec<u8>>) {
        build(&mut self.published, cut, changes)
    }
}

/// A folder in memory where there is one: what is in it goes with the test.
pub(super) fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn open_in(
    folder: &TempDir,
    clock: &Arc<ManualClock>,
    cache: &Arc<Cache>,
) -> (Drive, Arc<Volume>, Ino) {
    let home = Arc::new(FolderDisk::open(folder.path()).unwrap());
    let stage = Arc::new(FolderDisk::open(&folder.path().join("stage")).unwrap());
    open(home, stage, clock, cache, Without::default()).unwrap()
}

/// A drive with the volume that `home` and `stage` hold, and its root directory.
pub(super) fn open(
    home: Arc<dyn Disk>,
    stage: Arc<dyn Disk>,
    clock: &Arc<ManualClock>,
    cache: &Arc<Cache>,
    without: Without,
) -> Result<(Drive, Arc<Volume>, Ino), JournalError> {
    open_with(home, stage, clock, cache, &options(without))
}

/// How a volume is opened where nothing else is said.
pub(super) fn options(without: Without) -> VolumeOptions {
    let key = VolumeKey {
        token: TokenKey {
            chain_id: 31337,
            contract: Default::default(),
            token: TokenId::from(1),
        },
        epoch: 1,
    };
    VolumeOptions {
        key,
        journal_cache_bytes: 1 << 20,
        owner: (0, 0),
        without,
        limits: Limits::default(),
    }
}

/// As [`open`], with these options.
pub(super) fn open_with(
    home: Arc<dyn Disk>,
    stage: Arc<dyn Disk>,
    clock: &Arc<ManualClock>,
    cache: &Arc<Cache>,
    options: &VolumeOptions,
) -> Result<(Drive, Arc<Volume>, Ino), JournalError> {
    let volume = Volume::open(
        home,
        stage,
        Arc::clone(cache),
        Arc::<ManualClock>::clone(clock),
        options,
    )?;
    let drive = Drive::new((0, 0), 0);
    let slot = drive.attach("1", 1, Arc::clone(&volume)).unwrap();
    Ok((drive, volume, Ino(u64::from(slot) << 48 | 1)))
}

/// Builds the contents of a cut as a commit would, over what is `published`, and adds them to it; gives
/// them by inode.
pub(super) fn build(
    published: &mut HashMap<Cid, Vec<u8>>,
    cut: &Cut,
    changes: &Changes,
) -> (Built, HashMap<Ino, Vec<u8>>) {
    let mut built = cut.begin_build();
    let mut contents = HashMap::new();
    for ino in &changes.files {
        let file = cut.file(*ino).unwrap();
        let content = match &file.inline {
            Some(bytes) => bytes.to_vec(),
            None => {
                let below = file.base.map(|(child, _)| published[&child.cid].clone());
                let mut content = vec![0; file.size as usize];
                for index in 0..chunk::count(file.size) {
                    let start = (index * CHUNK_SIZE) as usize;
                    let end = start + chunk::len(file.size, index) as usize;
                    if file.holes.contains(index) {
                        continue;
                    }
                    let base = below.as_ref().map(|b| &b[start.min(b.len())..]);
                    if !file.chunks.contains_key(&index) {
                        let base = base.expect("an unchanged chunk has a base");
                        let valid = (file.base_valid as usize).saturating_sub(start);
                        let have = base.len().min(end - start).min(valid);
                        content[start..start + have].copy_from_slice(&base[..have]);
                        continue;
                    }
                    let base = base.filter(|_| file.needs_below(index));
                    let bytes = cut.read_chunk(&file, index, base).unwrap();
                    cut.release_chunk(&file, index);
                    content[start..end].copy_from_slice(&bytes);
                }
                content
            }
        };
        // No two are the same here, so a number does for a hash.
        let number = BUILT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let cid = cids::leaf_cid(&[b"content", &number[..]].concat());
        published.insert(cid, content.clone());
        let child = Child::new(cid, content.len() as u64);
        built.files.insert(*ino, child).unwrap();
        contents.insert(*ino, content);
    }
    for dir in &changes.directories {
        let cid = cids::node_cid(&dir.0.to_be_bytes());
        let tree = TreeRef {
            root: Child::new(cid, 0),
            sums: Sums::default(),
        };
        built.directories.insert(*dir, tree);
    }
    (built, contents)
}

/// What the chain grants: `size_bytes`.
pub(super) fn allowance(clock: &ManualClock, size_bytes: u64) -> Allowance {
    Allowance {
        size_bytes,
        usage_on_chain_bytes: 0,
        additive: false,
        uploads_left: None,
        last_sync_s: 1_000,
        sync_window_s: 30 * 86_400,
        seen: ChainTime {
            block: 1,
            timestamp_s: 1_000,
            boottime_ns: 0,
            boot_id: clock.boot_id(),
            wall_ns: clock.wall_ns(),
        },
        others_bytes: 0,
    }
}
