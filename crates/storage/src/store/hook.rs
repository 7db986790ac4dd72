//! Stores of tests: each passes its calls on to another one, but for those that it does something else at.
//!
//! Invariant: a [`Hook`] says what is different, and nothing else; a call that [`BlockStore`] has a default for goes the
//! way of that default, through the calls that are hooked.

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;

use super::{Block, BlockStore, StoreError};

/// A store that is another one but for the calls that are written out.
#[async_trait]
pub trait Hook: Send + Sync {
    /// Where calls go.
    fn inner(&self) -> &dyn BlockStore;
    /// [`BlockStore::put_many`]
    async fn put_many(&self, blocks: &[Block]) -> Result<(), StoreError> {
        self.inner().put_many(blocks).await
    }
    /// [`BlockStore::put_held`]
    async fn put_held(&self, _: &[Block], _: &Block) -> Result<bool, StoreError> {
        Ok(false)
    }
    /// [`BlockStore::get`]
    async fn get(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        self.inner().get(cid).await
    }
    /// [`BlockStore::get_near`]
    async fn get_near(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        Hook::get(self, cid).await
    }
    /// [`BlockStore::has`]
    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.inner().has(cid).await
    }
    /// [`BlockStore::pin`]
    async fn pin(&self, root: &Cid, from: Option<&Cid>) -> Result<(), StoreError> {
        self.inner().pin(root, from).await
    }
    /// [`BlockStore::pin_while`]
    async fn pin_while(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        _moves: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError> {
        Hook::pin(self, root, from).await
    }
    /// [`BlockStore::unpin`]
    async fn unpin(&self, root: &Cid) -> Result<(), StoreError> {
        self.inner().unpin(root).await
    }
    /// [`BlockStore::pins`]
    async fn pins(&self) -> Result<Vec<Cid>, StoreError> {
        self.inner().pins().await
    }
}

#[async_trait]
impl<H: Hook> BlockStore for H {
    async fn put_many(&self, blocks: &[Block]) -> Result<(), StoreError> {
        Hook::put_many(self, blocks).await
    }

    async fn put_held(&self, blocks: &[Block], bundle: &Block) -> Result<bool, StoreError> {
        Hook::put_held(self, blocks, bundle).await
    }

    async fn get(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        Hook::get(self, cid).await
    }

    async fn get_near(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        Hook::get_near(self, cid).await
    }

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Hook::has(self, cid).await
    }

    async fn pin(&self, root: &Cid, from: Option<&Cid>) -> Result<(), StoreError> {
        Hook::pin(self, root, from).await
    }

    async fn pin_while(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        moves: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError> {
        Hook::pin_while(self, root, from, moves).await
    }

    async fn unpin(&self, root: &Cid) -> Result<(), StoreError> {
        Hook::unpin(self, root).await
    }

    async fn pins(&self) -> Result<Vec<Cid>, StoreError> {
        Hook::pins(self).await
    }
}
