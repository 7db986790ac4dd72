//! From the overlay into the log and into redb: who waits for whom, and for how long.
//!
//! Invariant: one frame and one commit at a time, each of everything that was applied before it; the foreground
//! goes on into a new overlay meanwhile. What is synced goes into the log, which waits for no commit; what has
//! gathered goes into redb, and the log begins anew behind it. A caller writes to the log by itself where the
//! disk has some room; all else is the background's, which may wait for room as long as it takes. The caller's own
//! wait has an end.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{COUNTERS, DUE_LOG, Frame, Journal, MAX_LOG, SINCE, State};
use crate::journal::check::guard;
use crate::journal::record::Record;
use crate::journal::table::{self, Table};
use crate::journal::{Barrier, JournalError, Snapshot, key};

/// Local room, in bytes, with which a commit does not wait, whoever else writes there meanwhile.
const COMMIT_ROOM: u64 = 64 << 20;

/// The same while no background is there yet that could wait: a volume is being opened.
const OPENING_ROOM: u64 = 4 << 20;

/// The same for a frame of the log.
const LOG_ROOM: u64 = 4 << 20;

/// What makes batches leave the memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// A frame of the log: they are durable.
    Log,
    /// A commit of the table: they are durable, and the overlay is empty.
    Table,
}

impl Journal {
    /// Waits, within a bound, while too much is in memory only. To be called before an operation
    /// changes anything, and without a lock: [`Journal::apply`] itself refuses nothing for that.
    ///
    /// # Errors
    /// [`JournalError::NoRoom`] when the wait was in vain; the first error of a failed commit.
    pub(crate) fn wait_for_room(&self) -> Result<(), JournalError> {
        self.wait_for_room_within(self.patience)
    }

    /// As [`Journal::wait_for_room`], for work that nobody waits for and that is long: it waits for each commit that is
    /// due, so that what is in memory stays little, and the rest of the room is left to the foreground.
    ///
    /// # Errors
    /// As [`Journal::wait_for_room`].
    pub(crate) fn wait_for_calm(&self) -> Result<(), JournalError> {
        let is_calm = |state: &State| state.failed.is_none() && !state.active.is_due();
        self.work_until(Work::Table, self.patience, is_calm)
    }

    /// As [`Journal::wait_for_room`], and no longer than `patience`.
    pub(crate) fn wait_for_room_within(&self, patience: Duration) -> Result<(), JournalError> {
        let has_room = |state: &State| state.failed.is_none() && !state.active.is_full();
        self.work_until(Work::Table, patience.min(self.patience), has_room)
    }

    /// Makes everything that was applied before the call durable. Calls that meet share a frame.
    ///
    /// # Errors
    /// [`JournalError::NoRoom`], after which it may be called again; any other error is final.
    pub fn sync(&self) -> Result<(), JournalError> {
        if self.without.lacks(Barrier::JournalCommit) {
            return Ok(());
        }
        let target = self.lock().applied;
        self.work_until(Work::Log, self.patience, |state| state.durable >= target)
    }

    /// Does `work`, or waits for that of others, until `done` says so, at most for `patience`.
    fn work_until(
        &self,
        work: Work,
        patience: Duration,
        done: impl Fn(&State) -> bool,
    ) -> Result<(), JournalError> {
        let deadline = Instant::now() + patience;
        let mut has_room = None;
        loop {
            let work = self.due_for(work);
            let state = self.lock();
            if done(&state) {
                return Ok(());
            }
            if let Some(failed) = &state.failed {
                return Err(failed.clone());
            }
            // The background makes the commits of the table where there is one: none of those ends while the
            // disk is full, and a call has to.
            let is_left = state.is_busy(work) || (work == Work::Table && state.attended);
            if !is_left && has_room.is_none() {
                let needed = state.needed_room(work);
                drop(state);
                // The disk is asked without the lock; then all is looked at again.
                has_room = Some(self.disk.free_bytes().is_ok_and(|room| room >= needed));
            } else if !is_left && has_room == Some(true) {
                drop(state);
                self.work(work, Some(deadline))?;
                has_room = None;
            } else {
                drop(
                    self.wait(state, work, deadline)
                        .ok_or(JournalError::NoRoom)?,
                );
                has_room = None;
            }
        }
    }

