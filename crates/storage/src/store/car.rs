//! An archive of blocks (CARv1): as IPFS nodes import it, and as a file.
//!
//! Invariant: writing copies no block's bytes; reading verifies each block, and checks each length
//! against a bound first. Source: ipld.io/specs/transport/car/carv1.
//!
//! | part | content |
//! |---|---|
//! | header | varint length ‖ DAG-CBOR map: `roots` (CIDs), `version` 1 |
//! | block, repeated | varint length ‖ binary CID ‖ bytes; the length counts both |

use std::io::{self, Read};

use bytes::{BufMut, Bytes, BytesMut};
use cid::Cid;
use minicbor::data::Tag;
use minicbor::{Decoder, Encoder};

use super::{Block, MAX_BLOCK_BYTES};
use crate::rpc::File;
use pxfs_format::cid as form;

/// DAG-CBOR's link tag, and the byte before its CID.
const LINK: Tag = Tag::new(42);
const LINK_PREFIX: [u8; 1] = [0];
/// The longest header read, and the most roots.
const MAX_HEADER: usize = 64 << 10;
const MAX_ROOTS: u64 = 64;

/// The blocks as one file. The last block is the archive's root.
pub(super) fn archive(blocks: &[Block]) -> File {
    let mut pieces = Vec::with_capacity(2 * blocks.len() + 1);
    if let Some(last) = blocks.last() {
        pieces.push(header(&[last.cid]));
    }
    for block in blocks {
        pieces.push(head(block));
        pieces.push(block.data.clone());
    }
    File::of(pieces)
}

/// The beginning of an archive with these roots.
#[must_use]
pub fn header(roots: &[Cid]) -> Bytes {
    counted(&map(roots), 0)
}

/// What precedes a block's bytes.
#[must_use]
pub fn head(block: &Block) -> Bytes {
    counted(&block.cid.to_bytes(), block.data.len())
}

/// `bytes` after the varint length of them and `more`.
fn counted(bytes: &[u8], more: usize) -> Bytes {
    let mut buffer = unsigned_varint::encode::usize_buffer();
    let length = unsigned_varint::encode::usize(bytes.len() + more, &mut buffer);
    let mut piece = BytesMut::with_capacity(length.len() + bytes.len());
    piece.put_slice(length);
    piece.put_slice(bytes);
    piece.freeze()
}

fn map(roots: &[Cid]) -> Vec<u8> {
    let mut out = Encoder::new(Vec::new());
    // Writing to a vector cannot fail.
    let _: Result<(), minicbor::encode::Error<std::convert::Infallible>> = (|| {
        out.map(2)?.str("roots")?.array(roots.len() as u64)?;
        for root in roots {
            out.tag(LINK)?
                .bytes(&[&LINK_PREFIX[..], &root.to_bytes()].concat())?;
        }
        out.str("version")?.u8(1)?;
        Ok(())
    })();
    out.into_writer()
}

/// Reads an archive, block by block.
pub struct Reader<R> {
    from: R,
    roots: Vec<Cid>,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// `InvalidData`: not an archive of this version, or blocks of a form that volumes lack; the reader's.
    pub fn new(mut from: R) -> io::Result<Self> {
        let header = frame(&mut from, MAX_HEADER)?.ok_or_else(|| broken("it is empty"))?;
        let roots = parse_map(&header).map_err(|_| broken("it is no archive of blocks (CARv1)"))?;
        let roots = roots.iter().map(|bytes| form::from_bytes(bytes));
        let roots = roots.collect::<Result<_, _>>();
        Ok(Self {
            roots: roots.map_err(|error| broken(&error.to_string()))?,
            from,
        })
    }

    /// The roots in its header.
    pub fn roots(&self) -> &[Cid] {
        &self.roots
    }

