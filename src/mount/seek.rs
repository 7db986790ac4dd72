//! lseek(2) for data and holes, with regard to mapped pages that only the kernel has.

use std::sync::Arc;

use tokio::time::Instant;

use super::caching::{Caching, Seek};
use super::patient::Patient;
use crate::fs::{Drive, FsError};
use crate::types::{Fh, Ino};

/// A call of lseek(2).
#[derive(Clone)]
pub(super) struct Lseek {
    pub(super) caching: Arc<Caching>,
    pub(super) ino: Ino,
    pub(super) fh: Fh,
    pub(super) offset: i64,
    pub(super) whence: i32,
}

impl Lseek {
    fn ask(&self, drive: &Drive) -> Result<u64, FsError> {
        let offset = u64::try_from(self.offset).map_err(|_| FsError::NoData)?;
        drive.lseek(self.ino, self.fh, offset, self.whence)
    }

    fn seek(&self) -> Seek {
        match (self.whence, u64::try_from(self.offset)) {
            (libc::SEEK_DATA, Ok(offset)) => Seek::Data(offset),
            _ => Seek::Hole,
        }
    }
}

impl Patient for Lseek {
    type Answer = i64;
    type Owned = Self;

    fn owned(&self) -> Self {
        self.clone()
    }

    fn attempt(&self, drive: &Drive) -> Result<Option<i64>, FsError> {
        let found = self.ask(drive);
        if self.caching.doubts(self.ino, self.seek(), &found) {
            return Ok(None);
        }
        found.and_then(signed).map(Some)
    }

    fn wait(self, drive: &Drive, deadline: Instant) -> Result<i64, FsError> {
        let ask = || self.ask(drive);
        let is_over = || Instant::now() >= deadline;
        let found = self.caching.seek(self.ino, self.seek(), ask, is_over);
        found.and_then(signed)
    }
}

fn signed(found: u64) -> Result<i64, FsError> {
    i64::try_from(found).map_err(|_| FsError::TooLarge)
}
