//! Names that go: unlink and rmdir. Never growth; open files live on without a name.
//!
//! Invariant: nobody's content is waited for or loaded while the names are locked, so a name goes while somebody
//! writes below it, however large it is. A regular file that has no
//! name any more is charged nothing from here on, and lives on until the kernel, too, has let go of it, since whoever
//! has found it by name is about to call on it: in memory alone, or, where somebody has it open, with its records.

use super::content::content_charge;
use super::create::{hard_surcharge, touch_directory, xattrs_bytes};
use super::files::FileRef;
use super::locks::{Names, OrderedGuard};
use super::quota::SCRATCH;
use super::quota::signed;
use super::reservation::Reservation;
use super::volume::Volume;
use super::{FsError, Kind};
use crate::journal::record::{Content, Entry, Inode};
use crate::journal::{Batch, key};
use crate::pack::charge;
use crate::types::Ino;

/// What a name that is to go stands for, as it was found before the names were locked: a regular file that goes with
/// it is in use since then, so that nothing of it is loaded while others wait for the names. Let go of when they are
/// not locked.
pub(super) struct Going<'a> {
    volume: &'a Volume,
    /// The inode, and whether it is such a file.
    found: Option<(u64, bool)>,
    pub(super) held: Option<FileRef>,
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.volume.leave(held);
        }
    }
}

impl Going<'_> {
    /// Whether the name stands for the same, with the names locked.
    pub(super) fn is_still(&self, entry: &Entry) -> Result<bool, FsError> {
        Ok(self.found == Some(self.volume.last_of(entry)?))
    }
}

impl Volume {
    /// Removes the name `name` of anything but a directory.
    pub(super) fn unlink(&self, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        self.quota().check_change()?;
        self.journal.wait_for_room()?;
        let mut going;
        let (names, entry) = loop {
            going = self.going(dir, name)?;
            let names = self.lock_names();
            let entry = self.entry_to_change(dir, name)?.ok_or(FsError::NotFound)?;
            // It may have become another's meanwhile, or its last one.
            if going.is_still(&entry)? {
                break (names, entry);
            }
        };
        let mut parent = self.inode(dir)?;
        if Kind::from_number(entry.kind)? == Kind::Directory {
            return Err(FsError::IsDirectory);
        }
        let (mut batch, mut reserved) = (Batch::default(), self.quota.reservation());
        let held = &mut going.held;
        let unlinked = self.drop_name(&mut batch, &mut reserved, dir, name, &entry, held)?;
        touch_directory(&mut batch, dir, &mut parent, self.clock.wall_ns());
        self.end_removal(names, batch, reserved, unlinked)
    }

