//! The block store: where a volume's blocks live, addressed by CID.
//!
//! Invariant: no implementation hands out a byte that it has not verified against its CID (but for
//! [`BlockStore::get_unverified`], which says so), and
//! none reports a block as put before it is durable there. Called by `publish` (put, pin) and
//! `fetch` (get).
//!
//! [`memory`], [`embedded`] and [`rpc`] (a BTFS or IPFS node) hold blocks, a [`gateway`] is read from alone; [`fault`] and
//! [`retry`] wrap any store,
//! [`many`] several; [`car`] is an archive of blocks;
//! [`suite`] is what every one of them must pass.

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
#[doc(hidden)]
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
    /// Stores `blocks`; returns once every one of them is durable there. A block whose bytes do
    /// not hash to its CID is refused ([`StoreError::Corrupt`]) and nothing is claimed for the rest.
    async fn put_many(&self, blocks: &[Block]) -> Result<(), StoreError>;
    /// As [`BlockStore::put_many`], in one step with a pin of `bundle`, a node that links to each of them: no collection of
    /// garbage comes between. False, and nothing is stored, where the store cannot do that.
    async fn put_held(&self, blocks: &[Block], bundle: &Block) -> Result<bool, StoreError> {
        let _ = (blocks, bundle);
        Ok(false)
    }
    /// The verified bytes of `cid`.
    async fn get(&self, cid: &Cid) -> Result<Bytes, StoreError>;
    /// As [`BlockStore::get`], for one who verifies it himself: what the store has under `cid`, at most
    /// [`MAX_BLOCK_BYTES`] of it, which need not be that block: then [`BlockStore::get`] may still have it. So it is hashed once.
    async fn get_unverified(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        self.get(cid).await
    }
    /// As [`BlockStore::get`]: what the store has itself, where several are one what each has, and no search for what
    /// none has.
    async fn get_near(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        self.get(cid).await
    }
    /// As [`BlockStore::get_near`], of those alone that keep what they are given, where others are asked beside them
    /// that do not: `None` where there are no such others.
    async fn get_kept(&self, cid: &Cid) -> Option<Result<Bytes, StoreError>> {
        let _ = cid;
        None
    }
    /// The verified bytes of some small leaves, of which the length is known too, in their order: in as
    /// few calls as the store knows how to. The first error is told for all of them; then each may
    /// still be had by itself.
    async fn get_leaves(&self, leaves: &[(Cid, u64)]) -> Result<Vec<Bytes>, StoreError> {
        some_at_once(leaves.iter().map(|(cid, _)| self.get(cid)).collect()).await
    }
    /// Whether the block is there, without reading it.
    async fn has(&self, cid: &Cid) -> Result<bool, StoreError>;
    /// Pins `root` and all below it. `from`, when it is still pinned, is a root that shares most
    /// blocks with it, so that only the difference is walked; it stays pinned.
    /// [`StoreError::Missing`] when a block below `root` is not there.
    async fn pin(&self, root: &Cid, from: Option<&Cid>) -> Result<(), StoreError>;
    /// As [`BlockStore::pin`]; where the store tells how far it is, `moves` is called whenever that is further.
    async fn pin_while(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        moves: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError> {
        let _ = moves;
        self.pin(root, from).await
    }
    /// Releases the pin of `root`; no error when it was not pinned.
    async fn unpin(&self, root: &Cid) -> Result<(), StoreError>;
    /// The roots that are pinned recursively, in no order.
    async fn pins(&self) -> Result<Vec<Cid>, StoreError>;
    /// Whether each of `roots` is pinned recursively.
    async fn all_pinned(&self, roots: &[Cid]) -> Result<bool, StoreError> {
        let pins = self.pins().await?;
        Ok(roots.iter().all(|root| pins.contains(root)))
    }
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
