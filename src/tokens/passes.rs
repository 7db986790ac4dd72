//! Keeps the drive in step with the chain: tokens appear, allowances change, lost tokens close, and
//! their unpublished data is set aside.
//!
//! Invariant: one pass at a time. An unreachable chain, or a server that shows an older block than
//! one seen before, even before a restart, changes only the age in `status`: tokens stay as last
//! known, and nothing is granted.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::timeout;

use super::contract_tokens::{TOKENS_AT_ONCE, Tokens};
use super::right::Grant;
use crate::chain::ledger::Reading;
use crate::chain::subscription::{Announced, Subscription};
use crate::chain::{ChainError, Snapshot, TokenInfo};
use crate::context;
use crate::contracts::Known;
use crate::exit::fail;
use crate::tokens::mounted::MountedToken;
use pxfs_base::lock;

/// Gathers simultaneous announcements.
const ANNOUNCED_PAUSE: Duration = Duration::from_secs(1);

/// Pause between checks of a chain inside this process.
const EMBEDDED_PAUSE: Duration = Duration::from_secs(2);

/// How long one check may take.
const LOOK: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// The chain, now.
    New,
    /// This process's last check.
    Last,
    /// What an earlier process stored.
    Kept,
}

impl Tokens {
    /// Checks periodically, and at once when the chain announces a change; never returns.
    pub(crate) async fn run(self: Arc<Self>) {
        let chain = &self.ground.parts.chain;
        let pause = match chain.embedded {
            Some(_) => EMBEDDED_PAUSE,
            None => self.ground.parts.config.refresh,
        };
        let mut subscription = Subscription::open(&chain.ledger);
        let mut seen = Announced::default();
        loop {
            let announced = match &mut subscription {
                None => {
                    tokio::time::sleep(pause).await;
                    seen
                }
                Some(subscription) => {
                    // Simultaneous changes make one check.
                    let gathering = pause.min(ANNOUNCED_PAUSE);
                    tokio::time::sleep(gathering).await;
                    let changed = timeout(pause - gathering, subscription.changed()).await;
                    changed.unwrap_or_else(|_| subscription.announced())
                }
            };
            let due = match chain.embedded {
                Some(_) => Some(Reading::All),
                None if announced.changes > seen.changes => Some(self.reading()),
                None => self.due(announced),
            };
            seen = announced;
            if let Err(error) = self.pass(due).await {
                tracing::warn!("tokens: {error:#}");
            }
        }
    }

    /// The first pass, within `patience`. If a token is shown by then, a slower pass goes on by itself: the
    /// others appear when their nodes answer.
    ///
    /// # Errors
    /// As [`Tokens::refresh`]; nothing is shown when the time is over.
    pub(crate) async fn look_first(self: &Arc<Self>, patience: Duration) -> anyhow::Result<()> {
        let tokens = Arc::clone(self);
        let mut pass = tokio::spawn(async move { tokens.refresh().await });
        match timeout(patience, &mut pass).await {
            Ok(ended) => ended?,
            Err(_) if self.any_shown() => Ok(()),
            Err(_) => {
                pass.abort();
                anyhow::bail!(
                    "the chain and the node do not answer within {} s",
                    patience.as_secs()
                )
            }
        }
    }

    /// One pass over the present state of the chain.
    ///
    /// # Errors
    /// As [`Tokens::pass`].
    pub(crate) async fn refresh(&self) -> anyhow::Result<()> {
        self.pass(Some(Reading::All)).await
    }

    pub(super) async fn look(&self, reading: Reading) -> Result<Snapshot, ChainError> {
        // It has just failed.
        if let Some(fault) = lock(&self.silence).take() {
            return Err(fault);
        }
        let ledger = &self.ground.parts.chain.ledger;
        let late = |_| {
            ChainError::Transient(format!(
                "{} has not told within {} s what the wallet owns: it is asked again, and a search goes on from where it was",
                self.ground.parts.chain.endpoint.label(),
                LOOK.as_secs()
            ))
        };
        timeout(LOOK, ledger.look(reading)).await.map_err(late)?
    }

