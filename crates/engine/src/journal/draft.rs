//! Changes of a file that are kept in memory until somebody says that they may be made.
//!
//! Invariant: the file itself is only read; [`Draft::steps`] gives the changes in the order they came, so
//! that a crash amid them leaves what a crash amid the first ones would have. Called by [`super::file`].

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use super::DiskFile;
use super::sums::BLOCK;

/// A change of a file.
#[derive(Debug)]
pub(super) enum Step {
    /// So many bytes, at this offset.
    Write(u64, Vec<u8>),
    /// It is cut or extended to this length.
    SetLen(u64),
    /// All before is durable.
    Sync,
}

/// The changes of one file.
#[derive(Debug)]
pub(super) struct Draft {
    /// So many bytes of the file still count.
    kept: u64,
    len: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
    steps: Vec<Step>,
}

impl Draft {
    /// No changes of a file of `len` bytes.
    pub(super) fn of(len: u64) -> Self {
        Self {
            kept: len,
            len,
            blocks: BTreeMap::new(),
            steps: Vec::new(),
        }
    }

    /// The changes, in order.
    pub(super) fn steps(self) -> Vec<Step> {
        self.steps
    }

    /// Length with the changes, in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` from `offset`.
    pub(super) fn read(&self, file: &dyn DiskFile, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset + out.len() as u64;
        if end > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let there = self.kept.saturating_sub(offset).min(out.len() as u64) as usize;
        if let Some((old, rest)) = out.split_at_mut_checked(there) {
            file.read_at(old, offset)?;
            rest.fill(0);
        }
        for (index, bytes) in self.blocks.range(offset / BLOCK..end.div_ceil(BLOCK)) {
            let (within, part) = common(*index, offset, end);
            copy(out.get_mut(part), bytes.get(within))?;
        }
        Ok(())
    }

    /// Writes `data` at `offset`.
    pub(super) fn write(
        &mut self,
        file: &dyn DiskFile,
        offset: u64,
        data: &[u8],
    ) -> io::Result<()> {
        let end = offset + data.len() as u64;
        for index in offset / BLOCK..end.div_ceil(BLOCK) {
            if !self.blocks.contains_key(&index) {
                let mut block = vec![0; BLOCK as usize];
                let start = index * BLOCK;
                let there = self.kept.saturating_sub(start).min(BLOCK) as usize;
                file.read_at(block.get_mut(..there).unwrap_or_default(), start)?;
                self.blocks.insert(index, block);
            }
            let (within, part) = common(index, offset, end);
            let block = self.blocks.get_mut(&index);
            copy(
                block.and_then(|block| block.get_mut(within)),
                data.get(part),
            )?;
        }
        self.len = self.len.max(end);
        self.steps.push(Step::Write(offset, data.to_vec()));
        Ok(())
    }

    /// Cuts or extends it.
    pub(super) fn set_len(&mut self, len: u64) {
        self.len = len;
        self.kept = self.kept.min(len);
        self.blocks.split_off(&len.div_ceil(BLOCK));
        let last = len / BLOCK;
        if let Some(part) = self
            .blocks
            .get_mut(&last)
            .and_then(|block| block.get_mut((len - last * BLOCK) as usize..))
        {
            part.fill(0);
        }
        self.steps.push(Step::SetLen(len));
    }

    /// What was changed is to be durable before what comes.
    pub(super) fn sync(&mut self) {
        self.steps.push(Step::Sync);
    }
}

/// What block `index` and the bytes from `offset` to `end` have in common: as a part of the block, and of
/// the bytes.
fn common(index: u64, offset: u64, end: u64) -> (Range<usize>, Range<usize>) {
    let start = index * BLOCK;
    let (from, to) = (offset.max(start), end.min(start + BLOCK));
    let within = (from - start) as usize..(to - start) as usize;
    (within, (from - offset) as usize..(to - offset) as usize)
}

fn copy(to: Option<&mut [u8]>, from: Option<&[u8]>) -> io::Result<()> {
    match (to, from) {
        (Some(to), Some(from)) if to.len() == from.len() => {
            to.copy_from_slice(from);
            Ok(())
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}
