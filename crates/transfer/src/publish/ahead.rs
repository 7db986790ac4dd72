//! Sending ahead: chunks of a large file go to the node while the file is still being written, so that its
//! commit finds them there.
//!
//! Invariant: nothing is promised by it. What it sends is pinned and named by no one but a commit, which believes a
//! chunk to be on the node only as far as there is a receipt for the version that it holds. Nothing is on its way
//! while a commit is made, and each chunk leaves once between two commits. Called by `queue`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, MutexGuard, Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::PublishError;
use super::commit::Context;
use super::receipt::Receipts;
use crate::fetch::source::blocking;
use crate::fs::{Access, ChunkVersion};
use crate::pack::chunk;
use crate::store::Block;
use crate::store::BlockStoreExt;

/// From the first chunk that is whole until it leaves: others leave with it.
const GATHER: Duration = Duration::from_millis(200);
/// How long a commit waits for what is on its way.
const LANDING: Duration = Duration::from_secs(5);
/// The pause after a failure: a commit is the one to try again.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// Chunks of one request, and requests in flight.
const BATCH: usize = 8;
const IN_FLIGHT: usize = 2;

/// Who sends: commits, or what goes ahead of them.
pub(super) struct Turn {
    sending: Mutex<()>,
    /// Whether a commit wants to.
    wanted: watch::Sender<bool>,
    /// There is a chunk to be sent ahead.
    called: Notify,
}

/// A commit's turn; it ends with this.
pub(super) struct Commits<'a> {
    turn: &'a Turn,
    _sending: MutexGuard<'a, ()>,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            sending: Mutex::default(),
            wanted: watch::Sender::new(false),
            called: Notify::new(),
        }
    }
}

impl Turn {
    /// There may be something to be sent ahead.
    pub(super) fn call(&self) {
        self.called.notify_one();
    }

    /// The turn of a commit: what was sent ahead has landed, or is given up.
    pub(super) async fn of_commit(&self) -> Commits<'_> {
        self.wanted.send_replace(true);
        Commits {
            turn: self,
            _sending: self.sending.lock().await,
        }
    }
}

impl Drop for Commits<'_> {
    fn drop(&mut self) {
        self.turn.wanted.send_replace(false);
    }
}

/// Sends ahead, whenever it is called. `begin` is told before the first block of each time leaves.
pub(super) async fn run(context: Context, receipts: Receipts, turn: Arc<Turn>, begin: impl Fn()) {
    let mut wanted = turn.wanted.subscribe();
    loop {
        while !context.volume.has_whole() {
            turn.called.notified().await;
        }
        sleep(GATHER).await;
        if wanted.wait_for(|wanted| !*wanted).await.is_err() {
            return;
        }
        if !may_send(&context) || receipts.is_losing() {
            context.volume.forget_whole();
            continue;
        }
        let sending = turn.sending.lock().await;
        if *wanted.borrow_and_update() {
            continue;
        }
        begin();
        let stop = turn.wanted.subscribe();
        let given_up = async {
            if wanted.wait_for(|wanted| *wanted).await.is_ok() {
                sleep(LANDING).await;
            }
        };
        let sent = tokio::select! {
            sent = send(&context, &receipts, &stop) => sent,
            () = given_up => Ok(()),
        };
        drop(sending);
        if let Err(error) = sent {
            tracing::debug!(%error, "nothing is sent ahead for a while");
            sleep(AFTER_FAILURE).await;
            context.volume.forget_whole();
        }
    }
}

/// Whether what is written now will be published by the next commit, which comes soon.
fn may_send(context: &Context) -> bool {
    let (is_open, is_charged) = (context.volume).with_quota(|quota| {
        let is_open = matches!(quota.access(), Access::Open);
        (is_open, quota.is_additive())
    });
    // Where each commit is charged the next may be days away, and what no pin holds may be collected until then.
    is_open && !is_charged && !context.volume.is_half_followed()
}

/// Sends what is whole, until there is nothing more, or a commit wants to.
async fn send(
    context: &Context,
    receipts: &Receipts,
    stop: &watch::Receiver<bool>,
) -> Result<(), PublishError> {
    let mut flying: JoinSet<Result<(), PublishError>> = JoinSet::new();
    while !*stop.borrow() {
        let batch = next(context, receipts).await?;
        if batch.is_empty() {
            break;
        }
        while flying.len() >= IN_FLIGHT {
            if let Some(landed) = flying.join_next().await {
                landed.unwrap_or(Err(PublishError::Stopped))?;
            }
        }
        let (store, receipts) = (Arc::clone(&context.node.store), receipts.clone());
        flying.spawn(async move {
            let blocks: Vec<Block> = batch.iter().map(|(_, block)| block.clone()).collect();
            store.put_many(&blocks).await?;
            receipts.note(blocks.iter().map(|block| block.cid));
            for (at, block) in batch {
                receipts.note_chunk(at, block.cid);
            }
            Ok(())
        });
    }
    while let Some(landed) = flying.join_next().await {
        landed.unwrap_or(Err(PublishError::Stopped))?;
    }
    Ok(())
}

/// Up to [`BATCH`] chunks that did not leave since the last commit.
async fn next(
    context: &Context,
    receipts: &Receipts,
) -> Result<Vec<(ChunkVersion, Block)>, PublishError> {
    let (volume, receipts) = (Arc::clone(&context.volume), receipts.clone());
    let work = move || {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let Some(whole) = volume.take_whole()? else {
                break;
            };
            if receipts.begin_chunk(whole.at) {
                batch.push((whole.at, chunk::leaf(Bytes::from(whole.bytes))));
            }
        }
        Ok::<_, PublishError>(batch)
    };
    blocking(work).await?
}
