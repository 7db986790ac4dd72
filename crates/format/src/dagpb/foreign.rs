//! dag-pb nodes that any program may have written.
//!
//! Invariant: nothing is believed but the CIDs of links, and lengths that agree with one another.

use ::cid::Cid;
use bytes::Bytes;
use prost::Message;

use super::message::{DIRECTORY, FILE, PbNode, PbUnixfs, RAW};
use crate::block::BlockError;
use crate::cid;

/// What a node is to a reader of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// A part of a file: its own bytes, then what follows them, with the length of each.
    File {
        /// The bytes in the node.
        data: Bytes,
        /// The CIDs of what follows, with their bytes; none of 0.
        parts: Vec<(Cid, u64)>,
    },
    /// A directory.
    Directory,
    /// Neither.
    Other,
}

/// The children of the node `cid` with the verified bytes `data`, in their order.
///
/// # Errors
/// [`BlockError::Corrupt`]: it is not dag-pb, or links to what is not stored.
pub fn links(cid: &Cid, data: &[u8]) -> Result<Vec<Cid>, BlockError> {
    let corrupt = |why: String| BlockError::Corrupt(*cid, why);
    let node = PbNode::decode(data).map_err(|e| corrupt(format!("not dag-pb: {e}")))?;
    let read = |link: &super::message::PbLink| match link.hash.is_empty() {
        true => Err(corrupt("a link has no CID".into())),
        false => cid::from_bytes(&link.hash).map_err(|e| corrupt(format!("a link: {e}"))),
    };
    node.links.iter().map(read).collect()
}

/// What the node `cid` with the verified bytes `bytes` is.
///
/// # Errors
/// [`BlockError::Corrupt`]: it is not dag-pb or not UnixFS, or a file that does not say how long its parts are.
pub fn read(cid: &Cid, bytes: &Bytes) -> Result<Foreign, BlockError> {
    let corrupt = |why: &str| BlockError::Corrupt(*cid, why.to_owned());
    let node = PbNode::decode(bytes.clone()).map_err(|_| corrupt("not dag-pb"))?;
    let unixfs = PbUnixfs::decode(node.data.unwrap_or_default());
    let unixfs = unixfs.map_err(|_| corrupt("not UnixFS"))?;
    match unixfs.kind {
        RAW | FILE => {}
        DIRECTORY => return Ok(Foreign::Directory),
        _ => return Ok(Foreign::Other),
    }
    if unixfs.parts.len() != node.links.len() || unixfs.parts.contains(&0) {
        return Err(corrupt("does not say how long its parts are"));
    }
    let mut parts = Vec::with_capacity(node.links.len());
    for (link, size) in node.links.iter().zip(unixfs.parts) {
        let cid = cid::from_bytes(&link.hash).map_err(|error| corrupt(&error.to_string()))?;
        parts.push((cid, size));
    }
    let data = unixfs.data.unwrap_or_default();
    let below = parts.iter().map(|(_, size)| *size);
    let size = below.fold(data.len() as u64, u64::saturating_add);
    if unixfs.size.is_some_and(|declared| declared != size) {
        return Err(corrupt("is not as long as it says"));
    }
    Ok(Foreign::File { data, parts })
}

/// A node with these children and nothing else: for tests of pins.
#[cfg(any(test, feature = "testing"))]
#[must_use]
pub fn node_of(children: &[Cid]) -> Vec<u8> {
    use bytes::BufMut;
    let mut out = Vec::new();
    for child in children {
        let cid = child.to_bytes();
        let len = u8::try_from(cid.len()).unwrap_or(u8::MAX);
        out.put_slice(&[0x12, len + 2, 0x0a, len]);
        out.put_slice(&cid);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cid::{leaf_cid, node_cid};

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
        let good = node_of(&[leaf_cid(b"a")]);
        for bad in [
            good[..good.len() - 1].to_vec(),
            vec![0x12, 0],
            vec![0x12, 3, 0x0a, 1, 9],
            b"\xff\xff".to_vec(),
        ] {
            let read = links(&node_cid(&bad), &bad);
            assert!(matches!(read, Err(BlockError::Corrupt(..))), "{bad:?}");
        }
    }
}
