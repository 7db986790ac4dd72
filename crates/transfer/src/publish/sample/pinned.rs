//! The pin of the head: looked up, and asked for again where it has gone.
//!
//! Invariant: blocks that are all on the node are not left without the pin that alone keeps them there, whoever
//! took it away. Where some are missing it comes with the first round that misses none. Called by `task` beside the
//! steps: a pin takes as long as the node reads.

use std::time::Duration;

use cid::Cid;
use tokio::time::timeout;

use super::Sampler;
use crate::fs::UNHELD;
use crate::publish::PublishError;
use crate::publish::commit::Context;
use crate::publish::head;
use crate::publish::pending::keep;
use crate::publish::state::{self, Head};
use crate::store::BlockStoreExt;
use crate::store::StoreError;

/// How long the name may take to say whether another machine has gone on.
const NAMED: Duration = Duration::from_secs(30);

impl Sampler {
    /// Has the head pinned, and its usage metadata. What is doubted a commit pins.
    pub(super) async fn keep_pinned(&mut self, context: &Context) -> Result<(), PublishError> {
        let head = state::head(&context.volume)?;
        let Some(root) = head.root.map(|root| root.0) else {
            return Ok(());
        };
        let is_lacking = self.lacking == Some(root);
        if self.doubted.is_some() || (is_lacking && !self.whole) {
            return Ok(());
        }
        let tops: Vec<Cid> = [head.root, head.document]
            .into_iter()
            .flatten()
            .map(|cid| cid.0)
            .collect();
        let store = &context.node.store;
        if !store.all_pinned(&tops).await? {
            if is_gone_on(context, &head).await {
                return Ok(());
            }
            let token = context.volume.key().token.token;
            tracing::warn!(%token, %root, "the storage node does not list the pin of what is published: it is asked for again");
            for top in &tops {
                match store.pin(top, None).await {
                    Ok(()) => {}
                    Err(StoreError::Missing(_) | StoreError::Corrupt(..)) => {
                        self.lack(root, &head);
                        // Once: what a round does not find no other one finds at once.
                        if self.bare && !is_lacking {
                            self.sweep();
                        }
                        return Ok(());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            tracing::info!(%token, %root, "it is pinned again");
        }
        (self.lacking, self.bare, self.whole) = (None, false, false);
        if context.volume.raw_meta(UNHELD)?.is_some() {
            keep(&context.volume, vec![(UNHELD, None)]).await?;
        }
        if std::mem::take(&mut self.rootless) {
            self.returned = true;
            tracing::info!(%root, "the storage node has the root again");
        }
        Ok(())
    }

    /// Blocks below `root` are missing: it is pinned when a round has missed none.
    pub(super) fn lack(&mut self, root: Cid, head: &Head) {
        (self.lacking, self.whole) = (Some(root), false);
        self.bare = head.own.is_some_and(|own| own.root.0 == root);
    }
}

/// Whether another machine has gone on from `head`, whose pin goes then, by the name. Where that is not to be learnt
/// now it counts as not so: a pin too many costs room.
async fn is_gone_on(context: &Context, head: &Head) -> bool {
    match timeout(NAMED, head::resolve(context)).await {
        Ok(Ok(Some(named))) => named.usage.sequence > head.sequence,
        _ => false,
    }
}
