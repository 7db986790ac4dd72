//! Tokens that cannot be shown, or not yet: why, for `status` and for whoever waits for the mount.
//!
//! Invariant: each pass tries them again, and the log hears of a reason once. Called by `tokens`.

use super::contract_tokens::Tokens;
use crate::chain::{Snapshot, TokenInfo};
use crate::contracts::token_status;
use crate::exit::Failure;
use crate::status::State;
use pxfs_base::lock;

impl Tokens {
    /// Tries go on with every pass; the log hears of it once.
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

    /// Whether the node has not said yet what was published of it.
    fn is_late(&self, token: &TokenInfo) -> bool {
        let key = self.ground.parts.volume_key(token);
        self.openings.is_late(&key)
    }

    /// Why a token cannot be shown, if that is so of any, and none is waited for.
    pub(crate) fn first_failure(&self) -> Option<Failure> {
        if self.openings.are_late() {
            return None;
        }
        let failed = lock(&self.failed);
        failed.values().next().map(|(_, failure)| failure.clone())
    }
}
