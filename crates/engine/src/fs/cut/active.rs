//! What writers and a cut must know of each other while both are at work.
//!
//! Invariant: writers call what names a file's stage or inode with that file's lock held, so that for one file they
//! come one after another, and keep before they write. The commit holds no lock: it looks for what was kept after it
//! has read.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::fs::FsError;
use crate::fs::locks::{Memory, Ordered};
use crate::fs::volume::Volume;
use crate::journal::{DiskFile, StageFile};
use crate::pack::chunk::CHUNK_SIZE;
use crate::types::Ino;

/// What is kept at once, in bytes: the most that a small write copies.
const BLOCK: u64 = 64 << 10;

/// The snapshot of the cut is not taken yet.
const NOT_BEGUN: u64 = u64::MAX;

/// The side of a cut that writers see.
pub(in crate::fs) struct ActiveCut {
    /// Stage files from this number on are younger than the cut.
    first_young_stage: AtomicU64,
    spool: Arc<dyn DiskFile>,
    kept: Ordered<Kept, Memory>,
    /// The spool could not take what it should: the cut is void.
    void: AtomicBool,
    shorter: Ordered<HashMap<Ino, Shorter>, Memory>,
}

/// A file was cut shorter, with the snapshot taken; or got another base, as if it had been cut to nothing.
#[derive(Clone, Copy)]
struct Shorter {
    /// How often.
    times: u64,
    /// The least length that it has had, in bytes.
    lowest: u64,
}

#[derive(Default)]
struct Kept {
    /// Chunks of stage files that the commit has read: nothing of them is copied any more.
    read: HashSet<(u64, u64)>,
    /// Where the bytes of a block of a stage file are in the spool: offset and length, which is less than
    /// [`BLOCK`] where the file ended.
    blocks: HashMap<(u64, u64), (u64, u64)>,
    spooled: u64,
}

impl Kept {
    /// The blocks at `bytes` of a chunk that are still to be kept; there may be some between them that are.
    fn missing(&self, stage: u64, chunk: u64, bytes: Range<u64>) -> Option<Range<u64>> {
        if self.read.contains(&(stage, chunk)) {
            return None;
        }
        let met = bytes.start / BLOCK..bytes.end.div_ceil(BLOCK);
        let mut missing = met.filter(|block| !self.blocks.contains_key(&(stage, *block)));
        let first = missing.next()?;
        Some(first..missing.next_back().unwrap_or(first) + 1)
    }
}

/// The blocks of a chunk.
fn blocks_of(chunk: u64) -> Range<u64> {
    chunk * CHUNK_SIZE / BLOCK..(chunk + 1) * CHUNK_SIZE / BLOCK
}

impl Volume {
    /// Before `len` bytes at `offset` of a stage file are overwritten: what a cut still has to read
    /// there is copied to its spool.
    pub(in crate::fs) fn keep_for_cut(
        &self,
        stage: &StageFile,
        offset: u64,
        len: u64,
    ) -> Result<(), FsError> {
        let Some(cut) = self.active_cut() else {
            return Ok(());
        };
        // Before the snapshot's moment nothing is kept: what was written and saved until then is in it. A write that
        // meets that moment belongs to either side, and its chunk has a version that the snapshot does not settle.
        let young = cut.first_young_stage.load(Ordering::Acquire);
        if young == NOT_BEGUN || stage.number() >= young {
            return Ok(());
        }
        let end = offset + len;
        for chunk in offset / CHUNK_SIZE..end.div_ceil(CHUNK_SIZE) {
            let start = offset.max(chunk * CHUNK_SIZE);
            cut.keep(chunk, start..end.min((chunk + 1) * CHUNK_SIZE), stage)?;
        }
        Ok(())
    }

    /// The most that a write of `len` bytes may add to the spool of a cut, in bytes.
    pub(in crate::fs) fn spool_room(&self, len: u64) -> u64 {
        match self.active_cut() {
            Some(_) if len > 0 => (len / BLOCK + 2) * BLOCK,
            _ => 0,
        }
    }

    /// Before a file is cut to `size` bytes.
    pub(in crate::fs) fn note_shorter(&self, ino: Ino, size: u64) {
        if size == 0 {
            self.note_emptied(ino);
        }
        if let Some(cut) = self.active_cut() {
            cut.note_shorter(ino, size);
        }
    }

    /// Before a file takes over what another one has published: nothing that a cut holds of it may come to lie
    /// below that.
    pub(in crate::fs) fn note_shared(&self, ino: Ino) {
        if let Some(cut) = self.active_cut() {
            cut.note_shorter(ino, 0);
        }
    }
}

impl ActiveCut {
    pub(super) fn new(spool: Arc<dyn DiskFile>) -> Self {
        Self {
            first_young_stage: AtomicU64::new(NOT_BEGUN),
            spool,
            kept: Ordered::default(),
            void: AtomicBool::new(false),
            shorter: Ordered::default(),
        }
    }