    /// Removes the empty directory `name`.
    pub(super) fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        self.quota().check_change()?;
        self.journal.wait_for_room()?;
        let names = self.lock_names();
        let mut parent = self.inode(dir)?;
        let entry = self.entry_to_change(dir, name)?.ok_or(FsError::NotFound)?;
        if Kind::from_number(entry.kind)? != Kind::Directory {
            return Err(FsError::NotDirectory);
        }
        self.check_empty(Ino(entry.ino))?;
        let (mut batch, mut reserved) = (Batch::default(), self.quota.reservation());
        let held = &mut None;
        let unlinked = self.drop_name(&mut batch, &mut reserved, dir, name, &entry, held)?;
        parent.nlink = parent.nlink.saturating_sub(1);
        touch_directory(&mut batch, dir, &mut parent, self.clock.wall_ns());
        self.end_removal(names, batch, reserved, unlinked)
    }

    /// Refuses a directory that has entries; a directory that is not loaded knows by its sums.
    pub(super) fn check_empty(&self, dir: Ino) -> Result<(), FsError> {
        let state: crate::journal::record::Directory = self
            .journal
            .record(&key::directory(dir))?
            .ok_or(FsError::NotDirectory)?;
        let empty = if state.loaded {
            self.journal.scan(&key::entries(dir), None, 1)?.is_empty()
        } else {
            state.published.is_none_or(|tree| tree.entries == 0)
        };
        if empty {
            Ok(())
        } else {
            Err(FsError::NotEmpty)
        }
    }

    /// What the name `name` of `dir` stands for, before it goes. To be called with the names not locked.
    pub(super) fn going(&self, dir: Ino, name: &[u8]) -> Result<Going<'_>, FsError> {
        let entry = self.entry_to_change(dir, name)?;
        let found = entry.map(|entry| self.last_of(&entry)).transpose()?;
        // What cannot be loaded can be removed all the same.
        let held = found
            .filter(|(_, goes)| *goes)
            .and_then(|(ino, _)| self.hold(Ino(ino)).ok());
        Ok(Going {
            volume: self,
            found,
            held,
        })
    }

    /// The inode of an entry, and whether it is a regular file without another name.
    fn last_of(&self, entry: &Entry) -> Result<(u64, bool), FsError> {
        let is_file = Kind::from_number(entry.kind)? == Kind::File;
        // One that is gone has become another's: that is seen with the names locked.
        let goes = || {
            self.inode(Ino(entry.ino))
                .is_ok_and(|inode| inode.nlink <= 1)
        };
        Ok((entry.ino, is_file && goes()))
    }

    /// Removes the records of a name and, with the last one, of its inode, which is `held` where it is a regular file;
    /// books what gets free, but for what [`Volume::end_removal`] does, which comes next.
    pub(super) fn drop_name(
        &self,
        batch: &mut Batch,
        reserved: &mut Reservation<'_>,
        dir: Ino,
        name: &[u8],
        entry: &Entry,
        held: &mut Option<FileRef>,
    ) -> Result<Option<FileRef>, FsError> {
        let ino = Ino(entry.ino);
        let mut inode = self.inode(ino)?;
        let directory = inode.kind == Kind::Directory as u8;
        self.take_name(batch, dir, name, entry);
        let mut freed = signed(charge::entry_charge(name, 0, 0));
        inode.nlink = inode.nlink.saturating_sub(1);
        inode.ctime_ns = self.clock.wall_ns();
        let mut unlinked = None;
        if inode.nlink > 0 && !directory {
            batch.put(key::inode(ino), &inode);
            batch.mark(key::dirty_inode(ino));
        } else {
            freed += attributes_charge(&inode);
            if directory {
                freed += signed(charge::DIRECTORY);
                batch.remove(key::directory(ino));
            }
            batch.count_inodes(-1);
            unlinked = self.drop_inode(batch, reserved, ino, &inode, held)?;
        }
        batch.charge(-freed);
        reserved.adjust(-freed);
        Ok(unlinked)
    }

    /// Applies `batch`, with which a name goes, and lets go of the names. What has no name any more is charged
    /// nothing from here on.
    pub(super) fn end_removal(
        &self,
        names: OrderedGuard<'_, (), Names>,
        batch: Batch,
        reserved: Reservation<'_>,
        unlinked: Option<FileRef>,
    ) -> Result<(), FsError> {
        let made = self.apply(batch);
        if made.is_ok() {
            reserved.confirm();
        }
        if let Some(held) = unlinked {
            if made.is_ok() {
                self.quota.close_account(&held.account);
                self.keep_removed(held);
            } else {
                self.files.linked_again(held.ino);
                self.note_unsaved(held.ino);
                drop(names);
                self.leave(held);
            }
        }
        made
    }

    /// Removes the records that tie `name` to its inode.
    pub(super) fn take_name(&self, batch: &mut Batch, dir: Ino, name: &[u8], entry: &Entry) {
        self.places.lock().keep(dir, name, entry.cookie);
        batch.remove(key::entry(dir, name));
        batch.remove(key::cookie(dir, entry.cookie));
        batch.remove(key::link(Ino(entry.ino), dir, name));
        batch.mark(key::dirty_entry(dir, name));
    }

    /// The last name of an inode is gone.
    fn drop_inode(
        &self,
        batch: &mut Batch,
        reserved: &mut Reservation<'_>,
        ino: Ino,
        inode: &Inode,
        held: &mut Option<FileRef>,
    ) -> Result<Option<FileRef>, FsError> {
        if let Some(record) = self.quota().forget_scratch(ino) {
            batch.put_bytes(key::meta(SCRATCH), record);
        }
        if inode.hard {
            // Its row of the inode table goes with the next commit.
            batch.mark(key::dirty_inode(ino));
        } else {
            batch.remove(key::dirty_inode(ino));
        }
        if inode.kind != Kind::File as u8 {
            self.removed.keep(ino, inode);
            batch.remove(key::inode(ino));
            return Ok(None);
        }
        let unlinked = self.files.unlinked(ino);
        // Its content is not waited for: it has this one user more.
        if let Some(held) = held.take() {
            self.leave(held);
        }
        let content = self.journal.record::<Content>(&key::content(ino));
        let is_many =
            || matches!(&content, Ok(Some(content)) if self.has_many_chunks(ino, content));
        if unlinked.is_some() && (self.files.is_shared(ino) || is_many()) {
            batch.put(key::inode(ino), inode);
            batch.set(key::orphan(ino));
            return Ok(unlinked);
        }
        // Nobody but the kernel holds it, if that: its records go, and what it was is in memory.
        let dropped = content.map_err(FsError::from).and_then(|content| {
            content.map_or(Ok(()), |content| {
                if unlinked.is_none() {
                    reserved.adjust(-signed(content_charge(&content)));
                }
                self.drop_content(batch, ino, &content)
            })
        });
        if let Err(error) = dropped {
            self.files.linked_again(ino);
            self.note_unsaved(ino);
            // It is let go of with the kernel's next word: not here, where others wait for the names.
            unlinked
                .into_iter()
                .for_each(|held| self.keep_removed(held));
            return Err(error);
        }
        if unlinked.is_some() {
            self.removed.keep(ino, inode);
        }
        batch.remove(key::inode(ino));
        Ok(unlinked)
    }

    /// Whether more of the file is staged than may be removed at once: then its records go as where somebody has it
    /// open, when the kernel has let go of it.
    fn has_many_chunks(&self, ino: Ino, content: &Content) -> bool {
        let most = self.limits.chunks;
        // How long it is says nothing: it may have been cut since it was saved. What cannot be read is told by who
        // removes it.
        let chunks = || self.journal.scan(&key::chunks(ino), None, most + 1);
        content.staged && chunks().is_ok_and(|chunks| chunks.len() > most)
    }
}

/// What an inode's attributes are charged besides its names.
fn attributes_charge(inode: &Inode) -> i64 {
    let plain = signed(charge::entry_charge(
        b"",
        xattrs_bytes(inode),
        inode.target.len() as u64,
    )) - signed(charge::entry_charge(b"", 0, 0));
    if inode.hard {
        plain + hard_surcharge(inode)
    } else {
        plain
    }
}
