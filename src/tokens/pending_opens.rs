//! Opens volumes in the background: one never used here waits for the node to name its root, longer
//! than a pass may take.
//!
//! Invariant: one opening per volume at a time; each pass waits for it a bounded time.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::chain::TokenInfo;
use crate::context::MountContext;
use crate::exit::fail;
use crate::tokens::mounted::{MountedToken, Opened};
use crate::tokens::publishing::{LATE, PATIENCE};
use crate::tokens::right::Right;
use crate::types::VolumeKey;

/// How long a later pass waits for one.
const AGAIN: Duration = Duration::from_secs(1);

/// Openings that outlasted their pass.
#[derive(Default)]
pub(crate) struct PendingOpens {
    late: Mutex<HashMap<VolumeKey, Opening>>,
}

struct Opening(JoinHandle<anyhow::Result<Opened>>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl PendingOpens {
    /// Opens the volume of `token`, one of `count`, or continues an opening in progress.
    ///
    /// # Errors
    /// As [`MountedToken::open`]; the node has not answered yet: then it [is late](PendingOpens::is_late).
    pub(crate) async fn open(
        &self,
        ground: &Arc<MountContext>,
        count: usize,
        token: &TokenInfo,
        right: &Right,
    ) -> anyhow::Result<Opened> {
        let key = ground.parts.volume_key(token);
        let begun = self.lock().remove(&key);
        let patience = match begun {
            None => PATIENCE,
            Some(_) => AGAIN,
        };
        let mut opening = begun.unwrap_or_else(|| {
            let (ground, token, right) = (Arc::clone(ground), token.clone(), right.clone());
            Opening(tokio::spawn(async move {
                MountedToken::open(&ground, count, &token, &right).await
            }))
        });
        match timeout(patience, &mut opening.0).await {
            Ok(opened) => opened?,
            Err(_) => {
                self.lock().insert(key, opening);
                fail!(Node, "{LATE}")
            }
        }
    }

    /// Whether an opening waits for the node.
    pub(crate) fn is_late(&self, key: &VolumeKey) -> bool {
        self.lock().contains_key(key)
    }

    /// Whether any opening waits for the node.
    pub(crate) fn are_late(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Aborts openings of volumes not `wanted`.
    pub(crate) fn keep(&self, wanted: &BTreeSet<VolumeKey>) {
        self.lock().retain(|key, _| wanted.contains(key));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VolumeKey, Opening>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
