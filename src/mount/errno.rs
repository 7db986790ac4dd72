//! The error numbers that the kernel is answered with: those of [`FsError::errno`], and a few that no error stands for.
//!
//! Invariant: no other file of the crate names an error number.

use fuser::Errno;

use crate::fs::FsError;

/// A call that the kernel is to handle by itself, and not to ask again (`poll`: always ready).
pub(super) const NOT_IMPLEMENTED: Errno = Errno::ENOSYS;

/// An `ioctl` that files here do not have. Not [`NOT_IMPLEMENTED`], which the kernel hands on to
/// programs that know only this answer to "is it a terminal, has it flags".
pub(super) const NO_SUCH_IOCTL: Errno = Errno::ENOTTY;

/// `access` for running what nobody may run.
pub(super) const NOT_RUNNABLE: Errno = Errno::EACCES;

/// A call that ended without an answer: a defect of pxfs.
pub(super) const DEFECT: Errno = Errno::EIO;

/// What a mount says where the quota is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Full {
    /// `EDQUOT`: what POSIX has for it.
    #[default]
    Quota,
    /// `ENOSPC`: some programs end at once with it, and try again for minutes with the other.
    Space,
}

impl Full {
    /// What the caller of a failed call sees.
    pub(super) fn number(self, error: &FsError) -> Errno {
        match (self, error) {
            (Self::Space, FsError::Quota) => of(&FsError::NoRoom),
            _ => of(error),
        }
    }
}

/// What the caller of a failed call sees, without any option.
pub(super) fn of(error: &FsError) -> Errno {
    Errno::from_i32(error.errno().raw_os_error())
}
