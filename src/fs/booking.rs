//! What an operation has taken from the quota before it is sure to be made.
//!
//! Invariant: dropped before [`Booking::keep`] it gives back all that it took, so that an operation that
//! fails on its way, wherever that is, leaves the quota as it was. What was booked for a file stands in its
//! account; the file's body is locked until the booking ends. Called by every operation that is
//! charged or gives room back.

use std::sync::Mutex;

use super::files::File;
use super::quota::Taken;
use super::volume::{Volume, lock, signed};
use super::{FsError, Quota};
use crate::types::Ino;

/// What was taken, until it is kept.
#[must_use]
pub(super) struct Booking<'a> {
    quota: &'a Mutex<Quota>,
    taken: Taken,
    /// The file that it was booked for, and what that was charged before.
    file: Option<(&'a File, u64)>,
}

impl Volume {
    /// A booking of nothing yet.
    pub(super) fn booking(&self) -> Booking<'_> {
        Booking {
            quota: &self.quota,
            taken: self.quota().begin_taking(),
            file: None,
        }
    }

    /// Books that a file is charged `charge` bytes: growth is refused where it does not fit.
    pub(super) fn book<'a>(&'a self, file: &'a File, charge: u64) -> Result<Booking<'a>, FsError> {
        let mut booked = self.booking();
        booked.charge(file, charge)?;
        Ok(booked)
    }
}

impl<'a> Booking<'a> {
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

    /// Books that `file` is charged `charge` bytes. One without a name is charged nothing: nobody will
    /// publish it.
    ///
    /// # Errors
    /// [`FsError::Quota`] when that is growth that does not fit.
    pub(super) fn charge(&mut self, file: &'a File, charge: u64) -> Result<(), FsError> {
        self.charge_as(file, charge, |booked, growth| booked.grow(growth))
    }

    /// As [`Booking::charge`], whatever is left.
    pub(super) fn force(&mut self, file: &'a File, charge: u64) {
        let forced = self.charge_as(file, charge, |booked, growth| {
            booked.adjust(signed(growth));
            Ok(())
        });
        debug_assert!(forced.is_ok());
    }

    fn charge_as(
        &mut self,
        file: &'a File,
        charge: u64,
        grow: impl FnOnce(&mut Self, u64) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let mut account = lock(&file.account);
        if account.is_closed() {
            return Ok(());
        }
        let before = account.charged;
        match charge.checked_sub(before) {
            Some(growth) => grow(self, growth)?,
            None => self.adjust(signed(charge) - signed(before)),
        }
        account.charged = charge;
        self.file = Some((file, before));
        Ok(())
    }

    /// Books as many of `wanted` bytes as fit, at least one; how many. With so many of them `file` is charged
    /// what `charge` says, which does not fall as they become more.
    ///
    /// # Errors
    /// [`FsError::Quota`] when none fits.
    pub(super) fn fit(
        &mut self,
        file: &'a File,
        wanted: u64,
        charge: impl Fn(u64) -> u64,
    ) -> Result<u64, FsError> {
        loop {
            if self.charge(file, charge(wanted)).is_ok() {
                return Ok(wanted);
            }
            let before = lock(&file.account).charged;
            let room = lock(self.quota).room_bytes();
            let (mut fits, mut beyond) = (0, wanted);
            while beyond - fits > 1 {
                let middle = fits + (beyond - fits) / 2;
                match charge(middle).saturating_sub(before) <= room {
                    true => fits = middle,
                    false => beyond = middle,
                }
            }
            if fits == 0 {
                return Err(FsError::Quota);
            }
            // Somebody else may have taken of the room meanwhile.
            if self.charge(file, charge(fits)).is_ok() {
                return Ok(fits);
            }
        }
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
        self.file = None;
    }
}

impl Drop for Booking<'_> {
    fn drop(&mut self) {
        let mut account = self
            .file
            .map(|(file, before)| (lock(&file.account), before));
        match &mut account {
            // With the last name all of it was given back.
            Some((account, _)) if account.is_closed() => self.taken.forget_used(),
            Some((account, before)) => account.charged = *before,
            None => {}
        }
        if !self.taken.is_nothing() {
            lock(self.quota).give_back(&self.taken);
        }
    }
}
