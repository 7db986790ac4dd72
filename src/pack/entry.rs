//! What a volume knows of one name or one inode: entries of directories and rows of the inode table.

use std::collections::BTreeMap;

use ::cid::Cid;
use bytes::Bytes;

use super::charge::{self, DIRECTORY, entry_charge, file_charge, row_charge};
use super::chunk;
use super::holes::Holes;
use super::{Child, PackError};
use crate::types::Ino;

/// Bytes of a name.
pub const MAX_NAME: usize = 255;
/// Bytes of a symlink's target.
pub const MAX_TARGET: usize = 4095;
/// Bytes of all extended attributes of an inode, as [`charge::xattrs_bytes`] counts them.
pub const MAX_XATTRS: u64 = 64 << 10;

/// What lies in a directory, at any depth (for a subtree), or in one page of it. Counted so that
/// `statfs` and quota need no walk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sums {
    /// Charges of everything below, in bytes ([`super::charge`]).
    pub bytes: u64,
    /// Inodes; one with several names counts in the inode table alone.
    pub inodes: u64,
    /// Names.
    pub entries: u64,
    /// Directories directly here, not below them: `st_nlink` − 2.
    pub subdirs: u64,
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
    /// Number of names: 1 in a directory's entries, 1 or more in the inode table (0 nowhere).
    pub links: u32,
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key in the tree: the name's bytes in a directory, [`row_key`] in the inode table.
    pub key: Bytes,
    /// The inode's number.
    pub ino: Ino,
    /// The inode; `None` in a directory for an inode that has, or had, more names: it stands in the inode table.
    pub inode: Option<Inode>,
}

/// The key of an inode in the inode table: its number, big-endian.
#[must_use]
pub fn row_key(ino: Ino) -> Bytes {
    Bytes::copy_from_slice(&ino.0.to_be_bytes())
}

/// The length of [`link_name`] of `name`.
#[must_use]
pub fn link_name_len(name: &[u8]) -> u64 {
    let _ = name;
    todo!()
}

/// The name of the link of an entry called `name`.
#[must_use]
pub fn link_name(name: &Bytes) -> Bytes {
    let _ = name;
    todo!()
}

impl Inode {
    /// What its extended attributes count for the charge, in bytes.
    #[must_use]
    pub fn xattrs_bytes(&self) -> u64 {
        let xattrs = self.attr.xattrs.iter();
        charge::xattrs_bytes(xattrs.map(|(name, value)| (name.as_ref(), value.as_ref())))
    }

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
}
