//! The header of a volume: what must be known before anything else can be read.
//!
//! Invariant: a header of a version or policy that is not known is refused by name, never read as
//! something else. Called by whoever makes a volume and whoever mounts one.
//!
//! | bytes | |
//! |---|---|
//! | 0 … 4 | `pxfs` |
//! | 4 | version: 1 |
//! | 5 | seal policy: 0 plain |
//! | 6 … 22 | volume id, random |
//! | 22 … 26 | chunk size of new files, u32 big-endian |
//! | 26 … 28 | number of key slots, u16 big-endian; 0 in a plain volume |
//! | 28 … | for each slot: kind (1 byte), length (u16 big-endian), data |

use bytes::Bytes;

use super::chunk::{self, CHUNK_SIZE};
use super::{PackError, VERSION, cid};
use crate::block::Block;

const MAGIC: &[u8; 4] = b"pxfs";

/// How a volume's blocks are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Not at all: everybody who has the root's CID reads it, with stock tools too.
    Plain,
}

impl Policy {
    fn byte(self) -> u8 {
        match self {
            Self::Plain => 0,
        }
    }
}

/// A way to the volume key. Plain volumes have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySlot {
    /// Which way.
    pub kind: u8,
    /// What that way needs; at most 65,535 bytes.
    pub data: Bytes,
}

/// The header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Random; names the volume in the additional data of sealed blocks.
    pub volume: [u8; 16],
    /// Protection.
    pub policy: Policy,
    /// Chunk size of new files, in bytes.
    pub chunk_size: u32,
    /// Ways to the volume key; empty in a plain volume.
    pub slots: Vec<KeySlot>,
}

impl Header {
    /// A plain volume's header.
    #[must_use]
    pub fn plain(volume: [u8; 16]) -> Self {
        Self {
            volume,
            policy: Policy::Plain,
            chunk_size: CHUNK_SIZE as u32,
            slots: Vec::new(),
        }
    }

    /// The raw leaf.
    pub fn encode(&self) -> Result<Block, PackError> {
        self.check().map_err(PackError::Contradiction)?;
        let limit = |_| PackError::Limit("65,535 key slots, or bytes of one".into());
        let mut out = MAGIC.to_vec();
        out.extend([VERSION, self.policy.byte()]);
        out.extend(self.volume);
        out.extend(self.chunk_size.to_be_bytes());
        out.extend(
            u16::try_from(self.slots.len())
                .map_err(limit)?
                .to_be_bytes(),
        );
        for slot in &self.slots {
            out.push(slot.kind);
            out.extend(u16::try_from(slot.data.len()).map_err(limit)?.to_be_bytes());
            out.extend_from_slice(&slot.data);
        }
        Ok(chunk::leaf(out.into()))
    }

    /// Reads the leaf. [`PackError::Unknown`] for a version or policy that is not known here.
    pub fn decode(block: &Block) -> Result<Self, PackError> {
        let refused = |why: &str| PackError::Malformed(block.cid, why.to_owned());
        if cid::kind(&block.cid) != Ok(cid::Kind::Leaf) {
            return Err(refused("a header is a leaf"));
        }
        let mut rest = block.data.clone();
        if take::<4>(&mut rest).as_ref() != Some(MAGIC) {
            return Err(refused("not a header of a pxfs volume"));
        }
        let policy = match take::<2>(&mut rest) {
            Some([VERSION, 0]) => Policy::Plain,
            Some([VERSION, policy]) => {
                return Err(PackError::Unknown(format!(
                    "seal policy {policy} of the volume"
                )));
            }
            Some([version, _]) if version > VERSION => {
                return Err(PackError::Unknown(format!(
                    "version {version} of the volume format"
                )));
            }
            _ => return Err(refused("no version")),
        };
        let cut = || refused("the header is cut");
        let volume = take(&mut rest).ok_or_else(cut)?;
        let chunk_size = u32::from_be_bytes(take(&mut rest).ok_or_else(cut)?);
        let count = u16::from_be_bytes(take(&mut rest).ok_or_else(cut)?);
        let mut slots = Vec::new();
        for _ in 0..count {
            let [kind, high, low] = take(&mut rest).ok_or_else(cut)?;
            let len = usize::from(u16::from_be_bytes([high, low]));
            if len > rest.len() {
                return Err(cut());
            }
            let data = rest.split_to(len);
            slots.push(KeySlot { kind, data });
        }
        let header = Self {
            volume,
            policy,
            chunk_size,
            slots,
        };
        if !rest.is_empty() {
            return Err(refused("unknown bytes at the end"));
        }
        header.check().map_err(|why| refused(&why))?;
        Ok(header)
    }

    fn check(&self) -> Result<(), String> {
        match self.policy {
            Policy::Plain if !self.slots.is_empty() => Err("a plain volume with key slots".into()),
            Policy::Plain if u64::from(self.chunk_size) != CHUNK_SIZE => Err(format!(
                "a plain volume with chunks of {} bytes",
                self.chunk_size
            )),
            Policy::Plain => Ok(()),
        }
    }
}

/// The next `N` bytes.
fn take<const N: usize>(rest: &mut Bytes) -> Option<[u8; N]> {
    let found = rest.first_chunk::<N>().copied()?;
    *rest = rest.slice(N..);
    Some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_comes_back() {
        let header = Header::plain([7; 16]);
        let block = header.encode().unwrap();
        assert_eq!(block.data.len(), 28);
        assert_eq!(Header::decode(&block), Ok(header));
    }

    #[test]
    fn a_sealed_volume_is_refused_not_read_as_plain() {
        let mut bytes = Header::plain([7; 16]).encode().unwrap().data.to_vec();
        bytes[5] = 1;
        let sealed = Header::decode(&chunk::leaf(bytes.clone().into()));
        assert!(matches!(sealed, Err(PackError::Unknown(what)) if what.contains("policy 1")));
        bytes[4] = 2;
        let newer = Header::decode(&chunk::leaf(bytes.into()));
        assert!(matches!(newer, Err(PackError::Unknown(what)) if what.contains("version 2")));
    }

    #[test]
    fn a_plain_volume_has_no_key_slots() {
        let mut header = Header::plain([7; 16]);
        header.slots.push(KeySlot {
            kind: 1,
            data: Bytes::from_static(b"key"),
        });
        assert!(header.encode().is_err());
    }

    proptest! {
        #[test]
        fn changed_bytes_are_refused_or_mean_something_else(at in 0usize..40, to in any::<u8>(), more in 0usize..4) {
            let mut bytes = Header::plain([7; 16]).encode().unwrap().data.to_vec();
            bytes.resize(28 + more, 0);
            let at = at % bytes.len();
            bytes[at] = to;
            let block = chunk::leaf(bytes.into());
            if let Ok(header) = Header::decode(&block) {
                prop_assert_eq!(header.encode().unwrap(), block);
            }
        }
    }
}