    /// The next block, verified; `None` at the end.
    ///
    /// # Errors
    /// `InvalidData`: truncated, or a block does not match its CID, or has a form that volumes lack; the
    /// reader's.
    pub fn next_block(&mut self) -> io::Result<Option<Block>> {
        let Some(bytes) = frame(&mut self.from, MAX_BLOCK_BYTES + 64)? else {
            return Ok(None);
        };
        // CIDv0 is a bare hash of 34 bytes; a CIDv1 has version and codec before the hash.
        let length = match bytes.first() {
            Some(0x12) => 34,
            _ => 36,
        };
        let Some((cid, _)) = bytes.split_at_checked(length) else {
            return Err(broken("a block is too short"));
        };
        let cid = form::from_bytes(cid).map_err(|error| broken(&error.to_string()))?;
        let data = bytes.slice(length..);
        let block = Block { cid, data };
        block.check().map_err(|error| broken(&error.to_string()))?;
        Ok(Some(block))
    }
}

/// Length-prefixed bytes; `None` at the reader's end.
fn frame(from: &mut impl Read, most: usize) -> io::Result<Option<Bytes>> {
    let mut length = 0usize;
    for i in 0..4 {
        let mut byte = [0];
        if from.read(&mut byte)? == 0 {
            return match i {
                0 => Ok(None),
                _ => Err(broken("it is cut")),
            };
        }
        length |= usize::from(byte[0] & 0x7f) << (7 * i);
        if byte[0] & 0x80 == 0 {
            if length == 0 || length > most {
                break;
            }
            let mut bytes = vec![0; length];
            from.read_exact(&mut bytes)
                .map_err(|_| broken("it is cut"))?;
            return Ok(Some(bytes.into()));
        }
    }
    Err(broken("a length is wrong"))
}

fn parse_map(bytes: &[u8]) -> Result<Vec<Vec<u8>>, minicbor::decode::Error> {
    let refused = |why| minicbor::decode::Error::message(why);
    let mut decoder = Decoder::new(bytes);
    let (mut roots, mut version) = (Vec::new(), None);
    for _ in 0..decoder.map()?.ok_or_else(|| refused("length"))? {
        match decoder.str()? {
            "version" => version = Some(decoder.u64()?),
            "roots" => {
                let count = decoder.array()?.ok_or_else(|| refused("length"))?;
                for _ in 0..count.min(MAX_ROOTS + 1) {
                    if decoder.tag()? != LINK {
                        return Err(refused("link"));
                    }
                    let link = decoder
                        .bytes()?
                        .split_first()
                        .ok_or_else(|| refused("link"))?;
                    roots.push(link.1.to_vec());
                }
            }
            _ => return Err(refused("key")),
        }
    }
    match (version, roots.len() as u64) {
        (Some(1), 1..=MAX_ROOTS) => Ok(roots),
        _ => Err(refused("version")),
    }
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite::unique_tree;

    fn bytes(blocks: &[Block]) -> Vec<u8> {
        let roots = [blocks[blocks.len() - 1].cid, blocks[0].cid];
        let mut all = header(&roots).to_vec();
        for block in blocks {
            all.extend_from_slice(&head(block));
            all.extend_from_slice(&block.data);
        }
        all
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<Block>> {
        let mut reader = Reader::new(bytes)?;
        let mut blocks = Vec::new();
        while let Some(block) = reader.next_block()? {
            blocks.push(block);
        }
        Ok(blocks)
    }

    #[test]
    fn what_was_archived_comes_back() {
        let blocks = unique_tree(3);
        let bytes = bytes(&blocks);
        let reader = Reader::new(&bytes[..]).unwrap();
        assert_eq!(
            reader.roots(),
            [blocks[blocks.len() - 1].cid, blocks[0].cid]
        );
        assert_eq!(read(&bytes).unwrap(), blocks);
    }

    #[test]
    fn an_archive_that_is_cut_or_changed_is_refused() {
        let whole = bytes(&unique_tree(2));
        let count = read(&whole).unwrap().len();
        for cut in 0..whole.len() {
            // Cut after a block it looks whole: the pin finds what is missing.
            assert!(
                read(&whole[..cut]).is_err_and(|e| e.kind() == io::ErrorKind::InvalidData)
                    || read(&whole[..cut]).unwrap().len() < count
            );
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(
                read(&changed).is_err() || read(&changed).unwrap() == read(&whole).unwrap(),
                "byte {at}"
            );
        }
        assert!(read(b"").is_err() && read(&[0xff; 64]).is_err());
    }
}
