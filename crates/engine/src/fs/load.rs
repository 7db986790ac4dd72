//! Directories that come from a published tree: their entries enter the journal once, at the first
//! look into them.

use std::collections::HashSet;

use bytes::Bytes;
use cid::Cid;

use super::notes::put_values;
use super::quota::signed;
use super::volume::Volume;
use super::{FsError, Kind};
use crate::journal::record::{
    Base, CidBytes, Content, Cookie, Directory, Entry, Inode, Tree, Xattr,
};
use crate::journal::{Batch, key};
use crate::pack;
use crate::pack::entry::TreeRef;
use crate::pack::root::Root;
use crate::types::Ino;

/// Entries that go into the journal as one batch.
const STEP: usize = 512;

/// One entry of a published directory, with the inode that it names.
#[derive(Clone, Debug)]
pub struct LoadedEntry {
    /// Name.
    pub name: Bytes,
    /// Inode number.
    pub ino: Ino,
    /// The inode, from the entry or from the inode table.
    pub inode: pack::entry::Inode,
    /// Whether it came from the inode table.
    pub hard: bool,
}

impl Volume {
    /// Begins from a published root and keeps small values with it, all or none, if this volume was
    /// never used here. False when it was.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn adopt_root(
        &self,
        root: &Root,
        values: Vec<(&str, Option<bytes::Bytes>)>,
    ) -> Result<bool, FsError> {
        let names = self.lock_names();
        let state = self.loaded_directory(Ino::ROOT);
        let untouched = state.is_ok_and(|state| state.published.is_none())
            && self.activity().is_none()
            && self
                .journal
                .scan(&key::entries(Ino::ROOT), None, 1)?
                .is_empty();
        if !untouched {
            return Ok(false);
        }
        let mut batch = Batch::default();
        self.enter_root(&mut batch, root);
        put_values(&mut batch, values);
        self.apply_quietly(batch)?;
        self.take_counts(root);
        drop(names);
        self.sync_journal()?;
        Ok(true)
    }

    /// The records of a published root.
    pub(super) fn enter_root(&self, batch: &mut Batch, root: &Root) {
        let mut inode = inode_record(&root.attr, Kind::Directory);
        inode.nlink = links_of(&root.tree);
        batch.put(key::inode(Ino::ROOT), &inode);
        batch.put(
            key::directory(Ino::ROOT),
            &Directory {
                loaded: false,
                published: Some(root.tree.into()),
            },
        );
        batch.put(key::meta("table"), &Tree::from(root.table));
        let sums = root.tree.sums.plus(root.table.sums);
        let inodes = sums.inodes.saturating_add(1);
        batch.adopt(root.next_inode.0, root.usage(), inodes);
    }

    /// What a published root counts: after its records.
    pub(super) fn take_counts(&self, root: &Root) {
        let mut quota = self.quota();
        let delta = signed(root.usage()) - signed(quota.used_bytes());
        quota.adjust(delta);
    }

    /// The published tree of a directory whose entries are not here yet; `None` when they are.
    ///
    /// # Errors
    /// No such directory; the journal cannot be read.
    pub fn unloaded_tree(&self, dir: Ino) -> Result<Option<TreeRef>, FsError> {
        let state: Directory = self
            .journal
            .record(&key::directory(dir))?
            .ok_or(FsError::NotFound)?;
        Ok(state.published.filter(|_| !state.loaded).map(Into::into))
    }

    /// The published tree of a directory whose entries are here; `None` where they are not, or it has none.
    ///
    /// # Errors
    /// No such directory; the journal cannot be read.
    pub fn loaded_tree(&self, dir: Ino) -> Result<Option<TreeRef>, FsError> {
        let state: Directory = self
            .journal
            .record(&key::directory(dir))?
            .ok_or(FsError::NotFound)?;
        Ok(state.published.filter(|_| state.loaded).map(Into::into))
    }

    /// The published inode table, if there is one.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn published_table(&self) -> Result<Option<TreeRef>, FsError> {
        Ok(self.meta::<Tree>("table")?.map(Into::into))
    }

    /// Enters entries of a directory whose tree `of` is being loaded. Entering one twice does nothing,
    /// nor does entering any where another tree has taken that one's place.
    ///
    /// # Errors
    /// [`FsError::Damaged`]: an inode stands in the tree twice, or in itself. The journal cannot be written.
    pub fn enter_loaded(&self, dir: Ino, of: &Cid, entries: &[LoadedEntry]) -> Result<(), FsError> {
        for step in entries.chunks(STEP) {
            self.journal.wait_for_calm()?;
            let names = self.lock_names();
            let tree = self.unloaded_tree(dir)?;
            if tree.is_none_or(|tree| tree.root.cid != *of) {
                return Ok(());
            }
            let mut batch = Batch::default();
            let mut entered = HashSet::new();
            let first = self.journal.next_cookies(step.len() as u64);
            for (loaded, cookie) in step.iter().zip(first..) {
                if self.journal.get(&key::entry(dir, &loaded.name))?.is_none() {
                    let is_twice = !entered.insert(loaded.ino) && !loaded.hard;
                    if is_twice || self.stands_elsewhere(dir, loaded)? {
                        return Err(FsError::Damaged(format!(
                            "inode {} stands in the published tree twice, also in directory {}",
                            loaded.ino.0, dir.0
                        )));
                    }
                    self.enter_one(&mut batch, dir, loaded, cookie)?;
                }
            }
            self.apply_quietly(batch)?;
            drop(names);
            for loaded in step {
                self.find_lost(loaded.ino)?;
            }
        }
        Ok(())
    }

    /// All entries of `dir` are in: it is as good as one made here.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn finish_loading(&self, dir: Ino, of: &Cid) -> Result<(), FsError> {
        let _names = self.lock_names();
        let tree = self.unloaded_tree(dir)?;
        let Some(tree) = tree.filter(|tree| tree.root.cid == *of) else {
            return Ok(());
        };
        let mut batch = Batch::default();
        batch.put(
            key::directory(dir),
            &Directory {
                loaded: true,
                published: Some(tree.into()),
            },
        );
        self.apply_quietly(batch)
    }

    /// Whether an entry that is to be entered names what no entry may name, or what another one alone may: a number that
    /// is given to nothing yet, the root, a directory by another name (which may lie in itself then), a file that has one.
    fn stands_elsewhere(&self, dir: Ino, loaded: &LoadedEntry) -> Result<bool, FsError> {
        let is_directory = matches!(loaded.inode.kind, pack::entry::Kind::Directory(_));
        let next = self.journal.counters().next_ino;
        if loaded.ino <= Ino::ROOT || loaded.ino.0 >= next || (loaded.hard && is_directory) {
            return Ok(true);
        }
        let known: Option<Inode> = self.journal.record(&key::inode(loaded.ino))?;
        let Some(known) = known.filter(|known| !(known.hard && loaded.hard)) else {
            return Ok(false);
        };
        let own = key::link(loaded.ino, dir, &loaded.name);
        let links = self.journal.scan(&key::links(loaded.ino), None, 2)?;
        Ok(known.nlink > 0 && links.iter().any(|(link, _)| *link != own))
    }

    fn enter_one(
        &self,
        batch: &mut Batch,
        dir: Ino,
        loaded: &LoadedEntry,
        cookie: u64,
    ) -> Result<(), FsError> {
        let kind = Kind::of_published(&loaded.inode.kind);
        let ino = loaded.ino.0;
        let name = loaded.name.as_ref();
        batch.put(
            key::entry(dir, name),
            &Entry {
                ino,
                kind: kind as u8,
                cookie,
            },
        );
        batch.put(
            key::cookie(dir, cookie),
            &Cookie {
                ino,
                kind: kind as u8,
                name: name.to_vec(),
            },
        );
        batch.set(key::link(loaded.ino, dir, name));
        // An inode with several names may be here, and changed, since another name was loaded.
        if self.journal.get(&key::inode(loaded.ino))?.is_none() {
            self.enter_inode(batch, loaded, kind);
        }
        Ok(())
    }

    fn enter_inode(&self, batch: &mut Batch, loaded: &LoadedEntry, kind: Kind) {
        let mut inode = inode_record(&loaded.inode.attr, kind);
        inode.nlink = loaded.inode.links;
        inode.hard = loaded.hard;
        match &loaded.inode.kind {
            pack::entry::Kind::File {
                content,
                size,
                holes,
            } => {
                let version = self.journal.next_version();
                let record = Content {
                    size: *size,
                    mtime_ns: inode.mtime_ns,
                    ctime_ns: inode.ctime_ns,
                    version,
                    published: version,
                    holes: holes
                        .runs()
                        .iter()
                        .map(|run| (run.start, run.end))
                        .collect(),
                    base: Some(Base {
                        cid: CidBytes(content.cid),
                        size: *size,
                        valid: *size,
                        tsize: content.tsize,
                        damaged: content.damaged,
                    }),
                    ..Content::default()
                };
                batch.put(key::content(loaded.ino), &record);
            }
            pack::entry::Kind::Directory(tree) => {
                inode.nlink = links_of(tree);
                let state = Directory {
                    loaded: false,
                    published: Some((*tree).into()),
                };
                batch.put(key::directory(loaded.ino), &state);
            }
            pack::entry::Kind::Symlink(target) => inode.target = target.to_vec(),
            pack::entry::Kind::CharDevice(rdev) | pack::entry::Kind::BlockDevice(rdev) => {
                inode.rdev = *rdev;
            }
            pack::entry::Kind::Fifo | pack::entry::Kind::Socket => {}
        }
        batch.put(key::inode(loaded.ino), &inode);
    }
}

