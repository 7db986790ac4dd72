//! Sending blocks: in batches, a few at a time, each block once.
//!
//! Invariant: [`Upload::finish`] returns only when every block given to [`Upload::push`] was
//! acknowledged as durable, now or earlier. Memory is bounded by the batches in flight, whatever the
//! volume's size. What was acknowledged earlier is in [`super::receipt`].

use std::sync::Arc;

use cid::Cid;
use tokio::task::JoinSet;

use super::PublishError;
use super::charged::Charged;
use super::receipt::Receipts;
use super::state::State;
use crate::fs::{ChunkVersion, Volume};
use crate::pack::chunk::CHUNK_SIZE;
use crate::pack::cid as form;
use crate::pack::dagpb;
use crate::store::{Block, BlockStore, BlockStoreExt, StoreError};

/// Blocks and bytes of one request.
const BATCH_BLOCKS: usize = 128;
const BATCH_BYTES: usize = 8 << 20;
/// Bytes of one where what it brings is to be held at once, which takes it in one piece.
const HELD_BYTES: usize = 2 << 20;

/// Requests in flight.
const IN_FLIGHT: usize = 3;

/// How many blocks of a commit are read back beside its root and document.
const SAMPLE: usize = 8;
/// The same after a commit that all came back of, for so many commits.
const LATER_SAMPLE: usize = 1;
const LATER: u32 = 15;

/// The blocks of one commit on their way.
pub(super) struct Upload {
    store: Arc<dyn BlockStore>,
    receipts: Receipts,
    batch: Vec<Block>,
    batch_bytes: usize,
    flying: JoinSet<Result<(), PublishError>>,
    /// Some of the blocks, any of them as likely as any other, and how many there were.
    sample: Vec<Cid>,
    sample_size: usize,
    pushed: u64,
    /// Where the node collects what no pin holds yet: what keeps the pins that hold the blocks until their commit is pinned.
    holder: Option<Arc<Volume>>,
    /// On contracts that charge each commit: what is charged already.
    charged: Option<Charged>,
    /// Bytes of all blocks of the commit, also of those that an earlier try has sent, and without those that are
    /// charged already.
    pub(super) built_bytes: u64,
    /// Blocks and bytes sent so far.
    pub(super) sent_blocks: u64,
    pub(super) sent_bytes: u64,
}

impl Upload {
    pub(super) fn new(store: Arc<dyn BlockStore>, receipts: Receipts) -> Self {
        let sample_size = match receipts.verified() % (LATER + 1) {
            0 => SAMPLE,
            _ => LATER_SAMPLE,
        };
        Self {
            store,
            receipts,
            sample_size,
            batch: Vec::new(),
            batch_bytes: 0,
            flying: JoinSet::new(),
            sample: Vec::new(),
            pushed: 0,
            holder: None,
            charged: None,
            built_bytes: 0,
            sent_blocks: 0,
            sent_bytes: 0,
        }
    }

    /// The same, which counts no block that is `charged` already.
    pub(super) fn beside(self, charged: Option<Charged>) -> Self {
        Self { charged, ..self }
    }

    /// The same, by which each block is pinned as soon as it is stored, where the store can do that.
    pub(super) fn held_for(self, holder: Option<Arc<Volume>>) -> Self {
        Self { holder, ..self }
    }

    /// What was built is durable with what is kept next.
    pub(super) fn keep_built(&mut self) -> Result<(), PublishError> {
        self.charged.as_mut().map_or(Ok(()), Charged::keep)
    }

    /// Sends `block`, sooner or later; waits while too much is in flight.
    pub(super) async fn push(&mut self, block: Block) -> Result<(), PublishError> {
        self.receipts.note_step();
        self.count(&block.cid, block.data.len() as u64)?;
        self.choose(block.cid);
        if self.receipts.has(&block.cid) {
            return Ok(());
        }
        self.batch_bytes += block.data.len();
        self.batch.push(block);
        let most_bytes = match self.holder {
            Some(_) => HELD_BYTES,
            None => BATCH_BYTES,
        };
        if self.batch.len() >= BATCH_BLOCKS || self.batch_bytes >= most_bytes {
            self.send(self.batch.len()).await?;
        }
        Ok(())
    }

