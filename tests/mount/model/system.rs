//! A mount as a system that the model test drives: each call is the one that a program makes.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use pxfs::pack::charge;
use rustix::fs::{
    self as sys, Advice, AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RawDir, RenameFlags,
    SeekFrom, Stat, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

use super::reference::{
    Access, Attr, Call, Event, How, Item, Kind, NAMES, Reply, Special, System, XATTRS, XattrMode,
    pattern, symlink_target,
};
use crate::harness::Machine;

/// The directory of a sequence.
const NAME: &str = "t";
/// The free package, which a demo has.
const QUOTA: u64 = 100 << 20;
/// Slots for open files and directories: more than there are.
const SLOTS: usize = 8;

/// A file beside that directory, which leaves it less room than the package has.
const BALLAST: &str = "ballast";

/// When the daemon commits by itself, and what happens to it between calls.
pub(super) trait Pace: 'static {
    const ARGUMENTS: &'static [&'static str];
    const QUOTAS: &'static [u64] = &[QUOTA];
    /// As drives are mounted that nobody says anything of.
    const MOVES_ATIMES: bool = true;
    /// Commits come beside the calls alone, so they can be counted.
    const COMMITS_BESIDE: bool = false;
    /// With the cache goes what the kernel knows of names, on all of this machine.
    const FORGETS_NAMES: bool = true;
    const EVENTS: &'static [(u32, Event)] = &[
        (5, Event::Save),
        (8, Event::Settle),
        (8, Event::Evict),
        (1, Event::Restart),
        (1, Event::Move),
    ];
}

/// As it does by default: hardly between two calls. Reading moves no access time.
pub(super) struct Calm;

impl Pace for Calm {
    const ARGUMENTS: &'static [&'static str] = &["--take-over", "-o", "noatime"];
    const MOVES_ATIMES: bool = false;
}

/// All the time, and nothing happens that takes long.
pub(super) struct Busy;

impl Pace for Busy {
    const ARGUMENTS: &'static [&'static str] = Restless::ARGUMENTS;
    const COMMITS_BESIDE: bool = true;
    const EVENTS: &'static [(u32, Event)] = &[(5, Event::Save), (8, Event::Evict)];
    const FORGETS_NAMES: bool = false;
}

/// The same, and the quota is soon full.
pub(super) struct Tight;

impl Pace for Tight {
    const ARGUMENTS: &'static [&'static str] = Busy::ARGUMENTS;
    const COMMITS_BESIDE: bool = Busy::COMMITS_BESIDE;
    const EVENTS: &'static [(u32, Event)] = Busy::EVENTS;
    const QUOTAS: &'static [u64] = &[3 << 20, 300_000, 200_000, 125_000];
    const FORGETS_NAMES: bool = Busy::FORGETS_NAMES;
}

/// All the time.
pub(super) struct Restless;

impl Pace for Restless {
    const ARGUMENTS: &'static [&'static str] = &[
        "--take-over",
        "--commit-idle",
        "20ms",
        "--commit-max",
        "100ms",
    ];
}

/// Calls that a small quota has refused.
static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// How many there were.
pub(super) fn refused() -> usize {
    REFUSED.load(Ordering::Relaxed)
}

thread_local! {
    /// The machine that the sequences of this thread share.
    static MACHINE: RefCell<Option<Machine>> = const { RefCell::new(None) };
}

/// Does something with this thread's machine.
fn with_machine<T>(act: impl FnOnce(&mut Machine) -> T) -> T {
    MACHINE.with_borrow_mut(|machine| act(machine.as_mut().expect("a machine")))
}

/// How often this thread's machine has committed.
pub(super) fn commits() -> u64 {
    with_machine(|machine| machine.commits("1"))
}

/// Ends this thread's machine.
pub(super) fn unmount() {
    MACHINE.take();
}

/// An open directory.
struct Scan {
    fd: OwnedFd,
    cookie: u64,
    marked: u64,
}

/// A mount.
pub(super) struct Mount<P> {
    root: PathBuf,
    files: [Option<File>; SLOTS],
    scans: [Option<Scan>; SLOTS],
    /// What is charged for all but what is in the directory of the sequence.
    beside: u64,
    is_tight: bool,
    pace: PhantomData<P>,
}

impl<P: Pace> System for Mount<P> {
    const EVENTS: &'static [(u32, Event)] = P::EVENTS;
    const QUOTAS: &'static [u64] = P::QUOTAS;
    const LONGEST: u64 = 4 << 40;
    const MOVES_ATIMES: bool = P::MOVES_ATIMES;

