//! Making local state durable: bytes first, then the records that name them, then what the records
//! let go of.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::FsError;
use super::emptied::REWRITE;
use super::files::File;
use super::volume::Volume;
use crate::journal::{Barrier, JournalError};
use crate::types::Ino;

/// Time between two saves in the background: with [`REWRITE`] less than the 5 s that are promised.
const SAVE_EACH: Duration = Duration::from_millis(2500);
/// How long names, and what is saved already, wait for the bytes of a large file.
const COMMIT_EACH: Duration = Duration::from_secs(1);
/// Time between two commits of the table for the sake of rest, at least: when nothing has changed for a while and
/// nothing is unpublished, or for so long with something that is.
const REST_EACH: Duration = Duration::from_secs(15);
const LONG_REST: Duration = Duration::from_secs(60);
/// Files that are saved at a time.
const WORKERS: usize = 4;
/// How often so many are while the disk is slow to take those before.
const ROUNDS: usize = 8;
/// Time between two looks whether the save has ended.
const SAVE_STEP: Duration = Duration::from_millis(2);
/// Stage files that wait to be removed at most, before a commit does it: 8 bytes of memory each.
const MOST_GONE: usize = 65_536;
/// How often the background looks whether there is something to do.
pub(super) const STEP: Duration = Duration::from_millis(250);

/// Free bytes of the disk that the journal is never to miss while the cache has some.
const KEPT_ROOM: u64 = 128 << 20;

/// How long access times stay in memory alone.
const ACCESSES: Duration = Duration::from_secs(60);

impl Volume {
    /// Saves every changed file and makes everything acknowledged so far durable. Waits a little for
    /// files that are being written anew.
    ///
    /// # Errors
    /// A local disk failed: the volume is poisoned, what was not durable may be lost.
    pub fn sync(&self) -> Result<(), FsError> {
        let accesses = self.save_accesses();
        let saved = self.save_all(REWRITE);
        let synced = self.sync_journal();
        self.sweep();
        synced.and(saved).and(accesses)
    }

    /// Saves every changed file: bytes first, then records; several files at a time. One that is
    /// being written anew is waited for, at most for `patience`, or left to the next time where that
    /// is zero. The first error is told when all have been tried.
    fn save_all(&self, patience: Duration) -> Result<(), FsError> {
        self.save_each(&self.unsaved(), patience)
    }

    pub(super) fn unsaved(&self) -> Vec<Ino> {
        self.unsaved.files()
    }

    /// As [`Volume::save_all`], for these files.
    pub(super) fn save_each(&self, unsaved: &[Ino], patience: Duration) -> Result<(), FsError> {
        let next = AtomicUsize::new(0);
        let run = || {
            let mut all = Ok(());
            while let Some(ino) = unsaved.get(next.fetch_add(1, Ordering::Relaxed)) {
                all = all.and(self.save_known(*ino, patience));
            }
            all
        };
        std::thread::scope(|scope| {
            let others = 1..unsaved.len().min(WORKERS);
            let others: Vec<_> = others.map_while(|_| spawn(scope, "saving", run)).collect();
            let own = run();
            let ended = |worker: Worker<'_>| worker.join().unwrap_or_else(|_| Err(self.died()));
            others.into_iter().map(ended).fold(own, Result::and)
        })
    }

    /// Commits the journal. The stage files that it durably let go of are left to [`Volume::sweep`]:
    /// removing a large one takes longer than all else that an `fsync` waits for.
    pub(super) fn sync_journal(&self) -> Result<(), FsError> {
        self.commit_journal(false)
    }

    fn commit_journal(&self, patiently: bool) -> Result<(), FsError> {
        let looked = self.save_owing()?;
        let retired = self.stage.take_retired();
        if self.without.lacks(Barrier::RecordsFirst) && self.active_cut().is_none() {
            self.let_go(&retired);
        }
        let committed = if patiently {
            self.journal.sync_patiently()
        } else {
            self.journal.sync()
        };
        if let Err(error) = committed {
            self.stage.retire(retired);
            return Err(self.poison(error));
        }
        if self.stage.note_gone(retired) >= MOST_GONE {
            self.sweep();
        }
        // What was acknowledged is durable; who cannot read what is there can change nothing of it.
        match self.journal.unreadable() {
            Some(error) => Err(self.poison(error)),
            None => looked,
        }
    }