    /// The block of a chunk that was sent before the commit, which the node has as far as is known; it counts as
    /// pushed.
    pub(super) fn ahead(&mut self, at: &ChunkVersion) -> Result<Option<Cid>, PublishError> {
        let Some(cid) = self.receipts.chunk(at).filter(|_| self.holder.is_none()) else {
            return Ok(None);
        };
        self.receipts.note_step();
        self.count(&cid, CHUNK_SIZE)?;
        self.choose(cid);
        Ok(Some(cid))
    }

    /// A block of the commit: charged, where it was not before.
    fn count(&mut self, cid: &Cid, len: u64) -> Result<(), PublishError> {
        let charged = self.charged.as_mut();
        if charged.map_or(Ok(true), |charged| charged.note(cid))? {
            self.built_bytes += len;
        }
        Ok(())
    }

    /// Where it goes.
    pub(super) fn store(&self) -> &Arc<dyn BlockStore> {
        &self.store
    }

    /// A block of the commit was looked for.
    pub(super) fn note_step(&self) {
        self.receipts.note_step();
    }

    /// The node lost blocks: from here on everything is sent.
    pub(super) fn forget_receipts(&self) {
        self.receipts.forget();
    }

    /// Waits until everything is acknowledged, these blocks too, which leave with the last of the others.
    pub(super) async fn finish_with(
        &mut self,
        blocks: impl IntoIterator<Item = Block>,
    ) -> Result<(), PublishError> {
        // Each try has others of them: no receipts, or a try that fails would look like progress.
        let noted = self.batch.len();
        for block in blocks {
            self.batch_bytes += block.data.len();
            self.batch.push(block);
        }
        self.send(noted).await?;
        self.finish().await
    }

    /// Waits until everything is acknowledged.
    pub(super) async fn finish(&mut self) -> Result<(), PublishError> {
        self.send(self.batch.len()).await?;
        while let Some(landed) = self.flying.join_next().await {
            land(landed)?;
        }
        Ok(())
    }

    /// Some of the blocks, also of those that an earlier try has sent.
    pub(super) fn sample(&self) -> &[Cid] {
        &self.sample
    }

    /// Takes a block into the sample, or not.
    fn choose(&mut self, cid: Cid) {
        self.pushed += 1;
        if self.sample.len() < self.sample_size {
            self.sample.push(cid);
            return;
        }
        let place = getrandom::u64().unwrap_or(0) % self.pushed;
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        if let Some(old) = self.sample.get_mut(place) {
            *old = cid;
        }
    }

    /// Sends the batch; of its first `noted` blocks there will be receipts.
    async fn send(&mut self, noted: usize) -> Result<(), PublishError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        while self.flying.len() >= IN_FLIGHT {
            if let Some(landed) = self.flying.join_next().await {
                land(landed)?;
            }
        }
        let batch = std::mem::take(&mut self.batch);
        self.sent_blocks += batch.len() as u64;
        self.sent_bytes += std::mem::take(&mut self.batch_bytes) as u64;
        let (store, receipts) = (Arc::clone(&self.store), self.receipts.clone());
        let bundle = match &self.holder {
            Some(volume) => {
                let bundle = dagpb::bundle(&batch)?;
                let held = bundle.cid;
                let hold = move |state: &mut State| {
                    state.hold_bundle(held);
                    Ok(())
                };
                State::change(volume, hold).await?;
                Some(bundle)
            }
            None => None,
        };
        self.flying.spawn(async move {
            let is_held = match &bundle {
                Some(bundle) => store.put(&batch, Some(bundle)).await?,
                None => false,
            };
            if !is_held {
                store.put_many(&batch).await?;
            }
            receipts.beat();
            receipts.note(batch.iter().take(noted).map(|block| block.cid));
            Ok(())
        });
        Ok(())
    }
}

/// Whatever the node acknowledged: it must have the block, and whole.
pub(super) async fn read_back(store: &Arc<dyn BlockStore>, cid: &Cid) -> Result<(), PublishError> {
    let why = match store.get(cid).await {
        Ok(bytes) => form::verify(cid, &bytes).err().map(|e| e.to_string()),
        Err(error @ (StoreError::Missing(_) | StoreError::Corrupt(..))) => Some(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    match why {
        None => Ok(()),
        Some(why) => Err(PublishError::Unverified(format!(
            "it does not give back what it took: {why}"
        ))),
    }
}

fn land(
    landed: Result<Result<(), PublishError>, tokio::task::JoinError>,
) -> Result<(), PublishError> {
    landed.unwrap_or(Err(PublishError::Stopped))
}
