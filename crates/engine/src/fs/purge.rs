//! Removing what an unlinked file leaves: its records and its stage files.

use super::FsError;
use super::volume::Volume;
use crate::journal::record::{Content, Inode};
use crate::journal::{Batch, key};
use crate::types::Ino;

impl Volume {
    /// Removes unlinked files that could not be removed before; what still cannot be is left to the next time.
    pub(super) fn purge_left(&self) {
        let left = self.unsaved.take_unlinked();
        for (ino, stages) in left {
            if let Err(error) = self.purge(ino, stages.clone()) {
                tracing::debug!(%error, ino = ino.0, "an unlinked file could not be removed yet");
                self.unsaved.note_unlinked(ino, stages);
            }
        }
    }

    /// Removes the records of an unlinked file, and lets go of its stage file.
    pub(super) fn purge(&self, ino: Ino, stages: Vec<u64>) -> Result<(), FsError> {
        if self.journal.get(&key::orphan(ino))?.is_some() {
            return self.purge_in(ino, stages, self.limits.chunks);
        }
        // They went with its name.
        if stages.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.retire(stages);
        self.apply_quietly(batch)
    }

    /// As [`Volume::purge`], so many records at a time. Its mark as unlinked goes with the last of
    /// them, so that a crash in between leaves the rest to the next start.
    pub(super) fn purge_in(&self, ino: Ino, stages: Vec<u64>, page: usize) -> Result<(), FsError> {
        loop {
            let chunks = self.journal.scan(&key::chunks(ino), None, page)?;
            if chunks.is_empty() {
                break;
            }
            let mut batch = Batch::default();
            for (found, _) in chunks {
                batch.remove(found);
            }
            self.journal.wait_for_room()?;
            self.apply_quietly(batch)?;
        }
        let mut batch = Batch::default();
        if let Some(content) = self.journal.record::<Content>(&key::content(ino))? {
            self.drop_content(&mut batch, ino, &content)?;
        }
        batch.retire(stages);
        let inode: Option<Inode> = self.journal.record(&key::inode(ino))?;
        if !inode.is_some_and(|inode| inode.hard) {
            batch.remove(key::dirty_inode(ino));
        }
        batch.remove(key::inode(ino));
        batch.remove(key::orphan(ino));
        self.apply_quietly(batch)
    }
}
