//! Making local state durable: bytes first, then the records that name them, then what the records
//! let go of.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::FsError;
use super::body::Saved;
use super::emptied::{REWRITE, Wait};
use super::files::File;
use super::volume::{Volume, lock};
use crate::journal::record::{Content, Inode, Patch};
use crate::journal::{Barrier, Batch, JournalError, StageFile, key};
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
        lock(&self.unsaved).iter().copied().collect()
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
            let Some((cid, size)) = lock(&self.adoptions).remove(*number) else {
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
        !lock(&self.unsaved).is_empty()
            || !lock(&self.accesses).is_empty()
            || !lock(&self.unpurged).is_empty()
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

    /// Saves `ino` if it is in use: its bytes first, then its record.
    fn save_known(&self, ino: Ino, patience: Duration) -> Result<(), FsError> {
        let Some(held) = self.files.hold_known(ino) else {
            self.note_closed(ino);
            return Ok(());
        };
        let mut wait = Wait::new(patience);
        let mut saves = None;
        let result = loop {
            let saved = self.save_unless_rewritten(&held);
            if saved != Ok(false) || patience.is_zero() {
                break saved.map(drop);
            }
            // Who has emptied it once more has saved it before.
            let saved = held.saves.load(Ordering::Acquire);
            if *saves.get_or_insert(saved) != saved {
                break Ok(());
            }
            if wait.is_over(self.last_emptied(ino)) {
                break self.save(&held);
            }
        };
        self.leave(held);
        result
    }

    /// Nobody had `ino` open, and all of it was saved.
    pub(super) fn note_closed(&self, ino: Ino) {
        let mut unsaved = lock(&self.unsaved);
        let mut emptied = lock(&self.emptied);
        // Who has opened it since, and written, may have noted that before.
        if self.files.peek(ino).is_none() {
            unsaved.remove(&ino);
            emptied.remove(&ino);
        }
    }

    /// As [`Volume::save`], but not in the middle of what is written anew: false then, and it is saved when that is
    /// over.
    pub(super) fn save_unless_rewritten(&self, file: &File) -> Result<bool, FsError> {
        self.save_if(file, || {
            !self.was_just_emptied(file.ino) || !self.files.is_shared(file.ino)
        })
    }

    /// Makes the bytes of a held file durable, then puts its record into the journal (in memory:
    /// the caller commits).
    pub(super) fn save(&self, file: &File) -> Result<(), FsError> {
        self.save_if(file, || true).map(drop)
    }

    /// As [`Volume::save`]; false where `may` forbids it, which is asked under the file's lock.
    fn save_if(&self, file: &File, may: impl FnOnce() -> bool) -> Result<bool, FsError> {
        let _one = file.saving.lock();
        if self.files.is_orphan(file.ino) {
            lock(&self.unsaved).remove(&file.ino);
            lock(&self.emptied).remove(&file.ino);
            // It may have its name again: its removal failed.
            if !self.files.is_orphan(file.ino) {
                lock(&self.unsaved).insert(file.ino);
                self.journal.call();
            }
            return Ok(true);
        }
        let saved = {
            let mut body = file.body_mut();
            if !body.unsaved {
                lock(&self.unsaved).remove(&file.ino);
                return Ok(true);
            }
            if !may() {
                return Ok(false);
            }
            lock(&self.emptied).remove(&file.ino);
            body.save()
        };
        let stage = saved.stage.clone();
        if self.without.lacks(Barrier::BytesFirst) {
            self.put_content(file, saved, None)?;
            self.journal.sync()?;
            return stage.map_or(Ok(true), |stage| {
                self.stage.sync(&stage).map_err(FsError::from)?;
                Ok(true)
            });
        }
        let patches = match self.save_bytes(file, stage.as_deref()) {
            Ok(patches) => patches,
            Err(error) => {
                file.body_mut().unsave(saved);
                return Err(self.poison(error));
            }
        };
        self.put_content(file, saved, patches)?;
        self.note_saved(file);
        Ok(true)
    }

    /// The record of `file` is in the journal. Until here whoever wants everything saved had to wait for it.
    fn note_saved(&self, file: &File) {
        file.saves.fetch_add(1, Ordering::AcqRel);
        let body = file.body();
        if !body.unsaved {
            lock(&self.unsaved).remove(&file.ino);
        }
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
            let mut body = self.body_to_change(file)?;
            let all_else_is_saved = !body.unsaved && saving.is_some();
            (body.mtime_ns, body.ctime_ns) = (mtime_ns, ctime_ns);
            body.unsaved = true;
            // No byte was written since the last save, so none is waited for.
            let at_once = all_else_is_saved && !self.files.is_orphan(file.ino);
            if at_once {
                // Until the journal has it no other tree may take this one's place.
                lock(&self.unsaved).insert(file.ino);
            }
            at_once.then(|| body.save())
        };
        match saved {
            Some(saved) => {
                self.put_content(file, saved, Some(Vec::new()))?;
                self.note_change();
                self.note_saved(file);
                Ok(())
            }
            None => {
                self.note_unsaved(file.ino);
                Ok(())
            }
        }
    }

    /// Makes the bytes of a stage file durable that a record is to name: in the file, or, where they are
    /// few, as patches that the record brings with it.
    fn save_bytes(
        &self,
        file: &File,
        stage: Option<&StageFile>,
    ) -> Result<Option<Vec<Patch>>, JournalError> {
        let Some(stage) = stage else {
            return Ok(None);
        };
        // A patch has all of a write, or nothing: nobody is amid one.
        let patches = {
            let _still = file.body();
            self.stage.patches_of(stage)
        };
        if patches.is_none() {
            self.stage.sync(stage)?;
        }
        Ok(patches)
    }

    /// Puts what was saved into the journal, with the patches of its stage file; the earlier ones go where
    /// there are none, since the file was synced. Where that fails the file counts as unsaved again.
    fn put_content(
        &self,
        file: &File,
        saved: Saved,
        patches: Option<Vec<Patch>>,
    ) -> Result<(), FsError> {
        let ino = file.ino;
        let mut batch = Batch::default();
        if let Some(stage) = &saved.stage {
            self.put_patches(&mut batch, stage, patches);
        }
        batch.put(key::content(ino), &saved.content);
        for (index, chunk) in &saved.chunks {
            batch.put(key::chunk(ino, *index), chunk);
        }
        for index in &saved.dropped {
            batch.remove(key::chunk(ino, *index));
        }
        let unpublished = saved.content.version != saved.content.published;
        // What is being settled, and was not changed since the cut, has its mark until all of it is.
        if unpublished && !saved.is_settling {
            batch.mark(key::dirty_inode(ino));
        }
        batch.charge(saved.charge_delta);
        batch.retire(saved.retired.iter().copied());
        if let Err(error) = self.apply_quietly(batch) {
            file.body_mut().unsave(saved);
            lock(&self.unsaved).insert(ino);
            self.journal.call();
            return Err(error);
        }
        Ok(())
    }

    fn put_patches(&self, batch: &mut Batch, stage: &Arc<StageFile>, patches: Option<Vec<Patch>>) {
        let Some(patches) = patches else {
            for number in self.stage.take_patches(stage.number()) {
                batch.remove(key::patch(stage.number(), number));
            }
            return;
        };
        for patch in patches {
            let number = self.journal.next_version();
            batch.put(key::patch(stage.number(), number), &patch);
            self.stage
                .note_patch(stage, number, patch.bytes.len() as u64);
        }
    }

    /// Removes unlinked files that could not be removed before; what still cannot be is left to the next time.
    pub(super) fn purge_left(&self) {
        let left = std::mem::take(&mut *lock(&self.unpurged));
        for (ino, stages) in left {
            if let Err(error) = self.purge(ino, stages.clone()) {
                tracing::debug!(%error, ino = ino.0, "an unlinked file could not be removed yet");
                lock(&self.unpurged).push((ino, stages));
            }
        }
    }

    /// Removes the records of an unlinked file, and lets go of its stage file.
    pub(super) fn purge(&self, ino: Ino, stages: Vec<u64>) -> Result<(), FsError> {
        if self.journal.get(&key::orphan(ino))?.is_some() {
            return self.purge_in(ino, stages, self.limits.chunks);
        }
        // They went with its name.
        if stages.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.retire(stages);
        self.apply_quietly(batch)
    }

    /// As [`Volume::purge`], so many records at a time. Its mark as unlinked goes with the last of
    /// them, so that a crash in between leaves the rest to the next start.
    pub(super) fn purge_in(&self, ino: Ino, stages: Vec<u64>, page: usize) -> Result<(), FsError> {
        loop {
            let chunks = self.journal.scan(&key::chunks(ino), None, page)?;
            if chunks.is_empty() {
                break;
            }
            let mut batch = Batch::default();
            for (found, _) in chunks {
                batch.remove(found);
            }
            self.journal.wait_for_room()?;
            self.apply_quietly(batch)?;
        }
        let mut batch = Batch::default();
        if let Some(content) = self.journal.record::<Content>(&key::content(ino))? {
            self.drop_content(&mut batch, ino, &content)?;
        }
        batch.retire(stages);
        let inode: Option<Inode> = self.journal.record(&key::inode(ino))?;
        if !inode.is_some_and(|inode| inode.hard) {
            batch.remove(key::dirty_inode(ino));
        }
        batch.remove(key::inode(ino));
        batch.remove(key::orphan(ino));
        self.apply_quietly(batch)
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
