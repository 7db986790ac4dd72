//! The table of records: an overlay in memory above redb, and a log of what redb has not.
//!
//! Invariant: a batch is visible as a whole from the moment [`Journal::apply`] returns, and durable
//! as a whole with every batch before it: in the log, or in redb. Reads look into the active overlay, then the
//! one being written, then redb; the log is read at a start alone. The mutex guards memory only; no disk is
//! touched under it, except that a reader takes its handle of the table under it (so that a record is always in
//! one of the three).

mod commit;
#[cfg(test)]
mod tests;
mod unlogged;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use redb::Database;

use super::batch::Batch;
use super::calls::Calls;
use super::check::{self, guard};
use super::file::{Backend, JournalFile, Place};
use super::key::{self, Key};
use super::record::{Counters, Record};
use super::table::{self, Range, Table, as_slices, bounds, merge, read, records};
use super::wal::{Head, Put, Since, Wal};
use super::{Barrier, Disk, DiskFile, Doubts, JournalError, Without};
use unlogged::Unlogged;

/// Operations and bytes in the overlay beyond which [`Journal::apply`] waits for a commit.
const MAX_OPS: usize = 20_000;
const MAX_BYTES: usize = 32 << 20;

/// Records of a batch that count as one more operation: a change of names has less, a save of a large file thousands.
const RECORDS: usize = 16;

/// Operations and bytes in the overlay, and bytes of the log, beyond which a commit in the background is due.
const DUE_OPS: usize = 4_000;
const DUE_BYTES: usize = 8 << 20;
const DUE_LOG: u64 = 8 << 20;

/// Bytes of the log beyond which whoever syncs commits to the table instead.
const MAX_LOG: u64 = 32 << 20;

/// Bytes from which on a journal has a mark: a smaller one is read whole within a moment.
const MARKED_FROM: u64 = 32 << 20;

/// Records of the overlay that a scan takes at a time, at least: of a directory that is being emptied it has one for
/// each name that is gone, and whoever lists some of the others beside it would copy all of these for each few names,
/// while everybody waits.
const STEP: usize = 1024;

/// Names of what the journal keeps for itself: its counters, and the first frame that the table has not.
const COUNTERS: &str = "counters";
const SINCE: &str = "wal";

/// How long a call waits at most, before it says that there is no room.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Overlay {
    records: BTreeMap<Key, Option<Bytes>>,
    ops: usize,
    bytes: usize,
}

impl Overlay {
    fn is_full(&self) -> bool {
        self.ops >= MAX_OPS || self.bytes >= MAX_BYTES
    }

    fn is_due(&self) -> bool {
        self.ops >= DUE_OPS || self.bytes >= DUE_BYTES
    }

    fn put(&mut self, key: Key, value: Option<Bytes>) {
        self.bytes += footprint(&key, &value);
        self.records.insert(key, value);
    }
}

/// Bytes of memory that a record takes.
fn footprint(key: &Key, value: &Option<Bytes>) -> usize {
    key.len() + value.as_ref().map_or(0, Bytes::len) + 64
}

struct State {
    active: Overlay,
    frozen: Option<Arc<Overlay>>,
    table: Arc<Table>,
    counters: Counters,
    unlogged: Unlogged,
    /// The newest frame, where the disk had no room for it: it goes before the next.
    refused: Option<Frame>,
    /// The next frame of the log, and the generation that began with the newest commit of the table.
    next: Since,
    base: u64,
    /// Batches applied, how many of them are durable, and how many of these are in the table.
    applied: u64,
    durable: u64,
    tabled: u64,
    /// The table is being written.
    committing: bool,
    /// The log is being written.
    logging: bool,
    /// There is a background that commits ([`Journal::drain`]).
    attended: bool,
    /// Somebody waits for a durable commit that the background is to make.
    wanted: bool,
    failed: Option<JournalError>,
}

/// A frame on its way into the log.
struct Frame {
    head: Head,
    records: Vec<Put>,
    /// The batches that are durable with it.
    target: u64,
}

