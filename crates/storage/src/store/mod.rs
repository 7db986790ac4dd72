//! The block store: where a volume's blocks live, addressed by CID.
//!
//! Invariant: no implementation hands out a byte that it has not verified against its CID, except for
//! [`Lookup::Unverified`], and none reports a block as put before it is durable there.
//!
//! [`memory`], [`embedded`] and [`rpc`] (a BTFS or IPFS node) hold blocks, a [`gateway`] is read from alone; [`fault`] and
//! [`retry`] wrap any store,
//! [`many`] several; [`car`] is an archive of blocks;
//! `suite` is what every one of them must pass.

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

/// Leaves that are asked for at one time where each takes a call of its own.
const LEAVES_AT_ONCE: usize = 8;

/// What went wrong at a store, by what the caller can do about it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// The store does not have the block.
    #[error("block {0} is missing")]
    Missing(Cid),
    /// Worth another try: the network, a timeout, a full disk.
    #[error("storage node: {0}")]
    Transient(String),
    /// Nobody is there: worth another try once the node runs again.
    #[error("storage node: {0}")]
    Away(String),
    /// Another try will not help: refused, forbidden, not a node.
    #[error("storage node: {0}")]
    Permanent(String),
    /// The store gave bytes that are not the block.
    #[error("block {0} is corrupt: {1}")]
    Corrupt(Cid, String),
}

/// A place for blocks.
#[async_trait]
pub trait BlockStore: Send + Sync {
    /// Stores `blocks`, and returns true once all of them are durable there. A block whose bytes do not
    /// hash to its CID is refused ([`StoreError::Corrupt`]), and nothing is claimed for the rest.
    ///
    /// `bundle` is a node that links to each of `blocks`: it is stored and pinned in the same step, so that no
    /// garbage collection comes between. A store that cannot do that stores nothing and returns false.
    async fn put(&self, blocks: &[Block], bundle: Option<&Block>) -> Result<bool, StoreError>;
    /// The bytes of `cid`.
    async fn lookup(&self, cid: &Cid, how: Lookup) -> Result<Bytes, StoreError>;
    /// The verified bytes of some small leaves, given with their lengths, in their order: in as few calls as the
    /// store can. The first error fails them all; each may still be had by itself.
    async fn get_leaves(&self, leaves: &[(Cid, u64)]) -> Result<Vec<Bytes>, StoreError> {
        some_at_once(leaves.iter().map(|(cid, _)| self.get(cid)).collect()).await
    }
    /// Whether the store itself has the block, without reading it.
    async fn has(&self, cid: &Cid) -> Result<bool, StoreError>;
    /// Pins `root` and all below it, and calls `progress` whenever the store reports more of it.
    /// `from`, when it is still pinned, is a root that shares most blocks with it, so that only the
    /// difference is walked; it stays pinned. [`StoreError::Missing`] when a block below `root` is not there.
    async fn pin_with(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        progress: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError>;
    /// Releases the pin of `root`; no error when it was not pinned.
    async fn unpin(&self, root: &Cid) -> Result<(), StoreError>;
    /// The roots that are pinned recursively, in no order: those of `among`, or all.
    async fn pinned(&self, among: Option<&[Cid]>) -> Result<Vec<Cid>, StoreError>;
}

/// Where a store looks for a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// In what it has, and then in its network. The bytes are verified.
    Network,
    /// As [`Lookup::Network`], for callers that verify: at most [`MAX_BLOCK_BYTES`] under that CID. If they are not the
    /// block, [`Lookup::Network`] may still find it. So each block is hashed once.
    Unverified,
    /// In what it has; several stores each in what it has. The bytes are verified.
    Local,
}

/// The usual calls of a [`BlockStore`].
#[async_trait]
pub trait BlockStoreExt: BlockStore {
    /// Stores `blocks`: see [`BlockStore::put`].
    async fn put_many(&self, blocks: &[Block]) -> Result<(), StoreError> {
        self.put(blocks, None).await.map(drop)
    }
    /// The verified bytes of `cid`, wherever the store finds them.
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
    /// All roots that are pinned recursively.
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

/// The answers of many calls, in their order, or the first error.
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

/// [`Block::check`] for bytes that are not in a block yet.
pub fn check_bytes(cid: &Cid, data: &[u8]) -> Result<(), StoreError> {
    Ok(block::check_bytes(cid, data)?)
}
