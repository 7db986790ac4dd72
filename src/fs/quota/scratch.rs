//! Small new files while a sync is overdue: backup programs write a lock before they restore anything.
//!
//! Invariant: while overdue at most [`FILES`] files and directories are made and not removed, and no file among them
//! has more than [`FILE_BYTES`], so 1 MiB in all. They are charged like any others. Known in memory alone: after a
//! restart those from before can be read and deleted, not written. Called by `create`, `remove` and `io`.

use std::collections::HashSet;

use super::{FsError, Quota};
use crate::clock::Clock;
use crate::types::Ino;

/// Files and directories that are made while a sync is overdue, at most.
pub(in crate::fs) const FILES: usize = 64;

/// Bytes of each of these files, at most.
pub(in crate::fs) const FILE_BYTES: u64 = 16 << 10;

/// The files and directories that were made while a sync is overdue.
#[derive(Debug, Default)]
pub(super) struct Scratch(HashSet<Ino>);

impl Quota {
    /// Refuses a new file or directory; [`Quota::note_scratch`] where it is made while the sync is overdue.
    ///
    /// # Errors
    /// As [`Quota::check_write`], but [`FsError::Overdue`] only where there are [`FILES`] already.
    pub(in crate::fs) fn admit_new(&mut self, clock: &dyn Clock) -> Result<(), FsError> {
        match self.check_write(clock) {
            Err(FsError::Overdue) if self.scratch.0.len() < FILES => self.check_units(),
            other => other,
        }
    }

    /// Remembers a file or directory that is being made, where the sync is overdue.
    ///
    /// # Errors
    /// [`FsError::Overdue`] where others have been made meanwhile.
    pub(in crate::fs) fn note_scratch(
        &mut self,
        clock: &dyn Clock,
        ino: Ino,
    ) -> Result<(), FsError> {
        if !self.overdue(clock) {
            self.scratch.0.clear();
            return Ok(());
        }
        if self.scratch.0.len() >= FILES {
            return Err(FsError::Overdue);
        }
        self.scratch.0.insert(ino);
        Ok(())
    }

    /// It is gone, or was not made.
    pub(in crate::fs) fn forget_scratch(&mut self, ino: Ino) {
        self.scratch.0.remove(&ino);
    }

    /// Refuses a write or growth of `ino`; where it is admitted, up to which length of the file.
    ///
    /// # Errors
    /// As [`Quota::check_write`], but for files that [`Quota::note_scratch`] knows.
    pub(in crate::fs) fn admit_write(
        &mut self,
        clock: &dyn Clock,
        ino: Ino,
    ) -> Result<u64, FsError> {
        match self.check_write(clock) {
            Ok(()) => Ok(u64::MAX),
            Err(FsError::Overdue) if self.scratch.0.contains(&ino) => {
                self.check_units().map(|()| FILE_BYTES)
            }
            Err(error) => Err(error),
        }
    }
}
