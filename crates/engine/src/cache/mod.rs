//! The cache: verified bytes of published contents on the local disk.
//!
//! Invariant: a byte that [`Cache::read`] hands out was hashed in this process. The cache is only
//! ever filled, may be deleted at any moment (also while it is in use), and never holds the only
//! copy of anything. Nothing here fails: what cannot be cached is dropped and counted.
//! Called by `fs` (read), `fetch` (all of it) and whoever settles a commit ([`Cache::adopt_file`]).

mod content;
mod direct;
mod files;
mod key;
mod recent;
mod small;

use std::fs::{File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cid::Cid;
use rustix::fs::fstatvfs;

use files::Files;
use key::Key;
use recent::{NODE, Recent};
use small::Small;

/// The step in which contents are cached: 1 MiB; the last chunk of a content may be shorter.
pub const CHUNK_BYTES: u64 = 1 << 20;

/// Contents up to this length, in one leaf, stand together with the nodes.
const SMALL_BYTES: u64 = 64 << 10;

/// The folder of this version of the layout, in the cache's folder.
const VERSION: &str = "v1";

/// Free bytes of the file system that are not for the cache (on a small one: a twentieth of it).
const SPARE_BYTES: u64 = 256 << 20;

/// Bytes that come and go between two looks at the room of one disk, at most.
const BETWEEN_BYTES: u64 = 64 << 20;

/// The largest content that is copied where it cannot be renamed: a commit waits for it.
const MOST_COPIED_BYTES: u64 = 64 << 20;

/// How much stays in memory of what the disk did not take, and of small contents.
const RECENT_BYTES: usize = 32 << 20;

/// How much stays in memory of larger contents that have just come, beside a disk of so many times that at least.
const PASSING_BYTES: usize = 16 << 20;
const PASSING_SHARE: u64 = 4;

/// What the cache knows of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Not here.
    Absent,
    /// On disk from an earlier run: to be hashed before it is trusted.
    Unverified,
    /// Here and verified.
    Verified,
}

/// How a chunk is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Into the kernel's cache, which writes it some time.
    Kernel,
    /// To the disk itself where it takes that: for who does not wait, since it takes the time of the disk.
    Disk,
}

/// What the cache holds, for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Greatest number of bytes on disk.
    pub cap_bytes: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Chunks that the disk did not take (full, failing, gone).
    pub dropped_chunks: u64,
}

/// The cache of one daemon; share it in an `Arc`. All calls are synchronous and local.
pub struct Cache {
    recent: Recent,
    /// Chunks that are read now, as a rule: apart, so that a large file does not push all small ones out.
    passing: Option<Recent>,
    disk: Option<Disk>,
    dropped_chunks: AtomicU64,
}

/// The part on disk.
struct Disk {
    cap_bytes: u64,
    files: Files,
    small: Small,
    /// Locked as long as the cache is open; also tells how full its file system is.
    lock: File,
}

impl Disk {
    /// What the contents of more than 64 KiB may take: beside the small ones and the next of
    /// these, and so that the file system keeps its spare room.
    fn files_limit(&self) -> u64 {
        let capped = self
            .cap_bytes
            .saturating_sub(self.small.bytes())
            .saturating_sub(self.small.step_bytes());
        let (free, spare) = self.free_and_spare();
        capped.min((self.files.bytes() + free).saturating_sub(spare))
    }

    /// Puts a small content or a node on disk, the larger ones giving way.
    fn put_small(&self, key: Key, bytes: &[u8]) {
        let (free, spare) = self.free_and_spare();
        if free <= spare {
            return;
        }
        self.small.put(key, bytes);
        let limit = self.files_limit();
        if self.files.bytes() > limit {
            self.files.shrink(limit);
        }
    }

    /// Free bytes of the file system, and those of them that are not for the cache.
    fn free_and_spare(&self) -> (u64, u64) {
        fstatvfs(&self.lock).map_or((u64::MAX / 2, 0), |disk| {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let whole = disk.f_blocks.saturating_mul(disk.f_frsize);
            (free, (whole / 20).min(SPARE_BYTES))
        })
    }
}

