//! One token's tree on this machine: its journal, stage, cache, files in use and quota.
//!
//! Invariant: every change is one batch in the journal; the quota in memory is the journal's
//! charge plus what files in use have grown since they were saved. The operations are in the
//! files beside this one: `lookup`, `create`, `remove`, `rename`, `attributes`, `io`.
//!
//! The order of locks is in [`super::locks`]. A writer may hold a content across local I/O, so nobody waits for one with the
//! names locked: what needs both takes the content first.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::FsError;
use super::cut::ActiveCut;
use super::files::{File, FileRef, Files, Left};
use super::limits::Limits;
use super::locks::{Memory, Names, Ordered, OrderedGuard};
use super::news::News;
use super::notes::Notes;
use super::places::Places;
use super::quota::{Access, Allowance, Quota, SharedQuota};
use super::removed::Removed;
use super::takeover::Takeover;
use super::unsaved::Unsaved;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::journal::record::Record;
use crate::journal::{Barrier, Batch, Disk, Journal, JournalError, Stage, Without, key};
use crate::types::{Ino, VolumeKey};

/// What the cache gives back where the disk is too full to open a volume.
const OPENING_BYTES: u64 = 512 << 20;

/// The journal's file.
pub(super) const JOURNAL: &str = "journal.redb";

/// How a volume is opened.
pub struct VolumeOptions {
    /// Which volume it is.
    pub key: VolumeKey,
    /// Page cache of the journal, bytes.
    pub journal_cache_bytes: usize,
    /// Owner and group of a new volume's root directory.
    pub owner: (u32, u32),
    /// What is left out, for tests: nothing.
    pub without: Without,
    /// How much of one file is dealt with at a time.
    pub limits: Limits,
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
    pub(super) journal: Arc<Journal>,
    notes: Notes,
    pub(super) stage: Stage,
    pub(super) without: Without,
    pub(super) limits: Limits,
    pub(super) cache: Arc<Cache>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) files: Files,
    pub(super) removed: Removed,
    /// Held by every operation that changes names or inodes (not content). Nothing waits for a disk under it
    /// but for pages of the journal, nor for a file's content.
    pub(super) names: Ordered<(), Names>,
    /// Where removed names were listed.
    pub(super) places: Ordered<Places, Memory>,
    pub(super) quota: SharedQuota,
    pub(super) unsaved: Unsaved,
    pub(super) cut: Ordered<Option<Arc<ActiveCut>>, Memory>,
    pub(super) ended: super::ahead::Ended,
    pub(super) listener: super::news::Listener,
    activity: Ordered<Option<Activity>, Memory>,
    /// Stage files that hold exactly a published content, with its CID and length.
    pub(super) adoptions: Ordered<super::adoptions::Adoptions, Memory>,
    /// Files with mapped pages that came when growth was refused.
    pub(super) late: Ordered<BTreeSet<Ino>, Memory>,
    /// Since when pages that were stored through mappings find no room on the disk.
    pub(super) want: Ordered<Option<super::late::Want>, Memory>,
    /// Access times that the journal does not have yet, ns.
    pub(super) accesses: Ordered<HashMap<Ino, i64>, Memory>,
    pub(super) labels: Ordered<super::report::Told, Memory>,
    pub(super) looks: Ordered<super::damage::Looks, Memory>,
    pub(super) room_waiters: AtomicUsize,
    pub(super) stopped: AtomicBool,
    /// Nothing is left to be kept durable: those who do that end.
    pub(super) resting: AtomicBool,
    pub(super) takeover: Takeover,
}

impl Volume {
    /// Opens the volume that `home` holds, or begins an empty one: the journal in its file
    /// `journal.redb`, the stage files on `stage`. Unlinked files and unmapped bytes that a crash left
    /// are removed.
    ///
    /// # Errors
    /// The journal cannot be opened or is damaged, or has gone from beside its stage files; the disk fails.
    pub fn open(
        home: Arc<dyn Disk>,
        stage: Arc<dyn Disk>,
        cache: Arc<Cache>,
        clock: Arc<dyn Clock>,
        options: &VolumeOptions,
    ) -> Result<Arc<Self>, JournalError> {
        let stage = Stage::new(stage, options.without);
        // Begun anew it would take them for what a crash has left.
        if !Journal::exists(home.as_ref(), JOURNAL)? && stage.has_files()? {
            return Err(JournalError::Corrupt(format!(
                "{JOURNAL} is missing or empty, and the stage beside it holds bytes that were not published: put \
                 the file back from a copy, or move the folder `stage` away to begin without them"
            )));
        }
        let journal = with_room(&cache, || {
            let (home, bytes) = (Arc::clone(&home), options.journal_cache_bytes);
            Journal::open(home, JOURNAL, bytes, options.without)
        })?;
        // Nobody can stop it yet, and what a crash has left may be more than the disk has room for.
        journal.end();
        if journal.get(&key::inode(Ino::ROOT))?.is_none() {
            super::recover::begin(&journal, options.owner, clock.wall_ns())?;
        }
        let volume = Self::with(journal, stage, cache, clock, options)?;
        with_room(&volume.cache, || {
            volume.recover(super::recover::Bounds::default())
        })?;
        volume.journal.begin();
        volume.quota.load_charges()?;
        volume.load_late()?;
        Ok(volume)
    }

