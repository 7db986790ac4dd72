//! What the kernel keeps of a file's content: one rule for every open.
//!
//! A handle that only writes, opened while nobody else has the file open to read, goes past the page
//! cache (`FOPEN_DIRECT_IO`): no second copy of what nobody reads back, and no question for
//! privileges before the first write. All other handles are cached, and keep what earlier ones read.
//!
//! Invariant: a page in the cache has the bytes of every write that was answered. The kernel drops
//! the pages that a direct write meets before it, but not every kernel does so after it, and one that
//! is read in between has the old bytes. So where a handle that can fill the cache was open beside it,
//! if only for a moment, these pages are dropped once more before the write is answered
//! ([`Caching::after_write`]).
//! Called by `adapter` alone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use fuser::FopenFlags;

use super::Notifier;
use crate::fs::FsError;
use crate::types::{Fh, Ino};

/// The flags of open(2) that matter here.
const O_ACCMODE: i32 = 0o3;
const O_RDONLY: i32 = 0o0;
const O_WRONLY: i32 = 0o1;
const O_DSYNC: i32 = 0o10000;

/// The extended attribute that a write takes away. On the way through the page cache the kernel does
/// so by itself, as it asks for an `fsync` where the write wants one; past it the file system must.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// How the files that are open are cached.
#[derive(Default)]
pub(super) struct Caching {
    /// The kernel does what direct handles need.
    direct: AtomicBool,
    notifier: OnceLock<Notifier>,
    open: Mutex<HashMap<Ino, Open>>,
}

/// An inode with open handles.
#[derive(Default)]
struct Open {
    direct: Vec<Fh>,
    /// How many other handles.
    cached: usize,
    /// One of them was open beside a direct one: it may have read, and be gone, while a write was on
    /// its way.
    met: bool,
    /// Was given [`CAPABILITY`] while open.
    capable: bool,
}

/// How a write ended, all but its pages.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answered {
    /// What its caller is told.
    pub(super) written: Result<u32, FsError>,
    /// Drop the pages that it met first: [`Caching::drop_pages`]. Also where it is an error that is told:
    /// some of the bytes, or all, may be there.
    pub(super) pages: bool,
}

