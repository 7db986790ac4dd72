//! The one table from [`FsError`] to the error numbers that callers see.
//!
//! Invariant: no other file of the crate names an error number, and no arm is a wildcard, so a new
//! error cannot reach a caller by accident. Called by `adapter` and `miss`.

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
pub(crate) fn of(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::Exists => Errno::EEXIST,
        FsError::NotDirectory => Errno::ENOTDIR,
        FsError::IsDirectory => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::Invalid => Errno::EINVAL,
        FsError::NotPermitted => Errno::EPERM,
        FsError::CrossDevice => Errno::EXDEV,
        FsError::TooLarge => Errno::EFBIG,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::NoAttribute => Errno::ENODATA,
        // getxattr(2) and setxattr(2) name it for both meanings.
        FsError::AttributeTooLarge => Errno::ERANGE,
        FsError::AttributesFull => Errno::ENOSPC,
        FsError::NotSupported => Errno::EOPNOTSUPP,
        // lseek(2): SEEK_DATA beyond the last data, either beyond the end.
        FsError::NoData => Errno::ENXIO,
        FsError::BadHandle => Errno::EBADF,
        FsError::Quota => Errno::EDQUOT,
        FsError::Overdue => Errno::EACCES,
        FsError::ReadOnly(_) => Errno::EROFS,
        FsError::NoRoom => Errno::ENOSPC,
        FsError::Disk(_) => Errno::EIO,
        FsError::Damaged(_) => Errno::EIO,
        FsError::Lost(_) => Errno::EIO,
        FsError::TimedOut => Errno::ETIMEDOUT,
        FsError::Stale => Errno::ESTALE,
        // What the kernel says where no daemon is left.
        FsError::Ended => Errno::ENOTCONN,
        // `miss` fetches instead of answering; what comes here all the same is a defect.
        FsError::NotLocal(_) => DEFECT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{LostBlock, Want};
    use crate::types::Ino;

    fn lost() -> LostBlock {
        LostBlock {
            cid: crate::pack::cid::leaf_cid(b""),
            chunk: None,
            why: "why".to_owned(),
        }
    }

    /// Every variant with the number that the user's guide promises. A variant missing here is
    /// found by the last test.
    fn table() -> Vec<(FsError, Errno)> {
        let why = || "why".to_owned();
        let want = Want::Directory {
            slot: 1,
            dir: Ino::ROOT,
        };
        vec![
            (FsError::NotFound, Errno::ENOENT),
            (FsError::Exists, Errno::EEXIST),
            (FsError::NotDirectory, Errno::ENOTDIR),
            (FsError::IsDirectory, Errno::EISDIR),
            (FsError::NotEmpty, Errno::ENOTEMPTY),
            (FsError::NameTooLong, Errno::ENAMETOOLONG),
            (FsError::Invalid, Errno::EINVAL),
            (FsError::NotPermitted, Errno::EPERM),
            (FsError::CrossDevice, Errno::EXDEV),
            (FsError::TooLarge, Errno::EFBIG),
            (FsError::TooManyLinks, Errno::EMLINK),
            (FsError::NoAttribute, Errno::ENODATA),
            (FsError::AttributeTooLarge, Errno::ERANGE),
            (FsError::AttributesFull, Errno::ENOSPC),
            (FsError::NotSupported, Errno::EOPNOTSUPP),
            (FsError::NoData, Errno::ENXIO),
            (FsError::BadHandle, Errno::EBADF),
            (FsError::Quota, Errno::EDQUOT),
            (FsError::Overdue, Errno::EACCES),
            (FsError::ReadOnly(why()), Errno::EROFS),
            (FsError::NoRoom, Errno::ENOSPC),
            (FsError::Disk(why()), Errno::EIO),
            (FsError::Damaged(why()), Errno::EIO),
            (FsError::Lost(Box::new(lost())), Errno::EIO),
            (FsError::TimedOut, Errno::ETIMEDOUT),
            (FsError::Stale, Errno::ESTALE),
            (FsError::Ended, Errno::ENOTCONN),
            (FsError::NotLocal(Box::new(want)), Errno::EIO),
        ]
    }

    #[test]
    fn a_user_sees_the_documented_number_for_each_error() {
        for (error, number) in table() {
            assert_eq!(of(&error), number, "{error:?}");
        }
    }

    #[test]
    fn full_late_read_only_and_without_room_can_be_told_apart() {
        let told = [
            FsError::Quota,
            FsError::Overdue,
            FsError::ReadOnly(String::new()),
            FsError::NoRoom,
            FsError::NotPermitted,
            FsError::TimedOut,
            FsError::Damaged(String::new()),
            FsError::Stale,
        ]
        .map(|error| of(&error).code());
        let distinct: std::collections::BTreeSet<_> = told.iter().collect();
        assert_eq!(distinct.len(), told.len());
    }

    #[test]
    fn the_tests_know_every_error() {
        let known: std::collections::HashSet<_> = table()
            .iter()
            .map(|(error, _)| std::mem::discriminant(error))
            .collect();
        let source = include_str!("errno.rs");
        let arms = source
            .lines()
            .take_while(|line| !line.contains("cfg(test)"))
            .filter(|line| line.trim_start().starts_with("FsError::"))
            .count();
        assert_eq!(known.len(), arms);
    }
}
