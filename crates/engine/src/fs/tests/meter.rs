//! A drive on disks that count what is done to them, and that can be made to stand still.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::rig::{CALLER, READ_WRITE, allowance, open_with, options};
use crate::cache::Cache;
use crate::clock::ManualClock;
use crate::fs::{Drive, Volume, VolumeOptions};
use crate::journal::{Disk, DiskFile, MemoryDisk, Without};
use crate::types::{Fh, Ino};

/// What was done to a disk.
#[derive(Default)]
struct Counts {
    syncs: AtomicU64,
    removes: AtomicU64,
    written_bytes: AtomicU64,
    read_anew: AtomicU64,
    pause: Mutex<Option<Pause>>,
    read_pause: Mutex<Option<Pause>>,
    open_pause: Mutex<Option<Pause>>,
    sync_pause: Mutex<Option<Pause>>,
    look_pause: Mutex<Option<Pause>>,
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counts")
    }
}

/// Runs before what is done to a disk, in the thread that does it.
type Pause = Arc<dyn Fn() + Send + Sync>;

/// A disk that counts, and may stand still.
#[derive(Default)]
pub(super) struct Counted {
    disk: MemoryDisk,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct CountedFile {
    file: Arc<dyn DiskFile>,
    counts: Arc<Counts>,
}

impl Counted {
    fn syncs(&self) -> u64 {
        self.counts.syncs.load(Ordering::Relaxed)
    }

    pub(super) fn removes(&self) -> u64 {
        self.counts.removes.load(Ordering::Relaxed)
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.counts.written_bytes.load(Ordering::Relaxed)
    }

    /// How often a file was let go of that is in memory.
    pub(super) fn read_anew(&self) -> u64 {
        self.counts.read_anew.load(Ordering::Relaxed)
    }

    /// From now on `pause` runs before each write.
    pub(super) fn set_pause(&self, pause: Option<Pause>) {
        *self.counts.pause.lock().unwrap() = pause;
    }

    /// The same before each read.
    pub(super) fn set_read_pause(&self, pause: Option<Pause>) {
        *self.counts.read_pause.lock().unwrap() = pause;
    }

    /// The same before each opening of a file that is there.
    pub(super) fn set_open_pause(&self, pause: Option<Pause>) {
        *self.counts.open_pause.lock().unwrap() = pause;
    }

    /// The same before each sync of a file.
    pub(super) fn set_sync_pause(&self, pause: Option<Pause>) {
        *self.counts.sync_pause.lock().unwrap() = pause;
    }

    /// The same before each look at how much is free.
    pub(super) fn set_look_pause(&self, pause: Option<Pause>) {
        *self.counts.look_pause.lock().unwrap() = pause;
    }

    /// So many bytes are free.
    pub(super) fn set_free_bytes(&self, bytes: u64) {
        self.disk.set_free_bytes(bytes);
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let counts = Arc::clone(&self.counts);
        Arc::new(CountedFile { file, counts })
    }
}

impl DiskFile for CountedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let pause = self.counts.read_pause.lock().unwrap().clone();
        if let Some(pause) = pause {
            pause();
        }
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let pause = self.counts.pause.lock().unwrap().clone();
        if let Some(pause) = pause {
            pause();
        }
        let written = &self.counts.written_bytes;
        written.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.file.write_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        let pause = self.counts.sync_pause.lock().unwrap().clone();
        if let Some(pause) = pause {
            pause();
        }
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn read_anew(&self) {
        self.counts.read_anew.fetch_add(1, Ordering::Relaxed);
    }
}

impl Disk for Counted {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let pause = self.counts.open_pause.lock().unwrap().clone();
        if let Some(pause) = pause {
            pause();
        }
        Ok(self.file(self.disk.open(name)?))
    }

    fn rename(&self, name: &str, to: &str) -> io::Result<()> {
        self.disk.rename(name, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.counts.removes.fetch_add(1, Ordering::Relaxed);
        self.disk.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        self.disk.sync_folder()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let pause = self.counts.look_pause.lock().unwrap().clone();
        if let Some(pause) = pause {
            pause();
        }
        self.disk.free_bytes()
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.disk.path(name)
    }
}

/// A drive, and what it costs the two disks below.
pub(super) struct Meter {
    pub(super) drive: Drive,
    pub(super) volume: Arc<Volume>,
    pub(super) root: Ino,
    pub(super) clock: Arc<ManualClock>,
    pub(super) journal: Arc<Counted>,
    pub(super) stage: Arc<Counted>,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self::with(&options(Without::default()))
    }

    pub(super) fn with(options: &VolumeOptions) -> Self {
        let (journal, stage) = (Arc::<Counted>::default(), Arc::<Counted>::default());
        let clock = Arc::new(ManualClock::at(1_700_000_000_000_000_000));
        let cache = Arc::new(Cache::in_memory());
        let (drive, volume, root) = open_with(
            Arc::<Counted>::clone(&journal),
            Arc::<Counted>::clone(&stage),
            &clock,
            &cache,
            options,
        )
        .unwrap();
        let allowance = allowance(&clock, 1 << 40);
        volume.set_allowance(&allowance).unwrap();
        drive.sync().unwrap();
        Self {
            drive,
            volume,
            root,
            clock,
            journal,
            stage,
        }
    }

    pub(super) fn create(&self, name: &str) -> (Ino, Fh) {
        let (attr, opened) = self
            .drive
            .create(CALLER, self.root, name.as_bytes(), 0o644, READ_WRITE)
            .unwrap();
        (attr.ino, opened.fh)
    }

    pub(super) fn write(&self, (ino, fh): (Ino, Fh), offset: u64, bytes: &[u8]) {
        let written = self.drive.write(ino, fh, offset, bytes, false).unwrap();
        assert_eq!(written as usize, bytes.len());
    }

    /// Syncs of the journal and of the stage that `call` took.
    pub(super) fn syncs(&self, call: impl FnOnce()) -> (u64, u64) {
        let before = (self.journal.syncs(), self.stage.syncs());
        call();
        let after = (self.journal.syncs(), self.stage.syncs());
        (after.0 - before.0, after.1 - before.1)
    }
}
