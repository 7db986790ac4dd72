//! What the node has lost: put again where it is here, else marked, so that commits go on.
//!
//! Invariant: an entry is written as damaged only while a block below it is lost, and as whole
//! again only when all below it was found on the node. What is left of a damaged content is held by
//! the last root that linked it, which stays pinned for as long as anything is damaged. Called by a
//! commit, before its cut, and by the sampler.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cid::Cid;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::PublishError;
use super::commit::Context;
use super::elsewhere::{self, Elsewhere, Silent};
use super::receipt::Receipts;
use super::state::{self, State};
use super::whole::lost_below;
use crate::fetch::remake::Of;
use crate::fetch::source::blocking;
use crate::fs::{Loss, Volume};
use crate::pack::cid as form;
use crate::store::{Block, BlockStore, BlockStoreExt, StoreError};
use crate::types::Ino;

/// Losses that are looked at before one commit; of one that comes after a try that failed, the same again for as
/// long as it comes on.
const MOST: usize = 256;
/// Damaged entries that one step of the sampler looks at.
const MOST_MARKED: usize = 32;
/// Looks under way at a time.
const AT_ONCE: usize = 8;
/// Searches of the node's network that have found nothing, one after the other, after which nothing more is searched
/// for before one commit: each takes seconds, and after a great loss all of them are in vain. What is found
/// later ([`look_at_marked`]) is whole again.
const IN_VAIN: usize = 8;
/// How long one search may take: a node without peers looks for ever.
const SEARCH: Duration = Duration::from_secs(4);
// A look that takes as long as it may ends before all are cut off: else none ever does.
const _: () = assert!(elsewhere::PATIENCE.as_secs() + SEARCH.as_secs() < PATIENCE.as_secs());
/// How long [`MOST`] looks before one commit, or those in one step of the sampler, may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long who may have a lost block, and does not answer, keeps it from being told as damaged, seconds: what was lost
/// holds up all commits until then. A block that comes back later makes all whole again.
const AWAITED_S: u64 = 3600;
/// Paths that one line names.
const MOST_TOLD: usize = 3;

/// Looks after what is known to be lost: after what is not marked, and what is marked and there
/// again. What cannot be known now stays as it is, and the next time goes on from there.
/// `patience` is for [`MOST`] looks together.
pub(super) async fn heal(
    context: &Context,
    receipts: &Receipts,
    patience: Duration,
) -> Result<(), PublishError> {
    let volume = Arc::clone(&context.volume);
    if blocking(move || volume.losses(1)).await??.is_empty() {
        return release(context).await;
    }
    let (search, mut known) = (Search::up_to(IN_VAIN), HashSet::new());
    while look_after(context, receipts, &search, &mut known, patience).await? > AT_ONCE
        // The last try may have missed what is not marked yet.
        && !receipts.is_fresh()
    {}
    let deadline = Instant::now() + patience;
    for ino in context.volume.back() {
        if Instant::now() >= deadline {
            break;
        }
        if let Some(loss) = context.volume.take_back(ino)? {
            restore(context, &loss, receipts).await?;
            receipts.note_step();
        }
    }
    Ok(())
}

/// Looks after the next losses that are not marked: of how many more it is `known` then what they are.
async fn look_after(
    context: &Context,
    receipts: &Receipts,
    search: &Arc<Search>,
    known: &mut HashSet<Ino>,
    patience: Duration,
) -> Result<usize, PublishError> {
    let (deadline, before) = (Instant::now() + patience, known.len());
    let looked = look(context, false, MOST, search, deadline, || {
        receipts.note_step()
    })
    .await?;
    for (loss, found) in looked {
        // It was acknowledged once.
        receipts.forget_block(&loss.block);
        match found {
            Found::There => context.volume.forget_loss(loss.ino)?,
            Found::Lost => {
                keep_head(context).await?;
                mark(&context.volume, &loss, true).await?;
                // A directory whose entries are here is not marked, and comes again.
                if loss.size.is_some() || context.volume.loaded_tree(loss.ino)?.is_none() {
                    receipts.note_found();
                }
            }
            Found::Unknown => continue,
        }
        receipts.beat();
        known.insert(loss.ino);
    }
    Ok(known.len() - before)
}

