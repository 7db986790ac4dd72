//! One mounted token: its volume, its directory, and its publisher.
//!
//! Invariant: [`MountedToken::start`] makes it whole and [`MountedToken::stop`] ends it in order;
//! in between only its allowance and access change.

mod status;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use pxfs_base::lock;
use tokio::sync::Semaphore;

use super::kernel_notify::KernelNotifier;
use super::pending;
use super::right::{Grant, Right};
use super::slot::preferred_slot;
use super::sync_failure;
use crate::chain::anchor::Anchor;
use crate::chain::{Accounting, Snapshot, TokenInfo};
use crate::clock::Clock;
use crate::context::MountContext;
use crate::context::unpaid;
use crate::context::{self, Flusher, JOURNAL_CACHE_MIN_BYTES};
use crate::contracts::Parts;
use crate::contracts::token_status;
use crate::exit::{Exit, Failure};
use crate::fs::{Access, Volume};
use crate::pack::cid as form;
use crate::publish::allowance;
use crate::status::State;
use crate::tokens::orphan::OrphanedVolume;
use crate::tokens::publishing::{FIND, PATIENCE, Publishing};
use crate::types::VolumeKey;

/// Page cache of all journals, and the minimum for one, bytes.
const JOURNALS_CACHE_BYTES: usize = 32 << 20;

/// By how many seconds the newest block's time may differ from ours.
const BLOCK_S: u64 = 15;
/// Seconds after which the first token's unchanged allowance is written again; the others' never
/// is.
const FIRST_LASTS_S: u64 = 60;

pub(crate) type Opened = (Arc<Volume>, Publishing);

pub(crate) struct MountedToken {
    pub(crate) key: VolumeKey,
    pub(crate) directory: String,
    pub(crate) slot: u16,
    pub(crate) volume: Arc<Volume>,
    pub(crate) publishing: Publishing,
    pub(crate) keeper: Arc<Flusher>,
    /// Local state folder.
    folder: PathBuf,
    seen: Mutex<Seen>,
    /// Why its commits are not charged.
    charge_error: Mutex<Option<String>>,
    /// Why the last sync failed; stored.
    sync_error: Mutex<Option<String>>,
}

/// What the chain last said.
#[derive(Clone)]
struct Seen {
    token: TokenInfo,
    /// The name that published data is found by.
    name: Option<String>,
    timestamp_s: u64,
    at: std::time::Duration,
    /// Whether the volume got an allowance from it yet.
    granted: bool,
    access: Access,
    state: State,
    /// Why the wallet no longer owns it.
    lost: Option<String>,
}

impl Seen {
    fn now_s(&self, clock: &dyn Clock) -> u64 {
        let passed = clock.boottime().saturating_sub(self.at);
        self.timestamp_s.saturating_add(passed.as_secs())
    }

    fn is_syncing(&self, clock: &dyn Clock) -> bool {
        let open = self.token.sync_asked_s;
        open.is_some_and(|asked_s| {
            self.now_s(clock) < asked_s.saturating_add(token_status::REQUEST_TIMEOUT_S)
        })
    }
}

impl MountedToken {
    /// Opens the volume of `token`, one of `count`, once its newest root is known, or at once if it was used
    /// here before.
    ///
    /// # Errors
    /// The root cannot be found now; the journal cannot be opened.
    pub(crate) async fn open(
        ground: &MountContext,
        count: usize,
        token: &TokenInfo,
        right: &Right,
    ) -> anyhow::Result<Opened> {
        let key = ground.parts.volume_key(token);
        // Assumes that each other contract has as many.
        let journals = count * ground.parts.chain.called.count;
        let cache_bytes = (JOURNALS_CACHE_BYTES / journals.max(1)).max(JOURNAL_CACHE_MIN_BYTES);
        Ok(match open(ground, key, cache_bytes, token, right).await? {
            // Nothing here is unpublished, so the other machine's tree replaces it.
            (volume, publishing) if publishing.is_behind() => {
                leave_owed(ground, &volume).await?;
                drop((volume, publishing));
                tracing::info!(token = %token.id, "another machine has gone on from here: taking its work over");
                let state_dir = Arc::clone(&ground.state_dir);
                let dropped = tokio::task::spawn_blocking(move || state_dir.drop_volume(&key));
                dropped.await?.context("state folder")?;
                open(ground, key, cache_bytes, token, right).await?
            }
            (volume, publishing) if ground.parts.config.give_way && publishing.is_conflict() => {
                leave_owed(ground, &volume).await?;
                drop((volume, publishing));
                let now_s = ground.parts.clock.wall_s();
                let place = ground.state_dir.set_aside(&key, now_s);
                let place = place.context("state folder")?;
                tracing::warn!(
                    token = %token.id, place = %place.display(),
                    "gave way to what another machine published: what was here is set aside"
                );
                open(ground, key, cache_bytes, token, right).await?
            }
            opened => opened,
        })
    }

