//! `fallocate`: room taken or kept, ranges zeroed, holes punched.
//!
//! Invariant: nothing of the published content is read or copied. Whole chunks change in the records
//! alone; what is zeroed of the two chunks at the ends is written like any bytes. Called by `drive`.

use std::ops::Range;

use super::FsError;
use super::account::Due;
use super::body::{Body, Source, edges};
use super::files::File;
use super::preallocation::Preallocation;
use super::volume::Volume;
use crate::pack::chunk::{CHUNK_SIZE, MAX_FILE};
use crate::types::Ino;

/// `FALLOC_FL_KEEP_SIZE`, `FALLOC_FL_PUNCH_HOLE` and `FALLOC_FL_ZERO_RANGE` of fallocate(2).
const KEEP_SIZE: i32 = 0x01;
const PUNCH_HOLE: i32 = 0x02;
const ZERO_RANGE: i32 = 0x10;

/// Greatest number of chunks that one call turns into data: each takes a record.
const MAX_ALLOCATED_CHUNKS: u64 = 1 << 16;

impl Volume {
    /// Allocates, zeroes or punches `len` bytes at `offset` of a held file; `mode` as fallocate(2).
    pub(super) fn fallocate(
        &self,
        file: &File,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> Result<(), FsError> {
        let end = offset.checked_add(len).filter(|end| *end <= MAX_FILE);
        let range = offset..end.ok_or(FsError::TooLarge)?;
        if len == 0 {
            return Err(FsError::Invalid);
        }
        match mode & !KEEP_SIZE {
            0 | ZERO_RANGE => self.allocate(file, range, mode),
            PUNCH_HOLE if mode & KEEP_SIZE != 0 => self.punch(file, range),
            _ => Err(FsError::NotSupported),
        }
    }

    /// Makes the holes of `range` data. With [`ZERO_RANGE`] all of it is zeros then; with [`KEEP_SIZE`] room
    /// is kept for what lies behind the end, as long as somebody has the file open.
    fn allocate(&self, file: &File, range: Range<u64>, mode: i32) -> Result<(), FsError> {
        let (keeps_size, zeroes) = (mode & KEEP_SIZE != 0, mode & ZERO_RANGE != 0);
        self.quota().check_write(self.clock.as_ref())?;
        // What a write costs then depends on how many commits come before it.
        let can_keep = keeps_size && !self.quota().is_additive();
        let growth = match can_keep {
            true => self.check_quota(file, &range)?,
            false => 0,
        };
        self.check_room(growth + if zeroes { 2 * CHUNK_SIZE } else { 0 })?;
        let mut body = self.body_to_change(file)?;
        if keeps_size && !can_keep && range.end > body.size {
            return Err(FsError::NotSupported);
        }
        let asked = range.clone();
        let end = if keeps_size {
            range.end.min(body.size)
        } else {
            range.end
        };
        let range = range.start.min(end)..end;
        let mut reserved = self.quota.reservation();
        reserved.charge(file, |room| match can_keep {
            true => kept(&body, room, &asked),
            false => Due::written(&body, room, &range),
        })?;
        // After the quota: where this is not supported, programs write a byte in each block instead.
        if (range.end - range.start) / CHUNK_SIZE > MAX_ALLOCATED_CHUNKS {
            return Err(FsError::NotSupported);
        }
        if range.is_empty() {
            reserved.confirm();
            return Ok(());
        }
        let mut rewritten = self.quota.reservation();
        let changed = match zeroes {
            true => range.clone(),
            false => range.end.min(body.size)..range.end,
        };
        rewritten.rewrite(file, &changed, body.size)?;
        let before = body.version;
        let version = self.journal.next_version();
        let prepared = self.prepare(file.ino, &mut body, &range, zeroes, version);
        if prepared.is_ok() || body.version != before {
            rewritten.confirm();
        }
        if prepared.is_err() {
            // A part of it may be zeroed.
            self.note_unsaved(file.ino);
        }
        prepared?;
        reserved.confirm();
        body.allocate(range.clone(), version);
        let now = self.clock.wall_ns();
        (body.mtime_ns, body.ctime_ns) = (now, now);
        if zeroes {
            body.blank(&range, version);
        }
        drop(body);
        self.note_unsaved(file.ino);
        Ok(())
    }

    /// What `range` adds to what is held for a file, its length staying as it is.
    ///
    /// # Errors
    /// [`FsError::Quota`] where that does not fit: the disk need not be asked for it.
    fn check_quota(&self, file: &File, range: &Range<u64>) -> Result<u64, FsError> {
        let body = file.body();
        let quota = self.quota();
        let account = file.account.with(&quota);
        if account.is_closed() {
            return Ok(0);
        }
        let due = kept(&body, &account.room, range);
        let growth = due.held.total().saturating_sub(account.held.total());
        match growth > quota.room_bytes() {
            true => Err(FsError::Quota),
            false => Ok(growth),
        }
    }

    /// Does what may fail before the records change: content that grows beyond the small goes to the
    /// stage, and what is to be zeroed of chunks that stay is written.
    fn prepare(
        &self,
        ino: Ino,
        body: &mut Body,
        range: &Range<u64>,
        zeroes: bool,
        version: u64,
    ) -> Result<(), FsError> {
        let size = body.size.max(range.end);
        if size > body.size && !body.stays_inline(size) {
            self.spill(ino, body, version)?;
        }
        if zeroes {
            for part in parts_to_zero(body, range, size) {
                self.write_zeros(ino, body, part, version)?;
            }
        }
        Ok(())
    }

    /// Makes the whole chunks of `range` holes, and zeros of the rest of it. Never growth.
    fn punch(&self, file: &File, range: Range<u64>) -> Result<(), FsError> {
        self.quota().check_change()?;
        let written = edges(&range, file.body().size)
            .iter()
            .any(|e| !e.is_empty());
        match written {
            true => self.check_room(2 * CHUNK_SIZE)?,
            // Also where there is no room at all: it makes some.
            false => self.journal.wait_for_room()?,
        }
        let mut body = self.body_to_change(file)?;
        let punched = range.clone();
        let give_back = |body: &Body| {
            let mut reserved = self.quota.reservation();
            reserved.force(file, |room| {
                Due::with_room(body, room.without(&punched), &(0..0))
            });
            reserved.confirm();
        };
        let range = range.start..range.end.min(body.size);
        if range.is_empty() {
            give_back(&body);
            return Ok(());
        }
        let version = self.journal.next_version();
        let parts = parts_to_zero(&body, &range, body.size);
        let mut rewritten = self.quota.reservation();
        for part in &parts {
            rewritten.force_rewrite(file, part, body.size);
        }
        rewritten.confirm();
        let zeroed = parts
            .into_iter()
            .try_for_each(|part| self.write_zeros(file.ino, &mut body, part, version));
        if zeroed.is_ok() {
            body.punch(&range, version);
            give_back(&body);
        }
        let now = self.clock.wall_ns();
        (body.mtime_ns, body.ctime_ns) = (now, now);
        drop(body);
        self.note_unsaved(file.ino);
        zeroed
    }

    /// Zeros in `range`, as far as the file has it, where it does not read as zeros already.
    fn write_zeros(
        &self,
        ino: Ino,
        body: &mut Body,
        range: Range<u64>,
        version: u64,
    ) -> Result<(), FsError> {
        let range = range.start..range.end.min(body.size);
        if range.is_empty() {
            return Ok(());
        }
        if let Some(bytes) = &mut body.inline {
            let part = bytes.get_mut(range.start as usize..range.end as usize);
            part.unwrap_or_default().fill(0);
            body.written(range.start, range.end - range.start, version);
            return Ok(());
        }
        for (part, source) in body.sources(range) {
            if source == Source::Zero {
                continue;
            }
            let len = part.end - part.start;
            let stage = self.spill(ino, body, version)?;
            let zeros = vec![0; len as usize];
            self.stage_bytes(ino, body, &stage, part.start, &zeros, version)?;
            body.written(part.start, len, version);
            self.fill_gaps(ino, body, part.start, len, version);
        }
        Ok(())
    }
}

/// After `range` was allocated as far as the file has it, and room is kept for the rest.
fn kept(body: &Body, room: &Preallocation, range: &Range<u64>) -> Due {
    let end = range.end.min(body.size);
    let behind = range.start.max(body.size)..range.end;
    Due::with_room(body, room.with(&behind), &(range.start.min(end)..end))
}

/// What of `range` has to be zeroed byte by byte, in a file of `size` bytes: content that is inline has
/// no chunks.
fn parts_to_zero(body: &Body, range: &Range<u64>, size: u64) -> [Range<u64>; 2] {
    match body.inline {
        Some(_) => [range.clone(), range.end..range.end],
        None => edges(range, size),
    }
}
