//! Going on from what another machine has published, while the volume is in use: for a reader that
//! misses a block, and a publisher that has nothing to publish.
//!
//! Invariant: only a root that contains our own last commit is followed, and only where nothing here
//! is unpublished. The head is the last to change: after a crash in between, the next mount begins
//! from the new root; after an error the next call goes on. Called by `commit`, `queue` and `run`;
//! [`watch`] for volumes that nobody writes here.

use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;

use super::PublishError;
use super::commit::Context;
use super::head::{self, Named};
use super::judge;
use super::pending::PENDING;
use super::state::{self, Offered, State};
use super::writers;
use crate::chain::TokenInfo;
use crate::fetch::source::blocking;
use crate::types::Ino;

/// Resolves the name, and takes over what it points at if that is newer. True when the volume has
/// another tree now.
///
/// # Errors
/// The node does not answer; what it gives is refused.
pub async fn follow(context: &Context) -> Result<bool, PublishError> {
    Ok(look(context).await? == Step::Taken)
}

/// As [`follow`], with what came of it.
pub(super) async fn look(context: &Context) -> Result<Step, PublishError> {
    match head::look_up(context).await? {
        Some(named) => go_on(context, Offer::of(named)).await,
        None => Ok(Step::Current),
    }
}

/// The same for who reads alone: what the chain knows of `token` counts too, and a newer tree that
/// cannot take this one's place is an error.
///
/// # Errors
/// As [`follow`]; [`PublishError::Refused`] also where the name and the chain say different things.
pub async fn watch(context: &Context, token: &TokenInfo) -> Result<bool, PublishError> {
    let named = head::look_up(context).await?;
    let now = named.as_ref().map(|named| &named.usage);
    let chain = head::on_chain(token, &context.key.name());
    let Some((sequence, root)) = head::newest(now, chain, false)? else {
        return Ok(false);
    };
    let offer = match named.filter(|named| named.usage.sequence == sequence) {
        Some(named) => Offer::of(named),
        // The name has lost it, or never had it.
        None => Offer {
            sequence,
            root,
            document: None,
            uploads: None,
        },
    };
    match go_on(context, offer).await? {
        Step::Current => Ok(false),
        Step::Taken => Ok(true),
        Step::Waits if context.volume.following().is_some() => Ok(false),
        Step::Waits | Step::Parted => Err(PublishError::Refused(
            "what was published since cannot take the place of what is shown: unmount, and mount again"
                .to_owned(),
        )),
    }
}

/// What is to be followed.
struct Offer {
    sequence: u64,
    root: Option<Cid>,
    /// Its usage metadata, where it is known: its CID and bytes.
    document: Option<(Cid, Bytes)>,
    uploads: Option<u64>,
}

impl Offer {
    fn of(named: Named) -> Self {
        Self {
            sequence: named.usage.sequence,
            root: named.usage.root,
            document: Some((named.document, named.bytes)),
            uploads: Some(named.usage.uploads),
        }
    }
}

/// What came of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is no newer than what is here.
    Current,
    /// It has taken the place of what was here.
    Taken,
    /// It has all that was published from here, and cannot take this one's place now: something here is unpublished, or
    /// too much is loaded. Who is to merge the two begins here.
    Waits,
    /// It lacks what was published last from here.
    Parted,
}

async fn go_on(context: &Context, offer: Offer) -> Result<Step, PublishError> {
    let volume = &context.volume;
    let known = state::head(volume)?;
    let half = volume.is_half_followed();
    let is_older = judge::is_current(&known, offer.sequence, offer.root.as_ref());
    let Some(cid) = offer.root.filter(|_| half || !is_older) else {
        return Ok(Step::Current);
    };
    let fetcher = &context.node.fetcher;
    let (root, header) = fetcher.load_root(&cid, &volume.key()).await?;
    let writer = head::writer(volume).await?;
    if root.writer != writer {
        writers::note(context).await?;
    }
    if !judge::may_follow(&known, &root, writer, half) {
        return Ok(Step::Parted);
    }
    let is_under_way = volume.raw_meta(PENDING)?.is_some();
    if is_under_way || volume.raw_meta(state::TAKEN_OVER)?.is_some() {
        return Ok(Step::Waits);
    }
    let (taker, tree) = (Arc::clone(volume), root.clone());
    let begun = blocking(move || taker.begin_following(&tree)).await??;
    let Some(followed) = begun else {
        return Ok(Step::Waits);
    };
    // What was known is made known again: files in use are in there.
    let mut dirs = vec![Ino::ROOT];
    while let Some(dir) = dirs.pop() {
        let taker = Arc::clone(volume);
        fetcher.load_directory(taker, dir).await?;
        dirs.extend(volume.once_loaded(&followed, dir)?);
    }
    let theirs = Offered {
        root: cid,
        time_s: head::made_s(context, &root),
        header: header.encode()?.data,
        record: root,
        document: offer.document,
        uploads: offer.uploads,
    };
    State::change(volume, move |state| state.follow(theirs)).await?;
    let taker = Arc::clone(volume);
    blocking(move || taker.finish_following(followed)).await??;
    let token = volume.key().token.token;
    tracing::info!(%token, root = %cid, "another machine has gone on from here: taken over");
    Ok(Step::Taken)
}