    /// Shows the opened volume of `token` in the drive.
    pub(crate) fn start(
        ground: &MountContext,
        snapshot: &Snapshot,
        token: &TokenInfo,
        right: &Right,
        grant: Grant,
        (volume, publishing): Opened,
    ) -> anyhow::Result<Arc<Self>> {
        let key = volume.key();
        let keeper = Flusher::start(&ground.keepers, &volume);
        let live = Self::of(ground, token, (volume, keeper), publishing, Access::Open);
        let is_older = snapshot.block < context::seen_block(&live.volume);
        let grant = match grant {
            Grant::Later if is_older => Grant::Nothing,
            grant => grant,
        };
        let shown = live
            .refresh(&ground.parts, snapshot, token, right, grant)
            .and_then(|_| {
                // For those who see the volume already.
                let labels = live.labels(ground.parts.clock.as_ref());
                live.volume.set_labels(move || labels.clone());
                let (volume, slot) = (
                    Arc::clone(&live.volume),
                    preferred_slot(&key, ground.parts.chain.called.place),
                );
                Ok(ground.drive.attach(&live.directory, slot, volume)?)
            });
        match shown {
            Ok(slot) => Ok(Self { slot, ..live }.labelled(&ground.parts.clock)),
            Err(error) => {
                live.keeper.abandon();
                Err(error)
            }
        }
    }

    /// Shows an orphan again as `token`'s directory. The volume was never closed, so open files keep working.
    ///
    /// # Errors
    /// Its published root is unknown now, or another directory has its name; the orphan is unchanged.
    pub(crate) async fn again(
        ground: &MountContext,
        snapshot: &Snapshot,
        token: &TokenInfo,
        right: &Right,
        left: &OrphanedVolume,
    ) -> anyhow::Result<Arc<Self>> {
        let (volume, keeper) = left.volume();
        let publishing = Publishing::new(ground, &volume, right);
        if let Err(error) = publishing.begin(token, PATIENCE).await {
            publishing.stop().await;
            return Err(error);
        }
        // Read-only until the first check.
        let closed = Access::ReadOnly(String::new());
        let live = Self::of(ground, token, (volume, keeper), publishing, closed);
        let slot = left.slot();
        let shown = match ground.drive.take_back(slot, &live.directory) {
            Ok(()) => live.refresh(&ground.parts, snapshot, token, right, Grant::All),
            Err(error) => Err(error.into()),
        };
        match shown {
            Ok(_) => Ok(Self { slot, ..live }.labelled(&ground.parts.clock)),
            Err(error) => {
                live.stop_publishing().await;
                ground.drive.set_aside(slot, &left.directory)?;
                Err(error)
            }
        }
    }

    /// Computes the virtual attributes when they are read, so that a commit, conflict or deadline
    /// shows at once.
    fn labelled(self, clock: &Arc<dyn Clock>) -> Arc<Self> {
        let live = Arc::new(self);
        let (of, clock) = (Arc::downgrade(&live), Arc::clone(clock));
        live.volume.set_labels(move || {
            let labels = of.upgrade().map(|live| live.labels(clock.as_ref()));
            labels.unwrap_or_default()
        });
        live
    }

    /// Knows only `token` of the chain, and the volume's `access`.
    fn of(
        ground: &MountContext,
        token: &TokenInfo,
        (volume, keeper): (Arc<Volume>, Arc<Flusher>),
        publishing: Publishing,
        access: Access,
    ) -> Self {
        Self {
            key: volume.key(),
            folder: ground.state_dir.path().to_owned(),
            slot: 0,
            publishing,
            keeper,
            seen: Mutex::new(Seen {
                token: token.clone(),
                name: None,
                timestamp_s: 0,
                at: std::time::Duration::ZERO,
                granted: false,
                access,
                state: State::Ok,
                lost: None,
            }),
            charge_error: Mutex::default(),
            sync_error: Mutex::new(sync_failure::kept(&volume, token)),
            directory: ground.parts.chain.called.token(token.id),
            volume,
        }
    }

