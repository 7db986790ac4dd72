//! A cut: one instant of the tree for a commit, while writing goes on.
//!
//! Invariant: what a [`Cut`] reads does not change. Records come from a snapshot of the journal.
//! Bytes come from the stage files, in which writing goes on in place: the first write into a place
//! that the commit has not read yet copies what was there to the spool first (of 64 KiB, the blocks
//! that it meets). Stage files that the tree lets go of meanwhile are kept until the cut ends, the journal's pages
//! until they are worth a copy.

mod active;
mod changes;
mod contents;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::content::content_charge;
use super::ranges::Ranges;
use super::volume::{Activity, Volume};
use super::{FsError, LostBlock};
use crate::journal::record::{Chunk, Content, Counters, Directory, Record, Tree};
use crate::journal::{Snapshot, key};
use crate::pack;
use crate::pack::Child;
use crate::pack::chunk::{self, CHUNK_SIZE};
use crate::pack::entry::TreeRef;
use crate::types::Ino;

pub(super) use active::ActiveCut;
pub use changes::Changes;
pub use contents::Contents;

/// One instant of the tree.
pub struct Cut {
    volume: Arc<Volume>,
    snapshot: Snapshot,
    counters: Counters,
    active: Arc<ActiveCut>,
    activity: Option<Activity>,
    /// Told of each step of long work.
    steps: Option<Box<dyn Fn() + Send + Sync>>,
}

/// A regular file of a cut.
#[derive(Debug)]
pub struct CutFile {
    /// The inode.
    pub ino: Ino,
    /// Length in bytes.
    pub size: u64,
    /// Holes, as runs of chunks.
    pub holes: pack::holes::Holes,
    /// The published content below, with its whole length.
    pub base: Option<(Child, u64)>,
    /// How much of the base counts, in bytes.
    pub base_valid: u64,
    /// The whole content, where it is small.
    pub inline: Option<Bytes>,
    /// Chunks that differ from the base.
    pub(crate) chunks: BTreeMap<u64, Chunk>,
    content: Content,
}

/// What became of the objects of a cut, for [`Cut::settle`].
#[derive(Debug, Default)]
pub struct Built {
    /// Content of each file of [`Changes::files`].
    pub files: Contents,
    /// Tree of each directory of [`Changes::directories`].
    pub directories: HashMap<Ino, TreeRef>,
    /// The inode table.
    pub table: Option<TreeRef>,
}

impl Volume {
    /// Cuts the tree as it is: everything acknowledged before the call is in it. One cut at a time.
    ///
    /// # Errors
    /// Local state cannot be made durable; [`FsError::Invalid`] while another cut lives.
    pub fn cut(self: &Arc<Self>) -> Result<Cut, FsError> {
        if self.active_cut().is_some() {
            return Err(FsError::Invalid);
        }
        let activity = self.activity();
        // Before: what comes while this takes its time may be in no commit but the next.
        self.quota().begin_cut();
        self.sync()?;
        let active = Arc::new(ActiveCut::new(self.stage.create_scratch()?));
        {
            let mut current = self.cut.lock();
            if current.is_some() {
                return Err(FsError::Invalid);
            }
            *current = Some(Arc::clone(&active));
        }
        let taken = self
            .journal
            .snapshot(|next_stage| active.begin(next_stage))
            .and_then(|snapshot| Ok((snapshot.counters()?, snapshot)));
        let (counters, snapshot) = taken.map_err(|error| {
            self.end_cut();
            self.poison(error)
        })?;
        Ok(Cut {
            volume: Arc::clone(self),
            snapshot,
            counters,
            active,
            activity,
            steps: None,
        })
    }

    /// The tree as it is, for who reads names and what is published of them: the bytes of files may change beside it.
    ///
    /// # Errors
    /// Local state cannot be made durable.
    pub fn view(self: &Arc<Self>) -> Result<Cut, FsError> {
        let active = Arc::new(ActiveCut::new(self.stage.create_scratch()?));
        let taken = self.journal.snapshot(|_| ());
        let taken = taken.and_then(|snapshot| Ok((snapshot.counters()?, snapshot)));
        let (counters, snapshot) = taken.map_err(|error| self.poison(error))?;
        Ok(Cut {
            volume: Arc::clone(self),
            snapshot,
            counters,
            active,
            activity: None,
            steps: None,
        })
    }

    fn end_cut(&self) {
        *self.cut.lock() = None;
    }
}

