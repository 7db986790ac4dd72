//! Several nodes as one store for reading: first what each has itself, then what one finds in its
//! network. If one fails or is slow, the next is asked.
//!
//! Invariant: one store alone handles writes, pins and existence; a block is missing only if every
//! store says so.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::sleep;

use super::{Block, BlockStore, BlockStoreExt, Lookup, StoreError, check_bytes};

/// How long a store may be silent before the next is asked as well.
const HEDGE: Duration = Duration::from_secs(2);

/// A store, and others that may have what it lacks.
pub struct ManyStore {
    /// Takes writes, and is asked last, because it may search for long.
    first: Arc<dyn BlockStore>,
    /// In the order of asking.
    near: Vec<Arc<dyn BlockStore>>,
    hedge: Duration,
}

impl ManyStore {
    /// Writes to `first`. Reads from `near`, stores that answer from what they have, then from
    /// `first`. None need verify.
    #[must_use]
    pub fn new(first: Arc<dyn BlockStore>, near: Vec<Arc<dyn BlockStore>>) -> Self {
        Self {
            first,
            near,
            hedge: HEDGE,
        }
    }

    /// The verified bytes of `cid` from one of `left`, asked in order.
    async fn ask_each<'a>(
        &self,
        mut left: impl Iterator<Item = &'a Arc<dyn BlockStore>> + Send,
        cid: &Cid,
    ) -> Result<Bytes, StoreError> {
        let mut asked = FuturesUnordered::new();
        asked.extend(left.next().map(|store| ask(store, cid)));
        let (mut told, mut is_late) = (None, false);
        while !asked.is_empty() {
            let answer = tokio::select! {
                answer = asked.next() => answer,
                () = sleep(self.hedge), if !is_late => None,
            };
            match answer {
                Some(Ok(data)) => return Ok(data),
                Some(Err(error)) => told = Some(worse(told, error)),
                None => {}
            }
            match left.next() {
                Some(store) => asked.push(ask(store, cid)),
                None => is_late = true,
            }
        }
        Err(told.unwrap_or(StoreError::Missing(*cid)))
    }
}

/// The error to report when no store gave the block: one that may pass, else the last.
fn worse(told: Option<StoreError>, next: StoreError) -> StoreError {
    match (told, next) {
        (Some(told @ StoreError::Transient(_)), _) => told,
        (_, next @ StoreError::Transient(_)) => next,
        (Some(told @ StoreError::Away(_)), _) => told,
        (_, next) => next,
    }
}

/// The verified block from `store`; asks once more if the first answer is wrong.
async fn ask(store: &Arc<dyn BlockStore>, cid: &Cid) -> Result<Bytes, StoreError> {
    let data = store.lookup(cid, Lookup::Unverified).await?;
    if check_bytes(cid, &data).is_ok() {
        return Ok(data);
    }
    let data = store.get(cid).await?;
    check_bytes(cid, &data).map(|()| data)
}

#[async_trait]
impl BlockStore for ManyStore {
    async fn put(&self, blocks: &[Block], bundle: Option<&Block>) -> Result<bool, StoreError> {
        self.first.put(blocks, bundle).await
    }

    async fn lookup(&self, cid: &Cid, how: Lookup) -> Result<Bytes, StoreError> {
        let last = (how != Lookup::Local).then_some(&self.first);
        self.ask_each(self.near.iter().chain(last), cid).await
    }

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.first.has(cid).await
    }

    async fn pin_with(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        progress: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError> {
        self.first.pin_with(root, from, progress).await
    }

    async fn unpin(&self, root: &Cid) -> Result<(), StoreError> {
        self.first.unpin(root).await
    }

    async fn pinned(&self, among: Option<&[Cid]>) -> Result<Vec<Cid>, StoreError> {
        self.first.pinned(among).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fault::{Call, Fault, FaultStore};
    use crate::store::memory::MemoryStore;
    use crate::store::suite::{self, unique_leaf};

    fn stores() -> (Arc<FaultStore>, Arc<FaultStore>, ManyStore) {
        let store = || Arc::new(FaultStore::new(Arc::new(MemoryStore::new())));
        let (first, second) = (store(), store());
        let mut many = ManyStore::new(
            Arc::<FaultStore>::clone(&first),
            vec![
                Arc::<FaultStore>::clone(&first),
                Arc::<FaultStore>::clone(&second),
            ],
        );
        many.hedge = Duration::from_millis(20);
        (first, second, many)
    }

    #[tokio::test]
    async fn it_is_a_store_as_its_first_one_is() {
        let (_, _, many) = stores();
        suite::passes(Arc::new(many)).await;
    }

    #[tokio::test]
    async fn if_the_first_node_fails_another_one_provides_the_block() {
        let (first, second, many) = stores();
        let block = unique_leaf(100);
        let blocks = std::slice::from_ref(&block);
        second.put_many(blocks).await.unwrap();
        let away = StoreError::Transient("away".into());
        assert_eq!(
            many.get(&block.cid).await,
            Ok(block.data.clone()),
            "missing"
        );
        first.put_many(blocks).await.unwrap();
        for fault in [
            Fault::Before(away.clone()),
            Fault::Before(StoreError::Permanent("no".into())),
            Fault::Corrupt,
            Fault::Hang,
        ] {
            first.set(Call::Get, fault.clone(), None);
            assert_eq!(
                many.get(&block.cid).await,
                Ok(block.data.clone()),
                "{fault:?}"
            );
        }
        // A node that may return may have it.
        first.clear();
        let absent = unique_leaf(100).cid;
        assert_eq!(many.get(&absent).await, Err(StoreError::Missing(absent)));
        for store in [&first, &second] {
            store.set(Call::Get, Fault::Before(away.clone()), None);
            assert_eq!(many.get(&absent).await, Err(away.clone()));
            store.clear();
        }
        // Nor is the first searched if the caller wants no search.
        for (searches, asked) in [(true, 2), (false, 1)] {
            first.reset_counts();
            let answer = match searches {
                true => many.get(&absent).await,
                false => many.get_local(&absent).await,
            };
            assert_eq!(answer, Err(StoreError::Missing(absent)));
            assert_eq!(first.count(Call::Get), asked);
        }
        assert_eq!(many.get_local(&block.cid).await, Ok(block.data.clone()));
        // While it is healthy, the others rest.
        second.reset_counts();
        many.get(&block.cid).await.unwrap();
        assert_eq!(second.count(Call::Get), 0);
    }
}