    fn fresh(quota: u64) -> Self {
        let dir = MACHINE.with_borrow_mut(|machine| {
            let new = || Machine::demo_with(P::ARGUMENTS);
            machine.get_or_insert_with(new).dir()
        });
        for left in fs::read_dir(&dir).expect("listing") {
            let left = left.expect("an entry");
            if left.file_name() != BALLAST {
                fs::remove_dir_all(left.path()).expect("rm -r");
            }
        }
        fill(&dir.join(BALLAST), ballast(quota));
        let root = dir.join(NAME);
        fs::create_dir(&root).expect("mkdir");
        Self {
            root,
            files: Default::default(),
            scans: Default::default(),
            beside: beside(quota),
            is_tight: quota < QUOTA,
            pace: PhantomData,
        }
    }

    fn room(quota: u64) -> u64 {
        QUOTA - (QUOTA / 1000).max(64 << 10) - beside(quota)
    }

    fn small_room(_quota: u64) -> u64 {
        (QUOTA / 1000).max(64 << 10) / 2
    }

    fn call(&mut self, call: &Call) -> Result<Reply, Errno> {
        let reply = self.make(call);
        if self.is_tight && reply == Err(Errno::DQUOT) {
            REFUSED.fetch_add(1, Ordering::Relaxed);
        }
        reply
    }

    fn used(&mut self) -> RangeInclusive<u64> {
        let df = sys::statvfs(&self.root).expect("statfs");
        let most = QUOTA - df.f_bfree * df.f_frsize;
        let least = most.saturating_sub(df.f_frsize - 1);
        // What is never refused may take more than there is: nothing is free then, and nobody is told how much it is.
        let most = if df.f_bfree == 0 { u64::MAX } else { most };
        least.saturating_sub(self.beside)..=most.saturating_sub(self.beside)
    }

    fn now_ns(&self) -> i64 {
        let since = SystemTime::UNIX_EPOCH.elapsed().expect("a clock");
        i64::try_from(since.as_nanos()).expect("a time")
    }
}

impl<P: Pace> Mount<P> {
    fn make(&mut self, call: &Call) -> Result<Reply, Errno> {
        match call {
            Call::Open {
                at,
                path,
                access,
                how,
            } => self.open(*at, path, *access, *how),
            Call::Close(at) => self.files[*at]
                .take()
                .map(|_| Reply::Done)
                .ok_or(Errno::BADF),
            Call::Read { at, offset, len } => self.read(*at, *offset, *len),
            Call::Write {
                at,
                offset,
                len,
                text,
            } => self.write(*at, *offset, *len, *text),
            Call::Resize { at, size } => done(sys::ftruncate(self.file(*at)?, *size)),
            Call::Allocate {
                at,
                offset,
                len,
                how,
            } => {
                let mode = FallocateFlags::from_bits_retain(how.mode() as u32);
                done(sys::fallocate(self.file(*at)?, mode, *offset, *len))
            }
            Call::Copy { from, to, len } => self.copy(*from, *to, *len),
            Call::Seek { at, offset, hole } => {
                let whence = if *hole {
                    SeekFrom::Hole(*offset)
                } else {
                    SeekFrom::Data(*offset)
                };
                Ok(Reply::Offset(sys::seek(self.file(*at)?, whence)?))
            }
            Call::Sync(at) => done(sys::fsync(self.file(*at)?)),
            Call::StatOpen(at) => Ok(told(&sys::fstat(self.file(*at)?)?)),
            Call::OpenDir { at, path } => self.open_dir(*at, path),
            Call::ReadDir { at, about } => self.read_dir(*at, *about),
            Call::Mark(at) => {
                let scan = self.scans[*at].as_mut().ok_or(Errno::BADF)?;
                scan.marked = scan.cookie;
                Ok(Reply::Done)
            }
            Call::Back(at) => {
                let scan = self.scans[*at].as_mut().ok_or(Errno::BADF)?;
                scan.cookie = scan.marked;
                done(sys::seek(&scan.fd, SeekFrom::Start(scan.marked)))
            }
            Call::CloseDir(at) => self.scans[*at]
                .take()
                .map(|_| Reply::Done)
                .ok_or(Errno::BADF),
            Call::Event(event) => {
                self.happen(*event);
                Ok(Reply::Done)
            }
            on_paths => self.call_on_paths(on_paths),
        }
    }
}

