//! The content of one regular file while it is in use: inline, or staged chunks over a base.
//!
//! Invariant: a byte below `size` is, in this order, inline; in a hole: zero; in a staged range:
//! the stage file's; in a fresh chunk or behind `base.valid`: zero; else the base's. A change moves
//! the charge by what [`Body::charge`] says before and after, which the caller has reserved.
//! Pure but for the stage file: the caller holds the file's lock.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::ranges::Ranges;
use crate::journal::record::{self, Base};
use crate::journal::{JournalError, StageFile};
use crate::pack::charge::file_charge;
use crate::pack::chunk::{self, CHUNK_SIZE};
use crate::pack::holes::Holes;

/// Content up to this length, in bytes, lives in the journal until it is published.
pub(crate) const INLINE_MAX: u64 = 64 << 10;

/// One chunk that differs from the base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Staged {
    pub(crate) version: u64,
    pub(crate) ranges: Ranges,
    pub(crate) fresh: bool,
    /// Differs from its record in the journal.
    unsaved: bool,
}

/// Where a part of a read comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Zeros.
    Zero,
    /// The stage file, at the same offset.
    Stage,
    /// The published content, at the same offset.
    Base,
}

/// What [`Body::save`] writes into the journal.
pub(crate) struct Saved {
    pub(crate) content: record::Content,
    pub(crate) chunks: Vec<(u64, record::Chunk)>,
    pub(crate) dropped: Vec<u64>,
    pub(crate) retired: Vec<u64>,
    pub(crate) stage: Option<Arc<StageFile>>,
    pub(crate) charge_delta: i64,
}

/// The content of one regular file.
pub(crate) struct Body {
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) ctime_ns: i64,
    /// Version of the newest change of bytes or length, and the one that the base holds.
    pub(crate) version: u64,
    pub(crate) published: u64,
    pub(crate) cuts: u64,
    pub(crate) base: Option<Base>,
    pub(crate) inline: Option<Vec<u8>>,
    pub(crate) stage: Option<Arc<StageFile>>,
    holes: Holes,
    staged: BTreeMap<u64, Staged>,
    /// Chunks whose records must go at the next save.
    dropped: BTreeSet<u64>,
    /// Stage files that the next save lets go of.
    retired: Vec<u64>,
    /// Differs from the journal.
    pub(crate) unsaved: bool,
    /// The charge of what the journal holds.
    saved_charge: u64,
}

impl Body {
    /// The file as the journal has it.
    pub(crate) fn from_record(
        content: &record::Content,
        chunks: Vec<(u64, record::Chunk)>,
        stage: Option<Arc<StageFile>>,
    ) -> Self {
        let mut body = Self {
            size: content.size,
            mtime_ns: content.mtime_ns,
            ctime_ns: content.ctime_ns,
            version: content.version,
            published: content.published,
            cuts: content.cuts,
            base: content.base,
            inline: content.inline.as_ref().map(|bytes| bytes.to_vec()),
            stage,
            holes: content
                .holes
                .iter()
                .map(|&(start, end)| start..end)
                .collect(),
            staged: BTreeMap::new(),
            dropped: BTreeSet::new(),
            retired: Vec::new(),
            unsaved: false,
            saved_charge: 0,
        };
        for (index, chunk) in chunks {
            let staged = Staged {
                version: chunk.version,
                ranges: Ranges::from_stored(&chunk.ranges),
                fresh: chunk.fresh,
                unsaved: false,
            };
            body.staged.insert(index, staged);
        }
        body.saved_charge = body.charge();
        body
    }

    /// The record of an empty file, for its creation.
    pub(crate) fn to_record(&self) -> record::Content {
        record::Content {
            size: self.size,
            mtime_ns: self.mtime_ns,
            version: self.version,
            published: self.published,
            cuts: self.cuts,
            holes: self
                .holes
                .runs()
                .iter()
                .map(|run| (run.start, run.end))
                .collect(),
            base: self.base,
            stage: self.stage.as_ref().map(|stage| stage.number()),
            inline: self.inline.clone().map(Into::into),
            ctime_ns: self.ctime_ns,
        }
    }

    /// Nominal bytes of the content as it is.
    pub(crate) fn charge(&self) -> u64 {
        file_charge(self.size, self.holes.whole(self.size))
    }

