//! A local disk that fails when a test wants it to: a FUSE file system of the test's own process, which passes each call
//! on to a folder, or refuses it.
//!
//! Invariant: it has threads of its own and keeps nothing back (no page cache, no write-back), so neither the daemon above
//! it nor the test waits for itself. Whoever mounts it ends the daemon first, then drops the [`Disk`].

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirEntryExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenAccMode, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{self as sys, AtFlags, CWD, FallocateFlags, Mode, OFlags, Stat, Timespec};
use rustix::mount::UnmountFlags;
use tempfile::TempDir;

/// The kernel believes nothing.
const TTL: Duration = Duration::ZERO;
const FIRST: Generation = Generation(0);
/// Threads that serve it.
const THREADS: usize = 4;

/// What the disk does from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// All that it is asked.
    Well,
    /// All but the next sync, which fails so.
    FailsOneSync(rustix::io::Errno),
    /// No sync: `EIO`.
    FailsSyncs,
    /// Nothing that changes, and no sync: `EIO`.
    Broken,
    /// The same: `EROFS`.
    ReadOnly,
    /// No write and no new file: `ENOSPC`. It says that it is full.
    Full,
    /// The same, and it says that it has room.
    FullUnsaid,
}

/// What a call wants of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// To open a file for writing.
    Open,
    /// Room.
    Room,
    /// A change without room.
    Change,
    /// To have it durable.
    Sync,
}

struct State {
    health: Health,
    struck: u64,
}

/// The disk, mounted.
pub(crate) struct Disk {
    mountpoint: PathBuf,
    state: Arc<Mutex<State>>,
    _session: BackgroundSession,
    _folder: TempDir,
}

impl Disk {
    /// A new disk, empty and well, mounted on `mountpoint`.
    pub(crate) fn mount(mountpoint: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("px-disk-").tempdir();
        let folder = folder.expect("a folder");
        let state = Arc::new(Mutex::new(State {
            health: Health::Well,
            struck: 0,
        }));
        let below = Below::new(folder.path(), Arc::clone(&state)).expect("the folder can be had");
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("pxfs-test".to_owned())];
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
        let session = fuser::spawn_mount(below, mountpoint, &config).expect("a disk of our own");
        Self {
            mountpoint: mountpoint.to_owned(),
            state,
            _session: session,
            _folder: folder,
        }
    }

    /// What it does from now on.
    pub(crate) fn set(&self, health: Health) {
        lock(&self.state).health = health;
    }

    /// How many calls it has refused.
    pub(crate) fn struck(&self) -> u64 {
        lock(&self.state).struck
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a program that another test starts at this moment may hold it.
        let _ = rustix::mount::unmount(&self.mountpoint, UnmountFlags::DETACH);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Refuses what the disk does not do now.
    fn ask(&mut self, want: Want) -> Result<(), Errno> {
        let errno = match (self.health, want) {
            (Health::FailsOneSync(errno), Want::Sync) => {
                self.health = Health::Well;
                self::errno(errno)
            }
            (Health::FailsSyncs, Want::Sync) => Errno::EIO,
            (Health::Broken, Want::Room | Want::Change | Want::Sync) => Errno::EIO,
            (Health::ReadOnly, _) => Errno::EROFS,
            (Health::Full | Health::FullUnsaid, Want::Room) => Errno::ENOSPC,
            _ => return Ok(()),
        };
        self.struck += 1;
        Err(errno)
    }
}

fn errno(errno: rustix::io::Errno) -> Errno {
    Errno::from_i32(errno.raw_os_error())
}

/// An inode that the kernel knows, and how often it was told of it.
struct Node {
    fd: Arc<OwnedFd>,
    told: u64,
}

/// An entry of a directory.
type Entry = (u64, FileType, OsString);

/// The file system: inodes have the numbers that they have in the folder, but for its root.
struct Below {
    state: Arc<Mutex<State>>,
    nodes: Mutex<HashMap<u64, Node>>,
    files: Mutex<HashMap<u64, Arc<File>>>,
    lists: Mutex<HashMap<u64, Arc<Vec<Entry>>>>,
    handles: AtomicU64,
}

