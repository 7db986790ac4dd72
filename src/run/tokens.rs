//! Keeps the drive in step with the chain: new tokens appear, allowances move, lost tokens close,
//! and what they had not published is set aside.
//!
//! Invariant: one pass at a time; a chain that does not answer, or a server that shows an older block than
//! was seen, also before a restart, changes nothing but the age that `status` shows. Started by `daemon`; `desk` has it look after each transaction.

mod lost;
mod pace;
mod tell;

pub(super) use tell::Teller;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::ground::Ground;
use super::leftovers::Leftovers;
use super::live::{Live, Right};
use super::openings::Openings;
use super::parts::{ChainParts, Parts};
use super::{first, keeper, operate};
use crate::chain::ledger::Reading;
use crate::chain::{ChainError, Snapshot, TokenInfo};
use crate::cli::exit::{Failure, fail};
use crate::mount::Notifier;
use crate::names::key::NameKey;
use crate::status::{ChainStatus, State, TokenStatus};
use crate::types::TokenId;

/// Time between two looks at the chain inside this process.
const EMBEDDED_PAUSE: Duration = Duration::from_secs(2);
/// The age of a chain's newest block at which something is wrong.
const OLD_BLOCK: Duration = Duration::from_secs(300);
/// How long one look may take.
const LOOK: Duration = Duration::from_secs(20);
/// Tokens that are looked at side by side.
const TOKENS_AT_ONCE: usize = 16;
/// How long publishing a first document may take before it is tried anew.
const FIRST_DOCUMENT: Duration = Duration::from_secs(20);

/// The tokens of a mount.
pub(super) struct Tokens {
    ground: Arc<Ground>,
    /// What earlier epochs have left.
    pub(super) leftovers: Leftovers,
    teller: Teller,
    live: Mutex<BTreeMap<TokenId, Arc<Live>>>,
    openings: Openings,
    /// Owned tokens that cannot be shown, as the chain has them, and why.
    failed: Mutex<BTreeMap<TokenId, (TokenStatus, Failure)>>,
    /// Keys by name; looking for one costs a derivation for each transaction of the wallet.
    keys: Mutex<HashMap<String, Option<NameKey>>>,
    /// Names whose first document is there, or on its way.
    documented: Arc<Mutex<HashSet<String>>>,
    view: Mutex<View>,
    /// For looks at what is published, beside the passes.
    turns: Arc<Semaphore>,
    pass: tokio::sync::Mutex<()>,
}

/// How the chain looked last.
#[derive(Default)]
struct View {
    /// Of this process, or what the volumes keep of an earlier one.
    block: u64,
    seen: Option<Duration>,
    /// What was seen then.
    snapshot: Option<Arc<Snapshot>>,
    error: Option<String>,
    /// Whether the last look has come to nothing.
    is_blind: bool,
    /// Whether a later block that was seen was never true: what is kept of one counts no more.
    overruled: bool,
}

impl Tokens {
    /// What they stand on.
    pub(super) fn ground(&self) -> &Ground {
        &self.ground
    }

    /// The contract's parts.
    pub(super) fn parts(&self) -> &Arc<Parts> {
        &self.ground.parts
    }

    /// Whether one of them is shown in `slot`.
    pub(super) fn has_slot(&self, slot: u16) -> bool {
        lock(&self.live).values().any(|live| live.slot == slot)
    }

    pub(super) fn new(ground: Arc<Ground>) -> Self {
        Self {
            leftovers: Leftovers::new(Arc::clone(&ground)),
            ground,
            teller: Teller::default(),
            live: Mutex::default(),
            openings: Openings::default(),
            failed: Mutex::default(),
            keys: Mutex::default(),
            documented: Arc::default(),
            view: Mutex::default(),
            turns: Arc::new(Semaphore::new(TOKENS_AT_ONCE)),
            pass: tokio::sync::Mutex::default(),
        }
    }