    /// Takes what the chain says, and grants the volume what is new. True if the kernel's view of
    /// the directory is stale.
    pub(crate) fn refresh(
        &self,
        parts: &Parts,
        snapshot: &Snapshot,
        token: &TokenInfo,
        right: &Right,
        grant: Grant,
    ) -> anyhow::Result<bool> {
        let now = parts.clock.boottime();
        let known = lock(&self.seen).clone();
        // Writing an unchanged allowance at each check would wear the disk and keep all tokens
        // awake. A chain clock that drifts by more than its blocks' spacing is news. One token
        // stores the last seen block for all.
        let since_s = now.saturating_sub(known.at).as_secs();
        let expected_s = known.timestamp_s.saturating_add(since_s);
        let jumped = snapshot.timestamp_s.abs_diff(expected_s) > BLOCK_S;
        let mut wanted = snapshot.tokens.iter().filter(|token| parts.wants(token.id));
        let is_first = wanted.next().is_some_and(|first| first.id == token.id);
        let stale = is_first && now.saturating_sub(known.at).as_secs() >= FIRST_LASTS_S;
        // A server stuck at one block has no news but the token's.
        let newer = snapshot.timestamp_s != known.timestamp_s;
        let fresh = newer && (jumped || stale) || known.token != *token;
        let grants = grant != Grant::Nothing;
        if grants && (fresh || !known.granted) {
            let allowance = allowance(token, snapshot.block, snapshot.timestamp_s, &*parts.clock);
            self.volume.set_allowance(&allowance)?;
        }
        let barred = right.barred().or_else(|| self.publishing.barred());
        let access = match &barred {
            None => Access::Open,
            Some((_, reason)) => Access::ReadOnly(reason.clone()),
        };
        let turned = access != known.access;
        if turned {
            self.volume.set_access(access.clone());
        }
        let (state, _) = self.state_of(token, snapshot.timestamp_s, barred);
        if token.last_sync_s > known.token.last_sync_s {
            self.set_sync_error(None);
        }
        let name = parts.chain.name_of(token);
        let mut seen = lock(&self.seen);
        if fresh && newer {
            (seen.timestamp_s, seen.at) = (snapshot.timestamp_s, now);
        }
        seen.granted |= grants;
        (seen.token, seen.name) = (token.clone(), name);
        (seen.access, seen.state, seen.lost) = (access, state, None);
        Ok(turned)
    }

    /// Looks for the newest root beside the pass, if unknown or perhaps another machine's; `teller`
    /// reports what changed.
    pub(crate) fn go_on(
        self: &Arc<Self>,
        token: &TokenInfo,
        turns: &Arc<Semaphore>,
        teller: &KernelNotifier,
    ) {
        if !self.publishing.is_to_look() {
            return;
        }
        let (live, token) = (Arc::clone(self), token.clone());
        let (turns, teller) = (Arc::clone(turns), teller.clone());
        tokio::spawn(async move {
            live.publishing.go_on(&token, &turns).await;
            live.notify_followed(&teller);
        });
    }

    /// Has the kernel drop what another machine's tree has replaced.
    pub(super) fn notify_followed(&self, notifier: &KernelNotifier) {
        notifier.followed(&self.volume, &self.directory, self.slot);
    }

    pub(crate) fn close(&self, reason: &str) -> bool {
        let access = Access::ReadOnly(reason.to_owned());
        self.volume.set_access(access.clone());
        let mut seen = lock(&self.seen);
        let turned = seen.access != access;
        seen.access = access;
        seen.state = State::ReadOnly;
        turned
    }

    /// Why the wallet no longer owns it, if that was asked.
    pub(crate) fn lost(&self) -> Option<String> {
        lock(&self.seen).lost.clone()
    }

    pub(crate) fn set_lost(&self, why: &str) {
        lock(&self.seen).lost = Some(why.to_owned());
    }

    pub(crate) fn token(&self) -> TokenInfo {
        lock(&self.seen).token.clone()
    }

    /// Why its commits are not charged, if so.
    pub(crate) fn charge_error(&self) -> Option<String> {
        lock(&self.charge_error).clone()
    }

