//! The places in a listing of names that were removed.
//!
//! Invariant: a cookie is one name's alone, from when it was given to that name until the name is forgotten here,
//! and is never given to another. So a name that is replaced, or removed and made again, is where it was, and a
//! listing under way gives it once: those of a folder are remembered for as long as it is open, up to a bound for all
//! of them, and beside that so many of all folders. In memory alone: whoever lists begins anew after a restart. Called
//! by `create` and `remove`, with the names locked, and when a folder is opened and closed.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::types::Ino;

/// How many are remembered whatever is open, at some hundred bytes each.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// How many are remembered of folders that are open, all together.
const KEPT: usize = 1 << 17;

/// The cookies of names that were removed.
pub(super) struct Places {
    last: LruCache<(Ino, Box<[u8]>), u64>,
    open: HashMap<Ino, Listed>,
    /// How many names `open` has.
    kept: usize,
}

/// A folder that is open.
#[derive(Default)]
struct Listed {
    handles: usize,
    names: HashMap<Box<[u8]>, u64>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            last: LruCache::new(REMEMBERED),
            open: HashMap::new(),
            kept: 0,
        }
    }
}

impl Places {
    /// `dir` is opened, to be listed.
    pub(super) fn opened(&mut self, dir: Ino) {
        self.open.entry(dir).or_default().handles += 1;
    }

    /// A handle of `dir` is gone.
    pub(super) fn closed(&mut self, dir: Ino) {
        let Some(listed) = self.open.get_mut(&dir) else {
            return;
        };
        listed.handles -= 1;
        if listed.handles == 0 {
            self.kept -= listed.names.len();
            self.open.remove(&dir);
        }
    }

    /// `name` of `dir`, which has `cookie`, is removed.
    pub(super) fn keep(&mut self, dir: Ino, name: &[u8], cookie: u64) {
        match self.open.get_mut(&dir) {
            Some(listed) if self.kept < KEPT => {
                self.kept += usize::from(listed.names.insert(name.into(), cookie).is_none());
            }
            _ => {
                self.last.put((dir, name.into()), cookie);
            }
        }
    }

    /// The cookie that `name` of `dir`, which is being made, had before.
    pub(super) fn take(&mut self, dir: Ino, name: &[u8]) -> Option<u64> {
        let last = self.last.pop(&(dir, name.into()));
        let listed = self.open.get_mut(&dir);
        let kept = listed.and_then(|listed| listed.names.remove(name));
        self.kept -= usize::from(kept.is_some());
        kept.or(last)
    }

    /// All names have others from here on.
    pub(super) fn clear(&mut self) {
        self.last.clear();
        for listed in self.open.values_mut() {
            listed.names.clear();
        }
        self.kept = 0;
    }

    /// How many are remembered of open folders.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.kept + self.open.len()
    }
}
