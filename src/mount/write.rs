//! One write of the kernel: through the page cache, or past it as [`Caching`] allows.

use std::sync::Arc;

use tokio::time::Instant;

use super::caching::{CAPABILITY, Caching, Way};
use super::convert;
use super::miss::Queue;
use super::patient::Patient;
use crate::fs::{Drive, FsError, Terms};
use crate::types::{Fh, Ino};

/// A write; `D` borrows its bytes from the request, or owns them.
pub(super) struct Write<D> {
    pub(super) caching: Arc<Caching>,
    pub(super) ino: Ino,
    pub(super) fh: Fh,
    pub(super) offset: u64,
    pub(super) data: D,
    /// The flags of open(2) at this moment.
    pub(super) flags: i32,
    /// Takes the set-id bits.
    pub(super) kill: bool,
    /// A write-back of mapped pages.
    pub(super) mapped: bool,
}

impl<D: AsRef<[u8]>> Write<D> {
    pub(super) fn queue(&self) -> Queue {
        if self.mapped {
            Queue::Page
        } else if self.caching.syncs(self.ino, self.fh, self.flags) {
            Queue::Sync
        } else {
            Queue::Change
        }
    }

    /// `None` if the file was read more than `reads` times.
    fn write(&self, drive: &Drive, reads: Option<u64>) -> Result<Option<u32>, FsError> {
        let appends = convert::appends(self.flags);
        let terms = Terms { appends, reads };
        drive.write_on(self.fh, self.offset, self.data.as_ref(), self.kill, terms)
    }

    fn end(&self, drive: &Drive, written: u32) -> Result<u32, FsError> {
        let take_away = || drive.removexattr(self.ino, CAPABILITY);
        let sync = || drive.fsync(self.ino, true);
        self.caching
            .after_write(self.ino, self.fh, self.flags, take_away, sync)?;
        Ok(written)
    }
}

impl<D: AsRef<[u8]>> Patient for Write<D> {
    type Answer = u32;
    type Owned = Write<Vec<u8>>;

    fn owned(&self) -> Write<Vec<u8>> {
        Write {
            caching: Arc::clone(&self.caching),
            ino: self.ino,
            fh: self.fh,
            offset: self.offset,
            data: self.data.as_ref().to_vec(),
            flags: self.flags,
            kill: self.kill,
            mapped: self.mapped,
        }
    }

    fn attempt(&self, drive: &Drive) -> Result<Option<u32>, FsError> {
        let (ino, fh) = (self.ino, self.fh);
        if self.mapped {
            let written = drive.write_mapped(ino, fh, self.offset, self.data.as_ref());
            return written.map(Some);
        }
        // Counted before asking who may read: see `caching`.
        let reads = drive.reads(fh)?;
        match self.caching.way(ino, fh) {
            Way::Cached => self.write(drive, None),
            Way::Alone => match self.write(drive, Some(reads))? {
                Some(written) => self.end(drive, written).map(Some),
                None => Ok(None),
            },
            Way::Beside => Ok(None),
        }
    }

    fn wait(self, drive: &Drive, deadline: Instant) -> Result<u32, FsError> {
        let len = u32::try_from(self.data.as_ref().len()).unwrap_or(u32::MAX);
        let reads = || drive.reads(self.fh);
        let write = |reads| self.write(drive, Some(reads));
        let is_over = || Instant::now() >= deadline;
        let written =
            self.caching
                .write_beside(self.ino, self.offset, len, reads, write, is_over)?;
        self.end(drive, written)
    }
}