    /// Removes the stage files that the journal has durably let go of, but for those that a cut may still
    /// read. For the background, and for calls that take their time anyway.
    pub(super) fn sweep(&self) {
        let mut gone = self.stage.take_gone();
        if gone.is_empty() {
            return;
        }
        // A cut that begins after this look does not know them.
        if let Some(cut) = self.active_cut() {
            let read = gone.extract_if(.., |stage| cut.may_read(*stage));
            self.stage.hold_gone(read);
            self.journal.call();
        }
        self.let_go(&gone);
    }

    /// Stage files whose last reference is durably gone: whole published contents go into the
    /// cache, the rest is removed.
    fn let_go(&self, retired: &[u64]) {
        for number in retired {
            let Some((cid, size)) = self.adoptions.lock().remove(*number) else {
                continue;
            };
            // Bytes behind the end were cut off in the records alone.
            let cut = self.stage.get(*number).and_then(|file| {
                file.set_len(size)?;
                self.stage.sync_patched(&file)
            });
            if let (Ok(()), Some(path)) = (cut, self.stage.path(*number)) {
                self.cache.adopt_file(&cid, size, &path);
            }
        }
        self.stage.sweep(retired);
    }

    /// Keeps the journal and the stage going while there is something to keep, and until [`Volume::stop`]: writes
    /// batches as they fill, and makes everything durable within 5 s. To be run on a thread of its own, when
    /// [`Volume::on_change`] calls for it.
    pub fn keep_durable(&self) {
        loop {
            self.resting.store(false, Ordering::Release);
            self.keep_going();
            // What is poisoned takes nothing any more that could be kept.
            let is_over = self.stopped.load(Ordering::Acquire) || self.poisoned().is_some();
            if is_over || !self.journal.goes_on(|| self.has_something_to_keep()) {
                return;
            }
        }
    }

    /// What [`Volume::keep_durable`] does again and again, once, for who has no thread to give for that.
    pub fn keep_once(&self) {
        self.guard(|volume| {
            if let Err(error) = volume.save_changed() {
                volume.tell_undurable(&error);
            }
            volume.purge_left();
        });
    }

    /// Ends it, behind [`Volume::stop`]: the next start has nothing to read.
    pub fn end_keeping(&self) {
        self.sweep();
        if let Err(error) = self.journal.rest() {
            tracing::debug!(%error, "the next start reads what the log has");
        }
    }

    fn tell_undurable(&self, error: &FsError) {
        let token = self.key.token.token;
        tracing::error!(%error, %token, "local state cannot be made durable");
    }

    /// Whether anything is in memory, in the log or on the stage that is not where it is to stay.
    fn has_something_to_keep(&self) -> bool {
        self.unsaved.has_any()
            || !self.accesses.lock().is_empty()
            || self.stage.has_gone()
            || !self.journal.is_at_rest()
    }

    /// Whether there is nothing left to be kept.
    #[cfg(any(test, feature = "testing"))]
    pub fn is_kept(&self) -> bool {
        !self.has_something_to_keep()
    }

    /// Whether all that was applied is durable, and nothing waits to be saved.
    #[cfg(any(test, feature = "testing"))]
    pub fn is_durable(&self) -> bool {
        self.unsaved().is_empty() && self.journal.is_durable()
    }

    /// Whether those who keep the volume durable end.
    pub(super) fn is_over(&self) -> bool {
        self.stopped.load(Ordering::Acquire) || self.resting.load(Ordering::Acquire)
    }

    fn keep_going(&self) {
        std::thread::scope(|scope| {
            let mut missing: Vec<Helper> = vec![
                ("draining", Self::keep_draining),
                ("logging", Self::keep_logging),
                ("ahead", Self::keep_ahead),
            ];
            // Until the system has threads to give for these, calls and saves do what cannot wait of it.
            let complete = || {
                missing
                    .retain(|&(name, work)| spawn(scope, name, move || self.guard(work)).is_none());
            };
            self.guard(|volume| volume.keep_saving(complete));
            self.resting.store(true, Ordering::Release);
        });
    }