impl Cache {
    /// Opens or creates the cache in `dir`, holding at most `cap_bytes` of disk. Contents are not
    /// read. An error (one line, with the folder) when the folder cannot be used or another process
    /// has it: go on with [`Cache::in_memory`] then.
    pub fn open(dir: &Path, cap_bytes: u64) -> io::Result<Self> {
        let disk = open_disk(dir, cap_bytes).map_err(|error| {
            let text = format!("cache folder {}: {error}", dir.display());
            io::Error::new(error.kind(), text)
        })?;
        let passes = cap_bytes >= PASSING_SHARE * PASSING_BYTES as u64;
        Ok(Self {
            disk: Some(disk),
            passing: passes.then(|| Recent::new(PASSING_BYTES)),
            ..Self::in_memory()
        })
    }

    /// A cache without a disk: recent chunks alone.
    #[must_use]
    pub fn in_memory() -> Self {
        Self {
            recent: Recent::new(RECENT_BYTES),
            passing: None,
            disk: None,
            dropped_chunks: AtomicU64::new(0),
        }
    }

    /// Reads `buf.len()` bytes from `offset` of the content `cid`, whose whole length is `size`.
    /// True only when every byte was here and verified; else `buf` holds nothing of use. A range
    /// that passes `size` is never here.
    pub fn read(&self, cid: &Cid, size: u64, offset: u64, buf: &mut [u8]) -> bool {
        let Some(key) = Key::of(cid) else {
            return false;
        };
        if !in_bounds(size, offset, buf.len()) {
            return false;
        }
        pieces(offset, buf).all(|(chunk, from, part)| self.read_piece(key, size, chunk, from, part))
    }

    /// What is known of chunk number `chunk` (in steps of [`CHUNK_BYTES`]).
    pub fn presence(&self, cid: &Cid, size: u64, chunk: u64) -> Presence {
        let Some(key) = Key::of(cid) else {
            return Presence::Absent;
        };
        if self.in_memory_of(key, chunk).is_some() {
            return Presence::Verified;
        }
        match &self.disk {
            Some(_) if is_small(key, size) => match self.small_content(key) {
                Some(_) => Presence::Verified,
                None => Presence::Absent,
            },
            Some(disk) => disk.files.presence(key, size, chunk),
            None => Presence::Absent,
        }
    }

    /// The bytes of a chunk that stood as [`Presence::Unverified`], for hashing. Answer with
    /// [`Cache::trust`] or [`Cache::discard`].
    pub fn unverified(&self, cid: &Cid, size: u64, chunk: u64) -> Option<Vec<u8>> {
        let disk = self.disk.as_ref()?;
        disk.files.unverified(Key::of(cid)?, size, chunk)
    }

    /// Takes a chunk as verified: what [`Cache::unverified`] gave hashed to its CID.
    pub fn trust(&self, cid: &Cid, size: u64, chunk: u64) {
        if let (Some(disk), Some(key)) = (&self.disk, Key::of(cid)) {
            disk.files.trust(key, size, chunk);
        }
    }

    /// Drops a chunk: what [`Cache::unverified`] gave did not hash to its CID.
    pub fn discard(&self, cid: &Cid, size: u64, chunk: u64) {
        if let (Some(disk), Some(key)) = (&self.disk, Key::of(cid)) {
            disk.files.discard(key, size, chunk);
        }
    }

    /// Holds one verified chunk in memory for a while, so that it is read before it is on the disk: as
    /// [`Cache::fill`], which is still to be called. False where there is no memory for that beside so small a disk.
    pub fn hold(&self, cid: &Cid, size: u64, chunk: u64, bytes: &Bytes) -> bool {
        let key = Key::of(cid).filter(|_| chunk_len(size, chunk) == Some(bytes.len() as u64));
        let (Some(key), Some(passing)) = (key, &self.passing) else {
            return false;
        };
        passing.put(key, chunk, bytes.clone());
        true
    }

    /// Adds one verified chunk: `bytes` are all of chunk number `chunk` of the content. A read of
    /// it right after this succeeds, with or without a disk.
    pub fn fill(&self, cid: &Cid, size: u64, chunk: u64, bytes: &[u8]) {
        self.fill_by(By::Kernel, cid, size, chunk, bytes);
    }

