//! The whole mount: a root directory that holds one directory a token.
//!
//! Invariant: an inode number of the mount is `slot << 48 | inode of the volume`; slot 0 is the
//! mount root, which holds inode 1, and the directories of the trash. A slot is never given to another volume in one run.

mod content;
mod handles;
mod labels;
mod names;
mod root;
mod slots;
mod trash;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use handles::Handles;
pub use slots::Unused;
use slots::{Shows, Slots};
use trash::Trash;

use super::volume::Volume;
use super::{Attr, Caller, DirItem, FsError, Kind, SetAttr, StatFs, Want};
use crate::types::{Fh, Ino};

/// Bits of an inode number that are the volume's.
const INO_BITS: u32 = 48;

/// What `open` and `create` answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The handle.
    pub fh: Fh,
    /// Whether it was opened to write.
    pub writes: bool,
}

/// The mount.
pub struct Drive {
    slots: Slots,
    handles: Handles,
    owner: (u32, u32),
    born_ns: i64,
    /// Whether reads move access times, of anything and of folders.
    access_times: AtomicBool,
    folder_access_times: AtomicBool,
    ended: AtomicBool,
}

impl Drive {
    /// A mount without tokens, whose root belongs to `owner` (user, group).
    #[must_use]
    pub fn new(owner: (u32, u32), now_ns: i64) -> Self {
        Self {
            slots: Slots::default(),
            handles: Handles::default(),
            owner,
            born_ns: now_ns,
            access_times: AtomicBool::new(true),
            folder_access_times: AtomicBool::new(true),
            ended: AtomicBool::new(false),
        }
    }

    /// Ends the drive: whoever answers a call says [`FsError::Ended`] from here on, whatever the call gave.
    /// What was acknowledged before is in the volumes; what a call does after it was acknowledged to nobody,
    /// so that a last [`Volume::sync`] behind this has all that counts.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    /// Whether the drive has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Whether reads move access times (`noatime`), and listing those of folders (`nodiratime`).
    pub fn keep_access_times(&self, of_anything: bool, of_folders: bool) {
        self.access_times.store(of_anything, Ordering::Relaxed);
        self.folder_access_times
            .store(of_anything && of_folders, Ordering::Relaxed);
    }