    /// A log that is too long is not made longer.
    fn due_for(&self, work: Work) -> Work {
        match work {
            Work::Log if self.wal.bytes() < MAX_LOG => Work::Log,
            _ => Work::Table,
        }
    }

    fn work(&self, work: Work, deadline: Option<Instant>) -> Result<(), JournalError> {
        match self.due_for(work) {
            Work::Log => self.append(deadline),
            Work::Table => self.commit(deadline),
        }
    }

    /// Waits for the work of that kind that is being done or, where there is little room on the disk, for what
    /// the background is to do. `None` at the deadline, or when there is nobody to wait for.
    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        work: Work,
        deadline: Instant,
    ) -> Option<MutexGuard<'a, State>> {
        let is_busy = state.is_busy(work);
        if !is_busy && !state.attended {
            return None;
        }
        if !is_busy && !state.wanted {
            state.wanted = true;
            self.due.notify_one();
        }
        let left = deadline.checked_duration_since(Instant::now())?;
        let (state, _) = self
            .committed
            .wait_timeout(state, left)
            .unwrap_or_else(PoisonError::into_inner);
        Some(state)
    }

    /// The state, once no work of that kind is being done.
    fn idle(
        &self,
        work: Work,
        deadline: Option<Instant>,
    ) -> Result<MutexGuard<'_, State>, JournalError> {
        let mut state = self.lock();
        while state.is_busy(work) {
            state = match deadline {
                Some(deadline) => self
                    .wait(state, work, deadline)
                    .ok_or(JournalError::NoRoom)?,
                None => self
                    .committed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
        match &state.failed {
            Some(failed) => Err(failed.clone()),
            None => Ok(state),
        }
    }

    /// As [`Journal::sync`], by this thread and with all the patience that a full disk asks for.
    pub(crate) fn sync_patiently(&self) -> Result<(), JournalError> {
        if self.without.lacks(Barrier::BackgroundCommit) {
            return Ok(());
        }
        self.work(Work::Log, None)
    }

    /// Waits until much has gathered that is in no frame of the log, at most `patience`, and writes one, if what it has
    /// is charged with `most` bytes of the quota at most: what others do keeps whoever syncs next no longer. False
    /// where it may not, or would have to wait for room.
    ///
    /// # Errors
    /// As [`Journal::sync`].
    pub(crate) fn log_ahead(&self, patience: Duration, most: u64) -> Result<bool, JournalError> {
        let (state, _) = self
            .much
            .wait_timeout_while(self.lock(), patience, |state| !state.unlogged.is_much())
            .unwrap_or_else(PoisonError::into_inner);
        if !state.unlogged.is_much() {
            return Ok(true);
        }
        let needed = state.needed_room(Work::Log);
        drop(state);
        let has_room = self.disk.free_bytes().is_ok_and(|room| room >= needed);
        if !has_room || self.due_for(Work::Log) != Work::Log {
            return Ok(false);
        }
        let deadline = Instant::now() + self.patience;
        match self.append_if(Some(deadline), |state| state.counters.used_bytes <= most) {
            Err(JournalError::NoRoom) => Ok(false),
            written => written,
        }
    }

    /// From here on `wake` is called when something is applied, or [`Journal::call`] is, and nobody was called before.
    pub(crate) fn on_call(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.calls.set(Box::new(wake));
    }

    /// There is something to be kept durable that is not applied yet.
    pub(crate) fn call(&self) {
        self.calls.call();
    }

    /// Whoever was called has nothing more to do, unless `left` says so now; true where he goes on.
    pub(crate) fn goes_on(&self, left: impl FnOnce() -> bool) -> bool {
        self.calls.answer();
        left() && self.calls.begin()
    }

    /// Whether the table has everything that was applied.
    pub(crate) fn is_at_rest(&self) -> bool {
        let state = self.lock();
        state.tabled == state.applied
    }

    /// Whether everything that was applied is durable.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn is_durable(&self) -> bool {
        let state = self.lock();
        state.durable == state.applied
    }

    /// Somebody calls [`Journal::drain`].
    pub(crate) fn is_attended(&self) -> bool {
        self.lock().attended
    }

    /// Nobody calls [`Journal::drain`] any more.
    pub(crate) fn unattend(&self) {
        self.lock().attended = false;
        self.committed.notify_all();
    }

    /// Lets nothing wait for room on the disk any more: the volume is being closed.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Lets writes wait for room on the disk: somebody is there who can say that it has an end.
    pub(crate) fn begin(&self) {
        self.ended.store(false, Ordering::Release);
    }

    /// Waits until there is enough for a commit in the background, at most `patience`, and makes it; `before` is
    /// called before that.
    pub(crate) fn drain(
        &self,
        patience: Duration,
        before: impl FnOnce(),
    ) -> Result<(), JournalError> {
        let mut state = self.lock();
        state.attended = true;
        let is_due = |state: &State| {
            state.is_due() || (self.wal.bytes() >= DUE_LOG && state.tabled < state.applied)
        };
        let (mut state, _) = self
            .due
            .wait_timeout_while(state, patience, |state| !is_due(state))
            .unwrap_or_else(PoisonError::into_inner);
        let due = is_due(&state);
        state.wanted = false;
        drop(state);
        if !due {
            return Ok(());
        }
        before();
        self.commit(None)
    }

    /// A view of a moment that later changes do not touch. Everything in it is durable on return. `taken` is
    /// called in that moment, with a number that no stage file in the view reaches: what is applied before the
    /// call is in the view, what is applied after it is not, also while the view is still being written.
    ///
    /// # Errors
    /// As [`Journal::sync`]: it waits for no room, since nothing that is deleted beside it would give any.
    pub fn snapshot(&self, taken: impl FnOnce(u64)) -> Result<Snapshot, JournalError> {
        let needed = self.lock().table_room(OPENING_ROOM);
        if self.disk.free_bytes()? < needed {
            return Err(JournalError::NoRoom);
        }
        let state = self.idle(Work::Table, Some(Instant::now() + self.patience))?;
        taken(state.counters.next_stage);
        let table = if state.tabled == state.applied {
            Arc::clone(&state.table)
        } else {
            self.write(state)?
        };
        Ok(Snapshot::new(table, Arc::clone(&self.file)))
    }

    /// How many batches were applied.
    pub(crate) fn applied(&self) -> u64 {
        self.lock().applied
    }

    /// Puts into the table what the overlay and the log have. To be called when nothing has changed for a
    /// while, and at the end: the next start has nothing to read then, and memory is free. False where there
    /// was nothing to do, or the disk has no room for it: it would be waited for.
    ///
    /// # Errors
    /// As [`Journal::sync`].
    pub(crate) fn rest(&self) -> Result<bool, JournalError> {
        let needed = {
            let state = self.lock();
            if state.tabled == state.applied {
                return Ok(false);
            }
            state.needed_room(Work::Table)
        };
        if self.disk.free_bytes()? < needed {
            return Ok(false);
        }
        self.commit(None)?;
        Ok(true)
    }

    /// Appends to the log what is in no frame yet. Waits while another frame is being written, until
    /// `deadline` where there is one.
    fn append(&self, deadline: Option<Instant>) -> Result<(), JournalError> {
        self.append_if(deadline, |_| true).map(drop)
    }

    /// As [`Journal::append`], if `may` says so of what the frame would have.
    fn append_if(
        &self,
        deadline: Option<Instant>,
        may: impl Fn(&State) -> bool,
    ) -> Result<bool, JournalError> {
        loop {
            let mut state = self.idle(Work::Log, deadline)?;
            if !may(&state) {
                return Ok(false);
            }
            // Also where the table has all of it meanwhile: it may say that the log goes on with this number.
            let refused = state.refused.take();
            let was_refused = refused.is_some();
            let Some(frame) = refused.or_else(|| state.next_frame()) else {
                return Ok(true);
            };
            state.logging = true;
            drop(state);

            let written = self.wal.append(frame.head, &frame.records, deadline);

            let mut state = self.lock();
            state.logging = false;
            self.committed.notify_all();
            if written == Err(JournalError::NoRoom) {
                state.refused = Some(frame);
                return Err(JournalError::NoRoom);
            }
            state.note(written, frame.target)?;
            if self.wal.bytes() >= DUE_LOG {
                self.due.notify_one();
            }
            if !was_refused {
                return Ok(true);
            }
        }
    }

    /// Writes the active overlay as one transaction of the table. Waits while another one is being written,
    /// until `deadline` where there is one.
    pub(super) fn commit(&self, deadline: Option<Instant>) -> Result<(), JournalError> {
        let state = self.idle(Work::Table, deadline)?;
        if state.tabled == state.applied {
            return Ok(());
        }
        self.write(state)?;
        Ok(())
    }

    /// Puts into the table what a start has found in the log, up to `frame`, and begins the log anew; a large
    /// file has a mark behind it.
    ///
    /// # Errors
    /// [`JournalError::NoRoom`], with everything as it was found; disk errors.
    pub(super) fn take_over(&self, frame: u64) -> Result<(), JournalError> {
        let needed = self.lock().needed_room(Work::Table);
        if self.disk.free_bytes()? < needed {
            return Err(JournalError::NoRoom);
        }
        let next = self.lock().next.anew(frame)?;
        let mut state = self.lock();
        state.next = next;
        self.write(state)?;
        Ok(())
    }

    /// One transaction of what the overlay has now, and the table behind it.
    fn write(&self, mut state: MutexGuard<'_, State>) -> Result<Arc<Table>, JournalError> {
        // Frames from here on are behind what is frozen, or hold some of it again: putting that a second time
        // changes nothing, since all that was put behind it is there too.
        state.next.generation += 1;
        self.wal.turn(state.next.generation);
        let (since, counters) = (state.next.to_bytes(), state.counters.to_bytes());
        let base = state.next.generation;
        state.active.put(key::meta(COUNTERS), Some(counters));
        state.active.put(key::meta(SINCE), Some(since));
        let frozen = Arc::new(std::mem::take(&mut state.active));
        let target = state.applied;
        state.frozen = Some(Arc::clone(&frozen));
        state.unlogged.cover();
        state.committing = true;
        // There is room again in what gathers.
        self.committed.notify_all();
        drop(state);

        let written = guard(|| {
            let is_marked = self.file.is_marked();
            table::write(&self.db, &frozen.records, is_marked)?;
            if is_marked {
                self.file.mark();
            }
            table::reader(&self.db)
        });

        let mut state = self.lock();
        state.committing = false;
        let result = match written {
            Ok(table) => {
                let table = Arc::new(table);
                state.table = Arc::clone(&table);
                state.frozen = None;
                state.tabled = target;
                state.base = base;
                state.unlogged.forget_covered();
                state.note(Ok(table), target)
            }
            // What was frozen stays in sight: it is the newest that is known, and lost only with this process.
            Err(error) => state.note(Err(error), target),
        };
        self.committed.notify_all();
        result
    }
}

