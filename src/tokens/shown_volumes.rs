//! What the fetcher asks of the tokens: newer trees, and unopened volumes.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use pxfs_base::lock;

use super::contract_tokens::Tokens;
use crate::context::ShownVolumes;
use crate::fs::{FsError, Volume};
use crate::types::VolumeKey;

impl ShownVolumes for Tokens {
    fn volume(&self, key: &VolumeKey) -> Option<Arc<Volume>> {
        let live = self.all().into_iter().find(|live| live.key == *key)?;
        Some(Arc::clone(&live.volume))
    }

    fn has_slot(&self, slot: u16) -> bool {
        lock(&self.live).values().any(|live| live.slot == slot)
    }

    fn is_unopened(&self, slot: u16) -> bool {
        self.unused_in(slot).is_some()
    }

    fn renew(&self, slot: u16) -> BoxFuture<'_, bool> {
        async move {
            let Some(live) = self.all().into_iter().find(|live| live.slot == slot) else {
                return false;
            };
            let renewed = live.publishing.renew().await;
            live.notify_followed(&self.teller);
            renewed
        }
        .boxed()
    }

    fn open_slot(self: Arc<Self>, slot: u16) -> BoxFuture<'static, Result<(), FsError>> {
        self.open_in_slot(slot).boxed()
    }
}
