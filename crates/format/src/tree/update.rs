//! Changes to a tree: read what they touch, merge, cut and join, write.
//!
//! Invariant: nothing is given out before the whole update is done; until then missing blocks are
//! gathered over the whole width of a level. A page is cut in equal parts when its weight passes
//! 96 KiB; one that falls below 24 KiB joins a neighbour where both together stay within 72 KiB; an
//! empty one goes. The topmost page alone may grow to a whole block of 1 MiB, and the tree is made
//! one page again at 512 KiB.

use std::collections::HashSet;

use ::cid::Cid;
use bytes::Bytes;

use super::shape::{PLAIN, Shape, append, cut};
use super::{Change, Place};
use crate::block::Block;
use crate::entry::{Entry, Kind, TreeKind, TreeRef};
use crate::page::{Body, MAX_ITEMS, Row};
use crate::{Blocks, Child, PackError, dagpb};

/// The tree after `changes` (sorted by key, no key twice, each entry under its key) to `tree`
/// (`None`: to an empty one). Only pages with changed keys, the way to them, and small neighbours
/// that they join are read and written. Blocks of new pages and of new symlinks go to `out`,
/// children before parents; a change that changes nothing gives none.
pub fn update(
    kind: TreeKind,
    tree: Option<&TreeRef>,
    changes: &[Change],
    blocks: &dyn Blocks,
    out: &mut dyn FnMut(Block),
) -> Result<TreeRef, PackError> {
    shaped(PLAIN, kind, tree, changes, blocks, out)
}

/// [`update`] of a tree of another shape.
pub(super) fn shaped(
    shape: Shape,
    kind: TreeKind,
    tree: Option<&TreeRef>,
    changes: &[Change],
    blocks: &dyn Blocks,
    out: &mut dyn FnMut(Block),
) -> Result<TreeRef, PackError> {
    check(kind, changes)?;
    if let Some(tree) = tree.filter(|_| changes.is_empty()) {
        return Ok(*tree);
    }
    let mut work = Update {
        shape,
        kind,
        blocks,
        read: HashSet::new(),
        made: Vec::new(),
        missing: Vec::new(),
    };
    work.symlinks(changes)?;
    let top = Place::top(&match tree {
        Some(tree) => *tree,
        None => super::empty(kind, &mut |_| {})?,
    });
    let body = match tree {
        Some(_) => work.load(&top)?,
        None => Some(Body::Entries(Vec::new())),
    };
    let done = match body {
        Some(body) => work.tree(&top, body, changes)?,
        None => None,
    };
    match done {
        Some(tree) => {
            work.made.into_iter().for_each(out);
            Ok(tree)
        }
        None => {
            work.missing.sort_unstable();
            work.missing.dedup();
            Err(PackError::Need(work.missing))
        }
    }
}

fn check(kind: TreeKind, changes: &[Change]) -> Result<(), PackError> {
    let contradiction = |what: &str| Err(PackError::Contradiction(what.to_owned()));
    if !changes.is_sorted_by(|(a, _), (b, _)| a < b) {
        return contradiction("changes that are not sorted by key");
    }
    for (key, entry) in changes {
        if let Some(entry) = entry {
            if entry.key != *key {
                return contradiction("an entry under another key than its own");
            }
            entry.check(kind)?;
        }
    }
    Ok(())
}

/// A child of an index that is being rewritten.
enum Slot {
    /// As it was, unread.
    Kept(Row),
    /// Its border and what it holds now.
    Fresh(Bytes, Body),
}

struct Update<'a> {
    shape: Shape,
    kind: TreeKind,
    blocks: &'a dyn Blocks,
    /// Pages that were read: those that come out the same are not written.
    read: HashSet<Cid>,
    made: Vec<Block>,
    missing: Vec<Cid>,
}

