//! Calls who has the commits of the tokens charged, so that it need not look again and again.
//!
//! Invariant: it is called behind each commit that is to be charged, behind each token that is shown, and behind each look at
//! the chain, by which charges come to their end. Called by `tokens`; `charges` waits for it.

use std::sync::Arc;

use super::contract_tokens::Tokens;
use crate::tokens::mounted::MountedToken;
use pxfs_base::lock;

impl Tokens {
    /// Shows `live` from now on.
    pub(super) fn add(&self, live: &Arc<MountedToken>) {
        let charging = Arc::clone(&self.charging);
        live.volume.on_charge(move || charging.notify_one());
        lock(&self.live).insert(live.key.token.token, Arc::clone(live));
        self.charging.notify_one();
    }

    /// Returns when there may be something to be charged; at once if there was since it returned last.
    pub(crate) async fn charge_called(&self) {
        self.charging.notified().await;
    }
}
