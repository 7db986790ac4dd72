//! Usage metadata that was named before what is named now: known again when a record of it comes back after its block
//! has gone.
//!
//! Invariant: each entry was the head's here once, or that of a root that was gone on from here. Called by `head`, which
//! judges by it, and by whoever moves the head on.

use cid::Cid;
use minicbor::{CborLen, Decode, Encode};

use super::PublishError;
use crate::fs::Volume;
use crate::journal::record::CidBytes;

/// The value of a volume that they are kept in.
pub(super) const PAST: &str = "past";

/// How many are remembered: some 40 bytes each, which every commit writes.
const MOST: usize = 32;

/// The last ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(super) struct Past {
    /// Oldest first.
    #[n(0)]
    documents: Vec<CidBytes>,
}

impl Past {
    /// Those of a volume.
    pub(super) fn of(volume: &Volume) -> Result<Self, PublishError> {
        Ok(volume.meta(PAST)?.unwrap_or_default())
    }

    /// `now` takes the place of `before`.
    pub(super) fn move_on(
        &mut self,
        before: impl IntoIterator<Item = CidBytes>,
        now: Option<CidBytes>,
    ) {
        for document in before {
            self.documents.retain(|known| *known != document);
            self.documents.push(document);
        }
        self.documents.retain(|known| Some(*known) != now);
        let many = self.documents.len().saturating_sub(MOST);
        self.documents.drain(..many);
    }

    /// Whether this was named before.
    pub(super) fn has(&self, document: &Cid) -> bool {
        self.documents.iter().any(|known| known.0 == *document)
    }
}
