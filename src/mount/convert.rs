//! Converts attributes, kinds, times and modes between the drive and the kernel.
//!
//! Invariant: pure functions; a round trip changes nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use super::Options;
use crate::fs::{Attr, DirItem, Kind, SetAttr};
use crate::types::Ino;

/// How long the kernel may believe an entry or attribute: only this daemon changes them, and it
/// notifies the kernel.
const TTL: Duration = Duration::from_secs(3600);

/// The same for what the chain changes: the tokens in the mount root, and their states.
const ROOT_TTL: Duration = Duration::from_secs(1);

/// What to show instead of what is stored (`-o uid=,gid=,umask=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Presentation {
    uid: Option<u32>,
    gid: Option<u32>,
    umask: Option<u16>,
}

impl Presentation {
    pub(super) fn of(options: &Options) -> Self {
        Self {
            uid: options.uid,
            gid: options.gid,
            umask: options.umask,
        }
    }

    /// Whether somebody may run it, or pass through it, by the shown mode.
    pub(super) fn can_be_run(&self, attr: &Attr) -> bool {
        attr.kind == Kind::Directory || self.file_attr(attr).perm & 0o111 != 0
    }

    /// `rdev` is Linux's 32-bit encoding in both.
    pub(super) fn file_attr(&self, attr: &Attr) -> FileAttr {
        let mode = match self.umask {
            Some(umask) => 0o777 & !umask,
            None => attr.mode & 0o7777,
        };
        FileAttr {
            ino: INodeNo(attr.ino.0),
            size: attr.size,
            blocks: attr.blocks,
            atime: system_time(attr.atime_ns),
            mtime: system_time(attr.mtime_ns),
            ctime: system_time(attr.ctime_ns),
            crtime: system_time(attr.birth_ns),
            kind: file_type(attr.kind),
            perm: mode,
            nlink: attr.nlink,
            uid: self.uid.unwrap_or(attr.uid),
            gid: self.gid.unwrap_or(attr.gid),
            rdev: attr.rdev,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// For `.` and `..`, of which readdirplus needs only number and kind.
pub(super) fn bare_attr(item: &DirItem) -> FileAttr {
    numbered(item.ino, item.kind)
}

/// For an absent entry: the kernel looks only at the number, 0.
pub(super) fn no_attr() -> FileAttr {
    numbered(Ino(0), Kind::File)
}

fn numbered(ino: Ino, kind: Kind) -> FileAttr {
    Presentation::default().file_attr(&Attr {
        ino,
        kind,
        size: 0,
        blocks: 0,
        mode: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        atime_ns: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        birth_ns: 0,
    })
}

/// How long to believe an entry of `parent`, or its absence; zero unless it `stays`.
pub(super) fn entry_ttl(parent: Ino, stays: bool) -> Duration {
    match parent {
        _ if !stays => Duration::ZERO,
        Ino::ROOT => ROOT_TTL,
        // Directories of the trash, whose entries come from several volumes.
        _ if parent.0 <= Ino::MAX.0 => Duration::ZERO,
        _ => TTL,
    }
}

const SET_ID: u16 = 0o6000;

const O_APPEND: i32 = 0o2000;

/// Whether a descriptor with these flags appends, unless the call says otherwise.
pub(super) fn appends(flags: i32) -> bool {
    flags & O_APPEND != 0
}

/// How long to believe attributes.
///
/// A volume's root has number 1, below the 16 bits of its slot. A write clears set-id bits without
/// the kernel's knowledge, so such attributes are never cached.
pub(super) fn attr_ttl(attr: &Attr) -> Duration {
    if attr.mode & SET_ID != 0 {
        Duration::ZERO
    } else if is_root(attr) {
        ROOT_TTL
    } else {
        TTL
    }
}

fn is_root(attr: &Attr) -> bool {
    attr.ino.0 & Ino::MAX.0 == Ino::ROOT.0
}

/// Tells inodes of one number apart: by birth time. A token's directory stays the same, whatever
/// volume it shows.
pub(super) fn generation(attr: &Attr) -> u32 {
    let [high, low] = [attr.birth_ns >> 32, attr.birth_ns].map(|half| half as u32);
    if is_root(attr) { 0 } else { high ^ low }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// `None` for what `mknod(2)` cannot make.
pub(super) fn node_kind(mode: u32) -> Option<Kind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(Kind::File),
        libc::S_IFIFO => Some(Kind::Fifo),
        libc::S_IFSOCK => Some(Kind::Socket),
        libc::S_IFCHR => Some(Kind::CharDevice),
        libc::S_IFBLK => Some(Kind::BlockDevice),
        _ => None,
    }
}

/// The permission bits of a mode, or of a umask.
pub(super) fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or(0)
}

/// Every time that the drive can hold is valid for the kernel.
pub(super) fn system_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns >= 0 {
        UNIX_EPOCH + distance
    } else {
        UNIX_EPOCH - distance
    }
}

