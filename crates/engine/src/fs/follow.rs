//! Another machine's newer tree in the place of this one, while it is mounted.
//!
//! Invariant: only where nothing here is unpublished, and then whole, in one batch. While it is done
//! nothing can be changed; files in use get their new content before that ends. Called by
//! `publish`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::account::Account;
use super::body::Body;
use super::files::{BodyMut, File};
use super::news::News;
use super::quota::Access;
use super::takeover::Half;
use super::volume::Volume;
use super::{FsError, Kind};
use crate::journal::record::{Directory, Entry, Inode, Record as _};
use crate::journal::{Batch, key};
use crate::pack::root::Root;
use crate::types::Ino;

/// Records that are let go of at once; with more, the next mount follows.
const MOST_RECORDS: usize = 200_000;

/// A tree that has taken the place of another, and whose files in use are still the old ones. Dropped
/// before the end it is kept in the volume, and the next one to follow goes on.
pub struct Followed {
    volume: Arc<Volume>,
    half: Half,
    is_done: bool,
}

impl Followed {
    /// Whether the directory was loaded in the tree before.
    pub(super) fn was_loaded(&self, dir: Ino) -> bool {
        self.half.loaded.contains(&dir)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        if !self.is_done {
            self.volume.takeover.leave_half(self.half.clone());
            self.volume.tell(News::Due);
        }
    }
}

impl Volume {
    /// Puts the tree of `root` in the place of this one; `None` where anything here is unpublished,
    /// too much is here, or another is at it. [`Volume::finish_following`] comes next, and until then
    /// nothing can be changed. One that was begun and came to no end is begun anew.
    pub fn begin_following(self: &Arc<Self>, root: &Root) -> Result<Option<Followed>, FsError> {
        if self.poisoned().is_some() {
            return Ok(None);
        }
        let with = |half| Followed {
            volume: Arc::clone(self),
            half,
            is_done: false,
        };
        if self.quota().set_taken_over(true) {
            let Some(half) = self.takeover.take_half() else {
                return Ok(None);
            };
            let mut followed = with(half);
            let Some(taken) = self.take_tree(root)? else {
                return Ok(None);
            };
            followed.half.loaded.extend(taken.loaded);
            followed.half.known.extend(taken.known);
            followed.half.used.extend(taken.used);
            return self.made_durable(followed);
        }
        match self.take_tree(root) {
            Ok(Some(half)) => {
                // From here on it is to be ended, whatever the disk says.
                self.made_durable(with(half))
            }
            other => {
                self.quota().set_taken_over(false);
                other.map(|_| None)
            }
        }
    }

    /// Makes the tree durable that was taken, without a lock.
    fn made_durable(&self, followed: Followed) -> Result<Option<Followed>, FsError> {
        self.sync_journal()?;
        Ok(Some(followed))
    }

    /// Whether a take-over was begun and came to no end.
    #[must_use]
    pub fn is_half_followed(&self) -> bool {
        self.takeover.is_half()
    }

    /// Why nothing can be changed for as long as another tree is taken over, if so.
    #[must_use]
    pub fn following(&self) -> Option<String> {
        let quota = self.quota();
        match quota.access() {
            _ if !quota.is_taken_over() => None,
            Access::ReadOnly(reason) => Some(reason.clone()),
            Access::Open => Some("another machine has gone on".to_owned()),
        }
    }

    /// How many trees have taken this one's place; `None` while one does.
    pub(super) fn turn(&self) -> Option<usize> {
        let turns = self.takeover.generation();
        (!self.quota().is_taken_over()).then_some(turns)
    }

