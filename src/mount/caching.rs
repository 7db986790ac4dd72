//! Decides what the kernel caches of a file's content: one rule for every open.
//!
//! A write-only handle, opened while nobody reads the file, bypasses the page cache
//! (`FOPEN_DIRECT_IO`): this saves a second copy and the privilege check before the first write.
//! All other handles are cached.
//!
//! Invariant: when a direct write takes effect, the cache holds no page of its range. So every
//! later page holds the written bytes, and a mapped page that is written back reverts none of them.
//!
//! Why it holds: the kernel runs one write to a file at a time, so only reads fill pages meanwhile,
//! and it drops the pages it meets before it sends a direct write. If no other handle is open
//! ([`Way::Alone`]), nobody reads. Otherwise [`Caching::write_beside`] counts the reads, drops the
//! pages (which waits for reads and write-backs in progress), and writes only if, with the file
//! locked, the count is unchanged; else it retries. (Before Linux 6.16 the kernel does not wait for
//! a page's write-back, so one in progress may still land after the write.)
//!
//! A page stored into through a mapping may lie in what the drive takes for a hole. So if a handle
//! that can be mapped for storing is open, [`Caching::seek`] has the page written back before it
//! reports a hole.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use fuser::FopenFlags;
use pxfs_base::lock;

use super::Notifier;
use crate::fs::{Drive, FsError};
use crate::types::{Fh, Ino};

const O_ACCMODE: i32 = 0o3;
const O_RDONLY: i32 = 0o0;
const O_WRONLY: i32 = 0o1;
const O_RDWR: i32 = 0o2;
const O_DSYNC: i32 = 0o10000;

/// Tries of a write beside readers: for each retry a reader has to come within microseconds.
const TRIES: usize = 1000;

/// Pages written back at a time before a hole is believed, bytes.
const HOLE: u64 = 1 << 20;

/// A write removes this attribute. For cached writes the kernel does so, as it syncs `O_DSYNC`
/// writes; for direct ones the file system must.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// This attribute changes the mode.
const ACL: &[u8] = b"system.posix_acl_access";

#[derive(Default)]
pub(super) struct Caching {
    /// The kernel supports direct handles that can be mapped.
    direct: AtomicBool,
    notifier: OnceLock<Notifier>,
    open: Mutex<HashMap<Ino, Open>>,
    /// How often any file was given [`CAPABILITY`].
    capabilities: AtomicU64,
}

#[derive(Default)]
struct Open {
    direct: Vec<Fh>,
    cached: usize,
    /// Cached handles that can be mapped for storing.
    storing: Vec<Fh>,
    /// A cached handle was open beside a direct one: it may have read during a write.
    met: bool,
    /// The file was given [`CAPABILITY`] while open.
    capable: bool,
}

/// How a write is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Cached,
    /// Past the cache; nobody can fill it.
    Alone,
    /// Past the cache, beside readers ([`Caching::write_beside`]).
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
    /// The hole in `found`, as far as it must be one for that answer; 0 bytes mean all that
    /// follows.
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
    fn has(&self, fh: Fh) -> bool {
        self.direct.contains(&fh)
    }
}

impl Caching {
    /// The kernel lets direct handles be mapped; it asks for all of them or none.
    pub(super) fn allow_direct(&self) {
        self.direct.store(true, Ordering::Relaxed);
    }

    pub(super) fn tell_through(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// Opens `ino` with `flags` of open(2): the handle, and how to cache it.
    ///
    /// # Errors
    /// The drive's.
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
            // Another thread may have given this file the attribute before the handle was known.
            self.doubt_capability(ino);
        }
        Ok((opened.fh, how))
    }

    pub(super) fn note_attribute(&self, ino: Ino, name: &[u8]) {
        match name {
            CAPABILITY => self.note_capability(ino),
            ACL => self.drop_attributes(ino),
            _ => {}
        }
    }

    /// How to cache the handle `fh`, opened with `flags` of open(2), until [`Caching::closed`].
    /// `capable`: the file has [`CAPABILITY`].
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
            // `close` has no error to report.
            how |= FopenFlags::FOPEN_NOFLUSH;
        }
        how
    }

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

    /// Grows whenever some file is given [`CAPABILITY`].
    fn capabilities(&self) -> u64 {
        self.capabilities.load(Ordering::SeqCst)
    }

    /// The file was given [`CAPABILITY`].
    fn note_capability(&self, ino: Ino) {
        self.capabilities.fetch_add(1, Ordering::SeqCst);
        self.doubt_capability(ino);
    }

    /// The file may have [`CAPABILITY`]: the next write removes it.
    fn doubt_capability(&self, ino: Ino) {
        if let Some(open) = lock(&self.open).get_mut(&ino) {
            open.capable = true;
        }
    }

    /// The file was given [`ACL`]; a kernel that does not compare ACLs would go on showing the old
    /// mode.
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

    /// Makes a direct write of `len` bytes at `offset` while the cache holds no page of them. `reads` counts
    /// the file's reads; `write` writes unless there were more than that, else returns `None`. Waits for
    /// reads and write-backs of the pages: never call it from a thread that answers them.
    ///
    /// # Errors
    /// Those of `write`; [`FsError::Disk`] if readers come between [`TRIES`] times, [`FsError::TimedOut`] if
    /// they do until `is_over`.
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

    /// Whether pages that only the kernel has may change `found`, the answer to `seek`.
    pub(super) fn doubts(&self, ino: Ino, seek: Seek, found: &Result<u64, FsError>) -> bool {
        let is_stored = lock(&self.open)
            .get(&ino)
            .is_some_and(|o| !o.storing.is_empty());
        is_stored && seek.hole(found).is_some()
    }

    /// Answers `seek` by `ask` once no page was stored into the hole that it reports. Waits for
    /// write-backs: never call it from a thread that answers them.
    ///
    /// # Errors
    /// Those of `ask`; [`FsError::TimedOut`] if pages keep coming until `is_over`.
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

    /// Finishes a direct write by `fh`: removes [`CAPABILITY`] by `take_away`, and makes the file durable by
    /// `sync` if `O_DSYNC` asks for it. `flags` are those of open(2) at the write.
    ///
    /// # Errors
    /// Those of `take_away` and `sync`.
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
