//! A [`Drive`](crate::fs::Drive) as a system that the model test drives. What the kernel does before a
//! call gets to a file system is done here: it walks paths, and refuses what needs no file system.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use rustix::io::Errno;

use super::reference::{
    Access, Attr, Call, Event, How, Item, Kind as Told, NAMES, Reply, Special, System, XATTRS,
    XattrMode, pattern, symlink_target,
};
use super::rig::{CALLER, QUOTA, READ_WRITE, Rig};
use crate::clock::Clock;
use crate::fs::{self, Changes, Cut, FsError, Kind, SetAttr};
use crate::pack::charge;
use crate::types::{Fh, Ino};

/// The directory of a sequence.
const NAME: &[u8] = b"t";
/// Slots for open files and directories: more than there are.
const SLOTS: usize = 8;

const O_WRONLY: i32 = 1;
const O_APPEND: i32 = 0o2000;
const O_TRUNC: i32 = 0o1000;
const NO_REPLACE: u32 = 1;
const EXCHANGE: u32 = 2;

/// An open file.
#[derive(Clone, Copy)]
struct Open {
    ino: Ino,
    fh: Fh,
    access: Access,
    append: bool,
}

/// An open directory.
#[derive(Clone, Copy)]
struct Scan {
    ino: Ino,
    fh: Fh,
    cookie: u64,
    marked: u64,
}

/// A commit that has begun: what it changes, and the files as they were.
struct Commit {
    cut: Cut,
    changes: Changes,
    then: HashMap<Ino, Vec<u8>>,
}

/// A drive with one token.
pub(super) struct Core {
    rig: Rig,
    root: Ino,
    files: [Option<Open>; SLOTS],
    scans: [Option<Scan>; SLOTS],
    commit: Option<Commit>,
}

impl System for Core {
    const EVENTS: &'static [(u32, Event)] = &[
        (10, Event::Save),
        (40, Event::Cut),
        (40, Event::Settle),
        (10, Event::GiveUp),
        (20, Event::Evict),
        (10, Event::Restart),
    ];
    // Most with room for all; some that are soon full.
    const QUOTAS: &'static [u64] = &[QUOTA, QUOTA, QUOTA, QUOTA, 3 << 20, 300_000, 100_000];
    const LONGEST: u64 = 6 << 20;
    const MOVES_ATIMES: bool = false;

    fn fresh(quota: u64) -> Self {
        let rig = Rig::with_quota(quota);
        // The reference's are moved by nobody's reading.
        rig.drive.keep_access_times(false, false);
        let made = rig.drive.mkdir(CALLER, rig.root, NAME, 0o755);
        Self {
            root: made.unwrap().ino,
            rig,
            files: Default::default(),
            scans: Default::default(),
            commit: None,
        }
    }

    fn room(quota: u64) -> u64 {
        let reserve = (quota / 1000).max(64 << 10);
        quota.saturating_sub(reserve + overhead())
    }

    fn small_room(quota: u64) -> u64 {
        (quota / 1000).max(64 << 10) / 2
    }

    fn call(&mut self, call: &Call) -> Result<Reply, Errno> {
        let reply = self.make(call);
        self.rig.clock.advance(Duration::from_secs(1));
        reply.map_err(|error| match error {
            Refusal::Kernel(errno) => errno,
            Refusal::Drive(error) => error.errno(),
        })
    }

    fn used(&mut self) -> RangeInclusive<u64> {
        let (used, quota, room) = (self.rig.volume).with_quota(|q| {
            (
                q.used_bytes() + q.kept_bytes(),
                q.size_bytes(),
                q.room_bytes(),
            )
        });
        let told = self.rig.drive.statfs(self.root).unwrap();
        assert_eq!(told.blocks, quota / 4096);
        assert_eq!(told.free, quota.saturating_sub(used) / 4096);
        assert_eq!(told.available, room / 4096);
        let used = used - overhead();
        used..=used
    }

    fn now_ns(&self) -> i64 {
        self.rig.clock.wall_ns()
    }
}

/// What is charged for the volume and the directory of a sequence, in bytes.
fn overhead() -> u64 {
    charge::VOLUME_OVERHEAD + charge::entry_charge(NAME, 0, 0) + charge::DIRECTORY
}

