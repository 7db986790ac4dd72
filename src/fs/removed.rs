//! What was removed while the kernel holds it still: directories that are open or somebody's working directory, and
//! FIFOs, sockets, devices and symlinks. (Regular files live on in `files`.)
//!
//! Invariant: in memory alone, since nobody holds anything after a crash; an inode is here from the removal of its
//! last name until the kernel forgets it, which it does at once where nobody holds it. What the journal has goes
//! before what is here. Called by `remove`, `lookup`, `attributes`, and `drive`.

use std::collections::HashMap;
use std::sync::Mutex;

use super::FsError;
use super::volume::{Volume, lock};
use crate::journal::record::Inode;
use crate::types::Ino;

/// The attributes of all of them.
#[derive(Default)]
pub(super) struct Removed(Mutex<HashMap<Ino, Inode>>);

impl Removed {
    /// The last name of an inode goes.
    pub(super) fn keep(&self, ino: Ino, inode: &Inode) {
        let inode = Inode {
            nlink: 0,
            ..inode.clone()
        };
        lock(&self.0).insert(ino, inode);
    }

    /// The attributes of an inode that the journal does not have.
    pub(super) fn get(&self, ino: Ino) -> Option<Inode> {
        lock(&self.0).get(&ino).cloned()
    }

    /// Changes the attributes of a removed inode; false where they are the journal's to keep.
    pub(super) fn change(&self, ino: Ino, inode: &Inode) -> bool {
        if inode.nlink > 0 {
            return false;
        }
        match lock(&self.0).get_mut(&ino) {
            Some(kept) => {
                kept.clone_from(inode);
                true
            }
            None => false,
        }
    }

    fn forget(&self, ino: Ino) {
        lock(&self.0).remove(&ino);
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        lock(&self.0).len()
    }
}

impl Volume {
    /// The kernel does not hold `ino` any more.
    pub(super) fn forget(&self, ino: Ino) {
        self.removed.forget(ino);
    }

    /// Refuses to open what is no directory, or is not here. One that was removed can be opened, not listed.
    pub(super) fn open_directory(&self, dir: Ino) -> Result<(), FsError> {
        match self.loaded_directory(dir) {
            Err(FsError::NotFound) if self.removed.get(dir).is_some() => Ok(()),
            other => other.map(drop),
        }
    }
}
