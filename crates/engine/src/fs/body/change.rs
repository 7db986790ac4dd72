//! What changes the content: writes, lengths, allocation, and a commit that becomes the base.
//!
//! Invariant: the caller has reserved the difference of charge, and bytes that [`Body::written`] books
//! are in the stage file (or inline) already.

use std::ops::Range;
use std::sync::Arc;

use super::{Body, Staged, chunks_of, count, whole_chunks, within};
use crate::fs::ranges::Ranges;
use crate::journal::record::Base;
use crate::journal::{JournalError, StageFile};
use crate::pack::chunk::CHUNK_SIZE;
use crate::pack::holes::Holes;

impl Body {
    /// Moves inline content into `stage`.
    pub(crate) fn spill(
        &mut self,
        stage: Arc<StageFile>,
        version: u64,
    ) -> Result<(), JournalError> {
        let bytes = self.inline.as_deref().unwrap_or_default();
        if !bytes.is_empty() {
            stage.write_at(bytes, 0)?;
        }
        let len = bytes.len() as u32;
        self.stage = Some(stage);
        self.inline = None;
        if len > 0 {
            let staged = self.touch(0, version);
            staged.ranges.insert(0..len);
            staged.fresh = true;
        }
        self.changed(version);
        Ok(())
    }

    /// Books `len` bytes at `offset` that were written inline or into the stage file.
    pub(crate) fn written(&mut self, offset: u64, len: u64, version: u64) {
        let end = offset + len;
        let inline = self.inline.is_some();
        if end > self.size || offset > self.size {
            self.grow_to(end.max(self.size), version);
        }
        for index in chunks_of(offset, len) {
            let hole = self.holes.contains(index);
            self.holes.remove(index..index + 1);
            if !inline {
                let inside = within(&(offset..end), index);
                let staged = self.touch(index, version);
                staged.fresh |= hole;
                staged.ranges.insert(inside);
            }
        }
        self.limit_holes(version);
        self.changed(version);
    }

    /// Bytes of `len` at `offset` may have changed in the stage file, where a write failed: the chunks
    /// that have any there are not what was saved or published.
    pub(crate) fn disturbed(&mut self, offset: u64, len: u64, version: u64) {
        for index in chunks_of(offset, len) {
            if self.staged.contains_key(&index) {
                self.touch(index, version);
            }
        }
        self.changed(version);
    }

    /// Extends the length to `size`: what is new reads as zeros.
    pub(crate) fn extend(&mut self, size: u64, version: u64) {
        if let Some(bytes) = &mut self.inline {
            bytes.resize(size as usize, 0);
            self.size = size;
        } else {
            self.grow_to(size, version);
            self.limit_holes(version);
        }
        self.changed(version);
    }

    /// Makes the chunks of `range` data: allocated, read as before, or as zeros behind the old end.
    pub(crate) fn allocate(&mut self, range: Range<u64>, version: u64) {
        if let Some(bytes) = &mut self.inline {
            self.size = self.size.max(range.end);
            bytes.resize(self.size as usize, 0);
        } else {
            if range.end > self.size {
                self.grow_to(range.end, version);
            }
            for index in chunks_of(range.start, range.end - range.start) {
                if self.holes.contains(index) {
                    self.holes.remove(index..index + 1);
                    self.touch(index, version).fresh = true;
                }
            }
            self.limit_holes(version);
        }
        self.changed(version);
    }

    /// Makes the chunks that `range` covers zeros that are data. Inline content is zeroed by who writes it.
    pub(crate) fn blank(&mut self, range: &Range<u64>, version: u64) {
        if self.inline.is_none() {
            for index in whole_chunks(range, self.size) {
                let staged = self.touch(index, version);
                staged.ranges = Ranges::default();
                staged.fresh = true;
            }
        }
        self.changed(version);
    }

    /// Makes the chunks that `range` covers holes: nothing staged or published of them counts any more.
    pub(crate) fn punch(&mut self, range: &Range<u64>, version: u64) {
        if self.inline.is_none() {
            let chunks = whole_chunks(range, self.size);
            let staged: Vec<u64> = self.staged.range(chunks.clone()).map(|(i, _)| *i).collect();
            for index in staged {
                self.staged.remove(&index);
                self.dropped.insert(index);
            }
            self.holes.insert(chunks);
            self.limit_holes(version);
            self.retire_unused();
        }
        self.changed(version);
    }