/// The journal of one volume.
pub struct Journal {
    db: Database,
    wal: Wal,
    file: Arc<JournalFile>,
    disk: Arc<dyn Disk>,
    without: Without,
    /// How long a call waits for a commit that somebody else makes, or for room in the overlay.
    patience: Duration,
    /// Nothing waits for room on the disk any more.
    ended: Arc<AtomicBool>,
    state: Mutex<State>,
    /// A commit ended.
    committed: Condvar,
    /// There is work for the background ([`Journal::drain`]), which sleeps through the commits of others.
    due: Condvar,
    /// There is work for [`Journal::log_ahead`].
    much: Condvar,
    pub(super) calls: Calls,
    /// How many records one scan has given at most.
    #[cfg(test)]
    pub(crate) longest_scan: std::sync::atomic::AtomicUsize,
    /// How many records of the overlay one step of a scan took at most.
    #[cfg(test)]
    pub(crate) longest_step: std::sync::atomic::AtomicUsize,
    /// How many records one batch had at most.
    #[cfg(test)]
    pub(crate) longest_batch: std::sync::atomic::AtomicUsize,
}

impl Journal {
    /// Whether there is a journal in the file `name` of `disk`, or what is left of one.
    ///
    /// # Errors
    /// Disk errors.
    pub(crate) fn exists(disk: &dyn Disk, name: &str) -> Result<bool, JournalError> {
        find(disk, name).map(|found| found.is_some())
    }

    /// Opens or creates the journal in the file `name` of `disk`, with `cache_bytes` of page cache.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] when the file is no journal; [`JournalError::NoRoom`] where there is none for what
    /// a crash has left to do; disk errors.
    pub fn open(
        disk: Arc<dyn Disk>,
        name: &str,
        cache_bytes: usize,
        without: Without,
    ) -> Result<Self, JournalError> {
        Self::open_marked(disk, name, cache_bytes, without, MARKED_FROM)
    }

    /// As [`Journal::open`], with a mark where the file has at least `marked_from` bytes.
    pub(super) fn open_marked(
        disk: Arc<dyn Disk>,
        name: &str,
        cache_bytes: usize,
        without: Without,
        marked_from: u64,
    ) -> Result<Self, JournalError> {
        Self::open_in(disk, name, cache_bytes, without, marked_from, None)
    }

    /// What can be read of a journal whose log may be damaged, and what of it is not sure. To be called on a disk that
    /// keeps the changes to itself ([`super::CowDisk`]).
    ///
    /// # Errors
    /// As [`Journal::open`], but for damaged frames of the log.
    pub(crate) fn open_damaged(
        disk: Arc<dyn Disk>,
        name: &str,
        cache_bytes: usize,
    ) -> Result<(Self, Doubts), JournalError> {
        let mut doubts = Doubts::default();
        let without = Without::default();
        let taken = Some(&mut doubts);
        let journal = Self::open_in(disk, name, cache_bytes, without, MARKED_FROM, taken)?;
        Ok((journal, doubts))
    }

