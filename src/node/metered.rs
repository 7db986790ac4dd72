//! Meters a storage node's uploads and answers.
//!
//! Invariant: passes every call on unchanged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;
use tokio::time::Instant;

use crate::names::{NameError, NameStore};
use crate::store::{Block, BlockStore, Lookup, StoreError};

/// A node's activity since the start.
#[derive(Debug, Default)]
pub struct Meter {
    sent_bytes: AtomicU64,
    /// When unanswered calls began.
    open: Mutex<BTreeMap<u64, Instant>>,
    begun: AtomicU64,
    /// Its last success, or statement that it lacks something.
    heard: Mutex<Option<Instant>>,
}

struct Open<'a>(&'a Meter, u64);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open().remove(&self.1);
    }
}

impl Meter {
    /// Block bytes it took.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// The age of the oldest unanswered call.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let open = self.open();
        open.first_key_value()
            .map_or(Duration::ZERO, |(_, begun)| begun.elapsed())
    }

    /// Whether it has answered since `then`.
    #[must_use]
    pub fn is_heard_since(&self, then: Instant) -> bool {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_some_and(|heard| heard > then)
    }

    async fn watch<T, E: Refusal>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let serial = self.begun.fetch_add(1, Ordering::Relaxed);
        self.open().insert(serial, Instant::now());
        // Also if nobody waits any more.
        let _open = Open(self, serial);
        let answer = call.await;
        if answer.as_ref().err().is_none_or(Refusal::is_absence) {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            *heard = Some(Instant::now());
        }
        answer
    }

    fn note_sent(&self, blocks: &[Block]) {
        let bytes: u64 = blocks.iter().map(|block| block.data.len() as u64).sum();
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn open(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a call failed.
trait Refusal {
    /// Whether the node says that it lacks something.
    fn is_absence(&self) -> bool;
}

impl Refusal for StoreError {
    fn is_absence(&self) -> bool {
        matches!(self, Self::Missing(_))
    }
}

impl Refusal for NameError {
    fn is_absence(&self) -> bool {
        matches!(self, Self::Missing(_))
    }
}

/// A metered block or name store.
pub(crate) struct Metered<S: ?Sized> {
    inner: Arc<S>,
    counts: Arc<Meter>,
}

impl<S: ?Sized> Metered<S> {
    pub(crate) fn new(inner: Arc<S>, counts: &Arc<Meter>) -> Self {
        Self {
            inner,
            counts: Arc::clone(counts),
        }
    }
}

#[async_trait]
impl BlockStore for Metered<dyn BlockStore> {
    async fn put(&self, blocks: &[Block], bundle: Option<&Block>) -> Result<bool, StoreError> {
        let stored = self.counts.watch(self.inner.put(blocks, bundle)).await?;
        if stored {
            self.counts.note_sent(blocks);
        }
        Ok(stored)
    }

    async fn lookup(&self, cid: &Cid, how: Lookup) -> Result<Bytes, StoreError> {
        self.counts.watch(self.inner.lookup(cid, how)).await
    }

    async fn get_leaves(&self, leaves: &[(Cid, u64)]) -> Result<Vec<Bytes>, StoreError> {
        self.counts.watch(self.inner.get_leaves(leaves)).await
    }

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.counts.watch(self.inner.has(cid)).await
    }

    async fn pin_with(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        progress: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError> {
        let pinned = self.inner.pin_with(root, from, progress);
        self.counts.watch(pinned).await
    }

    async fn unpin(&self, root: &Cid) -> Result<(), StoreError> {
        self.counts.watch(self.inner.unpin(root)).await
    }

    async fn pinned(&self, among: Option<&[Cid]>) -> Result<Vec<Cid>, StoreError> {
        self.counts.watch(self.inner.pinned(among)).await
    }
}

#[async_trait]
impl NameStore for Metered<dyn NameStore> {
    async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError> {
        self.counts.watch(self.inner.publish(name, record)).await
    }

    async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError> {
        self.counts.watch(self.inner.resolve(name)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::cid::leaf_cid;
    use crate::store::BlockStoreExt;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn what_a_node_takes_is_counted_and_what_it_refuses_is_not() {
        let counts = Arc::new(Meter::default());
        let inner: Arc<dyn BlockStore> = Arc::new(MemoryStore::default());
        let store = Metered::new(inner, &counts);
        let data = Bytes::from_static(b"abc");
        let cid = leaf_cid(&data);
        store.put_many(&[Block { cid, data }]).await.unwrap();
        assert_eq!(counts.sent_bytes(), 3);
        let data = Bytes::from_static(b"other");
        assert!(store.put_many(&[Block { cid, data }]).await.is_err());
        assert_eq!(counts.sent_bytes(), 3);
        assert_eq!(store.get(&cid).await.unwrap(), Bytes::from_static(b"abc"));
    }

    #[tokio::test]
    async fn what_a_node_has_met_is_over_once_it_answers_anybody() {
        let counts = Meter::default();
        let away = StoreError::Away("Connection refused".to_owned());
        for (answer, is_heard) in [
            (Err(away), false),
            (Err(StoreError::Permanent("forbidden".to_owned())), false),
            (Err(StoreError::Missing(leaf_cid(b"none"))), true),
            (Ok(()), true),
        ] {
            let then = Instant::now();
            let shown = format!("{answer:?}");
            let _ = counts.watch(async { answer }).await;
            assert_eq!(counts.is_heard_since(then), is_heard, "{shown}");
        }
    }

    #[tokio::test]
    async fn a_silent_node_is_noticed_but_an_abandoned_call_does_not_count() {
        let counts = Arc::new(Meter::default());
        assert_eq!(counts.silence(), Duration::ZERO);
        let asked = Arc::clone(&counts);
        let hangs = tokio::spawn(async move {
            let never = std::future::pending::<Result<(), StoreError>>();
            asked.watch(never).await
        });
        let pause = Duration::from_millis(20);
        while counts.silence() < pause {
            tokio::time::sleep(pause).await;
        }
        // Other answers do not speak for it.
        counts
            .watch(async { Ok::<_, StoreError>(()) })
            .await
            .unwrap();
        assert!(counts.silence() >= pause, "{:?}", counts.silence());
        hangs.abort();
        assert!(hangs.await.is_err());
        assert_eq!(counts.silence(), Duration::ZERO);
    }
}
