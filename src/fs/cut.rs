//! A cut: one instant of the tree for a commit, while writing goes on.
//!
//! Invariant: what a [`Cut`] reads does not change. Records come from a snapshot of the journal.
//! Bytes come from the stage files, in which writing goes on in place: the first write into a chunk
//! that the commit has not read yet copies what was there to the spool first (at most one chunk a
//! write). Stage files that the tree lets go of meanwhile are kept until the cut ends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::body::Body;
use super::files::FileRef;
use super::ranges::Ranges;
use super::volume::{Activity, Volume, lock};
use super::{FsError, Kind};
use crate::journal::record::{Chunk, Content, Counters, Directory, Inode, Record, Tree};
use crate::journal::{DiskFile, Snapshot, StageFile, key};
use crate::pack;
use crate::pack::Child;
use crate::pack::chunk::{self, CHUNK_SIZE};
use crate::pack::entry::TreeRef;
use crate::types::Ino;

/// Greatest size of the spool in bytes: a cut that needs more is given up and made anew.
const MAX_SPOOL: u64 = 256 << 20;

/// What writers must know of a cut.
pub(crate) struct ActiveCut {
    /// Stage files from this number on are younger than the cut.
    first_young_stage: AtomicU64,
    spool: Arc<dyn DiskFile>,
    kept: Mutex<Kept>,
    /// The spool could not take what it should: the cut is void.
    void: AtomicBool,
}

#[derive(Default)]
struct Kept {
    /// Chunks that need no copy any more: where their bytes are in the spool (offset, length), or
    /// `None` when the commit has read them.
    chunks: HashMap<(Ino, u64), Option<(u64, u64)>>,
    spooled: u64,
}

/// One instant of the tree.
pub struct Cut {
    volume: Arc<Volume>,
    snapshot: Snapshot,
    counters: Counters,
    active: Arc<ActiveCut>,
    activity: Option<Activity>,
}

