//! The directories a walk has visited.
//!
//! Invariant: a walk enters no tree twice, so it ends after as many steps as there are blocks.

use std::collections::HashSet;

use crate::pack::entry::TreeRef;

/// The message for a repeated directory.
pub(super) const TWICE: &str = "is in the volume twice: two files have one inode number";

/// Visited directories, by digest prefix.
#[derive(Default)]
pub(super) struct Trees(HashSet<[u8; 16]>);

impl Trees {
    /// Notes a directory. Equal ones are legal only without inodes: empty, or with names whose
    /// inodes are in the inode table.
    pub(super) fn is_new(&mut self, tree: &TreeRef) -> bool {
        let digest = tree.root.cid.hash().digest().first_chunk().copied();
        tree.sums.inodes == 0 || self.0.insert(digest.unwrap_or_default())
    }
}
