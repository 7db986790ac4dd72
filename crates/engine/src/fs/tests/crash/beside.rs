//! A second user, who works while a call of the first one waits for the disk.
//!
//! Invariant: the second one takes a step where the first one's call is about to sync, and the first
//! one goes on when that is over, or the second one waits for the disk itself. When the call returns
//! nobody else is at work: so a history is the same each time, but where they wait for each other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

/// How long a step takes at most that does not wait for the first user.
const STEP: Duration = Duration::from_millis(50);

/// The second user, as the first one sees it.
pub(super) struct Beside {
    first: ThreadId,
    go: SyncSender<()>,
    went: Mutex<Receiver<()>>,
    is_let_in: AtomicBool,
    is_at_work: AtomicBool,
}

impl Beside {
    /// For the calls of this thread: `go` asks for a step, `went` tells that it is over.
    pub(super) fn new(go: SyncSender<()>, went: Receiver<()>) -> Self {
        Self {
            first: std::thread::current().id(),
            go,
            went: Mutex::new(went),
            is_let_in: AtomicBool::new(false),
            is_at_work: AtomicBool::new(false),
        }
    }

    /// From now on the second user may work, or not.
    pub(super) fn let_in(&self, may: bool) {
        self.is_let_in.store(may, Ordering::SeqCst);
    }

    /// The first user's call is about to wait for the disk.
    pub(super) fn pause(&self) {
        let is_first = std::thread::current().id() == self.first;
        if !is_first || !self.is_let_in.load(Ordering::SeqCst) {
            return;
        }
        if !self.is_at_work.load(Ordering::SeqCst) && self.go.try_send(()).is_ok() {
            self.is_at_work.store(true, Ordering::SeqCst);
        }
        self.wait(STEP);
    }

    /// The first user's call is over: so is the second one's step, soon.
    pub(super) fn meet(&self) {
        self.let_in(false);
        self.wait(Duration::from_secs(60));
        assert!(!self.is_at_work.load(Ordering::SeqCst), "a call hangs");
    }

    fn wait(&self, most: Duration) {
        if self.is_at_work.load(Ordering::SeqCst) {
            let went = self.went.lock().unwrap_or_else(PoisonError::into_inner);
            if went.recv_timeout(most).is_ok() {
                self.is_at_work.store(false, Ordering::SeqCst);
            }
        }
    }
}
