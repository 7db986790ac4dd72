//! Taking over what another file has published, without its bytes.
//!
//! Invariant: only chunks that the other file has as they are published are taken, and none of the own
//! chunks outside them changes what it reads as.

use std::ops::Range;

use super::{Body, chunks_of, count};
use crate::journal::record::Base;
use crate::pack::charge::file_charge;
use crate::pack::chunk::CHUNK_SIZE;
use crate::pack::holes::Holes;

/// Greatest number of chunks that are looked at before the place of what is taken over.
const MAX_LOOKED_AT: u64 = 1 << 16;

/// A part of a published content.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    base: Base,
    /// Begins with a chunk, and ends with one or with the file that it is of.
    range: Range<u64>,
    /// The holes in it.
    holes: Holes,
}

impl Shared {
    /// Its bytes.
    pub(crate) fn range(&self) -> &Range<u64> {
        &self.range
    }

    fn chunks(&self) -> Range<u64> {
        chunks_of(self.range.start, self.range.end - self.range.start)
    }

    /// Without what follows its last whole chunk.
    fn whole(mut self) -> Self {
        self.range.end -= self.range.end % CHUNK_SIZE;
        self.holes.truncate(self.range.end / CHUNK_SIZE);
        self
    }
}

impl Body {
    /// What can be taken over of `range`, from its start as far as it is published as it is; `None` where
    /// its first chunk is not.
    pub(crate) fn shareable(&self, range: &Range<u64>) -> Option<Shared> {
        let base = self.base.filter(|base| !base.damaged)?;
        if self.inline.is_some() || !range.start.is_multiple_of(CHUNK_SIZE) {
            return None;
        }
        let first = range.start / CHUNK_SIZE;
        let staged = self.staged.range(first..).next();
        let clean = staged.map_or(u64::MAX, |(index, _)| index * CHUNK_SIZE);
        let end = range.end.min(self.size).min(clean).min(base.valid);
        if end <= range.start {
            return None;
        }
        let mut holes = self.holes.clone();
        holes.remove(0..first);
        holes.truncate(count(end));
        let shared = Shared {
            base,
            range: range.start..end,
            holes,
        };
        let shared = if end == self.size {
            shared
        } else {
            shared.whole()
        };
        (!shared.range.is_empty()).then_some(shared)
    }

    /// What of `shared` this content can take over; `None` where it cannot.
    pub(crate) fn fitting(&self, shared: Shared) -> Option<Shared> {
        let shared = if self.size > shared.range.end {
            shared.whole()
        } else {
            shared
        };
        let range = &shared.range;
        let replaces_all = range.start == 0 && range.end >= self.size;
        let fits = match &self.inline {
            _ if replaces_all => true,
            Some(bytes) => bytes.is_empty(),
            None => match self.base {
                None => self.depends_on_no_base(0..range.start / CHUNK_SIZE, |_| true),
                Some(base) if base.cid == shared.base.cid && !base.damaged => {
                    let behind = base.valid / CHUNK_SIZE..range.start / CHUNK_SIZE;
                    self.depends_on_no_base(behind, |fresh| fresh)
                }
                Some(_) => false,
            },
        };
        (fits && !range.is_empty()).then_some(shared)
    }

    /// Whether these chunks, as far as there are any, are holes, or staged as `is_own` says of whether
    /// they are fresh.
    fn depends_on_no_base(&self, chunks: Range<u64>, is_own: impl Fn(bool) -> bool) -> bool {
        let chunks = chunks.start..chunks.end.min(self.end_chunk());
        if self.holes.covers(&chunks) {
            return true;
        }
        chunks.end - chunks.start <= MAX_LOOKED_AT
            && chunks.into_iter().all(|index| {
                let staged = self.staged.get(&index);
                self.holes.contains(index) || staged.is_some_and(|staged| is_own(staged.fresh))
            })
    }

    /// The charge after `shared` was taken over.
    pub(crate) fn charge_after_share(&self, shared: &Shared) -> u64 {
        let size = self.size.max(shared.range.end);
        let mut holes = self.holes.clone();
        holes.insert(self.end_chunk()..count(size));
        take_holes(&mut holes, shared);
        holes.limit();
        file_charge(size, holes.whole(size))
    }

    /// Takes `shared` over, which is [`Body::fitting`]. A commit that is under way must not put what it
    /// holds below it: this counts as a cut that nobody can look up.
    pub(crate) fn share(&mut self, shared: &Shared, version: u64) {
        let same = self.base.filter(|base| base.cid == shared.base.cid);
        self.inline = None;
        if shared.range.end > self.size {
            self.grow_to(shared.range.end, version);
        }
        let chunks = shared.chunks();
        let staged: Vec<u64> = self.staged.range(chunks).map(|(i, _)| *i).collect();
        for index in staged {
            self.staged.remove(&index);
            self.dropped.insert(index);
        }
        if same.is_none() {
            // There was no base below them.
            for (index, staged) in self.staged.iter_mut().filter(|(_, staged)| !staged.fresh) {
                staged.fresh = true;
                self.touched.insert(*index);
            }
        }
        take_holes(&mut self.holes, shared);
        self.limit_holes(version);
        self.base = Some(Base {
            valid: same.map_or(0, |base| base.valid).max(shared.range.end),
            ..shared.base
        });
        self.retire_unused();
        self.cuts += 1;
        self.changed(version);
    }
}

/// The holes of `shared` in the place of those that were there.
fn take_holes(holes: &mut Holes, shared: &Shared) {
    holes.remove(shared.chunks());
    for run in shared.holes.runs() {
        holes.insert(run.clone());
    }
}