    pub(crate) fn set_sync_error(&self, error: Option<String>) {
        let last_sync_s = lock(&self.seen).token.last_sync_s;
        let mut known = lock(&self.sync_error);
        if *known != error {
            sync_failure::keep(&self.volume, last_sync_s, error.as_deref());
            *known = error;
        }
    }

    /// The token and chain time, if a sync could help: owned, named if it must be, and no request
    /// still open.
    pub(crate) fn syncable(&self, clock: &dyn Clock) -> Option<(TokenInfo, u64)> {
        let seen = lock(&self.seen);
        let token = &seen.token;
        let named = token.name.is_some() || token.accounting == Accounting::Additive;
        // An unanswered request must not let the deadline pass.
        let can = named && !seen.is_syncing(clock) && seen.lost.is_none();
        can.then(|| (token.clone(), seen.now_s(clock)))
    }

    /// Whether a sync request is open that may still be answered.
    pub(crate) fn awaits_sync(&self, clock: &dyn Clock) -> bool {
        lock(&self.seen).is_syncing(clock)
    }

    pub(crate) fn set_charge_error(&self, error: Option<String>) {
        *lock(&self.charge_error) = error;
    }

    /// Sequence of the newest document that was published or taken over here.
    pub(crate) fn published_sequence(&self) -> Option<u64> {
        let published = self.publishing.status();
        published.root.map(|_| published.sequence)
    }

    /// The anchor for its contract; `None` until something is published from here under our own
    /// name.
    pub(crate) fn to_anchor(&self) -> Option<Anchor> {
        if !self.publishing.is_on() {
            return None;
        }
        let published = self.publishing.status();
        let root = form::digest(&published.root?).ok()?;
        let seen = lock(&self.seen);
        Some(Anchor {
            owner: seen.token.owner,
            name: seen.name.clone()?,
            sequence: published.sequence,
            root: root.into(),
        })
    }

    /// Bytes and files that are not on the node yet.
    pub(crate) fn pending(&self) -> (u64, u64) {
        let pending = self.volume.pending();
        pending.map_or((0, 0), |pending| (pending.bytes, pending.files))
    }

    /// Changes as publishing progresses.
    pub(crate) fn moved(&self) -> u64 {
        self.publishing.moved()
    }

    /// Why the last commit failed.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.publishing.error()
    }

    /// Returns when everything written before is published (P3), or when waiting is pointless.
    pub(crate) async fn flush(&self) -> Result<(), Failure> {
        match self.publishing.flush(&self.volume).await {
            Ok(()) => Ok(()),
            Err(why) => Err(Failure::new(
                Exit::Unpublished,
                format!(
                    "token {}: not everything is published: {why}{}",
                    self.directory,
                    match self.volume.poisoned() {
                        None => "; it is kept",
                        Some(_) => "; what no fsync has covered may be lost",
                    }
                ),
            )),
        }
    }

    /// Whether anything may not be on the node yet.
    pub(crate) fn is_pending(&self) -> bool {
        let is_published = crate::publish::is_idle(&self.volume) && !self.publishing.is_bare();
        pending::is_pending(&self.volume) || !is_published
    }

    /// Ends its publisher; the next mount finishes a commit in progress.
    pub(crate) async fn stop_publishing(&self) {
        self.publishing.stop().await;
    }

    /// Ends the rest; everything acknowledged is durable here afterwards. Blocks on the disk.
    pub(crate) fn stop(&self) {
        self.keeper.stop();
    }
}

/// [`unpaid::leave`] on a blocking thread.
async fn leave_owed(ground: &MountContext, volume: &Arc<Volume>) -> anyhow::Result<()> {
    let (state_dir, volume) = (Arc::clone(&ground.state_dir), Arc::clone(volume));
    let left = tokio::task::spawn_blocking(move || unpaid::leave(&state_dir, &volume));
    left.await?.context("state folder")
}

/// Opens the volume; one never used here starts from what was published.
async fn open(
    ground: &MountContext,
    key: VolumeKey,
    journal_cache_bytes: usize,
    token: &TokenInfo,
    right: &Right,
) -> anyhow::Result<(Arc<Volume>, Publishing)> {
    let volume = context::open_volume(ground, key, journal_cache_bytes).await?;
    let publishing = Publishing::new(ground, &volume, right);
    publishing.begin(token, FIND).await?;
    Ok((volume, publishing))
}