/// Looks whether some of what is marked as damaged is there again, which the next commit looks
/// after: for how much it has to. Called by the sampler.
pub(super) async fn look_at_marked(
    context: &Context,
    patience: Duration,
) -> Result<u64, PublishError> {
    let deadline = Instant::now() + patience;
    let search = Search::up_to(usize::MAX);
    for (loss, found) in look(context, true, MOST_MARKED, &search, deadline, || ()).await? {
        if found == Found::There {
            context.volume.note_back(loss.ino);
        }
    }
    Ok(context.volume.back().len() as u64)
}

/// What a look at a loss has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// The block is there, again or still.
    There,
    /// It is neither on the node nor here.
    Lost,
    /// The node did not say.
    Unknown,
}

/// Looks at the next losses, a few at a time, until the deadline; `note` hears of each. Those that
/// did not come to their end begin the next time, unless none did.
async fn look(
    context: &Context,
    marked: bool,
    limit: usize,
    search: &Arc<Search>,
    deadline: Instant,
    note: impl Fn(),
) -> Result<Vec<(Loss, Found)>, PublishError> {
    let volume = Arc::clone(&context.volume);
    let losses = blocking(move || volume.next_losses(marked, limit)).await??;
    let mut left = losses.iter().cloned().enumerate();
    let mut flying = JoinSet::new();
    let (mut seen, mut last) = (Vec::new(), None);
    loop {
        while flying.len() < AT_ONCE
            && let Some((at, loss)) = left.next()
        {
            let (context, search) = (context.clone(), Arc::clone(search));
            flying.spawn(async move { (at, look_at(&context, &search, &loss).await) });
        }
        match timeout_at(deadline, flying.join_next()).await {
            Ok(Some(Ok((at, found)))) => {
                note();
                last = last.max(Some(at));
                seen.extend(losses.get(at).map(|loss| (loss.clone(), found)));
            }
            Ok(Some(Err(_))) => {}
            Ok(None) | Err(_) => break,
        }
    }
    let last = last.or_else(|| losses.len().checked_sub(1).map(|end| end.min(AT_ONCE - 1)));
    if let Some(loss) = last.and_then(|last| losses.get(last)) {
        context.volume.note_looked(loss);
    }
    Ok(seen)
}

/// One loss: what the node has itself, what is here or elsewhere, which is put again, and what is in the node's network.
async fn look_at(context: &Context, search: &Search, loss: &Loss) -> Found {
    let store = context.node.store.as_ref();
    let looked = async {
        if store.has(&loss.block).await? && is_there(store, &loss.block).await? {
            return Ok(Found::There);
        }
        let elsewhere = put_again(context, &search.elsewhere, loss).await?;
        if elsewhere == Ok(true) || search.finds(store, &loss.block).await? {
            return Ok(Found::There);
        }
        let is_awaited = context.now_s() < loss.since_s.saturating_add(AWAITED_S);
        Ok::<_, PublishError>(match elsewhere {
            Err(Silent) if is_awaited => Found::Unknown,
            _ => Found::Lost,
        })
    };
    looked.await.unwrap_or_else(|error| {
        tracing::debug!(%error, block = %loss.block, "what the node has of a lost block is not known now");
        Found::Unknown
    })
}

/// Searches for blocks that a node has not got, in its network and elsewhere, until too many were in vain.
struct Search {
    elsewhere: Elsewhere,
    most: usize,
    /// How many of the last ones have found nothing.
    in_vain: AtomicUsize,
}

impl Search {
    fn up_to(most: usize) -> Arc<Self> {
        Arc::new(Self {
            elsewhere: Elsewhere::default(),
            most,
            in_vain: AtomicUsize::new(0),
        })
    }

