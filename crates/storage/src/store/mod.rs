//! The block store: a volume's blocks, addressed by CID.
//!
//! Invariant: no implementation returns an unverified byte, except for [`Lookup::Unverified`], or
//! reports a block as put before it is durable.
//!
//! [`memory`], [`embedded`] and [`rpc`] (a BTFS or IPFS node) store blocks, a [`gateway`] is
//! read-only; [`fault`] and [`retry`] wrap any store, [`many`] several; [`car`] is an archive of
//! blocks; every store passes `suite`.

pub mod car;
pub mod embedded;
pub mod fault;
pub mod gateway;
#[cfg(any(test, feature = "testing"))]
pub mod hook;
mod links;
pub mod many;
pub mod memory;
pub mod retry;
pub mod rpc;
#[cfg(any(test, feature = "testing"))]
pub mod suite;
mod walk;

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};

use pxfs_format::block;
pub use pxfs_format::block::{Block, BlockError, MAX_BLOCK_BYTES};

pub use links::links;

/// Leaves requested at once if each takes its own call.
const LEAVES_AT_ONCE: usize = 8;

/// A store's failure, by what the caller can do about it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// The store does not have the block.
    #[error("block {0} is missing")]
    Missing(Cid),
    /// Retry: the network, a timeout, a full disk.
    #[error("storage node: {0}")]
    Transient(String),
    /// Nobody is there: retry once the node runs again.
    #[error("storage node: {0}")]
    Away(String),
    /// A retry is pointless: refused, forbidden, not a node.
    #[error("storage node: {0}")]
    Permanent(String),
    /// The store gave bytes that are not the block.
    #[error("block {0} is corrupt: {1}")]
    Corrupt(Cid, String),
}

/// A store of blocks.
#[async_trait]
pub trait BlockStore: Send + Sync {
    /// Stores `blocks`; returns true once all are durable. Refuses a block whose bytes do not hash
    /// to its CID ([`StoreError::Corrupt`]), and then claims nothing for the rest.
    ///
    /// `bundle` links to each of `blocks`: it is stored and pinned in the same step, so that no
    /// garbage collection comes between. A store that cannot do that stores nothing and returns
    /// false.
    async fn put(&self, blocks: &[Block], bundle: Option<&Block>) -> Result<bool, StoreError>;
    /// The bytes of `cid`.
    async fn lookup(&self, cid: &Cid, how: Lookup) -> Result<Bytes, StoreError>;
    /// The verified bytes of small leaves, given with their lengths, in order, in as few calls as
    /// possible. The first error fails all; each may still be available alone.
    async fn get_leaves(&self, leaves: &[(Cid, u64)]) -> Result<Vec<Bytes>, StoreError> {
        some_at_once(leaves.iter().map(|(cid, _)| self.get(cid)).collect()).await
    }
    /// Whether the store itself has the block, without reading it.
    async fn has(&self, cid: &Cid) -> Result<bool, StoreError>;
    /// Pins `root` and everything below, calling `progress` whenever the store advances. `from`, if
    /// still pinned, is a root that shares most blocks, so that only the difference is walked; it
    /// stays pinned. [`StoreError::Missing`] if a block below `root` is missing.
    async fn pin_with(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        progress: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError>;
    /// Unpins `root`; no error if it was not pinned.
    async fn unpin(&self, root: &Cid) -> Result<(), StoreError>;
    /// The recursively pinned roots, unordered: those of `among`, or all.
    async fn pinned(&self, among: Option<&[Cid]>) -> Result<Vec<Cid>, StoreError>;
}

/// Where to look for a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// In the store, then in its network. Verified.
    Network,
    /// As [`Lookup::Network`], for callers that verify, so that each block is hashed once: at most
    /// [`MAX_BLOCK_BYTES`] under that CID. If they are wrong, [`Lookup::Network`] may still find
    /// the block.
    Unverified,
    /// In the store; several stores each in its own. Verified.
    Local,
}

/// Common calls of a [`BlockStore`].
#[async_trait]
pub trait BlockStoreExt: BlockStore {
    /// Stores `blocks`: see [`BlockStore::put`].
    async fn put_many(&self, blocks: &[Block]) -> Result<(), StoreError> {
        self.put(blocks, None).await.map(drop)
    }
    /// The verified bytes of `cid`, wherever found.
    async fn get(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        self.lookup(cid, Lookup::Network).await
    }
    /// The verified bytes of `cid` if the store itself has them.
    async fn get_local(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        self.lookup(cid, Lookup::Local).await
    }
    /// Pins `root`: see [`BlockStore::pin_with`].
    async fn pin(&self, root: &Cid, from: Option<&Cid>) -> Result<(), StoreError> {
        self.pin_with(root, from, &|| {}).await
    }
    /// All recursively pinned roots.
    async fn pins(&self) -> Result<Vec<Cid>, StoreError> {
        self.pinned(None).await
    }
    /// Whether each of `roots` is pinned recursively.
    async fn all_pinned(&self, roots: &[Cid]) -> Result<bool, StoreError> {
        let pinned = self.pinned(Some(roots)).await?;
        Ok(roots.iter().all(|root| pinned.contains(root)))
    }
}

impl<S: BlockStore + ?Sized> BlockStoreExt for S {}

/// Those of `pins` that are in `among`.
fn those(mut pins: Vec<Cid>, among: Option<&[Cid]>) -> Vec<Cid> {
    if let Some(among) = among {
        pins.retain(|pin| among.contains(pin));
    }
    pins
}

/// The results of many calls, in order, or the first error.
async fn some_at_once<T>(
    calls: Vec<BoxFuture<'_, Result<T, StoreError>>>,
) -> Result<Vec<T>, StoreError> {
    let calls = futures::stream::iter(calls).buffered(LEAVES_AT_ONCE);
    calls.try_collect().await
}

impl From<BlockError> for StoreError {
    fn from(error: BlockError) -> Self {
        match error {
            BlockError::Corrupt(cid, why) => Self::Corrupt(cid, why),
            BlockError::TooLarge(_) | BlockError::Form(_) => Self::Permanent(error.to_string()),
        }
    }
}

/// [`Block::check`] for raw bytes.
pub fn check_bytes(cid: &Cid, data: &[u8]) -> Result<(), StoreError> {
    Ok(block::check_bytes(cid, data)?)
}
