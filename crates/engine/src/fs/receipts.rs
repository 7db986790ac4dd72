//! Notes of what the node has acknowledged, kept in the journal for `publish`.
//!
//! Invariant: they are no part of the tree, and nothing waits for their being durable. Which blocks
//! they name is `publish`'s affair.

use std::ops::Range;

use bytes::Bytes;

use super::FsError;
use super::volume::Volume;
use crate::journal::{Batch, key};

/// Which node they are of.
const OF: &str = "receipts-of";
/// The value that stands from when another node is written to until that is seen to hold what was published.
pub const UNHELD: &str = "unheld";
/// Notes that are read from the journal at once.
const STEP: usize = 256;

impl Volume {
    /// The notes of the node that is called `node`, by their numbers, which rise; and whether it is [`UNHELD`] there what was
    /// published. Those of another node are removed.
    pub fn begin_receipts(&self, node: &str) -> Result<(Vec<(u64, Bytes)>, bool), FsError> {
        let mut notes: Vec<(u64, Bytes)> = Vec::new();
        let mut after: Option<key::Key> = None;
        loop {
            let found = (self.journal).scan(&key::receipts(), after.as_deref(), STEP)?;
            let Some((last, _)) = found.last() else { break };
            after = Some(last.clone());
            let numbered = found.into_iter();
            notes
                .extend(numbered.filter_map(|(key, note)| Some((key::parse_receipt(&key)?, note))));
        }
        let of = key::meta(OF);
        let before = self.journal.get(&of)?;
        if before.as_ref().is_some_and(|of| of == node) {
            return Ok((notes, self.journal.get(&key::meta(UNHELD))?.is_some()));
        }
        let mut batch = Batch::default();
        for (number, _) in notes {
            batch.remove(key::receipt(number));
        }
        batch.put_bytes(of, Bytes::copy_from_slice(node.as_bytes()));
        if before.is_some() {
            batch.put_bytes(key::meta(UNHELD), Bytes::from_static(b"1"));
        }
        self.journal.apply(batch)?;
        Ok((Vec::new(), before.is_some()))
    }

    /// Keeps one more, and removes those of these numbers.
    pub fn keep_receipt(
        &self,
        note: Option<(u64, Bytes)>,
        gone: Range<u64>,
    ) -> Result<(), FsError> {
        let mut batch = Batch::default();
        for number in gone {
            batch.remove(key::receipt(number));
        }
        if let Some((number, note)) = note {
            batch.put_bytes(key::receipt(number), note);
        }
        Ok(self.journal.apply(batch)?)
    }
}
