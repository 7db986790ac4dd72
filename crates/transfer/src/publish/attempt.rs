//! One try of the worker: to publish, to find out whether all is published, to go on from what another machine has published.
//!
//! Invariant: what a try met is in the status when it has ended. Called by `worker`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::timeout;

use super::PublishError;
use super::commit::{Done, commit};
use super::confirm::{confirm, lacks};
use super::follow::{self, Step, follow};
use super::is_idle;
use super::naming::{look_again, refuse_foreign};
use super::queue::{lock, note_head, note_unpinned};
use super::state;
use super::worker::{EARLY_LOOK, STALL, Worker, tell};
use crate::fs::{Access, FsError};
use crate::store::StoreError;

impl Worker {
    /// Whether another machine has named something else since our last commit, or in the place of it.
    pub(super) async fn look_early(&mut self) {
        let looked = timeout(STALL, look_again(&self.context)).await;
        let result = match looked.unwrap_or_else(|_| Err(silent())) {
            Ok(true) => Ok(()),
            Err(error) if !error.may_pass() => {
                self.note_failure(error.clone());
                Err(error)
            }
            // It is told anew, or cannot be asked now.
            Ok(false) | Err(_) => {
                self.early_look = Some(self.context.clock.boottime() + EARLY_LOOK);
                return;
            }
        };
        self.early_look = None;
        self.note_head();
        tell(&mut self.looking, &result);
    }

    /// Takes over what another machine has published since, where nothing is unpublished here.
    pub(super) async fn follow_idle(&mut self) {
        let volume = &self.context.volume;
        if !is_idle(volume) || volume.is_half_followed() {
            return;
        }
        let looked = timeout(STALL, follow::look(&self.context)).await;
        match looked.unwrap_or_else(|_| Err(silent())) {
            Ok(Step::Parted) => {
                let head = state::known_head(&self.context.volume);
                let head = head.ok().flatten().unwrap_or_default();
                if let Err(error @ PublishError::Conflict(_)) =
                    refuse_foreign(&self.context, &head, None).await
                {
                    self.note_failure(error);
                }
            }
            Ok(step) => {
                // Nothing here keeps it from that but how much is loaded.
                let is_behind = step == Step::Waits && is_idle(&self.context.volume);
                let mut status = lock(&self.status);
                status.is_behind = is_behind;
                let is_conflict =
                    |error: &mut PublishError| matches!(error, PublishError::Conflict(_));
                if step != Step::Waits && status.last_error.take_if(is_conflict).is_some() {
                    // Somebody has resolved it on the other machine.
                    self.failures = 0;
                }
                drop(status);
                self.note_head();
            }
            Err(error) => {
                tracing::debug!(%error, "whether another machine has gone on is not known");
            }
        }
    }

    pub(super) async fn try_once(&mut self) -> Result<(), PublishError> {
        if self.context.volume.is_half_followed() {
            self.go_on_following().await?;
        }
        if let Access::ReadOnly(reason) = self.context.volume.with_quota(|q| q.access().clone()) {
            if is_idle(&self.context.volume) {
                return self.confirm().await;
            }
            self.failures = self.failures.saturating_add(1);
            return Err(PublishError::Refused(reason));
        }
        if self.has_nothing_to_do() {
            return self.confirm().await;
        }
        lock(&self.status).busy = true;
        let turn = Arc::clone(&self.turn);
        let sending = turn.of_commit().await;
        note_unpinned(&self.context, &self.status);
        let result = match self.while_it_moves().await {
            // Nothing was left to do but by the node.
            Ok(Done {
                made: false,
                doubted: Some(doubted),
                ..
            }) => Err(doubted.error()),
            Ok(done) if !done.made && done.stuck.is_none() => {
                self.ask_whether_it_is_there().await.map(|()| done)
            }
            result => result,
        };
        lock(&self.status).busy = false;
        match result {
            Ok(done) => {
                self.failures = 0;
                self.receipts.forget_chunks();
                self.receipts.note_end(true);
                if done.made {
                    // It was pinned, with all below it.
                    self.signs.bare.store(false, Ordering::Release);
                }
                let mut status = lock(&self.status);
                status.last_error = None;
                // A head that is doubted may be pinned nowhere.
                status.unpinned_since_s = done.doubted.is_some().then_some(0);
                status.progress.commits += u64::from(done.made);
                status.progress.sent_blocks += done.sent_blocks;
                status.progress.sent_bytes += done.sent_bytes;
                drop(status);
                drop(sending);
                let left = (done.stuck.map(PublishError::Damaged))
                    .or_else(|| done.doubted.map(|doubted| doubted.error()));
                self.note_head();
                match left {
                    None => Ok(()),
                    Some(error) => {
                        self.note_failure(error.clone());
                        Err(error)
                    }
                }
            }
            Err(error) => {
                self.note_failure(error.clone());
                Err(error)
            }
        }
    }

