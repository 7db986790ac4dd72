//! Between the content in use and its records in the journal.
//!
//! Invariant: what [`Body::save`] gives is all that differs from the journal; a caller whose records
//! did not get there hands it back to [`Body::unsave`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Body, Staged};
use crate::fs::ranges::Ranges;
use crate::fs::volume::signed;
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
            staged: !self.staged.is_empty(),
        }
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
}