impl State {
    /// The frame of what is in none yet.
    fn next_frame(&mut self) -> Option<Frame> {
        if self.durable == self.applied {
            return None;
        }
        let counters = self.counters.to_bytes();
        self.unlogged.put(key::meta(COUNTERS), Some(counters));
        let frame = Frame {
            head: self.next.head(self.base),
            records: self.unlogged.take(),
            target: self.applied,
        };
        self.next.frame += 1;
        Some(frame)
    }

    fn is_busy(&self, work: Work) -> bool {
        match work {
            Work::Log => self.logging,
            Work::Table => self.committing,
        }
    }

    /// The batches up to `target` are durable, or nothing will be any more: want of room and files that are too
    /// large for the disk are no passing thing then.
    fn note<T>(
        &mut self,
        written: Result<T, JournalError>,
        target: u64,
    ) -> Result<T, JournalError> {
        let written = written.map_err(|error| match error {
            JournalError::NoRoom | JournalError::TooLarge => JournalError::Disk(error.to_string()),
            other => other,
        });
        match &written {
            Ok(_) => self.durable = self.durable.max(target),
            Err(error) => self.failed = Some(error.clone()),
        }
        written
    }

    /// Local room, in bytes, with which that work is sure not to wait.
    fn needed_room(&self, work: Work) -> u64 {
        match work {
            Work::Table if self.attended => self.table_room(COMMIT_ROOM),
            Work::Table => self.table_room(OPENING_ROOM),
            Work::Log => LOG_ROOM + self.active.bytes as u64,
        }
    }

    /// What a commit of the table takes at most, and `spare` bytes.
    fn table_room(&self, spare: u64) -> u64 {
        spare + 3 * self.active.bytes as u64
    }
}