    /// The charge after `len` more bytes at `offset`.
    pub(crate) fn charge_after_write(&self, offset: u64, len: u64) -> u64 {
        let size = self.size.max(offset + len);
        let touched = chunks_of(offset, len);
        let gap = self.end_chunk()..touched.start;
        if self.holes.is_empty() && gap.is_empty() {
            return file_charge(size, 0);
        }
        if size == self.size && !self.holes.touches(&touched) {
            return self.charge();
        }
        let mut holes = self.holes.clone();
        holes.insert(gap);
        holes.remove(touched);
        holes.limit();
        file_charge(size, holes.whole(size))
    }

    /// The charge after the length became `size`.
    pub(crate) fn charge_after_resize(&self, size: u64) -> u64 {
        let mut holes = self.holes.clone();
        if size > self.size {
            holes.insert(self.end_chunk()..count(size));
        } else {
            holes.truncate(count(size));
        }
        holes.limit();
        file_charge(size, holes.whole(size))
    }

    /// Where the parts of `range` come from, in order; `range` ends by the file's end, and the
    /// content is not inline.
    pub(crate) fn sources(&self, range: Range<u64>) -> Vec<(Range<u64>, Source)> {
        let mut parts: Vec<(Range<u64>, Source)> = Vec::new();
        for index in chunks_of(range.start, range.end - range.start) {
            let start = index * CHUNK_SIZE;
            let inside = within(&range, index);
            if self.holes.contains(index) {
                push(&mut parts, absolute(&inside, start), Source::Zero);
                continue;
            }
            let none = Ranges::default();
            let (ranges, fresh) = self
                .staged
                .get(&index)
                .map_or((&none, false), |staged| (&staged.ranges, staged.fresh));
            let valid = if fresh {
                0
            } else {
                self.base.map_or(0, |base| base.valid)
            };
            for (part, in_stage) in ranges.parts(inside) {
                let part = absolute(&part, start);
                if in_stage {
                    push(&mut parts, part, Source::Stage);
                } else {
                    let border = valid.clamp(part.start, part.end);
                    push(&mut parts, part.start..border, Source::Base);
                    push(&mut parts, border..part.end, Source::Zero);
                }
            }
        }
        parts
    }

    /// Whether a write at `offset` keeps the content small enough to stay inline.
    pub(crate) fn stays_inline(&self, end: u64) -> bool {
        self.inline.is_some() && end <= INLINE_MAX
    }

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

    /// Makes the chunks of `range` data: allocated, read as before.
    pub(crate) fn allocate(&mut self, range: Range<u64>, version: u64) {
        if self.inline.is_none() {
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

    /// Data or hole behind `offset`: the first offset at or behind it that is (not) in a hole.
    pub(crate) fn seek(&self, offset: u64, hole: bool) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        let mut at = offset;
        while at < self.size {
            let index = at / CHUNK_SIZE;
            let run = self.holes.runs().iter().find(|run| run.end > index);
            let in_hole = run.is_some_and(|run| run.start <= index);
            if in_hole == hole {
                return Some(at);
            }
            at = match run {
                Some(run) if in_hole => run.end * CHUNK_SIZE,
                Some(run) => run.start * CHUNK_SIZE,
                None => self.size,
            };
        }
        hole.then_some(self.size)
    }

    /// Bytes that are not in holes.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        allocated_bytes(self.size, &self.holes)
    }

    /// Takes a published base: the commit held the content of `version`, as it was after `cuts`
    /// cuts, with the chunks at these versions. What was changed since stays staged.
    pub(crate) fn settle(
        &mut self,
        base: Base,
        version: u64,
        chunk_version: impl Fn(u64) -> Option<u64>,
    ) {
        self.published = version;
        self.unsaved = true;
        if self.version == version && self.inline.is_some() {
            self.inline = None;
        }
        if self.inline.is_some() {
            return;
        }
        self.base = Some(base);
        let clean: Vec<u64> = self
            .staged
            .iter()
            .filter(|(index, staged)| chunk_version(**index) == Some(staged.version))
            .map(|(index, _)| *index)
            .collect();
        for index in clean {
            self.staged.remove(&index);
            self.dropped.insert(index);
        }
        if self.staged.is_empty() {
            self.retired
                .extend(self.stage.take().map(|stage| stage.number()));
        }
    }

    /// Whether the stage file holds every byte of the content.
    pub(crate) fn is_wholly_staged(&self) -> bool {
        let whole = |index: u64, staged: &Staged| {
            let len = chunk::len(self.size, index) as u32;
            staged
                .ranges
                .parts(0..len)
                .iter()
                .all(|(_, inside)| *inside)
        };
        self.size > 0
            && self.inline.is_none()
            && self.staged.len() as u64 == count(self.size)
            && self
                .staged
                .iter()
                .all(|(index, staged)| whole(*index, staged))
    }