    /// As the journal says, with nothing looked after yet.
    pub(super) fn with(
        journal: Journal,
        stage: Stage,
        cache: Arc<Cache>,
        clock: Arc<dyn Clock>,
        options: &VolumeOptions,
    ) -> Result<Arc<Self>, JournalError> {
        let journal = Arc::new(journal);
        let notes = Notes::of(&journal);
        Ok(Arc::new(Self {
            key: options.key,
            stage,
            without: options.without,
            limits: options.limits,
            cache,
            files: Files::default(),
            removed: Removed::default(),
            names: Ordered::default(),
            places: Ordered::default(),
            quota: SharedQuota::load(&journal, notes.clone(), Arc::clone(&clock))?,
            unsaved: Unsaved::default(),
            cut: Ordered::default(),
            ended: super::ahead::Ended::default(),
            listener: super::news::Listener::default(),
            activity: Ordered::default(),
            adoptions: Ordered::default(),
            late: Ordered::default(),
            accesses: Ordered::default(),
            labels: Ordered::new(Arc::new(super::report::Labels::default)),
            looks: Ordered::default(),
            room_waiters: AtomicUsize::new(0),
            want: Ordered::default(),
            stopped: AtomicBool::new(false),
            resting: AtomicBool::new(false),
            takeover: Takeover::default(),
            clock,
            journal,
            notes,
        }))
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
        self.quota.set_allowance(allowance)?;
        self.tell(News::Due);
        Ok(())
    }

    /// Opens or closes the volume for every change. One whose local sync has failed stays closed, and one
    /// that another tree is taking the place of until that has ended.
    pub fn set_access(&self, access: Access) {
        self.quota.set_access(access);
    }

    /// Looks at the quota.
    pub fn with_quota<T>(&self, look: impl FnOnce(&mut Quota) -> T) -> T {
        look(&mut self.quota())
    }

    /// Whether the sync is overdue by now.
    #[must_use]
    pub fn overdue(&self) -> bool {
        self.quota.is_overdue()
    }

    /// Seconds until growth is locked, where an allowance is known.
    #[must_use]
    pub fn seconds_left(&self) -> Option<u64> {
        self.quota().seconds_left(self.clock.as_ref())
    }

    /// When the volume was changed, if anything is unpublished.
    #[must_use]
    pub fn activity(&self) -> Option<Activity> {
        *self.activity.lock()
    }

