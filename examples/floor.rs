//! What FUSE itself costs on this machine: a file system that does nothing but answer, from memory.
//!
//! No journal, no quota, no disk: nothing of what it takes can be saved by a file system that is
//! served through fuser. `benches/compare` measures it as the column "floor".
//!
//!   cargo run --release --example floor -- MOUNTPOINT      (as root; ends when it is unmounted)

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, SessionACL, TimeOrNow, WriteFlags,
};

/// The kernel may believe everything for an hour, as in the mount that this is compared with.
const TTL: Duration = Duration::from_secs(3600);
const FIRST: Generation = Generation(0);
const O_ACCMODE: i32 = 0o3;
const O_WRONLY: i32 = 0o1;

struct Node {
    attr: FileAttr,
    parent: u64,
    entries: BTreeMap<Vec<u8>, u64>,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Tree {
    nodes: HashMap<u64, Node>,
    next: u64,
}

struct Floor(Mutex<Tree>);

fn attr(ino: u64, kind: FileType, mode: u32, req: Option<&Request>) -> FileAttr {
    let now = SystemTime::now();
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: UNIX_EPOCH,
        kind,
        perm: (mode & 0o7777) as u16,
        nlink: 1,
        uid: req.map_or(0, Request::uid),
        gid: req.map_or(0, Request::gid),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Tree {
    fn find(&self, parent: INodeNo, name: &OsStr) -> Option<u64> {
        let node = self.nodes.get(&parent.0)?;
        node.entries.get(name.as_bytes()).copied()
    }

    fn add(&mut self, parent: INodeNo, name: &OsStr, attr: FileAttr, bytes: &[u8]) -> FileAttr {
        self.next += 1;
        let ino = self.next;
        let mut attr = attr;
        attr.ino = INodeNo(ino);
        let node = Node {
            attr,
            parent: parent.0,
            entries: BTreeMap::new(),
            bytes: bytes.to_vec(),
        };
        self.nodes.insert(ino, node);
        self.link(parent, name, ino);
        attr
    }

    fn link(&mut self, parent: INodeNo, name: &OsStr, ino: u64) {
        if let Some(dir) = self.nodes.get_mut(&parent.0) {
            dir.entries.insert(name.as_bytes().to_vec(), ino);
        }
    }

    fn take(&mut self, parent: INodeNo, name: &OsStr) -> Option<u64> {
        let dir = self.nodes.get_mut(&parent.0)?;
        dir.entries.remove(name.as_bytes())
    }

    /// The entries behind `offset`: `.` and `..` first.
    fn list(&self, of: u64, offset: u64) -> Vec<(u64, FileAttr, Vec<u8>)> {
        let Some(dir) = self.nodes.get(&of) else {
            return Vec::new();
        };
        let own = [(of, &b"."[..]), (dir.parent, b"..")];
        let own = own.into_iter().map(|(ino, name)| (ino, name.to_vec()));
        let rest = dir.entries.iter().map(|(name, ino)| (*ino, name.clone()));
        own.chain(rest)
            .zip(1..)
            .skip(offset as usize)
            .filter_map(|((ino, name), at)| Some((at, self.nodes.get(&ino)?.attr, name)))
            .collect()
    }
}

impl Floor {
    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_name(&self, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut tree = self.tree();
        match tree.take(parent, name) {
            Some(ino) => {
                // Good enough for a measurement: nobody reads here what was unlinked.
                tree.nodes.remove(&ino);
                drop(tree);
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }
}

/// Handles that only write go past the page cache, as in the mount that this is compared with.
fn how(flags: i32) -> FopenFlags {
    if flags & O_ACCMODE == O_WRONLY {
        FopenFlags::FOPEN_DIRECT_IO
    } else {
        FopenFlags::FOPEN_KEEP_CACHE
    }
}

impl Filesystem for Floor {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for flag in [
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ] {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let tree = self.tree();
        let found = tree.find(parent, name);
        let found = found.and_then(|ino| tree.nodes.get(&ino)).map(|n| n.attr);
        drop(tree);
        let none = attr(0, FileType::RegularFile, 0, None);
        reply.entry(&TTL, &found.unwrap_or(none), FIRST);
    }

    fn getattr(&self, _req: &Request, of: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let found = self.tree().nodes.get(&of.0).map(|node| node.attr);
        match found {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        of: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut tree = self.tree();
        let Some(node) = tree.nodes.get_mut(&of.0) else {
            return reply.error(Errno::ENOENT);
        };
        if let Some(size) = size {
            node.bytes.resize(size as usize, 0);
            node.attr.size = size;
        }
        if let Some(TimeOrNow::SpecificTime(time)) = mtime {
            node.attr.mtime = time;
        }
        node.attr.perm = mode.map_or(node.attr.perm, |mode| (mode & 0o7777) as u16);
        node.attr.uid = uid.unwrap_or(node.attr.uid);
        node.attr.gid = gid.unwrap_or(node.attr.gid);
        let attr = node.attr;
        drop(tree);
        reply.attr(&TTL, &attr);
    }

    fn readlink(&self, _req: &Request, of: INodeNo, reply: ReplyData) {
        let tree = self.tree();
        reply.data(tree.nodes.get(&of.0).map_or(&[], |node| &node.bytes));
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let new = attr(0, FileType::Directory, mode, Some(req));
        let made = self.tree().add(parent, name, new, &[]);
        reply.entry(&TTL, &made, FIRST);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let mut new = attr(0, FileType::Symlink, 0o777, Some(req));
        let target = target.as_os_str().as_bytes();
        new.size = target.len() as u64;
        let made = self.tree().add(parent, name, new, target);
        reply.entry(&TTL, &made, FIRST);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.drop_name(parent, name, reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.drop_name(parent, name, reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut tree = self.tree();
        match tree.take(parent, name) {
            Some(ino) => {
                tree.link(to, to_name, ino);
                drop(tree);
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn link(&self, _req: &Request, of: INodeNo, to: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut tree = self.tree();
        tree.link(to, name, of.0);
        match tree.nodes.get(&of.0).map(|node| node.attr) {
            Some(attr) => reply.entry(&TTL, &attr, FIRST),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let new = attr(0, FileType::RegularFile, mode, Some(req));
        let made = self.tree().add(parent, name, new, &[]);
        reply.created(&TTL, &made, FIRST, FileHandle(0), how(flags));
    }

    fn open(&self, _req: &Request, _of: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), how(flags.0));
    }

    fn read(
        &self,
        _req: &Request,
        of: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let tree = self.tree();
        let bytes = tree.nodes.get(&of.0).map_or(&[][..], |node| &node.bytes);
        let end = bytes.len().min(offset as usize + size as usize);
        let part = bytes.get(offset as usize..end).unwrap_or_default().to_vec();
        drop(tree);
        reply.data(&part);
    }

    fn write(
        &self,
        _req: &Request,
        of: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut tree = self.tree();
        if let Some(node) = tree.nodes.get_mut(&of.0) {
            let (start, end) = (offset as usize, offset as usize + data.len());
            if node.bytes.len() < end {
                node.bytes.resize(end, 0);
            }
            if let Some(part) = node.bytes.get_mut(start..end) {
                part.copy_from_slice(data);
            }
            node.attr.size = node.bytes.len() as u64;
        }
        drop(tree);
        reply.written(data.len() as u32);
    }

    fn flush(
        &self,
        _req: &Request,
        _of: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(&self, _req: &Request, _of: INodeNo, _fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _of: INodeNo,
        _fh: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn readdir(
        &self,
        _req: &Request,
        of: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        for (at, attr, name) in self.tree().list(of.0, offset) {
            if reply.add(attr.ino, at, attr.kind, OsStr::from_bytes(&name)) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _req: &Request,
        of: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        for (at, attr, name) in self.tree().list(of.0, offset) {
            if reply.add(attr.ino, at, OsStr::from_bytes(&name), &TTL, &attr, FIRST) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _of: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 24, 1 << 23, 1 << 23, 1 << 24, 1 << 23, 4096, 255, 4096);
    }

    fn getxattr(&self, _req: &Request, _of: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }
}

fn main() -> std::io::Result<()> {
    let Some(mountpoint) = std::env::args().nth(1) else {
        return Err(std::io::Error::other("usage: floor MOUNTPOINT"));
    };
    let mut tree = Tree {
        next: 1,
        ..Tree::default()
    };
    let root = Node {
        attr: attr(1, FileType::Directory, 0o755, None),
        parent: 1,
        entries: BTreeMap::new(),
        bytes: Vec::new(),
    };
    tree.nodes.insert(1, root);
    let mut config = Config::default();
    config.acl = SessionACL::Owner;
    config.n_threads = Some(8);
    config.clone_fd = true;
    fuser::mount(Floor(Mutex::new(tree)), mountpoint, &config)
}
