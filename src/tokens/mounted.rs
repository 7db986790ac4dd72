//! One token that is mounted: its volume, its directory, and what publishes it.
//!
//! Invariant: made whole by [`MountedToken::start`] and ended in order by [`MountedToken::stop`]; in between only
//! its allowance and its access change. Called by `tokens` and `leave`.

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

/// Page cache of all journals, and the least of one, in bytes.
const JOURNALS_CACHE_BYTES: usize = 32 << 20;

/// By how many seconds the time of the newest block may differ from ours for no reason.
const BLOCK_S: u64 = 15;
/// After how many seconds the first token's allowance is written anew, which has not changed; that of any other is not.
const FIRST_LASTS_S: u64 = 60;

/// A volume that is opened, and what publishes it.
pub(crate) type Opened = (Arc<Volume>, Publishing);

/// A mounted token.
pub(crate) struct MountedToken {
    pub(crate) key: VolumeKey,
    pub(crate) directory: String,
    pub(crate) slot: u16,
    pub(crate) volume: Arc<Volume>,
    pub(crate) publishing: Publishing,
    pub(crate) keeper: Arc<Flusher>,
    /// Where its local state is.
    folder: PathBuf,
    seen: Mutex<Seen>,
    /// Why its commits are not charged, if so.
    charge_error: Mutex<Option<String>>,
    /// Why it could not be synced, if so; kept over a restart.
    sync_error: Mutex<Option<String>>,
}

/// What the chain last said of it.
#[derive(Clone)]
struct Seen {
    token: TokenInfo,
    /// What is published is found by.
    name: Option<String>,
    timestamp_s: u64,
    at: std::time::Duration,
    /// Whether the volume has been granted anything by it yet.
    granted: bool,
    access: Access,
    state: State,
    /// Why it is this wallet's no more, if so.
    lost: Option<String>,
}

