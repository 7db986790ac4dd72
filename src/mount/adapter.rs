//! Adapts the kernel's calls: each callback traces, converts, calls and answers.
//!
//! Invariant: no policy and no state; [`crate::fs`] says what a call means, `miss` how it waits.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use tracing::trace;

use super::caching::Caching;
use super::convert::{self, Change, Presentation};
use super::errno;
use super::handshake;
use super::lookups::Lookups;
use super::miss::{Pool, Queue};
use super::reply::{
    NoReply, attr, attribute, bytes, caller, created, empty, entry, fh, ino, list_entries,
    list_names, look_up, looked_up, statfs,
};
use super::seek::Lseek;
use super::write::Write;
use crate::clock::Clock;
use crate::fs::{Attr, Drive, FsError};
use crate::types::{Fh, Ino};

pub(super) struct Adapter {
    pool: Pool,
    show: Presentation,
    clock: Arc<dyn Clock>,
    caching: Arc<Caching>,
    lookups: Arc<Lookups>,
    /// The kernel compares ACLs.
    acls: bool,
}

impl Adapter {
    pub(super) fn new(
        pool: Pool,
        show: Presentation,
        clock: Arc<dyn Clock>,
        caching: Arc<Caching>,
        acls: bool,
    ) -> Self {
        Self {
            pool,
            show,
            clock,
            caching,
            lookups: Arc::default(),
            acls,
        }
    }

    /// How a call answers that gives an entry of `parent`.
    fn entry(&self, parent: Ino) -> impl FnOnce(ReplyEntry, Attr) + Send + use<> {
        entry(self.show, &self.lookups, parent)
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        handshake::agree(config, &self.caching, self.acls);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        trace!(parent = parent.0, ?name, "lookup");
        let (parent, name) = (ino(parent), bytes(name));
        let call = move |drive: &Drive, _: &mut _| look_up(drive, parent, &name);
        let send = looked_up(self.show, &self.lookups, parent);
        self.pool
            .serve(Queue::Immediate, "lookup", reply, call, send);
    }

    fn forget(&self, _req: &Request, of: INodeNo, times: u64) {
        trace!(ino = of.0, times, "forget");
        let of = ino(of);
        if !self.lookups.take_back(of, times) {
            return;
        }
        let lookups = Arc::clone(&self.lookups);
        let call = move |drive: &Drive, _: &mut _| {
            drive.forget(of, || lookups.holds(of));
            Ok(())
        };
        self.pool
            .serve(Queue::Change, "forget", NoReply, call, |_, ()| ());
    }

    fn getattr(&self, _req: &Request, of: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        trace!(ino = of.0, "getattr");
        let of = ino(of);
        let call = move |drive: &Drive, _: &mut _| drive.getattr(of);
        self.pool
            .serve(Queue::Immediate, "getattr", reply, call, attr(self.show));
    }

    fn setattr(
        &self,
        req: &Request,
        of: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        trace!(ino = of.0, ?mode, ?uid, ?gid, ?size, "setattr");
        let change = Change {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        };
        let set = change.to_set_attr(req.uid(), self.show, self.clock.wall_ns());
        let (of, handle) = (ino(of), handle.map(fh));
        let call = move |drive: &Drive, _: &mut _| drive.setattr(of, handle, &set);
        let queue = size.map_or(Queue::Name, |_| Queue::Change);
        self.pool
            .serve(queue, "setattr", reply, call, attr(self.show));
    }

    /// The kernel sends this only if it does not compare modes (`device::mount`). Then only root
    /// enters, who may do all but run a file that nobody may run.
    fn access(&self, _req: &Request, of: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        trace!(ino = of.0, %mask, "access");
        let (of, show) = (ino(of), self.show);
        let call = move |drive: &Drive, _: &mut _| {
            if mask.contains(AccessFlags::X_OK) {
                drive.getattr(of).map(|attr| show.can_be_run(&attr))
            } else {
                Ok(true)
            }
        };
        let send = |reply: ReplyEmpty, may: bool| {
            if may {
                reply.ok()
            } else {
                reply.error(errno::NOT_RUNNABLE)
            }
        };
        self.pool
            .serve(Queue::Immediate, "access", reply, call, send);
    }

