//! The places in a listing of names that were removed a moment ago.
//!
//! Invariant: a cookie is one name's alone, from when it was given to that name until the name is forgotten here,
//! and is never given to another. So a name that is replaced, or removed and made again, is where it was, and a
//! listing under way gives it once. In memory alone: whoever lists begins anew after a restart. Called by `create`
//! and `remove`, with the names locked.

use std::num::NonZeroUsize;

use lru::LruCache;

use crate::types::Ino;

/// How many are remembered, at some hundred bytes each.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// The cookies of the names that were removed last.
pub(super) struct Places(LruCache<(Ino, Box<[u8]>), u64>);

impl Default for Places {
    fn default() -> Self {
        Self(LruCache::new(REMEMBERED))
    }
}

impl Places {
    /// `name` of `dir`, which has `cookie`, is removed.
    pub(super) fn keep(&mut self, dir: Ino, name: &[u8], cookie: u64) {
        self.0.put((dir, name.into()), cookie);
    }

    /// The cookie that `name` of `dir`, which is being made, had before.
    pub(super) fn take(&mut self, dir: Ino, name: &[u8]) -> Option<u64> {
        self.0.pop(&(dir, name.into()))
    }

    /// All names have others from here on.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
