//! What names a content or a node inside the cache: the digest of its CID and which form it has.
//!
//! Invariant: two CIDs share a key only when they name the same bytes in the same way; anything
//! but the two stored forms has no key and is never cached.

use ::cid::Cid;

use crate::pack::cid::{self, Kind};

/// A CID in 33 bytes instead of the 100 of its general form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Whether the CID names a dag-pb node.
    node: bool,
    /// SHA-256.
    digest: [u8; 32],
}

impl Key {
    /// The key of `cid`; `None` when it is neither a leaf nor a node.
    pub(super) fn of(cid: &Cid) -> Option<Self> {
        Some(Self {
            node: cid::kind(cid).ok()? == Kind::Node,
            digest: cid::digest(cid).ok()?,
        })
    }

    /// The CID again.
    pub(super) fn cid(&self) -> Cid {
        if self.node {
            cid::node_of_digest(self.digest)
        } else {
            cid::leaf_of_digest(self.digest)
        }
    }

    /// Whether it names a dag-pb node.
    pub(super) fn is_node(&self) -> bool {
        self.node
    }

    /// The digest.
    pub(super) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}
