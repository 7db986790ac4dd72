//! Quota that a file reserves behind its end, as `FALLOC_FL_KEEP_SIZE` asks for.

use std::ops::Range;

use crate::pack::chunk::{CHUNK_SIZE, chunks_of};
use crate::pack::holes::Holes;

/// The chunks that are reserved. They stay reserved once they are written, until the last user closes the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Preallocation {
    chunks: Holes,
    end: u64,
}

impl Preallocation {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub(super) fn chunks(&self) -> &Holes {
        &self.chunks
    }

    /// The length of the file if all of it is written.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn with(&self, range: &Range<u64>) -> Self {
        let mut new = self.clone();
        if !range.is_empty() {
            new.chunks
                .insert(chunks_of(range.start, range.end - range.start));
            new.end = new.end.max(range.end);
        }
        new
    }

    /// Without the chunks that `range` covers.
    pub(super) fn without(&self, range: &Range<u64>) -> Self {
        let mut new = self.clone();
        let behind = match range.end >= self.end {
            true => u64::MAX,
            false => range.end / CHUNK_SIZE,
        };
        let first = range.start.div_ceil(CHUNK_SIZE);
        new.chunks.remove(first..behind.max(first));
        let last = new.chunks.runs().last();
        new.end = new.end.min(last.map_or(0, |run| run.end * CHUNK_SIZE));
        new
    }
}
