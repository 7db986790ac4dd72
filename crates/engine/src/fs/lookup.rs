//! Reading the tree: names, attributes, listings. No lock but the journal's own and, for a
//! file in use, its body's to read.

use super::content::data_bytes;
use super::create::MAX_NAME;
use super::files::Seen;
use super::volume::Volume;
use super::{Attr, DirItem, FsError, Kind, Want};
use crate::journal::key;
use crate::journal::record::{Content, Cookie, Directory, Entry, Inode, Record};
use crate::types::Ino;

/// Cookies of `.` and `..`; entries count from behind them.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// Entries read from the journal at a time.
const STEP: usize = 256;

impl Volume {
    /// The attributes of the entry `name` of `dir`.
    pub(super) fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr, FsError> {
        if name.len() > MAX_NAME {
            return Err(FsError::NameTooLong);
        }
        let entry = self.entry(dir, name)?.ok_or(FsError::NotFound)?;
        self.getattr(Ino(entry.ino))
    }

    /// The attributes of `ino`.
    pub(super) fn getattr(&self, ino: Ino) -> Result<Attr, FsError> {
        // Looked at before the record: what goes into that meanwhile is in one of both.
        let accessed = self.moved_access(ino);
        self.attr_of(ino, &self.inode(ino)?, accessed)
    }

    /// The attributes of the directory that the directory `dir` lies in.
    pub(super) fn getattr_above(&self, dir: Ino) -> Result<Attr, FsError> {
        match self.inode(dir)?.nlink {
            0 => Err(FsError::NotFound),
            _ => self.getattr(self.parent_of(dir)?),
        }
    }

    /// The attributes of `ino`, whose record is at hand, and what was `accessed` of it that may not be in there.
    pub(super) fn attr_of(
        &self,
        ino: Ino,
        inode: &Inode,
        accessed: Option<i64>,
    ) -> Result<Attr, FsError> {
        let kind = Kind::from_number(inode.kind)?;
        let mut attr = Attr {
            ino,
            kind,
            size: 0,
            blocks: 0,
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            atime_ns: accessed.unwrap_or(inode.atime_ns),
            mtime_ns: inode.mtime_ns,
            ctime_ns: inode.ctime_ns,
            birth_ns: inode.birth_ns,
        };
        match kind {
            Kind::File => self.fill_from_content(&mut attr)?,
            Kind::Symlink => attr.size = inode.target.len() as u64,
            Kind::Directory if inode.nlink == 0 => {} // removed
            Kind::Directory => attr.size = 4096,
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {}
        }
        Ok(attr)
    }

    fn fill_from_content(&self, attr: &mut Attr) -> Result<(), FsError> {
        let in_use = || self.files.peek(attr.ino).map(|file| file.look());
        let seen = match in_use() {
            Some(seen) => seen,
            None => match self.journal.record::<Content>(&key::content(attr.ino))? {
                Some(content) => Seen {
                    size: content.size,
                    mtime_ns: content.mtime_ns,
                    ctime_ns: content.ctime_ns,
                    allocated_bytes: data_bytes(&content),
                    unsaved: false,
                },
                // Removed between the two looks: it is held from before its record goes until the kernel forgets it.
                None => in_use().ok_or(FsError::NotFound)?,
            },
        };
        let (size, allocated) = (seen.size, seen.allocated_bytes);
        attr.size = size;
        // A file without a block is taken for one that is nothing but a hole, and not looked into (tar does so); what is
        // stored through a mapping may be the kernel's alone for now.
        attr.blocks = allocated.max(size.min(1)).div_ceil(512);
        attr.mtime_ns = seen.mtime_ns;
        attr.ctime_ns = attr.ctime_ns.max(seen.ctime_ns);
        Ok(())
    }

