//! Answers calls: at once in place, or from the pool after a fetch or after the local disk is done.
//!
//! Invariants: every call is answered exactly once, whatever panics. No call waits for the network,
//! or for a thread after its fetch, beyond its deadline, counted from arrival. A session thread
//! never waits for the network, and at least one never waits for the disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fuser::Errno;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::errno::{self, Full};
use super::permits::{self, Permits};
use super::timeouts::Timeouts;
use crate::fs::{Drive, FsError, Want};

const FETCHES_MAX: usize = 32;

/// The pause before fetching again what the cache has lost.
const PAUSE: Duration = Duration::from_millis(20);

/// Brings to this machine what a call lacks.
pub trait Fetcher: Send + Sync {
    /// Fetches `want`; on success the call finds it locally. The future may be dropped at any await
    /// when the caller's deadline passes.
    fn fetch(&self, want: Want) -> BoxFuture<'_, Result<(), FsError>>;
}

/// A fuser reply type that can carry an error.
pub(super) trait Reply: Send + 'static {
    fn fail(self, errno: Errno);
}

/// A reply that cannot be lost: if dropped unanswered, by a panic or with the runtime, it answers
/// [`errno::DEFECT`].
pub(super) struct Pending<R: Reply> {
    op: &'static str,
    /// The kernel's thread number of the caller, if known.
    thread: Option<u32>,
    pub(super) arrived: Instant,
    reply: Option<R>,
    full: Full,
}

impl<R: Reply> Pending<R> {
    pub(super) fn new(op: &'static str, reply: R, full: Full) -> Self {
        Self {
            full,
            op,
            thread: None,
            arrived: Instant::now(),
            reply: Some(reply),
        }
    }

    pub(super) fn fail(mut self, error: &FsError) {
        tracing::debug!(op = self.op, %error, "refused");
        if let Some(reply) = self.reply.take() {
            reply.fail(self.full.number(error));
        }
    }

    fn ask<T>(
        &mut self,
        drive: &Drive,
        call: &mut impl FnMut(&Drive, &mut R) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        match &mut self.reply {
            Some(reply) => call(drive, reply),
            None => Err(FsError::BadHandle),
        }
    }

    /// If `send` panics, fuser's own guard answers.
    pub(super) fn send<T>(mut self, send: impl FnOnce(R, T), value: T) {
        if let Some(reply) = self.reply.take() {
            send(reply, value);
        }
    }
}

impl<R: Reply> Drop for Pending<R> {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            tracing::error!(op = self.op, "a call ended without an answer");
            reply.fail(errno::DEFECT);
        }
    }
}

/// What a call may wait for on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// Nothing.
    Immediate,
    /// Now and then for another change of the same file.
    Read,
    /// The same, or for room in the journal: names and attributes, which no write of bytes may
    /// delay.
    Name,
    /// The same, or for room on a full or stalled disk.
    Change,
    /// Long for room: mapped pages, which nobody can be refused.
    Page,
    /// For the disk, always.
    Sync,
}

/// What answers calls; one a mount.
pub(super) struct Pool {
    pub(super) shared: Arc<Shared>,
    pub(super) full: Full,
    runtime: Handle,
    threads: usize,
    /// Session threads running a call that may wait.
    waiting: AtomicUsize,
    /// For calls that session threads do not take.
    syncs: Permits,
    names: Permits,
    changes: Permits,
    reads: Permits,
    pages: Permits,
    /// For calls that wait for other calls.
    pub(super) aside: Permits,
}

pub(super) struct Shared {
    pub(super) drive: Arc<Drive>,
    fetcher: Arc<dyn Fetcher>,
    fetches: Semaphore,
    /// For calls that have what they lacked.
    fetched: Permits,
    timeouts: Timeouts,
    pub(super) patience: Duration,
}

impl Pool {
    pub(super) fn new(
        drive: Arc<Drive>,
        fetcher: Arc<dyn Fetcher>,
        runtime: Handle,
        threads: usize,
        patience: Duration,
    ) -> Self {
        let permits = |count| Permits::new(count, runtime.clone());
        Self {
            shared: Arc::new(Shared {
                drive,
                fetcher,
                fetches: Semaphore::new(FETCHES_MAX),
                fetched: permits(permits::FETCHED),
                timeouts: Timeouts::default(),
                patience,
            }),
            full: Full::default(),
            threads,
            waiting: AtomicUsize::new(0),
            syncs: permits(permits::SYNCS),
            names: permits(permits::NAMES),
            changes: permits(permits::CHANGES),
            reads: permits(permits::READS),
            pages: permits(permits::PAGES),
            aside: permits(permits::ASIDE),
            runtime,
        }
    }

