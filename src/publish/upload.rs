//! Sending blocks: in batches, a few at a time, each block once.
//!
//! Invariant: [`Upload::finish`] returns only when every block given to [`Upload::push`] was
//! acknowledged as durable. Memory is bounded by the batches in flight, whatever the volume's size.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cid::Cid;
use futures::future::try_join_all;
use tokio::task::JoinSet;

use super::PublishError;
use crate::pack::cid as form;
use crate::store::{Block, BlockStore, StoreError};

/// Blocks and bytes of one request.
const BATCH_BLOCKS: usize = 128;
const BATCH_BYTES: usize = 8 << 20;

/// Requests in flight.
const IN_FLIGHT: usize = 3;

/// How many blocks of a commit are read back.
const SAMPLE: usize = 8;

/// How many acknowledged blocks are remembered at least; at most twice as many.
const RECEIPTS: usize = 250_000;

/// The blocks that the node has acknowledged, so that a commit taken up again sends nothing twice.
/// A receipt is a hint: what was collected since is found when the root is pinned.
#[derive(Clone)]
pub(super) struct Receipts {
    known: Arc<Mutex<Known>>,
    /// Moves with every block that is built or acknowledged: a commit that stands still is stuck.
    pulse: Arc<AtomicU64>,
    /// See [`Receipts::moved`].
    moved: Arc<AtomicU64>,
    /// Whether no try has failed since the last commit: then building is coming on.
    fresh: Arc<AtomicBool>,
}

#[derive(Default)]
struct Known {
    /// By the beginning of the digest: what is taken for a block that it is not is missed at the pin.
    blocks: HashMap<u128, Receipt>,
    /// Those before: forgotten when the others are [`RECEIPTS`].
    older: HashMap<u128, Receipt>,
    /// Receipts of an earlier age count no more.
    age: u32,
}

#[derive(Clone, Copy)]
struct Receipt {
    age: u32,
    /// How often the block was acknowledged.
    times: u32,
}

