//! Small change between fuser's types and ours: numbers, names, callers, and plain answers.
//!
//! Invariant: nothing is decided here. Called by [`super::adapter`] alone.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{FileHandle, FopenFlags, INodeNo, ReplyEmpty, ReplyXattr, Request};

use super::errno;
use super::miss::Reply;
use crate::fs::{Caller, FsError, Opened};
use crate::types::{Fh, Ino};

pub(super) fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

pub(super) fn fh(handle: FileHandle) -> Fh {
    Fh(handle.0)
}

pub(super) fn bytes(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_vec()
}

pub(super) fn caller(req: &Request) -> Caller {
    Caller {
        uid: req.uid(),
        gid: req.gid(),
    }
}

pub(super) fn open_flags(opened: &Opened) -> FopenFlags {
    if opened.keep_cache {
        FopenFlags::FOPEN_KEEP_CACHE
    } else {
        FopenFlags::empty()
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
