//! The content of a file in the reference: which text stands where, and which chunks are data.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use pxfs::pack::charge::file_charge;
use pxfs::pack::chunk::CHUNK_SIZE;

use super::call::Allocation;
use super::pattern;

/// A file up to this length is kept whole, so its bytes are data although nobody wrote them.
const SMALL: u64 = 64 << 10;
/// The kernel hands on at least so much of a copy at once.
const AT_ONCE: u64 = 1 << 30;

/// Texts over zeros. Invariant: pieces do not overlap and end by `size`; chunks of `data` begin
/// before `size`, all others are holes.
#[derive(Clone, Default)]
pub(crate) struct Content {
    pub size: u64,
    /// Start, to end and phase of the text.
    pieces: BTreeMap<u64, (u64, u64)>,
    data: BTreeSet<u64>,
    /// Chunks that room is kept for, and how far it goes.
    kept: BTreeSet<u64>,
    kept_end: u64,
    pub(super) published: Published,
}

/// Whether a content is on the node as it is, as far as that is known.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Published {
    /// Nobody knows.
    #[default]
    Open,
    /// It will be when the commit that has begun is done.
    Soon,
    Done,
}

/// What is kept beside the charge of all that room: the run of a hole in between.
const BETWEEN: u64 = 24;

impl Content {
    pub(super) fn write(&mut self, offset: u64, len: u64, text: u8) {
        if len == 0 {
            return;
        }
        self.grow(offset + len);
        self.erase(offset..offset + len);
        self.pieces
            .insert(offset, (offset + len, pattern::phase(text)));
        self.data.extend(chunks(&(offset..offset + len)));
    }

    /// Writes what `from` has in `range` at `to`.
    pub(super) fn copy(&mut self, from: &Self, range: &Range<u64>, to: u64) {
        self.write(to, range.end - range.start, 0);
        self.erase(to..to + (range.end - range.start));
        for (&start, &(end, phase)) in from.pieces.range(..range.end) {
            let (start, end) = (start.max(range.start), end.min(range.end));
            if start < end {
                let at = start - range.start + to;
                let phase = pattern::moved(phase, start, at);
                self.pieces.insert(at, (at + (end - start), phase));
            }
        }
    }

    /// Whether all of `range`, as far as the file goes, is data.
    pub(super) fn is_data(&self, range: &Range<u64>) -> bool {
        let end = range.end.min(self.size);
        chunks(&(range.start.min(end)..end)).all(|chunk| self.data.contains(&chunk))
    }

    /// The room behind the end is kept no longer.
    pub(super) fn end_room(&mut self) {
        self.kept.clear();
        self.kept_end = 0;
    }

    /// Keeps or gives back what of `range` lies behind the end.
    fn keep(&mut self, range: &Range<u64>, how: Allocation) {
        match how {
            Allocation::Keep | Allocation::ZeroKeep if range.end > self.size => {
                self.kept
                    .extend(chunks(&(range.start.max(self.size)..range.end)));
                self.kept_end = self.kept_end.max(range.end);
            }
            Allocation::Punch => {
                let first = range.start.div_ceil(CHUNK_SIZE);
                let behind = match range.end >= self.kept_end {
                    true => u64::MAX,
                    false => range.end / CHUNK_SIZE,
                };
                self.kept.retain(|chunk| *chunk < first || *chunk >= behind);
                let last = self.kept.last().map_or(0, |last| (last + 1) * CHUNK_SIZE);
                self.kept_end = self.kept_end.min(last);
            }
            _ => {}
        }
    }

    pub(super) fn resize(&mut self, size: u64) {
        self.end_room();
        if size > self.size {
            self.grow(size);
        } else {
            self.erase(size..u64::MAX);
            self.size = size;
            self.data.retain(|chunk| chunk * CHUNK_SIZE < size);
        }
    }

    /// False where nothing changes but what is kept.
    pub(super) fn allocate(&mut self, range: &Range<u64>, how: Allocation) -> bool {
        self.keep(range, how);
        let end = match how {
            Allocation::Grow | Allocation::Zero => range.end,
            _ => range.end.min(self.size),
        };
        let range = range.start..end;
        if range.is_empty() {
            return false;
        }
        if how == Allocation::Punch {
            let whole = self.whole_chunks(&range);
            self.data.retain(|chunk| !whole.contains(chunk));
        } else {
            self.grow(end);
            self.data.extend(chunks(&range));
        }
        if matches!(
            how,
            Allocation::Punch | Allocation::Zero | Allocation::ZeroKeep
        ) {
            self.erase(range);
        }
        true
    }

    /// The chunks that `range` covers, the last one up to the end of the file.
    fn whole_chunks(&self, range: &Range<u64>) -> Range<u64> {
        let end = if range.end >= self.size {
            self.size.div_ceil(CHUNK_SIZE)
        } else {
            range.end / CHUNK_SIZE
        };
        range.start.div_ceil(CHUNK_SIZE)..end
    }

    /// Whether punching `range` makes a hole or leaves zeros depends on whether the file was
    /// published: one that is kept whole has no chunks.
    pub(super) fn is_open_what_punching_leaves(&self, range: &Range<u64>) -> bool {
        self.size <= SMALL && !self.whole_chunks(range).is_empty()
    }