impl Receipts {
    pub(super) fn new() -> Self {
        Self {
            known: Arc::default(),
            pulse: Arc::default(),
            moved: Arc::new(AtomicU64::new(1)),
            fresh: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Moves while publishing comes nearer to its end: with commits, with blocks that the node did
    /// not have, and with what a first try builds. Not with what a try that fails does again.
    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// A commit was made, or a try has failed.
    pub(super) fn note_end(&self, is_made: bool) {
        self.fresh.store(is_made, Ordering::Relaxed);
        self.moved.fetch_add(u64::from(is_made), Ordering::Relaxed);
    }

    /// What moves while a commit comes on.
    pub(super) fn pulse(&self) -> u64 {
        self.pulse.load(Ordering::Relaxed)
    }

    fn beat(&self) {
        self.pulse.fetch_add(1, Ordering::Relaxed);
    }

    /// A block is built, or a lost one looked at.
    pub(super) fn note_step(&self) {
        self.beat();
        let fresh = self.fresh.load(Ordering::Relaxed);
        self.moved.fetch_add(u64::from(fresh), Ordering::Relaxed);
    }

    fn has(&self, cid: &Cid) -> bool {
        let known = self.known();
        let receipt = known.receipt(cid);
        receipt.is_some_and(|receipt| receipt.age == known.age)
    }

    /// The node has acknowledged these.
    pub(super) fn note(&self, cids: impl Iterator<Item = Cid>) {
        let mut known = self.known();
        let age = known.age;
        for cid in cids {
            let before = known.receipt(&cid).map_or(0, |receipt| receipt.times);
            let times = before.saturating_add(1);
            known.remember(&cid, Receipt { age, times });
            // What a node has lost comes again; one that loses it every time gets nowhere.
            let moved = u64::from(times <= 2);
            self.moved.fetch_add(moved, Ordering::Relaxed);
        }
    }

    /// The node lost blocks: no receipt counts any more.
    pub(super) fn forget(&self) {
        self.known().age += 1;
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn receipt(&self, cid: &Cid) -> Option<Receipt> {
        let key = short(cid);
        self.blocks
            .get(&key)
            .or_else(|| self.older.get(&key))
            .copied()
    }

    fn remember(&mut self, cid: &Cid, receipt: Receipt) {
        if self.blocks.len() >= RECEIPTS {
            self.older = std::mem::take(&mut self.blocks);
        }
        self.blocks.insert(short(cid), receipt);
    }
}

/// Codec and beginning of the digest: the same bytes as a leaf and as a node are two blocks.
fn short(cid: &Cid) -> u128 {
    let begin = cid.hash().digest().iter().take(16);
    let begin = begin.fold(0, |all, byte| all << 8 | u128::from(*byte));
    begin ^ u128::from(cid.codec())
}

/// The blocks of one commit on their way.
pub(super) struct Upload {
    store: Arc<dyn BlockStore>,
    receipts: Receipts,
    batch: Vec<Block>,
    batch_bytes: usize,
    flying: JoinSet<Result<(), PublishError>>,
    /// Some of the blocks, any of them as likely as any other, and how many there were.
    sample: Vec<Cid>,
    pushed: u64,
    /// Bytes of all blocks of the commit, also of those that an earlier try has sent.
    pub(super) built_bytes: u64,
    /// Blocks and bytes sent so far.
    pub(super) sent_blocks: u64,
    pub(super) sent_bytes: u64,
}

impl Upload {
    pub(super) fn new(store: Arc<dyn BlockStore>, receipts: Receipts) -> Self {
        Self {
            store,
            receipts,
            batch: Vec::new(),
            batch_bytes: 0,
            flying: JoinSet::new(),
            sample: Vec::new(),
            pushed: 0,
            built_bytes: 0,
            sent_blocks: 0,
            sent_bytes: 0,
        }
    }

    /// Sends `block`, sooner or later; waits while too much is in flight.
    pub(super) async fn push(&mut self, block: Block) -> Result<(), PublishError> {
        self.receipts.note_step();
        self.built_bytes += block.data.len() as u64;
        self.choose(block.cid);
        if self.receipts.has(&block.cid) {
            return Ok(());
        }
        self.batch_bytes += block.data.len();
        self.batch.push(block);
        if self.batch.len() >= BATCH_BLOCKS || self.batch_bytes >= BATCH_BYTES {
            self.send().await?;
        }
        Ok(())
    }

    /// Where it goes.
    pub(super) fn store(&self) -> &Arc<dyn BlockStore> {
        &self.store
    }

    /// The node lost blocks: from here on everything is sent.
    pub(super) fn forget_receipts(&self) {
        self.receipts.forget();
    }

    /// Waits until everything is acknowledged.
    pub(super) async fn finish(&mut self) -> Result<(), PublishError> {
        self.send().await?;
        while let Some(landed) = self.flying.join_next().await {
            land(landed)?;
        }
        Ok(())
    }

    /// Reads some of the blocks back, also of those that an earlier try has sent. Where one is not
    /// what was acknowledged, the next try sends everything again.
    pub(super) async fn verify(&self) -> Result<(), PublishError> {
        let looks = self.sample.iter().map(|cid| read_back(&self.store, cid));
        let result = try_join_all(looks).await;
        if let Err(PublishError::Unverified(_)) = result {
            self.receipts.forget();
        }
        result.map(drop)
    }

    /// Takes a block into the sample, or not.
    fn choose(&mut self, cid: Cid) {
        self.pushed += 1;
        if self.sample.len() < SAMPLE {
            self.sample.push(cid);
            return;
        }
        let place = getrandom::u64().unwrap_or(0) % self.pushed;
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        if let Some(old) = self.sample.get_mut(place) {
            *old = cid;
        }
    }

    async fn send(&mut self) -> Result<(), PublishError> {
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
        self.flying.spawn(async move {
            store.put_many(&batch).await?;
            receipts.beat();
            receipts.note(batch.iter().map(|block| block.cid));
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
