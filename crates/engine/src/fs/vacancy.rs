//! Room on the local disk for what is accepted.
//!
//! Invariant: what is written while there is little of it does not fill the disk, so that what was accepted can still be kept
//! and published. Called by `io`, `allocate` and `late`; `run` tells of a disk that is full.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::FsError;
use super::volume::Volume;

/// Local room that is never given to new data, in bytes: the journal needs it to go on.
const SPARE_BYTES: u64 = 8 << 20;
/// How long a writer waits for local room, and how many may wait at once.
const ROOM_WAIT: Duration = Duration::from_secs(3);
const ROOM_WAITERS: usize = 2;
/// The most that the kernel writes in one call, in bytes.
const CALL_BYTES: u64 = 1 << 20;

impl Volume {
    /// Waits, within a bound, until the local disk has room for `len` more bytes, and for what a running cut keeps
    /// of what they are written over; not where nobody works in the background who would make room.
    pub(super) fn check_room(&self, len: u64) -> Result<(), FsError> {
        self.journal.wait_for_room()?;
        let needed = self.needed_room(len);
        let has_room = || Ok::<bool, FsError>(self.stage.free_bytes()? >= needed);
        if has_room()? {
            return Ok(());
        }
        self.give_way(needed);
        let patience = match self.journal.is_attended() {
            true => ROOM_WAIT,
            false => Duration::ZERO,
        };
        let waiting = self.room_waiters.fetch_add(1, Ordering::AcqRel);
        let step = Duration::from_millis(100);
        let mut waited = Duration::ZERO;
        let result = loop {
            if waiting >= ROOM_WAITERS || waited >= patience {
                break Err(FsError::NoRoom);
            }
            std::thread::sleep(step);
            waited += step;
            match has_room() {
                Ok(false) => {}
                Ok(true) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.room_waiters.fetch_sub(1, Ordering::AcqRel);
        result
    }

    /// Local room, in bytes, with which `len` more are sure not to fill the disk.
    pub(super) fn needed_room(&self, len: u64) -> u64 {
        SPARE_BYTES + len + self.spool_room(len) + 3 * self.journal.overlay_bytes()
    }

    /// The bytes that are free on the local disk, where these are too few for a call of the kernel to be written.
    #[must_use]
    pub fn full_disk(&self) -> Option<u64> {
        let free = self.stage.free_bytes().ok()?;
        (free < self.needed_room(CALL_BYTES)).then_some(free)
    }
}
