//! What the node has lost: put again where it is here, else marked, so that commits go on.
//!
//! Invariant: an entry is written as damaged only while a block below it is lost, and as whole
//! again only when all below it was found on the node. What is left of a damaged content is held by
//! the last root that linked it, which stays pinned for as long as anything is damaged. Called by a
//! commit, before its cut, and by the sampler.

use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use minicbor::{CborLen, Decode, Encode};
use tokio::time::timeout;

use super::PublishError;
use super::commit::Context;
use super::grace::Grace;
use super::head::Head;
use super::upload::Receipts;
use crate::fetch::source::blocking;
use crate::fs::{Loss, LostBlock, Volume};
use crate::journal::record::{CidBytes, Record as _};
use crate::pack::cid as form;
use crate::store::{Block, BlockStore, StoreError};

/// Losses that are looked at before one commit.
const MOST: usize = 256;
/// How long the node may take to say whether it has one of them.
const PATIENCE: Duration = Duration::from_secs(20);
/// Roots that are kept for what is left of damaged contents.
const MOST_ROOTS: usize = 32;
/// Paths that one line names.
const MOST_TOLD: usize = 3;

/// Roots that stay pinned for what is left of contents that are damaged now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(super) struct Salvage {
    /// Oldest first.
    #[n(0)]
    roots: Vec<CidBytes>,
}

impl Salvage {
    pub(super) fn holds(&self, root: &Cid) -> bool {
        self.roots.iter().any(|held| held.0 == *root)
    }
}

/// Looks after what is known to be lost. What cannot be known now stays as it is.
pub(super) async fn heal(context: &Context, receipts: &Receipts) -> Result<(), PublishError> {
    let losses = losses(&context.volume).await?;
    if losses.is_empty() {
        return release(context);
    }
    // What was acknowledged once may be among it.
    receipts.forget();
    for loss in &losses {
        look(context, loss).await?;
    }
    Ok(())
}

/// One loss.
async fn look(context: &Context, loss: &Loss) -> Result<(), PublishError> {
    let volume = &context.volume;
    let store = &context.node.store;
    let there = match timeout(PATIENCE, is_there(store.as_ref(), &loss.block)).await {
        Ok(Ok(there)) => there,
        Ok(Err(_)) | Err(_) => return Ok(()), // not known
    };
    if !there && !put_again(context, loss).await? {
        if !loss.marked {
            keep_head(context)?;
            mark(volume, loss, true).await?;
        }
        return Ok(());
    }
    if !loss.marked {
        return Ok(volume.forget_loss(loss.ino)?);
    }
    match lost_below(volume, store, &loss.of).await? {
        None => {
            mark(volume, loss, false).await?;
            volume.forget_loss(loss.ino)?;
            tracing::info!(path = loss.path, "whole again");
        }
        Some(next) => volume.replace_loss(loss, &next)?,
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

/// Puts the block again if the cache has it.
async fn put_again(context: &Context, loss: &Loss) -> Result<bool, PublishError> {
    let source = context.node.fetcher.source();
    let Some(data) = source
        .cached(&loss.block, &loss.of, loss.size, loss.chunk)
        .await?
    else {
        return Ok(false);
    };
    let block = Block {
        cid: loss.block,
        data,
    };
    context.node.store.put_many(&[block]).await?;
    tracing::info!(path = loss.path, block = %loss.block, "a lost block is put again");
    Ok(true)
}

/// A block below `root` that the node does not have. Finding none takes a pin, which goes with the
/// old roots.
pub(super) async fn lost_below(
    volume: &Volume,
    store: &Arc<dyn BlockStore>,
    root: &Cid,
) -> Result<Option<LostBlock>, PublishError> {
    let error = match store.pin(root, None).await {
        Ok(()) => {
            let mut grace: Grace = volume.meta("grace")?.unwrap_or_default();
            grace.add(*root, volume.now_s());
            volume.keep(vec![("grace", Some(grace.to_bytes()))])?;
            return Ok(None);
        }
        Err(error) => error,
    };
    match error {
        StoreError::Missing(cid) | StoreError::Corrupt(cid, _) => Ok(Some(LostBlock {
            cid,
            chunk: None,
            why: error.to_string(),
        })),
        other => Err(other.into()),
    }
}

/// The head is the last root that links what becomes damaged now: it stays pinned.
fn keep_head(context: &Context) -> Result<(), PublishError> {
    let volume = &context.volume;
    let head: Head = volume.meta("head")?.unwrap_or_default();
    let mut kept: Salvage = volume.meta("salvage")?.unwrap_or_default();
    let Some(root) = head.root.filter(|root| !kept.holds(&root.0)) else {
        return Ok(());
    };
    kept.roots.push(root);
    let mut grace: Grace = volume.meta("grace")?.unwrap_or_default();
    while kept.roots.len() > MOST_ROOTS {
        grace.add(kept.roots.remove(0).0, context.now_s());
    }
    Ok(volume.keep(vec![
        ("salvage", Some(kept.to_bytes())),
        ("grace", Some(grace.to_bytes())),
    ])?)
}

/// Nothing is damaged any more: the roots that were kept for it go with the old ones.
fn release(context: &Context) -> Result<(), PublishError> {
    let volume = &context.volume;
    let Some(kept) = volume.meta::<Salvage>("salvage")? else {
        return Ok(());
    };
    let head: Head = volume.meta("head")?.unwrap_or_default();
    let mut grace: Grace = volume.meta("grace")?.unwrap_or_default();
    for root in kept.roots.iter().filter(|root| Some(**root) != head.root) {
        grace.add(root.0, context.now_s());
    }
    Ok(volume.keep(vec![("salvage", None), ("grace", Some(grace.to_bytes()))])?)
}

/// The files that cannot be published, in one line; `None` where there are none.
pub(super) async fn stuck(volume: &Arc<Volume>, any: bool) -> Result<Option<String>, PublishError> {
    if !any {
        return Ok(None);
    }
    let losses = losses(volume).await?;
    let mut paths: Vec<&str> = losses
        .iter()
        .filter(|loss| loss.stuck)
        .map(|loss| loss.path.as_str())
        .collect();
    let more = paths.len().saturating_sub(MOST_TOLD);
    paths.truncate(MOST_TOLD);
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

async fn losses(volume: &Arc<Volume>) -> Result<Vec<Loss>, PublishError> {
    let volume = Arc::clone(volume);
    Ok(blocking(move || volume.losses(MOST)).await??)
}

async fn mark(volume: &Arc<Volume>, loss: &Loss, damaged: bool) -> Result<(), PublishError> {
    let (volume, loss) = (Arc::clone(volume), loss.clone());
    Ok(blocking(move || volume.mark_damaged(&loss, damaged)).await??)
}
