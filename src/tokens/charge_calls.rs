//! Wakes the task that charges commits, so that it need not poll.
//!
//! Invariant: it wakes after each commit to be charged, each newly shown token, and each check of
//! the chain, because these complete charges.

use std::sync::Arc;

use super::contract_tokens::Tokens;
use crate::tokens::mounted::MountedToken;
use pxfs_base::lock;

impl Tokens {
    pub(super) fn add(&self, live: &Arc<MountedToken>) {
        let charging = Arc::clone(&self.charging);
        live.volume.on_charge(move || charging.notify_one());
        lock(&self.live).insert(live.key.token.token, Arc::clone(live));
        self.charging.notify_one();
    }

    /// Returns when there may be something to charge; at once if there was since the last return.
    pub(crate) async fn charge_called(&self) {
        self.charging.notified().await;
    }
}
