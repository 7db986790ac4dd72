//! The B+-tree of pages that directories (by name) and the inode table (by number) are kept in.
//!
//! Invariant: borders are stored, so a change touches the pages of its keys, the way to them, and
//! small neighbours that they join, whatever the size of the tree. A plain directory is one block
//! until that would pass 1 MiB, so that stock tools see it whole; beyond it an index over pages, in
//! levels. Below a border are the keys from it up to the next; those before the first border belong
//! to the first page. Called by a commit ([`update()`]) and by a loader ([`scan`], [`lookup`]).

use ::cid::Cid;
use bytes::Bytes;

use super::entry::{Entry, Sums, TreeRef};
use super::page::{Body, Row};
use super::{Blocks, Child, PackError};
use crate::block::Block;

mod shape;
mod update;

#[cfg(test)]
mod tests;

pub use super::entry::TreeKind;
pub use update::update;

/// One changed key: the new entry, or `None` where it is gone. Taking away what is not there is no
/// error.
pub type Change = (Bytes, Option<Entry>);

/// The canonical empty tree; its block goes to `out`.
pub fn empty(kind: TreeKind, out: &mut dyn FnMut(Block)) -> Result<TreeRef, PackError> {
    let (block, root) = Body::Entries(Vec::new()).encode(kind)?;
    out(block);
    Ok(TreeRef {
        root,
        sums: Sums::default(),
    })
}

/// The tree whose topmost page is `root`, with its sums as that page tells them.
pub fn open(kind: TreeKind, root: Child, blocks: &dyn Blocks) -> Result<TreeRef, PackError> {
    let mut place = Place::top(&TreeRef {
        root,
        sums: Sums::default(),
    });
    place.sums = None;
    let body = place
        .load(kind, blocks)?
        .ok_or_else(|| PackError::Need(vec![root.cid]))?;
    Ok(TreeRef {
        root,
        sums: body.sums(kind),
    })
}

/// The entry of `key`.
pub fn lookup(
    kind: TreeKind,
    tree: &TreeRef,
    key: &[u8],
    blocks: &dyn Blocks,
) -> Result<Option<Entry>, PackError> {
    let mut place = Place::top(tree);
    loop {
        match place.load(kind, blocks)? {
            None => return Err(PackError::Need(vec![place.child.cid])),
            Some(Body::Entries(mut entries)) => {
                let found = entries.binary_search_by(|entry| entry.key.as_ref().cmp(key));
                return Ok(found.ok().map(|at| entries.swap_remove(at)));
            }
            Some(Body::Rows(level, rows)) => {
                let behind = rows.partition_point(|row| row.border.as_ref() <= key);
                let at = behind.saturating_sub(1);
                let Some(next) = place.below(level, &rows, at) else {
                    return Ok(None);
                };
                place = next;
            }
        }
    }
}

/// Up to `limit` entries in key order behind `after` (`None`: from the first); fewer mean the end.
/// [`PackError::Need`] names all pages that are sure to be needed, and perhaps the next ones.
pub fn scan(
    kind: TreeKind,
    tree: &TreeRef,
    after: Option<&[u8]>,
    limit: usize,
    blocks: &dyn Blocks,
) -> Result<Vec<Entry>, PackError> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    // Entries that missing pages will bring.
    let mut expected = 0usize;
    let mut below = vec![Place::top(tree)];
    while let Some(place) = below.pop() {
        if found.len().saturating_add(expected) >= limit {
            break;
        }
        match place.load(kind, blocks)? {
            None => {
                missing.push(place.child.cid);
                expected = expected.saturating_add(place.entries_at_least());
            }
            Some(Body::Entries(entries)) => {
                let wanted = entries
                    .into_iter()
                    .filter(|e| after.is_none_or(|a| *e.key > *a));
                found.extend(wanted.take(limit.saturating_sub(found.len())));
            }
            Some(Body::Rows(level, rows)) => {
                let first = after.map_or(0, |after| {
                    rows.partition_point(|row| *row.border <= *after)
                        .saturating_sub(1)
                });
                below.extend(
                    (first..rows.len())
                        .rev()
                        .filter_map(|i| place.below(level, &rows, i)),
                );
            }
        }
    }
    if missing.is_empty() {
        Ok(found)
    } else {
        Err(PackError::Need(missing))
    }
}

