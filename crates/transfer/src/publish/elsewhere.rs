//! A block that the node has lost and the cache has not got: made again of what is here where it stands above that,
//! else looked for on the other nodes, and the gateways.
//!
//! Invariant: nobody is waited for long, and where several in a row do not answer no more are asked: after a great loss each
//! would take its time in vain. Who does not answer may have the block. Called by `heal` and `sample`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use tokio::time::{Instant, timeout};

use super::commit::Context;
use crate::fetch::remake::{Of, remade};
use crate::pack::cid as form;
use crate::store::{BlockStoreExt, StoreError};

/// How long all of them together may take for a block.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Looks in a row without an answer, after which there are no more.
const MOST_SILENT: usize = 8;

/// Looks for what was lost, of one commit or of one round.
#[derive(Default)]
pub(super) struct Elsewhere {
    /// How many of the last ones got no answer.
    silent: AtomicUsize,
}

/// Nobody has the block who has said so; and somebody has said nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silent;

impl Elsewhere {
    /// `data`, or where there is none the block as it is made again where that is known of what it is, or as somebody else
    /// has it.
    pub(super) async fn or_find(
        &self,
        context: &Context,
        cid: &Cid,
        data: Option<Bytes>,
        of: Option<Of>,
    ) -> Result<Option<Bytes>, Silent> {
        if data.is_some() {
            return Ok(data);
        }
        if let Some(of) = of {
            let (source, deadline) = (context.node.fetcher.source(), Instant::now() + PATIENCE);
            match remade(source, &context.volume, of, cid, deadline).await {
                Ok(Some(page)) => return Ok(Some(page)),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, block = %cid, "a block cannot be made again"),
            }
        }
        if self.silent.load(Ordering::Relaxed) >= MOST_SILENT {
            return Err(Silent);
        }
        let source = context.node.fetcher.source();
        let answer = timeout(PATIENCE, source.store().get_local(cid)).await;
        let found = match answer {
            Ok(Ok(data)) => Ok(form::verify(cid, &data).is_ok().then_some(data)),
            Ok(Err(StoreError::Missing(_) | StoreError::Corrupt(..))) => Ok(None),
            Ok(Err(error)) => {
                tracing::debug!(%error, block = %cid, "who may have a lost block does not say");
                Err(Silent)
            }
            Err(_) => Err(Silent),
        };
        match found {
            Ok(_) => self.silent.store(0, Ordering::Relaxed),
            Err(Silent) => _ = self.silent.fetch_add(1, Ordering::Relaxed),
        }
        found
    }
}
