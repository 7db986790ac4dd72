//! Plain values of the file-system interface: attributes and who asks.

use crate::types::Ino;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A FIFO.
    Fifo = 4,
    /// A socket.
    Socket = 5,
    /// A character device.
    CharDevice = 6,
    /// A block device.
    BlockDevice = 7,
}

/// The attributes of one inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number (as the volume, or in results of `Drive`, as the mount numbers it).
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Length in bytes.
    pub size: u64,
    /// Allocated 512-byte units.
    pub blocks: u64,
    /// Permission bits with set-id and sticky bits (`& 0o7777`).
    pub mode: u16,
    /// Number of links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// Access time, ns since the epoch: this machine's (see `docs/semantics.md`).
    pub atime_ns: i64,
    /// Time of the last change of content.
    pub mtime_ns: i64,
    /// Time of the last change of the inode.
    pub ctime_ns: i64,
    /// Time of creation.
    pub birth_ns: i64,
}

/// What `setattr` is to change; `None` leaves a field as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// New permission bits (`& 0o7777`).
    pub mode: Option<u16>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New length.
    pub size: Option<u64>,
    /// New access time, ns.
    pub atime_ns: Option<i64>,
    /// New modification time, ns.
    pub mtime_ns: Option<i64>,
    /// Whether set-id bits must be cleared with this change (`FATTR_KILL_SUIDGID`).
    pub kill_set_id: bool,
    /// Who asks for it, where only the owner may: nothing changes where bits would go and it is somebody else.
    pub only_by_owner: Option<u32>,
}

impl SetAttr {
    /// Whether it sets a mode, an owner or a time.
    pub(super) fn sets_attributes(&self) -> bool {
        (self.mode, self.uid, self.gid) != (None, None, None)
            || (self.mtime_ns, self.atime_ns) != (None, None)
    }
}

/// Who makes a call: what new inodes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Permission bits that are not given to what it makes, where no default ACL says what is.
    pub umask: u16,
}

/// One entry as `readdir` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirItem {
    /// Serial number of the entry: pass it to go on behind it.
    pub cookie: u64,
    /// Inode number.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Name.
    pub name: Vec<u8>,
}

/// What `statfs` tells, in units of 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// The quota.
    pub blocks: u64,
    /// What is not used.
    pub free: u64,
    /// What of it ordinary writes may take: not the reserve.
    pub available: u64,
    /// Inodes in use and free.
    pub files: u64,
    /// Inodes that ordinary writes may still make.
    pub files_free: u64,
}
