//! What differs between a cut and the last published tree, and the entries to publish.
//!
//! Invariant: names are read in steps, from the marks in the snapshot; kept in memory are only those whose
//! own entry has no mark, because what they name has changed.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Built, Cut};
use crate::fs::climb::climb;
use crate::fs::{FsError, Kind};
use crate::journal::key;
use crate::journal::record::{Content, Directory, Inode, Lost};
use crate::pack;
use crate::types::Ino;

/// Marks that are looked at in one step.
const STEP: usize = 1024;

/// What differs from the last published tree.
#[derive(Debug, Default)]
pub struct Changes {
    /// Regular files whose content is to be built, in order.
    pub files: Vec<Ino>,
    /// Directories with entries that differ ([`Cut::changed_names`]); children before parents, the root
    /// last.
    pub directories: Vec<Ino>,
    /// Rows of the inode table that differ.
    pub rows: BTreeSet<Ino>,
    /// Those of the directories that are built from nothing: the node has lost pages of them.
    pub rebuilt: BTreeSet<Ino>,
    /// Files whose content differs and cannot be built, for want of a block that the node has lost.
    pub stuck: Vec<Ino>,
    /// Names without a mark of their own.
    unmarked: Names,
}

/// Names in directories, as one piece of memory.
#[derive(Debug, Default)]
struct Names {
    bytes: Vec<u8>,
    /// Directory, and where in the bytes the name stands.
    places: Vec<(Ino, u32, u32)>,
}

impl Names {
    fn push(&mut self, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        let start = u32::try_from(self.bytes.len()).ok();
        let end = u32::try_from(self.bytes.len() + name.len()).ok();
        let (Some(start), Some(end)) = (start, end) else {
            return Err(FsError::TooLarge);
        };
        self.bytes.extend_from_slice(name);
        self.places.push((dir, start, end));
        Ok(())
    }

    fn name(&self, (_, start, end): (Ino, u32, u32)) -> &[u8] {
        self.bytes
            .get(start as usize..end as usize)
            .unwrap_or_default()
    }

    /// In order of directories and names, each once.
    fn sort(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        places.sort_unstable_by(|a, b| (a.0, self.name(*a)).cmp(&(b.0, self.name(*b))));
        places.dedup_by(|a, b| a.0 == b.0 && self.name(*a) == self.name(*b));
        self.places = places;
    }

    /// Those in `dir` behind `after`.
    fn behind(&self, dir: Ino, after: Option<&[u8]>) -> impl Iterator<Item = &[u8]> {
        let begin = self.places.partition_point(|place| match after {
            None => place.0 < dir,
            Some(after) => (place.0, self.name(*place)) <= (dir, after),
        });
        let rest = self.places.get(begin..).unwrap_or_default();
        rest.iter()
            .take_while(move |place| place.0 == dir)
            .map(|place| self.name(*place))
    }
}

