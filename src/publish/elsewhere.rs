//! A block that the node has lost and the cache has not got: looked for on the other nodes, and the gateways.
//!
//! Invariant: nobody is waited for long, and where several in a row do not answer no more are asked: after a great loss each
//! would take its time in vain. Who does not answer may have the block. Called by `heal` and `sample`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use tokio::time::timeout;

use super::PublishError;
use super::commit::Context;
use crate::pack::cid as form;
use crate::pack::tree::{self, TreeKind};
use crate::store::StoreError;

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
    /// `data`, or where there is none the block where it is a page without entries, or as somebody else has it.
    pub(super) async fn or_find(
        &self,
        context: &Context,
        cid: &Cid,
        data: Option<Bytes>,
    ) -> Result<Option<Bytes>, Silent> {
        if data.is_some() {
            return Ok(data);
        }
        if let Ok(Some(page)) = empty_page(cid) {
            return Ok(Some(page));
        }
        if self.silent.load(Ordering::Relaxed) >= MOST_SILENT {
            return Err(Silent);
        }
        let source = context.node.fetcher.source();
        let answer = timeout(PATIENCE, source.store().get_near(cid)).await;
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

/// The block, where it is the page of a tree without entries, which is the same everywhere: most volumes' inode table,
/// which a machine that began from another's root has never read.
fn empty_page(cid: &Cid) -> Result<Option<Bytes>, PublishError> {
    let mut pages = Vec::new();
    for kind in [TreeKind::Directory, TreeKind::Table] {
        tree::empty(kind, &mut |page| pages.push(page))?;
    }
    let found = pages.into_iter().find(|page| page.cid == *cid);
    Ok(found.map(|page| page.data))
}
