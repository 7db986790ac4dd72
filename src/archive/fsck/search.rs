//! Searches what neither node nor machine has: on other nodes for a repair, and in the node's
//! network.
//!
//! Invariant: it ends soon, however much is lost: searches are concurrent, and stop once
//! [`IN_VAIN`] in a row have failed, or nobody answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use futures::StreamExt;
use tokio::time::timeout;

use super::plan::Missing;
use super::{AT_ONCE, Check, told};
use crate::control::Amount;
use crate::store::BlockStoreExt;
use crate::store::StoreError;

/// The limit of each of the two.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Consecutive failures after which searching stops.
const IN_VAIN: usize = 8;

/// Searches that can be given up.
#[derive(Default)]
struct Looks(AtomicUsize);

impl Looks {
    /// The result of `look`; `None` if it was not started, or timed out. `is_vain` judges it.
    async fn one<T>(
        &self,
        look: impl Future<Output = T>,
        is_vain: impl Fn(&T) -> bool,
    ) -> Option<T> {
        if self.0.load(Ordering::Relaxed) >= IN_VAIN {
            return None;
        }
        let found = timeout(PATIENCE, look).await.ok();
        match found.as_ref().is_none_or(is_vain) {
            true => _ = self.0.fetch_add(1, Ordering::Relaxed),
            false => self.0.store(0, Ordering::Relaxed),
        }
        found
    }
}

enum Found {
    /// Another node has it.
    Elsewhere(Bytes),
    /// The node has it now.
    There(Bytes),
    /// Nobody; and why that is uncertain.
    Nowhere(Option<String>),
}

impl Check<'_> {
    /// Searches the missing blocks; waiting work resumes, and the rest is reported as damaged.
    pub(super) async fn search(&mut self) -> anyhow::Result<()> {
        let lost = std::mem::take(&mut self.lost);
        let (others, network) = (Looks::default(), Looks::default());
        let (total, done) = (lost.len(), AtomicUsize::new(0));
        let looked: Vec<(Missing, Found)> = futures::stream::iter(lost)
            .map(|missing| {
                let (others, network, done) = (&others, &network, &done);
                let check = &*self;
                async move {
                    let found = check.look_for(&missing.cid, others, network).await;
                    let left = total - 1 - done.fetch_add(1, Ordering::Relaxed);
                    (check.tell)(
                        &format!("searching for what is missing: {left} blocks left"),
                        Amount::default(),
                    );
                    (missing, found)
                }
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
        for (missing, found) in looked {
            match found {
                Found::Nowhere(why) => {
                    self.note_lost(&missing).await;
                    let reason = match why {
                        Some(why) => format!("{}, and {why}", missing.reason),
                        None => missing.reason,
                    };
                    self.note(&missing.what, &missing.cid, reason);
                    continue;
                }
                Found::There(data) => self.count(&missing.cid, &data),
                Found::Elsewhere(data) => self.put_again(&missing.cid, &data).await?,
            }
            self.resume(missing.work);
        }
        Ok(())
    }

    async fn look_for(&self, cid: &Cid, others: &Looks, network: &Looks) -> Found {
        let mut silent = None;
        if self.repair {
            let reads = &self.ground.parts.node.reads;
            let is_silent = |answer: &Result<_, StoreError>| {
                !matches!(
                    answer,
                    Ok(_) | Err(StoreError::Missing(_) | StoreError::Corrupt(..))
                )
            };
            match others.one(reads.get_local(cid), is_silent).await {
                Some(answer) => match told(cid, answer) {
                    Ok(Ok(data)) => return Found::Elsewhere(data),
                    Ok(Err(_)) => {}
                    Err(error) => silent = Some(error.to_string()),
                },
                None => silent = Some("no answer".to_owned()),
            }
        }
        let asked = network.one(self.ground.parts.node.store.get(cid), Result::is_err);
        if let Some(Ok(data)) = asked.await
            && let Ok(Ok(data)) = told(cid, Ok(data))
        {
            return Found::There(data);
        }
        Found::Nowhere(silent.map(|why| format!("who may have it does not say: {why}")))
    }
}
