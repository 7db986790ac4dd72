//! Which directories a walk has come to.
//!
//! Invariant: a walk enters no tree twice, so it ends after as many steps as there are blocks. Called by `fsck`
//! and `tar`.

use std::collections::HashSet;

use crate::pack::entry::TreeRef;

/// What a directory is that stands in a volume twice.
pub(super) const TWICE: &str = "is in the volume twice: two files have one inode number";

/// The directories of a walk, by the beginning of their digests.
#[derive(Default)]
pub(super) struct Trees(HashSet<[u8; 16]>);

impl Trees {
    /// Notes a directory. Two can be equal only while no inode stands in them: empty ones, and those of names
    /// whose inodes are in the inode table.
    pub(super) fn is_new(&mut self, tree: &TreeRef) -> bool {
        let digest = tree.root.cid.hash().digest().first_chunk().copied();
        tree.sums.inodes == 0 || self.0.insert(digest.unwrap_or_default())
    }
}