    /// What the next pass goes by: the chain if a check is `due`, else what is known of it.
    ///
    /// # Errors
    /// The chain does not answer, and nothing is known of it.
    async fn sight(&self, due: Option<Reading>) -> Result<(Arc<Snapshot>, Sight), ChainError> {
        let last = lock(&self.view).snapshot.clone();
        let (due, last) = match (due, last) {
            (None, Some(last)) => return Ok((last, Sight::Last)),
            (due, last) => (due.unwrap_or(Reading::All), last),
        };
        let fault = match self.look(due).await {
            Ok(looked) => return Ok((Arc::new(looked), Sight::New)),
            Err(fault) => fault,
        };
        self.blind(&fault);
        let kept = || {
            let known = self.known.get()?.snapshot_at(self.now_s());
            Some((Arc::new(known), Sight::Kept))
        };
        let last = last.map(|last| (last, Sight::Last));
        let known = last.or_else(kept).filter(|_| fault.is_silence());
        known.ok_or(fault)
    }

    /// One pass, after a check of the chain if one is `due`, else over the last one. Tokens run concurrently,
    /// so a slow one delays no other.
    ///
    /// # Errors
    /// The chain does not answer, and nothing is known of it. A token that cannot be opened is logged, and
    /// the rest goes on.
    pub(crate) async fn pass(&self, due: Option<Reading>) -> anyhow::Result<()> {
        let _one = self.pass.lock().await;
        let (snapshot, sight) = self.sight(due).await?;
        let is_new = sight == Sight::New;
        // Development chains move time and blocks at will; on any other, an older block means that
        // the server lags.
        let goes_on = match sight {
            Sight::Kept => true,
            _ => !self
                .ground
                .parts
                .chain
                .endpoint
                .is_idle()
                .await
                .unwrap_or(false),
        };
        if goes_on && sight != Sight::Kept && self.is_behind(&snapshot) {
            return Ok(());
        }
        let doubts = {
            let mut view = lock(&self.view);
            if is_new {
                view.block = snapshot.block;
                view.seen = Some(self.ground.parts.clock.boottime());
                view.snapshot = Some(Arc::clone(&snapshot));
                view.error = self.lag(&snapshot);
                view.is_blind = false;
            }
            view.doubts = goes_on && !view.overruled;
            view.doubts
        };
        let grant = match sight {
            Sight::Kept => Grant::Nothing,
            _ if doubts => Grant::Later,
            _ => Grant::All,
        };
        let parts = &self.ground.parts;
        let tokens = snapshot.tokens.iter().filter(|token| parts.wants(token.id));
        if is_new {
            self.find_keys(tokens.clone()).await;
        }
        // The first is always open: it stores the last seen block for all.
        let tokens = tokens.zip(std::iter::once(true).chain(std::iter::repeat(false)));
        futures::stream::iter(tokens)
            .for_each_concurrent(TOKENS_AT_ONCE, async |(token, is_first)| {
                match self.take(&snapshot, token, grant, is_first).await {
                    Ok(()) => {
                        lock(&self.failed).remove(&token.id);
                    }
                    Err(error) => self.note_failed(&snapshot, token, &error),
                }
            })
            .await;
        if !is_new {
            // The next check judges lost tokens.
            return Ok(());
        }
        if doubts && self.is_behind(&snapshot) {
            // The volumes know a later block, so absence from this snapshot proves nothing.
            return Ok(());
        }
        if let Some(told) = self.heard(&snapshot) {
            self.known.keep(told).await;
        }
        let owned = snapshot.tokens.iter();
        let wanted = owned.map(|token| parts.volume_key(token));
        self.openings.keep(&wanted.collect());
        lock(&self.failed).retain(|id, _| snapshot.tokens.iter().any(|token| token.id == *id));
        self.drop_unused(&snapshot);
        for live in self.all() {
            let id = live.key.token.token;
            if !snapshot.tokens.iter().any(|token| token.id == id) {
                self.close_lost(&live, goes_on).await;
            }
        }
        let open = self.all().iter().map(|live| live.key).collect();
        let looked = self.leftovers.look(&snapshot, &open, doubts).await?;
        self.note_seen(looked.seen_block);
        self.teller.changed(looked.appeared);
        self.charging.notify_one();
        Ok(())
    }

