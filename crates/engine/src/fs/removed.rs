//! What was removed while the kernel holds it still: somebody has it open or works in it, or has just found it by its
//! name, and is about to open it, look at it, or change it.
//!
//! Invariant: in memory alone, since nobody holds anything after a crash; an inode is here from the removal of its
//! last name until the kernel forgets it, which it does at once where nobody holds it. Its attributes are here, and what
//! the journal has goes before them: the records of a regular file that somebody had open stay until the last has
//! closed it. A regular file has one user more in `files`, which keeps its content. What another machine's tree has taken
//! away is here in the same way, and cannot be changed. Called by `remove`, `lookup`, `attributes`, `follow`, and `drive`.

use std::collections::HashMap;

use super::FsError;
use super::files::FileRef;
use super::locks::{Memory, Ordered};
use super::volume::Volume;
use crate::journal::record::Inode;
use crate::types::Ino;

/// All of them.
#[derive(Default)]
pub(super) struct Removed {
    files: Ordered<HashMap<Ino, FileRef>, Memory>,
    others: Ordered<HashMap<Ino, Kept>, Memory>,
}

/// Attributes that the journal does not have.
struct Kept {
    inode: Inode,
    /// It was not removed here.
    is_lost: bool,
}

impl Removed {
    /// The last name of an inode goes whose records go with it.
    pub(super) fn keep(&self, ino: Ino, inode: &Inode) {
        self.insert(ino, inode, false);
    }

    /// A newer tree does not show an inode that somebody has open.
    pub(super) fn keep_lost(&self, ino: Ino, inode: &Inode) {
        self.insert(ino, inode, true);
    }

    /// The newer tree shows it after all.
    pub(super) fn find(&self, ino: Ino) {
        self.others.lock().remove(&ino);
    }

    fn insert(&self, ino: Ino, inode: &Inode, is_lost: bool) {
        let inode = Inode {
            nlink: 0,
            ..inode.clone()
        };
        self.others.lock().insert(ino, Kept { inode, is_lost });
    }

    /// The attributes of an inode that the journal does not have.
    pub(super) fn get(&self, ino: Ino) -> Option<Inode> {
        self.others.lock().get(&ino).map(|kept| kept.inode.clone())
    }

    /// Changes the attributes of a removed inode; false where they are the journal's to keep.
    ///
    /// # Errors
    /// [`FsError::Stale`] for one that a newer tree has taken away.
    pub(super) fn change(&self, ino: Ino, inode: &Inode) -> Result<bool, FsError> {
        if inode.nlink > 0 {
            return Ok(false);
        }
        match self.others.lock().get_mut(&ino) {
            Some(kept) if kept.is_lost => Err(FsError::Stale),
            Some(kept) => {
                kept.inode.clone_from(inode);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        let files = self.files.lock().len();
        files + self.others.lock().len()
    }
}

impl Volume {
    /// Holds a regular file until the kernel forgets it.
    pub(super) fn keep_removed(&self, held: FileRef) {
        let before = self.removed.files.lock().insert(held.ino, held);
        if let Some(held) = before {
            self.leave(held);
        }
    }

    /// The kernel does not hold `ino` any more, unless `is_held`. May wait for room in the journal.
    pub(super) fn forget(&self, ino: Ino, is_held: impl Fn() -> bool) {
        // Asked while nothing is kept: who removes it meanwhile has been given it before, and that counts.
        take(&mut self.removed.others.lock(), ino, &is_held);
        let held = take(&mut self.removed.files.lock(), ino, &is_held);
        if let Some(held) = held {
            self.leave(held);
        }
    }

    /// Opens a directory; refuses what is none, or is not here. One that was removed can be opened, not listed.
    pub(super) fn open_directory(&self, dir: Ino) -> Result<(), FsError> {
        match self.loaded_directory(dir) {
            Err(FsError::NotFound) if self.removed.get(dir).is_some() => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        self.places.lock().opened(dir);
        Ok(())
    }

    /// A handle of a directory is gone.
    pub(super) fn close_directory(&self, dir: Ino) {
        self.places.lock().closed(dir);
    }
}

/// What is kept of `ino`, for nobody keeps it any more.
fn take<T>(kept: &mut HashMap<Ino, T>, ino: Ino, is_held: impl Fn() -> bool) -> Option<T> {
    if kept.contains_key(&ino) && !is_held() {
        kept.remove(&ino)
    } else {
        None
    }
}
