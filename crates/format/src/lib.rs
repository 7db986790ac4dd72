//! The volume format: pure functions between bytes and meaning. No disk, no network, no clock.
//!
//! Invariant: a function here depends on its arguments alone. Blocks that it must read are asked
//! of a [`Blocks`]; what that does not have is named, all of it that can be known at once, in
//! [`PackError::Need`]: the caller fetches these, verifies them, adds them and calls again (every
//! function may be called again and again and gives the same answer). New blocks go to an output.
//! [`block`] and [`cid`] name bytes; [`key`] and [`record`] say where a name points.
//!
//! A volume, from the top:
//!
//! ```text
//! root (UnixFS directory, [`root`])
//! ├─ header   raw leaf, [`header`]
//! ├─ links    inode table: inodes with two links and more, by number ([`tree`], kind table)
//! └─ tree     root directory ([`tree`], kind directory)
//!    ├─ NAME  a file: one raw leaf, or a UnixFS file over raw leaves ([`file`])
//!    ├─ NAME  a symlink: a UnixFS symlink ([`dagpb`])
//!    └─ NAME  a directory, the same again
//! ```

use std::collections::{BTreeMap, HashMap};

use ::cid::Cid;
use bytes::Bytes;

use crate::block::Block;

pub mod block;
pub mod charge;
pub mod chunk;
pub mod cid;
pub mod dagpb;
pub mod entry;
pub mod file;
pub mod header;
pub mod holes;
pub mod key;
pub mod link_name;
mod page;
pub mod record;
pub mod root;
pub mod tree;
pub mod usage;

#[cfg(test)]
mod tests;

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u8 = 1;

/// Blocks at hand.
pub trait Blocks {
    /// The bytes of `cid`, if they are at hand. The implementer has verified that they hash to it;
    /// they are not hashed again here.
    fn get(&self, cid: &Cid) -> Option<Bytes>;
}

impl Blocks for HashMap<Cid, Bytes> {
    fn get(&self, cid: &Cid) -> Option<Bytes> {
        HashMap::get(self, cid).cloned()
    }
}

impl Blocks for BTreeMap<Cid, Bytes> {
    fn get(&self, cid: &Cid) -> Option<Bytes> {
        BTreeMap::get(self, cid).cloned()
    }
}

/// Why something could not be read or made.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PackError {
    /// These blocks must be at hand first. Not a failure: fetch them and call again.
    #[error("{} blocks are needed first", .0.len())]
    Need(Vec<Cid>),
    /// A block whose bytes hash to its CID is not what the format says: damage or malice.
    #[error("block {0} is malformed: {1}")]
    Malformed(Cid, String),
    /// Bytes that are well-formed as far as can be told, of a version, kind or policy that this
    /// program does not know.
    #[error("{0} is unknown to this version of pxfs")]
    Unknown(String),
    /// What is asked would pass a limit of the format.
    #[error("limit of the volume format: {0}")]
    Limit(String),
    /// The arguments contradict each other: a defect of the caller, nothing is wrong on the node.
    #[error("contradiction: {0}")]
    Contradiction(String),
    /// The entry or page is marked as damaged: its content was lost, the node has no such block.
    #[error("block {0} is marked as damaged")]
    Damaged(Cid),
}

/// A block below a node: its CID, and the bytes of all blocks below and including it, a block
/// counted as often as it is linked (the `Tsize` of dag-pb; only a hint, never trusted).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Child {
    /// What it is.
    pub cid: Cid,
    /// Cumulative size in bytes; 0 for a damaged child.
    pub tsize: u64,
    /// Its blocks are lost: the CID stands as bytes, not as a link, so that pins succeed.
    pub damaged: bool,
}

impl Child {
    /// A child that is whole.
    #[must_use]
    pub fn new(cid: Cid, tsize: u64) -> Self {
        Self {
            cid,
            tsize,
            damaged: false,
        }
    }

    /// What links to a leaf.
    #[must_use]
    pub fn leaf(leaf: &Block) -> Self {
        Self::new(leaf.cid, leaf.data.len() as u64)
    }
}
