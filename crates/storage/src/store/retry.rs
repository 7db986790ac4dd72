//! Retries around any store, within a deadline.
//!
//! Invariant: no call exceeds the deadline, even if the store below never answers; only transient
//! errors are retried.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;
use futures::future::BoxFuture;
use pxfs_base::backoff::{Backoff, jittered};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Block, BlockStore, Lookup, StoreError};

/// When to retry.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The longest pause before the first retry; it doubles.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// The limit for one call in all.
    pub deadline: Duration,
}

impl Default for Policy {
    /// Pauses from 0.1 s to 5 s, 60 s in all.
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
            deadline: Duration::from_secs(60),
        }
    }
}

/// A retrying store.
pub struct RetryStore {
    inner: Arc<dyn BlockStore>,
    policy: Policy,
}

impl RetryStore {
    /// Retries the calls of `inner` by `policy`.
    #[must_use]
    pub fn new(inner: Arc<dyn BlockStore>, policy: Policy) -> Self {
        Self { inner, policy }
    }

    /// Calls until the answer is not transient, or the deadline passes.
    async fn run<'a, T>(
        &self,
        call: impl Fn() -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.policy.deadline;
        let mut backoff = Backoff::new(self.policy.first_pause, self.policy.longest_pause);
        let mut last = "no answer".to_owned();
        loop {
            match timeout_at(deadline, call()).await {
                Err(_) => break,
                Ok(Err(StoreError::Transient(why) | StoreError::Away(why))) => last = why,
                Ok(answer) => return answer,
            }
            let wait = jittered(backoff.pause());
            if Instant::now() + wait >= deadline {
                break;
            }
            sleep(wait).await;
        }
        let tried = self.policy.deadline.as_secs_f32();
        Err(StoreError::Transient(format!("{last} (for {tried} s)")))
    }
}

#[async_trait]
impl BlockStore for RetryStore {
    async fn put(&self, blocks: &[Block], bundle: Option<&Block>) -> Result<bool, StoreError> {
        self.run(|| self.inner.put(blocks, bundle)).await
    }

    async fn lookup(&self, cid: &Cid, how: Lookup) -> Result<Bytes, StoreError> {
        self.run(|| self.inner.lookup(cid, how)).await
    }

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.run(|| self.inner.has(cid)).await
    }

    async fn pin_with(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        progress: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError> {
        self.run(|| self.inner.pin_with(root, from, progress)).await
    }

    async fn unpin(&self, root: &Cid) -> Result<(), StoreError> {
        self.run(|| self.inner.unpin(root)).await
    }

    async fn pinned(&self, among: Option<&[Cid]>) -> Result<Vec<Cid>, StoreError> {
        self.run(|| self.inner.pinned(among)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::BlockStoreExt;
    use crate::store::fault::{Call, Fault, FaultStore};
    use crate::store::memory::MemoryStore;
    use pxfs_format::cid::leaf_cid;

    fn stores(deadline: Duration) -> (Arc<FaultStore>, RetryStore) {
        let fault = Arc::new(FaultStore::new(Arc::new(MemoryStore::new())));
        let policy = Policy {
            first_pause: Duration::from_micros(10),
            longest_pause: Duration::from_micros(100),
            deadline,
        };
        (fault.clone(), RetryStore::new(fault, policy))
    }

    fn block() -> Block {
        Block {
            cid: leaf_cid(b"bytes"),
            data: Bytes::from_static(b"bytes"),
        }
    }

    fn reset() -> StoreError {
        StoreError::Transient("connection reset".into())
    }

    #[tokio::test]
    async fn a_node_that_stumbles_loses_nothing() {
        let (fault, store) = stores(Duration::from_secs(60));
        fault.set(Call::PutMany, Fault::Before(reset()), Some(3));
        fault.set(Call::Get, Fault::After(reset()), Some(2));
        store.put_many(&[block()]).await.unwrap();
        assert_eq!(store.get(&block().cid).await, Ok(block().data));
        assert_eq!((fault.count(Call::PutMany), fault.count(Call::Get)), (4, 3));
    }

    #[tokio::test]
    async fn what_another_try_cannot_help_is_told_at_once() {
        let (fault, store) = stores(Duration::from_secs(60));
        for error in [
            StoreError::Permanent("forbidden".into()),
            StoreError::Missing(block().cid),
            StoreError::Corrupt(block().cid, "bytes".into()),
        ] {
            fault.set(Call::Get, Fault::Before(error.clone()), None);
            assert_eq!(store.get(&block().cid).await, Err(error));
        }
        assert_eq!(fault.count(Call::Get), 3);
    }

    #[tokio::test]
    async fn a_node_that_stays_away_or_hangs_times_out() {
        let (fault, store) = stores(Duration::from_secs(3));
        fault.set_all(&Fault::Before(reset()));
        let error = store.pins().await.unwrap_err();
        assert!(matches!(&error, StoreError::Transient(why) if why.contains("connection reset")));
        assert!(fault.count(Call::Pins) > 1);
        fault.set_all(&Fault::Hang);
        let error = store.put_many(&[block()]).await.unwrap_err();
        assert!(matches!(&error, StoreError::Transient(why) if why.contains("no answer")));
        assert_eq!(fault.count(Call::PutMany), 1);
    }
}
