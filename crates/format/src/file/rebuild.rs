//! A file from an older one and what changed in it.
//!
//! Invariant: the nodes of a place (level, first chunk) in the old and the new tree lie at the same
//! place of the file whatever the two depths, so a subtree that nothing touched is linked again
//! unread. When the file grew a level, the old root is the first child of something new; when it
//! shrank one, the new root is a first child of the old.

use std::collections::BTreeMap;
use std::ops::Range;

use ::cid::Cid;

use super::{Content, Place, Zeros, check_leaf, height, inner, parts_of, span_bytes, unit};
use crate::block::Block;
use crate::chunk::{self, CHUNK_SIZE, MAX_FILE};
use crate::holes::Holes;
use crate::{Blocks, Child, PackError};

/// Content of `size` bytes with `holes`, made of `old` (`None`: of nothing) and the leaves in
/// `changed` (by chunk index, each of its chunk's length; their blocks are the caller's). Chunks in
/// `holes` become zero leaves, without a walk. Where a chunk's length changes (the last one of the
/// old or the new content) it must be in `changed` or in `holes`. `holes` are all of the new
/// content; a chunk in both is a [`PackError::Contradiction`].
///
/// Reads and writes only the nodes on the way to what changed; the result equals that of a build
/// from nothing. New nodes and zero leaves go to `out`, in no order.
pub fn rebuild(
    old: Option<&Content>,
    size: u64,
    holes: &Holes,
    changed: &BTreeMap<u64, Cid>,
    blocks: &dyn Blocks,
    out: &mut dyn FnMut(Block),
) -> Result<Child, PackError> {
    if size > MAX_FILE {
        return Err(PackError::Limit("a file of 2^63 bytes".into()));
    }
    holes.check(size)?;
    let chunks = chunk::count(size);
    if changed
        .last_key_value()
        .is_some_and(|(last, _)| *last >= chunks)
    {
        let why = "a changed chunk lies beyond the end of its file";
        return Err(PackError::Contradiction(why.into()));
    }
    if size == 0 {
        let empty = chunk::zero_leaf(0);
        let child = Child::new(empty.cid, 0);
        out(empty);
        return Ok(child);
    }
    let mut work = Rebuild {
        old_size: old.map_or(0, |old| old.size),
        size,
        holes,
        dug: old.map_or_else(|| holes.clone(), |old| holes.minus(&old.holes)),
        changed,
        blocks,
        zeros: Zeros::default(),
        zero_level: None,
        made: Vec::new(),
        missing: Vec::new(),
    };
    let Some(root) = work.whole(old)? else {
        work.missing.sort_unstable();
        work.missing.dedup();
        return Err(PackError::Need(work.missing));
    };
    if let Some(level) = work.zero_level {
        work.zeros.give(level, out);
    }
    work.made.into_iter().for_each(out);
    Ok(root)
}

/// What the old content has at a place of the new one.
#[derive(Clone, Copy)]
enum Old {
    Nothing,
    /// This subtree.
    At(Child),
    /// The old root, of this level, is below, at the first child of each level.
    Below(Child, u32),
}

struct Rebuild<'a> {
    old_size: u64,
    size: u64,
    holes: &'a Holes,
    /// Holes that the old content does not have.
    dug: Holes,
    changed: &'a BTreeMap<u64, Cid>,
    blocks: &'a dyn Blocks,
    zeros: Zeros,
    /// The highest level of zeros that is linked anew.
    zero_level: Option<u32>,
    made: Vec<Block>,
    missing: Vec<Cid>,
}

