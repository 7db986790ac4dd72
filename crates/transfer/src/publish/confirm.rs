//! Whether the node still has what was published last from here: asked before somebody who has nothing to publish is told
//! that all is published.
//!
//! Invariant: what was verified once is not taken for verified: a node may have been emptied since, or put back to an older
//! copy. Called by `queue`.

use cid::Cid;
use futures::future::try_join3;

use super::PublishError;
use super::commit::Context;
use super::naming::{is_named, renew};
use super::state;
use crate::fs::Volume;
use crate::store::BlockStoreExt;

/// Whether the head was published from this state folder.
#[must_use]
pub fn is_ours(volume: &Volume) -> bool {
    let head = state::known_head(volume).ok().flatten();
    head.is_some_and(|head| head.own.is_some_and(|own| Some(own.root) == head.root))
}

/// Asks the node for the root of our own last commit, its pin and its name, at the same time. A name that says less is told
/// again.
///
/// # Errors
/// It lacks the root or the pin; it does not answer; another machine has named something else.
pub(super) async fn confirm(context: &Context) -> Result<(), PublishError> {
    let volume = &context.volume;
    let head = state::head(volume)?;
    let Some(root) = head.root.filter(|_| is_ours(volume)) else {
        return Ok(());
    };
    let tops: Vec<Cid> = [Some(root), head.document]
        .into_iter()
        .flatten()
        .map(|cid| cid.0)
        .collect();
    let store = &context.node.store;
    let has = async { Ok(store.has(&root.0).await?) };
    let pinned = async { Ok(store.all_pinned(&tops).await?) };
    match try_join3(has, pinned, is_named(context)).await? {
        (true, true, true) => Ok(()),
        (true, true, false) => renew(context).await,
        _ => Err(lacks()),
    }
}

/// What whoever wants everything published is told.
pub(super) fn lacks() -> PublishError {
    PublishError::Unverified(
        "it lacks what was published last: what is here of that is put again".into(),
    )
}
