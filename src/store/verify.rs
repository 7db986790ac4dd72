//! Verification around any store: what goes in and what comes out hashes to its CID.
//!
//! Invariant: the store within is believed about presence and pins, never about bytes. Built by
//! `run` around stores of others (nodes).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;

use super::{Block, BlockStore, StoreError, check_bytes};

/// A store whose bytes are verified here.
pub struct VerifyStore {
    inner: Arc<dyn BlockStore>,
}

impl VerifyStore {
    /// Verifies what `inner` takes and gives.
    #[must_use]
    pub fn new(inner: Arc<dyn BlockStore>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl BlockStore for VerifyStore {
    async fn put_many(&self, blocks: &[Block]) -> Result<(), StoreError> {
        blocks.iter().try_for_each(Block::check)?;
        self.inner.put_many(blocks).await
    }

    async fn get(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        let data = self.inner.get(cid).await?;
        check_bytes(cid, &data)?;
        Ok(data)
    }

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.inner.has(cid).await
    }

    async fn pin(&self, root: &Cid, from: Option<&Cid>) -> Result<(), StoreError> {
        self.inner.pin(root, from).await
    }

    async fn unpin(&self, root: &Cid) -> Result<(), StoreError> {
        self.inner.unpin(root).await
    }

    async fn pins(&self) -> Result<Vec<Cid>, StoreError> {
        self.inner.pins().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::cid::leaf_cid;
    use crate::store::fault::{Call, Fault, FaultStore};
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn bytes_that_a_node_changed_never_reach_a_reader() {
        let fault = Arc::new(FaultStore::new(Arc::new(MemoryStore::new())));
        let store = VerifyStore::new(fault.clone());
        let block = Block {
            cid: leaf_cid(b"bytes"),
            data: Bytes::from_static(b"bytes"),
        };
        store.put_many(std::slice::from_ref(&block)).await.unwrap();
        fault.set(Call::Get, Fault::Corrupt, Some(1));
        assert!(matches!(
            store.get(&block.cid).await,
            Err(StoreError::Corrupt(cid, _)) if cid == block.cid
        ));
        assert_eq!(store.get(&block.cid).await, Ok(block.data));
    }

    #[tokio::test]
    async fn a_wrong_block_never_reaches_a_node() {
        let fault = Arc::new(FaultStore::new(Arc::new(MemoryStore::new())));
        let store = VerifyStore::new(fault.clone());
        let wrong = Block {
            cid: leaf_cid(b"bytes"),
            data: Bytes::from_static(b"other"),
        };
        assert!(matches!(
            store.put_many(&[wrong]).await,
            Err(StoreError::Corrupt(..))
        ));
        assert_eq!(fault.count(Call::PutMany), 0);
    }
}
