//! The B+-tree of pages that directories and the inode table are kept in.

use bytes::Bytes;

use super::entry::{Entry, Sums, TreeRef};
use super::{Blocks, PackError};
use crate::store::Block;

/// Which of the two trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TreeKind {
    /// Entries by name.
    Directory,
    /// Inodes by number.
    Table,
}

/// One changed key: the new entry, or `None` where it is gone. Removing what is not there is no error.
pub type Change = (Bytes, Option<Entry>);

/// The canonical empty tree; its block goes to `out`.
#[allow(unused_variables)]
pub fn empty(kind: TreeKind, out: &mut dyn FnMut(Block)) -> Result<TreeRef, PackError> {
    todo!()
}

/// The entry of `key`.
#[allow(unused_variables)]
pub fn lookup(
    kind: TreeKind,
    tree: &TreeRef,
    key: &[u8],
    blocks: &dyn Blocks,
) -> Result<Option<Entry>, PackError> {
    todo!()
}

/// Up to `limit` entries in key order behind `after` (`None`: from the first); fewer mean the end.
#[allow(unused_variables)]
pub fn scan(
    kind: TreeKind,
    tree: &TreeRef,
    after: Option<&[u8]>,
    limit: usize,
    blocks: &dyn Blocks,
) -> Result<Vec<Entry>, PackError> {
    todo!()
}

/// The tree whose topmost page is `root`, with its sums as that page tells them.
#[allow(unused_variables)]
pub fn open(kind: TreeKind, root: super::Child, blocks: &dyn Blocks) -> Result<TreeRef, PackError> {
    todo!()
}

/// The tree after `changes` (sorted by key, no key twice) to `tree` (`None`: to an empty one). Only pages
/// with changed keys, the way to them, and small neighbours that they join are read and written.
/// Blocks of new pages and of symlinks go to `out`, children before parents.
#[allow(unused_variables)]
pub fn update(
    kind: TreeKind,
    tree: Option<&TreeRef>,
    changes: &[Change],
    blocks: &dyn Blocks,
    out: &mut dyn FnMut(Block),
) -> Result<TreeRef, PackError> {
    todo!()
}