/// Which keys stand in page `cid` of a tree: from the first up to the second, where there is one. `None` where it is an
/// index, or no page of this tree.
pub fn keys_of(
    kind: TreeKind,
    tree: &TreeRef,
    cid: &Cid,
    blocks: &dyn Blocks,
) -> Result<Option<(Bytes, Option<Bytes>)>, PackError> {
    let (mut below, mut missing) = (vec![Place::top(tree)], Vec::new());
    while let Some(place) = below.pop() {
        if place.child.cid == *cid {
            let is_page = place.level.is_none_or(|level| level == 0);
            return Ok(is_page.then_some((place.lower, place.upper)));
        }
        if place.child.damaged || place.level == Some(0) {
            continue;
        }
        match place.load(kind, blocks)? {
            None => missing.push(place.child.cid),
            Some(Body::Entries(_)) => {}
            Some(Body::Rows(level, rows)) => {
                below.extend((0..rows.len()).filter_map(|at| place.below(level, &rows, at)));
            }
        }
    }
    match missing.is_empty() {
        true => Ok(None),
        false => Err(PackError::Need(missing)),
    }
}

/// The page that holds `entries`, sorted by key.
pub fn page(kind: TreeKind, entries: Vec<Entry>) -> Result<Block, PackError> {
    Ok(Body::Entries(entries).encode(kind)?.0)
}

/// The page of a tree without entries whose CID is `cid`: it is the same in every volume.
pub fn empty_page(cid: &Cid) -> Result<Option<Block>, PackError> {
    let mut pages = Vec::new();
    for kind in [TreeKind::Directory, TreeKind::Table] {
        empty(kind, &mut |page| pages.push(page))?;
    }
    Ok(pages.into_iter().find(|page| page.cid == *cid))
}

/// A page and what its parent says of it.
#[derive(Clone, Debug)]
struct Place {
    child: Child,
    /// Its sums; unknown of a tree that is being opened.
    sums: Option<Sums>,
    /// Weight of its items; unknown of the topmost.
    weight: Option<u64>,
    /// Its level; unknown of the topmost.
    level: Option<u8>,
    /// Its keys are not below this,
    lower: Bytes,
    /// and below this.
    upper: Option<Bytes>,
}

impl Place {
    fn top(tree: &TreeRef) -> Self {
        Self {
            child: tree.root,
            sums: Some(tree.sums),
            weight: None,
            level: None,
            lower: Bytes::new(),
            upper: None,
        }
    }

    /// The place of row `at` of this page, an index of `level`.
    fn below(&self, level: u8, rows: &[Row], at: usize) -> Option<Self> {
        let row = rows.get(at)?;
        let next = rows.get(at + 1).map(|row| row.border.clone());
        Some(Self {
            child: row.child,
            sums: Some(row.sums),
            weight: Some(row.weight),
            level: Some(level.saturating_sub(1)),
            lower: if at == 0 {
                self.lower.clone()
            } else {
                row.border.clone()
            },
            upper: next.or_else(|| self.upper.clone()),
        })
    }

    /// Reads and checks it; `None` when its block is not at hand.
    fn load(&self, kind: TreeKind, blocks: &dyn Blocks) -> Result<Option<Body>, PackError> {
        if self.child.damaged {
            return Err(PackError::Damaged(self.child.cid));
        }
        match blocks.get(&self.child.cid) {
            Some(bytes) => self.parse(kind, &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// The page in `bytes`, which must be what its parent says of it.
    fn parse(&self, kind: TreeKind, bytes: &Bytes) -> Result<Body, PackError> {
        let refused = |why: &str| Err(PackError::Malformed(self.child.cid, why.to_owned()));
        let body = Body::decode(kind, &self.child.cid, bytes)?;
        let (first, last) = match &body {
            Body::Entries(entries) => (
                entries.first().map(|entry| &entry.key),
                entries.last().map(|entry| &entry.key),
            ),
            Body::Rows(_, rows) => (
                rows.first().map(|row| &row.border),
                rows.last().map(|row| &row.border),
            ),
        };
        let above = first.is_none_or(|key| *key >= self.lower);
        let within = last.is_none_or(|key| self.upper.as_ref().is_none_or(|upper| key < upper));
        if !above || !within {
            return refused("a key is outside the borders of its page");
        }
        if self.level.is_some_and(|level| level != body.level()) {
            return refused("a page is at the wrong level");
        }
        if self
            .weight
            .is_some_and(|weight| weight != body.weight(kind))
        {
            return refused("a page has another weight than its index says");
        }
        if self.sums.is_some_and(|sums| sums != body.sums(kind)) {
            return refused("a page has other sums than its parent says");
        }
        Ok(body)
    }

    /// How many entries are below it, by a cautious guess from its weight.
    fn entries_at_least(&self) -> usize {
        let weight = usize::try_from(self.weight.unwrap_or(0)).unwrap_or(usize::MAX);
        match self.level {
            Some(0) => weight / 512,
            _ => weight,
        }
    }
}
