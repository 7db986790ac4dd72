//! What a volume knows of one name or one inode: entries of directories and rows of the inode table.
//!
//! Invariant: an entry that [`Entry::check`] passed can be written, is read back as it is, and
//! takes no more bytes than [`Entry::sums`] charges for it. Bytes: `codec`. Called by a commit
//! (`fs` to entry), a reader (entry to `fs`) and the tree.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::charge::{self, DIRECTORY, entry_charge, file_charge, row_charge};
use super::chunk::MAX_FILE;
use super::holes::Holes;
use super::{Child, PackError, cid};
use pxfs_base::types::Ino;

mod codec;
mod weight;

#[cfg(test)]
pub(super) mod tests;

pub(super) use codec::{
    array, bytes, link_of, read, read_attr, read_child, read_cid, read_sums, write, write_attr,
    write_sums,
};
pub(super) use weight::{child_len, sums_len, uint_len, weight};

/// Bytes of a name.
pub const MAX_NAME: usize = 255;
/// Bytes of a symlink's target.
pub const MAX_TARGET: usize = 4095;
/// Bytes of all extended attributes of an inode, as [`charge::xattrs_bytes`] counts them: the longest value that there is
/// (64 KiB) has room with any name, and the names of all of them in one list of the kernel (64 KiB).
pub const MAX_XATTRS: u64 = 65 << 10;

/// Which of the two trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TreeKind {
    /// Entries by name.
    Directory,
    /// Inodes by number.
    Table,
}

/// What lies in a directory (in all of it, or in one page), with all that is below. Kept so that
/// `statfs`, `rmdir` and the quota need no walk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sums {
    /// Charges of everything, in bytes ([`super::charge`]).
    pub bytes: u64,
    /// Inodes; one with several names counts in the inode table alone.
    pub inodes: u64,
    /// Names.
    pub entries: u64,
    /// Directories directly here, not below: `st_nlink` − 2.
    pub subdirs: u64,
}

impl Sums {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
            entries: self.entries.saturating_add(other.entries),
            subdirs: self.subdirs.saturating_add(other.subdirs),
        }
    }
}

impl std::iter::Sum for Sums {
    fn sum<I: Iterator<Item = Self>>(sums: I) -> Self {
        sums.fold(Self::default(), Self::plus)
    }
}

/// A tree as its parent knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TreeRef {
    /// Its topmost page.
    pub root: Child,
    /// What lies in it; checked against each page that is loaded.
    pub sums: Sums,
}

/// Attributes of an inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    /// Permission, set-id and sticky bits (`& 0o7777`).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of content, ns since 1970-01-01 UTC.
    pub mtime_ns: i64,
    /// Time of the last change of the inode, ns.
    pub ctime_ns: i64,
    /// Time of creation, ns.
    pub birth_ns: i64,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Bytes, Bytes>,
}

impl Attr {
    /// What the extended attributes count for the charge, in bytes.
    #[must_use]
    pub fn xattrs_bytes(&self) -> u64 {
        let xattrs = self.xattrs.iter();
        charge::xattrs_bytes(xattrs.map(|(name, value)| (name.as_ref(), value.as_ref())))
    }

    /// Checks the limits of attributes.
    pub(super) fn check(&self) -> Result<(), PackError> {
        let limit = |what: &str| Err(PackError::Limit(what.to_owned()));
        if self.mode > 0o7777 {
            return limit("a mode of 12 bits");
        }
        if self.xattrs_bytes() > MAX_XATTRS {
            return limit("65 KiB of extended attributes an inode");
        }
        let named = |name: &Bytes| !name.is_empty() && name.len() <= MAX_NAME && !name.contains(&0);
        if !self.xattrs.keys().all(named) {
            return limit("extended attributes with names of 1 to 255 bytes");
        }
        Ok(())
    }
}

/// What an inode is, with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// The leaf, or the UnixFS file above the leaves ([`super::file`]).
        content: Child,
        /// Length in bytes.
        size: u64,
        /// Chunks that were never written.
        holes: Holes,
    },
    /// A directory.
    Directory(TreeRef),
    /// A symbolic link, with its target.
    Symlink(Bytes),
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A character device, with its number.
    CharDevice(u32),
    /// A block device, with its number.
    BlockDevice(u32),
}

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its attributes.
    pub attr: Attr,
    /// What it is.
    pub kind: Kind,
    /// Number of names: 1 in a directory's entry, 1 or more in the inode table.
    pub links: u32,
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key in the tree: the name's bytes in a directory, [`row_key`] in the inode table.
    pub key: Bytes,
    /// The inode's number.
    pub ino: Ino,
    /// The inode. `None` in a directory for one that has, or had, more names: it stands in the
    /// inode table then.
    pub inode: Option<Inode>,
}

/// The key of an inode in the inode table: its number, big-endian.
#[must_use]
pub fn row_key(ino: Ino) -> Bytes {
    Bytes::copy_from_slice(&ino.0.to_be_bytes())
}