    /// What the journal must take now; the body counts as saved from here on.
    pub(crate) fn save(&mut self) -> Saved {
        let charge = self.charge();
        let saved = Saved {
            content: self.to_record(),
            chunks: self
                .staged
                .iter_mut()
                .filter_map(|(index, staged)| {
                    std::mem::take(&mut staged.unsaved).then(|| {
                        let record = record::Chunk {
                            version: staged.version,
                            ranges: staged.ranges.as_stored().to_vec(),
                            fresh: staged.fresh,
                        };
                        (*index, record)
                    })
                })
                .collect(),
            dropped: std::mem::take(&mut self.dropped).into_iter().collect(),
            retired: std::mem::take(&mut self.retired),
            stage: self.stage.clone(),
            charge_delta: signed(charge) - signed(self.saved_charge),
        };
        self.saved_charge = charge;
        self.unsaved = false;
        saved
    }

    /// Takes back a save whose record did not get into the journal.
    pub(crate) fn unsave(&mut self, saved: Saved) {
        self.unsaved = true;
        self.saved_charge = self.saved_charge.saturating_add_signed(-saved.charge_delta);
        self.retired.extend(saved.retired);
        for (index, _) in saved.chunks {
            if let Some(staged) = self.staged.get_mut(&index) {
                staged.unsaved = true;
            }
        }
        let gone = saved
            .dropped
            .into_iter()
            .filter(|index| !self.staged.contains_key(index));
        self.dropped.extend(gone);
    }

    /// The stage files that it used, when it goes for good.
    pub(crate) fn take_stages(&mut self) -> Vec<u64> {
        let mut stages = std::mem::take(&mut self.retired);
        stages.extend(self.stage.take().map(|stage| stage.number()));
        stages
    }

    /// Marks the content as changed.
    fn changed(&mut self, version: u64) {
        self.version = version;
        self.unsaved = true;
    }

    fn touch(&mut self, index: u64, version: u64) -> &mut Staged {
        self.dropped.remove(&index);
        let staged = self.staged.entry(index).or_default();
        staged.version = version;
        staged.unsaved = true;
        staged
    }

    /// The first chunk behind those that the file has.
    fn end_chunk(&self) -> u64 {
        count(self.size)
    }

    fn grow_to(&mut self, size: u64, version: u64) {
        if self.inline.is_none() {
            let end = self.end_chunk();
            if !self.size.is_multiple_of(CHUNK_SIZE) && !self.holes.contains(end - 1) {
                self.touch(end - 1, version);
            }
            self.holes.insert(end..count(size));
        }
        self.size = size;
    }

    fn limit_holes(&mut self, version: u64) {
        for run in self.holes.limit() {
            for index in run {
                self.touch(index, version).fresh = true;
            }
        }
    }
}

/// Bytes of a file of `size` that are not in holes.
pub(crate) fn allocated_bytes(size: u64, holes: &Holes) -> u64 {
    let in_holes: u64 = holes
        .runs()
        .iter()
        .map(|run| {
            (run.end * CHUNK_SIZE)
                .min(size)
                .saturating_sub(run.start * CHUNK_SIZE)
        })
        .sum();
    size - in_holes.min(size)
}

/// Chunks that a file of `size` bytes has bytes in; none when it is empty.
fn count(size: u64) -> u64 {
    if size == 0 { 0 } else { chunk::count(size) }
}

/// Chunks that `len` bytes at `offset` lie in.
fn chunks_of(offset: u64, len: u64) -> Range<u64> {
    offset / CHUNK_SIZE..(offset + len).div_ceil(CHUNK_SIZE)
}

/// The part of `range` that lies in chunk `index`, as offsets within the chunk.
fn within(range: &Range<u64>, index: u64) -> Range<u32> {
    let start = index * CHUNK_SIZE;
    let clip = |at: u64| at.saturating_sub(start).min(CHUNK_SIZE) as u32;
    clip(range.start)..clip(range.end)
}

fn absolute(range: &Range<u32>, start: u64) -> Range<u64> {
    start + u64::from(range.start)..start + u64::from(range.end)
}

fn push(parts: &mut Vec<(Range<u64>, Source)>, range: Range<u64>, source: Source) {
    if range.is_empty() {
        return;
    }
    match parts.last_mut() {
        Some((last, same)) if *same == source && last.end == range.start => last.end = range.end,
        _ => parts.push((range, source)),
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
