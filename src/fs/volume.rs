//! One token's tree on this machine: its journal, stage, cache, files in use and quota.
//!
//! Invariant: every change is one batch in the journal; the quota in memory is the journal's
//! charge plus what files in use have grown since they were saved. The operations are in the
//! files beside this one: `lookup`, `create`, `remove`, `rename`, `attributes`, `io`.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use super::body::{Body, Saved};
use super::cut::ActiveCut;
use super::files::{File, FileRef, Files, Left};
use super::quota::{Access, Allowance, Quota};
use super::{FsError, Kind};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::journal::record::{Content, Directory, Inode, Record};
use crate::journal::{Batch, Disk, Journal, JournalError, Stage, key};
use crate::pack::charge::{VOLUME_OVERHEAD, file_charge};
use crate::pack::chunk::CHUNK_SIZE;
use crate::types::{Ino, VolumeKey};

/// Local room that is never given to new data, in bytes: the journal needs it to go on.
const SPARE_BYTES: u64 = 8 << 20;

/// How long a writer waits for local room, and how many may wait at once.
const ROOM_WAIT: Duration = Duration::from_secs(3);
const ROOM_WAITERS: usize = 2;

/// How a volume is opened.
pub struct VolumeOptions {
    /// Which volume it is.
    pub key: VolumeKey,
    /// Page cache of the journal, bytes.
    pub journal_cache_bytes: usize,
    /// Owner and group of a new volume's root directory.
    pub owner: (u32, u32),
}

/// When a volume was changed, by [`Clock::boottime`]; `None` when nothing is unpublished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// The first change that is not published.
    pub first: Duration,
    /// The last change.
    pub last: Duration,
}

/// One token's tree.
pub struct Volume {
    pub(super) key: VolumeKey,
    pub(super) journal: Journal,
    pub(super) stage: Stage,
    pub(super) cache: Arc<Cache>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) files: Files,
    /// Held by every operation that changes names or inodes (not content): see `files` for the
    /// order of locks. Nothing waits for a disk under it but for pages of the journal.
    pub(super) names: Mutex<()>,
    pub(super) quota: Mutex<Quota>,
    /// Files whose content differs from the journal.
    unsaved: Mutex<HashSet<Ino>>,
    pub(super) cut: RwLock<Option<Arc<ActiveCut>>>,
    activity: Mutex<Option<Activity>>,
    /// Stage files that hold exactly a published content, with its CID and length.
    pub(super) adoptions: Mutex<HashMap<u64, (cid::Cid, u64)>>,
    pub(super) labels: Mutex<super::report::Labels>,
    room_waiters: AtomicUsize,
    stopped: AtomicBool,
    /// Why the volume takes nothing any more: a local sync failed.
    poison: Mutex<Option<String>>,
}

impl Volume {
    /// Opens the volume that `folder` holds, or begins an empty one: the journal as
    /// `folder/journal.redb`, the stage on `disk`. Unlinked files and unmapped bytes that a crash
    /// left are removed.
    ///
    /// # Errors
    /// The journal cannot be opened or is damaged; the disk fails.
    pub fn open(
        folder: &Path,
        disk: Arc<dyn Disk>,
        cache: Arc<Cache>,
        clock: Arc<dyn Clock>,
        options: &VolumeOptions,
    ) -> Result<Arc<Self>, JournalError> {
        let journal = Journal::open(&folder.join("journal.redb"), options.journal_cache_bytes)?;
        if journal.get(&key::inode(Ino::ROOT))?.is_none() {
            begin(&journal, options.owner, clock.wall_ns())?;
        }
        let allowance = journal.record::<Allowance>(&key::meta("allowance"))?;
        let volume = Arc::new(Self {
            key: options.key,
            stage: Stage::new(disk),
            cache,
            clock,
            files: Files::default(),
            names: Mutex::new(()),
            quota: Mutex::new(Quota::new(allowance, 0)),
            unsaved: Mutex::default(),
            cut: RwLock::new(None),
            activity: Mutex::new(None),
            adoptions: Mutex::default(),
            labels: Mutex::default(),
            room_waiters: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            poison: Mutex::new(None),
            journal,
        });
        volume.recover()?;
        Ok(volume)
    }

