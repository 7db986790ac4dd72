//! One block: bytes, and the CID that names them.

use ::cid::Cid;
use bytes::Bytes;

use crate::cid::{self as form, CidError};

/// The greatest block, in bytes: what every store takes.
pub const MAX_BLOCK_BYTES: usize = 1 << 20;

/// One block: at most 1 MiB of bytes and the CID that names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// CIDv1 raw for leaves, CIDv0 (dag-pb) for nodes; nothing else is stored.
    pub cid: Cid,
    /// The bytes; their SHA-256 is in `cid`.
    pub data: Bytes,
}

/// Why bytes are not a block that can be stored.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BlockError {
    /// Above [`MAX_BLOCK_BYTES`]: so many bytes.
    #[error("a block of {0} bytes is above {MAX_BLOCK_BYTES}")]
    TooLarge(usize),
    /// The CID has neither of the two forms.
    #[error(transparent)]
    Form(CidError),
    /// The bytes hash to something else.
    #[error("block {0} is corrupt: {1}")]
    Corrupt(Cid, String),
}

impl Block {
    /// Checks the form of the CID, the size, and that the bytes hash to the CID.
    pub fn check(&self) -> Result<(), BlockError> {
        check_bytes(&self.cid, &self.data)
    }

    /// The same but for the hash: for a store that is told by another one if that is wrong.
    pub fn check_form(&self) -> Result<(), BlockError> {
        check_form(&self.cid, &self.data)
    }
}

/// [`Block::check`] for bytes that are not in a block yet.
pub fn check_bytes(cid: &Cid, data: &[u8]) -> Result<(), BlockError> {
    check_form(cid, data)?;
    form::verify(cid, data).map_err(|error| match error {
        CidError::Mismatch(found) => {
            BlockError::Corrupt(*cid, format!("its {} bytes are {found}", data.len()))
        }
        CidError::Form(_) => BlockError::Form(error),
    })
}

fn check_form(cid: &Cid, data: &[u8]) -> Result<(), BlockError> {
    form::kind(cid).map_err(BlockError::Form)?;
    match data.len() {
        len if len > MAX_BLOCK_BYTES => Err(BlockError::TooLarge(len)),
        _ => Ok(()),
    }
}
