//! The calls, their answers, and the border that the systems under test implement.

use std::ops::RangeInclusive;

use rustix::io::Errno;

/// Files that can be open at once. One more slot is the checker's own.
pub(crate) const FILES: usize = 4;
/// Directories that can be open at once. One more slot is the checker's own.
pub(crate) const SCANS: usize = 2;

/// The names that there are; the last one is too long.
pub(crate) const NAMES: [&[u8]; 8] = [
    b"a",
    b"b",
    b"c",
    b"d",
    b"new\nline \\",
    b"\xff\xfe",
    &[b'n'; 255],
    &[b'o'; 256],
];

/// The extended attributes that there are. `user.px.` is nobody's to set, `system.` is not kept.
pub(crate) const XATTRS: [&str; 5] = ["user.a", "user.b", "trusted.t", "user.px.x", "system.x"];

/// Where something lies: numbers of [`NAMES`] below the directory of the sequence.
pub(crate) type Place = Vec<u8>;

/// What an open file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Both,
}

/// How a file is opened, besides what for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct How {
    pub create: bool,
    /// Counts only with `create`.
    pub exclusive: bool,
    pub truncate: bool,
    pub append: bool,
    /// Past the kernel's pages, where there are any.
    pub direct: bool,
    /// Each write is durable when it returns.
    pub durable: bool,
}

/// What `mknod` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    File,
    Fifo,
    Socket,
    /// Device 1, 3.
    CharDevice,
    /// Device 1, 3.
    BlockDevice,
}

/// What `fallocate` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allocation {
    /// Takes room, the file growing with it.
    Grow,
    /// Takes room, which is kept behind the file's end.
    Keep,
    /// As [`Allocation::Grow`], and makes it zeros.
    Zero,
    /// As [`Allocation::Keep`], and makes it zeros.
    ZeroKeep,
    /// Gives room back.
    Punch,
}

impl Allocation {
    /// As fallocate(2) has it.
    pub(crate) fn mode(self) -> i32 {
        match self {
            Self::Grow => 0,
            Self::Keep => 1,
            Self::Zero => 0x10,
            Self::ZeroKeep => 0x11,
            Self::Punch => 3,
        }
    }
}

/// `flags` of setxattr(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum XattrMode {
    Any,
    Create,
    Replace,
}

/// What happens to the system between calls. None of it changes what is there; a restart or a move closes
/// what is open. A system makes of each what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// All is made durable on this machine.
    Save,
    /// A commit begins: it publishes what is there now.
    Cut,
    /// The commit that has begun is done.
    Settle,
    /// The commit that has begun is given up.
    GiveUp,
    /// What can be fetched again is not at hand any more.
    Evict,
    /// The daemon ends in order and starts again.
    Restart,
    /// As a restart on another machine: nothing is here but what was published.
    Move,
}

/// One call. A file or directory slot that is taken is closed when it is opened anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Open {
        at: usize,
        path: Place,
        access: Access,
        how: How,
    },
    Close(usize),
    Read {
        at: usize,
        offset: u64,
        len: u32,
    },
    Write {
        at: usize,
        offset: u64,
        len: u32,
        text: u8,
    },
    Resize {
        at: usize,
        size: u64,
    },
    Allocate {
        at: usize,
        offset: u64,
        len: u64,
        how: Allocation,
    },
    Seek {
        at: usize,
        offset: u64,
        hole: bool,
    },
    /// Copies from one open file at an offset to another, or to itself, as often as it takes.
    Copy {
        from: (usize, u64),
        to: (usize, u64),
        len: u64,
    },
    Sync(usize),
    StatOpen(usize),
    Truncate(Place, u64),
    Stat(Place),
    Chmod(Place, u16),
    Chown(Place, u32, u32),
    /// Access and modification time, ns.
    Touch(Place, Option<i64>, Option<i64>),
    Mkdir(Place),
    Rmdir(Place),
    Unlink(Place),
    Link(Place, Place),
    /// With the length of the target.
    Symlink(Place, u16),
    Readlink(Place),
    Mknod(Place, Special),
    /// `flags` as renameat2(2).
    Rename(Place, Place, u32),
    /// Number of the name, length and text of the value.
    SetXattr(Place, usize, u32, u8, XattrMode),
    GetXattr(Place, usize),
    RemoveXattr(Place, usize),
    ListXattrs(Place),
    OpenDir {
        at: usize,
        path: Place,
    },
    /// Some of the entries behind the last one; about so many.
    ReadDir {
        at: usize,
        about: usize,
    },
    /// Remembers how far a directory was read.
    Mark(usize),
    /// Goes back to what was remembered, else to the beginning.
    Back(usize),
    CloseDir(usize),
    Event(Event),
}