    /// Cuts the length to `size`, above 0.
    pub(crate) fn cut(&mut self, size: u64, version: u64) {
        if let Some(bytes) = &mut self.inline {
            bytes.truncate(size as usize);
        } else {
            let kept = count(size);
            for index in self.staged.split_off(&kept).into_keys() {
                self.dropped.insert(index);
            }
            self.holes.truncate(kept);
            let last = kept - 1;
            let inside = (size - last * CHUNK_SIZE) as u32;
            if !self.holes.contains(last) {
                self.touch(last, version).ranges.truncate(inside);
            }
            if let Some(base) = &mut self.base {
                base.valid = base.valid.min(size);
            }
        }
        self.size = size;
        self.cuts += 1;
        self.changed(version);
    }

    /// Cuts the length to 0: the content begins anew, in a stage file of its own.
    pub(crate) fn clear(&mut self, version: u64) {
        self.dropped
            .extend(std::mem::take(&mut self.staged).into_keys());
        self.retired
            .extend(self.stage.take().map(|stage| stage.number()));
        self.holes = Holes::none();
        self.base = None;
        self.inline = Some(Vec::new());
        self.size = 0;
        self.cuts += 1;
        self.changed(version);
    }

    /// Takes a published base: the commit held the content of `version`. What is staged stays so, which changes
    /// nothing of what it reads as: see [`Body::drop_clean`]. False where nothing of it is below this content.
    pub(crate) fn settle(&mut self, base: Base, version: u64) -> bool {
        self.unsaved = true;
        let unchanged = self.version == version;
        // What is empty goes on as a new file does: what is written to it next may be small.
        if unchanged && self.size > 0 {
            self.inline = None;
        }
        if self.inline.is_some() && !unchanged {
            self.published = version;
            return false;
        }
        self.base = Some(base);
        true
    }

    /// After [`Body::settle`]: lets go of up to `most` of the staged chunks from `from` on that are as the commit of
    /// `version` held them, with the chunks at these versions, so that the base has them. Gives the one to go on
    /// with, while there is more; the content counts as published when there is not. A crash between two of these
    /// steps finds what a step before left: each chunk staged, or in the base, with the same bytes.
    pub(crate) fn drop_clean(
        &mut self,
        version: u64,
        chunk_version: impl Fn(u64) -> Option<u64>,
        from: u64,
        most: usize,
    ) -> Option<u64> {
        let mut clean = self
            .staged
            .range(from..)
            .filter(|(index, staged)| chunk_version(**index) == Some(staged.version))
            .map(|(index, _)| *index);
        let page: Vec<u64> = clean.by_ref().take(most).collect();
        let next = clean.next();
        for index in page {
            self.staged.remove(&index);
            self.dropped.insert(index);
        }
        self.unsaved = true;
        self.settling = next.is_some() && self.version == version;
        if next.is_none() {
            self.published = version;
            self.retire_unused();
        }
        next
    }

    /// Lets go of a stage file that nothing is staged in.
    pub(super) fn retire_unused(&mut self) {
        if self.staged.is_empty() {
            self.retired
                .extend(self.stage.take().map(|stage| stage.number()));
        }
    }

    /// Marks the content as changed.
    pub(super) fn changed(&mut self, version: u64) {
        self.version = version;
        self.unsaved = true;
        self.settling = false;
    }

    fn touch(&mut self, index: u64, version: u64) -> &mut Staged {
        self.dropped.remove(&index);
        self.touched.insert(index);
        let staged = self.staged.entry(index).or_default();
        staged.version = version;
        staged
    }

    pub(super) fn grow_to(&mut self, size: u64, version: u64) {
        if self.inline.is_none() {
            let end = self.end_chunk();
            if !self.size.is_multiple_of(CHUNK_SIZE) && !self.holes.contains(end - 1) {
                self.touch(end - 1, version);
            }
            self.holes.insert(end..count(size));
        }
        self.size = size;
    }

    pub(super) fn limit_holes(&mut self, version: u64) {
        for run in self.holes.limit() {
            for index in run {
                self.touch(index, version).fresh = true;
            }
        }
    }
}
