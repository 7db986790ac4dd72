//! An archive of blocks (CARv1) as IPFS nodes import it.
//!
//! Invariant: holds just the blocks given, none of whose bytes is copied. Source:
//! ipld.io/specs/transport/car/carv1.
//!
//! | part | content |
//! |---|---|
//! | header | varint length ‖ DAG-CBOR map: `roots` (one CID), `version` 1 |
//! | block, repeated | varint length ‖ binary CID ‖ bytes; the length counts both |

use bytes::{BufMut, Bytes, BytesMut};
use cid::Cid;
use minicbor::Encoder;
use minicbor::data::Tag;

use crate::rpc::File;
use crate::store::Block;

/// DAG-CBOR's tag of a link, and the byte before its CID.
const LINK: Tag = Tag::new(42);
const LINK_PREFIX: [u8; 1] = [0];

/// The blocks as one file. An archive names a root: the last block is it.
pub(super) fn archive(blocks: &[Block]) -> File {
    let mut pieces = Vec::with_capacity(2 * blocks.len() + 1);
    if let Some(last) = blocks.last() {
        let header = header(&last.cid);
        pieces.push(counted(&header, 0));
    }
    for block in blocks {
        pieces.push(counted(&block.cid.to_bytes(), block.data.len()));
        pieces.push(block.data.clone());
    }
    File::of(pieces)
}

/// `bytes` behind the varint of their length and `more`.
fn counted(bytes: &[u8], more: usize) -> Bytes {
    let mut buffer = unsigned_varint::encode::usize_buffer();
    let length = unsigned_varint::encode::usize(bytes.len() + more, &mut buffer);
    let mut piece = BytesMut::with_capacity(length.len() + bytes.len());
    piece.put_slice(length);
    piece.put_slice(bytes);
    piece.freeze()
}

fn header(root: &Cid) -> Vec<u8> {
    let mut out = Encoder::new(Vec::new());
    // Writing into a vector cannot fail.
    let _: Result<(), minicbor::encode::Error<std::convert::Infallible>> = (|| {
        out.map(2)?.str("roots")?.array(1)?;
        out.tag(LINK)?
            .bytes(&[&LINK_PREFIX[..], &root.to_bytes()].concat())?;
        out.str("version")?.u8(1)?;
        Ok(())
    })();
    out.into_writer()
}
