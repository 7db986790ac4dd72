//! Chunks that are whole while their file is still being written: what may be sent before a commit asks for it.
//!
//! Invariant: a [`WholeChunk`] has the bytes of its chunk as they were at one version of it, so a cut that holds
//! this version holds these bytes: a stage file belongs to one content for good, and whoever changes bytes in it
//! holds the content locked until the chunk has another version. What is noted is a hint; what finds no room is left to
//! the commit. Filled by `io`, read by `publish`.

use std::collections::VecDeque;
use std::sync::Arc;

use super::FsError;
use super::body::Body;
use super::cut::CutFile;
use super::locks::{Memory, Ordered};
use super::news::News;
use super::volume::Volume;
use crate::journal::StageFile;
use crate::pack::chunk::{self, CHUNK_SIZE};
use crate::types::Ino;

/// Chunks that are noted at most.
const MOST: usize = 8192;

/// One chunk at one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkVersion {
    /// The stage file that has its bytes.
    pub stage: u64,
    /// Which chunk of the file it is.
    pub index: u64,
    /// The version of its last change.
    pub version: u64,
}

/// A chunk of full length of which every byte was written.
#[derive(Debug)]
pub struct WholeChunk {
    /// Which one.
    pub at: ChunkVersion,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Chunks whose last byte was written.
#[derive(Default)]
pub(super) struct Ended(Ordered<VecDeque<(Ino, u64)>, Memory>);

impl Volume {
    /// `len` bytes at `offset` were written into the stage file of a content.
    pub(super) fn note_ended(&self, ino: Ino, offset: u64, len: u64) {
        let ended = offset / CHUNK_SIZE..(offset + len) / CHUNK_SIZE;
        if ended.is_empty() {
            return;
        }
        let was_empty = {
            let mut noted = self.ended.0.lock();
            let (was_empty, room) = (noted.is_empty(), MOST.saturating_sub(noted.len()));
            noted.extend(ended.take(room).map(|index| (ino, index)));
            was_empty
        };
        if was_empty {
            self.tell(News::Whole);
        }
    }

    /// Whether [`Volume::take_whole`] may have something to give.
    pub fn has_whole(&self) -> bool {
        !self.ended.0.lock().is_empty()
    }

    /// The next chunk that was written to its end, if it is whole and its file still in use.
    ///
    /// # Errors
    /// The stage cannot be read.
    pub fn take_whole(&self) -> Result<Option<WholeChunk>, FsError> {
        loop {
            let next = self.ended.0.lock().pop_front();
            let Some((ino, index)) = next else {
                return Ok(None);
            };
            let Some(file) = self.files.peek(ino) else {
                continue;
            };
            if self.files.is_orphan(ino) {
                continue;
            }
            let Some((stage, version)) = file.body().whole_chunk(index) else {
                continue;
            };
            // Nobody who writes waits for this.
            let mut bytes = vec![0; CHUNK_SIZE as usize];
            stage.read_at(&mut bytes, index * CHUNK_SIZE)?;
            let still = file.body().whole_chunk(index);
            if still.is_none_or(|(now, at)| (now.number(), at) != (stage.number(), version)) {
                continue;
            }
            let at = ChunkVersion {
                stage: stage.number(),
                index,
                version,
            };
            return Ok(Some(WholeChunk { at, bytes }));
        }
    }

    /// A commit has what was noted, or it is not to be sent.
    pub fn forget_whole(&self) {
        self.ended.0.lock().clear();
    }
}

impl Body {
    /// The stage file of chunk `index`, and the chunk's version, where the stage file has every byte of it and it
    /// is of full length.
    fn whole_chunk(&self, index: u64) -> Option<(Arc<StageFile>, u64)> {
        let stage = self.stage.as_ref()?;
        let (ranges, version) = self.staged_chunk(index)?;
        let is_whole = chunk::len(self.size, index) == CHUNK_SIZE && ranges == WHOLE;
        is_whole.then(|| (Arc::clone(stage), version))
    }
}

/// The ranges of a chunk of which every byte is staged.
const WHOLE: [(u32, u32); 1] = [(0, CHUNK_SIZE as u32)];

impl CutFile {
    /// Which version of chunk `index` the cut holds, where that is all that its bytes depend on.
    #[must_use]
    pub fn whole_chunk(&self, index: u64) -> Option<ChunkVersion> {
        let chunk = self.chunks.get(&index)?;
        let is_whole = chunk::len(self.size, index) == CHUNK_SIZE && chunk.ranges == WHOLE;
        self.content()
            .stage
            .filter(|_| is_whole)
            .map(|stage| ChunkVersion {
                stage,
                index,
                version: chunk.version,
            })
    }
}
