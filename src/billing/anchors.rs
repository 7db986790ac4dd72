//! Anchors the last published root on contracts that store texts (`px-v2`): see `chain::anchor`.
//!
//! Invariant: it never requests an anchor older than the chain's, or than a pending one. A lost one
//! costs only age: the next check anchors what is published then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::U256;
use tokio::time::Instant;

use crate::chain::ChainError;
use crate::chain::anchor::Anchor;
use crate::chain::dialect::Dialect;
use crate::chain::outbox::{Outcome, Purpose};
use crate::chain::transact::{Posted, Transactor, anchor_calldata};
use crate::contracts::Parts;
use crate::tokens::MountedToken;
use crate::types::VolumeKey;

/// How long to wait after a refusal, unless something newer is published.
const PAUSE: Duration = Duration::from_secs(600);

/// Refused anchors.
#[derive(Default)]
pub(crate) struct Anchors {
    /// Sequence and time of the last try.
    failed: HashMap<VolumeKey, (u64, Instant)>,
    /// At the last check, an anchor may follow a pending one.
    is_last: bool,
}

impl Anchors {
    /// For the last check before the end.
    pub(crate) fn last() -> Self {
        Self {
            is_last: true,
            ..Self::default()
        }
    }

    /// Requests missing anchors for what is published of `all`. True if one is pending: check again
    /// soon.
    pub(crate) async fn look(
        &mut self,
        parts: &Parts,
        sender: &Transactor,
        all: &[Arc<MountedToken>],
    ) -> bool {
        if parts.chain.dialect() != Dialect::PxV2 || all.is_empty() {
            return false;
        }
        let posted = match sender.posted().await {
            Ok(posted) => posted,
            Err(fault) => {
                tracing::debug!("anchors: {fault}");
                return true;
            }
        };
        let mut is_under_way = false;
        for live in all {
            let Some(anchor) = live.to_anchor() else {
                continue;
            };
            let failed = self.failed.get(&live.key);
            let rests = failed
                .is_some_and(|(sequence, at)| *sequence == anchor.sequence && at.elapsed() < PAUSE);
            if rests {
                continue;
            }
            let sequence = anchor.sequence;
            match self.keep(sender, live, anchor, &posted).await {
                Ok(posted) => is_under_way |= posted,
                Err(fault) => {
                    let token = live.key.token.token;
                    tracing::warn!(%token, "what is published is not anchored on chain: {fault}");
                    self.failed.insert(live.key, (sequence, Instant::now()));
                }
            }
        }
        is_under_way
    }

    /// Requests `anchor`, unless the chain has it, or it is pending. True if one is not mined yet.
    async fn keep(
        &self,
        sender: &Transactor,
        live: &MountedToken,
        anchor: Anchor,
        posted: &[Posted],
    ) -> Result<bool, ChainError> {
        let (token, contract) = (live.key.token.token, live.key.token.contract);
        let prefix = format!("anchor {contract:#x} {token} ");
        let seen = live.token().published(&anchor.name);
        let seen = seen.map(|(sequence, _)| sequence);
        let mut known = seen;
        for posted in posted {
            let Some(sequence) = posted.tag.strip_prefix(&prefix) else {
                continue;
            };
            let sequence = sequence.parse::<u64>().ok();
            match posted.over {
                // The chain must show it first.
                Some(Outcome::Happened) if sequence > seen => known = known.max(sequence),
                Some(_) => sender.forget(&posted.tag).await?,
                // So that quick successive commits share one.
                None if posted.mined.is_none() && !self.is_last => return Ok(true),
                None => known = known.max(sequence),
            }
        }
        if known >= Some(anchor.sequence) {
            return Ok(false);
        }
        let purpose = Purpose {
            to: Some(contract),
            data: anchor_calldata(token, &anchor),
            value: U256::ZERO,
            // If it loses its nonce, the next request anchors what is published then, never after a
            // later one.
            bound: true,
        };
        let tag = format!("{prefix}{}", anchor.sequence);
        let posted = sender.post(&tag, purpose, None).await?;
        Ok(posted.mined.is_none())
    }
}
