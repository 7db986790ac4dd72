//! Converts between fuser's types and ours.
//!
//! Invariant: decides nothing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{
    Errno, FileHandle, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request,
};

use super::convert::{self, Presentation};
use super::errno;
use super::lookups::Lookups;
use super::miss::Reply;
use crate::fs::{Attr, Caller, DirItem, Drive, FsError, StatFs};
use crate::types::{Fh, Ino};

/// Tells an inode from one with its number in another volume that now has the directory. Stable
/// over mounts, as the number is.
fn generation(attr: &Attr) -> Generation {
    Generation(convert::generation(attr).into())
}

/// For an answer without an inode.
const NONE: Generation = Generation(0);

pub(super) fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

pub(super) fn fh(handle: FileHandle) -> Fh {
    Fh(handle.0)
}

pub(super) fn bytes(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_vec()
}

/// `umask` is the creator's.
pub(super) fn caller(req: &Request, umask: u32) -> Caller {
    Caller {
        uid: req.uid(),
        gid: req.gid(),
        umask: convert::permissions(umask),
    }
}

pub(super) fn empty(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

/// `size` is the caller's buffer; 0 asks how much it needs.
pub(super) fn attribute(size: u32) -> impl FnOnce(ReplyXattr, Vec<u8>) + Send + 'static {
    move |reply, value| match u32::try_from(value.len()) {
        Ok(needed) if size == 0 => reply.size(needed),
        Ok(needed) if needed <= size => reply.data(&value),
        Ok(_) | Err(_) => reply.fail(errno::of(&FsError::AttributeTooLarge)),
    }
}

pub(super) fn entry(
    show: Presentation,
    lookups: &Arc<Lookups>,
    parent: Ino,
) -> impl FnOnce(ReplyEntry, Attr) + Send + use<> {
    let lookups = Arc::clone(lookups);
    move |reply, attr| {
        lookups.give(attr.ino);
        let (attr_ttl, entry_ttl) = (convert::attr_ttl(&attr), convert::entry_ttl(parent, true));
        reply.entry_with_ttls(
            &attr_ttl,
            &entry_ttl,
            &show.file_attr(&attr),
            generation(&attr),
        );
    }
}

/// What a lookup found, and whether to believe it: not if another tree has begun to replace the one
/// searched.
pub(super) type Looked = (Option<Attr>, bool);

/// The kernel may cache absence too: whoever creates an entry goes through the kernel or notifies
/// it.
pub(super) fn looked_up(
    show: Presentation,
    lookups: &Arc<Lookups>,
    parent: Ino,
) -> impl FnOnce(ReplyEntry, Looked) + Send + use<> {
    let lookups = Arc::clone(lookups);
    move |reply, (found, stays)| {
        let Some(attr) = found else {
            let ttl = convert::entry_ttl(parent, stays);
            return reply.entry_with_ttls(&ttl, &ttl, &convert::no_attr(), NONE);
        };
        lookups.give(attr.ino);
        let entry_ttl = convert::entry_ttl(parent, stays);
        let attr_ttl = convert::attr_ttl(&attr).min(entry_ttl);
        reply.entry_with_ttls(
            &attr_ttl,
            &entry_ttl,
            &show.file_attr(&attr),
            generation(&attr),
        );
    }
}

pub(super) fn look_up(drive: &Drive, parent: Ino, name: &[u8]) -> Result<Looked, FsError> {
    let turn = drive.turn(parent);
    let found = match drive.lookup(parent, name) {
        Err(FsError::NotFound) => None,
        found => Some(found?),
    };
    let stays = turn.is_some() && turn == drive.turn(parent);
    Ok((found, stays))
}

/// One time limit for entry and attributes, the shorter.
pub(super) fn created(
    show: Presentation,
    lookups: &Arc<Lookups>,
    parent: Ino,
) -> impl FnOnce(ReplyCreate, (Attr, Fh, FopenFlags)) + Send + use<> {
    let lookups = Arc::clone(lookups);
    move |reply, (attr, fh, how)| {
        lookups.give(attr.ino);
        let ttl = convert::entry_ttl(parent, true).min(convert::attr_ttl(&attr));
        let shown = show.file_attr(&attr);
        reply.created(&ttl, &shown, generation(&attr), FileHandle(fh.0), how);
    }
}

pub(super) fn statfs(reply: ReplyStatfs, s: StatFs) {
    let (files, names) = ((s.files, s.files_free), 255);
    reply.statfs(
        s.blocks,
        s.free,
        s.available,
        files.0,
        files.1,
        4096,
        names,
        4096,
    );
}

pub(super) fn list_names(
    drive: &Drive,
    dir: Ino,
    cookie: u64,
    reply: &mut ReplyDirectory,
) -> Result<(), FsError> {
    list(drive, dir, cookie, false, |item, _| {
        let name = OsStr::from_bytes(&item.name);
        !reply.add(
            INodeNo(item.ino.0),
            item.cookie,
            convert::file_type(item.kind),
            name,
        )
    })
}

pub(super) fn list_entries(
    drive: &Drive,
    (dir, cookie): (Ino, u64),
    show: Presentation,
    lookups: &Lookups,
    reply: &mut ReplyDirectoryPlus,
) -> Result<(), FsError> {
    let turn = drive.turn(dir);
    list(drive, dir, cookie, true, |item, attr| {
        let shown = attr.map_or_else(|| convert::bare_attr(item), |a| show.file_attr(a));
        let stays = turn.is_some() && turn == drive.turn(dir);
        let entry_ttl = convert::entry_ttl(dir, stays);
        let ttl = attr.map_or(entry_ttl, |attr| entry_ttl.min(convert::attr_ttl(attr)));
        let name = OsStr::from_bytes(&item.name);
        let which = attr.map_or(NONE, generation);
        let fitted = !reply.add(shown.ino, item.cookie, name, &ttl, &shown, which);
        // The kernel rejects `.` and `..` as a lookup's answer.
        if fitted && attr.is_some() {
            lookups.give(item.ino);
        }
        fitted
    })
}

pub(super) fn attr(show: Presentation) -> impl FnOnce(ReplyAttr, Attr) + Send + 'static {
    move |reply, attr| reply.attr(&convert::attr_ttl(&attr), &show.file_attr(&attr))
}

/// `push` says whether an entry fitted. If an error stops a listing that has entries, the next call
/// reports it.
fn list(
    drive: &Drive,
    dir: Ino,
    cookie: u64,
    plus: bool,
    mut push: impl FnMut(&DirItem, Option<&Attr>) -> bool,
) -> Result<(), FsError> {
    let mut some = false;
    let result = drive.readdir(dir, cookie, plus, &mut |item, attr| {
        let fitted = push(item, attr);
        some |= fitted;
        fitted
    });
    if some { Ok(()) } else { result }
}

pub(super) struct NoReply;

impl Reply for NoReply {
    fn fail(self, _: Errno) {}
}

macro_rules! replies {
    ($($reply:ty),+) => {
        $(impl Reply for $reply {
            fn fail(self, errno: Errno) {
                self.error(errno);
            }
        })+
    };
}

replies!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);
