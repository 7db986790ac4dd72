//! What the kernel keeps of a file's content: one rule for every open.
//!
//! A handle that only writes, opened while nobody else has the file open to read, goes past the page
//! cache (`FOPEN_DIRECT_IO`): no second copy of what nobody reads back, and no question for
//! privileges before the first write. All other handles are cached, and keep what earlier ones read.
//!
//! Invariant: at the moment in which a direct write takes effect there is no page in the cache of what it
//! writes. So every page that is there afterwards was read afterwards, and has the written bytes: no reader
//! sees older ones, and a page that is stored into through a mapping takes none back when it is written.
//!
//! What holds it up: one write to a file goes on in the kernel at a time, so only reads fill pages beside it.
//! The kernel drops the pages that it meets before it sends a direct write. While no other handle is open,
//! which is asked after the reads were counted, nobody reads ([`Way::Alone`]); where one is, or was, the
//! pages are dropped again, after a count, which waits for the reads and write-backs that are under way
//! ([`Caching::write_beside`]). Either way the write is made only if, with the file locked, the count of reads
//! is still that one: else a page may have come, and it is done again.
//! (A kernel before 6.16 does not wait for a page's write-back: there one that is on its way may still come
//! behind the write.)
//!
//! A page that is stored into through a mapping is the kernel's until it is written back, and may lie in what the drive
//! takes for a hole. So whoever is about to be told of a hole, while a handle is open that can be mapped to store
//! (a mapping keeps its own open), has it written back first ([`Caching::seek`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use fuser::FopenFlags;
use pxfs_base::lock;

use super::Notifier;
use crate::fs::{Drive, FsError};
use crate::types::{Fh, Ino};

/// The flags of open(2) that matter here.
const O_ACCMODE: i32 = 0o3;
const O_RDONLY: i32 = 0o0;
const O_WRONLY: i32 = 0o1;
const O_RDWR: i32 = 0o2;
const O_DSYNC: i32 = 0o10000;

/// How often a write is tried beside readers: each time one of them has to come within microseconds.
const TRIES: usize = 1000;

/// Pages that are written back at a time before a hole is believed, bytes, also where it is smaller.
const HOLE: u64 = 1 << 20;

/// The extended attribute that a write takes away. On the way through the page cache the kernel does
/// so by itself, as it asks for an `fsync` where the write wants one; past it the file system must.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// The extended attribute that changes the mode.
const ACL: &[u8] = b"system.posix_acl_access";

/// How the files that are open are cached.
#[derive(Default)]
pub(super) struct Caching {
    /// The kernel does what direct handles need.
    direct: AtomicBool,
    notifier: OnceLock<Notifier>,
    open: Mutex<HashMap<Ino, Open>>,
    /// How often a file was given [`CAPABILITY`].
    capabilities: AtomicU64,
}

/// An inode with open handles.
#[derive(Default)]
struct Open {
    direct: Vec<Fh>,
    /// How many other handles.
    cached: usize,
    /// Those of them that can be mapped to store.
    storing: Vec<Fh>,
    /// One of them was open beside a direct one: it may have read, and be gone, while a write was on
    /// its way.
    met: bool,
    /// Was given [`CAPABILITY`] while open.
    capable: bool,
}

/// How a write is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The kernel has changed its pages itself, or will.
    Cached,
    /// Past the cache, where nobody can fill it.
    Alone,
    /// Past the cache, by [`Caching::write_beside`].
    Beside,
}

/// A question of lseek(2).
#[derive(Clone, Copy, Debug)]
pub(super) enum Seek {
    /// For data at or behind an offset.
    Data(u64),
    /// For a hole.
    Hole,
}

impl Seek {
    /// The hole that the answer `found` tells of, as far as it has to be one for that; 0 bytes are all that follow.
    fn hole(self, found: &Result<u64, FsError>) -> Option<(u64, u64)> {
        match (self, found) {
            (Self::Data(from), Ok(found)) => {
                let len = found.checked_sub(from).filter(|len| *len > 0)?;
                Some((from, len))
            }
            (Self::Data(from), Err(FsError::NoData)) => Some((from, 0)),
            (Self::Hole, Ok(found)) => Some((*found, HOLE)),
            (_, Err(_)) => None,
        }
    }
}

