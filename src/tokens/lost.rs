//! Closes lost tokens, and tokens with a new epoch, and sets aside what they had not published.
//!
//! Invariant: before a volume is judged as published, it is closed for changes and everything it
//! took is durable.

use std::path::Path;
use std::sync::Arc;

use super::contract_tokens::Tokens;
use crate::chain::{ChainError, Snapshot, TokenInfo};
use crate::control::Report;
use crate::exit::fail;
use crate::status::DetachAnswer;
use crate::tokens::mounted::MountedToken;
use crate::tokens::orphan::OrphanedVolume;
use crate::tokens::orphans::other_epoch;
use crate::tokens::right::Right;
use pxfs_base::lock;

impl Tokens {
    /// Makes a lost token read-only. If it holds unpublished data, that is set aside (if `twice`,
    /// only once a second check has confirmed the loss); otherwise it stays visible until the
    /// unmount.
    pub(super) async fn close_lost(&self, live: &Arc<MountedToken>, twice: bool) {
        let (id, called) = (live.key.token.token, &live.directory);
        let known = live.lost();
        let is_sure = known.is_some() || !twice;
        let why = match known {
            // Asked once: a lost token shall not cost a request per check.
            Some(why) => why,
            None => match self.ground.parts.chain.ledger.token(id).await {
                Ok(token) if token.owner == self.ground.parts.chain.owner => return,
                Ok(token) => format!("token {called} belongs to {} now", token.owner),
                Err(ChainError::Missing(_)) => format!("token {called} does not exist any more"),
                // Unknown: nothing changes.
                Err(_) => return,
            },
        };
        live.set_lost(&why);
        let reason = format!("{why}: it can be read until the drive is unmounted");
        if live.close(&reason) {
            tracing::warn!("{reason}");
            self.teller.changed([live.directory.clone()]);
        }
        // Again each pass: a write in progress may have landed since.
        if is_sure
            && live.is_pending()
            && let Err(error) = self.set_aside(live, &why).await
        {
            tracing::error!(token = %id, "cannot be set aside: {error:#}");
        }
    }

    /// A new epoch began: the old volume makes room for the new one's.
    pub(super) async fn retire(&self, live: &Arc<MountedToken>, epoch: u64) -> anyhow::Result<()> {
        let why = other_epoch(&live.directory, live.key.epoch, epoch);
        live.close(&why);
        live.stop_publishing().await;
        // Writes in progress at the close count too.
        if !make_durable(live).await || live.is_pending() {
            return self.set_aside(live, &why).await;
        }
        tracing::info!("{why}; all of it was published: it is shown no longer");
        self.leftovers.note_spent(live.key);
        self.ground.drive.detach(live.slot);
        lock(&self.live).remove(&live.key.token.token);
        self.teller.changed([live.directory.clone()]);
        let live = Arc::clone(live);
        tokio::task::spawn_blocking(move || live.stop()).await?;
        Ok(())
    }

    /// Renames a token's directory to an orphan's from now on.
    async fn set_aside(&self, live: &Arc<MountedToken>, why: &str) -> anyhow::Result<()> {
        live.stop_publishing().await;
        make_durable(live).await;
        let name = self.leftovers.take(live, why)?;
        lock(&self.live).remove(&live.key.token.token);
        self.teller.changed([live.directory.clone(), name]);
        Ok(())
    }

    /// The wallet has the token again, in the same epoch: its volume continues.
    pub(super) async fn take_back(
        &self,
        snapshot: &Snapshot,
        token: &TokenInfo,
        right: &Right,
        left: Arc<OrphanedVolume>,
    ) -> anyhow::Result<()> {
        let live = match MountedToken::again(&self.ground, snapshot, token, right, &left).await {
            Ok(live) => live,
            Err(error) => {
                self.leftovers.keep(left);
                return Err(error);
            }
        };
        tracing::info!(token = live.directory, "this wallet's again: it goes on");
        self.add(&live);
        self.teller
            .changed([live.directory.clone(), left.directory.clone()]);
        Ok(())
    }

    /// Pretends that two checks found the token lost.
    #[cfg(test)]
    pub(crate) async fn pretend_lost(&self, live: &Arc<MountedToken>) {
        let why = "the token belongs to another now";
        live.close(why);
        self.set_aside(live, why).await.unwrap();
    }

    /// Whether `name` is a directory of this contract.
    pub(crate) fn is_meant(&self, name: &str) -> bool {
        let is_shown = self.all().iter().any(|live| live.directory == name);
        is_shown || self.leftovers.is_meant(name) || self.is_unused(name)
    }

    /// `pxfs detach`: ends the orphan `name`, after saving it to a folder if one is given.
    ///
    /// # Errors
    /// The token is this wallet's, or is not here; something could not be saved.
    pub(crate) async fn detach(
        &self,
        name: &str,
        save: Option<&Path>,
        tell: Report<'_>,
    ) -> anyhow::Result<DetachAnswer> {
        let live = self.all().into_iter().find(|live| live.directory == name);
        if let Some(live) = live
            && !self.leftovers.concerns_token(live.key.token.token)
        {
            let token = live.token();
            match self.ground.parts.chain.ledger.token(token.id).await?.owner {
                owner if owner == self.ground.parts.chain.owner => fail!(
                    Token,
                    "detach {name}: token {name} is this wallet's, and nothing of it was left unpublished by an earlier epoch"
                ),
                owner => fail!(
                    Token,
                    "detach {name}: token {name} belongs to {owner} now, and all of it was published: it can be read until the drive is unmounted"
                ),
            }
        }
        let ended = self.leftovers.end(name, save, tell).await?;
        self.teller.changed([ended.directory.clone()]);
        Ok(ended)
    }
}

/// Whether everything of it is on the local disk now.
async fn make_durable(live: &MountedToken) -> bool {
    let (volume, id) = (Arc::clone(&live.volume), live.key.token.token);
    match tokio::task::spawn_blocking(move || volume.sync()).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::error!(token = %id, %error, "local state is not durable");
            false
        }
        Err(error) => {
            tracing::error!(token = %id, %error, "local state is not durable");
            false
        }
    }
}
