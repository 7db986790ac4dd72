//! The table of open files.
//!
//! Invariant: a handle holds its file until the last call on it has ended.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::fs::FsError;
use crate::fs::files::FileRef;
use crate::fs::volume::Volume;
use crate::types::Fh;

/// The flags of open(2) that matter here (Linux, all architectures that fuser knows).
pub(super) const O_ACCMODE: i32 = 0o3;
const O_NOATIME: i32 = 0o1_000_000;

/// An open file.
pub(super) struct Handle {
    pub(super) slot: u16,
    pub(super) volume: Arc<Volume>,
    /// There until the handle is dropped.
    pub(super) file: Option<FileRef>,
    pub(super) writes: bool,
    /// A read moves the access time.
    pub(super) notes_access: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            self.volume.leave(file);
        }
    }
}

impl Handle {
    pub(super) fn new(slot: u16, volume: Arc<Volume>, file: FileRef, flags: i32) -> Self {
        Self {
            slot,
            volume,
            file: Some(file),
            writes: flags & O_ACCMODE != 0,
            notes_access: flags & O_NOATIME == 0,
        }
    }
}

/// All open files of a mount.
#[derive(Default)]
pub(super) struct Handles {
    open: RwLock<HashMap<Fh, Arc<Handle>>>,
    given: AtomicU64,
}

impl Handles {
    /// A number that no other handle has.
    pub(super) fn next(&self) -> Fh {
        Fh(self.given.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Opens `handle`.
    pub(super) fn insert(&self, handle: Handle) -> Fh {
        let fh = self.next();
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.insert(fh, Arc::new(handle));
        fh
    }

    /// The open file.
    pub(super) fn get(&self, fh: Fh) -> Result<Arc<Handle>, FsError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&fh).map(Arc::clone).ok_or(FsError::BadHandle)
    }

    /// Closes it.
    pub(super) fn remove(&self, fh: Fh) {
        let closed = {
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            open.remove(&fh)
        };
        drop(closed); // outside the lock: the last user of an unlinked file removes it
    }
}
