//! Walks a tree of blocks: is it whole, and what does it hold?
//!
//! Invariant: no block is read twice in a walk. Walking a tree that shares most blocks with another
//! costs only the difference.

use std::collections::HashSet;

use cid::Cid;

use super::StoreError;
use pxfs_format::cid::{self as form, Kind};

/// What a walk reads of a store.
pub(super) trait Source {
    /// A node's verified children. [`StoreError::Missing`] if it is not there.
    fn links(&mut self, node: &Cid) -> Result<Vec<Cid>, StoreError>;
    /// Whether a leaf exists, without reading it.
    fn has_leaf(&mut self, leaf: &Cid) -> Result<bool, StoreError>;
}

/// A CID in 33 bytes: kind ‖ digest, because a walk holds one for each block of a volume.
pub(super) type Key = [u8; 33];

/// The key of `cid`; [`StoreError::Permanent`] for any other form.
pub(super) fn key(cid: &Cid) -> Result<Key, StoreError> {
    let refused = |e: form::CidError| StoreError::Permanent(e.to_string());
    let mut key = [0; 33];
    let (kind, digest) = key.split_at_mut(1);
    kind.fill(match form::kind(cid).map_err(refused)? {
        Kind::Leaf => 0,
        Kind::Node => 1,
    });
    digest.copy_from_slice(&form::digest(cid).map_err(refused)?);
    Ok(key)
}

/// Checks that `root` and everything below exists. `whole` is a root whose tree is known to exist,
/// so its blocks are skipped.
///
/// Both trees are unfolded level by level, the narrower front first, and each drops what the other
/// has shown. So a shared subtree is never unfolded, wherever it is, even if a page was split or
/// joined, or the tree grew a level.
pub(super) fn check_whole(
    root: &Cid,
    whole: Option<&Cid>,
    source: &mut dyn Source,
) -> Result<(), StoreError> {
    let mut walk = Walk::default();
    if let Some(whole) = whole {
        walk.cover(*whole)?;
    }
    if walk.covered.contains(&key(root)?) {
        return Ok(());
    }
    walk.seen.insert(key(root)?);
    walk.front.push(*root);
    while !walk.front.is_empty() {
        if !walk.old.is_empty() && walk.old.len() <= walk.front.len() {
            walk.unfold_old(source)?;
        } else {
            walk.unfold_new(source)?;
        }
    }
    Ok(())
}

/// Adds the keys of `root` and everything below to `held`; keys already in it count with all below
/// them. Fails if a node is missing or damaged, because what lies below is unknown.
pub(super) fn hold(
    root: &Cid,
    held: &mut HashSet<Key>,
    source: &mut dyn Source,
) -> Result<(), StoreError> {
    let mut front = vec![*root];
    while let Some(cid) = front.pop() {
        if held.insert(key(&cid)?) && form::kind(&cid) == Ok(Kind::Node) {
            front.extend(source.links(&cid)?);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Walk {
    /// Blocks of the new tree to check.
    front: Vec<Cid>,
    /// Nodes of the old tree to unfold.
    old: Vec<Cid>,
    /// All that the new tree has shown.
    seen: HashSet<Key>,
    /// All that the old tree has shown.
    covered: HashSet<Key>,
}

impl Walk {
    fn cover(&mut self, cid: Cid) -> Result<(), StoreError> {
        let key = key(&cid)?;
        let is_new = self.covered.insert(key) && !self.seen.contains(&key);
        if is_new && form::kind(&cid) == Ok(Kind::Node) {
            self.old.push(cid);
        }
        Ok(())
    }

    fn unfold_old(&mut self, source: &mut dyn Source) -> Result<(), StoreError> {
        for node in std::mem::take(&mut self.old) {
            match source.links(&node) {
                Ok(links) => links.into_iter().try_for_each(|c| self.cover(c))?,
                // An unreadable node covers only itself.
                Err(StoreError::Missing(_) | StoreError::Corrupt(..)) => {}
                Err(e) => return Err(e),
            }
        }
        let covered = &self.covered;
        self.front
            .retain(|c| key(c).is_ok_and(|key| !covered.contains(&key)));
        Ok(())
    }

    /// Checks the new tree's front and unfolds it by a level.
    fn unfold_new(&mut self, source: &mut dyn Source) -> Result<(), StoreError> {
        for cid in std::mem::take(&mut self.front) {
            if form::kind(&cid) == Ok(Kind::Leaf) {
                if !source.has_leaf(&cid)? {
                    return Err(StoreError::Missing(cid));
                }
                continue;
            }
            for child in source.links(&cid)? {
                let key = key(&child)?;
                if self.seen.insert(key) && !self.covered.contains(&key) {
                    self.front.push(child);
                }
            }
        }
        let seen = &self.seen;
        self.old
            .retain(|c| key(c).is_ok_and(|key| !seen.contains(&key)));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
