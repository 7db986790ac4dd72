//! The links of a block: what a pin must hold besides it.
//!
//! Invariant: reads any dag-pb node, whoever made it, and believes nothing but the CIDs in it.
//! Called by the walks of pin and collection.

use cid::Cid;
use prost::Message;

use super::StoreError;
use pxfs_format::cid::{self as form, Kind};

/// A dag-pb node, as far as a walk needs it (names, sizes and data are skipped).
///
/// | field | type | content |
/// |---|---|---|
/// | 2 | repeated message | links |
#[derive(Clone, PartialEq, Message)]
struct PbNode {
    #[prost(message, repeated, tag = "2")]
    links: Vec<PbLink>,
}

/// | field | type | content |
/// |---|---|---|
/// | 1 | bytes | binary CID of the child |
#[derive(Clone, PartialEq, Message)]
struct PbLink {
    #[prost(bytes = "vec", optional, tag = "1")]
    hash: Option<Vec<u8>>,
}

/// The children of the block `cid` with the verified bytes `data`, in their order: none for a leaf.
pub fn links(cid: &Cid, data: &[u8]) -> Result<Vec<Cid>, StoreError> {
    let corrupt = |why: String| StoreError::Corrupt(*cid, why);
    match form::kind(cid) {
        Ok(Kind::Leaf) => return Ok(Vec::new()),
        Ok(Kind::Node) => {}
        Err(e) => return Err(StoreError::Permanent(e.to_string())),
    }
    let node = PbNode::decode(data).map_err(|e| corrupt(format!("not dag-pb: {e}")))?;
    node.links
        .into_iter()
        .map(|link| {
            let hash = link
                .hash
                .ok_or_else(|| corrupt("a link has no CID".into()))?;
            form::from_bytes(&hash).map_err(|e| corrupt(format!("a link: {e}")))
        })
        .collect()
}

/// A dag-pb node with these children and nothing else: for tests of pins.
#[doc(hidden)]
#[must_use]
pub(super) fn node_of(children: &[Cid]) -> Vec<u8> {
    let links = children
        .iter()
        .map(|c| PbLink {
            hash: Some(c.to_bytes()),
        })
        .collect();
    PbNode { links }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pxfs_format::cid::{leaf_cid, node_cid};

    #[test]
    fn a_pin_follows_every_link_of_a_foreign_node() {
        let (a, b) = (leaf_cid(b"a"), node_cid(b"b"));
        let mut data = node_of(&[a, b, a]);
        // Data field and the name and size of a link, as stock tools write them.
        data.extend([0x0a, 2, 8, 1]);
        assert_eq!(links(&node_cid(&data), &data), Ok(vec![a, b, a]));
    }

    #[test]
    fn a_broken_node_is_corrupt_not_childless() {
        let a = leaf_cid(b"a");
        let good = node_of(&[a]);
        for bad in [
            good[..good.len() - 1].to_vec(),
            vec![0x12, 0],
            vec![0x12, 3, 0x0a, 1, 9],
            b"\xff\xff".to_vec(),
        ] {
            assert!(
                matches!(links(&node_cid(&bad), &bad), Err(StoreError::Corrupt(..))),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_leaf_that_looks_like_a_node_has_no_links() {
        let data = node_of(&[leaf_cid(b"a")]);
        assert_eq!(links(&leaf_cid(&data), &data), Ok(vec![]));
    }
}
