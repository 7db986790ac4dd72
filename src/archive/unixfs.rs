//! Reads one stored file by CID, in order, also one from other programs.
//!
//! Invariant: output is verified and as long as the top node declares: each node must match its
//! parent, none is empty or deeper than [`DEEPEST`], so a tree with shared nodes ends. Memory is
//! bounded by [`AT_ONCE`] blocks plus one node's links per level.

use std::collections::VecDeque;
use std::sync::Arc;

use ::cid::Cid;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::new_file::NewFile;
use crate::control::Amount;
use crate::control::Report;
use crate::exit::fail;
use crate::pack::cid::{self as form, Kind};
use crate::pack::dagpb::foreign::{self, Foreign};
use crate::store::{BlockStore, BlockStoreExt, MAX_BLOCK_BYTES, StoreError};

const AT_ONCE: usize = 16;

/// A file's levels: a balanced tree needs at most eight.
const DEEPEST: u32 = 32;

struct Item {
    cid: Cid,
    /// Its length by its parent; `None` for the top.
    size: Option<u64>,
    level: u32,
    block: Option<Bytes>,
}

impl Item {
    /// Whether it is at most one block; only such are fetched ahead.
    fn is_small(&self) -> bool {
        self.size.is_some_and(|size| size <= MAX_BLOCK_BYTES as u64)
    }
}

/// Writes the file `cid` to `out`; returns its length.
pub(super) async fn read(
    store: &Arc<dyn BlockStore>,
    cid: &Cid,
    out: &mut NewFile<'_>,
    tell: Report<'_>,
) -> anyhow::Result<u64> {
    let mut left = VecDeque::from([Item {
        cid: *cid,
        size: None,
        level: 0,
        block: None,
    }]);
    let (mut written, mut total) = (0, 0);
    while let Some(mut item) = left.pop_front() {
        let Some(bytes) = item.block.take() else {
            left.push_front(item);
            fetch(store, &mut left).await?;
            continue;
        };
        let (data, links) = match form::kind(&item.cid) {
            Ok(Kind::Leaf) => (bytes, Vec::new()),
            _ => parse(&item.cid, &bytes)?,
        };
        let size = links
            .iter()
            .try_fold(data.len() as u64, |all, (_, size)| all.checked_add(*size));
        let refused = |why: &str| StoreError::Corrupt(item.cid, why.to_owned());
        let size = size.ok_or_else(|| refused("is longer than any file"))?;
        match item.size {
            None => {
                out.expect(size)?;
                total = size;
            }
            Some(declared) if declared == size => {}
            Some(_) => Err(refused("is not as long as its parent says"))?,
        }
        if item.level > DEEPEST {
            Err(refused("is too deep in a tree"))?;
        }
        for (cid, size) in links.into_iter().rev() {
            left.push_front(Item {
                cid,
                size: Some(size),
                level: item.level + 1,
                block: None,
            });
        }
        out.write(&data)?;
        written += data.len() as u64;
        tell("fetching", Amount::of(written, total));
    }
    Ok(written)
}

/// Fetches the next block, and the following leaves.
async fn fetch(store: &Arc<dyn BlockStore>, left: &mut VecDeque<Item>) -> Result<(), StoreError> {
    let mut wanted: Vec<&mut Item> = left
        .iter_mut()
        .take(AT_ONCE)
        .enumerate()
        .filter(|(at, item)| item.block.is_none() && (*at == 0 || item.is_small()))
        .map(|(_, item)| item)
        .collect();
    let cids: Vec<Cid> = wanted.iter().map(|item| item.cid).collect();
    let fetched: Vec<Bytes> = futures::stream::iter(cids)
        .map(|cid| {
            let store = Arc::clone(store);
            async move {
                let bytes = store.get(&cid).await?;
                crate::store::check_bytes(&cid, &bytes)?;
                Ok::<_, StoreError>(bytes)
            }
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    for (item, bytes) in wanted.iter_mut().zip(fetched) {
        item.block = Some(bytes);
    }
    Ok(())
}

/// A node's bytes, and its children with their lengths.
fn parse(cid: &Cid, bytes: &Bytes) -> anyhow::Result<(Bytes, Vec<(Cid, u64)>)> {
    match foreign::read(cid, bytes).map_err(StoreError::from)? {
        Foreign::File { data, parts } => Ok((data, parts)),
        Foreign::Directory => fail!(Usage, "get {cid}: is a directory: name a file of it"),
        Foreign::Other => fail!(Usage, "get {cid}: is no file"),
    }
}

#[cfg(test)]
mod tests;
