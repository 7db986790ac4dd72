//! Garbage collection of the embedded node.
//!
//! Invariant: it removes a block only if no pin reaches it at that moment and its last put is older
//! than the grace time; while a pinned tree is damaged it removes nothing.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use cid::Cid;

use super::EmbeddedStore;
use super::folder::{Folder, SHARDS};
use crate::store::StoreError;
use crate::store::walk::{self, Key};

/// Blocks removed while puts and pins wait.
const BATCH: usize = 256;

/// A collection's result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blocks removed.
    pub removed_count: u64,
    /// Their bytes.
    pub removed_bytes: u64,
}

/// What pins reach.
#[derive(Default)]
struct Held {
    roots: HashSet<Cid>,
    blocks: HashSet<Key>,
}

impl Held {
    fn look(&mut self, folder: &Folder) -> Result<(), StoreError> {
        for root in folder.pins()? {
            if !self.roots.contains(&root) {
                walk::hold(&root, &mut self.blocks, &mut &*folder)?;
                self.roots.insert(root);
            }
        }
        Ok(())
    }

    /// Removes those of `blocks` that no pin reaches and that were put before `limit`.
    fn sweep(
        &mut self,
        folder: &Folder,
        blocks: &[Cid],
        limit: SystemTime,
    ) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        self.look(folder)?;
        for cid in blocks {
            if self.blocks.contains(&walk::key(cid)?) {
                continue;
            }
            if let Some(bytes) = folder.remove_older(cid, limit)? {
                collected.removed_count += 1;
                collected.removed_bytes += bytes;
            }
        }
        Ok(collected)
    }
}

impl EmbeddedStore {
    /// How long an unpinned block stays, because an upload may be in progress.
    pub const GRACE: Duration = Duration::from_secs(3600);

    /// Removes blocks that no pin reaches and that were put longer than `grace` ago
    /// ([`Self::GRACE`]). Puts, pins and reads continue meanwhile. Fails if a pinned tree has lost
    /// a block, because what lies below it looks like garbage.
    pub async fn collect(&self, grace: Duration) -> Result<Collected, StoreError> {
        let limit = self.folder.now().checked_sub(grace);
        let limit = limit.unwrap_or(SystemTime::UNIX_EPOCH);
        let mut collected = Collected::default();
        let mut held = Held::default();
        for digit in SHARDS.chars() {
            // The first walk of all pins happens here, while nobody waits.
            let (blocks, back) = self
                .work(&self.readers, move |folder| {
                    held.look(folder)?;
                    let mut blocks = folder.shard_blocks(digit)?;
                    blocks.retain(|cid| walk::key(cid).is_ok_and(|k| !held.blocks.contains(&k)));
                    Ok((blocks, held))
                })
                .await?;
            held = back;
            for batch in blocks.chunks(BATCH) {
                let (batch, alone) = (batch.to_vec(), self.gate.clone().write_owned().await);
                let (removed, back) = self
                    .work(&self.writers, move |folder| {
                        let _alone = alone;
                        let removed = held.sweep(folder, &batch, limit)?;
                        Ok((removed, held))
                    })
                    .await?;
                held = back;
                collected.removed_count += removed.removed_count;
                collected.removed_bytes += removed.removed_bytes;
            }
        }
        self.work(&self.writers, Folder::note_collected).await?;
        Ok(collected)
    }

    /// Whether the last collection ended longer than `period` ago, or never. A clock set back makes
    /// it due.
    pub async fn is_collection_due(&self, period: Duration) -> Result<bool, StoreError> {
        let now = self.folder.now();
        let last = self.work(&self.readers, Folder::collected).await?;
        Ok(last.is_none_or(|last| {
            now.duration_since(last).is_ok_and(|age| age >= period) || last > now
        }))
    }
}
