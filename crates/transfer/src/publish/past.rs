//! Usage metadata that was named before what is named now: known again when a record of it comes back after its block
//! has gone.
//!
//! Invariant: each entry was the head's here once, or that of a root that was gone on from here. Called by `head`, which
//! judges by it, and by whoever moves the head on.

use bytes::Bytes;
use cid::Cid;
use minicbor::{CborLen, Decode, Encode};

use super::PublishError;
use crate::fs::Volume;
use crate::journal::record::{CidBytes, Record as _};

/// The value of a volume that they are kept in.
const PAST: &str = "past";

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

    /// What is to be kept once `now` takes the place of `before`.
    pub(super) fn moved_on(
        volume: &Volume,
        before: impl IntoIterator<Item = CidBytes>,
        now: Option<CidBytes>,
    ) -> Result<(&'static str, Option<Bytes>), PublishError> {
        let mut past = Self::of(volume)?;
        for document in before {
            past.documents.retain(|known| *known != document);
            past.documents.push(document);
        }
        past.documents.retain(|known| Some(*known) != now);
        let many = past.documents.len().saturating_sub(MOST);
        past.documents.drain(..many);
        Ok((PAST, Some(past.to_bytes())))
    }

    /// Whether this was named before.
    pub(super) fn has(&self, document: &Cid) -> bool {
        self.documents.iter().any(|known| known.0 == *document)
    }
}
