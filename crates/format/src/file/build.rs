//! A file from its leaves in order, from nothing.
//!
//! Invariant: of each level at most one node's links are held, so memory does not grow with the
//! file. A level that is full goes up only when more follows: else a full file would get a level
//! too many.

use ::cid::Cid;

use super::{LINKS, Zeros, check_leaf, inner, unit};
use crate::block::Block;
use crate::chunk::{self, CHUNK_SIZE, MAX_FILE};
use crate::{Child, PackError};

/// Builds a file from its leaves in order; memory does not grow with the file.
#[derive(Debug, Default)]
pub struct Builder {
    /// For each level from the leaves up, what the unfinished node above it links, and its bytes.
    levels: Vec<Vec<(Child, u64)>>,
    chunks: u64,
    size: u64,
    zeros: Zeros,
}

impl Builder {
    /// A builder without leaves.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next leaf, of `len` bytes: [`CHUNK_SIZE`], or fewer and not none for the last. The
    /// leaf's block is the caller's; nodes that are complete go to `out`.
    pub fn push(
        &mut self,
        leaf: Cid,
        len: u64,
        out: &mut dyn FnMut(Block),
    ) -> Result<(), PackError> {
        check_leaf(&leaf)?;
        if len == 0 || len > CHUNK_SIZE {
            let why = format!("a leaf of {len} bytes within a file");
            return Err(PackError::Contradiction(why));
        }
        self.add(0, Child::new(leaf, len), len, out)
    }

    /// Adds `count` chunks of zeros, as nodes that are made once a level; their blocks and the zero
    /// leaf go to `out`.
    pub fn push_holes(&mut self, count: u64, out: &mut dyn FnMut(Block)) -> Result<(), PackError> {
        if count > MAX_FILE / CHUNK_SIZE {
            return Err(PackError::Limit("a file of 2^63 bytes".into()));
        }
        let mut left = count;
        while left > 0 {
            let fits = |level: u32| unit(level) <= left && self.chunks.is_multiple_of(unit(level));
            let level = (0..).take_while(|level| fits(*level)).last().unwrap_or(0);
            let child = self.zeros.subtree(level)?;
            self.zeros.give(level, out);
            self.add(level, child, unit(level) * CHUNK_SIZE, out)?;
            left -= unit(level);
        }
        Ok(())
    }

    /// Ends the file: what an entry links to, and its size. Without any leaf it is the empty leaf,
    /// which goes to `out`.
    pub fn finish(mut self, out: &mut dyn FnMut(Block)) -> Result<(Child, u64), PackError> {
        if self.chunks == 0 {
            let empty = chunk::zero_leaf(0);
            let child = Child::new(empty.cid, 0);
            out(empty);
            return Ok((child, 0));
        }
        let mut level = 0;
        while let Some(open) = self.levels.get(level) {
            match open.as_slice() {
                [(child, _)] if level + 1 == self.levels.len() => return Ok((*child, self.size)),
                [] => {}
                _ => self.close(level, out)?,
            }
            level += 1;
        }
        Err(PackError::Contradiction("a file without leaves".into()))
    }

    /// Adds a subtree of `bytes` bytes at `level`, where the file's end is on its border.
    fn add(
        &mut self,
        level: u32,
        child: Child,
        bytes: u64,
        out: &mut dyn FnMut(Block),
    ) -> Result<(), PackError> {
        if self.size != self.chunks * CHUNK_SIZE {
            let why = "a leaf behind one that is not full";
            return Err(PackError::Contradiction(why.into()));
        }
        if bytes > MAX_FILE - self.size {
            return Err(PackError::Limit("a file of 2^63 bytes".into()));
        }
        for below in 0..self.levels.len() {
            if self
                .levels
                .get(below)
                .is_some_and(|l| l.len() as u64 == LINKS)
            {
                self.close(below, out)?;
            }
        }
        self.level(level as usize).push((child, bytes));
        self.chunks += unit(level);
        self.size += bytes;
        Ok(())
    }

    /// Makes the node over what is open at `level` and links it one level up.
    fn close(&mut self, level: usize, out: &mut dyn FnMut(Block)) -> Result<(), PackError> {
        let below = std::mem::take(self.level(level));
        let (block, child) = inner(&below)?;
        out(block);
        let bytes = below.iter().map(|(_, bytes)| bytes).sum();
        self.level(level + 1).push((child, bytes));
        Ok(())
    }

    fn level(&mut self, level: usize) -> &mut Vec<(Child, u64)> {
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
        }
        // The line above made it.

        &mut self.levels[level]
    }
}
