//! Pages of a published directory that nobody has any more, made again from its entries, which are here.
//!
//! Invariant: what is made hashes to the CID that was asked for: a directory that was changed since gives
//! nothing. An index of a directory of many pages is not made. Called by who puts lost blocks again: `publish`, and
//! `fsck`.

use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use tokio::time::Instant;

use super::source::{Held, Source, blocking};
use crate::fs::{Built, FsError, Volume};
use crate::pack::entry::{Entry, TreeRef};
use crate::pack::tree::{self, TreeKind};
use crate::types::Ino;

/// Entries that are read from the journal in one step.
const STEP: usize = 1024;

/// Page `cid` of what `volume` has published of the directory `dir`; `None` where it cannot be made. An index above it is
/// fetched by `deadline`.
pub(crate) async fn remade(
    source: &Source,
    volume: &Arc<Volume>,
    dir: Ino,
    cid: &Cid,
    deadline: Instant,
) -> Result<Option<Bytes>, FsError> {
    if let Ok(Some(page)) = tree::empty_page(cid) {
        return Ok(Some(page.data));
    }
    let known = Arc::clone(volume);
    let Some(tree) = blocking(move || known.loaded_tree(dir)).await?? else {
        return Ok(None);
    };
    let mut held = Held::new();
    let asked = source.solve(&mut held, deadline, |held| {
        tree::keys_of(TreeKind::Directory, &tree, cid, held)
    });
    let (first, end) = match asked.await {
        Ok(Some(keys)) => keys,
        Ok(None) | Err(FsError::Lost(_) | FsError::Damaged(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (volume, cid) = (Arc::clone(volume), *cid);
    blocking(move || {
        let entries = entries(&volume, dir, &tree, first, end.as_ref())?;
        // More than any page takes is no page either.
        let page = tree::page(TreeKind::Directory, entries).ok();
        Ok(page.filter(|page| page.cid == cid).map(|page| page.data))
    })
    .await?
}

/// The entries of `dir` from `first` on and before `end`, as they are published; none where `tree` is not what is
/// published of it any more.
fn entries(
    volume: &Arc<Volume>,
    dir: Ino,
    tree: &TreeRef,
    first: Bytes,
    end: Option<&Bytes>,
) -> Result<Vec<Entry>, FsError> {
    let (view, built) = (volume.view()?, Built::default());
    let published = view.published_tree(dir)?;
    if published.is_none_or(|published| published.root.cid != tree.root.cid) {
        return Ok(Vec::new());
    }
    let mut found: Vec<Entry> = view.entry(dir, &first, &built)?.into_iter().collect();
    let mut after = first;
    loop {
        let names = view.names(dir, Some(&after), STEP)?;
        let Some(last) = names.last() else {
            return Ok(found);
        };
        after = last.clone();
        for name in names {
            if end.is_some_and(|end| name >= *end) {
                return Ok(found);
            }
            found.extend(view.entry(dir, &name, &built)?);
        }
    }
}
