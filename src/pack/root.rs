//! The root of a volume: one commit.

use std::collections::BTreeMap;

use ::cid::Cid;

use super::PackError;
use super::entry::{Attr, TreeRef};
use crate::store::Block;
use crate::types::{Ino, VolumeKey};

/// Writers that a version vector holds; with one more, the one with the lowest sequence is dropped.
pub const MAX_WRITERS: usize = 32;

/// Who wrote: 128 random bits of a state folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId(pub [u8; 16]);

/// A writer's last commit that a tree contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Its sequence.
    pub sequence: u64,
    /// The SHA-256 digest in its root's CID.
    pub root: [u8; 32],
}

/// The record in a root, and what it links to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Token and epoch.
    pub volume: VolumeKey,
    /// Sequence of the commit in its epoch.
    pub sequence: u64,
    /// The root that this commit was made from.
    pub parent: Option<Cid>,
    /// For each writer its last commit in this tree, this one not counted.
    pub versions: BTreeMap<WriterId, Version>,
    /// Who made this commit.
    pub writer: WriterId,
    /// When, ns since 1970-01-01 UTC.
    pub time_ns: i64,
    /// The number of the next new inode.
    pub next_inode: Ino,
    /// Attributes of the root directory (inode 1).
    pub attr: Attr,
    /// The root directory (link `tree`).
    pub tree: TreeRef,
    /// The inode table (link `links`).
    pub table: TreeRef,
    /// The header (link `header`).
    pub header: Cid,
}

#[allow(unused_variables)]
impl Root {
    /// The volume's usage in bytes: what its usage metadata tells and the quota limits.
    #[must_use]
    pub fn usage(&self) -> u64 {
        todo!()
    }

    /// Notes that this tree contains the commit `version` of `writer`.
    pub fn note(&mut self, writer: WriterId, version: Version) {
        todo!()
    }

    /// The node.
    pub fn encode(&self) -> Result<Block, PackError> {
        todo!()
    }

    /// Reads the node.
    pub fn decode(block: &Block) -> Result<Self, PackError> {
        todo!()
    }
}