impl Cut {
    /// What differs from the last published tree.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn changes(&self) -> Result<Changes, FsError> {
        let mut changes = Changes::default();
        let mut directories = self.marked_directories()?;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let step = self
                .snapshot
                .scan(&key::dirty_inodes(), after.as_deref(), STEP)?;
            for (found, _) in &step {
                if let Some(ino) = key::parse_ino(found) {
                    self.sort_inode(ino, &mut changes, &mut directories)?;
                }
            }
            self.note_step();
            match step.last() {
                Some((last, _)) => after = Some(last.clone()),
                None => break,
            }
        }
        // A changed directory changes the entry that names it, up to the root.
        let mut above: Vec<Ino> = directories.iter().copied().collect();
        while let Some(dir) = above.pop() {
            for (parent, name) in self.links(dir)? {
                self.note_name(parent, &name, &mut changes)?;
                if directories.insert(parent) {
                    above.push(parent);
                }
            }
        }
        changes.unmarked.sort();
        let mut deep = Vec::with_capacity(directories.len());
        for dir in directories {
            let state: Option<Directory> = self.snapshot.record(&key::directory(dir))?;
            let Some(state) = state else { continue };
            if self.is_lost(dir, &state)? {
                changes.rebuilt.insert(dir);
            }
            deep.push((self.depth(dir)?, dir));
            self.note_step();
        }
        deep.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        changes.directories = deep.into_iter().map(|(_, dir)| dir).collect();
        Ok(changes)
    }

    /// The directories that have marked entries: one look for each, however many entries.
    fn marked_directories(&self) -> Result<BTreeSet<Ino>, FsError> {
        let mut directories = BTreeSet::new();
        let mut from = Some(key::dirty_entries());
        while let Some(begin) = from {
            let found = self.snapshot.first_from(&begin)?;
            let dir = found.as_deref().and_then(key::parse_dirty_entry);
            from = dir.and_then(|(dir, _)| {
                directories.insert(dir);
                key::end_of(&key::dirty_entries_in(dir))
            });
        }
        Ok(directories)
    }

    /// Up to `limit` names of `dir` whose entries differ, in order, behind `after`.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn changed_names(
        &self,
        changes: &Changes,
        dir: Ino,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Bytes>, FsError> {
        if changes.rebuilt.contains(&dir) {
            return self.names(dir, after, limit);
        }
        let marked = self.names_below(&key::dirty_entries_in(dir), after, limit)?;
        let unmarked = changes.unmarked.behind(dir, after).take(limit);
        let mut names: Vec<Bytes> = unmarked.map(Bytes::copy_from_slice).collect();
        if names.is_empty() {
            return Ok(marked);
        }
        names.extend(marked);
        names.sort_unstable();
        names.dedup();
        names.truncate(limit);
        Ok(names)
    }

    /// Notes that the entry `name` of `dir` differs, unless its own mark says so.
    fn note_name(&self, dir: Ino, name: &[u8], changes: &mut Changes) -> Result<(), FsError> {
        match self.snapshot.get(&key::dirty_entry(dir, name))? {
            Some(_) => Ok(()),
            None => changes.unmarked.push(dir, name),
        }
    }

    fn sort_inode(
        &self,
        ino: Ino,
        changes: &mut Changes,
        directories: &mut BTreeSet<Ino>,
    ) -> Result<(), FsError> {
        let Some(inode) = self.inode(ino)? else {
            changes.rows.insert(ino);
            return Ok(());
        };
        let kind = Kind::from_number(inode.kind)?;
        let content: Option<Content> = match kind {
            Kind::File if inode.nlink > 0 => self.snapshot.record(&key::content(ino))?,
            _ => None,
        };
        if let Some(content) = content.filter(|c| c.version != c.published || c.base.is_none()) {
            match self.stuck(ino, &content)? {
                None => changes.files.push(ino),
                Some(told) => {
                    changes.stuck.push(ino);
                    if told {
                        return Ok(());
                    }
                }
            }
        }
        if inode.hard {
            changes.rows.insert(ino);
        }
        if inode.nlink == 0 {
            return Ok(()); // unlinked and open
        }
        if kind == Kind::Directory {
            let state: Option<Directory> = self.snapshot.record(&key::directory(ino))?;
            if let Some(state) = state
                && (state.published.is_none() || self.is_lost(ino, &state)?)
            {
                directories.insert(ino);
            }
        }
        if ino == Ino::ROOT {
            directories.insert(ino);
        }
        if !inode.hard {
            for (parent, name) in self.links(ino)? {
                directories.insert(parent);
                self.note_name(parent, &name, changes)?;
            }
        }
        Ok(())
    }

    /// Whether a content cannot be built for want of a lost block, and if so, whether the published
    /// entry says that it is damaged.
    fn stuck(&self, ino: Ino, content: &Content) -> Result<Option<bool>, FsError> {
        let lost: Option<Lost> = self.snapshot.record(&key::lost(ino))?;
        let of = content.base.map(|base| base.cid);
        Ok(lost
            .filter(|lost| lost.stuck == content.version && Some(lost.of) == of)
            .map(|lost| lost.told))
    }

    /// Whether the node has lost pages of a directory whose entries are here.
    fn is_lost(&self, dir: Ino, state: &Directory) -> Result<bool, FsError> {
        let Some(tree) = state.published.filter(|_| state.loaded) else {
            return Ok(false);
        };
        let lost: Option<Lost> = self.snapshot.record(&key::lost(dir))?;
        Ok(tree.damaged || lost.is_some_and(|lost| lost.of == tree.cid))
    }

    /// Whether the entries of a directory are here.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn is_loaded(&self, dir: Ino) -> Result<bool, FsError> {
        let state: Option<Directory> = self.snapshot.record(&key::directory(dir))?;
        Ok(state.is_some_and(|state| state.loaded))
    }

    /// Up to `limit` names in a directory whose entries are here, in order, behind `after`.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn names(
        &self,
        dir: Ino,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Bytes>, FsError> {
        self.names_below(&key::entries(dir), after, limit)
    }

    /// Up to `limit` inode numbers that are here, in order, behind `after`.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn numbers(&self, after: Option<Ino>, limit: usize) -> Result<Vec<Ino>, FsError> {
        let (first, after) = (key::inode(Ino(0)), after.map(key::inode));
        let prefix = first.get(..1).unwrap_or_default();
        let found = self.snapshot.scan(prefix, after.as_deref(), limit)?;
        Ok(found
            .iter()
            .filter_map(|(key, _)| key::parse_ino(key))
            .collect())
    }

    /// What stands behind `prefix` in up to `limit` keys, from `after` on.
    fn names_below(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Bytes>, FsError> {
        let after = after.map(|after| [prefix, after].concat());
        let found = self.snapshot.scan(prefix, after.as_deref(), limit)?;
        let names = found.iter().filter_map(|(key, _)| key.get(prefix.len()..));
        Ok(names.map(Bytes::copy_from_slice).collect())
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
        let mut depth = 0;
        let parent = |at: Ino| {
            let links = self.snapshot.scan(&key::links(at), None, 1)?;
            let link = links.first().and_then(|(found, _)| key::parse_link(found));
            link.map(|(parent, _)| parent)
                .ok_or_else(|| FsError::Damaged(format!("directory {} lies in no other", at.0)))
        };
        climb(dir, parent, |_| {
            depth += 1;
            Ok(true)
        })?;
        Ok(depth)
    }

    fn inode(&self, ino: Ino) -> Result<Option<Inode>, FsError> {
        Ok(self.snapshot.record(&key::inode(ino))?)
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
        let inode = self.inode(ino)?.ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            FsError::Damaged(format!(
                "{name:?} in directory {} names inode {}, which is not there",
                dir.0, ino.0
            ))
        })?;
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
        let published = match kind {
            Kind::File => {
                let file = self.file(ino)?;
                let below = file.base.map(|(child, _)| child);
                let own = built.files.get(ino)?;
                let child = own
                    .or(below)
                    .ok_or_else(|| FsError::Damaged(format!("inode {} has no content", ino.0)))?;
                let (mut size, mut holes) = (file.size, file.holes);
                let changed = file.content.version != file.content.published;
                if changed
                    && own.is_none()
                    && let Some((_, below)) = file.base
                {
                    // Stuck: what was published before stands. Its holes are not known any more.
                    (size, holes) = (below, pack::holes::Holes::none());
                }
                content = Some(file.content);
                Published::File {
                    content: child,
                    size,
                    holes,
                }
            }
            Kind::Directory => {
                let tree = built.directories.get(&ino).copied();
                let tree = tree.map_or_else(|| self.published_tree(ino), |tree| Ok(Some(tree)))?;
                Published::Directory(
                    tree.ok_or_else(|| {
                        FsError::Damaged(format!("directory {} has no tree", ino.0))
                    })?,
                )
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