impl Open {
    /// Whether `fh` is direct.
    fn has(&self, fh: Fh) -> bool {
        self.direct.contains(&fh)
    }
}

impl Caching {
    /// The kernel lets direct handles be mapped (it asks for that with all of them or with none).
    pub(super) fn allow_direct(&self) {
        self.direct.store(true, Ordering::Relaxed);
    }

    /// The mount's notifier, before the first call.
    pub(super) fn tell_through(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// Opens `ino` with `flags` of open(2): the handle, and how it is to be cached.
    ///
    /// # Errors
    /// What the drive says.
    pub(super) fn open(
        &self,
        drive: &Drive,
        ino: Ino,
        flags: i32,
    ) -> Result<(Fh, FopenFlags), FsError> {
        let given = self.capabilities();
        let opened = drive.open(ino, flags)?;
        let capable = opened.writes && drive.getxattr(ino, CAPABILITY).is_ok();
        let how = self.opened(ino, opened.fh, flags, capable);
        if opened.writes && given != self.capabilities() {
            // It may have been this file, after it was asked and before this handle was known.
            self.doubt_capability(ino);
        }
        Ok((opened.fh, how))
    }

    /// The file was given the extended attribute `name`.
    pub(super) fn note_attribute(&self, ino: Ino, name: &[u8]) {
        match name {
            CAPABILITY => self.note_capability(ino),
            ACL => self.drop_attributes(ino),
            _ => {}
        }
    }

    /// How the handle `fh`, opened with `flags` of open(2), is to be cached; known until
    /// [`Caching::closed`]. `capable`: the file has [`CAPABILITY`], which the kernel looks after.
    pub(super) fn opened(&self, ino: Ino, fh: Fh, flags: i32, capable: bool) -> FopenFlags {
        let access = flags & O_ACCMODE;
        let may = access == O_WRONLY && !capable && self.direct.load(Ordering::Relaxed);
        let mut table = lock(&self.open);
        let open = table.entry(ino).or_default();
        let mut how = FopenFlags::FOPEN_KEEP_CACHE;
        if may && open.cached == 0 {
            open.direct.push(fh);
            how |= FopenFlags::FOPEN_DIRECT_IO;
        } else {
            open.cached += 1;
            open.storing.extend((access == O_RDWR).then_some(fh));
        }
        open.met |= open.cached > 0 && !open.direct.is_empty();
        if access == O_RDONLY {
            // Nothing can have gone wrong that `close` would have to tell.
            how |= FopenFlags::FOPEN_NOFLUSH;
        }
        how
    }

    /// The handle is gone.
    pub(super) fn closed(&self, ino: Ino, fh: Fh) {
        let mut table = lock(&self.open);
        let Some(open) = table.get_mut(&ino) else {
            return;
        };
        match open.direct.iter().position(|known| *known == fh) {
            Some(at) => drop(open.direct.swap_remove(at)),
            None => open.cached = open.cached.saturating_sub(1),
        }
        open.storing.retain(|known| *known != fh);
        open.met &= !open.direct.is_empty();
        if open.cached == 0 && open.direct.is_empty() {
            table.remove(&ino);
        }
    }

    /// How often some file was given [`CAPABILITY`]: more than before, where one may have been since.
    fn capabilities(&self) -> u64 {
        self.capabilities.load(Ordering::SeqCst)
    }

    /// The file was given [`CAPABILITY`].
    fn note_capability(&self, ino: Ino) {
        self.capabilities.fetch_add(1, Ordering::SeqCst);
        self.doubt_capability(ino);
    }

    /// The file may have [`CAPABILITY`]: the next write takes it away.
    fn doubt_capability(&self, ino: Ino) {
        if let Some(open) = lock(&self.open).get_mut(&ino) {
            open.capable = true;
        }
    }

    /// The file was given [`ACL`]: a kernel that does not compare it goes on showing the mode that was.
    fn drop_attributes(&self, ino: Ino) {
        if let Some(notifier) = self.notifier.get() {
            notifier.inval_attributes(ino);
        }
    }

    /// How a write by `fh` is to be made.
    pub(super) fn way(&self, ino: Ino, fh: Fh) -> Way {
        match lock(&self.open).get(&ino).filter(|open| open.has(fh)) {
            None => Way::Cached,
            Some(open) if open.met => Way::Beside,
            Some(_) => Way::Alone,
        }
    }

    /// Makes a direct write of `len` bytes at `offset` while no page of them is in the cache. `reads` counts the
    /// reads of the file; `write` writes if there were not more than so many, else gives `None`. Waits for
    /// reads and write-backs of the pages: not for a thread that answers them.
    ///
    /// # Errors
    /// What `write` says; [`FsError::Disk`] where readers come between again and again, and
    /// [`FsError::TimedOut`] where they do until `is_over`.
    pub(super) fn write_beside(
        &self,
        ino: Ino,
        offset: u64,
        len: u32,
        reads: impl Fn() -> Result<u64, FsError>,
        mut write: impl FnMut(u64) -> Result<Option<u32>, FsError>,
        is_over: impl Fn() -> bool,
    ) -> Result<u32, FsError> {
        for _ in 0..TRIES {
            let known = reads()?;
            if let Some(notifier) = self.notifier.get() {
                notifier.drop_pages(ino, offset, len.into());
            }
            if let Some(written) = write(known)? {
                return Ok(written);
            }
            if is_over() {
                return Err(FsError::TimedOut);
            }
        }
        Err(FsError::Disk(
            "what is written is read again all the time".to_owned(),
        ))
    }

    /// Whether what `found` says, the answer to `seek`, may be otherwise for pages that only the kernel has.
    pub(super) fn doubts(&self, ino: Ino, seek: Seek, found: &Result<u64, FsError>) -> bool {
        let is_stored = lock(&self.open)
            .get(&ino)
            .is_some_and(|o| !o.storing.is_empty());
        is_stored && seek.hole(found).is_some()
    }

    /// Answers `seek` by `ask` when the hole that it tells of has no page that was stored into. Waits for
    /// write-backs: not for a thread that answers them.
    ///
    /// # Errors
    /// What `ask` says; [`FsError::TimedOut`] where pages come again and again until `is_over`.
    pub(super) fn seek(
        &self,
        ino: Ino,
        seek: Seek,
        ask: impl Fn() -> Result<u64, FsError>,
        is_over: impl Fn() -> bool,
    ) -> Result<u64, FsError> {
        let mut found = ask();
        for _ in 0..TRIES {
            let Some((start, len)) = seek.hole(&found) else {
                break;
            };
            if let Some(notifier) = self.notifier.get() {
                notifier.drop_pages(ino, start, len);
            }
            let before = std::mem::replace(&mut found, ask());
            if found == before {
                break;
            }
            if is_over() {
                return Err(FsError::TimedOut);
            }
        }
        found
    }

    /// Does what a write by `fh` leaves to be done: takes [`CAPABILITY`] away by `take_away`, and makes the
    /// file durable by `sync`, as whoever writes with `O_DSYNC` is promised. `flags` are those of the write, in
    /// the words of open(2).
    ///
    /// # Errors
    /// What these say.
    pub(super) fn after_write(
        &self,
        ino: Ino,
        fh: Fh,
        flags: i32,
        take_away: impl FnOnce() -> Result<(), FsError>,
        sync: impl FnOnce() -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let capable = match lock(&self.open).get_mut(&ino).filter(|open| open.has(fh)) {
            Some(open) => std::mem::take(&mut open.capable),
            None => return Ok(()),
        };
        if capable
            && let Err(error) = take_away()
            && error != FsError::NoAttribute
        {
            self.doubt_capability(ino);
            return Err(error);
        }
        match flags & O_DSYNC {
            0 => Ok(()),
            _ => sync(),
        }
    }

    /// Whether a write by `fh` with `flags` is to be made durable here.
    pub(super) fn syncs(&self, ino: Ino, fh: Fh, flags: i32) -> bool {
        let is_direct = || lock(&self.open).get(&ino).is_some_and(|open| open.has(fh));
        flags & O_DSYNC != 0 && is_direct()
    }
}

#[cfg(test)]
#[path = "caching/tests.rs"]
mod tests;
