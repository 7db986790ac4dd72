//! How the chain last looked: whether to believe a view of it, and what `status` shows.
//!
//! Invariant: a server that shows an older block than one seen before, even before a restart, is
//! not believed.

use std::time::Duration;

use super::contract_tokens::{Tokens, View};
use crate::chain::{ChainError, Snapshot};
use crate::contracts::token_status;
use crate::status::ChainStatus;
use pxfs_base::lock;

/// Older than this, a chain's newest block is reported as a problem.
const OLD_BLOCK: Duration = Duration::from_secs(300);

impl Tokens {
    /// Whether a later block than this snapshot's was seen.
    pub(super) fn is_behind(&self, snapshot: &Snapshot) -> bool {
        let mut view = lock(&self.view);
        if snapshot.block >= view.block {
            return false;
        }
        let parts = &self.ground.parts;
        let seen = view.seen.unwrap_or_default();
        let age = parts.clock.boottime().saturating_sub(seen);
        let is_fresh = self.age_s(snapshot) <= OLD_BLOCK.as_secs();
        if age > OLD_BLOCK && is_fresh {
            // The later block was never true, or the chain was reset: this snapshot wins.
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

    /// Records a block seen here or by an earlier process.
    pub(super) fn note_seen(&self, block: u64) {
        let mut view = lock(&self.view);
        view.block = view.block.max(block);
    }

    /// Pretends that the chain was seen with this block.
    #[cfg(test)]
    pub(crate) fn pretend_seen(&self, block: u64) {
        lock(&self.view).block = block;
    }

    /// Age of the newest block, seconds.
    fn age_s(&self, snapshot: &Snapshot) -> u64 {
        self.now_s().saturating_sub(snapshot.timestamp_s)
    }

    /// Warns about an old newest block: the server may have stopped.
    pub(super) fn lag(&self, snapshot: &Snapshot) -> Option<String> {
        let parts = &self.ground.parts;
        let age_s = self.age_s(snapshot);
        (age_s > OLD_BLOCK.as_secs()).then(|| {
            format!(
                "{}: its newest block is {} min old: give another --rpc-url too",
                parts.chain.endpoint.current(),
                age_s / 60
            )
        })
    }

    /// A check failed: what is shown stays.
    pub(super) fn blind(&self, fault: &ChainError) {
        let mut view = lock(&self.view);
        if !view.is_blind {
            tracing::warn!(
                "tokens: {fault}: they stay as they are known, and the chain is asked again"
            );
        }
        (view.error, view.is_blind) = (Some(fault.to_string()), true);
    }

    /// Unix seconds by this machine's clock; `None` if the chain answers.
    fn silent_since_s(&self, view: &View) -> Option<u64> {
        if !view.is_blind {
            return None;
        }
        let clock = &self.ground.parts.clock;
        let passed = |seen| clock.boottime().saturating_sub(seen).as_secs();
        match view.seen {
            Some(seen) => Some(self.now_s().saturating_sub(passed(seen))),
            None => self.known.get().map(|known| known.read_s),
        }
    }

    /// This machine's clock, unix seconds.
    pub(super) fn now_s(&self) -> u64 {
        self.ground.parts.clock.wall_s()
    }

    pub(crate) fn chain_status(&self) -> ChainStatus {
        let view = lock(&self.view);
        let since_s = self.silent_since_s(&view);
        let since = since_s.and_then(token_status::instant);
        let error = match (&view.error, since) {
            (Some(error), Some(since)) => Some(format!(
                "{error}; it has told nothing since {since}, and the figures of its tokens are of then"
            )),
            (error, _) => error.clone(),
        };
        let (chain, clock) = (&self.ground.parts.chain, &self.ground.parts.clock);
        let kept = self.known.get().filter(|_| view.seen.is_none());
        ChainStatus {
            id: chain.chain_id,
            url: chain.endpoint.current().to_string(),
            ok: view.error.is_none() && view.seen.is_some(),
            block: kept.map_or(view.block, |known| known.snapshot.block),
            age_s: match (view.seen, since_s) {
                (Some(seen), _) => clock.boottime().saturating_sub(seen).as_secs(),
                (None, since_s) => {
                    since_s.map_or(0, |since_s| self.now_s().saturating_sub(since_s))
                }
            },
            error,
        }
    }
}
