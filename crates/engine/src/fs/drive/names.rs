//! The calls that make, remove and move names.

use super::trash::{Place, Trash};
use super::{Drive, is_hidden, outer_attr, outer_error};
use crate::fs::create::NewInode;
use crate::fs::{Attr, Caller, FsError, Kind};
use crate::types::Ino;

impl Drive {
    /// Makes a node: `kind` is anything but a directory or symlink; `mode` has not had the umask applied.
    ///
    /// # Errors
    /// Growth: see [`FsError::Quota`], [`FsError::Overdue`], [`FsError::NoRoom`].
    pub fn mknod(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        kind: Kind,
        mode: u16,
        rdev: u32,
    ) -> Result<Attr, FsError> {
        let rdev = if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            rdev
        } else {
            0
        };
        self.make(caller, parent, name, kind, mode, rdev, &[])
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// Growth, as [`Drive::mknod`].
    pub fn mkdir(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u16,
    ) -> Result<Attr, FsError> {
        self.make(caller, parent, name, Kind::Directory, mode, 0, &[])
    }

    /// Makes a symlink.
    ///
    /// # Errors
    /// Growth, as [`Drive::mknod`].
    pub fn symlink(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        target: &[u8],
    ) -> Result<Attr, FsError> {
        self.make(caller, parent, name, Kind::Symlink, 0o777, 0, target)
    }

    /// Gives an inode a further name.
    ///
    /// # Errors
    /// [`FsError::CrossDevice`] between tokens; growth, as [`Drive::mknod`].
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        let (slot, volume, ino) = self.split_changed(ino)?;
        let dir = self.target(parent, name, slot)?;
        let attr = volume
            .link(ino, dir, name)
            .map_err(|e| outer_error(slot, e))?;
        Ok(outer_attr(slot, attr))
    }

    /// Removes a name.
    ///
    /// # Errors
    /// [`FsError::IsDirectory`]; never for want of quota.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let (slot, volume, dir) = self.place(parent, name)?;
        volume.unlink(dir, name).map_err(|e| outer_error(slot, e))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`FsError::NotEmpty`]; never for want of quota.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let (slot, volume, dir) = self.place(parent, name)?;
        volume.rmdir(dir, name).map_err(|e| outer_error(slot, e))
    }

    /// Renames; `flags` as renameat2(2): 0, `RENAME_NOREPLACE` (1), `RENAME_EXCHANGE` (2).
    ///
    /// # Errors
    /// [`FsError::CrossDevice`] between tokens; never for want of quota.
    pub fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        to: Ino,
        to_name: &[u8],
        flags: u32,
    ) -> Result<(), FsError> {
        let (slot, volume, dir) = self.place(parent, name)?;
        let to = self.target(to, to_name, slot)?;
        volume
            .rename(dir, name, to, to_name, flags)
            .map_err(|e| outer_error(slot, e))
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn make(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        kind: Kind,
        mode: u16,
        rdev: u32,
        target: &[u8],
    ) -> Result<Attr, FsError> {
        let new = NewInode {
            kind,
            mode,
            rdev,
            target,
        };
        if let Some(trash) = Trash::of(parent) {
            return self.make_in_trash(caller, trash, name, &new);
        }
        if is_hidden(parent, name, kind) {
            return Err(FsError::NotPermitted);
        }
        self.on_inner(parent, |volume, dir| volume.create(caller, dir, name, &new))
    }

    /// Where the entry `name` of `parent` lies that a change takes away.
    fn place(&self, parent: Ino, name: &[u8]) -> Result<Place, FsError> {
        match Trash::of(parent) {
            Some(trash) => self.thrown(trash, name),
            None => self.split_changed(parent),
        }
    }

    /// The directory of the volume in `slot` that something of it becomes `name` in.
    fn target(&self, parent: Ino, name: &[u8], slot: u16) -> Result<Ino, FsError> {
        if let Some(trash) = Trash::of(parent) {
            return self.throw(trash, name, slot);
        }
        match self.split_changed(parent)? {
            (other, ..) if other != slot => Err(FsError::CrossDevice),
            _ if is_hidden(parent, name, Kind::Directory) => Err(FsError::NotPermitted),
            (.., dir) => Ok(dir),
        }
    }
}