    /// Whether a commit would find nothing, for all that is known.
    fn has_nothing_to_do(&self) -> bool {
        is_idle(&self.context.volume)
            && self.receipts.whole().is_none()
            && !self.signs.lost.load(Ordering::Acquire)
            && lock(&self.status).last_error.is_none()
    }

    /// Whether the node has what was published last; what it lacks is looked for at once.
    async fn confirm(&mut self) -> Result<(), PublishError> {
        let result = self.ask_whether_it_is_there().await;
        match &result {
            Ok(()) => {
                self.failures = 0;
                lock(&self.status).last_error = None;
                // It may have been another machine's, and taken over.
                self.note_head();
            }
            Err(error) => self.note_failure(error.clone()),
        }
        result
    }

    async fn ask_whether_it_is_there(&self) -> Result<(), PublishError> {
        if self.signs.bare.load(Ordering::Acquire) {
            return Err(lacks());
        }
        let asked = timeout(STALL, confirm(&self.context)).await;
        asked.unwrap_or_else(|_| Err(silent()))
    }

    /// The name was put again: what an earlier try met is over.
    pub(super) fn note_renewed(&mut self) {
        let Some(met) = self.unrenewed.take() else {
            return;
        };
        let mut status = lock(&self.status);
        if status.last_error.take_if(|error| *error == met).is_some() {
            self.failures = 0;
        }
    }

    /// A take-over was begun that came to no end: until it does nothing can be changed.
    async fn go_on_following(&mut self) -> Result<(), PublishError> {
        let followed = timeout(STALL, follow(&self.context)).await;
        match followed.unwrap_or_else(|_| Err(silent())) {
            Ok(true) => {
                self.failures = 0;
                lock(&self.status).last_error = None;
                self.note_head();
                Ok(())
            }
            // It is not what was named any more, or another is at it.
            Ok(false) => {
                self.failures = self.failures.saturating_add(1);
                Ok(())
            }
            Err(error) => {
                self.note_failure(error.clone());
                Err(error)
            }
        }
    }

    /// A commit, for as long as it comes on: how long it takes in all is its size's affair.
    async fn while_it_moves(&self) -> Result<Done, PublishError> {
        let mut work = std::pin::pin!(commit(&self.context, &self.receipts));
        loop {
            let before = self.receipts.pulse();
            match timeout(STALL, &mut work).await {
                Ok(result) => return result,
                Err(_) if self.receipts.pulse() != before => {}
                Err(_) => return Err(silent()),
            }
        }
    }

    pub(super) fn note_failure(&mut self, error: PublishError) {
        let misses = matches!(
            error,
            PublishError::Store(StoreError::Missing(_) | StoreError::Corrupt(..))
                | PublishError::Unverified(_)
                | PublishError::Local(FsError::Lost(_))
        );
        if misses {
            self.signs.sweep.notify_one();
        }
        self.failures = self.failures.saturating_add(1);
        self.receipts.note_end(false);
        let (token, failures) = (self.context.volume.key().token.token, self.failures);
        let before = {
            let mut status = lock(&self.status);
            let before = status.last_error.replace(error.clone());
            if before.is_none() {
                status.failing_since = Some(self.context.clock.boottime());
            }
            before
        };
        if before.as_ref() == Some(&error) {
            tracing::debug!(%token, %error, failures, "not published; it is tried again");
        } else {
            tracing::warn!(%token, %error, failures, "not published; it is tried again");
        }
    }

    pub(super) fn note_head(&self) {
        note_head(&self.context.volume, &mut lock(&self.status));
        self.signs.published.notify_one();
    }
}

fn silent() -> PublishError {
    PublishError::Unverified("it does not answer".into())
}