impl Update<'_> {
    /// The blocks of new symlinks.
    fn symlinks(&mut self, changes: &[Change]) -> Result<(), PackError> {
        for (_, entry) in changes {
            let inode = entry.as_ref().and_then(|entry| entry.inode.as_ref());
            if let Some(Kind::Symlink(target)) = inode.map(|inode| &inode.kind) {
                self.made.push(dagpb::symlink(target)?.0);
            }
        }
        Ok(())
    }

    /// Reads a page; `None` and noted when it is missing.
    fn load(&mut self, place: &Place) -> Result<Option<Body>, PackError> {
        let body = place.load(self.kind, self.blocks)?;
        if body.is_some() {
            self.read.insert(place.child.cid);
        } else {
            self.missing.push(place.child.cid);
        }
        Ok(body)
    }

    /// The whole tree; `None` when blocks are missing.
    fn tree(
        &mut self,
        top: &Place,
        body: Body,
        changes: &[Change],
    ) -> Result<Option<TreeRef>, PackError> {
        let Some(body) = self.rewrite(top, body, changes)? else {
            return Ok(None);
        };
        let Some(mut body) = self.shrink(top, body)? else {
            return Ok(None);
        };
        loop {
            let (weight, fits) = match &body {
                Body::Entries(_) => (body.weight(self.kind), self.shape.single),
                Body::Rows(..) => (body.weight(self.kind), self.shape.split),
            };
            if weight <= fits && body.len() <= MAX_ITEMS {
                break;
            }
            let level = body.level() + 1;
            let rows = self.settle(vec![Slot::Fresh(Bytes::new(), body)])?;
            body = Body::Rows(level, rows);
        }
        let sums = body.sums(self.kind);
        let root = self.write(&body)?;
        Ok(Some(TreeRef { root, sums }))
    }

    /// Takes levels off that are not needed any more.
    fn shrink(&mut self, place: &Place, mut body: Body) -> Result<Option<Body>, PackError> {
        loop {
            let Body::Rows(level, rows) = &body else {
                return Ok(Some(body));
            };
            let (level, weight) = (*level, rows.iter().map(|row| row.weight).sum::<u64>());
            if rows.len() > 1 && (level > 1 || weight > self.shape.whole) {
                return Ok(Some(body));
            }
            let mut whole: Option<Body> = None;
            let mut complete = true;
            for at in 0..rows.len() {
                let Some(below) = place.below(level, rows, at) else {
                    continue;
                };
                match (self.reload(&below)?, &mut whole) {
                    (Some(part), Some(whole)) => append(whole, part, below.lower),
                    (Some(part), whole) => *whole = Some(part),
                    (None, _) => complete = false,
                }
            }
            if !complete {
                return Ok(None);
            }
            body = whole.unwrap_or(Body::Entries(Vec::new()));
        }
    }

    /// Reads a page, be it one that was made just now: that one is not needed any more.
    fn reload(&mut self, place: &Place) -> Result<Option<Body>, PackError> {
        match self
            .made
            .iter()
            .rposition(|block| block.cid == place.child.cid)
        {
            Some(at) => place.parse(self.kind, &self.made.remove(at).data).map(Some),
            None => self.load(place),
        }
    }

    /// What a page holds after `changes`; `None` when blocks are missing.
    fn rewrite(
        &mut self,
        place: &Place,
        body: Body,
        changes: &[Change],
    ) -> Result<Option<Body>, PackError> {
        let (level, rows) = match body {
            Body::Entries(entries) => return Ok(Some(Body::Entries(merge(entries, changes)))),
            Body::Rows(level, rows) => (level, rows),
        };
        let mut slots = Vec::with_capacity(rows.len());
        let mut complete = true;
        let mut rest = changes;
        for (at, row) in rows.iter().enumerate() {
            let next = rows.get(at + 1);
            let here = next.map_or(rest.len(), |next| {
                rest.partition_point(|(key, _)| *key < next.border)
            });
            let (part, behind) = rest.split_at(here);
            rest = behind;
            let below = place.below(level, &rows, at).filter(|_| !part.is_empty());
            let Some(below) = below else {
                slots.push(Slot::Kept(row.clone()));
                continue;
            };
            let body = match self.load(&below)? {
                Some(body) => self.rewrite(&below, body, part)?,
                None => None,
            };
            match body {
                Some(body) => slots.push(Slot::Fresh(row.border.clone(), body)),
                None => complete = false,
            }
        }
        if !complete || !self.join(place, level, &mut slots)? {
            return Ok(None);
        }
        Ok(Some(Body::Rows(level, self.settle(slots)?)))
    }

    /// Takes empty pages out and joins small ones with a neighbour; false when blocks are missing.
    fn join(&mut self, place: &Place, level: u8, slots: &mut Vec<Slot>) -> Result<bool, PackError> {
        slots.retain(|slot| !matches!(slot, Slot::Fresh(_, body) if body.len() == 0));
        let mut complete = true;
        let mut at = 0;
        while let Some(slot) = slots.get(at) {
            let weight = self.weight(slot);
            if matches!(slot, Slot::Kept(_)) || weight >= self.shape.join {
                at += 1;
                continue;
            }
            let before = at.checked_sub(1);
            let partner = [before, Some(at + 1)]
                .into_iter()
                .flatten()
                .filter_map(|i| Some((self.weight(slots.get(i)?) + weight, i)))
                .filter(|(both, _)| *both <= self.shape.joined)
                .min();
            let Some((_, partner)) = partner else {
                at += 1;
                continue;
            };
            match self.open(place, level, slots, partner)? {
                Some(body) => {
                    let (left, right) = (at.min(partner), at.max(partner));
                    if let Some(slot) = slots.get_mut(partner) {
                        *slot = Slot::Fresh(slot.border().clone(), body);
                    }
                    if let Slot::Fresh(border, part) = slots.remove(right)
                        && let Some(Slot::Fresh(_, whole)) = slots.get_mut(left)
                    {
                        append(whole, part, border);
                    }
                    at = left;
                }
                None => {
                    complete = false;
                    at += 1;
                }
            }
        }
        // Nothing lies before the first: keys that came below its border are its own.
        if let Some(Slot::Fresh(border, _)) = slots.first_mut() {
            *border = place.lower.clone();
        }
        Ok(complete)
    }

    /// What the page in slot `at` holds; `None` when it is missing.
    fn open(
        &mut self,
        place: &Place,
        level: u8,
        slots: &mut [Slot],
        at: usize,
    ) -> Result<Option<Body>, PackError> {
        let upper = slots.get(at + 1).map(|slot| slot.border().clone());
        let Some(slot) = slots.get_mut(at) else {
            return Ok(None);
        };
        let row = match slot {
            Slot::Fresh(_, body) => {
                let taken = std::mem::replace(body, Body::Entries(Vec::new()));
                return Ok(Some(taken));
            }
            Slot::Kept(row) => row.clone(),
        };
        let mut below = place.below(level, std::slice::from_ref(&row), 0);
        if let Some(below) = &mut below {
            below.upper = upper.or_else(|| place.upper.clone());
        }
        match below {
            Some(below) => self.load(&below),
            None => Ok(None),
        }
    }

    fn weight(&self, slot: &Slot) -> u64 {
        match slot {
            Slot::Kept(row) => row.weight,
            Slot::Fresh(_, body) => body.weight(self.kind),
        }
    }

    /// The rows of pages, after the fresh ones were cut and made.
    fn settle(&mut self, slots: Vec<Slot>) -> Result<Vec<Row>, PackError> {
        let mut rows = Vec::with_capacity(slots.len());
        for slot in slots {
            match slot {
                Slot::Kept(row) => rows.push(row),
                Slot::Fresh(border, body) => {
                    for (border, body) in cut(self.shape, self.kind, border, body) {
                        rows.push(Row {
                            border,
                            weight: body.weight(self.kind),
                            sums: body.sums(self.kind),
                            child: self.write(&body)?,
                        });
                    }
                }
            }
        }
        Ok(rows)
    }

    fn write(&mut self, body: &Body) -> Result<Child, PackError> {
        let (block, child) = body.encode(self.kind)?;
        if !self.read.contains(&block.cid) {
            self.made.push(block);
        }
        Ok(child)
    }
}

impl Slot {
    fn border(&self) -> &Bytes {
        match self {
            Self::Kept(row) => &row.border,
            Self::Fresh(border, _) => border,
        }
    }
}

/// Entries after changes, both sorted by key.
fn merge(entries: Vec<Entry>, changes: &[Change]) -> Vec<Entry> {
    let mut merged = Vec::with_capacity(entries.len() + changes.len());
    let mut old = entries.into_iter().peekable();
    for (key, new) in changes {
        while let Some(entry) = old.next_if(|entry| entry.key < *key) {
            merged.push(entry);
        }
        old.next_if(|entry| entry.key == *key);
        merged.extend(new.clone());
    }
    merged.extend(old);
    merged
}
