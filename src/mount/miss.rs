//! How a call is answered: at once where it comes in, or from the pool, once what it lacks was
//! fetched, or once the local disk is done.
//!
//! Invariants: every call is answered exactly once, whatever panics; no call waits for the network, or for a
//! thread once it has what it lacked, beyond its deadline, counted from its arrival; a thread of the session never waits for the
//! network, and one of them at least never for the disk.

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
use super::seats::{self, Seats};
use super::silent::Silent;
use crate::fs::{Drive, FsError, Want};

/// Calls that fetch at one time; others queue, within their deadlines.
const FETCHES_MAX: usize = 32;

/// The pause before fetching again what was there and is gone (a cache under pressure).
const PAUSE: Duration = Duration::from_millis(20);

/// Brings what a call lacks to this machine.
pub trait Fetcher: Send + Sync {
    /// Fetches `want`; on success the call that asked for it finds it locally. The future may be
    /// dropped at any await when the caller's deadline passes.
    fn fetch(&self, want: Want) -> BoxFuture<'_, Result<(), FsError>>;
}

/// Anything through which the kernel can be told an error: fuser's reply types.
pub(super) trait Reply: Send + 'static {
    /// Answers with an error.
    fn fail(self, errno: Errno);
}

/// A call that may find that it has to wait for other calls: it then runs where it takes no thread from these.
pub(super) trait Patient {
    /// What it answers.
    type Answer: Send + 'static;
    /// The same call with what it borrows from the request.
    type Owned: Patient<Answer = Self::Answer, Owned = Self::Owned> + Send + 'static;

    fn owned(&self) -> Self::Owned;

    /// The answer, or `None` if it has to wait.
    fn attempt(&self, drive: &Drive) -> Result<Option<Self::Answer>, FsError>;

    /// Waits for the answer until `deadline`.
    fn wait(self, drive: &Drive, deadline: Instant) -> Result<Self::Answer, FsError>;
}

/// A reply that cannot be lost: dropped without an answer, by a panic or with the runtime, it
/// answers [`errno::DEFECT`].
pub(super) struct Pending<R: Reply> {
    op: &'static str,
    /// Who asks, where that is known: the kernel's number of the thread.
    thread: Option<u32>,
    arrived: Instant,
    reply: Option<R>,
    full: Full,
}

impl<R: Reply> Pending<R> {
    fn new(op: &'static str, reply: R, full: Full) -> Self {
        Self {
            full,
            op,
            thread: None,
            arrived: Instant::now(),
            reply: Some(reply),
        }
    }