    fn readlink(&self, _req: &Request, of: INodeNo, reply: ReplyData) {
        trace!(ino = of.0, "readlink");
        let of = ino(of);
        let call = move |drive: &Drive, _: &mut _| drive.readlink(of);
        let send = |reply: ReplyData, target: Vec<u8>| reply.data(&target);
        self.pool
            .serve(Queue::Immediate, "readlink", reply, call, send);
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        trace!(parent = parent.0, ?name, mode, rdev, "mknod");
        let (by, parent, name) = (caller(req, umask), ino(parent), bytes(name));
        let (kind, mode) = (convert::node_kind(mode), convert::permissions(mode));
        let call = move |drive: &Drive, _: &mut _| {
            let kind = kind.ok_or(FsError::NotPermitted)?;
            drive.mknod(by, parent, &name, kind, mode, rdev)
        };
        self.pool
            .serve(Queue::Name, "mknod", reply, call, self.entry(parent));
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        trace!(parent = parent.0, ?name, mode, "mkdir");
        let (by, parent, name) = (caller(req, umask), ino(parent), bytes(name));
        let mode = convert::permissions(mode);
        let call = move |drive: &Drive, _: &mut _| drive.mkdir(by, parent, &name, mode);
        self.pool
            .serve(Queue::Name, "mkdir", reply, call, self.entry(parent));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        trace!(parent = parent.0, ?name, "unlink");
        let (parent, name) = (ino(parent), bytes(name));
        let call = move |drive: &Drive, _: &mut _| drive.unlink(parent, &name);
        self.pool.serve(Queue::Name, "unlink", reply, call, empty);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        trace!(parent = parent.0, ?name, "rmdir");
        let (parent, name) = (ino(parent), bytes(name));
        let call = move |drive: &Drive, _: &mut _| drive.rmdir(parent, &name);
        self.pool.serve(Queue::Name, "rmdir", reply, call, empty);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        trace!(parent = parent.0, ?name, ?target, "symlink");
        let (by, parent, name) = (caller(req, 0), ino(parent), bytes(name));
        let target = bytes(target.as_os_str());
        let call = move |drive: &Drive, _: &mut _| drive.symlink(by, parent, &name, &target);
        self.pool
            .serve(Queue::Name, "symlink", reply, call, self.entry(parent));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        trace!(parent = parent.0, ?name, to = to.0, ?to_name, %flags, "rename");
        let (parent, name) = (ino(parent), bytes(name));
        let (to, to_name, flags) = (ino(to), bytes(to_name), flags.bits());
        let call = move |drive: &Drive, _: &mut _| drive.rename(parent, &name, to, &to_name, flags);
        self.pool.serve(Queue::Name, "rename", reply, call, empty);
    }

    fn link(&self, _req: &Request, of: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        trace!(ino = of.0, parent = parent.0, ?name, "link");
        let (of, parent, name) = (ino(of), ino(parent), bytes(name));
        let call = move |drive: &Drive, _: &mut _| drive.link(of, parent, &name);
        self.pool
            .serve(Queue::Name, "link", reply, call, self.entry(parent));
    }

    fn open(&self, _req: &Request, of: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        trace!(ino = of.0, flags = flags.0, "open");
        let (of, caching) = (ino(of), Arc::clone(&self.caching));
        let call = move |drive: &Drive, _: &mut _| caching.open(drive, of, flags.0);
        let send = |reply: ReplyOpen, (handle, how): (Fh, FopenFlags)| {
            reply.opened(FileHandle(handle.0), how);
        };
        self.pool.serve(Queue::Read, "open", reply, call, send);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        trace!(parent = parent.0, ?name, mode, flags, "create");
        let (by, parent, name) = (caller(req, umask), ino(parent), bytes(name));
        let (mode, caching) = (convert::permissions(mode), Arc::clone(&self.caching));
        let call = move |drive: &Drive, _: &mut _| {
            let (attr, opened) = drive.create(by, parent, &name, mode, flags)?;
            let how = caching.opened(attr.ino, opened.fh, flags, false);
            Ok((attr, opened.fh, how))
        };
        let send = created(self.show, &self.lookups, parent);
        self.pool.serve(Queue::Name, "create", reply, call, send);
    }

