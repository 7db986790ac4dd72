//! `copy_file_range` within a volume: what is published is taken over, the rest copied piece by piece.
//!
//! Invariant: of two files one is locked at a time. What is taken over is charged like anything that is
//! written, and the next commit links the blocks that are there. Called by `drive`.

use std::ops::Range;

use super::FsError;
use super::account::Due;
use super::files::File;
use super::io::Terms;
use super::volume::Volume;
use crate::journal::key;
use crate::pack::chunk::{CHUNK_SIZE, MAX_FILE};

/// Bytes that one call copies at most.
const PIECE: u64 = 4 << 20;

impl Volume {
    /// Copies up to `len` bytes at `offset` of one held file to `to_offset` of another, or of itself;
    /// gives how many, at least one unless `from` ends there.
    ///
    /// # Errors
    /// [`FsError::NotSupported`] where that needs what is not on this machine: the kernel reads it ahead
    /// better.
    pub(super) fn copy(
        &self,
        from: &File,
        offset: u64,
        to: &File,
        to_offset: u64,
        len: u64,
    ) -> Result<u32, FsError> {
        let len = len.min(u64::from(u32::MAX));
        if to_offset.checked_add(len).is_none_or(|end| end > MAX_FILE) {
            return Err(FsError::TooLarge);
        }
        let range = offset..offset.saturating_add(len);
        if offset == to_offset
            && from.ino != to.ino
            && let Some(taken) = self.share(from, to, &range)?
        {
            return Ok(taken);
        }
        let mut end = range.end.min(offset + PIECE);
        if end > CHUNK_SIZE + offset {
            // So that the next call begins with a chunk, which may be shared.
            end -= end % CHUNK_SIZE;
        }
        let bytes = match self.read(from, offset, (end - offset) as u32) {
            Err(FsError::NotLocal(_)) => return Err(FsError::NotSupported),
            other => other?,
        };
        let copied = self.write(to, to_offset, &bytes, Terms::default())?;
        Ok(copied.unwrap_or(0))
    }

    /// Has `to` take over what `from` has published of `range`; how many bytes of it. `None` where that
    /// is not to be had.
    fn share(&self, from: &File, to: &File, range: &Range<u64>) -> Result<Option<u32>, FsError> {
        self.quota().check_write(self.clock.as_ref())?;
        self.check_room(0)?;
        // What no published tree holds, or will hold, may go from the node before it is published anew.
        let unnamed = self.files.is_orphan(from.ino) || self.files.is_orphan(to.ino);
        if unnamed || self.journal.get(&key::lost(from.ino))?.is_some() {
            return Ok(None);
        }
        let Some(shared) = from.body().shareable(range) else {
            return Ok(None);
        };
        let mut body = self.body_to_change(to)?;
        let Some(shared) = body.fitting(shared) else {
            return Ok(None);
        };
        // Where room is kept for what is to come, that is written.
        if to.account.keeps_room() {
            return Ok(None);
        }
        let charge = body.charge_after_share(&shared);
        let mut reserved = self.quota.reservation();
        match reserved.charge(to, |_| Due::without_room(charge)) {
            // As many bytes as fit are copied instead.
            Err(FsError::Quota) => return Ok(None),
            other => other?,
        }
        reserved.confirm();
        self.note_shared(to.ino);
        body.share(&shared, self.journal.next_version());
        let now = self.clock.wall_ns();
        (body.mtime_ns, body.ctime_ns) = (now, now);
        drop(body);
        self.note_unsaved(to.ino);
        let taken = shared.range().end - shared.range().start;
        Ok(u32::try_from(taken).ok())
    }
}