/// Who refuses a call.
enum Refusal {
    Kernel(Errno),
    Drive(FsError),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

impl From<FsError> for Refusal {
    fn from(error: FsError) -> Self {
        Self::Drive(error)
    }
}

type Answer<T> = Result<T, Refusal>;

fn done<T>(result: Result<T, FsError>) -> Answer<Reply> {
    Ok(result.map(|_| Reply::Done)?)
}

impl Core {
    fn make(&mut self, call: &Call) -> Answer<Reply> {
        match call {
            Call::Open {
                at,
                path,
                access,
                how,
            } => self.open(*at, path, *access, *how),
            Call::Close(at) => {
                let open = self.files[*at].take().ok_or(Errno::BADF)?;
                self.release(open)
            }
            Call::Read { at, offset, len } => {
                let open = self.opened(*at)?;
                match open.access {
                    Access::Write => Err(Errno::BADF.into()),
                    _ => Ok(Reply::Bytes(
                        self.rig.read_handle(open.ino, open.fh, *offset, *len),
                    )),
                }
            }
            Call::Write {
                at,
                offset,
                len,
                text,
            } => self.write(*at, *offset, *len, *text),
            Call::Resize { at, size } => {
                let open = self.opened(*at)?;
                match open.access {
                    Access::Read => Err(Errno::INVAL.into()),
                    _ => self.set(open.ino, Some(open.fh), &sized(*size)),
                }
            }
            Call::Allocate {
                at,
                offset,
                len,
                how,
            } => {
                let open = self.opened(*at)?;
                if *len == 0 {
                    return Err(Errno::INVAL.into());
                }
                let (ino, fh, mode) = (open.ino, open.fh, how.mode());
                done(
                    self.rig
                        .drive
                        .fallocate(ino, fh, *offset, *len, mode, false),
                )
            }
            Call::Seek { at, offset, hole } => {
                let open = self.opened(*at)?;
                let whence = if *hole { 4 } else { 3 };
                Ok(Reply::Offset(
                    self.rig.drive.lseek(open.ino, open.fh, *offset, whence)?,
                ))
            }
            Call::Copy { from, to, len } => self.copy(*from, *to, *len),
            Call::Sync(at) => done(self.rig.drive.fsync(self.opened(*at)?.ino, false)),
            Call::StatOpen(at) => {
                let attr = self.rig.drive.getattr(self.opened(*at)?.ino)?;
                Ok(Reply::Attr(told(&attr)))
            }
            Call::Truncate(path, size) => {
                let ino = self.followed(path)?.ino;
                self.set(ino, None, &sized(*size))
            }
            Call::Stat(path) => Ok(Reply::Attr(told(&self.find(path)?))),
            Call::Chmod(path, mode) => {
                let ino = self.followed(path)?.ino;
                let set = SetAttr {
                    mode: Some(*mode),
                    ..SetAttr::default()
                };
                self.set(ino, None, &set)
            }
            Call::Chown(path, uid, gid) => {
                let attr = self.find(path)?;
                let set = SetAttr {
                    uid: Some(*uid),
                    gid: Some(*gid),
                    kill_set_id: attr.kind != Kind::Directory,
                    ..SetAttr::default()
                };
                self.set(attr.ino, None, &set)
            }
            Call::Touch(path, atime_ns, mtime_ns) => {
                let ino = self.find(path)?.ino;
                if (atime_ns, mtime_ns) == (&None, &None) {
                    return Ok(Reply::Done);
                }
                let (atime_ns, mtime_ns) = (*atime_ns, *mtime_ns);
                self.set(
                    ino,
                    None,
                    &SetAttr {
                        atime_ns,
                        mtime_ns,
                        ..SetAttr::default()
                    },
                )
            }
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
                Ok(Reply::Done)
            }
            Call::CloseDir(at) => {
                let scan = self.scans[*at].take().ok_or(Errno::BADF)?;
                self.rig.drive.releasedir(scan.ino, scan.fh);
                Ok(Reply::Done)
            }
            Call::Event(event) => {
                self.happen(*event);
                Ok(Reply::Done)
            }
            on_names => self.make_on_names(on_names),
        }
    }