    fn open_in(
        disk: Arc<dyn Disk>,
        name: &str,
        cache_bytes: usize,
        without: Without,
        marked_from: u64,
        doubts: Option<&mut Doubts>,
    ) -> Result<Self, JournalError> {
        let found = find(disk.as_ref(), name)?;
        // Nobody is there yet who could say that a wait for room has an end.
        let ended = Arc::new(AtomicBool::new(true));
        let place = Place {
            disk: Arc::clone(&disk),
            name: name.to_owned(),
            marked_from,
            ended: Arc::clone(&ended),
            without,
        };
        let (db, file) = match found {
            Some(file) => check::open(&file, &place, cache_bytes)?,
            // Under its name it is whole from the first moment: half of a new one would be taken for
            // a damaged one.
            None => {
                refuse_orphans(&place)?;
                Wal::create(&place)?;
                let new = format!("{name}.new");
                let file = JournalFile::new(disk.create(&new)?, place.clone());
                let db = guard(|| begin(Backend(Arc::clone(&file)), cache_bytes))?;
                disk.rename(&new, name)?;
                (db, file)
            }
        };
        let (table, since) = guard(|| first_look(&db))?;
        let (mut active, mut ops) = (Overlay::default(), 0);
        let (wal, end) = Wal::open(&place, since, doubts, |(key, value)| {
            active.put(key, value);
            ops += 1;
        })?;
        active.ops = ops;
        active.bytes = active.records.iter().map(|(k, v)| footprint(k, v)).sum();
        let counters = match active.records.get(&key::meta(COUNTERS)) {
            Some(Some(bytes)) => Counters::from_bytes(bytes)?,
            _ => counters(&table)?,
        };
        // The file's name is as durable as what is in it.
        if !without.lacks(Barrier::JournalName) {
            disk.sync_folder()?;
        }
        let journal = Self {
            db,
            wal,
            file,
            disk,
            without,
            patience: PATIENCE,
            ended,
            state: Mutex::new(State {
                active,
                frozen: None,
                table,
                counters,
                unlogged: Unlogged::default(),
                refused: None,
                next: since,
                base: since.generation,
                applied: 0,
                durable: 0,
                tabled: 0,
                committing: false,
                logging: false,
                attended: false,
                wanted: false,
                failed: None,
            }),
            committed: Condvar::new(),
            due: Condvar::new(),
            much: Condvar::new(),
            calls: Calls::default(),
            #[cfg(test)]
            longest_scan: std::sync::atomic::AtomicUsize::new(0),
            #[cfg(test)]
            longest_step: std::sync::atomic::AtomicUsize::new(0),
            #[cfg(test)]
            longest_batch: std::sync::atomic::AtomicUsize::new(0),
        };
        let is_read_whole = journal.file.is_marked() && !journal.file.is_trusted();
        if end.is_some() || is_read_whole {
            journal.take_over(end.unwrap_or(since.frame))?;
        }
        journal.ended.store(false, Ordering::Release);
        Ok(journal)
    }

