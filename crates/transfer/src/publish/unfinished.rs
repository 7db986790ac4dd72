//! What a crash, or a loss at the node, has left half done of a commit: taken up again before the next one.
//!
//! Invariant: a commit that may have been named, and settled, is finished as it was built; one that never left for the name
//! may be given up, and what it held comes with the next. Called by `commit`.

use std::sync::Arc;

use cid::Cid;

use super::PublishError;
use super::charged;
use super::commit::{Context, is_loss, name, pin, secure_above, take_as_head, tops};
use super::head;
use super::naming::{end_value, held_end_s, is_named, record, renew};
use super::pending::{DOUBTED, Doubted, PENDING, Pending, keep};
use super::receipt::Receipts;
use super::state::{self, Head, State};
use crate::fetch::source::blocking;
use crate::journal::record::Record as _;
use crate::names::record::{Network, Record};
use crate::store::BlockStoreExt;

/// A commit that a crash interrupted is finished, or given up for good where its blocks are gone, or never all
/// left, and it never left for the name: what it held stays marked as changed and comes with the next commit.
///
/// One that may have been named may be settled too, and is in no other commit then: where its blocks are gone it
/// is the head all the same, and [`Doubted`], so that they are looked for, and put again or told.
pub(super) async fn finish_pending(
    context: &Context,
    receipts: &Receipts,
) -> Result<(), PublishError> {
    let volume = &context.volume;
    let Some(mut pending) = volume.meta::<Pending>(PENDING)? else {
        return Ok(());
    };
    if pending.unsent {
        return give_up(context, &pending).await;
    }
    // What is read here may be in memory alone, where the disk was full: it is to outlive what is said of it.
    keep(volume, Vec::new()).await?;
    let (names, network) = (&context.node.names, context.node.network);
    let held_end_s = held_end_s(&context.key.name(), names).await?;
    let stands = Record::verify(&context.key.name(), &pending.record).is_ok_and(|signed| {
        signed.network == network && (network == Network::Ipfs || head::end_s(&signed) > held_end_s)
    });
    if !stands {
        // Another kind of node is written to since; or another machine has renewed what was named before, by a record
        // that ends later.
        let told = (pending.document_cid(), pending.sequence, 0);
        let (signed, end_s) = record(context, network, told, held_end_s)?;
        pending.record = signed.into();
        let kept = vec![(PENDING, Some(pending.to_bytes())), end_value(end_s)];
        keep(volume, kept).await?;
    }
    let head = state::head(volume)?;
    context.node.store.put_many(&tops(&pending)).await?;
    let doubted = match secure_above(context, &pending, &head, receipts).await {
        Ok(()) => {
            name(context, &mut pending, &head).await?;
            None
        }
        Err(error) if !is_loss(&error) => return Err(error),
        Err(_) if pending.unnamed => return give_up(context, &pending).await,
        Err(error) => Some(Doubted::new(&pending, &error, Doubted::of(volume)?)),
    };
    // Where it was not settled here, the next commit sends all of it again; what of that is charged by then
    // stands in the notes of what this one has built.
    let taker = Arc::clone(volume);
    blocking(move || taker.reserve_unpublished()).await??;
    take_as_head(context, &pending, doubted).await
}

/// Where each block of the head was found on the node, by a round that began when it was doubted, it counts as published
/// again once it is pinned and named.
pub(super) async fn end_doubts(context: &Context, receipts: &Receipts) -> Result<(), PublishError> {
    let volume = &context.volume;
    let Some(since) = receipts.whole() else {
        return Ok(());
    };
    if Doubted::of(volume)?.is_some_and(|doubted| doubted.since == since) {
        let head = state::head(volume)?;
        let tops: Vec<Cid> = [head.root, head.document]
            .into_iter()
            .flatten()
            .map(|cid| cid.0)
            .collect();
        pin(context, &tops, &Head::default(), receipts).await?;
        // It may have gone with the blocks.
        if !is_named(context).await? {
            renew(context).await?;
        }
        let now = state::head(volume)?;
        if now.root != head.root {
            // Another machine's was taken over meanwhile.
            return Ok(());
        }
        keep(volume, vec![(DOUBTED, None)]).await?;
    }
    receipts.forget_whole(since);
    Ok(())
}

/// Its sequence may have been seen: no other root gets it. What of it is pinned goes with the old roots.
async fn give_up(context: &Context, pending: &Pending) -> Result<(), PublishError> {
    let volume = &context.volume;
    let (dropped, now) = (pending.clone(), context.moment());
    State::change(volume, move |state| {
        state.give_up(&dropped, &now);
        Ok(())
    })
    .await?;
    // Only now: until then it may still be finished, and charged.
    charged::give_up(volume, pending.sequence).await
}