impl Rebuild<'_> {
    /// The whole file; `None` when blocks are missing.
    fn whole(&mut self, old: Option<&Content>) -> Result<Option<Child>, PackError> {
        let chunks = chunk::count(self.size);
        let level = height(chunks);
        let mut at = Old::Nothing;
        if let Some(old) = old.filter(|old| old.size > 0 && !self.replaced(&(0..chunks))) {
            let old_level = height(chunk::count(old.size));
            at = if old_level < level {
                Old::Below(old.root, old_level)
            } else {
                match self.descend(old.root, old_level, level)? {
                    Some(child) => Old::At(child),
                    None => return Ok(None),
                }
            };
        }
        self.node(level, 0..chunks, at)
    }

    /// The first subtree of level `to` below `root`, which is of level `from`.
    fn descend(&mut self, root: Child, from: u32, to: u32) -> Result<Option<Child>, PackError> {
        let mut child = root;
        for level in (to + 1..=from).rev() {
            let Some(below) = self.read(child, level, 0)? else {
                return Ok(None);
            };
            child = *below.first().unwrap_or(&child);
        }
        Ok(Some(child))
    }

    /// The children of an old node; `None` when it is missing.
    fn read(
        &mut self,
        node: Child,
        level: u32,
        start: u64,
    ) -> Result<Option<Vec<Child>>, PackError> {
        let Some(bytes) = self.blocks.get(&node.cid) else {
            self.missing.push(node.cid);
            return Ok(None);
        };
        let end = start
            .saturating_add(unit(level))
            .min(chunk::count(self.old_size));
        let place = Place::new(&node.cid, level, start..end, self.old_size);
        let below = place.children(&bytes)?;
        Ok(Some(
            below.iter().map(|p| Child::new(p.cid, p.tsize)).collect(),
        ))
    }

    /// The subtree over `span`; `None` when blocks are missing.
    fn node(&mut self, level: u32, span: Range<u64>, old: Old) -> Result<Option<Child>, PackError> {
        let untouched = self.changed.range(span.clone()).next().is_none();
        let full = span_bytes(&span, self.size) == unit(level).saturating_mul(CHUNK_SIZE);
        if untouched && full && self.holes.covers(&span) {
            let child = self.zeros.subtree(level)?;
            if !matches!(old, Old::At(was) if was.cid == child.cid) {
                self.zero_level = self.zero_level.max(Some(level));
            }
            return Ok(Some(child));
        }
        if let Old::At(child) = old
            && untouched
            && !self.dug.touches(&span)
            && self.old_bytes(level, &span) == span_bytes(&span, self.size)
        {
            return Ok(Some(child));
        }
        if level == 0 {
            return self.leaf(span.start).map(Some);
        }
        let olds = match old {
            Old::At(child) if !self.replaced(&span) => match self.read(child, level, span.start)? {
                Some(below) => below.into_iter().map(Old::At).collect(),
                None => return Ok(None),
            },
            Old::Below(root, at) if at + 1 == level => vec![Old::At(root)],
            Old::Below(..) => vec![old],
            Old::At(_) | Old::Nothing => Vec::new(),
        };
        let mut below = Vec::new();
        let mut complete = true;
        for (i, part) in parts_of(level, &span).enumerate() {
            let old = olds.get(i).copied().unwrap_or(Old::Nothing);
            match self.node(level - 1, part.clone(), old)? {
                Some(child) => below.push((child, span_bytes(&part, self.size))),
                None => complete = false,
            }
        }
        if !complete {
            return Ok(None);
        }
        let (block, child) = inner(&below)?;
        if !matches!(old, Old::At(was) if was.cid == child.cid) {
            self.made.push(block);
        }
        Ok(Some(child))
    }

    /// The leaf of a chunk that the old content does not have as it is.
    fn leaf(&mut self, index: u64) -> Result<Child, PackError> {
        let length = chunk::len(self.size, index);
        let hole = self.holes.contains(index);
        match self.changed.get(&index) {
            Some(_) if hole => {
                let why = format!("chunk {index} is written and a hole");
                Err(PackError::Contradiction(why))
            }
            Some(leaf) => {
                check_leaf(leaf)?;
                Ok(Child::new(*leaf, length))
            }
            None if hole => {
                let zeros = chunk::zero_leaf(length);
                let child = Child::new(zeros.cid, length);
                self.made.push(zeros);
                Ok(child)
            }
            None => {
                let why = format!("chunk {index} is neither given nor in the old content");
                Err(PackError::Contradiction(why))
            }
        }
    }

    /// Whether every chunk of `span` is given.
    fn replaced(&self, span: &Range<u64>) -> bool {
        self.changed.range(span.clone()).count() as u64 == span.end - span.start
    }

    /// Bytes that the old content has at the place of `span`.
    fn old_bytes(&self, level: u32, span: &Range<u64>) -> u64 {
        let end = span.start.saturating_add(unit(level));
        span_bytes(&(span.start..end), self.old_size)
    }
}
