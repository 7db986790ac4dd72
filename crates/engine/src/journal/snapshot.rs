//! The journal as it was at one moment, for as long as somebody reads it.
//!
//! redb takes no page into use again that is younger than its oldest reader: beside a snapshot the
//! journal's file grows by all that is written. Invariant: what a snapshot says never changes, also when it
//! is moved into a file of its own ([`Snapshot::relieve`]), after which the journal has its pages back.
//! Called by the cut of a commit, which may last for hours.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use redb::{Database, StorageBackend};

use super::check::guard;
use super::file::JournalFile;
use super::key::{self, Key};
use super::record::{Counters, Record};
use super::table::{TABLE, Table, as_slices, bounds, disk, opened, read, reader, records};
use super::{DiskFile, JournalError};

/// By how many bytes the journal grows at least before a snapshot moves. It grows by its own length too:
/// moving writes no more than what made it due.
const GROWTH: u64 = 64 << 20;

/// Memory of a snapshot that has moved, in bytes.
const CACHE: usize = 4 << 20;

/// The journal as it was at one moment.
pub struct Snapshot {
    held: RwLock<Arc<Held>>,
    journal: Arc<JournalFile>,
    /// Length of the journal's file from which on this one is to move.
    due_at: AtomicU64,
    moving: Mutex<()>,
}

struct Held {
    table: Arc<Table>,
    /// What the table lies in, where that is not the journal.
    _own: Option<Database>,
}

impl Snapshot {
    pub(super) fn new(table: Arc<Table>, journal: Arc<JournalFile>) -> Self {
        let len = journal.len().unwrap_or(0);
        Self {
            held: RwLock::new(Arc::new(Held { table, _own: None })),
            journal,
            due_at: AtomicU64::new(len + len.max(GROWTH)),
            moving: Mutex::default(),
        }
    }

    /// Whether the journal has grown so much that [`Snapshot::relieve`] has something to do.
    pub(crate) fn is_due(&self) -> bool {
        let due_at = self.due_at.load(Ordering::Relaxed);
        due_at != u64::MAX && self.journal.len().is_ok_and(|len| len >= due_at)
    }

    /// Moves into the file that `scratch` gives, where it is due: the journal goes on in the pages that it
    /// has. Reads and writes as much as the journal holds. Where that fails all stays as it is until the
    /// journal has grown by as much again.
    pub(crate) fn relieve(
        &self,
        scratch: impl FnOnce() -> Result<Arc<dyn DiskFile>, JournalError>,
    ) {
        let Ok(_one) = self.moving.try_lock() else {
            return;
        };
        if !self.is_due() {
            return;
        }
        let held = self.held();
        let moved = scratch().and_then(|file| guard(|| copy(&held.table, file)));
        drop(held);
        let due_at = match moved {
            Ok(moved) => {
                *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(moved);
                tracing::debug!("the journal grew beside a commit, which now reads a copy of it");
                u64::MAX
            }
            Err(error) => {
                tracing::debug!(%error, "the journal grows beside a commit, and cannot be copied");
                let len = self.journal.len().unwrap_or(0);
                len + len.max(GROWTH)
            }
        };
        self.due_at.store(due_at, Ordering::Relaxed);
    }

    /// It is due to move when the journal's file has so many bytes.
    #[cfg(test)]
    pub(crate) fn move_at(&self, len: u64) {
        self.due_at.store(len, Ordering::Relaxed);
    }

    /// The counters of its moment.
    pub(crate) fn counters(&self) -> Result<Counters, JournalError> {
        self.record(&key::meta("counters"))?
            .ok_or_else(|| JournalError::Corrupt("the journal has no counters".to_owned()))
    }

    /// The record at `key`, decoded.
    pub(crate) fn record<R: Record>(&self, key: &[u8]) -> Result<Option<R>, JournalError> {
        self.get(key)?
            .map(|bytes| R::from_bytes(&bytes))
            .transpose()
    }