impl Kind {
    fn of_published(kind: &pack::entry::Kind) -> Self {
        match kind {
            pack::entry::Kind::File { .. } => Self::File,
            pack::entry::Kind::Directory(_) => Self::Directory,
            pack::entry::Kind::Symlink(_) => Self::Symlink,
            pack::entry::Kind::Fifo => Self::Fifo,
            pack::entry::Kind::Socket => Self::Socket,
            pack::entry::Kind::CharDevice(_) => Self::CharDevice,
            pack::entry::Kind::BlockDevice(_) => Self::BlockDevice,
        }
    }
}

fn inode_record(attr: &pack::entry::Attr, kind: Kind) -> Inode {
    Inode {
        kind: kind as u8,
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        nlink: 1,
        rdev: 0,
        mtime_ns: attr.mtime_ns,
        ctime_ns: attr.ctime_ns,
        birth_ns: attr.birth_ns,
        atime_ns: attr.mtime_ns,
        hard: false,
        target: Vec::new(),
        xattrs: attr
            .xattrs
            .iter()
            .map(|(name, value)| Xattr {
                name: name.to_vec(),
                value: value.to_vec(),
            })
            .collect(),
    }
}

fn links_of(tree: &TreeRef) -> u32 {
    u32::try_from(tree.sums.subdirs)
        .unwrap_or(u32::MAX)
        .saturating_add(2)
}