    async fn finds(&self, store: &dyn BlockStore, cid: &Cid) -> Result<bool, StoreError> {
        if self.in_vain.load(Ordering::Relaxed) >= self.most {
            return Ok(false);
        }
        // It has said that it has not got it itself.
        let found = timeout(SEARCH, is_there(store, cid))
            .await
            .unwrap_or(Ok(false))?;
        match found {
            true => self.in_vain.store(0, Ordering::Relaxed),
            false => _ = self.in_vain.fetch_add(1, Ordering::Relaxed),
        }
        Ok(found)
    }
}

/// The lost block of a damaged entry is there: it is whole again, or something else is lost.
async fn restore(context: &Context, loss: &Loss, receipts: &Receipts) -> Result<(), PublishError> {
    let volume = &context.volume;
    match lost_below(&context.node.store, &loss.of, || receipts.note_step()).await {
        Ok(None) => {
            mark(volume, loss, false).await?;
            volume.forget_loss(loss.ino)?;
            let path = volume.path_of(loss.ino);
            tracing::info!(path, "whole again");
        }
        Ok(Some(next)) => volume.replace_loss(loss, &next)?,
        Err(error) => tracing::debug!(%error, "whether it is whole again is not known"),
    }
    Ok(())
}

/// Whether the node gives a block as it was.
pub(super) async fn is_there(store: &dyn BlockStore, cid: &Cid) -> Result<bool, StoreError> {
    match store.get(cid).await {
        Ok(bytes) => Ok(form::verify(cid, &bytes).is_ok()),
        Err(StoreError::Missing(_) | StoreError::Corrupt(..)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Puts the block again if the cache has it, it can be made, or somebody else has it.
async fn put_again(
    context: &Context,
    elsewhere: &Elsewhere,
    loss: &Loss,
) -> Result<Result<bool, Silent>, PublishError> {
    let source = context.node.fetcher.source();
    let data = source
        .cached(&loss.block, &loss.of, loss.size, loss.chunk)
        .await?;
    let of = Of::what(loss.ino, loss.of, loss.size, loss.chunk);
    let data = match elsewhere.or_find(context, &loss.block, data, of).await {
        Ok(Some(data)) => data,
        Ok(None) => return Ok(Ok(false)),
        Err(Silent) => return Ok(Err(Silent)),
    };
    let block = Block {
        cid: loss.block,
        data,
    };
    context.node.store.put_many(&[block]).await?;
    tracing::info!(path = loss.path, block = %loss.block, "a lost block is put again");
    Ok(Ok(true))
}

/// The head is the last root that links what becomes damaged now: it stays pinned.
async fn keep_head(context: &Context) -> Result<(), PublishError> {
    let now = context.moment();
    State::change(&context.volume, move |state| {
        state.hold_head(&now);
        Ok(())
    })
    .await
}

/// Nothing is damaged any more: the roots that were kept for it go with the old ones.
async fn release(context: &Context) -> Result<(), PublishError> {
    let volume = &context.volume;
    if state::salvage(volume)?.is_none() {
        return Ok(());
    }
    let now = context.moment();
    State::change(volume, move |state| {
        state.end_salvage(&now);
        Ok(())
    })
    .await
}

/// The files that cannot be published, in one line; `None` where there are none.
pub(super) async fn stuck(volume: &Arc<Volume>, any: bool) -> Result<Option<String>, PublishError> {
    if !any {
        return Ok(None);
    }
    let taker = Arc::clone(volume);
    let (losses, count) =
        blocking(move || taker.counted_losses(MOST_TOLD, |loss| loss.stuck)).await??;
    let paths: Vec<&str> = losses.iter().map(|loss| loss.path.as_str()).collect();
    let more = count.saturating_sub(paths.len());
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Ok(Some(format!(
        "the node has lost blocks of {}{more}: what was written there cannot be published before the \
         whole file is written anew, or deleted",
        paths.join(", ")
    )))
}

async fn mark(volume: &Arc<Volume>, loss: &Loss, damaged: bool) -> Result<(), PublishError> {
    let (volume, loss) = (Arc::clone(volume), loss.clone());
    Ok(blocking(move || volume.mark_damaged(&loss, damaged)).await??)
}
