//! The embedded node: a folder of blocks by CID, and of pins.
//!
//! Invariant: a file under a CID is whole and durable, and each read verifies it; what a pin reaches is
//! never collected. One process at a time owns the folder.
//!
//! ```text
//! DIR/lock, DIR/format     one owner; `pxfs blocks 1`
//! DIR/blocks/H/CID         H = last hex digit of the digest; time of change = last put
//! DIR/pins/CID             an empty file for each root that is pinned
//! DIR/new/                 files that have no name yet; emptied at open
//! DIR/collected            empty; time of change = end of the last collection
//! ```

mod collect;
mod folder;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, Semaphore};
use tokio::task::spawn_blocking;

pub use collect::Collected;
use folder::{Folder, Placed};

use super::{Block, BlockStore, Lookup, StoreError, those, walk};
use pxfs_base::clock::Clock;

/// Files that a put writes and syncs at once; also the most writing threads.
const WRITERS: usize = 8;
const READERS: usize = 8;

/// A store in a folder. Clones are cheap and share it.
#[derive(Clone)]
pub struct EmbeddedStore {
    folder: Arc<Folder>,
    writers: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    /// Puts and pins share it; a collection takes it alone for each batch it removes, so that no
    /// block vanishes between a put's check and its promise. Readers ignore it.
    gate: Arc<RwLock<()>>,
}

/// A folder's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blocks.
    pub block_count: u64,
    /// Their bytes.
    pub block_bytes: u64,
}

impl EmbeddedStore {
    /// Opens or creates the folder `dir`, and removes what a crash left unfinished. Blocks on the
    /// disk. [`StoreError::Permanent`] if another process has it open.
    pub fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        Ok(Self {
            folder: Arc::new(Folder::open(dir, clock)?),
            writers: Arc::new(Semaphore::new(WRITERS)),
            readers: Arc::new(Semaphore::new(READERS)),
            gate: Arc::default(),
        })
    }

    /// Counts blocks and bytes; stats each file.
    pub async fn usage(&self) -> Result<Usage, StoreError> {
        self.work(&self.readers, Folder::usage).await
    }

    /// Runs `work` on a blocking thread, within the permits of `limit`, to its end even if nobody
    /// waits for it.
    async fn work<T: Send + 'static>(
        &self,
        limit: &Arc<Semaphore>,
        work: impl FnOnce(&Folder) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let ended = |why: String| StoreError::Transient(format!("disk worker: {why}"));
        let permit = limit.clone().acquire_owned().await;
        let permit = permit.map_err(|e| ended(e.to_string()))?;
        let folder = self.folder.clone();
        spawn_blocking(move || {
            let _permit = permit;
            work(&folder)
        })
        .await
        .map_err(|e| ended(e.to_string()))?
    }

    /// A share of the gate, for the work that needs it.
    async fn share(&self) -> OwnedRwLockReadGuard<()> {
        self.gate.clone().read_owned().await
    }
}

#[async_trait]
impl BlockStore for EmbeddedStore {
    async fn put(&self, blocks: &[Block], bundle: Option<&Block>) -> Result<bool, StoreError> {
        if bundle.is_some() {
            return Ok(false);
        }
        let share = Arc::new(self.share().await);
        let size = blocks.len().div_ceil(WRITERS).max(1);
        let parts = blocks.chunks(size).map(|part| {
            let (part, share) = (part.to_vec(), share.clone());
            self.work(&self.writers, move |folder| {
                let _share = share;
                part.iter().map(|block| folder.place(block)).collect()
            })
        });
        // All end before an error is reported, so that no write follows it.
        let placed = futures::future::join_all(parts).await;
        let placed: Vec<Vec<Placed>> = placed.into_iter().collect::<Result<_, _>>()?;
        let shared = share.clone();
        let shards: BTreeSet<PathBuf> = self
            .work(&self.writers, move |folder| {
                let _share = shared;
                placed
                    .into_iter()
                    .flatten()
                    .map(|placed| folder.name(placed))
                    .collect()
            })
            .await?;
        let syncs = shards.into_iter().map(|shard| {
            let share = share.clone();
            self.work(&self.writers, move |folder| {
                let _share = share;
                folder.sync(&shard)
            })
        });
        let synced = futures::future::join_all(syncs).await;
        synced.into_iter().collect::<Result<(), _>>()?;
        Ok(true)
    }

    async fn lookup(&self, cid: &Cid, _: Lookup) -> Result<Bytes, StoreError> {
        let cid = *cid;
        self.work(&self.readers, move |folder| folder.read(&cid))
            .await
    }

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        let cid = *cid;
        self.work(&self.readers, move |folder| folder.holds(&cid))
            .await
    }

    /// A pinned root is not walked again.
    async fn pin_with(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        _: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError> {
        let (root, from, share) = (*root, from.copied(), self.share().await);
        self.work(&self.writers, move |folder| {
            let _share = share;
            if folder.is_pinned(&root)? {
                return Ok(());
            }
            let from = match from {
                Some(from) if folder.is_pinned(&from)? => Some(from),
                _ => None,
            };
            walk::check_whole(&root, from.as_ref(), &mut &*folder)?;
            folder.pin(&root)
        })
        .await
    }

    async fn unpin(&self, root: &Cid) -> Result<(), StoreError> {
        let root = *root;
        self.work(&self.writers, move |folder| folder.unpin(&root))
            .await
    }

    async fn pinned(&self, among: Option<&[Cid]>) -> Result<Vec<Cid>, StoreError> {
        let pins = self.work(&self.readers, Folder::pins).await?;
        Ok(those(pins, among))
    }
}

#[cfg(test)]
mod tests;
