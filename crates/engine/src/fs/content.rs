//! The records of a regular file's content, as a whole: loading them, and letting go of them.

use bytes::Bytes;

use super::FsError;
use super::body::{Body, allocated_bytes};
use super::quota::signed;
use super::volume::Volume;
use crate::journal::key::Key;
use crate::journal::record::{Content, Record};
use crate::journal::{Batch, key};
use crate::pack::charge::file_charge;
use crate::types::Ino;

impl Volume {
    /// The content of `ino` as the journal has it.
    pub(super) fn load_body(&self, ino: Ino) -> Result<Body, FsError> {
        let content = self
            .journal
            .record::<Content>(&key::content(ino))?
            .ok_or(FsError::NotFound)?;
        let mut chunks = Vec::new();
        for (key, bytes) in self.staged_chunks(ino, &content)? {
            if let Some(index) = key::parse_second(&key) {
                chunks.push((index, Record::from_bytes(&bytes)?));
            }
        }
        let stage = content
            .stage
            .map(|number| self.stage.get(number))
            .transpose()?;
        Ok(Body::from_record(&content, chunks, stage))
    }

    /// The records of a file's staged chunks.
    fn staged_chunks(&self, ino: Ino, content: &Content) -> Result<Vec<(Key, Bytes)>, FsError> {
        if content.staged {
            Ok(self.journal.scan(&key::chunks(ino), None, usize::MAX)?)
        } else {
            Ok(Vec::new())
        }
    }

    /// Removes the records of a file's content, which goes for good; books what gets free.
    pub(super) fn drop_content(
        &self,
        batch: &mut Batch,
        ino: Ino,
        content: &Content,
    ) -> Result<(), FsError> {
        batch.charge(-signed(content_charge(content)));
        batch.retire(content.stage);
        for (found, _) in self.staged_chunks(ino, content)? {
            batch.remove(found);
        }
        batch.remove(key::content(ino));
        Ok(())
    }
}

/// Bytes of a content record that are not in holes.
pub(super) fn data_bytes(content: &Content) -> u64 {
    let holes = content.holes.iter().map(|&(start, end)| start..end);
    allocated_bytes(content.size, &holes.collect())
}

/// Nominal bytes of a content record.
pub(super) fn content_charge(content: &Content) -> u64 {
    let holes: crate::pack::holes::Holes = content.holes.iter().map(|&(s, e)| s..e).collect();
    file_charge(content.size, holes.whole(content.size))
}