    /// The record at `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, JournalError> {
        let table = {
            let state = self.lock();
            if let Some(found) = state.overlaid(key) {
                return Ok(found);
            }
            Arc::clone(&state.table)
        };
        read(&table, key)
    }

    /// The record at `key`, decoded.
    pub(crate) fn record<R: Record>(&self, key: &[u8]) -> Result<Option<R>, JournalError> {
        self.get(key)?
            .map(|bytes| R::from_bytes(&bytes))
            .transpose()
    }

    /// Up to `limit` records whose keys begin with `prefix`, behind `after` (a whole key), in order
    /// of keys. One moment's, where `limit` is all; else each of its steps is: see [`STEP`].
    pub(crate) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Key, Bytes)>, JournalError> {
        let mut range = bounds(prefix, after);
        let mut found = Vec::new();
        let most = limit.saturating_mul(2).max(STEP);
        loop {
            let until = self.scan_step(&range, limit, most, &mut found)?;
            match until {
                Some(until) if found.len() < limit => range.0 = Bound::Excluded(until),
                _ => break,
            }
        }
        #[cfg(test)]
        self.longest_scan.fetch_max(found.len(), Ordering::Relaxed);
        Ok(found)
    }

    /// Adds what there is of `range` to `found`, up to `limit`; looks at no more than `most` records of the overlay.
    /// Gives the key behind which the rest lies, if there may be more.
    fn scan_step(
        &self,
        range: &Range,
        limit: usize,
        most: usize,
        found: &mut Vec<(Key, Bytes)>,
    ) -> Result<Option<Key>, JournalError> {
        let mut top = Vec::new();
        let mut until = None;
        let (table, frozen) = {
            let state = self.lock();
            let mut live = found.len();
            for (key, value) in state.active.records.range::<[u8], _>(as_slices(range)) {
                top.push(Ok((key.clone(), value.clone())));
                live += usize::from(value.is_some());
                // Where there is enough no result lies behind this key, whatever lies below.
                if live >= limit || top.len() >= most {
                    until = Some(key.clone());
                    break;
                }
            }
            (Arc::clone(&state.table), state.frozen.clone())
        };
        #[cfg(test)]
        self.longest_step.fetch_max(top.len(), Ordering::Relaxed);
        let end = until.clone().map_or(range.1.clone(), Bound::Included);
        let range = (range.0.clone(), end);
        let left = limit - found.len();
        guard(|| {
            let bottom = records(&table, &range)?;
            let bottom = bottom.map(|item| item.map(|(key, record)| (key, Some(record))));
            let middle = frozen
                .iter()
                .flat_map(|layer| layer.records.range::<[u8], _>(as_slices(&range)))
                .map(|(key, value)| Ok((key.clone(), value.clone())));
            let live =
                merge(top.into_iter(), merge(middle, bottom)).filter_map(|item| match item {
                    Ok((key, value)) => value.map(|value| Ok((key, value))),
                    Err(error) => Some(Err(error)),
                });
            for item in live.take(left) {
                found.push(item?);
            }
            Ok(())
        })?;
        Ok(until)
    }

    /// Makes `batch` visible, all of it at once.
    ///
    /// # Errors
    /// The first error of a failed commit.
    pub fn apply(&self, batch: Batch) -> Result<(), JournalError> {
        let records = batch.puts.len();
        #[cfg(test)]
        self.longest_batch.fetch_max(records, Ordering::Relaxed);
        let mut state = self.lock();
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        for (key, value) in batch.puts {
            state.put(key, value);
        }
        for key in batch.marks {
            state.counters.version += 1;
            let version = Bytes::copy_from_slice(&state.counters.version.to_be_bytes());
            state.put(key, Some(version));
        }
        let counters = &mut state.counters;
        if let Some(adopted) = batch.adopted {
            counters.next_ino = counters.next_ino.max(adopted.next_ino);
            counters.used_bytes = adopted.used_bytes;
            counters.inodes = adopted.inodes;
        }
        counters.used_bytes = counters.used_bytes.saturating_add_signed(batch.used_delta);
        counters.inodes = counters.inodes.saturating_add_signed(batch.inodes_delta);
        state.applied += 1;
        state.active.ops += 1 + records / RECORDS;
        if state.active.is_due() {
            self.due.notify_one();
        }
        if state.unlogged.is_much() {
            self.much.notify_one();
        }
        drop(state);
        self.calls.call();
        Ok(())
    }

    /// Removes those marks that no change after `version` has renewed.
    pub(crate) fn unmark(&self, keys: &[Key], version: u64) -> Result<(), JournalError> {
        let old = |bytes: &[u8]| {
            bytes
                .try_into()
                .is_ok_and(|v| u64::from_be_bytes(v) <= version)
        };
        loop {
            let table = Arc::clone(&self.lock().table);
            let below: Vec<bool> = keys
                .iter()
                .map(|key| Ok(read(&table, key)?.is_some_and(|bytes| old(&bytes))))
                .collect::<Result<_, JournalError>>()?;
            let mut state = self.lock();
            if !Arc::ptr_eq(&state.table, &table) {
                continue; // what was read below may be renewed: look again
            }
            for (key, below) in keys.iter().zip(below) {
                let gone = match state.overlaid(key) {
                    Some(above) => above.is_some_and(|bytes| old(&bytes)),
                    None => below,
                };
                if gone {
                    state.put(key.clone(), None);
                }
            }
            state.applied += 1;
            state.active.ops += 1;
            drop(state);
            self.calls.call();
            return Ok(());
        }
    }

    /// A version that is given to nothing else.
    pub(crate) fn next_version(&self) -> u64 {
        let mut state = self.lock();
        state.counters.version += 1;
        state.counters.version
    }

    /// A new inode number.
    pub(crate) fn next_ino(&self) -> u64 {
        let mut state = self.lock();
        state.counters.next_ino += 1;
        state.counters.next_ino - 1
    }

    /// `count` new serial numbers of entries; gives the first.
    pub(crate) fn next_cookies(&self, count: u64) -> u64 {
        let mut state = self.lock();
        state.counters.next_cookie += count;
        state.counters.next_cookie - count
    }

    /// A new number for a stage file.
    pub(crate) fn next_stage(&self) -> u64 {
        let mut state = self.lock();
        state.counters.next_stage += 1;
        state.counters.next_stage - 1
    }

    /// Why the table gives nothing more, if a read of it failed: what is in memory is all that is known, and
    /// can still be made durable.
    pub(crate) fn unreadable(&self) -> Option<JournalError> {
        self.file.unreadable()
    }

    /// Where the last entry of the log lies, if a start found it not whole, and did not use it.
    pub(crate) fn unused(&self) -> Option<&str> {
        self.wal.unused()
    }

    /// The counters of this moment.
    pub(crate) fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// Bytes in memory that are not written yet.
    pub(crate) fn overlay_bytes(&self) -> u64 {
        let state = self.lock();
        (state.active.bytes + state.frozen.as_ref().map_or(0, |f| f.bytes)) as u64
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Journal {
    /// redb writes when it is closed: nobody could end a wait for room any more.
    fn drop(&mut self) {
        self.end();
    }
}

/// Refuses to begin anew beside a log that has something: no crash leaves it without its journal.
fn refuse_orphans(place: &Place) -> Result<(), JournalError> {
    for log in place.wal() {
        if find(place.disk.as_ref(), &log)?.is_some() {
            return Err(JournalError::Corrupt(format!(
                "{} is missing or empty, and {} beside it is not: put the file back from a copy, or move both away \
                 to begin without what they hold",
                place.called(&place.name),
                place.called(&log),
            )));
        }
    }
    Ok(())
}

/// The file `name`, if it is there and not empty.
fn find(disk: &dyn Disk, name: &str) -> Result<Option<Arc<dyn DiskFile>>, JournalError> {
    match disk.open(name) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => {
            let file = other?;
            Ok((file.len()? > 0).then_some(file))
        }
    }
}

