//! The regular files that are in use: open, or changed and not yet saved.
//!
//! Invariant: there is at most one [`File`] an inode, for as long as anybody holds a [`FileRef`] or
//! its content differs from the journal. So whoever changes content sees all changes.
//!
//! Lock order: `Volume::names` before a file's `saving` before its `body` before the table here
//! before the journal's and the quota's.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::FsError;
use super::body::Body;
use crate::types::Ino;

/// One regular file in use.
pub(crate) struct File {
    pub(crate) ino: Ino,
    body: RwLock<Body>,
    /// Held while the content is made durable and saved: one at a time, in order.
    pub(crate) saving: Mutex<()>,
    /// Its access time as far as it is known, ns: reads look at it first.
    pub(super) atime_ns: AtomicI64,
}

impl File {
    /// The content, to read.
    pub(crate) fn body(&self) -> RwLockReadGuard<'_, Body> {
        self.body.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content, to change.
    pub(crate) fn body_mut(&self) -> RwLockWriteGuard<'_, Body> {
        self.body.write().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Slot {
    file: Arc<File>,
    users: usize,
    /// Unlinked: nothing of it is saved any more, and it goes with its last user.
    orphan: bool,
}

/// The table of files in use.
#[derive(Default)]
pub(crate) struct Files {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    slots: HashMap<Ino, Slot>,
    /// Counts what left the table or was unlinked, and trees taken over: a body loaded before may be
    /// old.
    departures: u64,
    /// The file that was unlinked last, nobody using it: its records may still be there.
    gone: Option<Ino>,
}

/// A file held in the table.
pub(crate) struct FileRef {
    file: Arc<File>,
}

impl Deref for FileRef {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

/// What became of a file that was let go of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Others use it still, or it waits to be saved.
    InUse,
    /// It was the last user of a saved file.
    Gone,
    /// It was the last user of an unlinked file: its records and bytes must go.
    Orphan,
}

impl Files {
    /// Holds the file `ino`, from the table or as `load` gives it.
    pub(crate) fn hold(
        &self,
        ino: Ino,
        load: impl Fn() -> Result<Body, FsError>,
    ) -> Result<FileRef, FsError> {
        loop {
            let departures = match self.lock().try_hold(ino) {
                Ok(held) => return Ok(held),
                Err(departures) => departures,
            };
            let body = load();
            let mut table = self.lock();
            let body = match body {
                Ok(body) => body,
                // Its records may have been others than its stage file: settled meanwhile.
                Err(_) if table.departures != departures || table.slots.contains_key(&ino) => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            if table.gone == Some(ino) {
                return Err(FsError::NotFound);
            }
            if table.departures != departures && !table.slots.contains_key(&ino) {
                continue;
            }
            table.slots.entry(ino).or_insert_with(|| Slot {
                file: Arc::new(File {
                    ino,
                    body: RwLock::new(body),
                    saving: Mutex::new(()),
                    atime_ns: AtomicI64::new(super::access::UNKNOWN),
                }),
                users: 0,
                orphan: false,
            });
            if let Ok(held) = table.try_hold(ino) {
                return Ok(held);
            }
        }
    }

    /// All files in use, without holding them.
    pub(crate) fn all(&self) -> Vec<Arc<File>> {
        let table = self.lock();
        table
            .slots
            .values()
            .map(|slot| Arc::clone(&slot.file))
            .collect()
    }

    /// Holds the file `ino` if it is in use.
    pub(crate) fn hold_known(&self, ino: Ino) -> Option<FileRef> {
        self.lock().try_hold(ino).ok()
    }

    /// The file if it is in use, without holding it: good for a look, not for a change.
    pub(crate) fn peek(&self, ino: Ino) -> Option<Arc<File>> {
        self.lock()
            .slots
            .get(&ino)
            .map(|slot| Arc::clone(&slot.file))
    }

    /// Lets go of a file.
    pub(crate) fn leave(&self, held: FileRef) -> Left {
        let mut table = self.lock();
        let Some(slot) = table.slots.get_mut(&held.ino) else {
            return Left::Gone;
        };
        slot.users = slot.users.saturating_sub(1);
        if slot.users > 0 {
            return Left::InUse;
        }
        let orphan = slot.orphan;
        // Nobody who could change the body is left, so this lock is free or shared with lookers.
        if !orphan && held.body().unsaved {
            return Left::InUse;
        }
        table.slots.remove(&held.ino);
        table.departures += 1;
        if orphan { Left::Orphan } else { Left::Gone }
    }

    /// The file was unlinked. True when somebody uses it, so that it must live on as an orphan.
    pub(crate) fn unlinked(&self, ino: Ino) -> bool {
        let mut table = self.lock();
        table.departures += 1;
        match table.slots.get_mut(&ino) {
            Some(slot) if slot.users > 0 => {
                slot.orphan = true;
                true
            }
            _ => {
                table.slots.remove(&ino);
                table.gone = Some(ino);
                false
            }
        }
    }

    /// All records are other ones now: no body that was loaded before is believed any more, and what
    /// was unlinked may be there again.
    pub(crate) fn forget_past(&self) {
        let mut table = self.lock();
        table.departures += 1;
        table.gone = None;
    }

    /// Whether somebody besides the caller, who does, holds the file.
    pub(crate) fn is_shared(&self, ino: Ino) -> bool {
        self.lock()
            .slots
            .get(&ino)
            .is_some_and(|slot| slot.users > 1)
    }

    /// Whether the file was unlinked.
    pub(crate) fn is_orphan(&self, ino: Ino) -> bool {
        self.lock().slots.get(&ino).is_some_and(|slot| slot.orphan)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The file, held; the count of departures when it is not in use.
    fn try_hold(&mut self, ino: Ino) -> Result<FileRef, u64> {
        let slot = self.slots.get_mut(&ino).ok_or(self.departures)?;
        slot.users += 1;
        Ok(FileRef {
            file: Arc::clone(&slot.file),
        })
    }
}
