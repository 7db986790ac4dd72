//! Calling whoever keeps a volume durable, who sleeps while all of it is.
//!
//! Invariant: whoever has changed something calls behind the change, and whoever keeps the volume looks for changes
//! behind [`Calls::answer`]: no change is left to nobody. Called by [`super::Journal`].

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Wakes the keeper. It waits for nothing, since locks are held where it is called.
type Wake = Box<dyn Fn() + Send + Sync>;

/// Whether the keeper of a volume is called, and how that is done.
#[derive(Default)]
pub(super) struct Calls {
    is_called: AtomicBool,
    wake: OnceLock<Wake>,
}

impl Calls {
    /// From here on `wake` is what a call does; what was changed before counts as one.
    pub(super) fn set(&self, wake: Wake) {
        let _ = self.wake.set(wake);
        self.is_called.store(false, Ordering::SeqCst);
        self.call();
    }

    /// Something was changed. Once the keeper is called it comes for all of it.
    pub(super) fn call(&self) {
        if !self.is_called.load(Ordering::SeqCst) && self.begin() {
            self.wake.get().inspect(|wake| wake());
        }
    }

    /// The keeper sees nothing more to do: what is changed from here on is another call.
    pub(super) fn answer(&self) {
        self.is_called.store(false, Ordering::SeqCst);
    }

    /// Whether the caller is the one who answers.
    pub(super) fn begin(&self) -> bool {
        !self.is_called.swap(true, Ordering::SeqCst)
    }
}