    pub(super) fn saying(self, full: Full) -> Self {
        Self { full, ..self }
    }

    /// Answers `reply` with the result of `call`, here and now or from the pool after a fetch.
    /// `call` runs again after each fetch.
    pub(super) fn serve<R, T, C, S>(
        &self,
        queue: Queue,
        op: &'static str,
        reply: R,
        call: C,
        send: S,
    ) where
        R: Reply,
        T: Send + 'static,
        C: FnMut(&Drive, &mut R) -> Result<T, FsError> + Send + 'static,
        S: FnOnce(R, T) + Send + 'static,
    {
        self.serve_pending(queue, Pending::new(op, reply, self.full), call, send);
    }

    pub(super) fn serve_thread<R, T, C, S>(
        &self,
        thread: u32,
        queue: Queue,
        op: &'static str,
        reply: R,
        call: C,
        send: S,
    ) where
        R: Reply,
        T: Send + 'static,
        C: FnMut(&Drive, &mut R) -> Result<T, FsError> + Send + 'static,
        S: FnOnce(R, T) + Send + 'static,
    {
        let mut pending = Pending::new(op, reply, self.full);
        // The kernel sends 0 for threads that the daemon cannot see.
        pending.thread = (thread != 0).then_some(thread);
        self.serve_pending(queue, pending, call, send);
    }

    fn serve_pending<R, T, C, S>(&self, queue: Queue, mut pending: Pending<R>, mut call: C, send: S)
    where
        R: Reply,
        T: Send + 'static,
        C: FnMut(&Drive, &mut R) -> Result<T, FsError> + Send + 'static,
        S: FnOnce(R, T) + Send + 'static,
    {
        guarded(pending.op, || {
            let Some(_slot) = self.enter(queue) else {
                return self.hand_over(queue, pending, call, send);
            };
            let result = pending.ask(&self.shared.drive, &mut call);
            finish(&self.shared, &self.runtime, pending, result, || call, send);
        });
    }

    /// The same for a call that borrows from the request; `own` makes the one that can wait.
    pub(super) fn serve_borrowed<R, T, C, S>(
        &self,
        queue: Queue,
        op: &'static str,
        reply: R,
        first: impl FnOnce(&Drive) -> Result<T, FsError>,
        own: impl FnOnce() -> C,
        send: S,
    ) where
        R: Reply,
        T: Send + 'static,
        C: FnMut(&Drive, &mut R) -> Result<T, FsError> + Send + 'static,
        S: FnOnce(R, T) + Send + 'static,
    {
        guarded(op, || {
            let pending = Pending::new(op, reply, self.full);
            let Some(_slot) = self.enter(queue) else {
                return self.hand_over(queue, pending, own(), send);
            };
            let result = first(&self.shared.drive);
            finish(&self.shared, &self.runtime, pending, result, own, send);
        });
    }

    /// Whether a call of `queue` may run on this thread, which saves a hand-over. Enough threads
    /// must stay free: half of them from syncs, and one from everything that may wait, so that
    /// reads go on.
    fn enter(&self, queue: Queue) -> Option<Slot<'_>> {
        let most = match queue {
            Queue::Immediate => return Some(Slot(None)),
            Queue::Read | Queue::Name | Queue::Change => self.threads.saturating_sub(1),
            Queue::Page | Queue::Sync => self.threads / 2,
        };
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let slot = Slot(Some(&self.waiting));
        (before < most).then_some(slot)
    }

    /// Runs a call that may wait on a blocking thread of the runtime.
    fn hand_over<R, T, C, S>(&self, queue: Queue, pending: Pending<R>, call: C, send: S)
    where
        R: Reply,
        T: Send + 'static,
        C: FnMut(&Drive, &mut R) -> Result<T, FsError> + Send + 'static,
        S: FnOnce(R, T) + Send + 'static,
    {
        let (shared, runtime) = (Arc::clone(&self.shared), self.runtime.clone());
        let permits = match queue {
            Queue::Sync => &self.syncs,
            Queue::Immediate | Queue::Read => &self.reads,
            Queue::Name => &self.names,
            Queue::Change => &self.changes,
            Queue::Page => &self.pages,
        };
        permits.run(move || {
            guarded(pending.op, move || {
                let (mut pending, mut call) = (pending, call);
                let result = pending.ask(&shared.drive, &mut call);
                finish(&shared, &runtime, pending, result, || call, send);
            });
        });
    }
}

