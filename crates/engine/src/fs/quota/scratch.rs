//! Small new files while a sync is overdue or the quota is full: backup programs write a lock before they restore,
//! check or delete anything.
//!
//! Invariant: until the next sync, or until there is ordinary room again, at most [`FILES`] such files and directories are
//! there, and no file among them has more than [`FILE_BYTES`], so 1 MiB in all, however often the daemon starts. They are
//! charged like any others; at a full quota they take their share of the reserve, and not a byte beyond.
//!
//! | bytes | the record of them |
//! |---|---|
//! | 1 | version, 1 |
//! | 8 | the deadline that has passed, unix seconds, u64be |
//! | 8 each | inode numbers, u64be |

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Claim, FsError, Quota};
use crate::clock::Clock;
use crate::types::Ino;

/// Such files and directories, at most.
pub(in crate::fs) const FILES: usize = 64;

/// Bytes of each of these files, at most.
pub(in crate::fs) const FILE_BYTES: u64 = 16 << 10;

/// The record's name.
pub(in crate::fs) const SCRATCH: &str = "scratch";
const VERSION: u8 = 1;

/// The files and directories that were made while the sync is overdue or the quota is full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::fs) struct Scratch {
    /// The deadline that had passed: after a sync there is another, and they are files like any others.
    deadline_s: u64,
    inos: BTreeSet<Ino>,
}

impl Scratch {
    /// What a record says; nothing where it is none.
    pub(in crate::fs) fn read(bytes: &[u8]) -> Self {
        let Some((&VERSION, rest)) = bytes.split_first() else {
            return Self::default();
        };
        let (numbers, _) = rest.as_chunks::<8>();
        let mut numbers = numbers.iter().map(|number| u64::from_be_bytes(*number));
        Self {
            deadline_s: numbers.next().unwrap_or(0),
            inos: numbers.map(Ino).collect(),
        }
    }

    fn to_bytes(&self) -> Bytes {
        let numbers = std::iter::once(self.deadline_s).chain(self.inos.iter().map(|ino| ino.0));
        let numbers = numbers.flat_map(u64::to_be_bytes);
        std::iter::once(VERSION).chain(numbers).collect()
    }
}

impl Quota {
    /// The same quota, with what was made so before a restart.
    pub(in crate::fs) fn with_scratch(self, scratch: Scratch) -> Self {
        Self { scratch, ..self }
    }

    /// What was made since the deadline that has passed now.
    fn made(&mut self) -> &mut BTreeSet<Ino> {
        let deadline_s = self
            .allowance
            .as_ref()
            .map_or(0, super::Allowance::deadline_s);
        if self.scratch.deadline_s != deadline_s {
            self.scratch = Scratch {
                deadline_s,
                inos: BTreeSet::new(),
            };
        }
        &mut self.scratch.inos
    }

    /// Refuses a new file or directory; [`Quota::note_scratch`] where it is made.
    ///
    /// # Errors
    /// As [`Quota::check_write`], but [`FsError::Overdue`] only where there are [`FILES`] already.
    pub(in crate::fs) fn admit_new(&mut self, clock: &dyn Clock) -> Result<(), FsError> {
        match self.check_write(clock) {
            Err(FsError::Overdue) if self.made().len() < FILES => self.check_units(),
            other => other,
        }
    }

    /// Remembers a file or directory that is being made, if the sync is overdue or it lies in the reserve: the record
    /// of them, to be kept with it. Where there is ordinary room again, those before are files like any others.
    ///
    /// # Errors
    /// [`FsError::Overdue`] or [`FsError::Quota`] where others have been made meanwhile.
    pub(in crate::fs) fn note_scratch(
        &mut self,
        clock: &dyn Clock,
        ino: Ino,
        claim: Claim,
    ) -> Result<Option<Bytes>, FsError> {
        let refused = match (self.overdue(clock), claim) {
            (true, _) => FsError::Overdue,
            (false, Claim::SmallFile) => FsError::Quota,
            (false, _) if self.scratch.inos.is_empty() => return Ok(None),
            (false, _) => {
                self.scratch.inos.clear();
                return Ok(Some(self.scratch.to_bytes()));
            }
        };
        if self.made().len() >= FILES {
            return Err(refused);
        }
        self.made().insert(ino);
        Ok(Some(self.scratch.to_bytes()))
    }

    /// It is gone, or was not made: the record of the others, where it was one of them.
    pub(in crate::fs) fn forget_scratch(&mut self, ino: Ino) -> Option<Bytes> {
        let was_one = self.scratch.inos.remove(&ino);
        was_one.then(|| self.scratch.to_bytes())
    }

    /// Refuses a write or growth of `ino`; what it may use where it is admitted.
    ///
    /// # Errors
    /// As [`Quota::check_write`], but for files that [`Quota::note_scratch`] knows.
    pub(in crate::fs) fn admit_write(
        &mut self,
        clock: &dyn Clock,
        ino: Ino,
    ) -> Result<Admitted, FsError> {
        let is_small = self.made().contains(&ino);
        match self.check_write(clock) {
            Ok(()) => Ok(Admitted {
                is_small,
                is_overdue: false,
            }),
            Err(FsError::Overdue) if is_small => self.check_units().map(|()| Admitted {
                is_small,
                is_overdue: true,
            }),
            Err(error) => Err(error),
        }
    }
}

/// A write that is admitted if the file stays small enough.
#[derive(Clone, Copy, Debug)]
pub(in crate::fs) struct Admitted {
    is_small: bool,
    is_overdue: bool,
}

impl Admitted {
    /// What may be used by a file that ends at `end` then.
    ///
    /// # Errors
    /// [`FsError::Overdue`] where that is more than a small file.
    pub(in crate::fs) fn up_to(self, end: u64) -> Result<Claim, FsError> {
        match (self.is_small && end <= FILE_BYTES, self.is_overdue) {
            (true, _) => Ok(Claim::SmallFile),
            (false, false) => Ok(Claim::Ordinary),
            (false, true) => Err(FsError::Overdue),
        }
    }

    /// Bytes of a write at `offset` that a small file may have.
    pub(in crate::fs) fn small_part(self, offset: u64) -> u64 {
        match self.is_small {
            true => FILE_BYTES.saturating_sub(offset),
            false => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_while_overdue_is_read_by_every_later_version() {
        let scratch = Scratch {
            deadline_s: 0x0102_0304,
            inos: [Ino(7), Ino(0x1_0000)].into(),
        };
        let bytes = b"\x01\0\0\0\0\x01\x02\x03\x04\0\0\0\0\0\0\0\x07\0\0\0\0\0\x01\0\0";
        assert_eq!(scratch.to_bytes(), bytes[..]);
        assert_eq!(Scratch::read(bytes), scratch);
        assert_eq!(Scratch::read(b""), Scratch::default());
        assert_eq!(Scratch::read(b"\x02\0"), Scratch::default());
    }
}