impl Cut {
    /// The volume.
    #[must_use]
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// `told` is called again and again while [`Cut::changes`] and [`Cut::settle`] come on.
    pub fn tell_steps(&mut self, told: impl Fn() + Send + Sync + 'static) {
        self.steps = Some(Box::new(told));
    }

    /// Whether [`Cut::relieve`] has something to do.
    #[must_use]
    pub fn is_due_to_move(&self) -> bool {
        self.snapshot.is_due()
    }

    /// What is written beside a cut makes the journal longer, for it keeps what the cut reads. Where that
    /// has become much the cut takes a copy of the journal and lets go of it. Blocks on the disk.
    pub fn relieve(&self) {
        self.snapshot.relieve(|| self.volume.stage.create_scratch());
    }

    pub(super) fn note_step(&self) {
        self.relieve();
        if let Some(told) = &self.steps {
            told();
        }
    }

    /// A place for what is built of this cut.
    #[must_use]
    pub fn begin_build(&self) -> Built {
        Built {
            files: Contents::in_file(self.volume.stage.create_scratch().ok()),
            ..Built::default()
        }
    }

    /// Nominal bytes of what has a name in this instant.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn used_bytes(&self) -> Result<u64, FsError> {
        let mut unlinked = Vec::new();
        self.snapshot.each(&key::orphans(), |found, _| {
            unlinked.extend(key::parse_ino(found));
            Ok(true)
        })?;
        let mut used = self.counters.used_bytes;
        // The journal counts them until they are closed.
        for ino in unlinked {
            let content: Option<Content> = self.snapshot.record(&key::content(ino))?;
            used = used.saturating_sub(content.as_ref().map_or(0, content_charge));
        }
        Ok(used)
    }

    /// The next inode number.
    #[must_use]
    pub fn next_ino(&self) -> Ino {
        Ino(self.counters.next_ino)
    }

    /// The published inode table.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn table(&self) -> Result<Option<TreeRef>, FsError> {
        Ok(self
            .snapshot
            .record::<Tree>(&key::meta("table"))?
            .map(Into::into))
    }

    /// The published tree of a directory, if it has one.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn published_tree(&self, dir: Ino) -> Result<Option<TreeRef>, FsError> {
        let state: Option<Directory> = self.snapshot.record(&key::directory(dir))?;
        Ok(state.and_then(|state| state.published).map(Into::into))
    }

    /// A regular file.
    ///
    /// # Errors
    /// The journal cannot be read, or has no such file.
    pub fn file(&self, ino: Ino) -> Result<CutFile, FsError> {
        let content: Content = self
            .snapshot
            .record(&key::content(ino))?
            .ok_or(FsError::NotFound)?;
        let mut chunks = BTreeMap::new();
        if content.staged {
            self.snapshot.each(&key::chunks(ino), |found, bytes| {
                if let Some(index) = key::parse_second(found) {
                    chunks.insert(index, Chunk::from_bytes(bytes)?);
                }
                Ok(true)
            })?;
        }
        Ok(CutFile {
            ino,
            size: content.size,
            holes: content
                .holes
                .iter()
                .map(|&(start, end)| start..end)
                .collect(),
            base: content.base.map(|base| {
                let child = Child {
                    cid: base.cid.0,
                    tsize: base.tsize,
                    damaged: base.damaged,
                };
                (child, base.size)
            }),
            base_valid: content.base.map_or(0, |base| base.valid),
            inline: content.inline.as_ref().map(|b| Bytes::copy_from_slice(b)),
            chunks,
            content,
        })
    }

    /// The whole content of a regular file where it is small, and whether what is published of it is damaged.
    ///
    /// # Errors
    /// The journal cannot be read, or has no such file.
    pub fn small(&self, ino: Ino) -> Result<Option<(Bytes, bool)>, FsError> {
        let content: Content = self
            .snapshot
            .record(&key::content(ino))?
            .ok_or(FsError::NotFound)?;
        let is_damaged = content.base.is_some_and(|base| base.damaged);
        let bytes = content
            .inline
            .map(|bytes| Bytes::from(Vec::<u8>::from(bytes)));
        Ok(bytes.map(|bytes| (bytes, is_damaged)))
    }

    /// The bytes of chunk `index`, which is in [`CutFile::chunks`]. `below` is that chunk of the
    /// base, needed where [`CutFile::needs_below`] says so.
    ///
    /// # Errors
    /// The stage cannot be read; [`FsError::NoRoom`] when the cut is void: give it up, cut anew.
    pub fn read_chunk(
        &self,
        file: &CutFile,
        index: u64,
        below: Option<&[u8]>,
    ) -> Result<Vec<u8>, FsError> {
        self.relieve();
        let len = chunk::len(file.size, index) as usize;
        let mut bytes = vec![0; len];
        let from_base = file.below_len(index).min(len);
        if let (Some(below), Some(part)) = (below, bytes.get_mut(..from_base)) {
            let have = below.len().min(from_base);
            if let (Some(part), Some(below)) = (part.get_mut(..have), below.get(..have)) {
                part.copy_from_slice(below);
            }
        }
        let ranges = file
            .chunks
            .get(&index)
            .map(|c| c.ranges.clone())
            .unwrap_or_default();
        let Some(number) = file.content.stage.filter(|_| !ranges.is_empty()) else {
            return Ok(bytes);
        };
        let staged = self.staged_bytes(file.ino, number, index)?;
        for (start, end) in ranges {
            let range = start as usize..(end as usize).min(len);
            match (bytes.get_mut(range.clone()), staged.get(range)) {
                (Some(to), Some(from)) => to.copy_from_slice(from),
                _ => {
                    return Err(FsError::Damaged(format!(
                        "stage file {number} is shorter than the journal says"
                    )));
                }
            }
        }
        Ok(bytes)
    }

    /// What the stage file has in chunk `index`, as it was at the cut, whatever is written there meanwhile.
    fn staged_bytes(&self, ino: Ino, number: u64, index: u64) -> Result<Vec<u8>, FsError> {
        // A write that was under way when the cut was made is to end first. Who comes later keeps, and is not
        // waited for: nor does it wait for this read.
        if let Some(file) = self.volume.files.peek(ino) {
            drop(file.body());
        }
        let stage = self.volume.stage.get(number)?;
        let mut bytes = stage.read_some(index * CHUNK_SIZE, CHUNK_SIZE)?;
        // A writer keeps what is there before it writes: whose write these bytes show has kept by now.
        self.active.restore(number, index, &mut bytes)?;
        Ok(bytes)
    }

    /// The content of a file cannot be built for want of a block that the node has lost.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn note_stuck(&self, ino: Ino, lost: &LostBlock) -> Result<(), FsError> {
        let file = self.file(ino)?;
        match file.base {
            Some((base, _)) => {
                let version = file.content.version;
                self.volume.note_stuck(ino, &base.cid, lost, version)
            }
            None => Err(FsError::Lost(Box::new(lost.clone()))),
        }
    }

    /// The chunk was read for good, and is uploaded or will be from memory: writers need not copy it.
    pub fn release_chunk(&self, file: &CutFile, index: u64) {
        if let Some(number) = file.content.stage {
            self.active.release(number, index);
        }
    }

    /// Takes the commit as published: what was not changed since the cut is clean from here on.
    /// Durable on return.
    ///
    /// # Errors
    /// Local state cannot be written; then the next commit publishes the same again.
    pub fn settle(&self, changes: &Changes, built: &Built) -> Result<(), FsError> {
        super::settle::settle(self, changes, built)
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// How much of what the commit holds of a file still lies below the file, given that it was cut
    /// shorter since: see [`ActiveCut::lowest`].
    pub(super) fn lowest(&self, ino: Ino, times: u64) -> Option<u64> {
        self.active.lowest(ino, times)
    }

    pub(super) fn version(&self) -> u64 {
        self.counters.version
    }

    pub(super) fn activity(&self) -> Option<Activity> {
        self.activity
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let current = self.volume.active_cut();
        if current.is_some_and(|current| Arc::ptr_eq(&current, &self.active)) {
            self.volume.end_cut();
        }
    }
}

impl CutFile {
    /// The chunks that differ from the base, in order.
    pub fn changed(&self) -> impl Iterator<Item = u64> + '_ {
        self.chunks.keys().copied()
    }

    /// How many bytes of chunk `index` the base can tell.
    fn below_len(&self, index: u64) -> usize {
        let fresh = self.chunks.get(&index).is_some_and(|chunk| chunk.fresh);
        let valid = if fresh { 0 } else { self.base_valid };
        chunk::len(valid, index) as usize
    }

    /// Whether building chunk `index` needs that chunk of the base.
    #[must_use]
    pub fn needs_below(&self, index: u64) -> bool {
        let needed = self
            .below_len(index)
            .min(chunk::len(self.size, index) as usize) as u32;
        let stored = self
            .chunks
            .get(&index)
            .map_or(&[][..], |chunk| &chunk.ranges);
        Ranges::from_stored(stored)
            .parts(0..needed)
            .iter()
            .any(|(_, staged)| !staged)
    }

    pub(super) fn content(&self) -> &Content {
        &self.content
    }
}
