//! The block that carries a usage document.
//!
//! Invariant: what is published is a UnixFS file of one block, under the very CIDv0 that `add` prints for these bytes on both
//! networks: every gateway serves it whole. (The gateway of BTFS sends no byte of a raw leaf whose type it cannot tell.)
//! Readers take a raw leaf too, the older form.

use ::cid::Cid;
use bytes::Bytes;

use super::UsageError;
use crate::block::Block;
use crate::chunk;
use crate::cid::{self as form, Kind};
use crate::dagpb::{Node, Unixfs};

/// The block that publishes `document`.
///
/// # Errors
/// It is longer than a block may be.
pub fn block(document: &Bytes) -> Result<Block, UsageError> {
    let node = Node {
        links: Vec::new(),
        unixfs: Unixfs::Whole(document.clone()),
    };
    let encoded = node.encode();
    let (block, _) = encoded.map_err(|_| UsageError::TooLong(document.len()))?;
    Ok(block)
}

/// The block `cid`, if it is `document` in one of its forms.
#[must_use]
pub fn block_named(document: &Bytes, cid: &Cid) -> Option<Block> {
    let block = match form::kind(cid).ok()? {
        Kind::Leaf => chunk::leaf(document.clone()),
        Kind::Node => block(document).ok()?,
    };
    (block.cid == *cid).then_some(block)
}

/// The document in the block `cid`, whose bytes are verified against it. Its signature is not verified yet.
///
/// # Errors
/// [`UsageError::Block`]: a node that is no file of one block.
pub fn document(cid: &Cid, data: &Bytes) -> Result<Bytes, UsageError> {
    if form::kind(cid) == Ok(Kind::Leaf) {
        return Ok(data.clone());
    }
    match Node::decode(cid, data) {
        Ok(Node {
            links,
            unixfs: Unixfs::Whole(document),
        }) if links.is_empty() => Ok(document),
        _ => Err(UsageError::Block(*cid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cid::leaf_cid;

    #[test]
    fn a_document_is_what_stock_tools_add_and_both_forms_are_read() {
        // Printed by `ipfs add` (kubo 0.42) for this text.
        let text = Bytes::from_static(b"{\"version\":1}");
        let block = block(&text).unwrap();
        assert_eq!(
            block.cid.to_string(),
            "QmZQt76i99ncwewqJXxh2HBeGzD5HGZAx5wSdobP8CASKn"
        );
        assert_eq!(document(&block.cid, &block.data).unwrap(), text);
        assert_eq!(block_named(&text, &block.cid), Some(block.clone()));
        let leaf = leaf_cid(&text);
        assert_eq!(document(&leaf, &text).unwrap(), text);
        assert_eq!(block_named(&text, &leaf).unwrap().data, text);
        let other = Bytes::from_static(b"{}");
        assert_eq!(block_named(&other, &block.cid), None);
        assert_eq!(block_named(&other, &leaf), None);
    }

    #[test]
    fn a_node_that_is_no_file_of_one_block_is_no_document() {
        let parts = Unixfs::File {
            size: 0,
            parts: Vec::new(),
        };
        for unixfs in [parts, Unixfs::Directory(Bytes::from_static(b"{}"))] {
            let links = Vec::new();
            let (block, _) = Node { links, unixfs }.encode().unwrap();
            let refused = document(&block.cid, &block.data);
            assert_eq!(refused, Err(UsageError::Block(block.cid)));
        }
    }
}
