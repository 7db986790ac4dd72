//! Notes of the blocks that commits have built, kept in the journal for `publish`, by the sequence of the commit.
//!
//! Invariant: they are no part of the tree; one is durable with whatever is kept next. What they name, and which of
//! them count, is `publish`'s affair.

use bytes::Bytes;

use super::FsError;
use super::volume::Volume;
use crate::journal::{Batch, key};

/// Notes that are read from the journal at once.
const STEP: usize = 256;

impl Volume {
    /// All of them: sequence and note.
    pub fn built(&self) -> Result<Vec<(u64, Bytes)>, FsError> {
        let mut notes = Vec::new();
        self.each_built(|(sequence, _), note| notes.push((sequence, note)))?;
        Ok(notes)
    }

    /// Keeps note `number` of the commit `sequence`.
    pub fn note_built(&self, sequence: u64, number: u64, note: Bytes) -> Result<(), FsError> {
        let mut batch = Batch::default();
        batch.put_bytes(key::built(sequence, number), note);
        Ok(self.journal.apply(batch)?)
    }

    /// Removes those of the commits that are `meant`.
    pub fn forget_built(&self, meant: impl Fn(u64) -> bool) -> Result<(), FsError> {
        let mut gone = Vec::new();
        self.each_built(|place, _| gone.push(place))?;
        gone.retain(|(sequence, _)| meant(*sequence));
        if gone.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        for (sequence, number) in gone {
            batch.remove(key::built(sequence, number));
        }
        Ok(self.journal.apply(batch)?)
    }

    fn each_built(&self, mut take: impl FnMut((u64, u64), Bytes)) -> Result<(), FsError> {
        Ok(self.each_page(&key::all_built(), STEP, |found, note| {
            if let Some(place) = key::parse_built(found) {
                take(place, note);
            }
            Ok(())
        })?)
    }
}