/// What differs from the last published tree.
#[derive(Debug, Default)]
pub struct Changes {
    /// Regular files whose content is to be built.
    pub files: Vec<Ino>,
    /// Directories with the names whose entries differ; children before parents, the root last.
    pub directories: Vec<(Ino, BTreeSet<Bytes>)>,
    /// Rows of the inode table that differ.
    pub rows: BTreeSet<Ino>,
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
    pub files: HashMap<Ino, Child>,
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
        let activity = self.activity();
        self.sync()?;
        let active = Arc::new(ActiveCut {
            first_young_stage: AtomicU64::new(u64::MAX),
            spool: self.stage.create_spool()?,
            kept: Mutex::default(),
            void: AtomicBool::new(false),
        });
        {
            let mut current = self.cut.write().unwrap_or_else(PoisonError::into_inner);
            if current.is_some() {
                return Err(FsError::Invalid);
            }
            *current = Some(Arc::clone(&active));
        }
        let taken = self
            .journal
            .snapshot()
            .and_then(|snapshot| Ok((snapshot.counters()?, snapshot)));
        let (counters, snapshot) = taken.map_err(|error| {
            self.end_cut();
            self.poison(error)
        })?;
        active
            .first_young_stage
            .store(counters.next_stage, Ordering::Release);
        Ok(Cut {
            volume: Arc::clone(self),
            snapshot,
            counters,
            active,
            activity,
        })
    }

    /// Before `len` bytes at `offset` of a stage file are overwritten: what a cut still has to read
    /// there is copied to its spool.
    pub(super) fn keep_for_cut(
        &self,
        ino: Ino,
        stage: &StageFile,
        offset: u64,
        len: u64,
    ) -> Result<(), FsError> {
        let Some(cut) = self.active_cut() else {
            return Ok(());
        };
        if stage.number() >= cut.first_young_stage.load(Ordering::Acquire) {
            return Ok(());
        }
        for index in offset / CHUNK_SIZE..(offset + len).div_ceil(CHUNK_SIZE) {
            cut.keep(ino, index, stage)?;
        }
        Ok(())
    }

    fn end_cut(&self) {
        *self.cut.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl ActiveCut {
    fn keep(&self, ino: Ino, index: u64, stage: &StageFile) -> Result<(), FsError> {
        if lock(&self.kept).chunks.contains_key(&(ino, index)) {
            return Ok(());
        }
        // The file's lock is held: nobody else keeps this chunk meanwhile.
        let bytes = stage.read_some(index * CHUNK_SIZE, CHUNK_SIZE)?;
        let at = {
            let mut kept = lock(&self.kept);
            let at = kept.spooled;
            kept.spooled += bytes.len() as u64;
            kept.chunks
                .insert((ino, index), Some((at, bytes.len() as u64)));
            at
        };
        if at + bytes.len() as u64 > MAX_SPOOL || self.spool.write_at(&bytes, at).is_err() {
            self.void.store(true, Ordering::Release);
        }
        Ok(())
    }
}

impl Cut {
    /// The volume.
    #[must_use]
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Nominal bytes of this instant.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.counters.used_bytes
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

    /// What differs from the last published tree.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn changes(&self) -> Result<Changes, FsError> {
        let mut changes = Changes::default();
        let mut names: BTreeMap<Ino, BTreeSet<Bytes>> = BTreeMap::new();
        self.snapshot.each(&key::dirty_entries(), |found, _| {
            if let Some((dir, name)) = key::parse_dirty_entry(found) {
                names
                    .entry(dir)
                    .or_default()
                    .insert(Bytes::copy_from_slice(name));
            }
            Ok(true)
        })?;
        let mut inodes = Vec::new();
        self.snapshot.each(&key::dirty_inodes(), |found, _| {
            inodes.extend(key::parse_ino(found));
            Ok(true)
        })?;
        for ino in inodes {
            self.sort_inode(ino, &mut changes, &mut names)?;
        }
        // A changed directory changes the entry that names it, up to the root.
        let mut above: Vec<Ino> = names.keys().copied().collect();
        while let Some(dir) = above.pop() {
            for (parent, name) in self.links(dir)? {
                let known = names.contains_key(&parent);
                names.entry(parent).or_default().insert(name);
                if !known {
                    above.push(parent);
                }
            }
        }
        let mut deep = Vec::new();
        for (dir, names) in names {
            if self.snapshot.get(&key::directory(dir))?.is_some() {
                deep.push((self.depth(dir)?, dir, names));
            }
        }
        deep.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        changes.directories = deep
            .into_iter()
            .map(|(_, dir, names)| (dir, names))
            .collect();
        Ok(changes)
    }

    fn sort_inode(
        &self,
        ino: Ino,
        changes: &mut Changes,
        names: &mut BTreeMap<Ino, BTreeSet<Bytes>>,
    ) -> Result<(), FsError> {
        let Some(inode) = self.inode(ino)? else {
            changes.rows.insert(ino);
            return Ok(());
        };
        if inode.hard {
            changes.rows.insert(ino);
        }
        if inode.nlink == 0 {
            return Ok(()); // unlinked and open
        }
        match Kind::from_number(inode.kind)? {
            Kind::File => {
                let content: Option<Content> = self.snapshot.record(&key::content(ino))?;
                if content.is_some_and(|c| c.version != c.published || c.base.is_none()) {
                    changes.files.push(ino);
                }
            }
            Kind::Directory => {
                let state: Option<Directory> = self.snapshot.record(&key::directory(ino))?;
                if state.is_some_and(|state| state.published.is_none()) {
                    names.entry(ino).or_default();
                }
            }
            _ => {}
        }
        if ino == Ino::ROOT {
            names.entry(ino).or_default();
        }
        if !inode.hard {
            for (parent, name) in self.links(ino)? {
                names.entry(parent).or_default().insert(name);
            }
        }
        Ok(())
    }

    /// Directory and name of each link of an inode.
    fn links(&self, ino: Ino) -> Result<Vec<(Ino, Bytes)>, FsError> {
        let mut links = Vec::new();
        self.snapshot.each(&key::links(ino), |found, _| {
            if let Some((dir, name)) = key::parse_link(found) {
                links.push((dir, Bytes::copy_from_slice(name)));
            }
            Ok(true)
        })?;
        Ok(links)
    }

    fn depth(&self, dir: Ino) -> Result<usize, FsError> {
        let (mut depth, mut at) = (0, dir);
        while at != Ino::ROOT {
            let links = self.links(at)?;
            let (parent, _) = links.first().ok_or(FsError::NotFound)?;
            (depth, at) = (depth + 1, *parent);
        }
        Ok(depth)
    }

    fn inode(&self, ino: Ino) -> Result<Option<Inode>, FsError> {
        Ok(self.snapshot.record(&key::inode(ino))?)
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
        self.snapshot.each(&key::chunks(ino), |found, bytes| {
            if let Some(index) = key::parse_second(found) {
                chunks.insert(index, Chunk::from_bytes(bytes)?);
            }
            Ok(true)
        })?;
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

    /// The bytes of chunk `index`, which is in [`CutFile::chunks`]. `below` is that chunk of the
    /// base, needed where [`CutFile::needs_below`] says so.
    ///
    /// # Errors
    /// The stage cannot be read; [`FsError::Invalid`] when the cut is void: give it up, cut anew.
    pub fn read_chunk(
        &self,
        file: &CutFile,
        index: u64,
        below: Option<&[u8]>,
    ) -> Result<Vec<u8>, FsError> {
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
        let staged = self.staged_bytes(file.ino, index, number)?;
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

    /// What the stage file has in chunk `index`, as it was at the cut.
    fn staged_bytes(&self, ino: Ino, index: u64, number: u64) -> Result<Vec<u8>, FsError> {
        let held: Option<FileRef> = match self.volume.hold(ino) {
            Ok(held) => Some(held),
            Err(FsError::NotFound) => None, // removed since: nobody writes it any more
            Err(error) => return Err(error),
        };
        let result = {
            let body = held.as_ref().map(|held| held.body());
            self.read_unchanged(ino, index, number, body.as_deref())
        };
        if let Some(held) = held {
            self.volume.leave(held);
        }
        result
    }

    /// The file's lock is held, so no writer is between keeping and writing.
    fn read_unchanged(
        &self,
        ino: Ino,
        index: u64,
        number: u64,
        _locked: Option<&Body>,
    ) -> Result<Vec<u8>, FsError> {
        let known = lock(&self.active.kept).chunks.get(&(ino, index)).copied();
        if self.active.void.load(Ordering::Acquire) {
            return Err(FsError::Invalid);
        }
        if let Some(Some((at, len))) = known {
            let mut bytes = vec![0; len as usize];
            self.active
                .spool
                .read_at(&mut bytes, at)
                .map_err(|e| FsError::Disk(e.to_string()))?;
            return Ok(bytes);
        }
        let stage = self.volume.stage.get(number)?;
        Ok(stage.read_some(index * CHUNK_SIZE, CHUNK_SIZE)?)
    }

    /// The chunk was read for good, and is uploaded or will be from memory: writers need not copy it.
    pub fn release_chunk(&self, ino: Ino, index: u64) {
        lock(&self.active.kept)
            .chunks
            .entry((ino, index))
            .or_insert(None);
    }

    /// Attributes of the root directory.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn root_attr(&self) -> Result<pack::entry::Attr, FsError> {
        let inode = self.inode(Ino::ROOT)?.ok_or(FsError::NotFound)?;
        Ok(attr_of(&inode, None))
    }

    /// The entry `name` of `dir` as it is to be published; `None` when it is gone. `built` has what
    /// of this commit is built already (children come before parents).
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn entry(
        &self,
        dir: Ino,
        name: &Bytes,
        built: &Built,
    ) -> Result<Option<pack::entry::Entry>, FsError> {
        let found: Option<crate::journal::record::Entry> =
            self.snapshot.record(&key::entry(dir, name))?;
        let Some(found) = found else {
            return Ok(None);
        };
        let ino = Ino(found.ino);
        let inode = self.inode(ino)?.ok_or(FsError::NotFound)?;
        let published = if inode.hard {
            None
        } else {
            Some(self.published(ino, &inode, built)?)
        };
        Ok(Some(pack::entry::Entry {
            key: name.clone(),
            ino,
            inode: published,
        }))
    }

    /// The row of the inode table as it is to be published; `None` when the inode has none.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn row(&self, ino: Ino, built: &Built) -> Result<Option<pack::entry::Entry>, FsError> {
        let inode = self
            .inode(ino)?
            .filter(|inode| inode.hard && inode.nlink > 0);
        inode
            .map(|inode| {
                Ok(pack::entry::Entry {
                    key: pack::entry::row_key(ino),
                    ino,
                    inode: Some(self.published(ino, &inode, built)?),
                })
            })
            .transpose()
    }

    fn published(
        &self,
        ino: Ino,
        inode: &Inode,
        built: &Built,
    ) -> Result<pack::entry::Inode, FsError> {
        use pack::entry::Kind as Published;
        let kind = Kind::from_number(inode.kind)?;
        let mut content = None;
        let published =
            match kind {
                Kind::File => {
                    let file = self.file(ino)?;
                    let below = file.base.map(|(child, _)| child);
                    let child = built.files.get(&ino).copied().or(below).ok_or_else(|| {
                        FsError::Damaged(format!("inode {} has no content", ino.0))
                    })?;
                    content = Some(file.content);
                    Published::File {
                        content: child,
                        size: file.size,
                        holes: file.holes,
                    }
                }
                Kind::Directory => {
                    let tree = built.directories.get(&ino).copied();
                    let tree =
                        tree.map_or_else(|| self.published_tree(ino), |tree| Ok(Some(tree)))?;
                    Published::Directory(tree.ok_or_else(|| {
                        FsError::Damaged(format!("directory {} has no tree", ino.0))
                    })?)
                }
                Kind::Symlink => Published::Symlink(Bytes::copy_from_slice(&inode.target)),
                Kind::Fifo => Published::Fifo,
                Kind::Socket => Published::Socket,
                Kind::CharDevice => Published::CharDevice(inode.rdev),
                Kind::BlockDevice => Published::BlockDevice(inode.rdev),
            };
        Ok(pack::entry::Inode {
            attr: attr_of(inode, content.as_ref()),
            kind: published,
            links: if kind == Kind::Directory {
                1
            } else {
                inode.nlink
            },
        })
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

    pub(super) fn version(&self) -> u64 {
        self.counters.version
    }

    pub(super) fn activity(&self) -> Option<Activity> {
        self.activity
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.volume.end_cut();
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

fn attr_of(inode: &Inode, content: Option<&Content>) -> pack::entry::Attr {
    pack::entry::Attr {
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        mtime_ns: content.map_or(inode.mtime_ns, |content| content.mtime_ns),
        ctime_ns: inode
            .ctime_ns
            .max(content.map_or(i64::MIN, |content| content.ctime_ns)),
        birth_ns: inode.birth_ns,
        xattrs: inode
            .xattrs
            .iter()
            .map(|x| {
                (
                    Bytes::copy_from_slice(&x.name),
                    Bytes::copy_from_slice(&x.value),
                )
            })
            .collect(),
    }
}