    fn grow(&mut self, size: u64) {
        if self.size == 0 && size <= SMALL && size > 0 {
            self.data.insert(0);
        }
        self.size = self.size.max(size);
    }

    /// Makes a range read as zeros.
    fn erase(&mut self, range: Range<u64>) {
        let touched: Vec<(u64, (u64, u64))> = self
            .pieces
            .range(..range.end)
            .filter(|(_, (end, _))| *end > range.start)
            .map(|(start, rest)| (*start, *rest))
            .collect();
        for (start, (end, phase)) in touched {
            self.pieces.remove(&start);
            if start < range.start {
                self.pieces.insert(start, (range.start, phase));
            }
            if end > range.end {
                self.pieces.insert(range.end, (end, phase));
            }
        }
    }

    /// Up to `len` bytes at `offset`.
    pub(super) fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let end = offset.saturating_add(len).min(self.size);
        let mut bytes = vec![0; end.saturating_sub(offset) as usize];
        for (&start, &(stop, phase)) in self.pieces.range(..end) {
            let (from, to) = (start.max(offset), stop.min(end));
            if from < to {
                let part = (from - offset) as usize..(to - offset) as usize;
                pattern::fill(phase, from, &mut bytes[part]);
            }
        }
        bytes
    }

    /// Becomes what `from` is, holes as holes.
    pub(super) fn take_over(&mut self, from: &Self) {
        self.size = from.size;
        self.pieces.clone_from(&from.pieces);
        self.data.clone_from(&from.data);
    }

    /// Whether it is on the node in chunks, which another file can take over by one call.
    pub(super) fn is_shareable(&self) -> bool {
        self.published == Published::Done && (SMALL + 1..=AT_ONCE).contains(&self.size)
    }

    /// Where something may be wrong that is worth reading: all of a short file; of a long one its
    /// texts with what surrounds them, and both ends.
    pub(super) fn worth_reading(&self) -> Vec<(u64, u64)> {
        const ALL: u64 = 16 << 20;
        if self.size <= ALL {
            return vec![(0, self.size)];
        }
        let around = |start: u64, end: u64| {
            let start = start.saturating_sub(5000);
            (start, end - start + 5000)
        };
        let texts = self
            .pieces
            .iter()
            .map(|(start, (end, _))| around(*start, *end));
        texts
            .chain([(0, 5000), around(self.size, self.size)])
            .collect()
    }

    /// Whether `SEEK_DATA` or `SEEK_HOLE` may find that from `offset` on, below the end: every chunk without data is a hole,
    /// no text is in one, and what lies between is as it happens to be kept.
    pub(super) fn may_find(
        &self,
        offset: u64,
        hole: bool,
        found: Option<u64>,
    ) -> Result<(), String> {
        let chunk = |chunk: u64| (chunk * CHUNK_SIZE).clamp(offset, self.size);
        let first = offset / CHUNK_SIZE;
        let text_at = |at: u64| {
            let mut texts = self.pieces.iter().map(|(start, (end, _))| *start..*end);
            texts.find(|text| text.end > at)
        };
        let may = match (hole, found) {
            (true, None) => false,
            (true, Some(found)) => {
                let whole = (first..).find(|chunk| !self.data.contains(chunk));
                let most = whole.map_or(self.size, chunk);
                let in_text = text_at(found).is_some_and(|text| text.contains(&found));
                (offset..=most).contains(&found) && !in_text
            }
            (false, found) => {
                let least = self.data.range(first..).next().map(|first| chunk(*first));
                let text = text_at(offset).map(|text| text.start.max(offset));
                match found {
                    None => text.is_none(),
                    Some(found) => {
                        least.is_some_and(|least| least <= found)
                            && text.is_none_or(|text| found <= text)
                            && found < self.size
                    }
                }
            }
        };
        match may {
            true => Ok(()),
            false => Err(format!("found {found:?} in {self:?}")),
        }
    }

    /// Bytes that are not in holes.
    pub(super) fn allocated(&self) -> u64 {
        let of = |chunk: &u64| (self.size - chunk * CHUNK_SIZE).min(CHUNK_SIZE);
        self.data.iter().map(of).sum()
    }

    /// With the room that is kept.
    pub(super) fn charge(&self) -> u64 {
        let size = self.size.max(self.kept_end);
        let full = size / CHUNK_SIZE;
        let data = self.data.union(&self.kept).filter(|chunk| **chunk < full);
        let between = if self.kept.is_empty() { 0 } else { BETWEEN };
        file_charge(size, full - data.count() as u64) + between
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let texts: Vec<_> = self
            .pieces
            .iter()
            .map(|(start, (end, _))| *start..*end)
            .collect();
        write!(
            f,
            "{} bytes, text at {texts:?}, data in {:?}",
            self.size, self.data
        )
    }
}

fn chunks(range: &Range<u64>) -> Range<u64> {
    range.start / CHUNK_SIZE..range.end.div_ceil(CHUNK_SIZE)
}
