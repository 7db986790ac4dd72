//! Which blocks are charged already, on contracts that charge each commit what it sends.
//!
//! A commit that a crash cut off before it was settled is finished, and charged; what it held is still marked as
//! changed, and comes with the next commit once more. So each commit notes the blocks that it builds, and what the
//! one that was cut off has built is not charged again. Notes are durable with the commit that they are of.
//!
//! | note, by sequence and number | content |
//! |---|---|
//! | 16 for each block | the beginning of its digest, with its codec |
//!
//! Invariant: a block counts as charged only where a commit that is charged has built it: one that was taken as the head, or
//! may have been settled when it was given up for another machine's. Called by `commit`, `pending` and `upload`.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;

use super::PublishError;
use super::receipt::short;
use crate::fetch::source::blocking;
use crate::fs::Volume;

/// Blocks of one note.
const NOTE: usize = 4096;

/// The value of a volume that is the highest sequence of a commit that was charged and never became the head: 8 bytes,
/// big-endian.
const THROUGH: &str = "charged-through";

/// That the commit `sequence` is charged though it never becomes the head.
pub(super) fn through(sequence: u64) -> (&'static str, Option<Bytes>) {
    let bytes = Bytes::copy_from_slice(&sequence.to_be_bytes());
    (THROUGH, Some(bytes))
}

/// What a commit builds, beside what was charged before.
pub(super) struct Charged {
    volume: Arc<Volume>,
    sequence: u64,
    /// By commits that were finished and not settled.
    before: HashSet<u128>,
    /// Built by this one, and in no note yet.
    built: Vec<u8>,
    notes: u64,
}

impl Charged {
    /// For the commit `sequence`, where the last one of our own that is the head, or was, is `own`. What failed tries
    /// have noted is forgotten.
    pub(super) async fn begin(
        volume: &Arc<Volume>,
        own: Option<u64>,
        sequence: u64,
    ) -> Result<Self, PublishError> {
        let kept = volume.raw_meta(THROUGH)?;
        let kept = kept.and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?)));
        let counts = move |sequence: u64| own.max(kept).is_some_and(|last| sequence <= last);
        let asked = Arc::clone(volume);
        let notes = blocking(move || {
            asked.notes().remove_built(|sequence| !counts(sequence))?;
            asked.notes().built()
        });
        let notes = notes.await??;
        let blocks = notes.iter().flat_map(|(_, note)| note.as_chunks::<16>().0);
        Ok(Self {
            before: blocks.map(|block| u128::from_be_bytes(*block)).collect(),
            volume: Arc::clone(volume),
            sequence,
            built: Vec::new(),
            notes: 0,
        })
    }

    /// The commit has built a block: whether it is to be charged.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(super) fn note(&mut self, cid: &Cid) -> Result<bool, PublishError> {
        let block = short(cid);
        self.built.extend(block.to_be_bytes());
        if self.built.len() >= NOTE * size_of_val(&block) {
            self.keep()?;
        }
        Ok(!self.before.contains(&block))
    }

    /// All that was noted is durable with what is kept next.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(super) fn keep(&mut self) -> Result<(), PublishError> {
        let note = std::mem::take(&mut self.built);
        if !note.is_empty() {
            (self.volume.notes()).store_built(self.sequence, self.notes, note.into())?;
            self.notes += 1;
        }
        Ok(())
    }
}

/// The commit `sequence` is given up: nothing that it built is charged.
pub(super) async fn give_up(volume: &Arc<Volume>, sequence: u64) -> Result<(), PublishError> {
    let volume = Arc::clone(volume);
    Ok(blocking(move || volume.notes().remove_built(|noted| noted == sequence)).await??)
}

/// All is settled: what is built from here on is charged.
pub(super) async fn settled(volume: &Arc<Volume>) -> Result<(), PublishError> {
    let volume = Arc::clone(volume);
    Ok(blocking(move || volume.notes().remove_built(|_| true)).await??)
}
