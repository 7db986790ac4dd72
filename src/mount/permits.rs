//! Bounds the threads of calls that may block, by what they wait for.
//!
//! Invariant: callers waiting for one thing take no thread from those waiting for another, nor,
//! beyond [`THREADS`], from fetching, status or unmounting. Without a permit a call waits without a
//! thread.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Concurrent calls of each kind.
pub(super) const SYNCS: usize = 32;
pub(super) const NAMES: usize = 8;
pub(super) const CHANGES: usize = 16;
pub(super) const READS: usize = 16;
pub(super) const PAGES: usize = 8;
pub(super) const FETCHED: usize = 16;
pub(super) const ASIDE: usize = 8;

/// Blocking threads that calls may occupy; the runtime needs more for everything else.
pub const THREADS: usize = SYNCS + NAMES + CHANGES + READS + PAGES + FETCHED + ASIDE;

/// The permits of one kind.
#[derive(Clone)]
pub(super) struct Permits {
    free: Arc<Semaphore>,
    runtime: Handle,
}

pub(super) struct Permit(OwnedSemaphorePermit);

impl Permits {
    pub(super) fn new(count: usize, runtime: Handle) -> Self {
        let free = Arc::new(Semaphore::new(count));
        Self { free, runtime }
    }

    /// Runs `work` on a blocking thread once a permit is free; drops it if the runtime ends first.
    pub(super) fn run(&self, work: impl FnOnce() + Send + 'static) {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return self.begin(Permit(permit), work);
        }
        let permits = self.clone();
        self.runtime.spawn(async move {
            // The semaphore is never closed.
            if let Ok(permit) = Arc::clone(&permits.free).acquire_owned().await {
                permits.begin(Permit(permit), work);
            }
        });
    }

    /// A permit by `deadline`, if one becomes free.
    pub(super) async fn take_by(&self, deadline: Instant) -> Option<Permit> {
        let free = Arc::clone(&self.free).acquire_owned();
        timeout_at(deadline, free).await.ok()?.ok().map(Permit)
    }

    fn begin(&self, permit: Permit, work: impl FnOnce() + Send + 'static) {
        let work = permit.holding(work);
        self.runtime.spawn_blocking(work);
    }
}

impl Permit {
    /// `work`, holding the permit until it ends.
    pub(super) fn holding<T>(self, work: impl FnOnce() -> T) -> impl FnOnce() -> T {
        move || {
            let _permit = self.0;
            work()
        }
    }
}
