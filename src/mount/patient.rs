//! Runs calls that must wait for other calls of the same file on threads of their own, so that they
//! take none from those calls.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::errno::Full;
use super::miss::{Pending, Pool, Queue, Reply, guarded};
use super::permits::Permits;
use crate::fs::{Drive, FsError};

/// A call that may have to wait for other calls.
pub(super) trait Patient {
    type Answer: Send + 'static;
    /// The call with owned data.
    type Owned: Patient<Answer = Self::Answer, Owned = Self::Owned> + Send + 'static;

    fn owned(&self) -> Self::Owned;

    /// The answer, or `None` if it has to wait.
    fn attempt(&self, drive: &Drive) -> Result<Option<Self::Answer>, FsError>;

    /// Waits for the answer until `deadline`.
    fn wait(self, drive: &Drive, deadline: Instant) -> Result<Self::Answer, FsError>;
}

impl Pool {
    /// Answers `reply` with the result of `call`, waiting aside if it has to.
    pub(super) fn serve_patient<R, P, S>(
        &self,
        queue: Queue,
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
        self.serve_borrowed(queue, op, reply, first, own, send);
    }

    /// Where to answer a call that waits for others.
    pub(super) fn aside(&self) -> Aside {
        Aside {
            drive: Arc::clone(&self.shared.drive),
            permits: self.aside.clone(),
            patience: self.shared.patience,
            full: self.full,
        }
    }
}

/// The answer, or the call itself if it has to wait.
fn answer_or_call<P: Patient>(
    call: &P,
    drive: &Drive,
) -> Result<Result<P::Answer, P::Owned>, FsError> {
    Ok(call.attempt(drive)?.ok_or_else(|| call.owned()))
}

/// Threads that answer no other calls.
pub(super) struct Aside {
    drive: Arc<Drive>,
    permits: Permits,
    patience: Duration,
    full: Full,
}

impl Aside {
    /// Answers `reply` with what `work` gives, there; `work` is told its deadline.
    pub(super) fn run<R, T>(
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
            permits,
            patience,
            full,
        } = self;
        let pending = Pending::new(op, reply, full);
        let deadline = pending.arrived + patience;
        permits.run(move || {
            guarded(op, move || match work(&drive, deadline) {
                _ if drive.has_ended() => pending.fail(&FsError::Ended),
                Ok(value) => pending.send(send, value),
                Err(error) => pending.fail(&error),
            });
        });
    }
}