/// The length of the ballast that leaves about `quota` bytes of the package.
fn ballast(quota: u64) -> u64 {
    QUOTA - quota
}

/// Gives the ballast that length, and data all over it; there is none without a length.
fn fill(path: &Path, len: u64) {
    if len == 0 {
        let _ = fs::remove_file(path);
        return;
    }
    let mut new = File::options();
    new.write(true).create(true).truncate(false);
    let file = new.open(path).expect("the ballast");
    if size(&file).expect("fstat") > len {
        file.set_len(len).expect("a shorter ballast");
    }
    sys::fallocate(&file, FallocateFlags::empty(), 0, len).expect("room for the ballast");
}

/// What is charged for the volume, the ballast, and the directory of a sequence.
fn beside(quota: u64) -> u64 {
    let file = |len| charge::entry_charge(BALLAST.as_bytes(), 0, 0) + charge::file_charge(len, 0);
    let ballast = Some(ballast(quota)).filter(|len| *len > 0).map_or(0, file);
    let directory = charge::entry_charge(NAME.as_bytes(), 0, 0) + charge::DIRECTORY;
    charge::VOLUME_OVERHEAD + directory + ballast
}

fn done<T>(result: Result<T, Errno>) -> Result<Reply, Errno> {
    result.map(|_| Reply::Done)
}

impl<P: Pace> Mount<P> {
    fn path(&self, path: &[u8]) -> PathBuf {
        let name = |name: &u8| OsStr::from_bytes(NAMES[usize::from(*name)]);
        let mut whole = self.root.clone();
        whole.extend(path.iter().map(name));
        whole
    }

    /// A path that is to have a name of its own.
    fn named(&self, path: &[u8]) -> Result<PathBuf, Errno> {
        match path.is_empty() {
            true => Err(Errno::INVAL),
            false => Ok(self.path(path)),
        }
    }

    fn file(&self, at: usize) -> Result<&File, Errno> {
        self.files[at].as_ref().ok_or(Errno::BADF)
    }

