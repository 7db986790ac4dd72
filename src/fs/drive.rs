//! The whole mount: a root directory that holds one directory a token.
//!
//! Invariant: an inode number of the mount is `slot << 48 | inode of the volume`; slot 0 is the
//! mount root, which holds inode 1 alone.

use std::sync::Arc;

use super::{Attr, Caller, DirItem, FsError, Kind, SetAttr, StatFs};
use crate::types::{Fh, Ino};

/// What `open` and `create` answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The handle.
    pub fh: Fh,
    /// Whether pages of an earlier open may be kept (`FOPEN_KEEP_CACHE`).
    pub keep_cache: bool,
}

/// The mount.
#[derive(Default)]
pub struct Drive {}

#[allow(unused_variables, missing_docs, clippy::missing_errors_doc)]
impl Drive {
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        todo!()
    }
    pub fn getattr(&self, ino: Ino) -> Result<Attr, FsError> {
        todo!()
    }
    pub fn setattr(&self, ino: Ino, fh: Option<Fh>, set: &SetAttr) -> Result<Attr, FsError> {
        todo!()
    }
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        todo!()
    }
    /// `kind` is anything but a directory or symlink; `mode` has the umask applied.
    pub fn mknod(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        kind: Kind,
        mode: u16,
        rdev: u32,
    ) -> Result<Attr, FsError> {
        todo!()
    }
    pub fn mkdir(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u16,
    ) -> Result<Attr, FsError> {
        todo!()
    }
    pub fn symlink(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        target: &[u8],
    ) -> Result<Attr, FsError> {
        todo!()
    }
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        todo!()
    }
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        todo!()
    }
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        todo!()
    }
    /// `flags` as `renameat2`: 0, RENAME_NOREPLACE (1), RENAME_EXCHANGE (2).
    pub fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        to: Ino,
        to_name: &[u8],
        flags: u32,
    ) -> Result<(), FsError> {
        todo!()
    }
    /// `flags` as `open(2)`; O_TRUNC is applied here.
    pub fn open(&self, ino: Ino, flags: i32) -> Result<Opened, FsError> {
        todo!()
    }
    pub fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u16,
        flags: i32,
    ) -> Result<(Attr, Opened), FsError> {
        todo!()
    }
    pub fn read(&self, ino: Ino, fh: Fh, offset: u64, len: u32) -> Result<Vec<u8>, FsError> {
        todo!()
    }
    /// May write less than `data` when the quota has room for some bytes only.
    pub fn write(
        &self,
        ino: Ino,
        fh: Fh,
        offset: u64,
        data: &[u8],
        kill_set_id: bool,
    ) -> Result<u32, FsError> {
        todo!()
    }
    /// `close(2)` of one descriptor: reports local errors of earlier writes.
    pub fn flush(&self, ino: Ino, fh: Fh) -> Result<(), FsError> {
        todo!()
    }
    /// The last descriptor of the handle is gone.
    pub fn release(&self, ino: Ino, fh: Fh) {
        todo!()
    }
    pub fn fsync(&self, ino: Ino, data_only: bool) -> Result<(), FsError> {
        todo!()
    }
    pub fn opendir(&self, ino: Ino) -> Result<Fh, FsError> {
        todo!()
    }
    /// Entries behind `cookie` in cookie order (`.` and `..` first) until `add` answers false.
    /// `add` gets the item, and with `plus` the attributes (None for `.` and `..`).
    pub fn readdir(
        &self,
        ino: Ino,
        cookie: u64,
        plus: bool,
        add: &mut dyn FnMut(&DirItem, Option<&Attr>) -> bool,
    ) -> Result<(), FsError> {
        todo!()
    }
    pub fn releasedir(&self, fh: Fh) {
        todo!()
    }
    pub fn statfs(&self, ino: Ino) -> Result<StatFs, FsError> {
        todo!()
    }
    /// `flags` as `setxattr(2)`: XATTR_CREATE (1), XATTR_REPLACE (2).
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Result<(), FsError> {
        todo!()
    }
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        todo!()
    }
    /// NUL-terminated names, as `listxattr(2)` gives them.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        todo!()
    }
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        todo!()
    }
    /// `mode` as `fallocate(2)`.
    pub fn fallocate(
        &self,
        ino: Ino,
        fh: Fh,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> Result<(), FsError> {
        todo!()
    }
    /// `whence` SEEK_DATA (3) or SEEK_HOLE (4).
    pub fn lseek(&self, ino: Ino, fh: Fh, offset: u64, whence: i32) -> Result<u64, FsError> {
        todo!()
    }
    /// Makes everything that was acknowledged durable on this machine.
    pub fn sync(&self) -> Result<(), FsError> {
        todo!()
    }
}

#[allow(dead_code)]
fn assert_shareable(_: Arc<Drive>)
where
    Drive: Send + Sync,
{
}