    /// The same, written as `by` says.
    pub fn fill_by(&self, by: By, cid: &Cid, size: u64, chunk: u64, bytes: &[u8]) {
        let Some(key) = Key::of(cid) else {
            return;
        };
        if chunk_len(size, chunk) != Some(bytes.len() as u64) {
            return;
        }
        let taken = match &self.disk {
            // Small contents stay in memory as well: their next reads need no hashing then.
            Some(disk) if is_small(key, size) => {
                disk.put_small(key, bytes);
                false
            }
            Some(disk) => {
                let limit = disk.files_limit();
                // What is large beside the cap would only turn the cache over.
                let taken = bytes.len() as u64 <= limit / 2
                    && disk.files.fill(key, size, chunk, bytes, limit, by);
                if !taken {
                    self.dropped_chunks.fetch_add(1, Ordering::Relaxed);
                }
                taken
            }
            None => false,
        };
        if !taken {
            self.recent.put(key, chunk, Bytes::copy_from_slice(bytes));
        }
    }

    /// Takes the file at `path`, whose bytes are the whole content `cid` (hashed by the caller in
    /// this process, and written to by nobody any more): renamed into the cache on the same file
    /// system, else copied when it is not large. In every case `path` is gone afterwards.
    pub fn adopt_file(&self, cid: &Cid, size: u64, path: &Path) {
        if let (Some(disk), Some(key)) = (&self.disk, Key::of(cid)) {
            let limit = disk.files_limit();
            if is_small(key, size) || !disk.files.adopt(key, size, path, limit) {
                self.copy_file(cid, size, path, limit);
            }
        }
        let _ = std::fs::remove_file(path);
    }

    /// Forgets what is in memory, as when other contents had pushed it out.
    #[cfg(any(test, feature = "testing"))]
    pub fn forget(&self) {
        self.recent.clear();
        if let Some(passing) = &self.passing {
            passing.clear();
        }
    }

    /// Gives `bytes` of disk back, or all of them: what is not uploaded yet needs the room.
    pub fn give_way(&self, bytes: u64) {
        if let Some(disk) = &self.disk {
            let used = disk.files.bytes();
            disk.files.shrink(used.saturating_sub(bytes));
        }
    }

    /// Whether what the cache gives back is room in `folder`, too: both lie on one file system, or, as subvolumes and
    /// datasets of one pool do, on two that have as many bytes free, but for what is written between the two looks.
    pub fn shares_room(&self, folder: &Path) -> bool {
        let Some(disk) = &self.disk else {
            return false;
        };
        let device = |meta: io::Result<Metadata>| meta.map(|meta| meta.dev()).ok();
        let own = device(disk.lock.metadata());
        own.is_none() || own == device(folder.metadata()) || {
            let own = fstatvfs(&disk.lock).map(|stat| stat.f_bavail * stat.f_frsize);
            let free = crate::durable::free_bytes(folder);
            own.is_ok_and(|own| free.is_ok_and(|free| free.abs_diff(own) <= BETWEEN_BYTES))
        }
    }

    /// The encoded bytes of a dag-pb node, verified.
    pub fn node(&self, cid: &Cid) -> Option<Bytes> {
        let key = Key::of(cid)?;
        if let Some(bytes) = self.recent.get(key, NODE) {
            return Some(bytes);
        }
        let bytes = self.disk.as_ref()?.small.get(key)?;
        self.recent.put(key, NODE, bytes.clone());
        Some(bytes)
    }

    /// Adds the encoded bytes of a dag-pb node, verified by the caller.
    pub fn put_node(&self, cid: &Cid, bytes: &Bytes) {
        if let Some(key) = Key::of(cid).filter(|key| key.is_node()) {
            if let Some(disk) = &self.disk {
                disk.put_small(key, bytes);
            }
            self.recent.put(key, NODE, bytes.clone());
        }
    }

