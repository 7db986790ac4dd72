//! Conversions between fuser's types and ours: numbers, names, callers, and answers.
//!
//! Invariant: nothing is decided here.

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

/// What tells an inode from another one of its number: another volume's, which has the directory of this one by now. It
/// stays the same over mounts, as the number does.
fn generation(attr: &Attr) -> Generation {
    Generation(convert::generation(attr).into())
}

/// That of an answer which gives no inode.
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

/// `umask` is that of who makes something.
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

/// `size` is the room that the caller has; 0 asks how much it needs.
pub(super) fn attribute(size: u32) -> impl FnOnce(ReplyXattr, Vec<u8>) + Send + 'static {
    move |reply, value| match u32::try_from(value.len()) {
        Ok(needed) if size == 0 => reply.size(needed),
        Ok(needed) if needed <= size => reply.data(&value),
        Ok(_) | Err(_) => reply.fail(errno::of(&FsError::AttributeTooLarge)),
    }
}

/// The answer of every call that gives an entry of `parent`.
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

/// What a lookup has found, and whether that is to be believed for a while: not where another tree
/// has meanwhile begun to take the place of the one that was looked at.
pub(super) type Looked = (Option<Attr>, bool);

/// The answer of `lookup`: also that there is no such entry is believed for a while. Who makes one
/// goes through the kernel, or tells it.
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

/// The answer of `create`: one time limit for entry and attributes, the shorter.
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
        // The kernel takes neither `.` nor `..` for an answer to a lookup.
        if fitted && attr.is_some() {
            lookups.give(item.ino);
        }
        fitted
    })
}

/// The answer of every call that gives attributes.
pub(super) fn attr(show: Presentation) -> impl FnOnce(ReplyAttr, Attr) + Send + 'static {
    move |reply, attr| reply.attr(&convert::attr_ttl(&attr), &show.file_attr(&attr))
}

/// Lists into a reply: `push` says whether an entry fitted. What stopped a listing that has entries
/// already is told by the call that goes on behind them.
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