impl Below {
    fn new(folder: &Path, state: Arc<Mutex<State>>) -> io::Result<Self> {
        let root = sys::open(folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let root = Node {
            fd: Arc::new(root),
            told: u64::MAX / 2,
        };
        Ok(Self {
            state,
            nodes: Mutex::new(HashMap::from([(INodeNo::ROOT.0, root)])),
            files: Mutex::default(),
            lists: Mutex::default(),
            handles: AtomicU64::new(1),
        })
    }

    fn ask(&self, want: Want) -> Result<(), Errno> {
        lock(&self.state).ask(want)
    }

    fn node(&self, ino: INodeNo) -> Result<Arc<OwnedFd>, Errno> {
        let nodes = lock(&self.nodes);
        let node = nodes.get(&ino.0).ok_or(Errno::ESTALE)?;
        Ok(Arc::clone(&node.fd))
    }

    fn file(&self, handle: FileHandle) -> Result<Arc<File>, Errno> {
        let files = lock(&self.files);
        files.get(&handle.0).cloned().ok_or(Errno::EBADF)
    }

    fn handle(&self) -> u64 {
        self.handles.fetch_add(1, Ordering::Relaxed)
    }

    fn keep(&self, file: File) -> FileHandle {
        let handle = self.handle();
        lock(&self.files).insert(handle, Arc::new(file));
        FileHandle(handle)
    }

    /// The entry `name` of `parent`, which the kernel is told of.
    fn enter(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = sys::openat(&*self.node(parent)?, name, flags, Mode::empty());
        let fd = opened.map_err(errno)?;
        let stat = sys::fstat(&fd).map_err(errno)?;
        let mut nodes = lock(&self.nodes);
        let node = nodes.entry(stat.st_ino).or_insert_with(|| Node {
            fd: Arc::new(fd),
            told: 0,
        });
        node.told += 1;
        Ok(attr(INodeNo(stat.st_ino), &stat))
    }

    fn look(&self, ino: INodeNo) -> Result<FileAttr, Errno> {
        let stat = sys::fstat(&*self.node(ino)?).map_err(errno)?;
        Ok(attr(ino, &stat))
    }

    /// Opens an inode anew, also one without a name.
    fn reopen(&self, ino: INodeNo, writes: bool) -> Result<File, Errno> {
        let path = way(&*self.node(ino)?);
        let opened = File::options().read(true).write(writes).open(path);
        opened.map_err(Errno::from)
    }

    fn create_in(
        &self,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
    ) -> Result<(FileAttr, FileHandle), Errno> {
        self.ask(Want::Room)?;
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = sys::openat(&*self.node(parent)?, name, flags, Mode::from(mode));
        let file = File::from(made.map_err(errno)?);
        Ok((self.enter(parent, name)?, self.keep(file)))
    }

    fn list(&self, ino: INodeNo) -> Result<Vec<Entry>, Errno> {
        let entries = fs::read_dir(way(&*self.node(ino)?))?;
        let own = [".", ".."].map(|name| (ino.0, FileType::Directory, name.into()));
        let entries = entries.map(|entry| {
            let entry = entry?;
            let kind = FileType::from_std(entry.file_type()?).unwrap_or(FileType::RegularFile);
            Ok((entry.ino(), kind, entry.file_name()))
        });
        own.into_iter().map(Ok).chain(entries).collect()
    }

    fn set(
        &self,
        ino: INodeNo,
        mode: Option<u32>,
        size: Option<u64>,
        times: [Option<TimeOrNow>; 2],
    ) -> Result<FileAttr, Errno> {
        self.ask(Want::Change)?;
        let path = way(&*self.node(ino)?);
        if let Some(mode) = mode {
            sys::chmod(&path, Mode::from(mode)).map_err(errno)?;
        }
        if let Some(size) = size {
            self.reopen(ino, true)?.set_len(size)?;
        }
        if times.iter().any(Option::is_some) {
            let [last_access, last_modification] = times.map(timespec);
            let times = sys::Timestamps {
                last_access,
                last_modification,
            };
            sys::utimensat(CWD, &path, &times, AtFlags::empty()).map_err(errno)?;
        }
        self.look(ino)
    }
}

/// A path that opens what a descriptor stands for.
fn way(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn timespec(time: Option<TimeOrNow>) -> Timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, sys::UTIME_OMIT),
        Some(TimeOrNow::Now) => (0, sys::UTIME_NOW),
        Some(TimeOrNow::SpecificTime(time)) => {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            (since.as_secs() as i64, since.subsec_nanos().into())
        }
    };
    Timespec { tv_sec, tv_nsec }
}

