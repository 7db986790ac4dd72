//! Whether all that a content or tree links is on the node: asked for block by block.
//!
//! Invariant: no pin is asked for, set or taken away. One that stands says nothing of what the node has lost since,
//! and may be somebody's own: of a file that is shared. Called by `heal` and `build`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::timeout;

use super::PublishError;
use crate::fs::LostBlock;
use crate::pack::cid::{self as form, Kind};
use crate::store::{BlockStore, BlockStoreExt, StoreError, links};

/// Questions under way at a time.
const AT_ONCE: usize = 16;
/// How long the node may say nothing at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// A block below `root`, or it, that the node does not have; `note` hears of each that it has.
pub(super) async fn lost_below(
    store: &Arc<dyn BlockStore>,
    root: &Cid,
    note: impl Fn(),
) -> Result<Option<LostBlock>, PublishError> {
    let (mut left, mut seen) = (vec![*root], HashSet::from([*root]));
    let mut asked = FuturesUnordered::new();
    loop {
        while asked.len() < AT_ONCE
            && let Some(cid) = left.pop()
        {
            asked.push(async move { (cid, below(store.as_ref(), &cid).await) });
        }
        let Ok(answer) = timeout(PATIENCE, asked.next()).await else {
            let why = "it does not say what it has".to_owned();
            return Err(StoreError::Transient(why).into());
        };
        match answer {
            None => return Ok(None),
            Some((_, Ok(links))) => left.extend(links.into_iter().filter(|cid| seen.insert(*cid))),
            Some((cid, Err(error @ (StoreError::Missing(_) | StoreError::Corrupt(..))))) => {
                return Ok(Some(LostBlock {
                    cid,
                    chunk: None,
                    why: error.to_string(),
                }));
            }
            Some((_, Err(error))) => return Err(error.into()),
        }
        note();
    }
}

/// What a block links. A leaf is not read where the node says that it has it.
async fn below(store: &dyn BlockStore, cid: &Cid) -> Result<Vec<Cid>, StoreError> {
    if form::kind(cid) == Ok(Kind::Leaf) && store.has(cid).await? {
        return Ok(Vec::new());
    }
    links(cid, &store.get(cid).await?)
}
