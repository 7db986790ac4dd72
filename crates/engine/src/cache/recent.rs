//! A few megabytes of chunks in memory: what the disk did not take, and small contents just read.
//!
//! Invariant: every byte here was verified in this process; never more than the bound, except for
//! one chunk alone. Called by [`super::Cache`].

use std::sync::Mutex;

use bytes::Bytes;
use lru::LruCache;
use pxfs_base::lock;

use super::key::Key;

/// The chunk number under which a node's own bytes stand, beside the content that it names.
pub(super) const NODE: u64 = u64::MAX;

/// Recent chunks, by content and chunk number.
pub(super) struct Recent {
    bound_bytes: usize,
    held: Mutex<Held>,
}

struct Held {
    chunks: LruCache<(Key, u64), Bytes>,
    bytes: usize,
}

impl Recent {
    /// Holds at most `bound_bytes`.
    pub(super) fn new(bound_bytes: usize) -> Self {
        Self {
            bound_bytes,
            held: Mutex::new(Held {
                chunks: LruCache::unbounded(),
                bytes: 0,
            }),
        }
    }

    /// The chunk, when it is still here.
    pub(super) fn get(&self, key: Key, chunk: u64) -> Option<Bytes> {
        self.lock().chunks.get(&(key, chunk)).cloned()
    }

    /// Adds a verified chunk; the least recently used make room.
    pub(super) fn put(&self, key: Key, chunk: u64, bytes: Bytes) {
        let mut held = self.lock();
        held.bytes += bytes.len();
        if let Some(old) = held.chunks.put((key, chunk), bytes) {
            held.bytes -= old.len();
        }
        while held.bytes > self.bound_bytes && held.chunks.len() > 1 {
            let Some((_, old)) = held.chunks.pop_lru() else {
                break;
            };
            held.bytes -= old.len();
        }
    }

    /// Drops all of it.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn clear(&self) {
        let mut held = self.lock();
        held.chunks.clear();
        held.bytes = 0;
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        lock(&self.held)
    }
}
