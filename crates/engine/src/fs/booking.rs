//! What an operation has taken from the quota before it is sure to be made.
//!
//! Invariant: dropped before [`Booking::keep`] it gives back all that it took, so that an operation that
//! fails on its way, wherever that is, leaves the quota as it was. What was booked for a file stands in its
//! account; the file's body is locked until the booking ends. Called by every operation that is
//! charged or gives room back.

use std::ops::Range;
use std::sync::Mutex;

use super::account::{Due, Held, Room};
use super::files::File;
use super::quota::Taken;
use super::volume::{Volume, lock, signed};
use super::{FsError, Quota};
use crate::pack::chunk::CHUNK_SIZE;

/// What was taken, until it is kept.
#[must_use]
pub(super) struct Booking<'a> {
    quota: &'a Mutex<Quota>,
    taken: Taken,
    file: Option<Booked<'a>>,
}

/// What was booked for a file.
struct Booked<'a> {
    file: &'a File,
    /// What was held for it before.
    before: Held,
    /// Its room when the booking is kept, where that is another one.
    room: Option<Room>,
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

    /// Books what `due` makes of the room of `file`. One without a name is charged nothing: nobody will
    /// publish it.
    ///
    /// # Errors
    /// [`FsError::Quota`] when that is growth that does not fit.
    pub(super) fn charge(
        &mut self,
        file: &'a File,
        due: impl FnOnce(&Room) -> Due,
    ) -> Result<(), FsError> {
        self.charge_as(file, due, true)
    }

    /// As [`Booking::charge`], whatever is left.
    pub(super) fn force(&mut self, file: &'a File, due: impl FnOnce(&Room) -> Due) {
        let forced = self.charge_as(file, due, false);
        debug_assert!(forced.is_ok());
    }

    fn charge_as(
        &mut self,
        file: &'a File,
        due: impl FnOnce(&Room) -> Due,
        may_fail: bool,
    ) -> Result<(), FsError> {
        let mut account = lock(&file.account);
        if account.is_closed() {
            return Ok(());
        }
        let (before, due) = (account.held, due(&account.room));
        let used = signed(due.held.charged) - signed(before.charged);
        let kept = signed(due.held.kept) - signed(before.kept);
        lock(self.quota).hold(used, kept, may_fail)?;
        self.taken.note(used);
        self.taken.note_kept(kept);
        account.held = due.held;
        self.file = Some(Booked {
            file,
            before,
            room: due.room,
        });
        Ok(())
    }

    /// Books as many of `wanted` bytes as fit, at least one; how many. `due` says what so many of them make of
    /// the room, which does not fall as they become more.
    ///
    /// # Errors
    /// [`FsError::Quota`] when none fits.
    pub(super) fn fit(
        &mut self,
        file: &'a File,
        wanted: u64,
        due: impl Fn(&Room, u64) -> Due,
    ) -> Result<u64, FsError> {
        loop {
            if self.charge(file, |room| due(room, wanted)).is_ok() {
                return Ok(wanted);
            }
            let (before, kept) = {
                let account = lock(&file.account);
                (account.held.total(), account.room.clone())
            };
            let room = lock(self.quota).room_bytes();
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
        self.rewrite_as(file, range, size, true)
    }

    /// As [`Booking::rewrite`], whatever is left.
    pub(super) fn force_rewrite(&mut self, file: &File, range: &Range<u64>, size: u64) {
        let forced = self.rewrite_as(file, range, size, false);
        debug_assert!(forced.is_ok());
    }

    fn rewrite_as(
        &mut self,
        file: &File,
        range: &Range<u64>,
        size: u64,
        may_fail: bool,
    ) -> Result<(), FsError> {
        if range.is_empty() || lock(&file.account).is_closed() {
            return Ok(());
        }
        let mut quota = lock(self.quota);
        if range.end > size && !size.is_multiple_of(CHUNK_SIZE) {
            quota.rewrite(&mut self.taken, file.ino, &(size - 1..size), size, may_fail)?;
        }
        quota.rewrite(&mut self.taken, file.ino, range, size, may_fail)
    }

    /// The write ends at `end`: what was reserved for chunks behind it is given back.
    pub(super) fn ends_at(&mut self, end: u64) {
        lock(self.quota).end_rewrite(&mut self.taken, end);
    }

    /// The operation is made.
    pub(super) fn keep(mut self) {
        lock(self.quota).keep(&std::mem::take(&mut self.taken));
        if let Some(Booked {
            file,
            room: Some(room),
            ..
        }) = self.file.take()
        {
            let mut account = lock(&file.account);
            if !account.is_closed() {
                account.room = room;
            }
        }
    }
}

impl Drop for Booking<'_> {
    fn drop(&mut self) {
        let of = self.file.as_ref();
        let mut account = of.map(|of| (lock(&of.file.account), of.before));
        match &mut account {
            // With the last name all of it was given back.
            Some((account, _)) if account.is_closed() => self.taken.forget_used(),
            Some((account, before)) => account.held = *before,
            None => {}
        }
        if !self.taken.is_nothing() {
            lock(self.quota).give_back(&self.taken);
        }
    }
}
