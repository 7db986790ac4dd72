//! The content of one regular file while it is in use: inline, or staged chunks over a base.
//!
//! Invariant: a byte below `size` is, in this order, inline; in a hole: zero; in a staged range:
//! the stage file's; in a fresh chunk or behind `base.valid`: zero; else the base's. A change moves
//! the charge by what [`Body::charge`] says before and after, which the caller has reserved.
//! Pure but for the stage file: the caller holds the file's lock.

mod change;
mod save;
mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::preallocation::Preallocation;
use super::ranges::Ranges;
use crate::journal::StageFile;
use crate::journal::record::Base;
use crate::pack::charge::file_charge;
use crate::pack::chunk::{self, CHUNK_SIZE, chunks_of};
use crate::pack::holes::Holes;

pub(crate) use save::Saved;

/// Content up to this length, in bytes, lives in the journal until it is published.
pub(crate) const INLINE_MAX: u64 = 64 << 10;

/// Holes in a chunk that has data are told of in blocks of that many bytes.
const BLOCK: u64 = 4096;

/// One chunk that differs from the base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Staged {
    pub(crate) version: u64,
    pub(crate) ranges: Ranges,
    pub(crate) fresh: bool,
    /// How many ranges there were when somebody tried to make one of them.
    scattered: usize,
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
    /// Chunks that differ from their records in the journal, as far as they are staged.
    touched: BTreeSet<u64>,
    /// Chunks whose records must go at the next save.
    dropped: BTreeSet<u64>,
    /// Stage files that the next save lets go of.
    retired: Vec<u64>,
    /// The stage file that the journal's record names, where that is known.
    recorded: Option<u64>,
    /// Differs from the journal.
    pub(crate) unsaved: bool,
    /// A commit lets go of what it has published of it, and nothing was changed since it was cut.
    settling: bool,
    /// The charge of what the journal holds.
    saved_charge: u64,
}

impl Body {
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

    /// The charge with `room` written as well, after `written`, which may be empty, was.
    pub(crate) fn charge_with(&self, room: &Preallocation, written: &Range<u64>) -> u64 {
        let size = self.size.max(room.end()).max(written.end);
        let mut holes = self.holes.clone();
        holes.insert(self.end_chunk()..count(size));
        if !written.is_empty() {
            holes.remove(chunks_of(written.start, written.end - written.start));
        }
        for run in room.chunks().runs() {
            holes.remove(run.clone());
        }
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

    /// Data or hole behind `offset`: the first offset at or behind it that is (not) in a hole.
    pub(crate) fn seek(&self, offset: u64, hole: bool) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        let mut at = offset;
        while at < self.size {
            let (end, in_hole) = self.stretch(at);
            if in_hole == hole {
                return Some(at);
            }
            at = end;
        }
        hole.then_some(self.size)
    }

    /// Whether there is a hole at `at`, and up to where there is what is there, at least. Of a chunk that bytes were
    /// written into, what nobody wrote is a hole, in blocks; of one that was allocated or zeroed as a whole nothing is.
    fn stretch(&self, at: u64) -> (u64, bool) {
        let index = at / CHUNK_SIZE;
        let runs = self.holes.runs();
        let next = runs.get(runs.partition_point(|run| run.end <= index));
        let border = match next {
            Some(run) if run.start <= index => return (run.end * CHUNK_SIZE, true),
            Some(run) => run.start * CHUNK_SIZE,
            None => self.size,
        };
        let written = |(_, staged): &(&u64, &Staged)| !staged.ranges.as_stored().is_empty();
        match self.staged.range(index..).find(written) {
            Some((written, _)) if *written > index => {
                return ((written * CHUNK_SIZE).min(border), false);
            }
            Some(_) => {}
            None => return (border, false),
        }
        let end = ((index + 1) * CHUNK_SIZE).min(self.size);
        for (part, source) in self.sources(at - at % BLOCK..end) {
            let first = part.start.next_multiple_of(BLOCK);
            let last = match part.end == end {
                true => end,
                false => part.end - part.end % BLOCK,
            };
            match source {
                Source::Zero if at < first.min(last) => return (first, false),
                Source::Zero if at < last => return (last, true),
                _ => {}
            }
        }
        (end, false)
    }

    /// Bytes that are not in holes.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        allocated_bytes(self.size, &self.holes)
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

    /// Whether all that is staged is as a commit held it, with the chunks at these versions.
    pub(crate) fn is_clean(&self, chunk_version: impl Fn(u64) -> Option<u64>) -> bool {
        let mut staged = self.staged.iter();
        staged.all(|(index, staged)| chunk_version(*index) == Some(staged.version))
    }

    /// From the first to the last staged byte of chunk `index`, where that is in more than `most` ranges, to make one
    /// of them. Who cannot is asked again when there are as many more.
    pub(crate) fn scattered(&mut self, index: u64, most: usize) -> Option<Range<u64>> {
        let staged = self.staged.get_mut(&index)?;
        let ranges = staged.ranges.as_stored();
        if ranges.len() <= most {
            staged.scattered = 0;
            return None;
        }
        if ranges.len() < staged.scattered + most {
            return None;
        }
        staged.scattered = ranges.len();
        let (first, last) = (ranges.first()?, ranges.last()?);
        Some(absolute(&(first.0..last.1), index * CHUNK_SIZE))
    }

    /// What of chunk `index` is staged, and the version of its last change.
    pub(crate) fn staged_chunk(&self, index: u64) -> Option<(&[(u32, u32)], u64)> {
        let staged = self.staged.get(&index)?;
        Some((staged.ranges.as_stored(), staged.version))
    }

    /// The first chunk behind those that the file has.
    fn end_chunk(&self) -> u64 {
        count(self.size)
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

/// The chunks that `range` covers as far as a file of `size` bytes has them.
fn whole_chunks(range: &Range<u64>, size: u64) -> Range<u64> {
    let first = range.start.div_ceil(CHUNK_SIZE);
    let end = if range.end >= size {
        count(size)
    } else {
        range.end / CHUNK_SIZE
    };
    first..end.max(first)
}

/// What of `range` lies in chunks that it covers in part, in a file of `size` bytes.
pub(crate) fn edges(range: &Range<u64>, size: u64) -> [Range<u64>; 2] {
    let end = range.end.min(size);
    let whole = whole_chunks(range, size);
    let first = (whole.start.saturating_mul(CHUNK_SIZE)).min(end);
    let last = (whole.end.saturating_mul(CHUNK_SIZE)).clamp(first, end.max(first));
    [range.start.min(first)..first, last..end.max(last)]
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
