//! The journal: the durable local state of one volume, the seam between the two halves.
//!
//! [`Journal`] is a table of records with an overlay in memory: an operation changes the overlay as
//! one [`Batch`]; batches reach the disk in the order they were applied, a few of them in a log in front of
//! the table, many of them in the table, so what a crash leaves is a prefix. [`Stage`] holds the bytes that are
//! not uploaded yet. Both speak to the disk alone: no network, no tokio. Called by `fs` and, for snapshots, by
//! `publish`.

mod barrier;
mod batch;
mod calls;
mod check;
mod cow;
mod disk;
mod draft;
mod file;
pub(crate) mod key;
mod log;
pub mod record;
mod salvage;
#[cfg(any(test, feature = "testing"))]
pub mod simulated;
mod snapshot;
mod stage;
mod sums;
mod table;
mod unsynced;
mod wal;

pub use barrier::{Barrier, Without};
pub use batch::Batch;
pub(crate) use cow::CowDisk;
pub use disk::{Disk, DiskFile, FolderDisk, MemoryDisk};
pub use log::Journal;
pub use salvage::Doubts;
pub use snapshot::Snapshot;
pub use stage::Stage;
pub(crate) use stage::StageFile;

/// Why local state could not be read or made durable.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum JournalError {
    /// The disk has no room; nothing was lost, try again when it has.
    #[error("no room on the local disk")]
    NoRoom,
    /// The local file system has no larger files.
    #[error("too large for the local file system")]
    TooLarge,
    /// The disk failed: what was not durable yet may never become it.
    #[error("local disk: {0}")]
    Disk(String),
    /// A record is not what the format says.
    #[error("local state is damaged: {0}")]
    Corrupt(String),
}

impl From<std::io::Error> for JournalError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::NoRoom,
            std::io::ErrorKind::FileTooLarge => Self::TooLarge,
            std::io::ErrorKind::InvalidData => Self::Corrupt(error.to_string()),
            _ => Self::Disk(error.to_string()),
        }
    }
}