impl Call {
    /// The paths that it walks.
    pub(super) fn paths(&self) -> Vec<&Place> {
        match self {
            Self::Open { path, .. } | Self::OpenDir { path, .. } => vec![path],
            Self::Truncate(path, _)
            | Self::Stat(path)
            | Self::Chmod(path, _)
            | Self::Chown(path, ..)
            | Self::Touch(path, ..)
            | Self::Mkdir(path)
            | Self::Rmdir(path)
            | Self::Unlink(path)
            | Self::Symlink(path, _)
            | Self::Readlink(path)
            | Self::Mknod(path, _)
            | Self::SetXattr(path, ..)
            | Self::GetXattr(path, _)
            | Self::RemoveXattr(path, _)
            | Self::ListXattrs(path) => vec![path],
            Self::Link(from, to) | Self::Rename(from, to, _) => vec![from, to],
            Self::Close(_)
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::Resize { .. }
            | Self::Allocate { .. }
            | Self::Seek { .. }
            | Self::Copy { .. }
            | Self::Sync(_)
            | Self::StatOpen(_)
            | Self::ReadDir { .. }
            | Self::Mark(_)
            | Self::Back(_)
            | Self::CloseDir(_)
            | Self::Event(_) => Vec::new(),
        }
    }
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    Symlink,
    Special(Special),
}

/// Attributes as a system tells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attr {
    pub ino: u64,
    pub kind: Kind,
    pub size: u64,
    /// Of 512 bytes.
    pub blocks: u64,
    pub mode: u16,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub atime_ns: i64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
}

/// An entry as a system lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub name: Vec<u8>,
    pub ino: u64,
}

/// What a call that did not fail answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Done,
    Count(u64),
    Bytes(Vec<u8>),
    Attr(Attr),
    Offset(u64),
    /// Sorted.
    Names(Vec<Vec<u8>>),
    /// Without `.` and `..`; none at all: the end is reached.
    Items(Vec<Item>),
}

/// A file system under test. Where the kernel refuses a call before the file system sees it, an
/// implementation below the kernel does so too.
pub(crate) trait System: Sized + 'static {
    /// Events with their weights, among calls that weigh 1000 together.
    const EVENTS: &'static [(u32, Event)];
    /// Quotas in bytes that a sequence may have.
    const QUOTAS: &'static [u64];
    /// No file is made longer, in bytes.
    const LONGEST: u64;
    /// Reading moves access times, as `relatime` has it.
    const MOVES_ATIMES: bool;
    /// An empty directory in an otherwise empty volume.
    fn fresh(quota: u64) -> Self;
    /// Bytes that growth may take in that directory, where the quota is `quota`.
    fn room(quota: u64) -> u64;
    /// Bytes beyond them that small new files may take.
    fn small_room(quota: u64) -> u64;
    /// Makes a call.
    fn call(&mut self, call: &Call) -> Result<Reply, Errno>;
    /// Bytes of the quota that are used, as exactly as the system tells.
    fn used(&mut self) -> RangeInclusive<u64>;
    /// The time that is given to what changes now, ns.
    fn now_ns(&self) -> i64;
}

/// A target of `len` bytes that leads nowhere: `~` is no name of ours.
pub(crate) fn symlink_target(len: u16) -> Vec<u8> {
    b"~/"
        .iter()
        .copied()
        .cycle()
        .take(usize::from(len))
        .collect()
}
