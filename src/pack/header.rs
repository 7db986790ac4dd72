//! The header of a volume: what must be known before anything else can be read.

use bytes::Bytes;

use super::PackError;
use crate::store::Block;

/// How a volume's blocks are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Not at all: everybody who has the root's CID reads it, with stock tools too.
    Plain,
}

/// A way to the volume key. Plain volumes have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySlot {
    /// Which way.
    pub kind: u8,
    /// What that way needs.
    pub data: Bytes,
}

/// The header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Random; names the volume in additional data of sealed blocks.
    pub volume: [u8; 16],
    /// Protection.
    pub policy: Policy,
    /// Chunk size of new files, in bytes.
    pub chunk_size: u32,
    /// Ways to the volume key; empty in a plain volume.
    pub slots: Vec<KeySlot>,
}

#[allow(unused_variables)]
impl Header {
    /// A plain volume's header.
    #[must_use]
    pub fn plain(volume: [u8; 16]) -> Self {
        todo!()
    }

    /// The raw leaf.
    pub fn encode(&self) -> Result<Block, PackError> {
        todo!()
    }

    /// Reads the leaf. [`PackError::Unknown`] for a version or policy that is not known here.
    pub fn decode(block: &Block) -> Result<Self, PackError> {
        todo!()
    }
}
