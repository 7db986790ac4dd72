//! Tells the kernel that cached data has changed.
//!
//! Invariant: never called from a file-system call or an async task, except
//! [`Notifier::inval_attributes`]: the kernel takes the directory's lock, which a call in progress
//! may hold until it is answered.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::INodeNo;

use crate::types::Ino;

/// A cheap handle; does nothing after the mount has ended.
#[derive(Clone, Debug)]
pub struct Notifier(fuser::Notifier);

impl Notifier {
    pub(super) fn new(inner: fuser::Notifier) -> Self {
        Self(inner)
    }

    /// The entry `name` of `parent` appeared, vanished or became another inode. Blocks during a
    /// call that changes `parent`.
    pub fn inval_entry(&self, parent: Ino, name: &[u8]) {
        let name = OsStr::from_bytes(name);
        if let Err(error) = self.0.inval_entry(INodeNo(parent.0), name) {
            tracing::debug!(parent = parent.0, ?name, %error, "the kernel did not take an entry back");
        }
    }

    /// `len` bytes at `offset` of `ino` changed (0: all behind it); the kernel first writes dirty
    /// pages back. Blocks while those pages are being read.
    pub(super) fn drop_pages(&self, ino: Ino, offset: u64, len: u64) {
        tracing::trace!(ino = ino.0, offset, len, "drop pages");
        let [offset, len] = [offset, len].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        if let Err(error) = self.0.inval_inode(INodeNo(ino.0), offset, len) {
            tracing::debug!(ino = ino.0, %error, "the kernel did not take pages back");
        }
    }

    /// Attributes of `ino` changed. Never blocks, so the call that changes them may report it.
    pub(super) fn inval_attributes(&self, ino: Ino) {
        if let Err(error) = self.0.inval_inode(INodeNo(ino.0), -1, 0) {
            tracing::debug!(ino = ino.0, %error, "the kernel did not take attributes back");
        }
    }

    /// Attributes and content of `ino` changed.
    pub fn inval_inode(&self, ino: Ino) {
        if let Err(error) = self.0.inval_inode(INodeNo(ino.0), 0, 0) {
            tracing::debug!(ino = ino.0, %error, "the kernel did not take an inode back");
        }
    }
}
