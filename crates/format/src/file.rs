//! A file's content: one raw leaf, or a UnixFS file over raw leaves, as `add --cid-version=0
//! --raw-leaves --chunker=size-1048576` makes it on both networks.
//!
//! Invariant: the tree is balanced: all leaves at one depth, every node but the last of its level
//! full with [`LINKS`] links; inner nodes are CIDv0. So the CID is a function of the bytes alone,
//! however the content came to be. Called by a commit ([`rebuild()`]) and a reader
//! ([`leaves`]); tests compare with a file that is made at once.

use std::collections::HashSet;
use std::ops::Range;

use ::cid::Cid;
use bytes::Bytes;

use super::chunk::{self, CHUNK_SIZE};
use super::dagpb::{Link, Node, Unixfs};
use super::holes::Holes;
use super::{Blocks, Child, PackError, cid};
use crate::block::Block;

#[cfg(any(test, feature = "testing"))]
mod build;
mod rebuild;

#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "testing"))]
pub use build::Builder;
pub use rebuild::rebuild;

/// Links of an inner node.
pub const LINKS: u64 = 174;

/// Content as an entry knows it: what a commit starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The leaf or topmost node.
    pub root: Child,
    /// Length in bytes.
    pub size: u64,
    /// Chunks that were never written.
    pub holes: Holes,
}

/// The leaves of the chunks in `range` (cut at the file's end), with their indices, in order.
/// `root` is the content of a file of `size` bytes.
pub fn leaves(
    root: &Cid,
    size: u64,
    range: Range<u64>,
    blocks: &dyn Blocks,
) -> Result<Vec<(u64, Cid)>, PackError> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    let mut below = vec![Place::top(root, size)];
    while let Some(place) = below.pop() {
        if place.span.end <= range.start || place.span.start >= range.end {
            continue;
        }
        if place.level == 0 {
            place.check_leaf()?;
            found.push((place.span.start, place.cid));
            continue;
        }
        match blocks.get(&place.cid) {
            Some(bytes) => below.extend(place.children(&bytes)?.into_iter().rev()),
            None => missing.push(place.cid),
        }
    }
    if missing.is_empty() {
        Ok(found)
    } else {
        missing.sort_unstable();
        missing.dedup();
        Err(PackError::Need(missing))
    }
}

/// The first chunk whose leaf is `leaf`, as far as `blocks` has the nodes of the content `root` of `size`
/// bytes. Subtrees that are equal are looked at once, and of the others one node at a time: a hole of any
/// length costs a node a level.
pub fn chunk_of(root: &Cid, size: u64, leaf: &Cid, blocks: &dyn Blocks) -> Option<u64> {
    let mut seen = HashSet::new();
    let mut below = vec![Place::top(root, size)];
    while let Some(place) = below.pop() {
        if place.level == 0 {
            if place.cid == *leaf {
                return Some(place.span.start);
            }
        } else if seen.insert(place.cid)
            && let Some(bytes) = blocks.get(&place.cid)
            && let Ok(children) = place.children(&bytes)
        {
            below.extend(children.into_iter().rev());
        }
    }
    None
}

/// Where in the content `root` of `size` bytes the node `cid` lies; `None` where it is none of its nodes.
pub fn place_of(
    root: &Cid,
    size: u64,
    cid: &Cid,
    blocks: &dyn Blocks,
) -> Result<Option<Place>, PackError> {
    let (mut seen, mut missing) = (HashSet::new(), Vec::new());
    let mut below = vec![Place::top(root, size)];
    while let Some(place) = below.pop() {
        if place.level == 0 {
            continue;
        }
        if place.cid == *cid {
            return Ok(Some(place));
        }
        if place.level == 1 || !seen.insert(place.cid) {
            continue;
        }
        match blocks.get(&place.cid) {
            Some(bytes) => below.extend(place.children(&bytes)?),
            None => missing.push(place.cid),
        }
    }
    match missing.is_empty() {
        true => Ok(None),
        false => Err(PackError::Need(missing)),
    }
}

/// A node or leaf of a file and where in the file it lies: for who goes through its blocks, each once, and not through
/// its chunks, of which a few blocks may hold any number.
#[derive(Clone, Debug)]
pub struct Place {
    cid: Cid,
    /// What its parent says of the bytes of blocks below it; 0 where there is no parent.
    tsize: u64,
    /// 0 for a leaf.
    level: u32,
    /// The chunks below it.
    span: Range<u64>,
    /// Bytes of the whole file.
    size: u64,
}

impl Place {
    fn new(cid: &Cid, level: u32, span: Range<u64>, size: u64) -> Self {
        Self {
            cid: *cid,
            tsize: 0,
            level,
            span,
            size,
        }
    }

    /// The topmost block of the content `root` of a file of `size` bytes.
    #[must_use]
    pub fn top(root: &Cid, size: u64) -> Self {
        let count = chunk::count(size);
        Self::new(root, height(count), 0..count, size)
    }

    /// The block.
    #[must_use]
    pub fn cid(&self) -> &Cid {
        &self.cid
    }

    /// Whether it is a chunk.
    #[must_use]
    pub fn is_chunk(&self) -> bool {
        self.level == 0
    }

    /// The number of its first chunk.
    #[must_use]
    pub fn first_chunk(&self) -> u64 {
        self.span.start
    }