    /// The content of a held file, to change. Whoever waited for it while another tree was taken over
    /// is refused: what was asked for before is not what is there now. So is who has what that tree does not show.
    pub(super) fn body_to_change<'a>(&self, file: &'a File) -> Result<BodyMut<'a>, FsError> {
        let body = file.body_mut();
        match self.following() {
            None if file.lost.load(Ordering::Acquire) => Err(FsError::Stale),
            None => Ok(body),
            Some(reason) => Err(FsError::ReadOnly(reason)),
        }
    }

    /// Whether another tree has taken this one's place since the last call: the inodes that the kernel may
    /// have attributes of, or pages.
    #[must_use]
    pub fn take_followed(&self) -> Option<Vec<Ino>> {
        self.takeover.take_stale()
    }

    /// What was here; `None` where this tree is to stay. Not durable on return.
    fn take_tree(&self, root: &Root) -> Result<Option<Half>, FsError> {
        let files = self.files.all();
        // Writers that were let in before have ended when their files' locks are here; who comes with another
        // file is refused.
        let bodies: Vec<_> = files.iter().map(|file| file.body_mut_beside()).collect();
        let _names = self.lock_names();
        let busy = bodies.iter().any(|body| body.unsaved)
            || self.unsaved.has_files()
            || self.activity().is_some()
            || self.active_cut().is_some();
        if busy {
            return Ok(None);
        }
        let mut batch = Batch::default();
        let (mut loaded, mut known) = (HashSet::new(), HashSet::new());
        let in_use: HashSet<Ino> = files.iter().map(|file| file.ino).collect();
        let mut used: HashMap<Ino, Inode> = HashMap::new();
        let inodes = key::inode(Ino::ROOT);
        let mut count = 0;
        for prefix in key::tree() {
            let found = self.journal.scan(&prefix, None, MOST_RECORDS + 1)?;
            count += found.len();
            let marked = [key::dirty_entries(), key::dirty_inodes(), key::orphans()];
            if count > MOST_RECORDS || (marked.contains(&prefix) && !found.is_empty()) {
                return Ok(None);
            }
            for (found, bytes) in found {
                if let Some(dir) = key::parse_directory(&found)
                    && Directory::from_bytes(&bytes)?.loaded
                {
                    loaded.insert(dir);
                }
                if let Some(ino) = key::parse_ino(&found)
                    && found.first() == inodes.first()
                {
                    known.insert(ino);
                    if in_use.contains(&ino) {
                        used.insert(ino, Inode::from_bytes(&bytes)?);
                    }
                }
                batch.remove(found);
            }
        }
        self.enter_root(&mut batch, root);
        self.takeover.note_begun();
        self.apply_quietly(batch)?;
        self.files.forget_past();
        self.places.lock().clear();
        self.take_counts(root);
        Ok(Some(Half {
            known,
            loaded,
            used,
        }))
    }

    /// The directories in `dir` that were loaded in the tree before.
    pub fn once_loaded(&self, followed: &Followed, dir: Ino) -> Result<Vec<Ino>, FsError> {
        let mut found = Vec::new();
        for (_, bytes) in self.journal.scan(&key::entries(dir), None, usize::MAX)? {
            let entry = Entry::from_bytes(&bytes)?;
            let is_dir = Kind::from_number(entry.kind)? == Kind::Directory;
            if is_dir && followed.was_loaded(Ino(entry.ino)) {
                found.push(Ino(entry.ino));
            }
        }
        Ok(found)
    }

    /// Files in use get what they are in the new tree, and changes are let in again. Those that it does
    /// not show live on for who has them open, until they are found where they were moved to.
    pub fn finish_following(&self, mut followed: Followed) -> Result<(), FsError> {
        let mut known = std::mem::take(&mut followed.half.known);
        // Files in use come first: what of them is read meanwhile are pages of the tree before.
        let mut inos = Vec::new();
        // Some may have come since, with what was before.
        for file in &self.files.all() {
            let mut body = file.body_mut();
            match self.load_body(file.ino) {
                Ok(new) => self.find(file, &mut body, new),
                Err(FsError::NotFound) => {
                    drop(body);
                    self.lose(file, followed.half.used.get(&file.ino));
                }
                Err(error) => return Err(error),
            }
            known.remove(&file.ino);
            inos.push(file.ino);
        }
        inos.extend(known);
        self.takeover.add_stale(inos);
        followed.is_done = true;
        self.takeover.note_ended();
        self.quota().set_taken_over(false);
        Ok(())
    }

    /// A file in use is in the newer tree.
    fn find(&self, file: &File, body: &mut BodyMut<'_>, new: Body) {
        // What all of the new tree is charged was taken over with it.
        self.quota
            .replace_account(&file.account, Account::of(new.charge()));
        **body = new;
        self.removed.find(file.ino);
        self.files.linked_again(file.ino);
        file.lost.store(false, Ordering::Release);
    }

    /// A file in use, whose attributes were `inode`, is in no directory of the newer tree that is here.
    fn lose(&self, file: &File, inode: Option<&Inode>) {
        // What was removed here is as it was.
        if self.files.is_orphan(file.ino) {
            return;
        }
        file.lost.store(true, Ordering::Release);
        self.quota.replace_account(&file.account, Account::closed());
        if let Some(inode) = inode {
            self.removed.keep_lost(file.ino, inode);
        }
        if let Some(held) = self.files.unlinked(file.ino) {
            self.leave(held);
        }
    }

    /// The records of `ino` came from a directory of the newer tree: who has it open goes on with these.
    pub(super) fn find_lost(&self, ino: Ino) -> Result<(), FsError> {
        let is_lost = |file: &File| file.lost.load(Ordering::Acquire);
        let Some(file) = self.files.peek(ino).filter(|file| is_lost(file)) else {
            return Ok(());
        };
        let mut body = file.body_mut();
        if is_lost(&file) {
            let new = self.load_body(ino)?;
            self.find(&file, &mut body, new);
            // What the kernel has of it are pages of the tree before.
            self.takeover.add_stale([ino]);
        }
        Ok(())
    }

    /// What became of `error`, which was answered for `ino`: an inode that a newer tree has taken
    /// away, or not shown yet, is looked for anew by its name.
    pub(super) fn or_stale(&self, ino: Ino, error: FsError) -> FsError {
        let gone = || {
            self.journal
                .get(&key::inode(ino))
                .is_ok_and(|found| found.is_none())
        };
        match error {
            FsError::NotFound if self.takeover.has_begun() && gone() => FsError::Stale,
            other => other,
        }
    }
}
