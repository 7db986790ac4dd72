//! Tokens that nobody has used: shown from the chain's data, opened when a call or command needs
//! more.
//!
//! Invariant: such a token has no state folder, owes no charge, and has nothing published as far as
//! the chain knows; any other must be mounted. Until opened, by one task at a time, it costs no
//! task, file or timer.

use std::collections::HashSet;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::contract_tokens::{Tokens, UnusedToken};
use crate::chain::{Accounting, Snapshot, TokenInfo};
use crate::clock::Clock;
use crate::context::unpaid;
use crate::contracts::token_status;
use crate::exit::{Exit, Failure, fail};
use crate::fs::{self, FsError};
use crate::publish::allowance;
use crate::status::{LocalStatus, TokenStatus};
use crate::tokens::right::Grant;
use crate::tokens::slot::preferred_slot;
use crate::types::{TokenId, VolumeKey};
use pxfs_base::lock;

impl Tokens {
    /// Shows `token` as unused, if it is; opens one that is wanted or was published elsewhere meanwhile.
    /// False for one to be opened at once.
    ///
    /// # Errors
    /// It is wanted and cannot be opened; there is no room for another directory.
    pub(super) async fn take_unused(
        &self,
        snapshot: &Snapshot,
        token: &TokenInfo,
    ) -> anyhow::Result<bool> {
        let parts = &self.ground.parts;
        let key = parts.volume_key(token);
        {
            let mut all = lock(&self.unused);
            match all.get_mut(&token.id) {
                // It is being opened.
                Some(known) if known.turn.try_lock().is_err() => return Ok(true),
                Some(known) if known.key == key && !known.is_wanted && is_new(token) => {
                    if known.token != *token {
                        let shown = unused(snapshot, token, &*parts.clock);
                        let drive = &self.ground.drive;
                        drive.attach_unused(&known.directory, known.slot, shown)?;
                        known.token = token.clone();
                    }
                    return Ok(true);
                }
                Some(known) if known.key == key => known.token = token.clone(),
                Some(known) => {
                    self.ground.drive.detach(known.slot);
                    all.remove(&token.id);
                }
                None => {}
            }
            if let Entry::Vacant(place) = all.entry(token.id) {
                if !self.may_wait(&key, token) {
                    return Ok(false);
                }
                let directory = parts.chain.called.token(token.id);
                let preferred = preferred_slot(&key, parts.chain.called.place);
                let shown = unused(snapshot, token, &*parts.clock);
                let slot = (self.ground.drive).attach_unused(&directory, preferred, shown)?;
                self.teller.changed([directory.clone()]);
                let unused = UnusedToken {
                    key,
                    directory,
                    slot,
                    token: token.clone(),
                    is_wanted: false,
                    turn: Arc::default(),
                };
                place.insert(unused);
                return Ok(true);
            }
        }
        self.open_unused(token.id).await?;
        Ok(true)
    }

    /// Whether nothing of the volume `key` is here or published, so that opening can wait.
    fn may_wait(&self, key: &VolumeKey, token: &TokenInfo) -> bool {
        let state_dir = &self.ground.state_dir;
        is_new(token) && !state_dir.volume(key).exists() && !unpaid::is_left(state_dir, key)
    }

    /// Opens the token if it is unused; concurrent callers wait for that.
    ///
    /// # Errors
    /// As when first shown: it stays unused, and each pass retries.
    pub(super) async fn open_unused(&self, id: TokenId) -> anyhow::Result<()> {
        let wanted = |one: &mut UnusedToken| {
            one.is_wanted = true;
            Arc::clone(&one.turn)
        };
        let Some(turn) = lock(&self.unused).get_mut(&id).map(wanted) else {
            return Ok(());
        };
        let _turn = turn.lock().await;
        let Some(token) = lock(&self.unused).get(&id).map(|one| one.token.clone()) else {
            return Ok(());
        };
        if self.has_ended.load(Ordering::Acquire) {
            fail!(Failure, "the mount is ending");
        }
        let (snapshot, doubts) = {
            let view = lock(&self.view);
            (view.snapshot.clone(), view.doubts)
        };
        let Some(snapshot) = snapshot else {
            fail!(Chain, "what the chain has is not known");
        };
        let grant = match doubts {
            true => Grant::Later,
            false => Grant::All,
        };
        match self.open(&snapshot, &token, grant).await {
            Ok(()) => {
                lock(&self.unused).remove(&id);
                lock(&self.failed).remove(&id);
                Ok(())
            }
            Err(error) => {
                self.note_failed(&snapshot, &token, &error);
                Err(error)
            }
        }
    }

    /// Opens the token in `slot` for a call; the opening goes on when nobody waits for it.
    ///
    /// # Errors
    /// [`FsError::TimedOut`]: the node does not name its root; [`FsError::Disk`].
    pub(crate) async fn open_in_slot(self: Arc<Self>, slot: u16) -> Result<(), FsError> {
        let Some(id) = self.unused_in(slot) else {
            return Ok(());
        };
        let opening = tokio::spawn(async move { self.open_unused(id).await });
        let opened = opening
            .await
            .map_err(|error| FsError::Disk(error.to_string()))?;
        opened.map_err(|error| match Failure::from_error(&error) {
            Failure {
                exit: Exit::Node | Exit::Chain,
                ..
            } => FsError::TimedOut,
            failure => FsError::Disk(failure.message),
        })
    }

