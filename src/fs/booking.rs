//! What an operation has taken from the quota before it is sure to be made.
//!
//! Invariant: dropped before [`Booking::keep`] it gives back all that it took, so that an operation that
//! fails on its way, wherever that is, leaves the quota as it was. Called by every operation that is
//! charged or gives room back.

use std::sync::Mutex;

use super::quota::Taken;
use super::volume::{Volume, lock, signed};
use super::{FsError, Quota};
use crate::types::Ino;

/// What was taken, until it is kept.
#[must_use]
pub(super) struct Booking<'a> {
    quota: &'a Mutex<Quota>,
    taken: Taken,
}

impl Volume {
    /// A booking of nothing yet.
    pub(super) fn booking(&self) -> Booking<'_> {
        Booking {
            quota: &self.quota,
            taken: self.quota().begin_taking(),
        }
    }

    /// Books a change of a file's charge: growth is refused where it does not fit. An unlinked file is
    /// charged nothing: nobody will publish it.
    pub(super) fn book(&self, ino: Ino, cost: i64) -> Result<Booking<'_>, FsError> {
        let mut booked = self.booking();
        if !self.files.is_orphan(ino) {
            match u64::try_from(cost) {
                Ok(growth) => booked.grow(growth)?,
                Err(_) => booked.adjust(cost),
            }
        }
        Ok(booked)
    }
}

impl Booking<'_> {
    /// Takes `bytes` for growth.
    ///
    /// # Errors
    /// [`FsError::Quota`] when they do not fit.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), FsError> {
        lock(self.quota).grow(bytes)?;
        self.taken.note(signed(bytes));
        Ok(())
    }

    /// Books a change that is not growth, up or down: never refused.
    pub(super) fn adjust(&mut self, delta: i64) {
        lock(self.quota).adjust(delta);
        self.taken.note(delta);
    }

    /// Takes as much as `take` finds to fit: what that is, and its charge.
    pub(super) fn fit(
        &mut self,
        take: impl FnOnce(&mut Quota) -> Result<(u64, i64), FsError>,
    ) -> Result<u64, FsError> {
        let (fits, cost) = take(&mut lock(self.quota))?;
        self.taken.note(cost);
        Ok(fits)
    }

    /// Reserves what a write of `len` bytes at `offset` sends once more of a file of `size` bytes.
    ///
    /// # Errors
    /// [`FsError::Quota`] when it does not fit.
    pub(super) fn rewrite(
        &mut self,
        ino: Ino,
        offset: u64,
        len: u64,
        size: u64,
    ) -> Result<(), FsError> {
        lock(self.quota).rewrite(&mut self.taken, ino, offset, len, size)
    }

    /// The write ends at `end`: what was reserved for chunks behind it is given back.
    pub(super) fn ends_at(&mut self, end: u64) {
        lock(self.quota).end_rewrite(&mut self.taken, end);
    }

    /// The operation is made.
    pub(super) fn keep(mut self) {
        self.taken = Taken::default();
    }
}

impl Drop for Booking<'_> {
    fn drop(&mut self) {
        if !self.taken.is_nothing() {
            lock(self.quota).give_back(&self.taken);
        }
    }
}
