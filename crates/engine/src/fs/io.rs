//! Reading and writing content, and its length.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::account::Due;
use super::body::{Body, INLINE_MAX, Source};
use super::files::File;
use super::preallocation::Preallocation;
use super::quota::Claim;
use super::volume::Volume;
use super::{FsError, Want};
use crate::journal::StageFile;
use crate::journal::record::Base;
use crate::pack::chunk::{CHUNK_SIZE, MAX_FILE};
use crate::types::Ino;

/// On what terms bytes are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// The descriptor appends, now: the offset is the end of the file as the kernel knows it.
    pub appends: bool,
    /// Only as long as the file was not read oftener than so: see [`super::Drive::reads`].
    pub reads: Option<u64>,
}

impl Volume {
    /// Up to `len` bytes of a held file from `offset`.
    pub(super) fn read(&self, file: &File, offset: u64, len: u32) -> Result<Vec<u8>, FsError> {
        let body = file.body();
        file.reads.fetch_add(1, Ordering::SeqCst);
        let end = offset.saturating_add(u64::from(len)).min(body.size);
        if offset >= end {
            return Ok(Vec::new());
        }
        if let Some(bytes) = &body.inline {
            let range = offset as usize..end as usize;
            return Ok(bytes.get(range).unwrap_or_default().to_vec());
        }
        let mut buffer = vec![0; (end - offset) as usize];
        for (range, source) in body.sources(offset..end) {
            let at = (range.start - offset) as usize..(range.end - offset) as usize;
            let Some(part) = buffer.get_mut(at) else {
                continue;
            };
            match (source, &body.stage, &body.base) {
                (Source::Stage, Some(stage), _) => stage.read_at(part, range.start)?,
                (Source::Base, _, Some(base)) => {
                    let (cid, size) = (base.cid.0, base.size);
                    if !self.read_here(base, range.start, part) {
                        return Err(FsError::NotLocal(Box::new(Want::Content {
                            slot: 0,
                            ino: file.ino,
                            cid,
                            size,
                            offset: range.start,
                            len: range.end - range.start,
                        })));
                    }
                }
                _ => {}
            }
        }
        Ok(buffer)
    }

    /// Reads a part of what is published where it is on this machine; false where it is not.
    pub(super) fn read_here(&self, base: &Base, offset: u64, part: &mut [u8]) -> bool {
        let (cid, size) = (base.cid.0, base.size);
        self.cache.read(&cid, size, offset, part) || self.read_adopted(&cid, size, offset, part)
    }

    /// Reads a part of a content that was published just now, and lies in a stage file until the cache takes it over;
    /// false where there is none.
    fn read_adopted(&self, cid: &cid::Cid, size: u64, offset: u64, part: &mut [u8]) -> bool {
        let content = (*cid, size);
        let Some(number) = self.adoptions.lock().holding(&content) else {
            return false;
        };
        let read = self.stage.get(number);
        let is_read = read.is_ok_and(|stage| stage.read_at(part, offset).is_ok());
        // What the cache has taken over meanwhile it may have emptied.
        is_read && self.adoptions.lock().holds(number, &content)
    }

    /// Writes `data` at `offset` of a held file, as much of it as the quota has room for. `None` where the
    /// terms forbid it.
    ///
    /// The kernel lets one write to a file in at a time, and knows of every one that was answered: so the end
    /// that it takes for one that appends is the true one, and it alone knows which do (`RWF_APPEND`,
    /// `RWF_NOAPPEND`). It does not know how long the files are of a tree that took this one's place.
    pub(super) fn write(
        &self,
        file: &File,
        offset: u64,
        data: &[u8],
        terms: Terms,
    ) -> Result<Option<u32>, FsError> {
        let admitted = (self.quota()).admit_write(self.clock.as_ref(), file.ino)?;
        self.check_room(data.len() as u64)?;
        let mut body = self.body_to_change(file)?;
        let reads = file.reads.load(Ordering::SeqCst);
        if terms.reads.is_some_and(|known| known != reads) {
            return Ok(None);
        }
        let behind_the_kernel = terms.appends && self.takeover.has_begun();
        let offset = if behind_the_kernel { body.size } else { offset };
        let wanted = data.len() as u64;
        if offset.checked_add(wanted).is_none_or(|end| end > MAX_FILE) {
            return Err(FsError::TooLarge);
        }
        let claim = admitted.up_to(offset + wanted)?;
        if wanted == 0 {
            return Ok(Some(0));
        }
        let mut rewritten = self.quota.reservation_for(claim);
        rewritten.rewrite(file, &(offset..offset + wanted), body.size)?;
        let mut grown = self.quota.reservation_for(claim);
        let due = |room: &Preallocation, len| Due::written(&body, room, &(offset..offset + len));
        let mut fits = grown.fit(file, wanted, due);
        // However the kernel splits a write, as much of it fits: the part that a small file may have uses the reserve.
        let small = admitted.small_part(offset);
        if small < wanted && *fits.as_ref().unwrap_or(&0) < small {
            grown = self.quota.reservation_for(Claim::SmallFile);
            fits = grown.fit(file, small, due);
        }
        let fits = fits?;
        rewritten.ends_at(offset + fits);
        let data = data.get(..fits as usize).unwrap_or(data);
        let before = body.version;
        // What was stored in part was not acknowledged and is mapped nowhere.
        let stored = self.store(file.ino, &mut body, offset, data);
        if stored.is_ok() || body.version != before {
            // Also what a failed write may have changed is sent once more.
            rewritten.confirm();
        }
        stored?;
        grown.confirm();
        Ok(Some(fits as u32))
    }