    /// The record at `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, JournalError> {
        read(&self.held().table, key)
    }

    /// Up to `limit` records whose keys begin with `prefix`, behind `after` (a whole key), in order of
    /// keys.
    pub(crate) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Key, Bytes)>, JournalError> {
        let (held, range) = (self.held(), bounds(prefix, after));
        guard(|| records(&held.table, &range)?.take(limit).collect())
    }

    /// The first key that is not below `from`.
    pub(crate) fn first_from(&self, from: &[u8]) -> Result<Option<Key>, JournalError> {
        let held = self.held();
        guard(|| {
            let mut range = held.table.range::<&[u8]>(from..).map_err(disk)?;
            let first = range.next().transpose().map_err(disk)?;
            Ok(first.map(|(key, _)| key.value().to_vec()))
        })
    }

    /// Calls `each` with the records whose keys begin with `prefix`, in order, until it answers
    /// false.
    pub(crate) fn each(
        &self,
        prefix: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<bool, JournalError>,
    ) -> Result<(), JournalError> {
        let (held, range) = (self.held(), bounds(prefix, None));
        guard(|| {
            for pair in held.table.range::<&[u8]>(as_slices(&range)).map_err(disk)? {
                let (key, value) = pair.map_err(disk)?;
                if !each(key.value(), opened(key.value(), value.value())?)? {
                    break;
                }
            }
            Ok(())
        })
    }

    fn held(&self) -> Arc<Held> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&held)
    }
}

/// All records of `table`, with their sums, in `file`.
fn copy(table: &Table, file: Arc<dyn DiskFile>) -> Result<Held, JournalError> {
    let db = Database::builder()
        .set_cache_size(CACHE)
        .create_with_backend(Scratch(file))
        .map_err(|error| JournalError::Disk(error.to_string()))?;
    let write = db.begin_write().map_err(disk)?;
    {
        let mut to = write.open_table(TABLE).map_err(disk)?;
        for pair in table.range::<&[u8]>(..).map_err(disk)? {
            let (key, value) = pair.map_err(disk)?;
            to.insert(key.value(), value.value()).map_err(disk)?;
        }
    }
    write.commit().map_err(disk)?;
    let table = Arc::new(reader(&db)?);
    Ok(Held {
        table,
        _own: Some(db),
    })
}

/// A file that need not survive a crash.
#[derive(Debug)]
struct Scratch(Arc<dyn DiskFile>);

impl StorageBackend for Scratch {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Batch, Disk as _, Journal, MemoryDisk, Without};
    use crate::types::Ino;

    const BOUND: u64 = 1 << 20;

    fn put(journal: &Journal, ino: u64, value: u64) {
        let mut batch = Batch::default();
        let bytes = Bytes::from(value.to_be_bytes().repeat(20));
        batch.put_bytes(key::inode(Ino(ino)), bytes);
        journal.apply(batch).unwrap();
    }

    /// By how many bytes the journal grows at most beside a snapshot, which reads what it read before, and
    /// by how many in the end.
    fn growth(
        is_relieved: bool,
        scratch: impl Fn() -> Result<Arc<dyn DiskFile>, JournalError>,
    ) -> (u64, u64) {
        let disk = Arc::new(MemoryDisk::default());
        let journal = Journal::open(disk.clone(), "journal", 1 << 20, Without::default()).unwrap();
        (0..2000).for_each(|ino| put(&journal, ino, ino));
        let snapshot = journal.snapshot(|_| ()).unwrap();
        let all = |snapshot: &Snapshot| snapshot.scan(b"", None, usize::MAX).unwrap();
        let before = all(&snapshot);
        assert!(before.len() > 2000);
        let len = || disk.open("journal").unwrap().len().unwrap();
        let first = len();
        snapshot.move_at(first + BOUND);
        let mut most = first;
        for n in 0..1000 {
            put(&journal, n * 7 % 2000, n + 1_000_000);
            journal.write_table().unwrap();
            most = most.max(len());
            if is_relieved {
                snapshot.relieve(&scratch);
            }
        }
        assert_eq!(all(&snapshot), before);
        assert!(snapshot.first_from(b"").unwrap().is_some());
        (most - first, len() - first)
    }

    #[test]
    fn a_commit_that_lasts_does_not_fill_the_disk_with_the_journal() {
        let spare = MemoryDisk::default();
        let (most, last) = growth(true, || Ok(spare.create("scratch")?));
        assert!((BOUND..4 * BOUND).contains(&most), "{most} bytes");
        assert!(last <= BOUND, "{last} bytes do not come back");
        // That is what it is for.
        let (most, _) = growth(false, || Ok(spare.create("scratch")?));
        assert!(most > 8 * BOUND, "{most} bytes");
    }

    #[test]
    fn a_disk_without_room_for_a_copy_ends_no_commit() {
        let (most, _) = growth(true, || Err(JournalError::NoRoom));
        assert!(most > 8 * BOUND, "{most} bytes");
    }
}
