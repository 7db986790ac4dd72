//! The one table from [`FsError`] to the error numbers that callers see.
//!
//! Invariant: no arm is a wildcard, so a new error cannot reach a caller by accident.

use rustix::io::Errno;

use super::FsError;

impl FsError {
    /// What the caller of a failed call sees, without any option.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            FsError::NotFound => Errno::NOENT,
            FsError::Exists => Errno::EXIST,
            FsError::NotDirectory => Errno::NOTDIR,
            FsError::IsDirectory => Errno::ISDIR,
            FsError::NotEmpty => Errno::NOTEMPTY,
            FsError::NameTooLong => Errno::NAMETOOLONG,
            FsError::Invalid => Errno::INVAL,
            FsError::NotPermitted => Errno::PERM,
            FsError::CrossDevice => Errno::XDEV,
            FsError::TooLarge => Errno::FBIG,
            FsError::TooManyLinks => Errno::MLINK,
            FsError::NoAttribute => Errno::NODATA,
            // getxattr(2) and setxattr(2) name it for both meanings.
            FsError::AttributeTooLarge => Errno::RANGE,
            FsError::AttributesFull => Errno::NOSPC,
            FsError::NotSupported => Errno::OPNOTSUPP,
            // lseek(2): SEEK_DATA beyond the last data, either beyond the end.
            FsError::NoData => Errno::NXIO,
            FsError::BadHandle => Errno::BADF,
            FsError::Quota => Errno::DQUOT,
            FsError::Overdue => Errno::ACCESS,
            FsError::ReadOnly(_) => Errno::ROFS,
            FsError::NoRoom => Errno::NOSPC,
            FsError::Disk(_) => Errno::IO,
            FsError::Damaged(_) => Errno::IO,
            FsError::Lost(_) => Errno::IO,
            FsError::TimedOut => Errno::TIMEDOUT,
            FsError::Stale => Errno::STALE,
            // What the kernel says where no daemon is left.
            FsError::Ended => Errno::NOTCONN,
            // `miss` fetches instead of answering; what comes here all the same is a defect.
            FsError::NotLocal(_) => Errno::IO,
        }
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
            (FsError::NotFound, Errno::NOENT),
            (FsError::Exists, Errno::EXIST),
            (FsError::NotDirectory, Errno::NOTDIR),
            (FsError::IsDirectory, Errno::ISDIR),
            (FsError::NotEmpty, Errno::NOTEMPTY),
            (FsError::NameTooLong, Errno::NAMETOOLONG),
            (FsError::Invalid, Errno::INVAL),
            (FsError::NotPermitted, Errno::PERM),
            (FsError::CrossDevice, Errno::XDEV),
            (FsError::TooLarge, Errno::FBIG),
            (FsError::TooManyLinks, Errno::MLINK),
            (FsError::NoAttribute, Errno::NODATA),
            (FsError::AttributeTooLarge, Errno::RANGE),
            (FsError::AttributesFull, Errno::NOSPC),
            (FsError::NotSupported, Errno::OPNOTSUPP),
            (FsError::NoData, Errno::NXIO),
            (FsError::BadHandle, Errno::BADF),
            (FsError::Quota, Errno::DQUOT),
            (FsError::Overdue, Errno::ACCESS),
            (FsError::ReadOnly(why()), Errno::ROFS),
            (FsError::NoRoom, Errno::NOSPC),
            (FsError::Disk(why()), Errno::IO),
            (FsError::Damaged(why()), Errno::IO),
            (FsError::Lost(Box::new(lost())), Errno::IO),
            (FsError::TimedOut, Errno::TIMEDOUT),
            (FsError::Stale, Errno::STALE),
            (FsError::Ended, Errno::NOTCONN),
            (FsError::NotLocal(Box::new(want)), Errno::IO),
        ]
    }

    #[test]
    fn a_user_sees_the_documented_number_for_each_error() {
        for (error, number) in table() {
            assert_eq!(error.errno(), number, "{error:?}");
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
        .map(|error| error.errno());
        let distinct: std::collections::HashSet<_> = told.iter().collect();
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