    fn make_on_names(&mut self, call: &Call) -> Answer<Reply> {
        match call {
            Call::Mkdir(path) => {
                let (dir, name) = self.free(path)?;
                done(self.rig.drive.mkdir(CALLER, dir, name, 0o755))
            }
            Call::Rmdir(path) => {
                let (dir, name) = self.parent(path)?;
                self.child(dir, name)?;
                done(self.rig.drive.rmdir(dir, name))
            }
            Call::Unlink(path) => {
                let (dir, name) = self.parent(path)?;
                self.child(dir, name)?;
                done(self.rig.drive.unlink(dir, name))
            }
            Call::Link(from, to) => {
                let ino = self.find(from)?.ino;
                let (dir, name) = self.free(to)?;
                done(self.rig.drive.link(ino, dir, name))
            }
            Call::Symlink(path, len) => {
                match len {
                    0 => return Err(Errno::NOENT.into()),
                    4096.. => return Err(Errno::NAMETOOLONG.into()),
                    _ => {}
                }
                let (dir, name) = self.free(path)?;
                done(
                    self.rig
                        .drive
                        .symlink(CALLER, dir, name, &symlink_target(*len)),
                )
            }
            Call::Readlink(path) => {
                Ok(Reply::Bytes(self.rig.drive.readlink(self.find(path)?.ino)?))
            }
            Call::Mknod(path, special) => {
                let (dir, name) = self.free(path)?;
                let kind = match special {
                    Special::File => Kind::File,
                    Special::Fifo => Kind::Fifo,
                    Special::Socket => Kind::Socket,
                    Special::CharDevice => Kind::CharDevice,
                    Special::BlockDevice => Kind::BlockDevice,
                };
                done(self.rig.drive.mknod(CALLER, dir, name, kind, 0o644, 0x103))
            }
            Call::Rename(from, to, flags) => self.rename(from, to, *flags),
            Call::SetXattr(path, name, len, text, mode) => {
                let attr = self.find(path)?;
                refuse_xattr(attr.kind, *name, Errno::PERM)?;
                let flags = match mode {
                    XattrMode::Any => 0,
                    XattrMode::Create => 1,
                    XattrMode::Replace => 2,
                };
                let value = pattern(*text, 0, *len);
                done(self.rig.drive.setxattr(
                    CALLER,
                    attr.ino,
                    XATTRS[*name].as_bytes(),
                    &value,
                    flags,
                ))
            }
            Call::GetXattr(path, name) => {
                let attr = self.find(path)?;
                refuse_xattr(attr.kind, *name, Errno::NODATA)?;
                Ok(Reply::Bytes(
                    self.rig
                        .drive
                        .getxattr(attr.ino, XATTRS[*name].as_bytes())?,
                ))
            }
            Call::RemoveXattr(path, name) => {
                let attr = self.find(path)?;
                refuse_xattr(attr.kind, *name, Errno::PERM)?;
                done(
                    self.rig
                        .drive
                        .removexattr(attr.ino, XATTRS[*name].as_bytes()),
                )
            }
            Call::ListXattrs(path) => {
                let list = self.rig.drive.listxattr(self.find(path)?.ino)?;
                let names = list
                    .split(|byte| *byte == 0)
                    .filter(|name| !name.is_empty());
                let mut names: Vec<_> = names.map(<[u8]>::to_vec).collect();
                names.sort();
                Ok(Reply::Names(names))
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn opened(&self, at: usize) -> Answer<Open> {
        Ok(self.files[at].ok_or(Errno::BADF)?)
    }

    fn set(&self, ino: Ino, fh: Option<Fh>, set: &SetAttr) -> Answer<Reply> {
        done(self.rig.drive.setattr(ino, fh, set))
    }

    /// The inode at `path`, a last symlink not followed. Our symlinks lead nowhere.
    fn find(&self, path: &[u8]) -> Answer<fs::Attr> {
        let mut at = self.rig.drive.getattr(self.root)?;
        for name in path {
            match at.kind {
                Kind::Directory => {}
                Kind::Symlink => return Err(Errno::NOENT.into()),
                _ => return Err(Errno::NOTDIR.into()),
            }
            at = self.rig.drive.lookup(at.ino, NAMES[usize::from(*name)])?;
        }
        Ok(at)
    }

    fn followed(&self, path: &[u8]) -> Answer<fs::Attr> {
        let attr = self.find(path)?;
        match attr.kind {
            Kind::Symlink => Err(Errno::NOENT.into()),
            _ => Ok(attr),
        }
    }

    fn parent(&self, path: &[u8]) -> Answer<(Ino, &'static [u8])> {
        let (name, above) = path.split_last().ok_or(Errno::INVAL)?;
        let dir = self.followed(above)?;
        match dir.kind {
            Kind::Directory => Ok((dir.ino, NAMES[usize::from(*name)])),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    fn child(&self, dir: Ino, name: &[u8]) -> Answer<Option<fs::Attr>> {
        match self.rig.drive.lookup(dir, name) {
            Ok(attr) => Ok(Some(attr)),
            Err(FsError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The parent of something new.
    fn free(&self, path: &[u8]) -> Answer<(Ino, &'static [u8])> {
        let (dir, name) = self.parent(path)?;
        match self.child(dir, name)? {
            None => Ok((dir, name)),
            Some(_) => Err(Errno::EXIST.into()),
        }
    }

    fn open(&mut self, at: usize, path: &[u8], access: Access, how: How) -> Answer<Reply> {
        if let Some(open) = self.files[at].take() {
            self.release(open)?;
        }
        let (dir, name) = self.parent(path)?;
        let mut flags = match access {
            Access::Read => 0,
            Access::Write => O_WRONLY,
            Access::Both => READ_WRITE,
        };
        flags |= if how.append { O_APPEND } else { 0 };
        flags |= if how.truncate { O_TRUNC } else { 0 };
        let (ino, opened) = match self.child(dir, name)? {
            None if !how.create => return Err(Errno::NOENT.into()),
            None => {
                let (attr, opened) = self.rig.drive.create(CALLER, dir, name, 0o644, flags)?;
                (attr.ino, opened)
            }
            Some(_) if how.create && how.exclusive => return Err(Errno::EXIST.into()),
            Some(attr) => match attr.kind {
                Kind::File => (attr.ino, self.rig.drive.open(attr.ino, flags)?),
                Kind::Directory => return Err(Errno::ISDIR.into()),
                Kind::Symlink => return Err(Errno::LOOP.into()),
                _ => return Err(Errno::NXIO.into()),
            },
        };
        self.files[at] = Some(Open {
            ino,
            fh: opened.fh,
            access,
            append: how.append,
        });
        Ok(Reply::Done)
    }

    fn release(&self, open: Open) -> Answer<Reply> {
        let flushed = self.rig.drive.flush(open.ino, open.fh);
        self.rig.drive.release(open.ino, open.fh);
        done(flushed)
    }

    fn write(&self, at: usize, offset: u64, len: u32, text: u8) -> Answer<Reply> {
        let open = self.opened(at)?;
        if open.access == Access::Read {
            return Err(Errno::BADF.into());
        }
        let size = self.rig.drive.getattr(open.ino)?.size;
        // Where an append lands is the kernel's word; its text is the one of that place.
        let offset = if open.append { size } else { offset };
        let data = pattern(text, offset, len);
        let written = self
            .rig
            .drive
            .write(open.ino, open.fh, offset, &data, false)?;
        Ok(Reply::Count(u64::from(written)))
    }

    fn copy(&mut self, from: (usize, u64), to: (usize, u64), len: u64) -> Answer<Reply> {
        let (source, target) = (self.opened(from.0)?, self.opened(to.0)?);
        let refused = target.access == Access::Read || target.append;
        if source.access == Access::Write || refused {
            return Err(Errno::BADF.into());
        }
        let size = self.rig.drive.getattr(source.ino)?.size;
        let len = len.min(size.saturating_sub(from.1));
        let apart = from.1 + len <= to.1 || to.1 + len <= from.1;
        if source.ino == target.ino && !apart {
            return Err(Errno::INVAL.into());
        }
        let mut done = 0;
        while done < len {
            let (a, b, left) = (
                (source.fh, from.1 + done),
                (target.fh, to.1 + done),
                len - done,
            );
            let copied = match self.rig.drive.copy_file_range(a, b, left, false) {
                // As the kernel does then.
                Err(FsError::NotSupported) => {
                    let bytes = self.rig.read_handle(source.ino, a.0, a.1, left as u32);
                    self.rig.drive.write(target.ino, b.0, b.1, &bytes, false)
                }
                other => other,
            };
            match copied {
                Ok(copied) => done += u64::from(copied),
                Err(error) if done == 0 => return Err(error.into()),
                Err(_) => break,
            }
        }
        Ok(Reply::Count(done))
    }

    fn rename(&self, from: &[u8], to: &[u8], flags: u32) -> Answer<Reply> {
        let (dir, name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        self.child(dir, name)?.ok_or(Errno::NOENT)?;
        match (flags, self.child(to_dir, to_name)?) {
            (NO_REPLACE, Some(_)) => return Err(Errno::EXIST.into()),
            (EXCHANGE, None) => return Err(Errno::NOENT.into()),
            _ => {}
        }
        // The kernel does not let a directory take the place of one that it lies in.
        if from.len() > to.len() && from.starts_with(to) {
            let errno = if flags == EXCHANGE {
                Errno::INVAL
            } else {
                Errno::NOTEMPTY
            };
            return Err(errno.into());
        }
        done(self.rig.drive.rename(dir, name, to_dir, to_name, flags))
    }

    fn open_dir(&mut self, at: usize, path: &[u8]) -> Answer<Reply> {
        self.scans[at] = None;
        let attr = self.find(path)?;
        match attr.kind {
            Kind::Directory => {}
            Kind::Symlink => return Err(Errno::LOOP.into()),
            _ => return Err(Errno::NOTDIR.into()),
        }
        let (ino, fh) = (attr.ino, self.rig.drive.opendir(attr.ino)?);
        self.scans[at] = Some(Scan {
            ino,
            fh,
            cookie: 0,
            marked: 0,
        });
        Ok(Reply::Done)
    }

    fn read_dir(&mut self, at: usize, about: usize) -> Answer<Reply> {
        let scan = self.scans[at].as_mut().ok_or(Errno::BADF)?;
        let mut items = Vec::new();
        self.rig
            .drive
            .readdir(scan.ino, scan.cookie, false, &mut |item, _| {
                scan.cookie = item.cookie;
                if item.name != b"." && item.name != b".." {
                    let (name, ino) = (item.name.clone(), item.ino.0);
                    items.push(Item { name, ino });
                }
                items.len() < about
            })?;
        Ok(Reply::Items(items))
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Save => self.rig.drive.sync().unwrap(),
            Event::Cut => {
                self.commit = None;
                let cut = self.rig.volume.cut().unwrap();
                let changes = cut.changes().unwrap();
                let mut then = HashMap::new();
                for ino in &changes.files {
                    let outer = Ino(self.root.0 & !Ino::MAX.0 | ino.0);
                    let size = self.rig.drive.getattr(outer).unwrap().size;
                    let opened = self.rig.drive.open(outer, 0).unwrap();
                    let bytes = self.rig.read_handle(outer, opened.fh, 0, size as u32);
                    self.rig.drive.release(outer, opened.fh);
                    then.insert(*ino, bytes);
                }
                self.commit = Some(Commit { cut, changes, then });
            }
            Event::Settle => {
                if let Some(Commit { cut, changes, then }) = self.commit.take() {
                    let (built, contents) = self.rig.build(&cut, &changes);
                    for (ino, content) in contents {
                        assert!(content == then[&ino], "a commit holds another instant");
                    }
                    cut.settle(&changes, &built).unwrap();
                }
            }
            Event::GiveUp => self.commit = None,
            Event::Evict => self.rig.evict(),
            Event::Move => unreachable!("the rig publishes no names"),
            Event::Restart => {
                self.commit = None;
                for open in std::mem::take(&mut self.files).into_iter().flatten() {
                    self.rig.drive.release(open.ino, open.fh);
                }
                self.scans = Default::default();
                self.rig.drive.sync().unwrap();
                self.rig.reopen();
                self.rig.drive.keep_access_times(false, false);
            }
        }
    }
}

fn sized(size: u64) -> SetAttr {
    SetAttr {
        size: Some(size),
        ..SetAttr::default()
    }
}

/// Attributes of users are for files and directories alone.
fn refuse_xattr(kind: Kind, name: usize, errno: Errno) -> Answer<()> {
    let ours = matches!(kind, Kind::File | Kind::Directory);
    match XATTRS[name].starts_with("user.") && !ours {
        true => Err(errno.into()),
        false => Ok(()),
    }
}

fn told(attr: &fs::Attr) -> Attr {
    let kind = match attr.kind {
        Kind::File => Told::Special(Special::File),
        Kind::Directory => Told::Directory,
        Kind::Symlink => Told::Symlink,
        Kind::Fifo => Told::Special(Special::Fifo),
        Kind::Socket => Told::Special(Special::Socket),
        Kind::CharDevice => Told::Special(Special::CharDevice),
        Kind::BlockDevice => Told::Special(Special::BlockDevice),
    };
    Attr {
        ino: attr.ino.0,
        kind,
        size: attr.size,
        blocks: attr.blocks,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: u64::from(attr.rdev),
        atime_ns: attr.atime_ns,
        mtime_ns: attr.mtime_ns,
        ctime_ns: attr.ctime_ns,
    }
}
