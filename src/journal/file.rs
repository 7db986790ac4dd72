//! The file below redb, with patience: a full disk makes a write wait, not fail.
//!
//! redb takes nothing more after an I/O error until it is opened again. Want of room is no such
//! error: what waits here is still in memory, in sight of readers, and goes on when there is room.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redb::StorageBackend;

use super::{Barrier, DiskFile, Without};

/// How often a write that found no room is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// The journal's file.
#[derive(Debug)]
pub(super) struct PatientFile {
    file: Arc<dyn DiskFile>,
    ended: Arc<AtomicBool>,
    without: Without,
}

impl PatientFile {
    /// Once `ended` is true nothing waits any more.
    pub(super) fn new(file: Arc<dyn DiskFile>, ended: Arc<AtomicBool>, without: Without) -> Self {
        Self {
            file,
            ended,
            without,
        }
    }

    fn patiently(&self, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        loop {
            match write() {
                Err(e) if full(&e) && !self.ended.load(Ordering::Acquire) => {
                    std::thread::sleep(AGAIN);
                }
                other => return other,
            }
        }
    }
}

fn full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

impl StorageBackend for PatientFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.patiently(|| self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.without.lacks(Barrier::JournalBytes) {
            return Ok(());
        }
        // After a failed sync nobody knows what of it is on the disk, whatever the error was: want of
        // room too ends the journal.
        self.file
            .sync_data()
            .map_err(|error| io::Error::other(error.to_string()))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.patiently(|| self.file.write_at(data, offset))
    }
}
