//! The errors that the kernel gets: those of [`FsError::errno`], and a few more.
//!
//! Invariant: no other file of the crate names an error number.

use fuser::Errno;

use crate::fs::FsError;

/// The kernel shall handle this call itself, and never ask again (`poll`: always ready).
pub(super) const NOT_IMPLEMENTED: Errno = Errno::ENOSYS;

/// Unknown `ioctl`. Not [`NOT_IMPLEMENTED`], because the kernel passes that on, and programs expect
/// this answer to "is it a terminal, has it flags".
pub(super) const NO_SUCH_IOCTL: Errno = Errno::ENOTTY;

/// `access` for running what nobody may run.
pub(super) const NOT_RUNNABLE: Errno = Errno::EACCES;

/// A call ended without an answer: a bug in pxfs.
pub(super) const DEFECT: Errno = Errno::EIO;

/// The error for a full quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Full {
    /// `EDQUOT`: POSIX's own.
    #[default]
    Quota,
    /// `ENOSPC`: some programs stop at once with it, and retry for minutes with the other.
    Space,
}

impl Full {
    /// The errno for the caller.
    pub(super) fn number(self, error: &FsError) -> Errno {
        match (self, error) {
            (Self::Space, FsError::Quota) => of(&FsError::NoRoom),
            _ => of(error),
        }
    }
}

/// The errno for the caller, without mount options.
pub(super) fn of(error: &FsError) -> Errno {
    Errno::from_i32(error.errno().raw_os_error())
}
