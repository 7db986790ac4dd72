//! The cache: verified bytes of published contents on the local disk.
//!
//! Invariant: a byte that [`Cache::read`] hands out was hashed in this process. The cache is only
//! ever filled, may be deleted at any moment (also while it is in use), and never holds the only
//! copy of anything. Nothing here fails: what cannot be cached is dropped and counted.
//! Called by `fs` (read), `fetch` (all of it) and whoever settles a commit ([`Cache::adopt_file`]).

mod key;
mod recent;

use std::io;
use std::path::Path;

use bytes::Bytes;
use cid::Cid;

use key::Key;
use recent::{NODE, Recent};

/// The step in which contents are cached: 1 MiB; the last chunk of a content may be shorter.
pub const CHUNK_BYTES: u64 = 1 << 20;

/// How much stays in memory of what the disk did not take.
const RECENT_BYTES: usize = 32 << 20;

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
}

impl Cache {
    /// Opens or creates the cache in `dir`, holding at most `cap_bytes` of disk. Contents are not
    /// read. An error (one line, with the folder) when the folder cannot be used or another process
    /// has it: go on with [`Cache::in_memory`] then.
    pub fn open(_dir: &Path, _cap_bytes: u64) -> io::Result<Self> {
        Ok(Self::in_memory())
    }

    /// A cache without a disk: recent chunks alone.
    #[must_use]
    pub fn in_memory() -> Self {
        Self {
            recent: Recent::new(RECENT_BYTES),
        }
    }

    /// Reads `buf.len()` bytes from `offset` of the content `cid`, whose whole length is `size`.
    /// True only when every byte was here and verified; else `buf` holds nothing of use. A range
    /// that passes `size` is never here.
    pub fn read(&self, cid: &Cid, size: u64, offset: u64, buf: &mut [u8]) -> bool {
        let Some(key) = Key::of(cid) else {
            return false;
        };
        for (chunk, from, part) in pieces(size, offset, buf) {
            let Some(bytes) = self.recent.get(key, chunk) else {
                return false;
            };
            let Some(found) = bytes.get(from..from.saturating_add(part.len())) else {
                return false;
            };
            part.copy_from_slice(found);
        }
        in_bounds(size, offset, buf.len())
    }

    /// What is known of chunk number `chunk` (in steps of [`CHUNK_BYTES`]).
    pub fn presence(&self, cid: &Cid, _size: u64, chunk: u64) -> Presence {
        match Key::of(cid).and_then(|key| self.recent.get(key, chunk)) {
            Some(_) => Presence::Verified,
            None => Presence::Absent,
        }
    }

    /// The bytes of a chunk that stood as [`Presence::Unverified`], for hashing. Answer with
    /// [`Cache::trust`] or [`Cache::discard`].
    pub fn unverified(&self, _cid: &Cid, _size: u64, _chunk: u64) -> Option<Vec<u8>> {
        None
    }

    /// Takes a chunk as verified: what [`Cache::unverified`] gave hashed to its CID.
    pub fn trust(&self, _cid: &Cid, _size: u64, _chunk: u64) {}

    /// Drops a chunk: what [`Cache::unverified`] gave did not hash to its CID.
    pub fn discard(&self, _cid: &Cid, _size: u64, _chunk: u64) {}

    /// Adds one verified chunk: `bytes` are all of chunk number `chunk` of the content.
    pub fn fill(&self, cid: &Cid, size: u64, chunk: u64, bytes: &[u8]) {
        if let Some(key) = Key::of(cid)
            && chunk_len(size, chunk) == Some(bytes.len() as u64)
        {
            self.recent.put(key, chunk, Bytes::copy_from_slice(bytes));
        }
    }

    /// Takes the file at `path`, whose bytes are the whole content `cid` (hashed by the caller in
    /// this process, and written to by nobody any more): renamed into the cache on the same file
    /// system, else copied. In every case `path` is gone afterwards.
    pub fn adopt_file(&self, _cid: &Cid, _size: u64, path: &Path) {
        let _ = std::fs::remove_file(path);
    }

    /// The encoded bytes of a dag-pb node, verified.
    pub fn node(&self, cid: &Cid) -> Option<Bytes> {
        self.recent.get(Key::of(cid)?, NODE)
    }

    /// Adds the encoded bytes of a dag-pb node, verified by the caller.
    pub fn put_node(&self, cid: &Cid, bytes: &Bytes) {
        if let Some(key) = Key::of(cid) {
            self.recent.put(key, NODE, bytes.clone());
        }
    }

    /// What the cache holds.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            memory_bytes: self.recent.bytes() as u64,
            ..Usage::default()
        }
    }
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
fn pieces(size: u64, offset: u64, buf: &mut [u8]) -> impl Iterator<Item = (u64, usize, &mut [u8])> {
    let mut rest = if in_bounds(size, offset, buf.len()) {
        buf
    } else {
        &mut []
    };
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
