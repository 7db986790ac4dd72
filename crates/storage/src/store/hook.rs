//! Test stores that override some calls of another store.
//!
//! Invariant: a [`Hook`] overrides only what it names; other calls go through the overridden ones.

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;

use super::{Block, BlockStore, BlockStoreExt, Lookup, StoreError, those};

/// A store that overrides some calls of another.
#[async_trait]
pub trait Hook: Send + Sync {
    /// The store below.
    fn inner(&self) -> &dyn BlockStore;
    /// [`BlockStore::put`] without a bundle
    async fn put_many(&self, blocks: &[Block]) -> Result<(), StoreError> {
        self.inner().put_many(blocks).await
    }
    /// [`BlockStore::put`] with a bundle
    async fn put_held(&self, _: &[Block], _: &Block) -> Result<bool, StoreError> {
        Ok(false)
    }
    /// [`BlockStore::lookup`]
    async fn get(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        self.inner().get(cid).await
    }
    /// [`Lookup::Local`]
    async fn get_local(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        Hook::get(self, cid).await
    }
    /// [`BlockStore::has`]
    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.inner().has(cid).await
    }
    /// [`BlockStoreExt::pin`]
    async fn pin(&self, root: &Cid, from: Option<&Cid>) -> Result<(), StoreError> {
        self.inner().pin(root, from).await
    }
    /// [`BlockStore::pin_with`]
    async fn pin_with(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        _progress: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError> {
        Hook::pin(self, root, from).await
    }
    /// [`BlockStore::unpin`]
    async fn unpin(&self, root: &Cid) -> Result<(), StoreError> {
        self.inner().unpin(root).await
    }
    /// [`BlockStore::pinned`]
    async fn pins(&self) -> Result<Vec<Cid>, StoreError> {
        self.inner().pins().await
    }
}

#[async_trait]
impl<H: Hook> BlockStore for H {
    async fn put(&self, blocks: &[Block], bundle: Option<&Block>) -> Result<bool, StoreError> {
        match bundle {
            Some(bundle) => Hook::put_held(self, blocks, bundle).await,
            None => Hook::put_many(self, blocks).await.map(|()| true),
        }
    }

    async fn lookup(&self, cid: &Cid, how: Lookup) -> Result<Bytes, StoreError> {
        match how {
            Lookup::Network | Lookup::Unverified => Hook::get(self, cid).await,
            Lookup::Local => Hook::get_local(self, cid).await,
        }
    }

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Hook::has(self, cid).await
    }

    async fn pin_with(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        progress: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError> {
        Hook::pin_with(self, root, from, progress).await
    }

    async fn unpin(&self, root: &Cid) -> Result<(), StoreError> {
        Hook::unpin(self, root).await
    }

    async fn pinned(&self, among: Option<&[Cid]>) -> Result<Vec<Cid>, StoreError> {
        Ok(those(Hook::pins(self).await?, among))
    }
}
