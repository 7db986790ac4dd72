//! A block's links: what a pin must hold besides it.

use cid::Cid;

use super::StoreError;
use pxfs_format::cid::{self as form, Kind};
use pxfs_format::dagpb::foreign;

/// The children of the block `cid` with the verified bytes `data`, in order; none for a leaf.
///
/// # Errors
/// [`StoreError::Corrupt`]: it is not dag-pb. [`StoreError::Permanent`]: `cid` has a form that is not stored.
pub fn links(cid: &Cid, data: &[u8]) -> Result<Vec<Cid>, StoreError> {
    match form::kind(cid) {
        Ok(Kind::Leaf) => Ok(Vec::new()),
        Ok(Kind::Node) => Ok(foreign::links(cid, data)?),
        Err(e) => Err(StoreError::Permanent(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pxfs_format::cid::leaf_cid;

    #[test]
    fn a_leaf_that_looks_like_a_node_has_no_links() {
        let data = foreign::node_of(&[leaf_cid(b"a")]);
        assert_eq!(links(&leaf_cid(&data), &data), Ok(vec![]));
    }
}
