//! What an operation has taken from the quota before it is sure to succeed.
//!
//! Invariant: dropped before [`Reservation::confirm`] it gives back all that it took, so an operation that fails anywhere
//! leaves the quota as it was. What was reserved for a file stands in its account; the file's content stays locked until
//! the reservation ends.

use std::ops::Range;

use super::FsError;
use super::account::{Due, Held};
use super::files::File;
use super::preallocation::Preallocation;
use super::quota::{Claim, SharedQuota, Taken, signed};
use crate::pack::chunk::CHUNK_SIZE;

/// What was taken, until it is confirmed.
#[must_use]
pub(super) struct Reservation<'a> {
    quota: &'a SharedQuota,
    taken: Taken,
    claim: Claim,
    file: Option<Charged<'a>>,
}

/// What was reserved for a file.
struct Charged<'a> {
    file: &'a File,
    /// What was held for it before.
    before: Held,
    /// Its room once this is confirmed, if it changes.
    room: Option<Preallocation>,
}

impl SharedQuota {
    /// A reservation of nothing yet, for ordinary growth.
    pub(super) fn reservation(&self) -> Reservation<'_> {
        self.reservation_for(Claim::Ordinary)
    }

    /// A reservation of nothing yet.
    pub(super) fn reservation_for(&self, claim: Claim) -> Reservation<'_> {
        Reservation {
            quota: self,
            taken: self.lock().begin_taking(),
            claim,
            file: None,
        }
    }
}

impl<'a> Reservation<'a> {
    /// Takes `bytes` for growth.
    ///
    /// # Errors
    /// [`FsError::Quota`] when they do not fit.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), FsError> {
        self.quota.lock().grow_as(bytes, self.claim)?;
        self.taken.note(signed(bytes));
        Ok(())
    }

    /// Takes a change that is not growth, up or down: never refused.
    pub(super) fn adjust(&mut self, delta: i64) {
        self.quota.lock().adjust(delta);
        self.taken.note(delta);
    }

    /// Reserves what `due` makes of the room of `file`. One without a name is charged nothing: nobody will
    /// publish it.
    ///
    /// # Errors
    /// [`FsError::Quota`] when that is growth that does not fit.
    pub(super) fn charge(
        &mut self,
        file: &'a File,
        due: impl FnOnce(&Preallocation) -> Due,
    ) -> Result<(), FsError> {
        self.charge_as(file, due, self.claim)
    }

    /// As [`Reservation::charge`], whatever is left.
    pub(super) fn force(&mut self, file: &'a File, due: impl FnOnce(&Preallocation) -> Due) {
        let forced = self.charge_as(file, due, Claim::Forced);
        debug_assert!(forced.is_ok());
    }

    fn charge_as(
        &mut self,
        file: &'a File,
        due: impl FnOnce(&Preallocation) -> Due,
        claim: Claim,
    ) -> Result<(), FsError> {
        let mut quota = self.quota.lock();
        let mut account = file.account.with(&quota);
        if account.is_closed() {
            return Ok(());
        }
        let (before, due) = (account.held, due(&account.room));
        let used = signed(due.held.charged) - signed(before.charged);
        let kept = signed(due.held.kept) - signed(before.kept);
        quota.hold(used, kept, claim)?;
        self.taken.note(used);
        self.taken.note_kept(kept);
        account.held = due.held;
        self.file = Some(Charged {
            file,
            before,
            room: due.room,
        });
        Ok(())
    }

    /// Reserves as many of `wanted` bytes as fit, at least one; how many. `due` says what so many of them make of
    /// the room, which does not fall as they become more.
    ///
    /// # Errors
    /// [`FsError::Quota`] when none fits.
    pub(super) fn fit(
        &mut self,
        file: &'a File,
        wanted: u64,
        due: impl Fn(&Preallocation, u64) -> Due,
    ) -> Result<u64, FsError> {
        loop {
            if self.charge(file, |room| due(room, wanted)).is_ok() {
                return Ok(wanted);
            }
            let (before, kept, room) = {
                let quota = self.quota.lock();
                let account = file.account.with(&quota);
                (
                    account.held.total(),
                    account.room.clone(),
                    quota.room_for(self.claim),
                )
            };
            let (mut fits, mut beyond) = (0, wanted);
            while beyond - fits > 1 {
                let middle = fits + (beyond - fits) / 2;
                match due(&kept, middle).held.total().saturating_sub(before) <= room {
                    true => fits = middle,
                    false => beyond = middle,
                }
            }
            if fits == 0 {
                return Err(FsError::Quota);
            }
            // Somebody else may have taken of it meanwhile.
            if self.charge(file, |room| due(room, fits)).is_ok() {
                return Ok(fits);
            }
        }
    }

    /// Reserves what a change of `range` sends once more of `file`, which has `size` bytes: all of the chunks
    /// that it touches, and of the last one where the file becomes longer.
    ///
    /// # Errors
    /// [`FsError::Quota`] when it does not fit.
    pub(super) fn rewrite(
        &mut self,
        file: &File,
        range: &Range<u64>,
        size: u64,
    ) -> Result<(), FsError> {
        self.rewrite_as(file, range, size, self.claim)
    }

    /// As [`Reservation::rewrite`], whatever is left.
    pub(super) fn force_rewrite(&mut self, file: &File, range: &Range<u64>, size: u64) {
        let forced = self.rewrite_as(file, range, size, Claim::Forced);
        debug_assert!(forced.is_ok());
    }

    fn rewrite_as(
        &mut self,
        file: &File,
        range: &Range<u64>,
        size: u64,
        claim: Claim,
    ) -> Result<(), FsError> {
        let mut quota = self.quota.lock();
        if range.is_empty() || file.account.with(&quota).is_closed() {
            return Ok(());
        }
        if range.end > size && !size.is_multiple_of(CHUNK_SIZE) {
            quota.rewrite(&mut self.taken, file.ino, &(size - 1..size), size, claim)?;
        }
        quota.rewrite(&mut self.taken, file.ino, range, size, claim)
    }

    /// The write ends at `end`: what was reserved for chunks behind it is given back.
    pub(super) fn ends_at(&mut self, end: u64) {
        self.quota.lock().end_rewrite(&mut self.taken, end);
    }

    /// The operation succeeds.
    pub(super) fn confirm(mut self) {
        let mut quota = self.quota.lock();
        quota.keep(&std::mem::take(&mut self.taken));
        if let Some(Charged {
            file,
            room: Some(room),
            ..
        }) = self.file.take()
        {
            let mut account = file.account.with(&quota);
            if !account.is_closed() {
                account.room = room;
            }
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let charged = self.file.take();
        if charged.is_none() && self.taken.is_nothing() {
            return;
        }
        let mut quota = self.quota.lock();
        if let Some(Charged { file, before, .. }) = charged {
            let mut account = file.account.with(&quota);
            match account.is_closed() {
                // With the last name all of it was given back.
                true => self.taken.forget_used(),
                false => account.held = before,
            }
        }
        quota.give_back(&self.taken);
    }
}