    /// From now on the kernel is told what appears.
    pub(super) fn set_notifier(&self, notifier: Notifier) {
        self.teller.set(notifier);
    }

    /// Returns when the kernel has been told of what changed, or a while later.
    pub(super) async fn told(&self) {
        self.teller.told().await;
    }

    /// Looks again and again; never returns.
    pub(super) async fn run(self: Arc<Self>) {
        let pause = match self.ground.parts.chain.embedded {
            Some(_) => EMBEDDED_PAUSE,
            None => self.ground.parts.config.refresh,
        };
        loop {
            tokio::time::sleep(pause).await;
            let due = match self.ground.parts.chain.embedded {
                Some(_) => Some(Reading::All),
                None => self.due(),
            };
            if let Err(error) = self.pass(due).await {
                tracing::warn!("tokens: {error:#}");
            }
        }
    }

    /// The first pass, for as long as `patience`. One that takes longer goes on by itself where a token is
    /// shown already: the others appear when their nodes answer.
    ///
    /// # Errors
    /// As [`Tokens::refresh`]; nothing is shown when the time is over.
    pub(super) async fn look_first(self: &Arc<Self>, patience: Duration) -> anyhow::Result<()> {
        let tokens = Arc::clone(self);
        let mut pass = tokio::spawn(async move { tokens.refresh().await });
        match timeout(patience, &mut pass).await {
            Ok(ended) => ended?,
            Err(_) if !lock(&self.live).is_empty() => Ok(()),
            Err(_) => {
                pass.abort();
                anyhow::bail!(
                    "the chain and the node do not answer within {} s",
                    patience.as_secs()
                )
            }
        }
    }

    /// One pass over all that the chain has now.
    ///
    /// # Errors
    /// As [`Tokens::pass`].
    pub(super) async fn refresh(&self) -> anyhow::Result<()> {
        self.pass(Some(Reading::All)).await
    }

    /// What the chain has.
    async fn look(&self, reading: Reading) -> anyhow::Result<Snapshot> {
        let ledger = &self.ground.parts.chain.ledger;
        match timeout(LOOK, ledger.look(reading)).await {
            Ok(Ok(snapshot)) => Ok(snapshot),
            Ok(Err(fault)) => Err(self.blind(fault)),
            Err(_) => {
                let what = format!(
                    "{} has not told within {} s what the wallet owns: it is asked again, and a search goes on from where it was",
                    self.ground.parts.chain.endpoint.label(),
                    LOOK.as_secs()
                );
                Err(self.blind(ChainError::Transient(what)))
            }
        }
    }

    /// One pass, after a look at the chain where one is `due`: else over what the last one has seen. All tokens are
    /// looked at side by side: one that takes its time keeps no other.
    ///
    /// # Errors
    /// The chain does not answer; a token that cannot be opened is told in the log, and the rest
    /// goes on.
    pub(super) async fn pass(&self, due: Option<Reading>) -> anyhow::Result<()> {
        let _one = self.pass.lock().await;
        let last = lock(&self.view).snapshot.clone();
        let (snapshot, is_new) = match (due, last) {
            (None, Some(last)) => (last, false),
            (due, _) => {
                let looked = self.look(due.unwrap_or(Reading::All)).await?;
                (Arc::new(looked), true)
            }
        };
        // Time and blocks of a development chain are moved at will; any other has been seen with a later
        // block, so this comes from a server that is behind.
        let moves = self.ground.parts.chain.endpoint.is_idle().await;
        let goes_on = !moves.unwrap_or(false);
        if goes_on && self.is_behind(&snapshot) {
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
            goes_on && !view.overruled
        };
        let parts = &self.ground.parts;
        let tokens = snapshot.tokens.iter().filter(|token| parts.wants(token.id));
        futures::stream::iter(tokens)
            .for_each_concurrent(TOKENS_AT_ONCE, async |token| {
                match self.take(&snapshot, token, doubts).await {
                    Ok(()) => {
                        lock(&self.failed).remove(&token.id);
                    }
                    Err(error) => self.note_failed(&snapshot, token, &error),
                }
            })
            .await;
        if doubts && self.is_behind(&snapshot) {
            // What the volumes keep is later: what is not in this look is no less there for that.
            return Ok(());
        }
        if !is_new {
            // What is lost is judged by the next look.
            return Ok(());
        }
        let owned = snapshot.tokens.iter();
        let wanted = owned.map(|token| operate::volume_key(parts, token));
        self.openings.keep(&wanted.collect());
        lock(&self.failed).retain(|id, _| snapshot.tokens.iter().any(|token| token.id == *id));
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
        Ok(())
    }