    /// How many bytes of the file lie below it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        span_bytes(&self.span, self.size)
    }

    /// What is below it, from its bytes, which must be what this place calls for.
    ///
    /// # Errors
    /// They are not.
    pub fn children(&self, bytes: &Bytes) -> Result<Vec<Self>, PackError> {
        let wrong = |why: &str| PackError::Malformed(self.cid, why.to_owned());
        let node = Node::decode(&self.cid, bytes)?;
        let Unixfs::File { size, parts } = &node.unixfs else {
            return Err(wrong("a node of a file is expected here"));
        };
        let spans: Vec<Range<u64>> = parts_of(self.level, &self.span).collect();
        let lengths = spans.iter().map(|span| span_bytes(span, self.size));
        if *size != span_bytes(&self.span, self.size) || !lengths.eq(parts.iter().copied()) {
            return Err(wrong(
                "the node is not of this place in a file of this size",
            ));
        }
        if node.links.len() != spans.len() || node.links.iter().any(|l| !l.name.is_empty()) {
            return Err(wrong("the links are not those of a file's node"));
        }
        let below = node.links.iter().zip(spans).map(|(link, span)| Self {
            cid: link.cid,
            tsize: link.tsize,
            level: self.level.saturating_sub(1),
            span,
            size: self.size,
        });
        Ok(below.collect())
    }

    /// The node of this place, where `leaf` tells each chunk below it.
    ///
    /// # Errors
    /// It would be no block.
    pub fn made(&self, leaf: &dyn Fn(u64) -> Child) -> Result<(Block, Child), PackError> {
        let below = parts_of(self.level, &self.span).map(|span| {
            let bytes = span_bytes(&span, self.size);
            let child = match self.level {
                0 | 1 => leaf(span.start),
                level => {
                    Self::new(&self.cid, level - 1, span, self.size)
                        .made(leaf)?
                        .1
                }
            };
            Ok((child, bytes))
        });
        inner(&below.collect::<Result<Vec<_>, PackError>>()?)
    }

    /// Refuses a chunk that is not a leaf.
    ///
    /// # Errors
    /// It is a node.
    pub fn check_leaf(&self) -> Result<(), PackError> {
        check_leaf(&self.cid)
    }
}

/// Refuses a CID that is not a leaf's.
fn check_leaf(cid: &Cid) -> Result<(), PackError> {
    if cid::kind(cid) == Ok(cid::Kind::Leaf) {
        Ok(())
    } else {
        let why = "a leaf is expected here".to_owned();
        Err(PackError::Malformed(*cid, why))
    }
}

/// Chunks below a full node of `level`.
fn unit(level: u32) -> u64 {
    LINKS.saturating_pow(level)
}

/// Levels above the leaves of a file of `chunks` chunks.
fn height(chunks: u64) -> u32 {
    let mut level = 0;
    while unit(level) < chunks {
        level += 1;
    }
    level
}

/// The spans of the children of a node of `level` > 0 over `span`.
fn parts_of(level: u32, span: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let step = unit(level.saturating_sub(1));
    let (start, end) = (span.start, span.end);
    (0..(end - start).div_ceil(step)).map(move |i| {
        let from = start + i * step;
        from..from.saturating_add(step).min(end)
    })
}

/// Bytes of the chunks of `span` in a file of `size` bytes.
fn span_bytes(span: &Range<u64>, size: u64) -> u64 {
    let at = |index: u64| index.saturating_mul(CHUNK_SIZE).min(size);
    at(span.end) - at(span.start).min(at(span.end))
}

/// The node over `below`: what is linked, and the bytes of content of each.
fn inner(below: &[(Child, u64)]) -> Result<(Block, Child), PackError> {
    let node = Node {
        links: below
            .iter()
            .map(|(child, _)| Link {
                cid: child.cid,
                name: Bytes::new(),
                tsize: child.tsize,
            })
            .collect(),
        unixfs: Unixfs::File {
            size: below.iter().map(|(_, bytes)| bytes).sum(),
            parts: below.iter().map(|(_, bytes)| *bytes).collect(),
        },
    };
    node.encode()
}

/// Full subtrees of zeros, made once a level.
#[derive(Debug, Default)]
struct Zeros {
    levels: Vec<(Block, Child)>,
    given: usize,
}

impl Zeros {
    /// The full subtree of `level` over holes.
    fn subtree(&mut self, level: u32) -> Result<Child, PackError> {
        loop {
            if let Some((_, child)) = self.levels.get(level as usize) {
                return Ok(*child);
            }
            let made = match self.levels.last() {
                None => {
                    let leaf = chunk::zero_leaf(CHUNK_SIZE);
                    let child = Child::new(leaf.cid, CHUNK_SIZE);
                    (leaf, child)
                }
                Some((_, child)) => {
                    let bytes = unit(self.levels.len() as u32 - 1) * CHUNK_SIZE;
                    inner(&vec![(*child, bytes); LINKS as usize])?
                }
            };
            self.levels.push(made);
        }
    }

    /// Gives the blocks of a subtree of `level` to `out`, each once.
    fn give(&mut self, level: u32, out: &mut dyn FnMut(Block)) {
        let end = (level as usize + 1).min(self.levels.len());
        for (block, _) in self.levels.get(self.given..end).unwrap_or_default() {
            out(block.clone());
        }
        self.given = self.given.max(end);
    }
}
