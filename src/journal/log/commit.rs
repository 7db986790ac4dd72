//! From the overlay into redb: who waits for whom, and for how long.
//!
//! Invariant: one commit at a time, each of everything that was applied before it; the foreground goes
//! on into a new overlay meanwhile. Waiting for the disk's room is bounded wherever a call waits.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use redb::Durability;

use super::{Journal, State};
use crate::journal::record::Record;
use crate::journal::table::{self, Snapshot};
use crate::journal::{JournalError, key};

/// Local room, in bytes, with which a commit is sure not to wait.
const COMMIT_ROOM: u64 = 4 << 20;

/// How long [`Journal::sync`] waits for a commit that somebody else makes.
const SYNC_WAIT: Duration = Duration::from_secs(20);

/// How long [`Journal::apply`] waits for room in the overlay before it says there is none.
const APPLY_WAIT: Duration = Duration::from_secs(20);

impl Journal {
    /// Waits, within a bound, while too much is in memory only. To be called before an operation
    /// changes anything, and without a lock: [`Journal::apply`] itself refuses nothing for that.
    ///
    /// # Errors
    /// [`JournalError::NoRoom`] when the wait was in vain; the first error of a failed commit.
    pub(crate) fn wait_for_room(&self) -> Result<(), JournalError> {
        let mut state = self.lock();
        while state.failed.is_none() && state.active.is_full() {
            if state.committing || !self.has_room(&state) {
                state.wanted = true;
                self.changed.notify_all();
                let (woken, waited) = self
                    .changed
                    .wait_timeout(state, APPLY_WAIT)
                    .unwrap_or_else(PoisonError::into_inner);
                state = woken;
                if waited.timed_out() && state.active.is_full() {
                    return Err(JournalError::NoRoom);
                }
            } else {
                drop(state);
                self.commit(Durability::None)?;
                state = self.lock();
            }
        }
        state.failed.clone().map_or(Ok(()), Err)
    }

    /// Makes everything that was applied before the call durable. Calls that meet share a commit.
    ///
    /// # Errors
    /// [`JournalError::NoRoom`], after which it may be called again; any other error is final.
    pub fn sync(&self) -> Result<(), JournalError> {
        if crate::journal::skip::this_one() {
            return Ok(());
        }
        let mut state = self.lock();
        let target = state.applied;
        loop {
            if state.durable >= target {
                return Ok(());
            }
            if let Some(failed) = &state.failed {
                return Err(failed.clone());
            }
            // Where the disk is all but full a commit may have to wait for room: in the background,
            // while the caller's patience is bounded.
            if state.committing || !self.has_room(&state) {
                state.wanted = true;
                self.changed.notify_all();
                let (woken, waited) = self
                    .changed
                    .wait_timeout(state, SYNC_WAIT)
                    .unwrap_or_else(PoisonError::into_inner);
                state = woken;
                if waited.timed_out() && state.durable < target {
                    return Err(state.failed.clone().unwrap_or(JournalError::NoRoom));
                }
                continue;
            }
            drop(state);
            self.commit(Durability::Immediate)?;
            state = self.lock();
        }
    }

    /// As [`Journal::sync`], by this thread and with all the patience that a full disk asks for.
    pub(crate) fn sync_patiently(&self) -> Result<(), JournalError> {
        self.commit(Durability::Immediate)
    }

    /// Lets nothing wait for room on the disk any more: the volume is being closed.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether a commit of what is in memory is sure not to wait for the disk's room.
    fn has_room(&self, state: &State) -> bool {
        let needed = COMMIT_ROOM + 3 * state.active.bytes as u64;
        rustix::fs::statvfs(&self.folder)
            .is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) >= needed)
    }

    /// Waits until enough is in the overlay for a commit in the background, at most `patience`, and
    /// writes it (not yet durable: that is [`Journal::sync`]'s).
    pub(crate) fn drain(&self, patience: Duration) -> Result<(), JournalError> {
        let (mut state, _) = self
            .changed
            .wait_timeout_while(self.lock(), patience, |s| !s.is_due())
            .unwrap_or_else(PoisonError::into_inner);
        let wanted = std::mem::take(&mut state.wanted);
        let due = state.is_due();
        drop(state);
        match (wanted, due) {
            (true, _) => self.commit(Durability::Immediate),
            (false, true) => self.commit(Durability::None),
            (false, false) => Ok(()),
        }
    }

    /// A view of this moment that later changes do not touch. Everything in it is durable.
    ///
    /// # Errors
    /// As [`Journal::sync`].
    pub fn snapshot(&self) -> Result<Snapshot, JournalError> {
        self.commit(Durability::Immediate)?;
        let state = self.lock();
        Ok(Snapshot {
            table: Arc::clone(&state.table),
        })
    }

    /// Writes the active overlay as one transaction. Waits while another one is being written.
    fn commit(&self, durability: Durability) -> Result<(), JournalError> {
        let mut state = self.lock();
        while state.committing {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        if state.durable == state.applied {
            return Ok(());
        }
        let counters = state.counters.to_bytes();
        state.active.put(key::meta("counters"), Some(counters));
        let frozen = Arc::new(std::mem::take(&mut state.active));
        let target = state.applied;
        state.frozen = Some(Arc::clone(&frozen));
        state.committing = true;
        drop(state);

        let written = table::write(&self.db, &frozen.records, durability)
            .and_then(|()| table::reader(&self.db));

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
        self.changed.notify_all();
        result
    }
}