/// Nanoseconds of a time from the kernel, saturating (years 1677 to 2262).
///
/// fuser 0.18 reads a time before the epoch as *minus (seconds plus nanoseconds)*; the kernel means
/// minus seconds, plus nanoseconds. This undoes it.
pub(super) fn kernel_ns(time: SystemTime) -> i64 {
    let (seconds, nanoseconds) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (i128::from(after.as_secs()), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            (-i128::from(before.as_secs()), before.subsec_nanos())
        }
    };
    let ns = seconds * 1_000_000_000 + i128::from(nanoseconds);
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

/// Whether a change of content by the user `by` clears set-id bits if the call does not say: it
/// does unless the caller has `CAP_FSETID`, which the uid stands for here.
pub(super) fn kills_set_id(by: u32) -> bool {
    by != 0
}

/// The NUL-terminated attribute names that the user `by` may see: `trusted` ones are root's.
pub(super) fn shown_attributes(mut names: Vec<u8>, by: u32) -> Vec<u8> {
    if by != 0 {
        let shown = names
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| !name.starts_with(b"trusted."));
        names = shown.flatten().copied().collect();
    }
    names
}

pub(super) struct Change {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) atime: Option<TimeOrNow>,
    pub(super) mtime: Option<TimeOrNow>,
}

impl Change {
    /// `by` is the caller's uid. fuser does not pass `FATTR_KILL_SUIDGID` on, so this follows the
    /// kernel's rule for it (`fuse_do_setattr`): a change of owner clears the set-id bits, a
    /// truncation does as [`kills_set_id`] says, and a mode in the same call wins. An empty request
    /// has two causes: a `chown` that changes nothing, which clears the bits, and the write of an
    /// unprivileged user, which clears them itself. So an empty request clears them only for root
    /// and the owner, stored or `shown`.
    pub(super) fn to_set_attr(&self, by: u32, shown: Presentation, now_ns: i64) -> SetAttr {
        let at = |time: TimeOrNow| match time {
            TimeOrNow::SpecificTime(time) => kernel_ns(time),
            TimeOrNow::Now => now_ns,
        };
        let owner = self.uid.is_some() || self.gid.is_some();
        let times = self.atime.is_some() || self.mtime.is_some();
        let nothing = !owner && !times && self.size.is_none();
        let cut = self.size.is_some() && kills_set_id(by);
        let may = by == 0 || shown.uid == Some(by);
        SetAttr {
            mode: self.mode.map(permissions),
            uid: self.uid,
            gid: self.gid,
            size: self.size,
            atime_ns: self.atime.map(at),
            mtime_ns: self.mtime.map(at),
            kill_set_id: self.mode.is_none() && (owner || cut || nothing),
            only_by_owner: (nothing && self.mode.is_none() && !may).then_some(by),
        }
    }
}

#[cfg(test)]
#[path = "convert/tests.rs"]
mod tests;