    /// Sets the length of a held file. Only a greater length is growth. Room that was kept behind its end
    /// ends.
    pub(super) fn resize(&self, file: &File, size: u64) -> Result<(), FsError> {
        self.quota().check_change()?;
        if size > MAX_FILE {
            return Err(FsError::TooLarge);
        }
        if size == 0 {
            self.save_rewritten(file)?;
        }
        let mut claim = Claim::Ordinary;
        let mut body = loop {
            let grows = size > file.look().size;
            if grows {
                let admitted = (self.quota()).admit_write(self.clock.as_ref(), file.ino)?;
                claim = admitted.up_to(size)?;
                // May wait, so not with the content locked.
                self.check_room(0)?;
            }
            let body = self.body_to_change(file)?;
            // Unless it was made shorter since.
            if grows || size <= body.size {
                break body;
            }
        };
        let now = self.clock.wall_ns();
        let charge = body.charge_after_resize(size);
        let mut reserved = self.quota.reservation_for(claim);
        // The chunk at the end that is the shorter one, before or then, is sent once more.
        let end = size.min(body.size);
        let last = end - end % CHUNK_SIZE..end;
        if size > body.size {
            reserved.rewrite(file, &last, end)?;
            reserved.charge(file, |_| Due::without_room(charge))?;
        } else {
            if size < body.size {
                reserved.force_rewrite(file, &last, end);
            }
            // Never refused, also where what was a hole at the end is a short chunk of zeros now.
            reserved.force(file, |_| Due::without_room(charge));
        }
        let version = self.journal.next_version();
        // Also what was empty: a file that is opened to be written anew has begun that.
        if size == 0 || size < body.size {
            self.note_shorter(file.ino, size);
        }
        if size == 0 {
            body.clear(version);
        } else if size < body.size {
            body.cut(size, version);
        } else if size > body.size {
            if !body.stays_inline(size) {
                self.spill(file.ino, &mut body, version)?;
            }
            body.extend(size, version);
        }
        reserved.confirm();
        (body.mtime_ns, body.ctime_ns) = (now, now);
        body.unsaved = true;
        drop(body);
        self.note_unsaved(file.ino);
        Ok(())
    }

    /// `SEEK_DATA` or `SEEK_HOLE` of a held file.
    pub(super) fn seek(&self, file: &File, offset: u64, hole: bool) -> Result<u64, FsError> {
        file.body().seek(offset, hole).ok_or(FsError::NoData)
    }

    /// Puts bytes that were charged where they live until they are published.
    pub(super) fn store(
        &self,
        ino: Ino,
        body: &mut Body,
        offset: u64,
        data: &[u8],
    ) -> Result<(), FsError> {
        let end = offset + data.len() as u64;
        let version = self.journal.next_version();
        if body.stays_inline(end) {
            if let Some(bytes) = &mut body.inline {
                let (start, end) = (offset as usize, end as usize);
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                if let Some(part) = bytes.get_mut(start..end) {
                    part.copy_from_slice(data);
                }
            }
        } else {
            let stage = self.spill(ino, body, version)?;
            self.stage_bytes(ino, body, &stage, offset, data, version)?;
            self.note_ended(ino, offset, data.len() as u64);
        }
        body.written(offset, data.len() as u64, version);
        self.fill_gaps(ino, body, offset, data.len() as u64, version);
        let now = self.clock.wall_ns();
        (body.mtime_ns, body.ctime_ns) = (now, now);
        self.note_unsaved(ino);
        Ok(())
    }

    /// Writes into the stage file of a body, which does not name the bytes yet.
    pub(super) fn stage_bytes(
        &self,
        ino: Ino,
        body: &mut Body,
        stage: &StageFile,
        offset: u64,
        data: &[u8],
        version: u64,
    ) -> Result<(), FsError> {
        let len = data.len() as u64;
        self.keep_for_cut(stage, offset, len)?;
        // From here on it may be another content than what was published of it.
        self.adoptions.lock().remove(stage.number());
        if let Err(error) = stage.write_at(data, offset) {
            // A part of it may have taken the place of bytes that the body names.
            body.disturbed(offset, len, version);
            self.note_unsaved(ino);
            return Err(error.into());
        }
        Ok(())
    }

    /// The stage file of a body, which takes what was inline.
    pub(super) fn spill(
        &self,
        ino: Ino,
        body: &mut Body,
        version: u64,
    ) -> Result<Arc<StageFile>, FsError> {
        if let (Some(stage), None) = (&body.stage, &body.inline) {
            return Ok(Arc::clone(stage));
        }
        let stage = self.stage.create(self.journal.next_stage())?;
        debug_assert!(
            body.inline
                .as_ref()
                .is_none_or(|b| b.len() as u64 <= INLINE_MAX)
        );
        if let Err(error) = body.spill(Arc::clone(&stage), version) {
            // No record names it.
            self.stage.note_gone(vec![stage.number()]);
            return Err(error.into());
        }
        self.note_unsaved(ino);
        Ok(stage)
    }
}