    /// The entry `name` of `parent`. `.` is `parent` itself, whatever it is, and `..` the directory that it lies in: the
    /// kernel asks so for an inode that it knows the number of and nothing else (`FUSE_EXPORT_SUPPORT`).
    ///
    /// # Errors
    /// [`FsError::NotFound`]; [`FsError::NotLocal`] when the directory must be loaded first.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        match (parent, name) {
            (_, b".") => self.getattr(parent),
            (Ino::ROOT, b"..") => self.getattr(Ino::ROOT),
            (Ino::ROOT, _) => self.lookup_in_root(name),
            (_, b"..") if is_of_token(parent) => self.getattr(Ino::ROOT),
            _ => match Trash::of(parent) {
                Some(trash) => self.lookup_in_trash(trash, name),
                None if name == b".." => self.on(parent, Volume::getattr_above),
                None => {
                    let found = self.on(parent, |volume, dir| volume.lookup(dir, name))?;
                    match is_hidden(parent, name, found.kind) {
                        true => Err(FsError::NotFound),
                        false => Ok(found),
                    }
                }
            },
        }
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// [`FsError::NotFound`] when it is gone; [`FsError::NotLocal`] when its volume must be opened first.
    pub fn getattr(&self, ino: Ino) -> Result<Attr, FsError> {
        if ino == Ino::ROOT {
            return Ok(self.root_attr());
        }
        if let Some(trash) = Trash::of(ino) {
            return Ok(self.trash_attr(trash));
        }
        if let Some((slot, unused)) = self.unused(ino) {
            return self.token_attr(slot, &Shows::Unused(unused));
        }
        self.on(ino, |volume, ino| volume.getattr(ino))
    }

    /// The kernel holds `ino` no longer: what was removed, and kept for that alone, goes. Unless `is_held`: it has been
    /// given it again.
    pub fn forget(&self, ino: Ino, is_held: impl Fn() -> bool) {
        if let Ok((_, volume, ino)) = self.split(ino) {
            volume.forget(ino, is_held);
        }
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// [`FsError::Quota`] and [`FsError::Overdue`] for a greater length alone.
    pub fn setattr(&self, ino: Ino, _fh: Option<Fh>, set: &SetAttr) -> Result<Attr, FsError> {
        if let Some(trash) = Trash::of(ino) {
            // Some clients set the mode that it has.
            return Ok(self.trash_attr(trash));
        }
        self.on_inner(ino, |volume, ino| volume.setattr(ino, set))
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// [`FsError::Invalid`] for anything else.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let (_, volume, ino) = self.split(ino)?;
        let target = volume.readlink(ino)?;
        if self.access_times.load(Ordering::Relaxed) {
            volume.note_access(ino);
        }
        Ok(target)
    }

    /// Which tree an inode is looked up in; `None` while another takes its place. What was found is to be
    /// remembered only if this was the same before and after.
    #[must_use]
    pub fn turn(&self, ino: Ino) -> Option<usize> {
        match self.split(ino) {
            Ok((_, volume, _)) => volume.turn(),
            Err(_) => Some(0),
        }
    }

    /// Makes an inode, and every name, durable on this machine.
    ///
    /// # Errors
    /// A local disk failed.
    pub fn fsync(&self, ino: Ino, _data_only: bool) -> Result<(), FsError> {
        if ino == Ino::ROOT {
            return Ok(());
        }
        if Trash::of(ino).is_some() {
            return self.sync();
        }
        let (_, volume, ino) = self.split(ino)?;
        volume.fsync(ino)
    }

    /// Opens a directory.
    ///
    /// # Errors
    /// [`FsError::NotLocal`] when it must be loaded first.
    pub fn opendir(&self, ino: Ino) -> Result<Fh, FsError> {
        if !is_of_mountpoint(ino) {
            let (slot, volume, ino) = self.split(ino)?;
            volume
                .open_directory(ino)
                .map_err(|e| outer_error(slot, volume.or_stale(ino, e)))?;
        }
        Ok(self.handles.next())
    }

    /// Entries behind `cookie` in cookie order (`.` and `..` first) until `add` answers false.
    /// `add` gets the item and, with `plus`, the attributes (`None` for `.` and `..`).
    ///
    /// # Errors
    /// [`FsError::NotLocal`] when it must be loaded first.
    pub fn readdir(
        &self,
        ino: Ino,
        cookie: u64,
        plus: bool,
        add: &mut dyn FnMut(&DirItem, Option<&Attr>) -> bool,
    ) -> Result<(), FsError> {
        if ino == Ino::ROOT {
            return self.read_root(cookie, plus, add);
        }
        if let Some(trash) = Trash::of(ino) {
            return self.read_trash(trash, cookie, plus, add);
        }
        self.readdir_whole(ino, cookie, plus, &mut |item, attr| {
            is_hidden(ino, &item.name, item.kind) || add(item, attr)
        })
    }

    /// As [`Drive::readdir`] of a directory of a token, with a token's own trash: for who copies all of it.
    ///
    /// # Errors
    /// As [`Drive::readdir`].
    pub fn readdir_whole(
        &self,
        ino: Ino,
        cookie: u64,
        plus: bool,
        add: &mut dyn FnMut(&DirItem, Option<&Attr>) -> bool,
    ) -> Result<(), FsError> {
        let (slot, volume, dir) = self.split(ino)?;
        let mut add_outer = |item: &DirItem, attr: Option<&Attr>| {
            let above = dir == Ino::ROOT && item.name == b"..";
            let outer = DirItem {
                ino: if above {
                    Ino::ROOT
                } else {
                    outer_ino(slot, item.ino)
                },
                ..item.clone()
            };
            add(&outer, attr.map(|attr| outer_attr(slot, *attr)).as_ref())
        };
        volume
            .readdir(dir, cookie, plus, &mut add_outer)
            .map_err(|e| outer_error(slot, volume.or_stale(dir, e)))?;
        if cookie == 0 && self.folder_access_times.load(Ordering::Relaxed) {
            volume.note_access(dir);
        }
        Ok(())
    }

    /// Closes a directory.
    pub fn releasedir(&self, ino: Ino, _fh: Fh) {
        if let Ok((_, volume, ino)) = self.split(ino) {
            volume.close_directory(ino);
        }
    }

    /// Room and use: of the token that `ino` lies in, or of all that are not set aside.
    ///
    /// # Errors
    /// [`FsError::NotFound`] when the token is not shown any more.
    pub fn statfs(&self, ino: Ino) -> Result<StatFs, FsError> {
        if let Some((_, unused)) = self.unused(ino) {
            return Ok(unused.stat);
        }
        if !is_of_mountpoint(ino) {
            let (slot, volume, _) = self.split(ino)?;
            let stat = volume.statfs();
            return Ok(match self.slots.is_aside(slot) {
                false => stat,
                // Nothing more is granted than what lies there.
                true => StatFs {
                    blocks: stat.blocks.saturating_sub(stat.free),
                    free: 0,
                    available: 0,
                    files: stat.files.saturating_sub(stat.files_free),
                    files_free: 0,
                },
            });
        }
        let mut sum = StatFs {
            blocks: 0,
            free: 0,
            available: 0,
            files: 1,
            files_free: 0,
        };
        for shows in self.slots.in_use() {
            let one = match shows {
                Shows::Volume(volume) => volume.statfs(),
                Shows::Unused(unused) => unused.stat,
            };
            sum.blocks = sum.blocks.saturating_add(one.blocks);
            sum.free = sum.free.saturating_add(one.free);
            sum.available = sum.available.saturating_add(one.available);
            sum.files = sum.files.saturating_add(one.files);
            sum.files_free = sum.files_free.saturating_add(one.files_free);
        }
        Ok(sum)
    }

    /// Sets an extended attribute; `flags` as setxattr(2). An access ACL changes the mode, too.
    ///
    /// # Errors
    /// Growth, where it enlarges; [`FsError::Invalid`] for what is no ACL under the name of one.
    pub fn setxattr(
        &self,
        by: Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<(), FsError> {
        let (_, volume, ino) = self.split_changed(ino)?;
        let set = volume.setxattr(by, ino, name, value, flags);
        set.map_err(|e| volume.or_stale(ino, e))
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`].
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let is_virtual = name.starts_with(super::attributes::VIRTUAL);
        if is_of_mountpoint(ino) || !is_virtual && self.unused(ino).is_some() {
            super::attributes::check_attribute_name(name)?;
            return Err(FsError::NoAttribute);
        }
        let (_, volume, ino) = self.split(ino)?;
        let value = match name.strip_prefix(super::attributes::VIRTUAL) {
            Some(field) => volume.virtual_attribute(ino, field),
            None => volume.getxattr(ino, name),
        };
        value.map_err(|e| volume.or_stale(ino, e))
    }

    /// NUL-terminated names, as listxattr(2) gives them. Virtual attributes are not listed, so that
    /// no copy of a file tries to set them.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        if is_of_mountpoint(ino) || self.unused(ino).is_some() {
            return Ok(Vec::new());
        }
        let (_, volume, ino) = self.split(ino)?;
        volume.listxattr(ino).map_err(|e| volume.or_stale(ino, e))
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`].
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        let (_, volume, ino) = self.split_changed(ino)?;
        let removed = volume.removexattr(ino, name);
        removed.map_err(|e| volume.or_stale(ino, e))
    }

    /// Makes everything that was acknowledged durable on this machine.
    ///
    /// # Errors
    /// A local disk failed.
    pub fn sync(&self) -> Result<(), FsError> {
        self.volumes()
            .into_iter()
            .try_for_each(|(_, _, volume)| volume.sync())
    }

    /// Runs `call` on the volume of `ino`, and numbers the answer as the mount does.
    fn on(
        &self,
        ino: Ino,
        call: impl FnOnce(&Volume, Ino) -> Result<Attr, FsError>,
    ) -> Result<Attr, FsError> {
        let (slot, volume, ino) = self.split(ino)?;
        match call(&volume, ino) {
            Ok(attr) => Ok(outer_attr(slot, attr)),
            Err(error) => Err(outer_error(slot, volume.or_stale(ino, error))),
        }
    }

    /// As [`Drive::on`], for a change: the mount root takes none.
    fn on_inner(
        &self,
        ino: Ino,
        call: impl FnOnce(&Volume, Ino) -> Result<Attr, FsError>,
    ) -> Result<Attr, FsError> {
        if ino == Ino::ROOT {
            return Err(FsError::NotPermitted);
        }
        self.on(ino, call)
    }

    fn split(&self, ino: Ino) -> Result<(u16, Arc<Volume>, Ino), FsError> {
        let slot = u16::try_from(ino.0 >> INO_BITS).map_err(|_| FsError::NotFound)?;
        match self.slots.get(slot) {
            Some(Shows::Volume(volume)) => Ok((slot, volume, Ino(ino.0 & Ino::MAX.0))),
            Some(Shows::Unused(_)) => Err(FsError::NotLocal(Box::new(Want::Volume { slot }))),
            None => Err(FsError::NotFound),
        }
    }

    /// The directory of a token that nobody has used yet, and its slot, where `ino` is one.
    fn unused(&self, ino: Ino) -> Option<(u16, Unused)> {
        let slot = u16::try_from(ino.0 >> INO_BITS).ok()?;
        match self.slots.get(slot)? {
            Shows::Unused(unused) => Some((slot, unused)),
            Shows::Volume(_) => None,
        }
    }

    fn split_changed(&self, ino: Ino) -> Result<(u16, Arc<Volume>, Ino), FsError> {
        if is_of_mountpoint(ino) {
            return Err(FsError::NotPermitted);
        }
        self.split(ino)
    }
}

