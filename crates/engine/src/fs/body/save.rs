//! Between the content in use and its records in the journal.
//!
//! Invariant: what [`Body::save`] gives is all that differs from the journal; a caller whose records
//! did not get there hands it back to [`Body::unsave`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Body, Staged};
use crate::fs::quota::signed;
use crate::fs::ranges::Ranges;
use crate::journal::StageFile;
use crate::journal::record;

/// What [`Body::save`] writes into the journal.
pub(crate) struct Saved {
    pub(crate) content: record::Content,
    pub(crate) chunks: Vec<(u64, record::Chunk)>,
    pub(crate) dropped: Vec<u64>,
    pub(crate) retired: Vec<u64>,
    pub(crate) stage: Option<Arc<StageFile>>,
    pub(crate) charge_delta: i64,
    /// A commit is letting go of it, and nothing was changed since that was cut.
    pub(crate) is_settling: bool,
    /// How many chunks were looked at for it.
    #[cfg(test)]
    looked_at: usize,
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
            inline: match &content.inline {
                Some(bytes) => Some(bytes.to_vec()),
                None => (content.size == 0).then(Vec::new),
            },
            stage,
            holes: content
                .holes
                .iter()
                .map(|&(start, end)| start..end)
                .collect(),
            staged: BTreeMap::new(),
            touched: BTreeSet::new(),
            dropped: BTreeSet::new(),
            retired: Vec::new(),
            recorded: content.stage,
            unsaved: false,
            settling: false,
            saved_charge: 0,
        };
        for (index, chunk) in chunks {
            let staged = Staged {
                version: chunk.version,
                ranges: Ranges::from_stored(&chunk.ranges),
                fresh: chunk.fresh,
                ..Staged::default()
            };
            body.staged.insert(index, staged);
        }
        body.saved_charge = body.charge();
        body
    }

    /// The content but for its chunks, as the journal has it.
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
            staged: !self.staged.is_empty(),
        }
    }

    /// Whether the journal has it charged with more than it has now.
    pub(crate) fn saved_too_long(&self) -> bool {
        self.saved_charge > self.charge()
    }

    /// What the journal must take now; the body counts as saved from here on.
    pub(crate) fn save(&mut self) -> Saved {
        let charge = self.charge();
        let touched = std::mem::take(&mut self.touched);
        let saved = Saved {
            content: self.to_record(),
            #[cfg(test)]
            looked_at: touched.len(),
            chunks: touched
                .into_iter()
                .filter_map(|index| {
                    let staged = self.staged.get(&index)?;
                    let record = record::Chunk {
                        version: staged.version,
                        ranges: staged.ranges.as_stored().to_vec(),
                        fresh: staged.fresh,
                    };
                    Some((index, record))
                })
                .collect(),
            dropped: std::mem::take(&mut self.dropped).into_iter().collect(),
            retired: std::mem::take(&mut self.retired),
            stage: self.stage.clone(),
            charge_delta: signed(charge) - signed(self.saved_charge),
            is_settling: self.settling,
        };
        self.saved_charge = charge;
        self.recorded = saved.content.stage;
        self.unsaved = false;
        saved
    }

    /// Takes back a save whose record did not get into the journal.
    pub(crate) fn unsave(&mut self, saved: Saved) {
        self.unsaved = true;
        self.recorded = None;
        self.saved_charge = self.saved_charge.saturating_add_signed(-saved.charge_delta);
        self.retired.extend(saved.retired);
        for (index, _) in saved.chunks {
            if self.staged.contains_key(&index) {
                self.touched.insert(index);
            }
        }
        let gone = saved
            .dropped
            .into_iter()
            .filter(|index| !self.staged.contains_key(index));
        self.dropped.extend(gone);
    }

    /// The stage files that it used, when it goes for good, but for the one that goes with its record.
    pub(crate) fn take_stages(&mut self) -> Vec<u64> {
        let mut stages = std::mem::take(&mut self.retired);
        stages.extend(self.stage.take().map(|stage| stage.number()));
        stages.retain(|stage| Some(*stage) != self.recorded);
        stages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{MemoryDisk, Stage, Without};
    use crate::pack::chunk::CHUNK_SIZE;

    fn image(chunks: u64) -> Body {
        let stage = Stage::new(Arc::new(MemoryDisk::default()), Without::default());
        let mut body = Body::from_record(&record::Content::default(), Vec::new(), None);
        body.spill(stage.create(1).unwrap(), 1).unwrap();
        body.written(0, chunks * CHUNK_SIZE, 2);
        body
    }

    #[test]
    fn saving_a_few_bytes_costs_no_more_in_a_large_file() {
        let mut body = image(50_000);
        let all = body.save();
        assert_eq!((all.chunks.len(), all.looked_at), (50_000, 50_000));
        body.written(40_000 * CHUNK_SIZE + 5, 4096, 3);
        let few = body.save();
        assert_eq!((few.chunks.len(), few.looked_at), (1, 1));
        assert_eq!(few.chunks.first().map(|(index, _)| *index), Some(40_000));
    }

    #[test]
    fn a_save_that_failed_comes_again_with_what_was_changed_since() {
        let mut body = image(10);
        let _ = body.save();
        body.written(3 * CHUNK_SIZE, 10, 3);
        body.written(9 * CHUNK_SIZE, 10, 3);
        let failed = body.save();
        body.written(5 * CHUNK_SIZE, 10, 4);
        body.cut(9 * CHUNK_SIZE, 5);
        body.unsave(failed);
        let again = body.save();
        let indices: Vec<u64> = again.chunks.iter().map(|(index, _)| *index).collect();
        assert_eq!((indices, again.dropped), (vec![3, 5, 8], vec![9]));
        assert!(body.save().chunks.is_empty());
    }
}