    fn read(
        &self,
        req: &Request,
        of: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        trace!(ino = of.0, fh = handle.0, offset, size, "read");
        let (of, handle) = (ino(of), fh(handle));
        let call = move |drive: &Drive, _: &mut _| drive.read(of, handle, offset, size);
        let send = |reply: ReplyData, data: Vec<u8>| reply.data(&data);
        self.pool
            .serve_thread(req.pid(), Queue::Read, "read", reply, call, send);
    }

    fn write(
        &self,
        _req: &Request,
        of: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        trace!(ino = of.0, fh = handle.0, offset, len = data.len(), "write");
        let call = Write {
            caching: Arc::clone(&self.caching),
            ino: ino(of),
            fh: fh(handle),
            offset,
            data,
            flags: flags.0,
            kill: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            mapped: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
        };
        let send = ReplyWrite::written;
        self.pool
            .serve_patient(call.queue(), "write", reply, &call, send);
    }

    fn flush(
        &self,
        _req: &Request,
        of: INodeNo,
        handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        trace!(ino = of.0, fh = handle.0, "flush");
        let (of, handle) = (ino(of), fh(handle));
        let call = move |drive: &Drive, _: &mut _| drive.flush(of, handle);
        self.pool.serve(Queue::Read, "flush", reply, call, empty);
    }

    fn release(
        &self,
        _req: &Request,
        of: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        trace!(ino = of.0, fh = handle.0, "release");
        let (of, handle) = (ino(of), fh(handle));
        self.caching.closed(of, handle);
        let call = move |drive: &Drive, _: &mut _| {
            drive.release(of, handle);
            Ok(())
        };
        self.pool.serve(Queue::Read, "release", reply, call, empty);
    }

    fn fsync(
        &self,
        _req: &Request,
        of: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        trace!(ino = of.0, fh = handle.0, data_only, "fsync");
        let of = ino(of);
        let call = move |drive: &Drive, _: &mut _| drive.fsync(of, data_only);
        self.pool.serve(Queue::Sync, "fsync", reply, call, empty);
    }

    fn opendir(&self, _req: &Request, of: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        trace!(ino = of.0, "opendir");
        let of = ino(of);
        let call = move |drive: &Drive, _: &mut _| drive.opendir(of);
        let send =
            |reply: ReplyOpen, handle: Fh| reply.opened(FileHandle(handle.0), FopenFlags::empty());
        self.pool
            .serve(Queue::Immediate, "opendir", reply, call, send);
    }

    fn readdir(
        &self,
        _req: &Request,
        of: INodeNo,
        _fh: FileHandle,
        cookie: u64,
        reply: ReplyDirectory,
    ) {
        trace!(ino = of.0, cookie, "readdir");
        let of = ino(of);
        let call = move |drive: &Drive, reply: &mut _| list_names(drive, of, cookie, reply);
        let send = |reply: ReplyDirectory, ()| reply.ok();
        self.pool
            .serve(Queue::Immediate, "readdir", reply, call, send);
    }

    fn readdirplus(
        &self,
        _req: &Request,
        of: INodeNo,
        _fh: FileHandle,
        cookie: u64,
        reply: ReplyDirectoryPlus,
    ) {
        trace!(ino = of.0, cookie, "readdirplus");
        let (of, show, lookups) = (ino(of), self.show, Arc::clone(&self.lookups));
        let call = move |drive: &Drive, reply: &mut _| {
            list_entries(drive, (of, cookie), show, &lookups, reply)
        };
        let send = |reply: ReplyDirectoryPlus, ()| reply.ok();
        self.pool
            .serve(Queue::Immediate, "readdirplus", reply, call, send);
    }

    fn releasedir(
        &self,
        _req: &Request,
        of: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        trace!(ino = of.0, fh = handle.0, "releasedir");
        let (of, handle) = (ino(of), fh(handle));
        let call = move |drive: &Drive, _: &mut _| {
            drive.releasedir(of, handle);
            Ok(())
        };
        self.pool
            .serve(Queue::Immediate, "releasedir", reply, call, empty);
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        of: INodeNo,
        _fh: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        trace!(ino = of.0, data_only, "fsyncdir");
        let of = ino(of);
        let call = move |drive: &Drive, _: &mut _| drive.fsync(of, data_only);
        self.pool.serve(Queue::Sync, "fsyncdir", reply, call, empty);
    }