    /// Whether the chain was seen with a later block than this look is of.
    fn is_behind(&self, snapshot: &Snapshot) -> bool {
        let mut view = lock(&self.view);
        if snapshot.block >= view.block {
            return false;
        }
        let parts = &self.ground.parts;
        let seen = view.seen.unwrap_or_default();
        let age = parts.clock.boottime().saturating_sub(seen);
        let is_fresh = self
            .age_s(snapshot)
            .is_some_and(|s| s <= OLD_BLOCK.as_secs());
        if age > OLD_BLOCK && is_fresh {
            // The later one was never true, or the chain began anew: this one goes on, and that does not.
            view.overruled = true;
            return false;
        }
        let line = format!(
            "{} shows block {}, and {} was seen {} s ago: it is not believed: give another --rpc-url too",
            parts.chain.endpoint.current(),
            snapshot.block,
            view.block,
            age.as_secs()
        );
        tracing::debug!("tokens: {line}");
        if age > OLD_BLOCK {
            view.error = Some(line);
        }
        true
    }

    /// The chain was seen with this block, here or by an earlier process.
    fn note_seen(&self, block: u64) {
        let mut view = lock(&self.view);
        view.block = view.block.max(block);
    }

    /// As if the chain had been seen with this block.
    #[cfg(test)]
    pub(super) fn pretend_seen(&self, block: u64) {
        lock(&self.view).block = block;
    }

    /// How old the newest block is, in seconds.
    fn age_s(&self, snapshot: &Snapshot) -> Option<u64> {
        let now_s = u64::try_from(self.ground.parts.clock.wall_ns() / 1_000_000_000).ok()?;
        Some(now_s.saturating_sub(snapshot.timestamp_s))
    }

    /// What is to be said of a chain whose newest block is old: its server may have stopped.
    fn lag(&self, snapshot: &Snapshot) -> Option<String> {
        let parts = &self.ground.parts;
        let age_s = self.age_s(snapshot)?;
        (age_s > OLD_BLOCK.as_secs()).then(|| {
            format!(
                "{}: its newest block is {} min old: give another --rpc-url too",
                parts.chain.endpoint.current(),
                age_s / 60
            )
        })
    }

    /// Tries go on with every pass; the log hears of it once.
    fn note_failed(&self, snapshot: &Snapshot, token: &TokenInfo, error: &anyhow::Error) {
        let failure = Failure::from_error(error);
        let mut status = operate::describe(&self.ground.parts, token, snapshot.timestamp_s);
        status.state = State::ReadOnly;
        let is_late = self.is_late(token);
        let what = match is_late {
            true => "is not shown yet",
            false => "cannot be shown",
        };
        status.reason = Some(format!("{what}: {failure}"));
        let mut failed = lock(&self.failed);
        if failed.get(&token.id).is_none_or(|known| known.1 != failure) {
            match is_late {
                true => tracing::warn!(token = status.directory, "{what}: {failure}"),
                false => tracing::error!(token = status.directory, "{what}: {failure}"),
            }
        }
        failed.insert(token.id, (status, failure));
    }

    /// Whether the node has not said yet what was published of it.
    fn is_late(&self, token: &TokenInfo) -> bool {
        let key = operate::volume_key(&self.ground.parts, token);
        self.openings.is_late(&key)
    }

