//! From the overlay into redb: who waits for whom, and for how long.
//!
//! Invariant: one commit at a time, each of everything that was applied before it; the foreground goes
//! on into a new overlay meanwhile. A caller commits by itself only where the disk has plenty of room:
//! else the background does, which may wait for room as long as it takes, and the caller's own wait has
//! an end.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redb::Durability;

use super::{Journal, State};
use crate::journal::check::guard;
use crate::journal::record::Record;
use crate::journal::{Barrier, JournalError, Snapshot, key, table};

/// Local room, in bytes, with which a commit does not wait, whoever else writes there meanwhile.
const COMMIT_ROOM: u64 = 64 << 20;

/// The same while no background is there yet that could wait: a volume is being opened.
const OPENING_ROOM: u64 = 4 << 20;

impl Journal {
    /// Waits, within a bound, while too much is in memory only. To be called before an operation
    /// changes anything, and without a lock: [`Journal::apply`] itself refuses nothing for that.
    ///
    /// # Errors
    /// [`JournalError::NoRoom`] when the wait was in vain; the first error of a failed commit.
    pub(crate) fn wait_for_room(&self) -> Result<(), JournalError> {
        self.commit_until(Durability::None, |state| {
            state.failed.is_none() && !state.active.is_full()
        })
    }

    /// Makes everything that was applied before the call durable. Calls that meet share a commit.
    ///
    /// # Errors
    /// [`JournalError::NoRoom`], after which it may be called again; any other error is final.
    pub fn sync(&self) -> Result<(), JournalError> {
        if self.without.lacks(Barrier::JournalCommit) {
            return Ok(());
        }
        let target = self.lock().applied;
        self.commit_until(Durability::Immediate, |state| state.durable >= target)
    }

    /// Commits, or waits for the commits of others, until `done` says so.
    fn commit_until(
        &self,
        durability: Durability,
        done: impl Fn(&State) -> bool,
    ) -> Result<(), JournalError> {
        let deadline = Instant::now() + self.patience;
        let mut has_room = None;
        loop {
            let state = self.lock();
            if done(&state) {
                return Ok(());
            }
            if let Some(failed) = &state.failed {
                return Err(failed.clone());
            }
            if !state.committing && has_room.is_none() {
                let needed = state.needed_room();
                drop(state);
                // The disk is asked without the lock; then all is looked at again.
                has_room = Some(self.disk.free_bytes().is_ok_and(|room| room >= needed));
            } else if !state.committing && has_room == Some(true) {
                drop(state);
                self.commit(durability, Some(deadline))?;
                has_room = None;
            } else {
                drop(self.wait(state, deadline).ok_or(JournalError::NoRoom)?);
                has_room = None;
            }
        }
    }

    /// Waits for the commit that is being made or, where there is little room on the disk, for one that
    /// the background is to make. `None` at the deadline, or when there is nobody to wait for.
    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        deadline: Instant,
    ) -> Option<MutexGuard<'a, State>> {
        if !state.committing && !state.attended {
            return None;
        }
        if !state.committing && !state.wanted {
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

    /// As [`Journal::sync`], by this thread and with all the patience that a full disk asks for.
    pub(crate) fn sync_patiently(&self) -> Result<(), JournalError> {
        if self.without.lacks(Barrier::BackgroundCommit) {
            return Ok(());
        }
        self.commit(Durability::Immediate, None)
    }

    /// Lets nothing wait for room on the disk any more: the volume is being closed.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Waits until enough is in the overlay for a commit in the background, at most `patience`, and
    /// writes it (not yet durable: that is [`Journal::sync`]'s).
    pub(crate) fn drain(&self, patience: Duration) -> Result<(), JournalError> {
        let mut state = self.lock();
        state.attended = true;
        let (mut state, _) = self
            .due
            .wait_timeout_while(state, patience, |s| !s.is_due())
            .unwrap_or_else(PoisonError::into_inner);
        let wanted = std::mem::take(&mut state.wanted);
        let due = state.is_due();
        drop(state);
        match (wanted, due) {
            (true, _) => self.commit(Durability::Immediate, None),
            (false, true) => self.commit(Durability::None, None),
            (false, false) => Ok(()),
        }
    }

    /// A view of this moment that later changes do not touch. Everything in it is durable. `taken` is
    /// called within the moment, with a number that no stage file in the view reaches: what is applied
    /// afterwards comes after the call.
    ///
    /// # Errors
    /// As [`Journal::sync`].
    pub fn snapshot(&self, taken: impl FnOnce(u64)) -> Result<Snapshot, JournalError> {
        self.commit(Durability::Immediate, None)?;
        let table = {
            let state = self.lock();
            taken(state.counters.next_stage);
            Arc::clone(&state.table)
        };
        Ok(Snapshot::new(table, Arc::clone(&self.file)))
    }

    /// How many batches were applied.
    pub(crate) fn applied(&self) -> u64 {
        self.lock().applied
    }

    /// Leaves a large file as one that is opened without reading all of it, also after a crash, for as
    /// long as nothing changes. Durable on return. To be called when nothing has changed for a while:
    /// it writes 1/500 of the file. False where there was nothing to do.
    ///
    /// # Errors
    /// As [`Journal::sync`].
    pub(crate) fn rest(&self) -> Result<bool, JournalError> {
        let applied = self.applied();
        if !self.file.is_marked() || self.lock().marked == Some(applied) {
            return Ok(false);
        }
        self.write_out(Durability::Immediate, true, None)?;
        self.file.mark();
        self.lock().marked = Some(applied);
        Ok(true)
    }

    /// Writes the active overlay as one transaction. Waits while another one is being written, until
    /// `deadline` where there is one.
    pub(super) fn commit(
        &self,
        durability: Durability,
        deadline: Option<Instant>,
    ) -> Result<(), JournalError> {
        self.write_out(durability, false, deadline)
    }

    fn write_out(
        &self,
        durability: Durability,
        restful: bool,
        deadline: Option<Instant>,
    ) -> Result<(), JournalError> {
        let mut state = self.lock();
        while state.committing {
            state = match deadline {
                Some(deadline) => self.wait(state, deadline).ok_or(JournalError::NoRoom)?,
                None => self
                    .committed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        if state.durable == state.applied && !restful {
            return Ok(());
        }
        let counters = state.counters.to_bytes();
        state.active.put(key::meta("counters"), Some(counters));
        let frozen = Arc::new(std::mem::take(&mut state.active));
        let target = state.applied;
        state.frozen = Some(Arc::clone(&frozen));
        state.committing = true;
        drop(state);

        let written = guard(|| {
            table::write(&self.db, &frozen.records, durability, restful)?;
            table::reader(&self.db)
        });

        let mut state = self.lock();
        state.committing = false;
        let result = match written {
            Ok(table) => {
                state.table = Arc::new(table);
                state.frozen = None;
                if matches!(durability, Durability::Immediate) {
                    state.durable = target;
                }
                Ok(())
            }
            Err(error) => {
                // What was frozen stays in sight: it is the newest that is known, and lost only
                // with this process.
                state.failed = Some(error.clone());
                Err(error)
            }
        };
        self.committed.notify_all();
        result
    }
}

impl State {
    /// Local room, in bytes, with which a commit of what is in memory is sure not to wait.
    fn needed_room(&self) -> u64 {
        let spare = if self.attended {
            COMMIT_ROOM
        } else {
            OPENING_ROOM
        };
        spare + 3 * self.active.bytes as u64
    }
}