impl Seen {
    /// Chain time now, unix seconds.
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
    /// Opens the volume of `token`, one of `count`, where it is known what was published of it, or it was used here
    /// before.
    ///
    /// # Errors
    /// That cannot be known now; the journal cannot be opened.
    pub(crate) async fn open(
        ground: &MountContext,
        count: usize,
        token: &TokenInfo,
        right: &Right,
    ) -> anyhow::Result<Opened> {
        let key = ground.parts.volume_key(token);
        // As if the other contracts had as many.
        let journals = count * ground.parts.chain.called.count;
        let cache_bytes = (JOURNALS_CACHE_BYTES / journals.max(1)).max(JOURNAL_CACHE_MIN_BYTES);
        Ok(match open(ground, key, cache_bytes, token, right).await? {
            // Nothing here is unpublished: what the other machine wrote takes its place.
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

    /// Shows the volume of `token`, which is opened, in the drive.
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
                // Whoever sees it already is told these.
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

    /// Shows again, as the directory of `token`, what was set aside when the token seemed to be another's: the volume
    /// was not closed since, and whoever has files open there goes on.
    ///
    /// # Errors
    /// What was published of it is not known now; another directory has its name. It is as it was, then.
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
        // The first look opens it.
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

    /// From now on its directory tells in its virtual attributes what holds when they are read: a commit, a conflict or a
    /// deadline is there at once.
    fn labelled(self, clock: &Arc<dyn Clock>) -> Arc<Self> {
        let live = Arc::new(self);
        let (of, clock) = (Arc::downgrade(&live), Arc::clone(clock));
        live.volume.set_labels(move || {
            let labels = of.upgrade().map(|live| live.labels(clock.as_ref()));
            labels.unwrap_or_default()
        });
        live
    }

    /// With nothing known of the chain yet but `token`, and that the volume has this `access`.
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

    /// Takes what the chain says now, and grants the volume what of that is news. True when the kernel's view of the
    /// directory is out of date.
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
        // Writing the same allowance with each look would wear the disk for nothing, and keep all tokens awake; a clock
        // of the chain that went another way than ours is news, by more than its blocks are apart. Of the block that was
        // seen last one token tells for all.
        let since_s = now.saturating_sub(known.at).as_secs();
        let expected_s = known.timestamp_s.saturating_add(since_s);
        let jumped = snapshot.timestamp_s.abs_diff(expected_s) > BLOCK_S;
        let mut wanted = snapshot.tokens.iter().filter(|token| parts.wants(token.id));
        let is_first = wanted.next().is_some_and(|first| first.id == token.id);
        let stale = is_first && now.saturating_sub(known.at).as_secs() >= FIRST_LASTS_S;
        // A server that shows one block for ever has no news but of the token.
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

    /// Looks for the newest root beside the pass, where that is not known yet, or another machine may have made it.
    /// What has changed by it is told by `teller`.
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

    /// Has the kernel forget what another machine's tree has taken the place of, if one has.
    pub(super) fn notify_followed(&self, notifier: &KernelNotifier) {
        notifier.followed(&self.volume, &self.directory, self.slot);
    }

    /// Makes it read-only: it is no longer ours. True when it was not so already.
    pub(crate) fn close(&self, reason: &str) -> bool {
        let access = Access::ReadOnly(reason.to_owned());
        self.volume.set_access(access.clone());
        let mut seen = lock(&self.seen);
        let turned = seen.access != access;
        seen.access = access;
        seen.state = State::ReadOnly;
        turned
    }

    /// Why it is this wallet's no more, as far as that was asked for since it last was.
    pub(crate) fn lost(&self) -> Option<String> {
        lock(&self.seen).lost.clone()
    }

    pub(crate) fn set_lost(&self, why: &str) {
        lock(&self.seen).lost = Some(why.to_owned());
    }

    /// What the chain last said of it.
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

    /// The token, and chain time now, where a sync could help it: it is ours, has a name if it needs one,
    /// and no request is open that may still be answered.
    pub(crate) fn syncable(&self, clock: &dyn Clock) -> Option<(TokenInfo, u64)> {
        let seen = lock(&self.seen);
        let token = &seen.token;
        let named = token.name.is_some() || token.accounting == Accounting::Additive;
        // One that nobody answered is no reason to let the deadline pass.
        let can = named && !seen.is_syncing(clock) && seen.lost.is_none();
        can.then(|| (token.clone(), seen.now_s(clock)))
    }

    /// Whether a request for a sync is open that may still be answered.
    pub(crate) fn awaits_sync(&self, clock: &dyn Clock) -> bool {
        lock(&self.seen).is_syncing(clock)
    }

    pub(crate) fn set_charge_error(&self, error: Option<String>) {
        *lock(&self.charge_error) = error;
    }

    /// Sequence of the newest document that was published from here, or taken over.
    pub(crate) fn published_sequence(&self) -> Option<u64> {
        let published = self.publishing.status();
        published.root.map(|_| published.sequence)
    }

    /// What its contract is to have as its anchor; `None` before anything is published under our own name, and while
    /// nothing is published from here.
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

    /// Bytes that are not on the node yet, and files.
    pub(crate) fn pending(&self) -> (u64, u64) {
        let pending = self.volume.pending();
        pending.map_or((0, 0), |pending| (pending.bytes, pending.files))
    }

    /// Moves while publishing comes nearer to its end.
    pub(crate) fn moved(&self) -> u64 {
        self.publishing.moved()
    }

    /// What the last commit failed of.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.publishing.error()
    }

    /// Returns when everything that was written before is published (P3), or when waiting has no
    /// sense.
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

    /// Whether anything is not on the node yet, for all that is known.
    pub(crate) fn is_pending(&self) -> bool {
        let is_published = crate::publish::is_idle(&self.volume) && !self.publishing.is_bare();
        pending::is_pending(&self.volume) || !is_published
    }

    /// Ends its publisher; a commit under way is finished after the next mount.
    pub(crate) async fn stop_publishing(&self) {
        self.publishing.stop().await;
    }

    /// Ends what else runs for it; everything acknowledged is durable here afterwards. Blocks on
    /// the disk.
    pub(crate) fn stop(&self) {
        self.keeper.stop();
    }
}

/// [`unpaid::leave`], beside the runtime.
async fn leave_owed(ground: &MountContext, volume: &Arc<Volume>) -> anyhow::Result<()> {
    let (state_dir, volume) = (Arc::clone(&ground.state_dir), Arc::clone(volume));
    let left = tokio::task::spawn_blocking(move || unpaid::leave(&state_dir, &volume));
    left.await?.context("state folder")
}

/// Opens the volume; one that was never used here begins from what was published.
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
