//! Why tokens cannot be shown, or not yet.
//!
//! Invariant: each pass retries them, and a reason is logged once.

use super::contract_tokens::Tokens;
use crate::chain::{Snapshot, TokenInfo};
use crate::contracts::token_status;
use crate::exit::Failure;
use crate::status::State;
use pxfs_base::lock;

impl Tokens {
    /// Logged once, however often passes retry.
    pub(super) fn note_failed(
        &self,
        snapshot: &Snapshot,
        token: &TokenInfo,
        error: &anyhow::Error,
    ) {
        let failure = Failure::from_error(error);
        let mut status = token_status::describe(&self.ground.parts, token, snapshot.timestamp_s);
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

    /// Whether the node has not named its root yet.
    fn is_late(&self, token: &TokenInfo) -> bool {
        let key = self.ground.parts.volume_key(token);
        self.openings.is_late(&key)
    }

    /// Why a token cannot be shown, unless one may still appear.
    pub(crate) fn first_failure(&self) -> Option<Failure> {
        if self.openings.are_late() {
            return None;
        }
        let failed = lock(&self.failed);
        failed.values().next().map(|(_, failure)| failure.clone())
    }
}