/// A new journal.
fn begin(file: Backend, cache_bytes: usize) -> Result<Database, JournalError> {
    let db = Database::builder()
        .set_cache_size(cache_bytes)
        .create_with_backend(file)
        .map_err(check::unopened)?;
    let since = Since::first()?.to_bytes();
    let records = BTreeMap::from([(key::meta(SINCE), Some(since))]);
    table::write(&db, &records, false)?;
    Ok(db)
}

/// Opens the table, and reads where it says that the log goes on.
fn first_look(db: &Database) -> Result<(Arc<Table>, Since), JournalError> {
    let table = Arc::new(table::reader(db)?);
    match table::read(&table, &key::meta(SINCE))? {
        Some(bytes) => Ok((table, Since::from_bytes(&bytes)?)),
        None => Err(JournalError::Corrupt("the journal names no log".to_owned())),
    }
}

/// The counters in the table.
fn counters(table: &Table) -> Result<Counters, JournalError> {
    match table::read(table, &key::meta(COUNTERS))? {
        Some(bytes) => Counters::from_bytes(&bytes),
        None => Ok(Counters {
            version: 0,
            next_ino: 2,
            next_cookie: 3,
            next_stage: 1,
            used_bytes: 0,
            inodes: 0,
        }),
    }
}

impl State {
    fn put(&mut self, key: Key, value: Option<Bytes>) {
        self.unlogged.put(key.clone(), value.clone());
        self.active.put(key, value);
    }

    fn is_due(&self) -> bool {
        self.wanted || self.active.is_due()
    }

    /// What the overlays say of `key`: nothing, that it is gone, or its record.
    fn overlaid(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.active
            .records
            .get(key)
            .or_else(|| {
                self.frozen
                    .as_ref()
                    .and_then(|frozen| frozen.records.get(key))
            })
            .cloned()
    }
}
