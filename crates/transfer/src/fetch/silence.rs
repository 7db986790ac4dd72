//! Whether the nodes answer at all, as the calls of a mount have seen it.
//!
//! Invariant: a call is failed by it only while nothing has come from any node since others were kept waiting in vain, or
//! every node refused; after a while one is let through again. Called by `source` and [`super::Fetcher`].

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// For how long calls fail at once after nodes were silent for a whole deadline.
const AFTER_SILENCE: Duration = Duration::from_secs(5);
/// The same after every node refused, which takes no time to ask again.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// What was heard last of the nodes.
#[derive(Default)]
pub(super) struct Silence {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last answer, whatever it was.
    heard: Option<Instant>,
    /// Whether a node was asked since.
    is_asked: bool,
    /// Until when calls fail at once.
    until: Option<Instant>,
}

impl Silence {
    /// A node is asked.
    pub(super) fn asked(&self) {
        self.lock().is_asked = true;
    }

    /// A node has answered.
    pub(super) fn heard(&self) {
        *self.lock() = State {
            heard: Some(Instant::now()),
            is_asked: false,
            until: None,
        };
    }

    /// Every node refuses.
    pub(super) fn refused(&self) {
        self.lock().until = Some(Instant::now() + AFTER_REFUSAL);
    }

    /// Somebody has waited since `since` in vain, for his whole deadline.
    pub(super) fn waited(&self, since: Instant) {
        let mut state = self.lock();
        if state.is_asked && state.heard.is_none_or(|heard| heard < since) {
            state.until = Some(Instant::now() + AFTER_SILENCE);
        }
    }

    /// Whether a call is to fail at once.
    pub(super) fn lasts(&self) -> bool {
        self.lock()
            .until
            .is_some_and(|until| Instant::now() < until)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