    /// This is the snapshot's moment: it knows no stage files from `next_stage` on.
    pub(super) fn begin(&self, next_stage: u64) {
        self.first_young_stage.store(next_stage, Ordering::Release);
    }

    /// Whether the cut may still read that stage file: one that is younger it does not know.
    pub(in crate::fs) fn may_read(&self, stage: u64) -> bool {
        stage < self.first_young_stage.load(Ordering::Acquire)
    }

    fn note_shorter(&self, ino: Ino, size: u64) {
        if self.first_young_stage.load(Ordering::Acquire) == NOT_BEGUN {
            return;
        }
        self.shorter
            .lock()
            .entry(ino)
            .and_modify(|known| {
                known.times += 1;
                known.lowest = known.lowest.min(size);
            })
            .or_insert(Shorter {
                times: 1,
                lowest: size,
            });
    }

    /// The least length in bytes that a file has been cut to since, given that it was cut `times` times
    /// more than its record in the snapshot says. `None` when not all of these were seen: one came
    /// while the cut was being made, and nobody can tell how much of the snapshot's content it left.
    ///
    /// That the counts are equal says that these are the same cuts, since everything that a body counts is noted
    /// from [`ActiveCut::begin`] on, and a file is saved with all of its cuts up to one of them: if one that was
    /// not noted is missing in the snapshot, none that was noted is in it, and the file counts more of them.
    pub(super) fn lowest(&self, ino: Ino, times: u64) -> Option<u64> {
        let shorter = self.shorter.lock().get(&ino).copied()?;
        (shorter.times == times).then_some(shorter.lowest)
    }

    fn keep(&self, chunk: u64, bytes: Range<u64>, stage: &StageFile) -> Result<(), FsError> {
        let number = stage.number();
        let Some(blocks) = self.kept.lock().missing(number, chunk, bytes) else {
            return Ok(());
        };
        let start = blocks.start * BLOCK;
        let bytes = stage.read_some(start, blocks.end * BLOCK - start)?;
        let len = bytes.len() as u64;
        let at = {
            let mut kept = self.kept.lock();
            kept.spooled += len;
            kept.spooled - len
        };
        if self.spool.write_at(&bytes, at).is_err() {
            self.void.store(true, Ordering::Release);
        }
        // Not before it can be read there; and not after what the caller writes.
        let mut kept = self.kept.lock();
        for block in blocks.clone() {
            let before = ((block - blocks.start) * BLOCK).min(len);
            let place = (at + before, BLOCK.min(len - before));
            kept.blocks.entry((number, block)).or_insert(place);
        }
        Ok(())
    }

    /// Puts back into `bytes`, what the stage file had at its chunk a moment ago, what was kept of it until now.
    ///
    /// # Errors
    /// [`FsError::NoRoom`] when the cut is void; the spool cannot be read.
    pub(super) fn restore(
        &self,
        stage: u64,
        chunk: u64,
        bytes: &mut Vec<u8>,
    ) -> Result<(), FsError> {
        let blocks = blocks_of(chunk);
        let first = blocks.start;
        let known: Vec<_> = {
            let kept = self.kept.lock();
            let place = |block| Some((block, *kept.blocks.get(&(stage, block))?));
            blocks.filter_map(place).collect()
        };
        if self.void.load(Ordering::Acquire) {
            return Err(FsError::NoRoom);
        }
        for (block, (at, len)) in known {
            let start = ((block - first) * BLOCK) as usize;
            let end = start + len as usize;
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            if let Some(part) = bytes.get_mut(start..end) {
                let read = self.spool.read_at(part, at);
                read.map_err(|e| FsError::Disk(e.to_string()))?;
            }
        }
        Ok(())
    }

    /// The commit reads a chunk no more: writers need not copy it.
    pub(super) fn release(&self, stage: u64, chunk: u64) {
        let mut kept = self.kept.lock();
        kept.read.insert((stage, chunk));
        for block in blocks_of(chunk) {
            kept.blocks.remove(&(stage, block));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Disk, MemoryDisk};

    #[test]
    fn a_length_that_was_not_seen_is_never_guessed() {
        let disk = MemoryDisk::default();
        let cut = ActiveCut::new(disk.create("spool").unwrap());
        let ino = Ino(7);
        cut.note_shorter(ino, 100); // while the snapshot is being taken
        assert_eq!(cut.lowest(ino, 1), None);
        cut.begin(1);
        cut.note_shorter(ino, 500);
        cut.note_shorter(ino, 900);
        assert_eq!(cut.lowest(ino, 2), Some(500));
        // Once more than was seen: shorter than 500 perhaps.
        assert_eq!(cut.lowest(ino, 3), None);
    }
}