    /// Which volume this is.
    #[must_use]
    pub fn key(&self) -> VolumeKey {
        self.key
    }

    /// Takes a newer allowance and keeps it, so that it holds offline and after a restart too.
    ///
    /// # Errors
    /// The journal takes nothing.
    pub fn set_allowance(&self, allowance: &Allowance) -> Result<(), FsError> {
        self.quota().set_allowance(allowance.clone());
        let mut batch = Batch::default();
        batch.put(key::meta("allowance"), allowance);
        self.journal.apply(batch)?;
        Ok(())
    }

    /// Opens or closes the volume for every change.
    pub fn set_access(&self, access: Access) {
        self.quota().set_access(access);
    }

    /// Looks at the quota.
    pub fn with_quota<T>(&self, look: impl FnOnce(&mut Quota) -> T) -> T {
        look(&mut self.quota())
    }

    /// Whether the sync is overdue by now.
    #[must_use]
    pub fn overdue(&self) -> bool {
        self.quota().overdue(self.clock.as_ref())
    }

    /// When the volume was changed, if anything is unpublished.
    #[must_use]
    pub fn activity(&self) -> Option<Activity> {
        *lock(&self.activity)
    }

    /// Why a failed local sync has made the volume read-only, if one has.
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        lock(&self.poison).clone()
    }

    /// A small value that the commit keeps beside the tree.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub(crate) fn meta<R: Record>(&self, name: &str) -> Result<Option<R>, FsError> {
        Ok(self.journal.record(&key::meta(name))?)
    }

    /// A small value as its bytes.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub(crate) fn raw_meta(&self, name: &str) -> Result<Option<bytes::Bytes>, FsError> {
        Ok(self.journal.get(&key::meta(name))?)
    }

    /// Keeps small values durably, all or none; `None` removes one.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(crate) fn keep(&self, values: Vec<(&str, Option<bytes::Bytes>)>) -> Result<(), FsError> {
        let mut batch = Batch::default();
        for (name, value) in values {
            match value {
                Some(bytes) => batch.put_bytes(key::meta(name), bytes),
                None => batch.remove(key::meta(name)),
            }
        }
        self.journal.apply(batch)?;
        self.sync_journal()
    }

    /// Saves every changed file and makes everything acknowledged so far durable.
    ///
    /// # Errors
    /// A local disk failed: the volume is poisoned, what was not durable may be lost.
    pub fn sync(&self) -> Result<(), FsError> {
        let unsaved: Vec<Ino> = lock(&self.unsaved).iter().copied().collect();
        let workers = unsaved.len().div_ceil(16).clamp(1, 4);
        let next = AtomicUsize::new(0);
        let run = || {
            while let Some(ino) = unsaved.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.save_known(*ino)?;
            }
            Ok(())
        };
        if workers == 1 {
            run()?;
        } else {
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..workers).map(|_| scope.spawn(run)).collect();
                all.into_iter().try_for_each(|worker| {
                    worker
                        .join()
                        .unwrap_or(Err(FsError::Disk("a worker died".to_owned())))
                })
            })?;
        }
        self.sync_journal()
    }

    /// Commits the journal, then removes the stage files that it durably let go of.
    pub(super) fn sync_journal(&self) -> Result<(), FsError> {
        let retired = self.stage.take_retired();
        if let Err(error) = self.journal.sync() {
            self.stage.retire(retired);
            return Err(self.poison(error));
        }
        // A cut may still read what the tree has let go of.
        if self.active_cut().is_some() {
            self.stage.retire(retired);
        } else {
            self.let_go(&retired);
        }
        Ok(())
    }

    /// Stage files whose last reference is durably gone: whole published contents go into the
    /// cache, the rest is removed.
    fn let_go(&self, retired: &[u64]) {
        for number in retired {
            let adopted = lock(&self.adoptions).remove(number);
            let (Some((cid, size)), Some(path)) = (adopted, self.stage.path(*number)) else {
                continue;
            };
            // Bytes behind the end were cut off in the records alone.
            if self
                .stage
                .get(*number)
                .and_then(|file| file.set_len(size))
                .is_ok()
            {
                self.cache.adopt_file(&cid, size, &path);
            }
        }
        self.stage.sweep(retired);
    }

    /// Keeps the journal and the stage going until [`Volume::stop`]: writes batches as they fill,
    /// and makes everything durable within 5 s. To be run on a thread of its own.
    pub fn keep_durable(&self) {
        let mut synced = self.clock.boottime();
        while !self.stopped.load(Ordering::Acquire) {
            if let Err(error) = self.journal.drain(Duration::from_millis(250)) {
                self.poison(error);
                return;
            }
            let now = self.clock.boottime();
            if now.saturating_sub(synced) >= Duration::from_secs(3) {
                synced = now;
                if let Err(error) = self.sync() {
                    tracing::error!(%error, token = %self.key.token.token, "local state cannot be made durable");
                    if self.poisoned().is_some() {
                        return;
                    }
                }
            }
        }
    }

    /// Ends [`Volume::keep_durable`].
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Holds a regular file.
    pub(super) fn hold(&self, ino: Ino) -> Result<FileRef, FsError> {
        self.files.hold(ino, || self.load_body(ino))
    }

    /// Lets go of a file; the last user of an unlinked one removes it.
    pub(super) fn leave(&self, held: FileRef) {
        let ino = held.ino;
        let file = self.files.peek(ino);
        if self.files.leave(held) == Left::Orphan {
            let stages = file.map_or_else(Vec::new, |file| file.body_mut().take_stages());
            if let Err(error) = self.purge(ino, stages) {
                tracing::warn!(%error, ino = ino.0, "an unlinked file could not be removed; the next start will");
            }
        }
    }

    /// Runs `change` on a held file.
    pub(super) fn with_file<T>(
        &self,
        ino: Ino,
        change: impl FnOnce(&File) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let held = self.hold(ino)?;
        let result = change(&held);
        self.leave(held);
        result
    }

    /// Remembers that a file's content differs from the journal.
    pub(super) fn note_unsaved(&self, ino: Ino) {
        lock(&self.unsaved).insert(ino);
        self.note_change();
    }

    /// Applies a change of the tree.
    pub(super) fn apply(&self, batch: Batch) -> Result<(), FsError> {
        self.apply_quietly(batch)?;
        self.note_change();
        Ok(())
    }

    /// Applies what is no change to publish.
    pub(super) fn apply_quietly(&self, mut batch: Batch) -> Result<(), FsError> {
        let retired = batch.take_retired();
        self.journal.apply(batch)?;
        self.stage.retire(retired);
        Ok(())
    }

    /// Saves `ino` if it is in use: its bytes first, then its record.
    fn save_known(&self, ino: Ino) -> Result<(), FsError> {
        let Some(held) = self.files.hold_known(ino) else {
            lock(&self.unsaved).remove(&ino);
            return Ok(());
        };
        let result = self.save(&held);
        self.leave(held);
        result
    }

    /// Makes the bytes of a held file durable, then puts its record into the journal (in memory:
    /// the caller commits).
    pub(super) fn save(&self, file: &File) -> Result<(), FsError> {
        let _one = lock(&file.saving);
        lock(&self.unsaved).remove(&file.ino);
        if self.files.is_orphan(file.ino) {
            return Ok(());
        }
        let saved = {
            let mut body = file.body_mut();
            if !body.unsaved {
                return Ok(());
            }
            body.save()
        };
        if let Some(stage) = &saved.stage {
            if let Err(error) = self.stage.sync(stage) {
                file.body_mut().unsaved = true;
                return Err(self.poison(error));
            }
        }
        self.put_content(file.ino, saved)
    }

    /// Sets the times of a held file: saved at once where all else is, else with the next save.
    pub(super) fn set_times(
        &self,
        file: &File,
        mtime_ns: i64,
        ctime_ns: i64,
    ) -> Result<(), FsError> {
        let saving = file.saving.try_lock();
        let saved = {
            let mut body = file.body_mut();
            let all_else_is_saved = !body.unsaved && saving.is_ok();
            (body.mtime_ns, body.ctime_ns) = (mtime_ns, ctime_ns);
            body.unsaved = true;
            // No byte was written since the last save, so none is waited for.
            (all_else_is_saved && !self.files.is_orphan(file.ino)).then(|| body.save())
        };
        match saved {
            Some(saved) => self.put_content(file.ino, saved),
            None => {
                self.note_unsaved(file.ino);
                Ok(())
            }
        }
    }

    fn put_content(&self, ino: Ino, saved: Saved) -> Result<(), FsError> {
        let mut batch = Batch::default();
        batch.put(key::content(ino), &saved.content);
        for (index, chunk) in &saved.chunks {
            batch.put(key::chunk(ino, *index), chunk);
        }
        for index in saved.dropped {
            batch.remove(key::chunk(ino, index));
        }
        if saved.content.version != saved.content.published {
            batch.mark(key::dirty_inode(ino));
        }
        batch.charge(saved.charge_delta);
        batch.retire(saved.retired);
        self.apply_quietly(batch)
    }

    /// Removes the records of an unlinked file, and lets go of its stage file.
    pub(super) fn purge(&self, ino: Ino, stages: Vec<u64>) -> Result<(), FsError> {
        let mut batch = Batch::default();
        if let Some(content) = self.journal.record::<Content>(&key::content(ino))? {
            batch.charge(-signed(content_charge(&content)));
            batch.retire(content.stage);
        }
        batch.retire(stages);
        for (found, _) in self.journal.scan(&key::chunks(ino), None, usize::MAX)? {
            batch.remove(found);
        }
        let inode: Option<Inode> = self.journal.record(&key::inode(ino))?;
        if !inode.is_some_and(|inode| inode.hard) {
            batch.remove(key::dirty_inode(ino));
        }
        batch.remove(key::content(ino));
        batch.remove(key::inode(ino));
        batch.remove(key::orphan(ino));
        self.apply_quietly(batch)
    }

    /// Waits, within a bound, until the local disk has room for `len` more bytes.
    pub(super) fn check_room(&self, len: u64) -> Result<(), FsError> {
        let needed = SPARE_BYTES + len + 3 * self.journal.overlay_bytes();
        let has_room = || Ok::<bool, FsError>(self.stage.free_bytes()? >= needed);
        if has_room()? {
            return Ok(());
        }
        let waiting = self.room_waiters.fetch_add(1, Ordering::AcqRel);
        let step = Duration::from_millis(100);
        let mut waited = Duration::ZERO;
        let result = loop {
            if waiting >= ROOM_WAITERS || waited >= ROOM_WAIT {
                break Err(FsError::NoRoom);
            }
            std::thread::sleep(step);
            waited += step;
            match has_room() {
                Ok(false) => {}
                Ok(true) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.room_waiters.fetch_sub(1, Ordering::AcqRel);
        result
    }

    /// Turns a failed write of local state into an error, and closes the volume for changes unless
    /// it was want of room.
    pub(super) fn poison(&self, error: JournalError) -> FsError {
        if error != JournalError::NoRoom {
            let reason = format!("local state cannot be made durable ({error}); restart pxfs");
            lock(&self.poison).get_or_insert_with(|| reason.clone());
            self.set_access(Access::ReadOnly(reason));
        }
        error.into()
    }

    pub(super) fn quota(&self) -> MutexGuard<'_, Quota> {
        lock(&self.quota)
    }

    pub(super) fn lock_names(&self) -> MutexGuard<'_, ()> {
        lock(&self.names)
    }

    pub(super) fn active_cut(&self) -> Option<Arc<ActiveCut>> {
        self.cut
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Nothing is unpublished since `since` saw the last change: there is no activity any more.
    pub(super) fn note_published(&self, since: Option<Activity>) {
        let mut activity = lock(&self.activity);
        if *activity == since {
            *activity = None;
        } else if let (Some(now), Some(before)) = (activity.as_mut(), since) {
            now.first = now.first.max(before.last);
        }
    }

    fn note_change(&self) {
        let now = self.clock.boottime();
        let mut activity = lock(&self.activity);
        let first = activity.map_or(now, |a| a.first);
        *activity = Some(Activity { first, last: now });
    }

    fn load_body(&self, ino: Ino) -> Result<Body, FsError> {
        let content = self
            .journal
            .record::<Content>(&key::content(ino))?
            .ok_or(FsError::NotFound)?;
        let mut chunks = Vec::new();
        for (key, bytes) in self.journal.scan(&key::chunks(ino), None, usize::MAX)? {
            if let Some(index) = key::parse_second(&key) {
                chunks.push((index, Record::from_bytes(&bytes)?));
            }
        }
        let stage = content
            .stage
            .map(|number| self.stage.get(number))
            .transpose()?;
        Ok(Body::from_record(&content, chunks, stage))
    }

    /// What a crash left behind goes: unlinked files, stage files and parts of them that no record
    /// names.
    fn recover(&self) -> Result<(), JournalError> {
        for (found, _) in self.journal.scan(&key::orphans(), None, usize::MAX)? {
            if let Some(ino) = key::parse_ino(&found) {
                self.purge(ino, Vec::new())
                    .map_err(|e| JournalError::Corrupt(e.to_string()))?;
            }
        }
        let mut wanted: HashMap<u64, u64> = HashMap::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let some = self
                .journal
                .scan(&key::dirty_inodes(), after.as_deref(), 1024)?;
            for (found, _) in &some {
                let Some(ino) = key::parse_ino(found) else {
                    continue;
                };
                if let Some(content) = self.journal.record::<Content>(&key::content(ino))? {
                    if let Some(stage) = content.stage {
                        wanted.insert(stage, self.mapped_len(ino)?);
                    }
                }
            }
            match some.last() {
                Some((last, _)) => after = Some(last.clone()),
                None => break,
            }
        }
        self.stage.recover(&wanted)?;
        self.journal.sync()?;
        self.quota()
            .adjust(signed(self.journal.counters().used_bytes));
        let dirty = !self.journal.scan(&key::dirty_inodes(), None, 1)?.is_empty()
            || !self
                .journal
                .scan(&key::dirty_entries(), None, 1)?
                .is_empty();
        if dirty {
            self.note_change();
        }
        Ok(())
    }

    /// One more than the last byte of a stage file that a record names.
    fn mapped_len(&self, ino: Ino) -> Result<u64, JournalError> {
        let mut end = 0;
        for (found, bytes) in self.journal.scan(&key::chunks(ino), None, usize::MAX)? {
            let chunk: crate::journal::record::Chunk = Record::from_bytes(&bytes)?;
            if let (Some(index), Some(&(_, last))) =
                (key::parse_second(&found), chunk.ranges.last())
            {
                end = end.max(index * CHUNK_SIZE + u64::from(last));
            }
        }
        Ok(end)
    }
}