fn attr(ino: INodeNo, stat: &Stat) -> FileAttr {
    let time = |seconds: i64, nanos: u64| {
        UNIX_EPOCH + Duration::new(seconds.max(0) as u64, nanos.min(999_999_999) as u32)
    };
    let kind = match sys::FileType::from_raw_mode(stat.st_mode) {
        sys::FileType::Directory => FileType::Directory,
        sys::FileType::Symlink => FileType::Symlink,
        sys::FileType::Socket => FileType::Socket,
        sys::FileType::Fifo => FileType::NamedPipe,
        _ => FileType::RegularFile,
    };
    FileAttr {
        ino,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind,
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn tell_entry(reply: ReplyEntry, entered: Result<FileAttr, Errno>) {
    match entered {
        Ok(attr) => reply.entry(&TTL, &attr, FIRST),
        Err(errno) => reply.error(errno),
    }
}

fn tell_attr(reply: ReplyAttr, looked: Result<FileAttr, Errno>) {
    match looked {
        Ok(attr) => reply.attr(&TTL, &attr),
        Err(errno) => reply.error(errno),
    }
}

fn tell(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Below {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        tell_entry(reply, self.enter(parent, name));
    }

    fn forget(&self, _: &Request, ino: INodeNo, told: u64) {
        let mut nodes = lock(&self.nodes);
        if let Some(node) = nodes.get_mut(&ino.0) {
            node.told = node.told.saturating_sub(told);
            if node.told == 0 {
                nodes.remove(&ino.0);
            }
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        tell_attr(reply, self.look(ino));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // Nobody changes owners in a state folder.
        if uid.is_some() || gid.is_some() {
            return reply.error(Errno::EOPNOTSUPP);
        }
        tell_attr(reply, self.set(ino, mode, size, [atime, mtime]));
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self.ask(Want::Room).and_then(|()| {
            let parent = self.node(parent)?;
            sys::mkdirat(&*parent, name, Mode::from(mode)).map_err(errno)
        });
        tell_entry(reply, made.and_then(|()| self.enter(parent, name)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.ask(Want::Change).and_then(|()| {
            let parent = self.node(parent)?;
            sys::unlinkat(&*parent, name, AtFlags::empty()).map_err(errno)
        });
        tell(reply, removed);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.ask(Want::Change).and_then(|()| {
            let parent = self.node(parent)?;
            sys::unlinkat(&*parent, name, AtFlags::REMOVEDIR).map_err(errno)
        });
        tell(reply, removed);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = self.ask(Want::Change).and_then(|()| {
            let flags = sys::RenameFlags::from_bits_retain(flags.bits());
            let (from, to) = (self.node(parent)?, self.node(to)?);
            sys::renameat_with(&*from, name, &*to, to_name, flags).map_err(errno)
        });
        tell(reply, renamed);
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.ask(Want::Room).and_then(|()| {
            let (node, parent) = (self.node(ino)?, self.node(parent)?);
            let flags = AtFlags::SYMLINK_FOLLOW;
            sys::linkat(CWD, way(&node), &*parent, name, flags).map_err(errno)
        });
        tell_entry(reply, linked.and_then(|()| self.enter(parent, name)));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.create_in(parent, name, mode) {
            Ok((attr, handle)) => {
                reply.created(&TTL, &attr, FIRST, handle, FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writes = flags.acc_mode() != OpenAccMode::O_RDONLY;
        let asked = match writes {
            true => self.ask(Want::Open),
            false => Ok(()),
        };
        match asked.and_then(|()| self.reopen(ino, writes)) {
            Ok(file) => reply.opened(self.keep(file), FopenFlags::FOPEN_DIRECT_IO),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; size as usize];
        let read = self.file(handle).and_then(|file| {
            let mut len = 0;
            while len < bytes.len() {
                match file.read_at(&mut bytes[len..], offset + len as u64)? {
                    0 => break,
                    more => len += more,
                }
            }
            Ok(len)
        });
        match read {
            Ok(len) => reply.data(&bytes[..len]),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.ask(Want::Room).and_then(|()| {
            let file = self.file(handle)?;
            Ok(file.write_all_at(data, offset)?)
        });
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(
        &self,
        _: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.files).remove(&handle.0);
        reply.ok();
    }

    /// The folder is not synced: nobody cuts the power of this machine.
    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _data: bool, reply: ReplyEmpty) {
        tell(reply, self.ask(Want::Sync));
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _data: bool, reply: ReplyEmpty) {
        tell(reply, self.ask(Want::Sync));
    }

    /// What is listed is what was there then: who removes meanwhile misses none of the others.
    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.list(ino) {
            Ok(entries) => {
                let handle = self.handle();
                lock(&self.lists).insert(handle, Arc::new(entries));
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(entries) = lock(&self.lists).get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        for (at, (ino, kind, name)) in (1..).zip(&*entries).skip(offset as usize) {
            if reply.add(INodeNo(*ino), at, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        lock(&self.lists).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let root = self.node(INodeNo::ROOT);
        match root.and_then(|root| sys::fstatvfs(&*root).map_err(errno)) {
            Ok(stat) => {
                let is_full = lock(&self.state).health == Health::Full;
                let free = if is_full { 0 } else { stat.f_bavail };
                let size = stat.f_frsize as u32;
                let (files, free_files) = (stat.f_files, stat.f_ffree);
                reply.statfs(
                    stat.f_blocks,
                    free,
                    free,
                    files,
                    free_files,
                    size,
                    255,
                    size,
                );
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = FallocateFlags::from_bits_retain(mode as u32);
        let want = match mode.contains(FallocateFlags::PUNCH_HOLE) {
            true => Want::Change,
            false => Want::Room,
        };
        let done = self.ask(want).and_then(|()| {
            let file = self.file(handle)?;
            sys::fallocate(&*file, mode, offset, len).map_err(errno)
        });
        tell(reply, done);
    }
}