    fn call_on_paths(&mut self, call: &Call) -> Result<Reply, Errno> {
        match call {
            Call::Truncate(path, size) => {
                let path = self.path(path);
                if is_special(&path) {
                    return Err(Errno::INVAL);
                }
                let file = sys::open(&path, OFlags::WRONLY, Mode::empty())?;
                done(sys::ftruncate(file, *size))
            }
            Call::Stat(path) => Ok(told(&sys::lstat(self.path(path))?)),
            Call::Chmod(path, mode) => done(sys::chmod(
                self.path(path),
                Mode::from_raw_mode(u32::from(*mode)),
            )),
            Call::Chown(path, uid, gid) => {
                let uid = Some(sys::Uid::from_raw(*uid));
                let gid = Some(sys::Gid::from_raw(*gid));
                done(sys::chownat(
                    CWD,
                    self.path(path),
                    uid,
                    gid,
                    AtFlags::SYMLINK_NOFOLLOW,
                ))
            }
            Call::Touch(path, None, None) => done(sys::lstat(self.path(path))),
            Call::Touch(path, atime, mtime) => {
                let times = Timestamps {
                    last_access: time(*atime),
                    last_modification: time(*mtime),
                };
                let path = self.path(path);
                done(sys::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW))
            }
            Call::Mkdir(path) => done(sys::mkdir(self.named(path)?, Mode::from_raw_mode(0o755))),
            Call::Rmdir(path) => done(sys::rmdir(self.named(path)?)),
            Call::Unlink(path) => done(sys::unlink(self.named(path)?)),
            Call::Link(from, to) => done(sys::link(self.path(from), self.named(to)?)),
            Call::Symlink(path, len) => {
                let target = symlink_target(*len);
                done(sys::symlink(OsStr::from_bytes(&target), self.named(path)?))
            }
            Call::Readlink(path) => {
                let target = sys::readlink(self.path(path), Vec::new())?;
                Ok(Reply::Bytes(target.into_bytes()))
            }
            Call::Mknod(path, special) => {
                let (kind, device) = match special {
                    Special::File => (FileType::RegularFile, 0),
                    Special::Fifo => (FileType::Fifo, 0),
                    Special::Socket => (FileType::Socket, 0),
                    Special::CharDevice => (FileType::CharacterDevice, sys::makedev(1, 3)),
                    Special::BlockDevice => (FileType::BlockDevice, sys::makedev(1, 3)),
                };
                let mode = Mode::from_raw_mode(0o644);
                done(sys::mknodat(CWD, self.named(path)?, kind, mode, device))
            }
            Call::Rename(from, to, flags) => {
                let flags = RenameFlags::from_bits_retain(*flags);
                done(sys::renameat_with(
                    CWD,
                    self.named(from)?,
                    CWD,
                    self.named(to)?,
                    flags,
                ))
            }
            Call::SetXattr(path, name, len, text, mode) => {
                let flags = match mode {
                    XattrMode::Any => XattrFlags::empty(),
                    XattrMode::Create => XattrFlags::CREATE,
                    XattrMode::Replace => XattrFlags::REPLACE,
                };
                let value = pattern(*text, 0, *len);
                done(sys::lsetxattr(
                    self.path(path),
                    XATTRS[*name],
                    &value,
                    flags,
                ))
            }
            Call::GetXattr(path, name) => {
                let mut value = vec![0; 64 << 10];
                let len = sys::lgetxattr(self.path(path), XATTRS[*name], &mut value[..])?;
                value.truncate(len);
                Ok(Reply::Bytes(value))
            }
            Call::RemoveXattr(path, name) => {
                done(sys::lremovexattr(self.path(path), XATTRS[*name]))
            }
            Call::ListXattrs(path) => {
                let mut list = vec![0; 64 << 10];
                let len = sys::llistxattr(self.path(path), &mut list[..])?;
                let names = list[..len].split(|byte| *byte == 0);
                let mut names: Vec<_> = names
                    .filter(|n| !n.is_empty())
                    .map(<[u8]>::to_vec)
                    .collect();
                names.sort();
                Ok(Reply::Names(names))
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn open(&mut self, at: usize, path: &[u8], access: Access, how: How) -> Result<Reply, Errno> {
        self.files[at] = None;
        let path = self.named(path)?;
        // Opening one would wait, or reach a device.
        if is_special(&path) && !(how.create && how.exclusive) {
            return Err(Errno::NXIO);
        }
        let mut flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::WRONLY,
            Access::Both => OFlags::RDWR,
        };
        flags.set(OFlags::CREATE, how.create);
        flags.set(OFlags::EXCL, how.create && how.exclusive);
        flags.set(OFlags::TRUNC, how.truncate);
        flags.set(OFlags::APPEND, how.append);
        // A folder has no pages to go past, here as elsewhere.
        flags.set(OFlags::DIRECT, how.direct && !path.is_dir());
        flags.set(OFlags::DSYNC, how.durable);
        let mode = Mode::from_raw_mode(0o644);
        let file = File::from(sys::open(path, flags | OFlags::NOFOLLOW, mode)?);
        if FileType::from_raw_mode(sys::fstat(&file)?.st_mode) == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        self.files[at] = Some(file);
        Ok(Reply::Done)
    }

    fn read(&self, at: usize, offset: u64, len: u32) -> Result<Reply, Errno> {
        let file = self.file(at)?;
        let mut bytes = vec![0; len as usize];
        let mut filled = 0;
        loop {
            let got = rustix::io::pread(file, &mut bytes[filled..], offset + filled as u64)?;
            filled += got;
            if got == 0 || filled == bytes.len() {
                bytes.truncate(filled);
                return Ok(Reply::Bytes(bytes));
            }
        }
    }

    fn write(&self, at: usize, offset: u64, len: u32, text: u8) -> Result<Reply, Errno> {
        let file = self.file(at)?;
        // What an append writes is where it lands, so its text is the one of that place.
        let appends = sys::fcntl_getfl(file)?.contains(OFlags::APPEND);
        let place = if appends { size(file)? } else { offset };
        let written = rustix::io::pwrite(file, &pattern(text, place, len), offset)?;
        Ok(Reply::Count(written as u64))
    }

    fn copy(&self, from: (usize, u64), to: (usize, u64), len: u64) -> Result<Reply, Errno> {
        let (source, target) = (self.file(from.0)?, self.file(to.0)?);
        // What is copied behind the end of the file itself is not copied again.
        let len = len.min(size(source)?.saturating_sub(from.1));
        let mut done = 0;
        loop {
            let (mut at, mut to_at) = (from.1 + done, to.1 + done);
            let left = usize::try_from(len - done).expect("a length");
            match sys::copy_file_range(source, Some(&mut at), target, Some(&mut to_at), left) {
                Ok(0) => return Ok(Reply::Count(done)),
                Ok(copied) => done += copied as u64,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => return Ok(Reply::Count(done)),
            }
        }
    }

    fn open_dir(&mut self, at: usize, path: &[u8]) -> Result<Reply, Errno> {
        self.scans[at] = None;
        let path = self.path(path);
        let kind = FileType::from_raw_mode(sys::lstat(&path)?.st_mode);
        if kind == FileType::Symlink {
            return Err(Errno::LOOP);
        }
        let fd = sys::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        self.scans[at] = Some(Scan {
            fd,
            cookie: 0,
            marked: 0,
        });
        Ok(Reply::Done)
    }

    /// As much as the kernel gives at once, but for `.` and `..` alone.
    fn read_dir(&mut self, at: usize, about: usize) -> Result<Reply, Errno> {
        let scan = self.scans[at].as_mut().ok_or(Errno::BADF)?;
        // One entry with a long name has to fit.
        let mut buffer = vec![MaybeUninit::uninit(); 280 + about * 40];
        let mut dir = RawDir::new(&scan.fd, &mut buffer);
        let mut items = Vec::new();
        while let Some(entry) = dir.next() {
            let entry = entry?;
            scan.cookie = entry.next_entry_cookie();
            let (name, ino) = (entry.file_name().to_bytes().to_vec(), entry.ino());
            if name != b"." && name != b".." {
                items.push(Item { name, ino });
            }
            if dir.is_buffer_empty() && !items.is_empty() {
                break;
            }
        }
        Ok(Reply::Items(items))
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Save => {
                let dir = File::open(&self.root).expect("open");
                dir.sync_all().expect("fsync of a directory");
            }
            Event::Settle => with_machine(|machine| machine.flush()),
            Event::Evict => {
                for file in self.files.iter().flatten() {
                    sys::fadvise(file, 0, None, Advice::DontNeed).expect("fadvise");
                }
                // Names and attributes that the kernel keeps; and the daemon's cache goes too.
                if P::FORGETS_NAMES {
                    fs::write("/proc/sys/vm/drop_caches", "2").expect("drop_caches");
                }
                let _ = fs::remove_dir_all(with_machine(|machine| machine.cache()));
            }
            Event::Restart | Event::Move => {
                self.files = Default::default();
                self.scans = Default::default();
                with_machine(|machine| {
                    machine.stop();
                    drop(fs::remove_dir_all(machine.cache()));
                    if event == Event::Move {
                        fs::remove_dir_all(machine.state().join("volumes")).expect("rm -r");
                    }
                    machine.start();
                });
            }
            Event::Cut | Event::GiveUp => unreachable!("a daemon's commits are its own"),
        }
    }
}