/// The first records of a new volume: its root directory, and nothing in it.
fn begin(journal: &Journal, owner: (u32, u32), now_ns: i64) -> Result<(), JournalError> {
    let root = Inode {
        kind: Kind::Directory as u8,
        mode: 0o755,
        uid: owner.0,
        gid: owner.1,
        nlink: 2,
        rdev: 0,
        mtime_ns: now_ns,
        ctime_ns: now_ns,
        birth_ns: now_ns,
        hard: false,
        target: Vec::new(),
        xattrs: Vec::new(),
    };
    let mut batch = Batch::default();
    batch.put(key::inode(Ino::ROOT), &root);
    batch.put(
        key::directory(Ino::ROOT),
        &Directory {
            loaded: true,
            published: None,
        },
    );
    batch.charge(signed(VOLUME_OVERHEAD));
    batch.count_inodes(1);
    journal.apply(batch)?;
    journal.sync()
}

/// Nominal bytes of a content record.
pub(super) fn content_charge(content: &Content) -> u64 {
    let holes: crate::pack::holes::Holes = content.holes.iter().map(|&(s, e)| s..e).collect();
    file_charge(content.size, holes.whole(content.size))
}

pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<JournalError> for FsError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::NoRoom => Self::NoRoom,
            JournalError::Disk(what) => Self::Disk(what),
            JournalError::Corrupt(what) => Self::Damaged(what),
        }
    }
}