impl Answered {
    /// With nothing left to be done.
    pub(super) fn plainly(written: Result<u32, FsError>) -> Self {
        Self {
            written,
            pages: false,
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

    /// How the handle `fh`, opened with `flags` of open(2), is to be cached; known until
    /// [`Caching::closed`]. `capable`: the file has [`CAPABILITY`], which the kernel looks after.
    pub(super) fn opened(&self, ino: Ino, fh: Fh, flags: i32, capable: bool) -> FopenFlags {
        let access = flags & O_ACCMODE;
        let may = access == O_WRONLY && !capable && self.direct.load(Ordering::Relaxed);
        let mut table = self.lock();
        let open = table.entry(ino).or_default();
        let mut how = FopenFlags::FOPEN_KEEP_CACHE;
        if may && open.cached == 0 {
            open.direct.push(fh);
            how |= FopenFlags::FOPEN_DIRECT_IO;
        } else {
            open.cached += 1;
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
        let mut table = self.lock();
        let Some(open) = table.get_mut(&ino) else {
            return;
        };
        match open.direct.iter().position(|known| *known == fh) {
            Some(at) => drop(open.direct.swap_remove(at)),
            None => open.cached = open.cached.saturating_sub(1),
        }
        open.met &= !open.direct.is_empty();
        if open.cached == 0 && open.direct.is_empty() {
            table.remove(&ino);
        }
    }

    /// The file was given [`CAPABILITY`].
    pub(super) fn note_capability(&self, ino: Ino) {
        if let Some(open) = self.lock().get_mut(&ino) {
            open.capable = true;
        }
    }

    /// Does what a write by `fh` leaves to be done, which has just ended as `written`: takes
    /// [`CAPABILITY`] away by `take_away`, and makes the file durable by `sync`, as whoever writes with
    /// `O_DSYNC` is promised. `flags` are those of the write, in the words of open(2).
    pub(super) fn after_write(
        &self,
        ino: Ino,
        fh: Fh,
        flags: i32,
        written: Result<u32, FsError>,
        take_away: impl FnOnce() -> Result<(), FsError>,
        sync: impl FnOnce() -> Result<(), FsError>,
    ) -> Answered {
        let (pages, capable) = match self.lock().get_mut(&ino).filter(|open| open.has(fh)) {
            Some(open) => (open.met, std::mem::take(&mut open.capable)),
            None => return Answered::plainly(written),
        };
        if capable
            && let Err(error) = take_away()
            && error != FsError::NoAttribute
        {
            self.note_capability(ino);
            let written = written.and(Err(error));
            return Answered { written, pages };
        }
        let written = written.and_then(|written| match flags & O_DSYNC {
            0 => Ok(written),
            _ => sync().map(|()| written),
        });
        Answered { written, pages }
    }

    /// Whether a write by `fh` with `flags` is to be made durable here.
    pub(super) fn syncs(&self, ino: Ino, fh: Fh, flags: i32) -> bool {
        let is_direct = || self.lock().get(&ino).is_some_and(|open| open.has(fh));
        flags & O_DSYNC != 0 && is_direct()
    }

    /// Drops the pages of `len` bytes at `offset`. Waits for reads of them that are under way: not
    /// for a thread that answers them.
    pub(super) fn drop_pages(&self, ino: Ino, offset: u64, len: u32) {
        if let Some(notifier) = self.notifier.get() {
            notifier.drop_pages(ino, offset, len);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ino, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Ino = Ino(7);
    const RDWR: i32 = 0o2;

    fn caching() -> Caching {
        let caching = Caching::default();
        caching.allow_direct();
        caching
    }

    /// How a write ends that leaves nothing undone, and whether it was made durable.
    fn write(caching: &Caching, fh: Fh, flags: i32) -> (Answered, bool) {
        let mut synced = false;
        let sync = || {
            synced = true;
            Ok(())
        };
        let answered = caching.after_write(FILE, fh, flags, Ok(1), || Ok(()), sync);
        (answered, synced)
    }

    fn drops_pages(caching: &Caching, fh: Fh) -> bool {
        write(caching, fh, 0).0.pages
    }

    fn is_direct(how: FopenFlags) -> bool {
        how.contains(FopenFlags::FOPEN_DIRECT_IO)
    }

    #[test]
    fn a_reader_beside_a_direct_writer_never_keeps_old_pages() {
        let caching = caching();
        assert!(is_direct(caching.opened(FILE, Fh(1), O_WRONLY, false)));
        assert!(!drops_pages(&caching, Fh(1)));
        for flags in [O_RDONLY, RDWR] {
            assert!(!is_direct(caching.opened(FILE, Fh(2), flags, false)));
            assert!(drops_pages(&caching, Fh(1)));
            // What goes through the cache changes the pages itself.
            assert!(!drops_pages(&caching, Fh(2)));
            caching.closed(FILE, Fh(2));
            // It may have read while a write was on its way.
            assert!(drops_pages(&caching, Fh(1)));
        }
        caching.closed(FILE, Fh(1));
        assert!(is_direct(caching.opened(FILE, Fh(3), O_WRONLY, false)));
        assert!(!drops_pages(&caching, Fh(3)));
    }

    #[test]
    fn a_writer_beside_a_reader_goes_through_the_cache() {
        let caching = caching();
        caching.opened(FILE, Fh(1), O_RDONLY, false);
        assert!(!is_direct(caching.opened(FILE, Fh(2), O_WRONLY, false)));
        caching.closed(FILE, Fh(1));
        assert!(!is_direct(caching.opened(FILE, Fh(3), O_WRONLY, false)));
        assert!(is_direct(caching.opened(Ino(8), Fh(4), O_WRONLY, false)));
        caching.closed(FILE, Fh(2));
        caching.closed(FILE, Fh(3));
        assert!(is_direct(caching.opened(FILE, Fh(5), O_WRONLY, false)));
    }

    #[test]
    fn a_write_never_leaves_the_file_its_capabilities() {
        let caching = caching();
        assert!(!is_direct(caching.opened(FILE, Fh(1), O_WRONLY, true)));
        caching.closed(FILE, Fh(1));
        assert!(is_direct(caching.opened(FILE, Fh(2), O_WRONLY, false)));
        caching.note_capability(FILE);
        let mut asked = Vec::new();
        for answer in [Err(FsError::ReadOnly(String::new())), Ok(()), Ok(())] {
            let taken = || {
                asked.push(answer.is_ok());
                answer
            };
            caching.after_write(FILE, Fh(2), 0, Ok(1), taken, || Ok(()));
        }
        // Tried again while it fails, and then no more.
        assert_eq!(asked, [false, true]);
    }

    #[test]
    fn a_synchronous_write_is_made_durable_by_the_kernel_or_here() {
        let caching = caching();
        let flags = O_WRONLY | O_DSYNC;
        assert!(is_direct(caching.opened(FILE, Fh(1), flags, false)));
        assert!(write(&caching, Fh(1), flags).1);
        assert!(!write(&caching, Fh(1), O_WRONLY).1);
        caching.opened(FILE, Fh(2), O_RDONLY, false);
        caching.opened(FILE, Fh(3), flags, false);
        assert!(!write(&caching, Fh(3), flags).1);
    }

    #[test]
    fn a_write_that_fails_behind_its_bytes_leaves_no_reader_old_pages() {
        let caching = caching();
        caching.opened(FILE, Fh(1), O_WRONLY | O_DSYNC, false);
        caching.opened(FILE, Fh(2), O_RDONLY, false);
        let disk = || FsError::Disk("it broke".to_owned());
        let failed = Answered {
            written: Err(disk()),
            pages: true,
        };
        let fails = || Err(disk());
        let unsynced = caching.after_write(FILE, Fh(1), O_DSYNC, Ok(1), || Ok(()), fails);
        assert_eq!(unsynced, failed);
        caching.note_capability(FILE);
        let capable = caching.after_write(FILE, Fh(1), O_DSYNC, Ok(1), fails, || Ok(()));
        assert_eq!(capable, failed);
        // Nor one that fails itself: it may have come half way.
        let halfway = caching.after_write(FILE, Fh(1), 0, Err(disk()), || Ok(()), || Ok(()));
        assert_eq!(halfway, failed);
    }

    #[test]
    fn without_the_kernels_word_everything_is_cached() {
        let caching = Caching::default();
        assert!(!is_direct(caching.opened(FILE, Fh(1), O_WRONLY, false)));
    }

    #[test]
    fn close_of_whoever_wrote_is_always_asked() {
        let caching = caching();
        for (flags, asked) in [(O_RDONLY, false), (O_WRONLY, true), (RDWR, true)] {
            let how = caching.opened(FILE, Fh(1), flags, false);
            assert_eq!(!how.contains(FopenFlags::FOPEN_NOFLUSH), asked);
        }
    }
}
