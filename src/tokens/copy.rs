//! Copies a tree of the drive to a local folder: content, holes, names, attributes.
//!
//! Invariant: an entry that succeeds is durable; one that fails is noted, and the rest is copied.
//! Reads as the mount's callbacks do, on a thread that may block.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat,
    utimensat,
};
use tokio::runtime::Handle;

use crate::context::MountContext;
use crate::durable::sync_folder;
use crate::fs::{Attr, FsError, Kind, Want};
use crate::types::{Fh, Ino};

/// Bytes per read.
const STEP: u64 = 1 << 20;
/// Consecutive timeouts, each half a minute, after which the node is not asked again.
const DEADLINES: u32 = 3;
/// Fetches per call before it is given up, because the cache may evict again.
const TRIES: usize = 64;
/// `SEEK_DATA` and `SEEK_HOLE` of lseek(2).
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) files: u64,
    /// Their bytes, without holes.
    pub(crate) bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Copied {
    pub(crate) files: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

pub(crate) struct Copier {
    ground: Arc<MountContext>,
    runtime: Handle,
    /// Consecutive timeouts.
    deadlines: Cell<u32>,
    /// The first copy of each inode with several names.
    links: HashMap<Ino, PathBuf>,
    /// Paths that failed, and why.
    pub(crate) failed: Vec<(PathBuf, String)>,
    pub(crate) saved: Saved,
    /// Progress for whoever waits.
    copied: Arc<Copied>,
    /// Inodes reached and their first copy, for a damaged drive whose tree may have cycles.
    pub(crate) seen: Option<BTreeMap<Ino, PathBuf>>,
    /// The target is full: nothing more is tried.
    full: bool,
}

enum Step {
    /// Enter a directory whose copy exists.
    Enter(Ino, PathBuf),
    /// Finish a directory: attributes and durability.
    Leave(Attr, PathBuf),
}

type Done = Result<(), Why>;

/// Why an entry could not be copied.
enum Why {
    Read(FsError),
    Write(io::Error),
}

impl From<FsError> for Why {
    fn from(error: FsError) -> Self {
        Self::Read(error)
    }
}

impl From<io::Error> for Why {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl From<rustix::io::Errno> for Why {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Write(error.into())
    }
}

impl Copier {
    /// An empty copy that reports to `copied`. Call it within a runtime.
    pub(crate) fn new(ground: &Arc<MountContext>, copied: &Arc<Copied>) -> Self {
        Self {
            ground: Arc::clone(ground),
            runtime: Handle::current(),
            deadlines: Cell::default(),
            links: HashMap::new(),
            failed: Vec::new(),
            saved: Saved::default(),
            copied: Arc::clone(copied),
            seen: None,
            full: false,
        }
    }

    /// Copies the directory `root` of the drive into the empty folder `target`.
    pub(crate) fn tree(&mut self, root: Ino, target: &Path) {
        let mut steps = vec![Step::Enter(root, target.to_owned())];
        while let Some(step) = steps.pop() {
            match step {
                Step::Enter(dir, path) => {
                    let entered = self.enter(dir, &path, &mut steps);
                    self.note(&path, entered);
                }
                Step::Leave(attr, path) => {
                    let left = self
                        .attributes(&attr, &path)
                        .and_then(|()| Ok(sync_folder(&path)?));
                    self.note(&path, left);
                }
            }
        }
    }

    pub(crate) fn stray(&mut self, ino: Ino, path: &Path) {
        let made = self.entry(ino, path, &mut Vec::new());
        self.note(path, made);
    }

    fn note(&mut self, path: &Path, done: Done) {
        let why = match done {
            Ok(()) => return,
            Err(Why::Read(error)) => error.to_string(),
            Err(Why::Write(error)) => {
                self.full |= matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                );
                error.to_string()
            }
        };
        self.failed.push((path.to_owned(), why));
    }

    /// Calls the drive, fetching what is not on this machine.
    fn ask<T>(&self, call: impl Fn() -> Result<T, FsError>) -> Result<T, FsError> {
        for _ in 0..TRIES {
            let want = match call() {
                Err(FsError::NotLocal(want)) => want,
                other => return other,
            };
            if self.deadlines.get() >= DEADLINES {
                break;
            }
            let fetched = self.runtime.block_on(self.ground.fetcher.fetch(*want));
            self.deadlines.set(match fetched {
                Err(FsError::TimedOut) => self.deadlines.get() + 1,
                _ => 0,
            });
            fetched?;
        }
        Err(FsError::TimedOut)
    }

    fn enter(&mut self, dir: Ino, path: &Path, steps: &mut Vec<Step>) -> Done {
        let drive = Arc::clone(&self.ground.drive);
        steps.push(Step::Leave(drive.getattr(dir)?, path.to_owned()));
        let fh = self.ask(|| drive.opendir(dir))?;
        drive.releasedir(dir, fh);
        let mut cookie = 0;
        loop {
            let mut items = Vec::new();
            drive.readdir_whole(dir, cookie, false, &mut |item, _| {
                items.push(item.clone());
                items.len() < 1000
            })?;
            let Some(last) = items.last() else {
                return Ok(());
            };
            cookie = last.cookie;
            for item in items {
                if item.name == b"." || item.name == b".." {
                    continue;
                }
                let path = path.join(OsString::from_vec(item.name));
                if self.full {
                    self.failed.push((path, "not tried".to_owned()));
                    continue;
                }
                let made = self.entry(item.ino, &path, steps);
                self.note(&path, made);
            }
        }
    }

    fn entry(&mut self, ino: Ino, path: &Path, steps: &mut Vec<Step>) -> Done {
        let known = self.seen.as_mut().map(|seen| {
            let is_known = seen.contains_key(&ino);
            seen.entry(ino).or_insert_with(|| path.to_owned());
            is_known
        });
        let attr = self.ground.drive.getattr(ino)?;
        if attr.kind == Kind::Directory && known == Some(true) {
            return Err(FsError::Damaged("a directory that stands twice".to_owned()).into());
        }
        if attr.kind == Kind::Directory {
            DirBuilder::new().mode(0o700).create(path)?;
            steps.push(Step::Enter(ino, path.to_owned()));
            return Ok(());
        }
        if let Some(first) = self.links.get(&ino) {
            return Ok(std::fs::hard_link(first, path)?);
        }
        match attr.kind {
            Kind::File => self.file(&attr, path)?,
            Kind::Symlink => {
                let target = self.ground.drive.readlink(ino)?;
                std::os::unix::fs::symlink(OsString::from_vec(target), path)?;
                self.attributes(&attr, path)?;
            }
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice | Kind::Directory => {
                let kind = match attr.kind {
                    Kind::Fifo => FileType::Fifo,
                    Kind::Socket => FileType::Socket,
                    Kind::CharDevice => FileType::CharacterDevice,
                    _ => FileType::BlockDevice,
                };
                mknodat(
                    CWD,
                    path,
                    kind,
                    Mode::from_raw_mode(0o600),
                    device(attr.rdev),
                )?;
                self.attributes(&attr, path)?;
            }
        }
        if attr.nlink > 1 {
            self.links.insert(ino, path.to_owned());
        }
        Ok(())
    }

    /// Copies a file; if the node does not give its published content, the copy still has what is
    /// on this machine.
    fn file(&mut self, attr: &Attr, path: &Path) -> Done {
        let drive = Arc::clone(&self.ground.drive);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let opened = self.ask(|| drive.open(attr.ino, 0))?;
        let copied = self.content(attr, opened.fh, &file);
        drive.release(attr.ino, opened.fh);
        let (bytes, missing) = copied?;
        self.attributes(attr, path)?;
        file.sync_all()?;
        if let Some(error) = missing {
            return Err(error.into());
        }
        self.copied.files.fetch_add(1, Ordering::Relaxed);
        self.saved.files += 1;
        self.saved.bytes += bytes;
        Ok(())
    }

    /// Copies the data, not the holes; returns the bytes, and why some are missing.
    fn content(&self, attr: &Attr, fh: Fh, file: &File) -> Result<(u64, Option<FsError>), Why> {
        let drive = &self.ground.drive;
        let (mut bytes, mut missing) = (0, None);
        let mut at = 0;
        while at < attr.size {
            at = match drive.lseek(attr.ino, fh, at, SEEK_DATA) {
                Err(FsError::NoData) => break,
                other => other?,
            };
            let hole = drive.lseek(attr.ino, fh, at, SEEK_HOLE)?;
            while at < hole {
                let mut len = STEP.min(hole - at);
                let read = |len| drive.read(attr.ino, fh, at, u32::try_from(len).unwrap_or(0));
                let data = match missing {
                    None => self.ask(|| read(len)),
                    // The node has failed for this file: read only what is here.
                    Some(_) => match read(len) {
                        Err(error) if lacking(&error).is_some_and(|lost| lost.start > at) => {
                            len = lacking(&error).map_or(len, |lost| lost.start - at);
                            read(len)
                        }
                        other => other,
                    },
                };
                match data {
                    Ok(data) if data.len() as u64 == len => {
                        file.write_all_at(&data, at)?;
                        bytes += len;
                    }
                    Ok(_) => return Err(FsError::Damaged("ends too early".to_owned()).into()),
                    Err(error) if missing.is_none() => {
                        missing = Some(error);
                        continue;
                    }
                    Err(error) => {
                        let lost = lacking(&error).map_or(len, |lost| lost.end - lost.start);
                        len = lost.clamp(1, len);
                    }
                }
                at += len;
                self.copied.bytes.fetch_add(len, Ordering::Relaxed);
            }
        }
        file.set_len(attr.size)?;
        Ok((bytes, missing))
    }

    /// Sets owner, extended attributes, mode and times, in this order, because a change of owner
    /// clears capabilities and set-id bits. Only root can set owners.
    fn attributes(&self, attr: &Attr, path: &Path) -> Done {
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::lchown(path, Some(attr.uid), Some(attr.gid))?;
        }
        let drive = &self.ground.drive;
        let names = drive.listxattr(attr.ino)?;
        for name in names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
        {
            let value = drive.getxattr(attr.ino, name)?;
            lsetxattr(path, name, &value, XattrFlags::empty())?;
        }
        if attr.kind != Kind::Symlink {
            std::fs::set_permissions(path, Permissions::from_mode(u32::from(attr.mode)))?;
        }
        let times = Timestamps {
            last_access: timespec(attr.atime_ns),
            last_modification: timespec(attr.mtime_ns),
        };
        Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// The bytes that a read lacked.
fn lacking(error: &FsError) -> Option<Range<u64>> {
    let FsError::NotLocal(want) = error else {
        return None;
    };
    match **want {
        Want::Content { offset, len, .. } => Some(offset..offset + len),
        Want::Directory { .. } | Want::Volume { .. } => None,
    }
}

fn timespec(ns: i64) -> Timespec {
    Timespec {
        tv_sec: ns.div_euclid(1_000_000_000),
        tv_nsec: ns.rem_euclid(1_000_000_000),
    }
}

/// makedev(3) of the kernel's 32-bit device number.
fn device(rdev: u32) -> rustix::fs::Dev {
    makedev(
        (rdev >> 8) & 0xfff,
        (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00),
    )
}
