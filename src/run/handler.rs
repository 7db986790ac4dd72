//! Answers the socket's requests for a running mount.
//!
//! Invariant: after each transaction it checks the chain before it answers, so that the drive shows
//! the effect at once.

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use serde_json::Value;

use crate::archive;
use crate::billing;
use crate::billing::sync;
use crate::chain::transact::OnProgress;
use crate::contracts;
use crate::contracts::terms;
use crate::control::{Amount, Handler, Progress, Request, Subject};
use crate::exit::{Exit, Failure, fail};
use crate::run::session::Session;
use crate::run::shutdown;
use crate::status::UmountAnswer;

/// The handler of one mount.
pub(crate) struct SocketHandler {
    session: Arc<Session>,
    /// The exit code of an unmount whose answer is not sent yet.
    last: Mutex<Option<Exit>>,
}

impl SocketHandler {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self {
            session,
            last: Mutex::default(),
        }
    }

    async fn answer(&self, request: Request, progress: &Progress) -> anyhow::Result<Value> {
        let all = self.session.tokens.parts();
        let (request, all) = match request {
            Request::Under { terms, request } => {
                let held = terms::hold(all, &terms, request.subject())?;
                (*request, held)
            }
            // A caller who agreed to a price says so.
            request => (request, terms::unseen(all)),
        };
        let tell = |what: &str, amount| progress.set(what, amount);
        let heard = progress.clone();
        let on_progress: OnProgress = Arc::new(move |what| heard.set(what, Amount::default()));
        let all: Vec<_> = all
            .iter()
            .map(|parts| Arc::new(parts.with_progress(&on_progress)))
            .collect();
        match request {
            Request::Status => {
                let session = Arc::clone(&self.session);
                let status = tokio::task::spawn_blocking(move || session.status()).await?;
                Ok(serde_json::to_value(status)?)
            }
            Request::Flush { token } => {
                if let Some(published) = self.publish(token.as_deref(), progress).await {
                    published?;
                }
                let chain = &self.session.parts.chain;
                if chain.account.is_none() && !chain.names.any_given() {
                    fail!(
                        Usage,
                        "flush: {} is only watched here, by its address: nothing can be written, and nothing is to be published",
                        chain.owner
                    );
                }
                let all = self.session.tokens.all().into_iter();
                let chosen =
                    all.filter(|live| token.as_ref().is_none_or(|name| *name == live.directory));
                let uncharged = chosen.filter_map(|live| {
                    let why = live.charge_error()?;
                    Some(format!("token {}: {why}", live.directory))
                });
                let uncharged = uncharged.collect();
                Ok(serde_json::to_value(UmountAnswer { uncharged })?)
            }
            Request::Umount { flush } => self.umount(flush, progress).await,
            Request::Detach { name, save } => {
                if let Some(folder) = &save {
                    self.refuse_own(folder)?;
                }
                let tokens = &self.session.tokens;
                let ended = tokens.detach(&name, save.as_deref(), &tell).await?;
                Ok(serde_json::to_value(ended)?)
            }
            Request::Get { .. }
            | Request::Share { .. }
            | Request::Fsck { .. }
            | Request::Export { .. }
            | Request::Import { .. }
            | Request::ImportTo { .. } => {
                if let Request::Get { file, .. } | Request::Export { file, .. } = &request {
                    self.refuse_own(file)?;
                }
                let tokens = self.session.tokens.of(request.subject())?;
                if let Subject::Token(token) = request.subject() {
                    tokens.open_for_command(token.id).await;
                }
                let answer = tokio::select! {
                    answer = archive::answer(tokens.ground(), &request, &tell) => answer?,
                    () = progress.peer_left() => {
                        tracing::info!("a command that read or wrote blocks is gone: what it asked for ends");
                        None
                    }
                };
                Ok(answer.unwrap_or_default())
            }
            Request::Sync { ref token, wait } => {
                let tokens = self.session.tokens.of(request.subject())?;
                let (parts, id) = (contracts::pick(&all, request.subject())?, token.id);
                let answer = sync::of_mount(parts, tokens, id, sync::By::User, wait).await?;
                self.look().await;
                Ok(answer)
            }
            Request::SyncOffer { ref token } => {
                let live = self.session.tokens.of(request.subject())?.get(token.id);
                let parts = contracts::pick(&all, request.subject())?;
                billing::json(sync::offer(parts, live.as_deref(), token.id).await?)
            }
            other => {
                let answer = billing::answer_of(&all, &other).await?;
                self.look().await;
                Ok(answer)
            }
        }
    }

    /// This process serves the drive: it must not wait for it.
    fn refuse_own(&self, folder: &Path) -> anyhow::Result<()> {
        let mountpoint = &self.session.mountpoint;
        if folder.starts_with(mountpoint) {
            fail!(
                Usage,
                "{}: lies in the drive itself: name a place outside of {}",
                folder.display(),
                mountpoint.display()
            );
        }
        Ok(())
    }

    /// Publishes while somebody waits; `None` once nobody does.
    async fn publish(
        &self,
        only: Option<&str>,
        progress: &Progress,
    ) -> Option<Result<(), Failure>> {
        let tell = |what: &str, amount| progress.set(what, amount);
        tokio::select! {
            published = shutdown::publish(&self.session, only, &tell) => Some(published),
            () = progress.peer_left() => None,
        }
    }

    async fn umount(&self, flush: bool, progress: &Progress) -> anyhow::Result<Value> {
        tracing::info!("umount: asked to leave");
        let published = match flush {
            true => self.publish(None, progress).await,
            false => Some(Ok(())),
        };
        let Some(published) = published else {
            // The caller gave up.
            tracing::info!("umount: nobody waits for it any more, the drive stays");
            fail!(Unpublished, "umount: nobody waits for it any more");
        };
        progress.set("unmounting", Amount::default());
        self.session.leaving.store(true, Ordering::Release);
        if let Err(error) = shutdown::unmount(&self.session).await {
            self.session.leaving.store(false, Ordering::Release);
            return Err(error);
        }
        // Nothing more can be written.
        let tell = |what: &str, amount| progress.set(what, amount);
        let uncharged = match flush {
            true => shutdown::charge(&self.session, &tell).await,
            false => Vec::new(),
        };
        let exit = published
            .as_ref()
            .map_or_else(|failure| failure.exit, |()| Exit::Ok);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(exit);
        published?;
        Ok(serde_json::to_value(UmountAnswer { uncharged })?)
    }

    /// Syncs the drive with the chain; a failure is not the request's.
    async fn look(&self) {
        self.session.tokens.refresh().await;
        self.session.tokens.told().await;
    }
}

#[async_trait]
impl Handler for SocketHandler {
    async fn handle(&self, request: Request, progress: &Progress) -> Result<Value, Failure> {
        self.answer(request, progress)
            .await
            .map_err(|error| Failure::from_error(&error))
    }

    fn replied(&self) {
        let last = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if last.is_some() {
            self.session.end.send_replace(last);
        }
    }
}
