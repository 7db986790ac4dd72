//! An inode of the reference, and what it is charged.

use std::collections::BTreeMap;

use pxfs::pack::charge;

use super::call::{Kind, NAMES, Special, XATTRS};
use super::content::Content;

/// Number of an inode in the reference.
pub(crate) type Id = u32;

/// A time as the reference knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stamp {
    /// Whenever that step was.
    Step(u32),
    /// As it was set, ns.
    Set(i64),
    /// Nobody knows any more.
    Lost,
}

/// An inode.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub body: Body,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    /// Had a second name once.
    pub hard: bool,
    pub atime: Stamp,
    pub mtime: Stamp,
    pub ctime: Stamp,
    /// By number of the name: length and text of the value.
    pub xattrs: BTreeMap<usize, (u32, u8)>,
}

/// What is in it.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    File(Content),
    Directory(BTreeMap<u8, Id>),
    /// Length of the target.
    Symlink(u16),
    Special(Special),
}

impl Node {
    pub(super) fn new(body: Body, mode: u16, now: u32) -> Self {
        let directory = matches!(body, Body::Directory(_));
        let now = Stamp::Step(now);
        Self {
            body,
            mode,
            uid: 0,
            gid: 0,
            nlink: if directory { 2 } else { 1 },
            hard: false,
            atime: now,
            mtime: now,
            ctime: now,
            xattrs: BTreeMap::new(),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self.body {
            Body::File(_) => Kind::Special(Special::File),
            Body::Directory(_) => Kind::Directory,
            Body::Symlink(_) => Kind::Symlink,
            Body::Special(kind) => Kind::Special(kind),
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind() == Kind::Directory
    }

    pub(super) fn size(&self) -> u64 {
        match &self.body {
            Body::File(content) => content.size,
            Body::Directory(_) => 4096,
            Body::Symlink(len) => u64::from(*len),
            Body::Special(_) => 0,
        }
    }

    pub(super) fn blocks(&self) -> u64 {
        match &self.body {
            Body::File(content) => content.allocated().max(self.size().min(1)).div_ceil(512),
            _ => 0,
        }
    }

    pub(super) fn rdev(&self) -> u64 {
        match self.body {
            Body::Special(Special::CharDevice | Special::BlockDevice) => 0x103,
            _ => 0,
        }
    }

    /// What its extended attributes count before padding.
    pub(super) fn xattrs_bytes(&self) -> u64 {
        let of = |(name, (len, _)): (&usize, &(u32, u8))| {
            8 + XATTRS[*name].len() as u64 + u64::from(*len)
        };
        self.xattrs.iter().map(of).sum()
    }

    fn target_len(&self) -> u64 {
        match self.body {
            Body::Symlink(len) => u64::from(len),
            _ => 0,
        }
    }

    /// What it is charged besides its names. Without any: nothing.
    pub(super) fn charge(&self) -> u64 {
        if self.nlink == 0 {
            return 0;
        }
        let (xattrs, target) = (self.xattrs_bytes(), self.target_len());
        let attributes = if self.hard {
            charge::row_charge(xattrs, target)
        } else {
            charge::entry_charge(b"", xattrs, target) - charge::entry_charge(b"", 0, 0)
        };
        let body = match &self.body {
            Body::File(content) => content.charge(),
            Body::Directory(entries) => {
                let names = entries.keys().map(|name| name_charge(*name));
                charge::DIRECTORY + names.sum::<u64>()
            }
            _ => 0,
        };
        attributes + body
    }
}

/// What a name is charged.
pub(super) fn name_charge(name: u8) -> u64 {
    charge::entry_charge(NAMES[usize::from(name)], 0, 0)
}
