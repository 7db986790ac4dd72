//! A file's content: one raw leaf, or a UnixFS file over raw leaves.

use std::collections::BTreeMap;
use std::ops::Range;

use ::cid::Cid;

use super::holes::Holes;
use super::{Blocks, Child, PackError};
use crate::store::Block;

/// Links of an inner node.
pub const LINKS: u64 = 174;

/// Content as an entry knows it: what a commit starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The leaf or topmost node.
    pub root: Child,
    /// Length in bytes.
    pub size: u64,
    /// Chunks that were never written.
    pub holes: Holes,
}

/// Builds a file from its leaves in order; memory does not grow with the file.
#[derive(Debug, Default)]
pub struct Builder {}

#[allow(unused_variables)]
impl Builder {
    /// A builder without leaves.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next leaf, of `len` bytes. Every leaf but the last has [`super::chunk::CHUNK_SIZE`] bytes.
    /// The leaf's block is the caller's; nodes that are complete go to `out`.
    pub fn push(
        &mut self,
        leaf: Cid,
        len: u64,
        out: &mut dyn FnMut(Block),
    ) -> Result<(), PackError> {
        todo!()
    }

    /// Adds `count` chunks of zeros, as nodes that are made once a level; the zero leaf goes to `out` too.
    pub fn push_holes(&mut self, count: u64, out: &mut dyn FnMut(Block)) -> Result<(), PackError> {
        todo!()
    }

    /// Ends the file. Without any leaf it is the empty leaf, which goes to `out`.
    pub fn finish(self, out: &mut dyn FnMut(Block)) -> Result<(Child, u64), PackError> {
        todo!()
    }
}

/// The leaves of the chunks in `range` (cut at the file's end), with their indices, in order.
#[allow(unused_variables)]
pub fn leaves(
    root: &Cid,
    size: u64,
    range: Range<u64>,
    blocks: &dyn Blocks,
) -> Result<Vec<(u64, Cid)>, PackError> {
    todo!()
}

/// Content of `size` bytes with `holes`, made of `old` (`None`: of nothing) and the leaves in
/// `changed` (by chunk index; of the right length, their blocks are the caller's). Reads and writes
/// only the nodes on the way to what changed; the result equals that of a build from nothing.
/// Chunks in `holes` become zero leaves, without a walk. Where a chunk's length changes (the last
/// one of the old or the new content) it must be in `changed` or in `holes`.
#[allow(unused_variables)]
pub fn rebuild(
    old: Option<&Content>,
    size: u64,
    holes: &Holes,
    changed: &BTreeMap<u64, Cid>,
    blocks: &dyn Blocks,
    out: &mut dyn FnMut(Block),
) -> Result<Child, PackError> {
    todo!()
}