    /// The target of a symlink.
    pub(super) fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let inode = self.inode(ino)?;
        match Kind::from_number(inode.kind)? {
            Kind::Symlink => Ok(inode.target),
            _ => Err(FsError::Invalid),
        }
    }

    /// Entries of `dir` behind `cookie`, until `add` answers false.
    pub(super) fn readdir(
        &self,
        dir: Ino,
        cookie: u64,
        plus: bool,
        add: &mut dyn FnMut(&DirItem, Option<&Attr>) -> bool,
    ) -> Result<(), FsError> {
        self.loaded_directory(dir)?;
        for (own, name, ino) in [
            (DOT, &b"."[..], dir),
            (DOT_DOT, b"..", self.parent_of(dir)?),
        ] {
            let item = DirItem {
                cookie: own,
                ino,
                kind: Kind::Directory,
                name: name.to_vec(),
            };
            if cookie < own && !add(&item, None) {
                return Ok(());
            }
        }
        let prefix = key::cookies(dir);
        let mut after = key::cookie(dir, cookie.max(DOT_DOT));
        loop {
            let step = self.journal.scan(&prefix, Some(&after), STEP)?;
            for (found, bytes) in &step {
                let entry = Cookie::from_bytes(bytes)?;
                let item = DirItem {
                    cookie: key::parse_second(found).unwrap_or(DOT_DOT),
                    ino: Ino(entry.ino),
                    kind: Kind::from_number(entry.kind)?,
                    name: entry.name,
                };
                let attr = match plus.then(|| self.getattr(item.ino)) {
                    Some(Err(FsError::NotFound)) => continue, // unlinked this moment
                    Some(attr) => Some(attr?),
                    None => None,
                };
                if !add(&item, attr.as_ref()) {
                    return Ok(());
                }
            }
            match step.last() {
                Some((last, _)) => after.clone_from(last),
                None => return Ok(()),
            }
        }
    }

    /// The record of an inode, or what it was when its last name went, without links, while somebody holds it.
    pub(super) fn inode(&self, ino: Ino) -> Result<Inode, FsError> {
        let record = self.journal.record(&key::inode(ino))?;
        record
            .or_else(|| self.removed.get(ino))
            .ok_or(FsError::NotFound)
    }

    /// The entry `name` of `dir`, as soon as it is here: also while the rest of `dir` is still being
    /// loaded. What changes a directory takes [`Volume::entry_to_change`].
    pub(super) fn entry(&self, dir: Ino, name: &[u8]) -> Result<Option<Entry>, FsError> {
        if let Some(entry) = self.journal.record(&key::entry(dir, name))? {
            return Ok(Some(entry));
        }
        self.loaded_directory(dir)?;
        // It may have been loaded between the two looks.
        Ok(self.journal.record(&key::entry(dir, name))?)
    }

    /// The entry `name` of `dir`, all of whose entries are here: what is removed from a directory that
    /// is still being loaded would come back with its next part.
    pub(super) fn entry_to_change(&self, dir: Ino, name: &[u8]) -> Result<Option<Entry>, FsError> {
        self.loaded_directory(dir)?;
        Ok(self.journal.record(&key::entry(dir, name))?)
    }

    /// The state of a directory whose entries are here.
    pub(super) fn loaded_directory(&self, dir: Ino) -> Result<Directory, FsError> {
        let state: Directory =
            self.journal
                .record(&key::directory(dir))?
                .ok_or_else(|| match self.inode(dir) {
                    Ok(removed) if removed.kind == Kind::Directory as u8 => FsError::NotFound,
                    Ok(_) => FsError::NotDirectory,
                    Err(error) => error,
                })?;
        if state.loaded {
            Ok(state)
        } else {
            Err(FsError::NotLocal(Box::new(Want::Directory {
                slot: 0,
                dir,
            })))
        }
    }

    /// The directory that a directory lies in; the root lies in itself.
    pub(super) fn parent_of(&self, dir: Ino) -> Result<Ino, FsError> {
        let links = self.journal.scan(&key::links(dir), None, 1)?;
        Ok(links
            .first()
            .and_then(|(found, _)| key::parse_link(found))
            .map_or(Ino::ROOT, |(parent, _)| parent))
    }
}

impl Kind {
    /// The kind that a record names by number.
    pub(super) fn from_number(number: u8) -> Result<Self, FsError> {
        Ok(match number {
            1 => Self::File,
            2 => Self::Directory,
            3 => Self::Symlink,
            4 => Self::Fifo,
            5 => Self::Socket,
            6 => Self::CharDevice,
            7 => Self::BlockDevice,
            other => return Err(FsError::Damaged(format!("kind {other} of an inode"))),
        })
    }
}