/// Answers, or fetches what the call lacks.
fn finish<R, T, C, S>(
    shared: &Arc<Shared>,
    runtime: &Handle,
    pending: Pending<R>,
    result: Result<T, FsError>,
    call: impl FnOnce() -> C,
    send: S,
) where
    R: Reply,
    T: Send + 'static,
    C: FnMut(&Drive, &mut R) -> Result<T, FsError> + Send + 'static,
    S: FnOnce(R, T) + Send + 'static,
{
    match result {
        _ if shared.drive.has_ended() => pending.fail(&FsError::Ended),
        Ok(value) => pending.send(send, value),
        Err(FsError::NotLocal(want)) => {
            let want = *want;
            if (pending.thread).is_some_and(|by| shared.timeouts.has(by, &want, pending.arrived)) {
                return pending.fail(&FsError::TimedOut);
            }
            let deadline = pending.arrived + shared.patience;
            let call = call();
            runtime.spawn(Arc::clone(shared).resolve(deadline, want, pending, call, send));
        }
        Err(error) => pending.fail(&error),
    }
}

impl Shared {
    /// Fetches and calls again until there is an answer or the deadline passes.
    async fn resolve<R, T, C, S>(
        self: Arc<Self>,
        deadline: Instant,
        mut want: Want,
        mut pending: Pending<R>,
        mut call: C,
        send: S,
    ) where
        R: Reply,
        T: Send + 'static,
        C: FnMut(&Drive, &mut R) -> Result<T, FsError> + Send + 'static,
        S: FnOnce(R, T) + Send + 'static,
    {
        let op = pending.op;
        loop {
            tracing::debug!(op, ?want, "fetching");
            if let Err(error) = self.fetch(deadline, want.clone(), pending.thread).await {
                return pending.fail(&error);
            }
            // What has begun is not given up: it may have been done.
            let Some(permit) = self.fetched.take_by(deadline).await else {
                return pending.fail(&FsError::TimedOut);
            };
            let shared = Arc::clone(&self);
            let again = tokio::task::spawn_blocking(permit.holding(move || {
                let result = pending.ask(&shared.drive, &mut call);
                (pending, call, result)
            }));
            // The call panicked or the runtime ends: `pending` has answered.
            let Ok(answer) = again.await else {
                return;
            };
            let result;
            (pending, call, result) = answer;
            match result {
                _ if self.drive.has_ended() => return pending.fail(&FsError::Ended),
                Ok(value) => return pending.send(send, value),
                Err(FsError::NotLocal(next)) => {
                    let next = *next;
                    if next == want {
                        sleep(PAUSE).await;
                    }
                    want = next;
                }
                Err(error) => return pending.fail(&error),
            }
        }
    }

    async fn fetch(
        &self,
        deadline: Instant,
        want: Want,
        thread: Option<u32>,
    ) -> Result<(), FsError> {
        let asked = want.clone();
        let turn = async {
            let _permit = self.fetches.acquire().await;
            AssertUnwindSafe(self.fetcher.fetch(want))
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err(FsError::Damaged("the fetch failed inside".to_owned())))
        };
        // A fetch that is done at once would be accepted past the deadline.
        if Instant::now() >= deadline {
            return Err(FsError::TimedOut);
        }
        // By this clock, or by the fetcher's.
        let done = (timeout_at(deadline, turn).await).unwrap_or(Err(FsError::TimedOut));
        if let (Err(FsError::TimedOut), Some(thread)) = (&done, thread) {
            self.timeouts.note(thread, &asked);
        }
        done
    }
}

/// Catches a panic, which would end the session's thread silently.
pub(super) fn guarded(op: &'static str, handler: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(handler)).is_err() {
        tracing::error!(op, "a call panicked; its caller got an I/O error");
    }
}

/// A session thread that runs a call that may wait.
struct Slot<'a>(Option<&'a AtomicUsize>);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(taken) = self.0 {
            taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
#[path = "miss/tests.rs"]
mod tests;