    /// Opens the token for a command; the command itself meets any failure.
    pub(crate) async fn open_for_command(&self, id: TokenId) {
        if let Err(error) = self.open_unused(id).await {
            tracing::debug!(token = %id, "{error:#}");
        }
    }

    /// The unused token in `slot`.
    pub(crate) fn unused_in(&self, slot: u16) -> Option<TokenId> {
        let all = lock(&self.unused);
        let mut found = all.iter().filter(|(_, one)| one.slot == slot);
        found.next().map(|(id, _)| *id)
    }

    pub(crate) fn is_unused(&self, directory: &str) -> bool {
        let all = lock(&self.unused);
        all.values().any(|one| one.directory == directory)
    }

    /// Hides those that the chain no longer has: nothing of them is here.
    pub(super) fn drop_unused(&self, snapshot: &Snapshot) {
        let owned: HashSet<TokenId> = snapshot.tokens.iter().map(|token| token.id).collect();
        let mut gone = Vec::new();
        lock(&self.unused).retain(|id, one| {
            let stays = owned.contains(id) || one.turn.try_lock().is_err();
            if !stays {
                self.ground.drive.detach(one.slot);
                gone.push(one.directory.clone());
            }
            stays
        });
        self.teller.changed(gone);
    }

    /// Those that could be synced, with chain time: volume keys and tokens.
    pub(crate) fn unused_to_sync(&self) -> Vec<(VolumeKey, TokenInfo, u64)> {
        let Some(now_s) = self.chain_now_s() else {
            return Vec::new();
        };
        let can = |token: &TokenInfo| {
            let is_named = token.name.is_some() || token.accounting == Accounting::Additive;
            is_named && !is_syncing(token, now_s)
        };
        let all = lock(&self.unused);
        let told = all.values().filter(|one| can(&one.token));
        told.map(|one| (one.key, one.token.clone(), now_s))
            .collect()
    }

    /// Whether a sync of any is open.
    pub(super) fn awaits_unused(&self) -> bool {
        let Some(now_s) = self.chain_now_s() else {
            return false;
        };
        let all = lock(&self.unused);
        all.values().any(|one| is_syncing(&one.token, now_s))
    }

    /// Chain time, unix seconds, by the last check.
    fn chain_now_s(&self) -> Option<u64> {
        let view = lock(&self.view);
        let (snapshot, seen) = (view.snapshot.as_ref()?, view.seen?);
        let passed = self.ground.parts.clock.boottime().saturating_sub(seen);
        Some(snapshot.timestamp_s.saturating_add(passed.as_secs()))
    }

    /// Their status, except those that could not be opened.
    pub(super) fn describe_unused(&self, mountpoint: &str) -> Vec<TokenStatus> {
        let Some(now_s) = self.chain_now_s() else {
            return Vec::new();
        };
        let failed: HashSet<TokenId> = lock(&self.failed).keys().copied().collect();
        let all = lock(&self.unused);
        let told = all.iter().filter(|(id, _)| !failed.contains(id));
        told.map(|(_, one)| self.describe_one(one, now_s, mountpoint))
            .collect()
    }

    fn describe_one(&self, one: &UnusedToken, now_s: u64, mountpoint: &str) -> TokenStatus {
        let parts = &self.ground.parts;
        let mut status = token_status::describe(parts, &one.token, now_s);
        let top = mountpoint.trim_end_matches('/');
        status.path = Some(format!("{top}/{}", one.directory));
        status.volume = Some("plain".to_owned());
        let clock = &*parts.clock;
        let quota = fs::Unused::quota(allowance(&one.token, 0, now_s, clock));
        status.local = Some(LocalStatus {
            used_bytes: quota.used_bytes(),
            reserved_bytes: quota.reserve_bytes(),
            free_bytes: quota.room_bytes(),
            ..LocalStatus::default()
        });
        status
    }
}

/// The labels of its directory.
fn unused(snapshot: &Snapshot, token: &TokenInfo, clock: &dyn Clock) -> fs::Unused {
    let allowance = allowance(token, snapshot.block, snapshot.timestamp_s, clock);
    fs::Unused::of(allowance)
}

/// Whether nothing was ever published, as far as the chain knows.
fn is_new(token: &TokenInfo) -> bool {
    let names_nothing = token.sequence.unwrap_or(0) == 0 && token.root.is_none();
    token.usage_bytes == 0 && names_nothing && token.anchor.is_none()
}

fn is_syncing(token: &TokenInfo, now_s: u64) -> bool {
    let until_s = |asked_s: u64| asked_s.saturating_add(token_status::REQUEST_TIMEOUT_S);
    token
        .sync_asked_s
        .is_some_and(|asked_s| now_s < until_s(asked_s))
}