    /// What to store of this check, for a mount while the chain does not answer.
    pub(super) fn heard(&self, snapshot: &Snapshot) -> Option<Known> {
        let dialect = self.ground.parts.chain.ledger.known_dialect()?;
        let keys = lock(&self.keys);
        let ours = (keys.iter()).filter_map(|(name, key)| Some((name.clone(), key.as_ref()?.0)));
        let (now_s, snapshot) = (self.now_s(), snapshot.clone());
        Some(Known::new(now_s, dialect, snapshot, ours.collect()))
    }

    /// Shows or updates a token. One not used here is not opened, unless it `is_first`.
    pub(super) async fn take(
        &self,
        snapshot: &Snapshot,
        token: &TokenInfo,
        grant: Grant,
        is_first: bool,
    ) -> anyhow::Result<()> {
        if let Some(live) = self.get(token.id) {
            if live.key.epoch == token.epoch {
                let right = self.right(token).await?;
                // Whether the chain has accepted a document since is unknown.
                if grant != Grant::Nothing {
                    self.document(token, &right);
                }
                live.go_on(token, &self.turns, &self.teller);
                live.notify_followed(&self.teller);
                let turned = live.refresh(&self.ground.parts, snapshot, token, &right, grant)?;
                if turned {
                    self.teller.changed([live.directory.clone()]);
                }
                return Ok(());
            }
            self.retire(&live, token.epoch).await?;
        }
        let key = self.ground.parts.volume_key(token);
        if let Some(left) = self.leftovers.give_back(&key).await {
            let right = self.right(token).await?;
            return self.take_back(snapshot, token, &right, left).await;
        }
        if self.leftovers.holds(&key) {
            fail!(
                Failure,
                "token {}: its volume of epoch {} was closed before the chain came to it again: unmount, and mount again",
                self.ground.parts.chain.called.token(token.id),
                token.epoch
            );
        }
        if grant == Grant::Nothing && !self.ground.state_dir.volume(&key).exists() {
            fail!(
                Chain,
                "nothing of it is here, and the chain does not answer: it is shown when it does"
            );
        }
        let is_known = lock(&self.unused).contains_key(&token.id);
        if (is_known || !is_first) && self.take_unused(snapshot, token).await? {
            return Ok(());
        }
        self.open(snapshot, token, grant).await
    }

    /// Opens a token and shows its volume.
    pub(super) async fn open(
        &self,
        snapshot: &Snapshot,
        token: &TokenInfo,
        grant: Grant,
    ) -> anyhow::Result<()> {
        let right = self.right(token).await?;
        // Whether the chain has accepted a document since is unknown.
        if grant != Grant::Nothing {
            self.document(token, &right);
        }
        let count = (snapshot.tokens.len()).saturating_sub(lock(&self.unused).len());
        let opened = (self.openings.open(&self.ground, count, token, &right)).await?;
        let live = MountedToken::start(&self.ground, snapshot, token, &right, grant, opened)?;
        if grant != Grant::All {
            self.note_seen(context::seen_block(&live.volume));
        }
        tracing::info!(
            token = live.directory,
            epoch = token.epoch,
            "shown as a directory"
        );
        self.add(&live);
        self.teller.changed([live.directory.clone()]);
        Ok(())
    }
}