    /// Does what keeps the volume durable. Where that ends in a panic nothing is kept any more, and that is told.
    fn guard(&self, work: impl FnOnce(&Self)) {
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            self.died();
            self.journal.unattend();
        }
    }

    /// A thread that makes something durable has ended in a panic: nobody knows how far it was.
    pub(super) fn died(&self) -> FsError {
        self.poison(JournalError::Disk("a worker died".to_owned()))
    }

    /// Gives back the room of what is not needed any more, and has what is written much of on its way to the disk
    /// before somebody waits for it. It waits for no room itself.
    fn keep_ahead(&self) {
        while !self.is_over() {
            std::thread::sleep(STEP);
            self.sweep();
            self.make_room();
            if let Err(error) = self.stage.sync_ahead() {
                self.poison(error);
                break;
            }
        }
    }

    fn keep_saving(&self, mut complete: impl FnMut()) {
        let mut synced = self.clock.boottime();
        let mut accesses_saved = synced;
        let (mut applied, mut changed, mut rested) = (0, synced, None);
        while !self.stopped.load(Ordering::Acquire) && self.has_something_to_keep() {
            complete();
            std::thread::sleep(STEP);
            if self.poisoned().is_some() {
                return;
            }
            let now = self.clock.boottime();
            if now.saturating_sub(synced) >= SAVE_EACH {
                synced = now;
                let accesses = match now.saturating_sub(accesses_saved) {
                    since if since < ACCESSES => Ok(()),
                    _ => {
                        accesses_saved = now;
                        self.save_accesses()
                    }
                };
                if let Err(error) = self.save_changed().and(accesses) {
                    self.tell_undurable(&error);
                    if self.poisoned().is_some() {
                        return;
                    }
                }
                self.purge_left();
                let before = std::mem::replace(&mut applied, self.journal.applied());
                if applied != before {
                    changed = now;
                }
                let since = |at| now.saturating_sub(at);
                let is_quiet =
                    applied == before && (self.activity().is_none() || since(changed) >= LONG_REST);
                if is_quiet && rested.is_none_or(|at| since(at) >= REST_EACH) {
                    match self.journal.rest() {
                        Ok(true) => rested = Some(now),
                        Ok(false) => {}
                        Err(error) => {
                            self.poison(error);
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Where the disk is so full that the journal's own writes would wait, what can be fetched again goes.
    fn make_room(&self) {
        match self.stage.free_bytes() {
            Ok(free) if free < KEPT_ROOM => self.give_way(KEPT_ROOM - free),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the disk does not say how full it is"),
        }
    }

    /// What [`Volume::keep_durable`] does again and again. Names, and files that are saved, do not wait for the bytes
    /// of others, nor do files that are changed while the disk is slow to take those; nor does one that cannot be
    /// saved keep the rest from it.
    pub(super) fn save_changed(&self) -> Result<(), FsError> {
        let saved = std::thread::scope(|scope| {
            let Some(first) = spawn(scope, "saving", || self.save_all(Duration::ZERO)) else {
                return self.save_all(Duration::ZERO);
            };
            let (mut rounds, mut saved) = (vec![first], Ok(()));
            let mut begun = Instant::now();
            let mut committed = begun;
            while !rounds.is_empty() {
                std::thread::sleep(SAVE_STEP);
                for ended in rounds.extract_if(.., |round| round.is_finished()) {
                    saved = saved.and(ended.join().unwrap_or_else(|_| Err(self.died())));
                }
                if committed.elapsed() >= COMMIT_EACH {
                    self.commit_journal(true)?;
                    self.sweep();
                    committed = Instant::now();
                }
                if begun.elapsed() >= SAVE_EACH && !rounds.is_empty() && rounds.len() < ROUNDS {
                    self.purge_left();
                    rounds.extend(spawn(scope, "saving", || self.save_others()));
                    begun = Instant::now();
                }
            }
            saved
        });
        let committed = self.commit_journal(true);
        self.sweep();
        committed.and(saved)
    }

    /// Saves the changed files that nobody is saving: what others wait for may take long.
    fn save_others(&self) -> Result<(), FsError> {
        let mut unsaved = self.unsaved();
        let is_free = |file: &File| file.saving.try_lock().is_some();
        unsaved.retain(|ino| self.files.peek(*ino).is_none_or(|file| is_free(&file)));
        self.save_each(&unsaved, Duration::ZERO)
    }
}

/// Something that is done beside the saving, and what its thread is called.
type Helper = (&'static str, fn(&Volume));

pub(super) type Worker<'scope> = ScopedJoinHandle<'scope, Result<(), FsError>>;

/// Does `work` in a thread of its own; `None` where the system has none to give now.
pub(super) fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Option<ScopedJoinHandle<'scope, T>> {
    #[cfg(test)]
    if super::tests::lacks_threads() {
        return None;
    }
    let spawned = Builder::new()
        .name(name.to_owned())
        .spawn_scoped(scope, work);
    if let Err(error) = &spawned {
        tracing::debug!(%error, name, "no thread can be made: what it is for takes longer");
    }
    spawned.ok()
}
