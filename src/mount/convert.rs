//! Between what the drive says and what the kernel speaks: attributes, kinds, times, modes.
//!
//! Invariant: pure functions; what goes to the kernel and comes back is the same.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use super::Options;
use crate::fs::{Attr, DirItem, Kind, SetAttr};
use crate::types::Ino;

/// How long the kernel may believe an entry or an attribute: only this daemon changes them, and it
/// says so when it does.
const TTL: Duration = Duration::from_secs(3600);

/// The same for what the chain changes: the tokens in the mount root, and the state of each.
const ROOT_TTL: Duration = Duration::from_secs(1);

/// What is shown in place of what is stored (`-o uid=,gid=,umask=`).
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

    /// Whether anybody may run it, or pass through it: as what is shown says, and no user passes over.
    pub(super) fn can_be_run(&self, attr: &Attr) -> bool {
        attr.kind == Kind::Directory || self.file_attr(attr).perm & 0o111 != 0
    }

    /// `attr` as the kernel gets it. `rdev` is Linux's own 32-bit encoding in both.
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

/// The attributes of an entry that has none (`.` and `..`): readdirplus needs number and kind, and
/// the kernel looks at nothing else of these two.
pub(super) fn bare_attr(item: &DirItem) -> FileAttr {
    numbered(item.ino, item.kind)
}

/// The attributes of an entry that is not there: the kernel looks at the number alone, which is 0.
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

/// How long an entry of `parent` may be believed, or that there is none; not at all where it `stays` not.
pub(super) fn entry_ttl(parent: Ino, stays: bool) -> Duration {
    match parent {
        _ if !stays => Duration::ZERO,
        Ino::ROOT => ROOT_TTL,
        // The directories of the trash, which have entries of several volumes.
        _ if parent.0 <= Ino::MAX.0 => Duration::ZERO,
        _ => TTL,
    }
}

const SET_ID: u16 = 0o6000;

const O_APPEND: i32 = 0o2000;

/// Whether a descriptor with these flags appends, as far as the single call does not say otherwise.
pub(super) fn appends(flags: i32) -> bool {
    flags & O_APPEND != 0
}

/// How long attributes may be believed.
///
/// The root of a volume has number 1 in it, below the 16 bits of its slot. Set-id bits go with somebody's
/// write, which the kernel does not see: such attributes are asked for each time.
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

/// A number that other inodes of the same number do not have: that of the moment in which it was made. A token's directory
/// is the same, whatever volume is shown there.
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

/// What `mknod(2)` is to make; `None` for what it cannot.
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

/// Every time that the drive can hold is one that the kernel understands.
pub(super) fn system_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns >= 0 {
        UNIX_EPOCH + distance
    } else {
        UNIX_EPOCH - distance
    }
}

/// Nanoseconds of a time that came from the kernel, saturating (years 1677 to 2262).
///
/// fuser 0.18 reads seconds and nanoseconds before the epoch as *minus (seconds plus
/// nanoseconds)*, where the kernel means minus seconds, plus nanoseconds; that is undone here.
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

/// Whether a change of content by the user `by` takes set-id bits, where the call does not say so: it
/// does for whoever lacks `CAP_FSETID`, of which the uid is the best witness here.
pub(super) fn kills_set_id(by: u32) -> bool {
    by != 0
}

/// What the user `by` is shown of a list of extended attributes, each with a NUL behind it: `trusted` ones are root's.
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
    /// `by` is the caller's uid. fuser does not hand `FATTR_KILL_SUIDGID` on; this is the rule by
    /// which the kernel sets it (`fuse_do_setattr`): a change of owner takes the set-id bits, and a
    /// truncation as [`kills_set_id`] says. A mode given in the same call is what the caller wants. Nothing at all is
    /// what comes of a `chown` that changes neither owner nor group, which takes the bits as any; and it comes before the
    /// write of somebody without the privilege, who need not be the owner: the write itself takes them then. So it takes
    /// them for root and the owner alone, who is `shown` to be that or is it.
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