    fn statfs(&self, _req: &Request, of: INodeNo, reply: ReplyStatfs) {
        trace!(ino = of.0, "statfs");
        let of = ino(of);
        let call = move |drive: &Drive, _: &mut _| drive.statfs(of);
        self.pool
            .serve(Queue::Immediate, "statfs", reply, call, statfs);
    }

    fn setxattr(
        &self,
        req: &Request,
        of: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        trace!(ino = of.0, ?name, len = value.len(), flags, "setxattr");
        let (by, of, name, value) = (caller(req, 0), ino(of), bytes(name), value.to_vec());
        let caching = Arc::clone(&self.caching);
        let call = move |drive: &Drive, _: &mut _| {
            drive.setxattr(by, of, &name, &value, flags)?;
            caching.note_attribute(of, &name);
            Ok(())
        };
        self.pool.serve(Queue::Name, "setxattr", reply, call, empty);
    }

    fn getxattr(&self, req: &Request, of: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        trace!(ino = of.0, ?name, size, "getxattr");
        let (of, name, by) = (ino(of), bytes(name), req.uid());
        let call = move |drive: &Drive, _: &mut _| drive.getxattr_for(by, of, &name);
        self.pool
            .serve(Queue::Immediate, "getxattr", reply, call, attribute(size));
    }

    fn listxattr(&self, req: &Request, of: INodeNo, size: u32, reply: ReplyXattr) {
        trace!(ino = of.0, size, "listxattr");
        let (of, by) = (ino(of), req.uid());
        let call = move |drive: &Drive, _: &mut _| {
            let names = drive.listxattr(of)?;
            Ok(convert::shown_attributes(names, by))
        };
        self.pool
            .serve(Queue::Immediate, "listxattr", reply, call, attribute(size));
    }

    fn removexattr(&self, _req: &Request, of: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        trace!(ino = of.0, ?name, "removexattr");
        let (of, name) = (ino(of), bytes(name));
        let call = move |drive: &Drive, _: &mut _| drive.removexattr(of, &name);
        self.pool
            .serve(Queue::Name, "removexattr", reply, call, empty);
    }

    fn fallocate(
        &self,
        req: &Request,
        of: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        trace!(ino = of.0, fh = handle.0, offset, length, mode, "fallocate");
        let (of, handle, kill) = (ino(of), fh(handle), convert::kills_set_id(req.uid()));
        let call =
            move |drive: &Drive, _: &mut _| drive.fallocate(of, handle, offset, length, mode, kill);
        self.pool
            .serve(Queue::Change, "fallocate", reply, call, empty);
    }

    /// The kernel sends only `SEEK_DATA` and `SEEK_HOLE`.
    fn lseek(
        &self,
        _req: &Request,
        of: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        trace!(ino = of.0, fh = handle.0, offset, whence, "lseek");
        let call = Lseek {
            caching: Arc::clone(&self.caching),
            ino: ino(of),
            fh: fh(handle),
            offset,
            whence,
        };
        let send = ReplyLseek::offset;
        self.pool
            .serve_patient(Queue::Read, "lseek", reply, &call, send);
    }

    fn copy_file_range(
        &self,
        req: &Request,
        from: INodeNo,
        from_fh: FileHandle,
        from_offset: u64,
        to: INodeNo,
        to_fh: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        trace!(
            from = from.0,
            from_offset,
            to = to.0,
            to_offset,
            len,
            "copy_file_range"
        );
        let (from, to) = ((fh(from_fh), from_offset), (fh(to_fh), to_offset));
        let kill = convert::kills_set_id(req.uid());
        let call = move |drive: &Drive, _: &mut _| drive.copy_file_range(from, to, len, kill);
        self.pool.serve(
            Queue::Change,
            "copy_file_range",
            reply,
            call,
            ReplyWrite::written,
        );
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(errno::NO_SUCH_IOCTL);
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(errno::NOT_IMPLEMENTED);
    }
}