/// The inode number from which on the keys of rows are no less than `key`, which may be a border between pages.
pub fn row_number(key: &[u8]) -> u64 {
    let mut number = [0; 8];
    for (to, from) in number.iter_mut().zip(key) {
        *to = *from;
    }
    u64::from_be_bytes(number)
}

impl Inode {
    /// Length of a symlink's target; 0 for everything else.
    fn target_len(&self) -> u64 {
        match &self.kind {
            Kind::Symlink(target) => target.len() as u64,
            _ => 0,
        }
    }

    /// The charge of its content and, for a directory, of its page; without what lies in it.
    fn content_charge(&self) -> u64 {
        match &self.kind {
            Kind::File { size, holes, .. } => file_charge(*size, holes.whole(*size)),
            Kind::Directory(_) => DIRECTORY,
            _ => 0,
        }
    }

    fn check(&self) -> Result<(), PackError> {
        let limit = |what: &str| Err(PackError::Limit(what.to_owned()));
        let contradiction = |what: &str| Err(PackError::Contradiction(what.to_owned()));
        self.attr.check()?;
        match &self.kind {
            Kind::File { size, .. } if *size > MAX_FILE => limit("a file of 2^63 bytes"),
            Kind::File {
                content,
                size,
                holes,
            } => {
                let leaf = cid::kind(&content.cid).is_ok_and(|kind| kind == cid::Kind::Leaf);
                if leaf != (super::chunk::count(*size) == 1) {
                    return contradiction("the content's CID is not of a file of this size");
                }
                holes.check(*size)
            }
            Kind::Directory(tree) if cid::kind(&tree.root.cid) != Ok(cid::Kind::Node) => {
                contradiction("a directory's CID is not of a node")
            }
            Kind::Symlink(target) if target.is_empty() || target.len() > MAX_TARGET => {
                limit("a symlink's target of 1 to 4,095 bytes")
            }
            Kind::Symlink(target) if target.contains(&0) => limit("a target without NUL"),
            _ => Ok(()),
        }
    }
}

impl Entry {
    /// What it adds to the sums of the tree that it is in, with all that lies below it.
    #[must_use]
    pub fn sums(&self, tree: TreeKind) -> Sums {
        let own = match (&self.inode, tree) {
            (None, _) => Sums {
                bytes: entry_charge(&self.key, 0, 0),
                entries: 1,
                ..Sums::default()
            },
            (Some(inode), TreeKind::Directory) => {
                let xattrs = inode.attr.xattrs_bytes();
                let entry = entry_charge(&self.key, xattrs, inode.target_len());
                Sums {
                    bytes: entry.saturating_add(inode.content_charge()),
                    inodes: 1,
                    entries: 1,
                    subdirs: 0,
                }
            }
            (Some(inode), TreeKind::Table) => {
                let row = row_charge(inode.attr.xattrs_bytes(), inode.target_len());
                Sums {
                    bytes: row.saturating_add(inode.content_charge()),
                    inodes: 1,
                    ..Sums::default()
                }
            }
        };
        match self.inode.as_ref().map(|inode| &inode.kind) {
            Some(Kind::Directory(below)) => own.plus(Sums {
                subdirs: 1,
                ..below.sums
            }),
            _ => own,
        }
    }

    /// Checks the limits of the format, and that it may stand in this tree.
    pub fn check(&self, tree: TreeKind) -> Result<(), PackError> {
        let limit = |what: &str| Err(PackError::Limit(what.to_owned()));
        let contradiction = |what: &str| Err(PackError::Contradiction(what.to_owned()));
        if self.ino <= Ino::ROOT || self.ino > Ino::MAX {
            return limit("inode numbers from 2 to 2^48 - 1");
        }
        match tree {
            TreeKind::Directory => {
                if self.key.is_empty() || self.key.len() > MAX_NAME {
                    return limit("names of 1 to 255 bytes");
                }
                let dots = matches!(self.key.as_ref(), b"." | b"..");
                if dots || self.key.iter().any(|b| matches!(b, 0 | b'/')) {
                    return limit("names other than . and .., without / and NUL");
                }
                if self.inode.as_ref().is_some_and(|inode| inode.links != 1) {
                    return contradiction("an inode with more names stands in the inode table");
                }
            }
            TreeKind::Table => {
                if self.key != row_key(self.ino) {
                    return contradiction("a row's key is its inode's number");
                }
                match &self.inode {
                    None => return contradiction("a row of the inode table without inode"),
                    Some(inode) if inode.links == 0 => {
                        return contradiction("an inode without names");
                    }
                    Some(inode) if matches!(inode.kind, Kind::Directory(_)) => {
                        return contradiction("a directory in the inode table");
                    }
                    Some(_) => {}
                }
            }
        }
        self.inode.as_ref().map_or(Ok(()), Inode::check)
    }
}