    /// Why a token cannot be shown, if that is so of any, and none is waited for.
    pub(super) fn first_failure(&self) -> Option<Failure> {
        if self.openings.are_late() {
            return None;
        }
        let failed = lock(&self.failed);
        failed.values().next().map(|(_, failure)| failure.clone())
    }

    /// Whether anything of the contract is shown.
    pub(super) fn any_shown(&self) -> bool {
        !lock(&self.live).is_empty() || self.leftovers.any_shown()
    }

    fn blind(&self, fault: ChainError) -> anyhow::Error {
        let mut view = lock(&self.view);
        (view.error, view.is_blind) = (Some(fault.to_string()), true);
        fault.into()
    }

    /// Shows a token, or brings one that is shown up to date.
    async fn take(
        &self,
        snapshot: &Snapshot,
        token: &TokenInfo,
        doubts: bool,
    ) -> anyhow::Result<()> {
        let right = self.right(token).await?;
        if let Right::Ours(key) = &right
            && token.accounting.has_names()
        {
            self.document(token, key);
        }
        let known = self.get(token.id);
        if let Some(live) = known {
            if live.key.epoch == token.epoch {
                live.go_on(token, &self.turns, &self.teller);
                self.teller.followed(&live);
                let turned = live.refresh(&self.ground.parts, snapshot, token, &right)?;
                if turned {
                    self.teller.changed([live.directory.clone()]);
                }
                return Ok(());
            }
            self.retire(&live, token.epoch).await?;
        }
        let key = operate::volume_key(&self.ground.parts, token);
        if let Some(left) = self.leftovers.give_back(&key).await {
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
        let count = snapshot.tokens.len();
        let opened = (self.openings.open(&self.ground, count, token, &right)).await?;
        let live = Live::start(&self.ground, snapshot, token, &right, doubts, opened)?;
        if doubts {
            self.note_seen(keeper::seen_block(&live.volume));
        }
        tracing::info!(
            token = live.directory,
            epoch = token.epoch,
            "shown as a directory"
        );
        lock(&self.live).insert(token.id, Arc::clone(&live));
        self.teller.changed([live.directory.clone()]);
        Ok(())
    }

    /// What this wallet may do with a token of its own.
    async fn right(&self, token: &TokenInfo) -> anyhow::Result<Right> {
        let chain = &self.ground.parts.chain;
        let Some(account) = &chain.account else {
            return watched(chain, token);
        };
        if !token.accounting.has_names() {
            // No name stands on chain: it follows from the token.
            return Ok(match operate::key_of_token(chain, account, token.id) {
                Some(key) => Right::Ours(key),
                None => Right::None(
                    State::ReadOnly,
                    format!(
                        "the number of token {} is too large for a name key",
                        token.id
                    ),
                ),
            });
        }
        let Some(name) = &token.name else {
            return Ok(Right::None(
                State::Unregistered,
                operate::unregistered(&chain.called.token(token.id)),
            ));
        };
        let known = lock(&self.keys).get(name).cloned();
        let key = match known {
            Some(key) => key,
            None => {
                let key = operate::find_key(&self.ground.parts, name).await?;
                lock(&self.keys).insert(name.clone(), key.clone());
                key
            }
        };
        Ok(match key {
            Some(key) => Right::Ours(key),
            None => Right::None(
                State::ForeignKey,
                format!(
                    "the name key of token {0} is not one of this wallet's: `pxfs register {0}` gives it one, and begins a new volume",
                    chain.called.token(token.id)
                ),
            ),
        })
    }

    /// Publishes the first document where it is missing, beside the pass.
    fn document(&self, token: &TokenInfo, key: &NameKey) {
        let name = key.name();
        if !lock(&self.documented).insert(name.clone()) {
            return;
        }
        let (parts, documented) = (Arc::clone(&self.ground.parts), Arc::clone(&self.documented));
        let (token, key) = (token.clone(), key.clone());
        tokio::spawn(async move {
            let volume = operate::volume_key(&parts, &token);
            let publishing = first::publish(&parts.node, &*parts.clock, volume, &token, &key);
            let why = match timeout(FIRST_DOCUMENT, publishing).await {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "the node does not answer".to_owned(),
            };
            tracing::warn!(token = %token.id, "first document: {why}; it is tried again");
            lock(&documented).remove(&name);
        });
    }

    /// The volume in `slot` misses a block: whether a newer tree has just taken its place.
    pub(super) async fn renew(&self, slot: u16) -> bool {
        let Some(live) = self.all().into_iter().find(|live| live.slot == slot) else {
            return false;
        };
        let renewed = live.publishing.renew().await;
        self.teller.followed(&live);
        renewed
    }

    pub(super) fn all(&self) -> Vec<Arc<Live>> {
        lock(&self.live).values().cloned().collect()
    }

    pub(super) fn get(&self, id: TokenId) -> Option<Arc<Live>> {
        lock(&self.live).get(&id).cloned()
    }

    /// What `status` tells of the chain.
    pub(super) fn chain_status(&self) -> ChainStatus {
        let view = lock(&self.view);
        let now = self.ground.parts.clock.boottime();
        ChainStatus {
            id: self.ground.parts.chain.chain_id,
            url: self.ground.parts.chain.endpoint.current().to_string(),
            ok: view.error.is_none() && view.seen.is_some(),
            block: view.block,
            age_s: view
                .seen
                .map_or(0, |seen| now.saturating_sub(seen).as_secs()),
            error: view.error.clone(),
        }
    }

    /// What `status` tells of the tokens. Reads the journals: blocks on the disk.
    pub(super) fn describe(&self, mountpoint: &str) -> Vec<TokenStatus> {
        let shown = self.all();
        let mut tokens: Vec<TokenStatus> = shown
            .iter()
            .map(|live| live.describe(&self.ground.parts, mountpoint))
            .collect();
        tokens.extend(
            lock(&self.failed)
                .values()
                .map(|(status, _)| status.clone()),
        );
        tokens.extend(self.leftovers.describe(mountpoint));
        tokens.sort_by_key(|token| token.id);
        tokens
    }

    /// Ends all publishers.
    pub(super) async fn stop_publishing(&self) {
        self.openings.keep(&BTreeSet::new());
        let all = self.all();
        join_all(all.iter().map(|live| live.stop_publishing())).await;
    }

    /// Ends all volumes; everything acknowledged is durable here afterwards. Blocks on the disk.
    pub(super) fn stop(&self) {
        // A mount that is in use is only out of sight: who has something open there goes on calling. It is the
        // drive of all contracts: whoever is first ends it.
        self.ground.drive.end();
        let all = std::mem::take(&mut *lock(&self.live));
        let all: Vec<Arc<Live>> = all.into_values().collect();
        let next = AtomicUsize::new(0);
        let stop = || {
            while let Some(live) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                live.stop();
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..all.len().min(TOKENS_AT_ONCE) {
                // Where the system has no thread to give the others do its part.
                drop(std::thread::Builder::new().spawn_scoped(scope, stop));
            }
            stop();
        });
        self.leftovers.stop();
    }
}

/// What can be done with a token of which only the owner's address is known.
fn watched(chain: &ChainParts, token: &TokenInfo) -> anyhow::Result<Right> {
    let (owner, called) = (chain.owner, chain.called.token(token.id));
    if !token.accounting.has_names() && token.name.is_none() {
        return Err(operate::unnamed(chain, &called).into());
    }
    Ok(match &token.name {
        Some(name) => Right::Watched(
            name.clone(),
            format!("{owner} is only watched, by its address: mount with --wallet to write"),
        ),
        None => Right::None(
            State::ReadOnly,
            format!(
                "{owner} is only watched, by its address, and token {called} has no name key yet: nothing is published of it"
            ),
        ),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
