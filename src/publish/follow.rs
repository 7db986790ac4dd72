//! Going on from what another machine has published, while the volume is in use: for a reader that
//! misses a block, and a publisher that has nothing to publish.
//!
//! Invariant: only a root that contains our own last commit is followed, and only where nothing here
//! is unpublished. The head is the last to change: after a crash in between, the next mount begins
//! from the new root; after an error the next call goes on. Called by `commit`, `queue` and `run`.

use std::sync::Arc;

use super::PublishError;
use super::commit::Context;
use super::head::{self, Head};
use super::judge;
use super::pending::{Versions, keep};
use crate::fetch::source::blocking;
use crate::journal::record::{CidBytes, Record as _};
use crate::types::Ino;

/// Resolves the name, and takes over what it points at if that is newer. True when the volume has
/// another tree now.
///
/// # Errors
/// The node does not answer; what it gives is refused.
pub async fn follow(context: &Context) -> Result<bool, PublishError> {
    let volume = &context.volume;
    let known: Head = volume.meta("head")?.unwrap_or_default();
    let named = head::resolve(context).await?;
    let Some(named) = named else { return Ok(false) };
    let half = volume.is_half_followed();
    let is_older = judge::is_current(&known, named.usage.sequence, named.usage.root.as_ref());
    let Some(cid) = named.usage.root.filter(|_| half || !is_older) else {
        return Ok(false);
    };
    let fetcher = &context.node.fetcher;
    let (root, header) = fetcher.load_root(&cid, &volume.key()).await?;
    if !judge::may_follow(&known, &root, head::writer(volume).await?, half) {
        return Ok(false);
    }
    if volume.raw_meta("pending")?.is_some() || volume.raw_meta(head::TAKEN_OVER)?.is_some() {
        return Ok(false);
    }
    let (taker, tree) = (Arc::clone(volume), root.clone());
    let begun = blocking(move || taker.begin_following(&tree)).await??;
    let Some(followed) = begun else {
        return Ok(false);
    };
    // What was known is made known again: files in use are in there.
    let mut dirs = vec![Ino::ROOT];
    while let Some(dir) = dirs.pop() {
        let taker = Arc::clone(volume);
        fetcher.load_directory(taker, dir).await?;
        dirs.extend(volume.once_loaded(&followed, dir)?);
    }
    let versions = Versions::of(&root);
    let head = Head {
        sequence: root.sequence,
        root: Some(CidBytes(cid)),
        document: Some(CidBytes(named.document)),
        uploads: named.usage.uploads,
        renewals: 0,
        time_s: head::made_s(context, &root),
        next: known.next.max(root.sequence + 1),
        own: known.own,
    };
    let values = vec![
        ("head", Some(head.to_bytes())),
        ("versions", Some(versions.to_bytes())),
        ("header", Some(header.encode()?.data)),
        ("root-block", Some(root.encode()?.data)),
        ("document", None),
    ];
    keep(volume, values).await?;
    let taker = Arc::clone(volume);
    blocking(move || taker.finish_following(followed)).await??;
    let token = volume.key().token.token;
    tracing::info!(%token, root = %cid, "another machine has gone on from here: taken over");
    Ok(true)
}