/// Whether it is the mountpoint, or one of the directories that it has for the trash.
fn is_of_mountpoint(ino: Ino) -> bool {
    ino == Ino::ROOT || Trash::of(ino).is_some()
}

/// Whether it is the directory of a token.
fn is_of_token(ino: Ino) -> bool {
    ino != Ino::ROOT && ino.0 & Ino::MAX.0 == Ino::ROOT.0
}

/// Whether the entry `name` of `parent` is a token's own trash, which is seen at the mountpoint.
fn is_hidden(parent: Ino, name: &[u8], kind: Kind) -> bool {
    is_of_token(parent) && kind == Kind::Directory && Trash::named(name).is_some()
}

fn outer_ino(slot: u16, ino: Ino) -> Ino {
    Ino(u64::from(slot) << INO_BITS | ino.0)
}

fn outer_attr(slot: u16, attr: Attr) -> Attr {
    Attr {
        ino: outer_ino(slot, attr.ino),
        ..attr
    }
}

fn outer_error(slot: u16, error: FsError) -> FsError {
    match error {
        FsError::NotLocal(mut want) => {
            match want.as_mut() {
                Want::Directory { slot: of, .. }
                | Want::Content { slot: of, .. }
                | Want::Volume { slot: of } => *of = slot,
            }
            FsError::NotLocal(want)
        }
        other => other,
    }
}