    /// What the cache holds.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let disk = self.disk.as_ref();
        if let Some(disk) = disk {
            disk.small.look_now();
        }
        let passing = self.passing.as_ref().map_or(0, Recent::bytes);
        Usage {
            disk_bytes: disk.map_or(0, |disk| disk.files.bytes() + disk.small.bytes()),
            cap_bytes: disk.map_or(0, |disk| disk.cap_bytes),
            memory_bytes: (self.recent.bytes() + passing) as u64,
            dropped_chunks: self.dropped_chunks.load(Ordering::Relaxed),
        }
    }

    fn read_piece(&self, key: Key, size: u64, chunk: u64, from: usize, part: &mut [u8]) -> bool {
        let copy = |bytes: &Bytes, part: &mut [u8]| {
            let found = bytes.get(from..from.saturating_add(part.len()));
            found.is_some_and(|found| {
                part.copy_from_slice(found);
                true
            })
        };
        if let Some(bytes) = self.in_memory_of(key, chunk) {
            return copy(&bytes, part);
        }
        match &self.disk {
            Some(_) if is_small(key, size) => self
                .small_content(key)
                .is_some_and(|bytes| copy(&bytes, part)),
            Some(disk) => disk.files.read(key, size, chunk, from as u64, part),
            None => false,
        }
    }

    fn in_memory_of(&self, key: Key, chunk: u64) -> Option<Bytes> {
        let recent = self.recent.get(key, chunk);
        recent.or_else(|| self.passing.as_ref()?.get(key, chunk))
    }

    /// A small content from the disk, kept in memory from now on.
    fn small_content(&self, key: Key) -> Option<Bytes> {
        let bytes = self.disk.as_ref()?.small.get(key)?;
        self.recent.put(key, 0, bytes.clone());
        Some(bytes)
    }

    /// Copies a content that could not be renamed into the cache, when it is not large beside it.
    fn copy_file(&self, cid: &Cid, size: u64, path: &Path, limit_bytes: u64) {
        let Ok(file) = File::open(path) else {
            return;
        };
        if size > MOST_COPIED_BYTES.min(limit_bytes / 4)
            || file.metadata().map_or(0, |data| data.len()) != size
        {
            return;
        }
        for chunk in 0..size.div_ceil(CHUNK_BYTES) {
            let len = chunk_len(size, chunk).and_then(|len| usize::try_from(len).ok());
            let mut bytes = vec![0; len.unwrap_or(0)];
            if std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, chunk * CHUNK_BYTES)
                .is_err()
            {
                return;
            }
            self.fill(cid, size, chunk, &bytes);
        }
    }
}

/// Creates the folders, takes the lock, lists what is there.
fn open_disk(dir: &Path, cap_bytes: u64) -> io::Result<Disk> {
    // What is in it is for its owner alone, whatever the umask.
    crate::durable::create_folder(dir)?;
    let lock = File::create(dir.join("lock"))?;
    crate::durable::lock_whole(&lock).map_err(|error| match error {
        TryLockError::WouldBlock => {
            io::Error::new(io::ErrorKind::WouldBlock, "another pxfs is using it")
        }
        TryLockError::Error(error) => error,
    })?;
    let home = dir.join(VERSION);
    let small = Small::open(&home.join("small"), cap_bytes / 4)?;
    let disk = Disk {
        cap_bytes,
        files: Files::open(&home.join("files"))?,
        small,
        lock,
    };
    disk.files.shrink(disk.files_limit());
    Ok(disk)
}

/// Whether a content stands with the small ones: one leaf that its own CID verifies.
fn is_small(key: Key, size: u64) -> bool {
    size <= SMALL_BYTES && !key.is_node()
}

/// Whether `len` bytes from `offset` lie within `size`.
fn in_bounds(size: u64, offset: u64, len: usize) -> bool {
    offset
        .checked_add(len as u64)
        .is_some_and(|end| end <= size)
}

/// The length of chunk number `chunk` of a content of `size` bytes; `None` beyond its end.
fn chunk_len(size: u64, chunk: u64) -> Option<u64> {
    let start = chunk.checked_mul(CHUNK_BYTES)?;
    (start < size).then(|| CHUNK_BYTES.min(size - start))
}

/// Cuts a buffer for the bytes from `offset` at chunk borders: chunk number, offset in the chunk,
/// part of the buffer. Nothing when the range passes `size`.
fn pieces(offset: u64, buf: &mut [u8]) -> impl Iterator<Item = (u64, usize, &mut [u8])> {
    let mut rest = buf;
    let mut at = offset;
    std::iter::from_fn(move || {
        let within = at % CHUNK_BYTES;
        let chunk = at / CHUNK_BYTES;
        let room = usize::try_from(CHUNK_BYTES - within).unwrap_or(usize::MAX);
        let len = rest.len().min(room);
        if len == 0 {
            return None;
        }
        let (part, tail) = std::mem::take(&mut rest).split_at_mut(len);
        rest = tail;
        at += len as u64;
        Some((chunk, usize::try_from(within).unwrap_or(usize::MAX), part))
    })
}

#[cfg(test)]
mod tests;