    fn fail(mut self, error: &FsError) {
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

    /// `send` answers, or panics and leaves the answer to fuser's own guard.
    fn send<T>(mut self, send: impl FnOnce(R, T), value: T) {
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
pub(super) enum Lane {
    /// Nothing.
    Look,
    /// Now and then for who changes the same file.
    Read,
    /// The same, or for room in the journal: names and attributes, which no write of bytes may hold up.
    Name,
    /// The same, or for room on the disk, and for a disk that takes no more bytes.
    Change,
    /// Long for room, where there is none: pages of mappings, which nobody can be refused.
    Page,
    /// For the disk, always.
    Sync,
}

/// What answers calls; one a mount.
pub(super) struct Pool {
    shared: Arc<Shared>,
    full: Full,
    runtime: Handle,
    threads: usize,
    /// How many of the threads run a call that may wait.
    waiting: AtomicUsize,
    /// For calls that the session's threads do not take.
    syncs: Seats,
    names: Seats,
    changes: Seats,
    reads: Seats,
    pages: Seats,
    /// For those that wait for other calls.
    aside: Seats,
}

struct Shared {
    drive: Arc<Drive>,
    fetcher: Arc<dyn Fetcher>,
    permits: Semaphore,
    /// For calls that have what they lacked.
    fetched: Seats,
    silent: Silent,
    patience: Duration,
}

impl Pool {
    /// `threads` is how many the session has; `patience` how long a call may wait for the network.
    pub(super) fn new(
        drive: Arc<Drive>,
        fetcher: Arc<dyn Fetcher>,
        runtime: Handle,
        threads: usize,
        patience: Duration,
    ) -> Self {
        let seats = |count| Seats::new(count, runtime.clone());
        Self {
            shared: Arc::new(Shared {
                drive,
                fetcher,
                permits: Semaphore::new(FETCHES_MAX),
                fetched: seats(seats::FETCHED),
                silent: Silent::default(),
                patience,
            }),
            full: Full::default(),
            threads,
            waiting: AtomicUsize::new(0),
            syncs: seats(seats::SYNCS),
            names: seats(seats::NAMES),
            changes: seats(seats::CHANGES),
            reads: seats(seats::READS),
            pages: seats(seats::PAGES),
            aside: seats(seats::ASIDE),
            runtime,
        }
    }

    /// The same pool, that says `full` where the quota is full.
    pub(super) fn saying(self, full: Full) -> Self {
        Self { full, ..self }
    }

    /// Answers `reply` with what `call` gives: here and now, or from the pool when it lacks
    /// something. `call` runs again after each fetch; it may fill the reply, if it then succeeds.
    pub(super) fn serve<R, T, C, S>(&self, lane: Lane, op: &'static str, reply: R, call: C, send: S)
    where
        R: Reply,
        T: Send + 'static,
        C: FnMut(&Drive, &mut R) -> Result<T, FsError> + Send + 'static,
        S: FnOnce(R, T) + Send + 'static,
    {
        self.serve_pending(lane, Pending::new(op, reply, self.full), call, send);
    }

    /// The same for a call that `thread` may make twice, though its program asked once: see [`Silent`].
    pub(super) fn serve_thread<R, T, C, S>(
        &self,
        thread: u32,
        lane: Lane,
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
        // 0 are all that the daemon cannot see.
        pending.thread = (thread != 0).then_some(thread);
        self.serve_pending(lane, pending, call, send);
    }

    fn serve_pending<R, T, C, S>(&self, lane: Lane, mut pending: Pending<R>, mut call: C, send: S)
    where
        R: Reply,
        T: Send + 'static,
        C: FnMut(&Drive, &mut R) -> Result<T, FsError> + Send + 'static,
        S: FnOnce(R, T) + Send + 'static,
    {
        guarded(pending.op, || {
            let Some(_slot) = self.enter(lane) else {
                return self.hand_over(lane, pending, call, send);
            };
            let result = pending.ask(&self.shared.drive, &mut call);
            finish(&self.shared, &self.runtime, pending, result, || call, send);
        });
    }

    /// The same for a call that borrows from the request: `own` makes the call that can wait.
    fn serve_borrowed<R, T, C, S>(
        &self,
        lane: Lane,
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
            let Some(_slot) = self.enter(lane) else {
                return self.hand_over(lane, pending, own(), send);
            };
            let result = first(&self.shared.drive);
            finish(&self.shared, &self.runtime, pending, result, own, send);
        });
    }

    /// Answers `reply` with what `call` gives at once, or, if it has to wait for other calls, with what it gives then.
    pub(super) fn serve_patient<R, P, S>(
        &self,
        lane: Lane,
        op: &'static str,
        reply: R,
        call: &P,
        send: S,
    ) where
        R: Reply,
        P: Patient,
        S: FnOnce(R, P::Answer) + Send + 'static,
    {
        let aside = self.aside();
        let first = |drive: &Drive| answer_or_call(call, drive);
        let own = || {
            let call = call.owned();
            move |drive: &Drive, _: &mut R| answer_or_call(&call, drive)
        };
        let send = move |reply: R, answer: Result<P::Answer, P::Owned>| match answer {
            Ok(answer) => send(reply, answer),
            Err(call) => {
                let work = move |drive: &Drive, deadline| call.wait(drive, deadline);
                aside.run(op, reply, work, send);
            }
        };
        self.serve_borrowed(lane, op, reply, first, own, send);
    }

    /// Where an answer can be given that has to wait for other calls.
    fn aside(&self) -> Aside {
        Aside {
            drive: Arc::clone(&self.shared.drive),
            seats: self.aside.clone(),
            patience: self.shared.patience,
            full: self.full,
        }
    }

    /// Whether a call of `lane` may run on this thread. That saves it the way to another one, so it
    /// may as long as enough threads stay free: half of them from syncs, one from everything that
    /// may wait, so that looking always goes on.
    fn enter(&self, lane: Lane) -> Option<Slot<'_>> {
        let most = match lane {
            Lane::Look => return Some(Slot(None)),
            Lane::Read | Lane::Name | Lane::Change => self.threads.saturating_sub(1),
            Lane::Page | Lane::Sync => self.threads / 2,
        };
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let slot = Slot(Some(&self.waiting));
        (before < most).then_some(slot)
    }

    /// Runs a call that may wait on one of the runtime's blocking threads.
    fn hand_over<R, T, C, S>(&self, lane: Lane, pending: Pending<R>, call: C, send: S)
    where
        R: Reply,
        T: Send + 'static,
        C: FnMut(&Drive, &mut R) -> Result<T, FsError> + Send + 'static,
        S: FnOnce(R, T) + Send + 'static,
    {
        let (shared, runtime) = (Arc::clone(&self.shared), self.runtime.clone());
        let seats = match lane {
            Lane::Sync => &self.syncs,
            Lane::Look | Lane::Read => &self.reads,
            Lane::Name => &self.names,
            Lane::Change => &self.changes,
            Lane::Page => &self.pages,
        };
        seats.run(move || {
            guarded(pending.op, move || {
                let (mut pending, mut call) = (pending, call);
                let result = pending.ask(&shared.drive, &mut call);
                finish(&shared, &runtime, pending, result, || call, send);
            });
        });
    }
}

/// The answer of `call`, or the call itself if it has to wait.
fn answer_or_call<P: Patient>(
    call: &P,
    drive: &Drive,
) -> Result<Result<P::Answer, P::Owned>, FsError> {
    Ok(call.attempt(drive)?.ok_or_else(|| call.owned()))
}

/// Threads that answer no call.
struct Aside {
    drive: Arc<Drive>,
    seats: Seats,
    patience: Duration,
    full: Full,
}

impl Aside {
    /// Answers `reply` with what `work` gives, there; `work` is told its deadline.
    fn run<R, T>(
        self,
        op: &'static str,
        reply: R,
        work: impl FnOnce(&Drive, Instant) -> Result<T, FsError> + Send + 'static,
        send: impl FnOnce(R, T) + Send + 'static,
    ) where
        R: Reply,
    {
        let Self {
            drive,
            seats,
            patience,
            full,
        } = self;
        let pending = Pending::new(op, reply, full);
        let deadline = pending.arrived + patience;
        seats.run(move || {
            guarded(op, move || match work(&drive, deadline) {
                _ if drive.has_ended() => pending.fail(&FsError::Ended),
                Ok(value) => pending.send(send, value),
                Err(error) => pending.fail(&error),
            });
        });
    }
}

/// Answers, or sends the call to fetch what it lacks.
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
            if (pending.thread).is_some_and(|by| shared.silent.has(by, &want, pending.arrived)) {
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
    /// Fetches and calls again until the call has an answer, or the deadline has passed.
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
            // What was begun is not given up: it may have been done.
            let Some(seat) = self.fetched.take_by(deadline).await else {
                return pending.fail(&FsError::TimedOut);
            };
            let shared = Arc::clone(&self);
            let again = tokio::task::spawn_blocking(seat.holding(move || {
                let result = pending.ask(&shared.drive, &mut call);
                (pending, call, result)
            }));
            // No answer: the call panicked or the runtime ends, and `pending` has answered.
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

    /// One fetch, with the wait for its turn.
    async fn fetch(
        &self,
        deadline: Instant,
        want: Want,
        thread: Option<u32>,
    ) -> Result<(), FsError> {
        let asked = want.clone();
        let turn = async {
            // The semaphore is never closed; a permit only bounds, so its lack would do no harm.
            let _permit = self.permits.acquire().await;
            AssertUnwindSafe(self.fetcher.fetch(want))
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err(FsError::Damaged("the fetch failed inside".to_owned())))
        };
        // A fetch that is done at once would be taken beyond the deadline, too.
        if Instant::now() >= deadline {
            return Err(FsError::TimedOut);
        }
        // By this clock, or by the fetcher's own.
        let done = (timeout_at(deadline, turn).await).unwrap_or(Err(FsError::TimedOut));
        if let (Err(FsError::TimedOut), Some(thread)) = (&done, thread) {
            self.silent.note(thread, &asked);
        }
        done
    }
}

/// Keeps a panic from the session's thread, which would end without a sign.
fn guarded(op: &'static str, handler: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(handler)).is_err() {
        tracing::error!(op, "a call panicked; its caller got an I/O error");
    }
}

/// One of the session's threads, with a call that may wait.
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
