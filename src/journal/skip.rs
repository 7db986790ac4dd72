//! A switch for tests of tests: a journal that says "durable" without having written.
//!
//! Invariant: in a release build it has no effect, and nobody but `run` turns it on. The crash
//! tests show with it that their checker notices a journal that forgets.

use std::sync::atomic::{AtomicU64, Ordering};

/// Every how many syncs one is skipped; 0 for none.
static EVERY: AtomicU64 = AtomicU64::new(0);
/// Syncs so far.
static SYNCS: AtomicU64 = AtomicU64::new(0);

/// From now on one of `every` syncs writes nothing; 0 ends it.
pub fn skip_one_of(every: u64) {
    EVERY.store(every, Ordering::Relaxed);
}

/// Whether the sync that begins now is to be skipped.
pub(super) fn this_one() -> bool {
    let every = EVERY.load(Ordering::Relaxed);
    cfg!(debug_assertions)
        && every > 0
        && SYNCS.fetch_add(1, Ordering::Relaxed).is_multiple_of(every)
}