fn is_special(path: &Path) -> bool {
    use FileType::{BlockDevice, CharacterDevice, Fifo, Socket};
    let kind = sys::lstat(path).map(|stat| FileType::from_raw_mode(stat.st_mode));
    matches!(kind, Ok(Fifo | Socket | CharacterDevice | BlockDevice))
}

fn size(file: &File) -> Result<u64, Errno> {
    Ok(sys::fstat(file)?.st_size as u64)
}

fn time(ns: Option<i64>) -> Timespec {
    const SECOND: i64 = 1_000_000_000;
    match ns {
        Some(ns) => Timespec {
            tv_sec: ns.div_euclid(SECOND),
            tv_nsec: ns.rem_euclid(SECOND),
        },
        None => Timespec {
            tv_sec: 0,
            tv_nsec: sys::UTIME_OMIT,
        },
    }
}

fn told(stat: &Stat) -> Reply {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Special(Special::Fifo),
        FileType::Socket => Kind::Special(Special::Socket),
        FileType::CharacterDevice => Kind::Special(Special::CharDevice),
        FileType::BlockDevice => Kind::Special(Special::BlockDevice),
        _ => Kind::Special(Special::File),
    };
    let ns = |s: i64, ns: u64| s.saturating_mul(1_000_000_000).saturating_add_unsigned(ns);
    Reply::Attr(Attr {
        ino: stat.st_ino,
        kind,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        mode: (stat.st_mode & 0o7777) as u16,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev,
        atime_ns: ns(stat.st_atime, stat.st_atime_nsec),
        mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec),
        ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec),
    })
}