    /// Why a failed local sync has made the volume read-only, if one has.
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        self.quota().failed().cloned()
    }

    /// What to tell of a log whose last entry a start found not whole, and did not use.
    #[must_use]
    pub fn torn_log(&self) -> Option<String> {
        let place = self.journal.unused()?;
        Some(format!(
            "the last entry of the log ({place}) was not whole at the start and was not used: a crash cut it off, or it \
             changed on the disk; look whether what you changed last is there, and check the disk"
        ))
    }

    /// A small value that the commit keeps beside the tree.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn meta<R: Record>(&self, name: &str) -> Result<Option<R>, FsError> {
        self.notes.value(name)
    }

    /// A small value as its bytes.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn raw_meta(&self, name: &str) -> Result<Option<bytes::Bytes>, FsError> {
        self.notes.bytes(name)
    }

    /// Keeps small values durably, all or none; `None` removes one.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn keep(&self, values: Vec<(&str, Option<bytes::Bytes>)>) -> Result<(), FsError> {
        self.note(values)?;
        if self.without.lacks(Barrier::Keep) {
            return Ok(());
        }
        let kept = self.sync_journal();
        self.sweep();
        kept
    }

    /// As [`Volume::keep`], durable with what is kept next.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn note(&self, values: Vec<(&str, Option<bytes::Bytes>)>) -> Result<(), FsError> {
        self.notes.store(values)
    }

    /// What publishing and billing store beside the tree.
    #[must_use]
    pub fn notes(&self) -> Notes {
        self.notes.clone()
    }

    /// Has `wake` called when there is something for [`Volume::keep_durable`], and nobody was called since that
    /// returned. It waits for nothing: locks are held meanwhile.
    pub fn on_change(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.journal.on_call(wake);
    }

    /// Ends [`Volume::keep_durable`].
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.journal.end();
    }

    /// Holds a regular file.
    pub(super) fn hold(&self, ino: Ino) -> Result<FileRef, FsError> {
        self.files.hold(ino, || self.load_body(ino))
    }

    /// The files without a name that are open and lie over published content. Waits for nobody.
    pub fn open_without_name(&self) -> Vec<Ino> {
        let files = self.files.orphans().into_iter();
        files
            .filter(|file| file.lies_over_published())
            .map(|file| file.ino)
            .collect()
    }

    /// Lets go of a file; the last user of an unlinked one removes it.
    pub(super) fn leave(&self, held: FileRef) {
        let ino = held.ino;
        let file = self.files.peek(ino);
        if self
            .files
            .leave(held, |file| self.quota.end_room(&file.account))
            == Left::Orphan
        {
            let stages = file.map_or_else(Vec::new, |file| file.body_mut().take_stages());
            if let Err(error) = self.purge(ino, stages.clone()) {
                tracing::warn!(%error, ino = ino.0, "an unlinked file could not be removed yet");
                self.unsaved.note_unlinked(ino, stages);
                self.journal.call();
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
        self.unsaved.note(ino);
        self.note_change();
        self.journal.call();
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
        for stage in &retired {
            for number in self.stage.take_patches(*stage) {
                batch.remove(key::patch(*stage, number));
            }
        }
        self.journal.apply(batch)?;
        if !retired.is_empty() {
            self.stage.retire(retired);
            self.journal.call();
        }
        Ok(())
    }

    /// What the cache can fetch again makes room for `bytes` on the disk of what is nowhere else, where it can.
    pub(super) fn give_way(&self, bytes: u64) {
        let folder = self.stage.folder();
        if folder.is_none_or(|folder| self.cache.shares_room(&folder)) {
            self.cache.give_way(bytes);
        }
    }

    /// Turns a failed write of local state into an error, and closes the volume for changes unless
    /// it was want of room.
    pub(super) fn poison(&self, error: JournalError) -> FsError {
        if !matches!(error, JournalError::NoRoom | JournalError::TooLarge) {
            let reason = format!("local state cannot be made durable ({error}); restart pxfs");
            self.quota().fail(reason);
        }
        error.into()
    }

    #[track_caller]
    pub(super) fn quota(&self) -> OrderedGuard<'_, Quota, Memory> {
        self.quota.lock()
    }

    #[track_caller]
    pub(super) fn lock_names(&self) -> OrderedGuard<'_, (), Names> {
        self.names.lock()
    }

    pub(super) fn active_cut(&self) -> Option<Arc<ActiveCut>> {
        self.cut.lock().clone()
    }

    /// Nothing is unpublished since `since` saw the last change: there is no activity any more.
    pub(super) fn note_published(&self, since: Option<Activity>) {
        let mut activity = self.activity.lock();
        if *activity == since {
            *activity = None;
        } else if let (Some(now), Some(before)) = (activity.as_mut(), since) {
            now.first = now.first.max(before.last);
        }
    }

    pub(super) fn note_change(&self) {
        let now = self.clock.boottime();
        let before = {
            let mut activity = self.activity.lock();
            let first = activity.map_or(now, |a| a.first);
            activity.replace(Activity { first, last: now })
        };
        if before.is_none() {
            self.tell(News::Due);
        }
    }
}

/// Does `work`, once more where the disk had no room for it: what can be fetched again makes room for what is nowhere
/// else.
fn with_room<T>(
    cache: &Cache,
    work: impl Fn() -> Result<T, JournalError>,
) -> Result<T, JournalError> {
    match work() {
        Err(JournalError::NoRoom) => {
            cache.give_way(OPENING_BYTES);
            work()
        }
        done => done,
    }
}

impl From<JournalError> for FsError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::NoRoom => Self::NoRoom,
            JournalError::TooLarge => Self::TooLarge,
            JournalError::Disk(what) => Self::Disk(what),
            JournalError::Corrupt(what) => Self::Damaged(what),
        }
    }
}
