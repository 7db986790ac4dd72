//! Blocks above what is here that nobody has any more, made again from it: pages of a directory from its entries, pages of
//! the inode table from the inodes, nodes of a file from its chunks in the cache.
//!
//! Invariant: what is made hashes to the CID that was asked for: what was changed since gives nothing. An index of a
//! directory of many pages is not made. Called by who puts lost blocks again: `publish`, and `fsck`.

use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use tokio::time::Instant;

use super::source::{Held, Source, blocking};
use crate::cache::Cache;
use crate::fs::{Built, Cut, FsError, Volume};
use crate::pack::cid::{Kind, kind, leaf_cid};
use crate::pack::entry::{Entry, TreeRef, row_number};
use crate::pack::tree::{self, TreeKind};
use crate::pack::{Child, chunk, file};
use crate::types::Ino;

/// Entries that are read from the journal in one step.
const STEP: usize = 1024;
/// Bytes of a file below a node that is made, at most: each of them is read and hashed.
const MOST_BYTES: u64 = 64 << 30;

/// What a block is of.
#[derive(Clone, Copy, Debug)]
pub enum Of {
    /// The pages of a directory; of the root's also those of the inode table.
    Directory(Ino),
    /// The inode table.
    Table,
    /// The nodes of a content of so many bytes.
    Content(Cid, u64),
}

impl Of {
    /// Of what belongs to `ino`: a node of the content `of`, if that has a `size`, else a page of a directory. A `chunk` is
    /// made of nothing.
    pub fn what(ino: Ino, of: Cid, size: Option<u64>, chunk: Option<u64>) -> Option<Self> {
        match (size, chunk) {
            (None, _) => Some(Self::Directory(ino)),
            (Some(size), None) => Some(Self::Content(of, size)),
            (Some(_), Some(_)) => None,
        }
    }
}

/// Block `cid` of what `volume` has published; `None` where it cannot be made. What stands above it is fetched by
/// `deadline`.
pub async fn remade(
    source: &Source,
    volume: &Arc<Volume>,
    of: Of,
    cid: &Cid,
    deadline: Instant,
) -> Result<Option<Bytes>, FsError> {
    if let Ok(Some(page)) = tree::empty_page(cid) {
        return Ok(Some(page.data));
    }
    match of {
        Of::Content(content, size) => node(source, &content, size, cid, deadline).await,
        Of::Table => page(source, volume, None, cid, deadline).await,
        Of::Directory(dir) => match page(source, volume, Some(dir), cid, deadline).await? {
            None if dir == Ino::ROOT => page(source, volume, None, cid, deadline).await,
            made => Ok(made),
        },
    }
}

/// Page `cid` of the directory `dir`, or of the inode table.
async fn page(
    source: &Source,
    volume: &Arc<Volume>,
    dir: Option<Ino>,
    cid: &Cid,
    deadline: Instant,
) -> Result<Option<Bytes>, FsError> {
    let known = Arc::clone(volume);
    let published = blocking(move || match dir {
        Some(dir) => known.loaded_tree(dir),
        None => known.view()?.table(),
    });
    let Some(tree) = published.await?? else {
        return Ok(None);
    };
    let kind = match dir {
        Some(_) => TreeKind::Directory,
        None => TreeKind::Table,
    };
    let mut held = Held::new();
    let asked = source.solve(&mut held, deadline, |held| {
        tree::keys_of(kind, &tree, cid, held)
    });
    let Some((first, end)) = unless_lost(asked.await)?.flatten() else {
        return Ok(None);
    };
    let (volume, cid) = (Arc::clone(volume), *cid);
    blocking(move || {
        let view = volume.view()?;
        let entries = match dir {
            Some(dir) => entries(&view, dir, &tree, first, end.as_ref())?,
            None => rows(&view, &first, end.as_ref())?,
        };
        // More than any page takes is no page either.
        let page = tree::page(kind, entries).ok();
        Ok(page.filter(|page| page.cid == cid).map(|page| page.data))
    })
    .await?
}

/// What was found; `None` where something else is lost that it takes.
fn unless_lost<T>(found: Result<T, FsError>) -> Result<Option<T>, FsError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(FsError::Lost(_) | FsError::Damaged(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The entries of `dir` from `first` on and before `end`, as they are published; none where `tree` is not what is
/// published of it any more.
fn entries(
    view: &Cut,
    dir: Ino,
    tree: &TreeRef,
    first: Bytes,
    end: Option<&Bytes>,
) -> Result<Vec<Entry>, FsError> {
    let built = Built::default();
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

/// The rows of the inode table from the key `first` on and before `end`.
fn rows(view: &Cut, first: &Bytes, end: Option<&Bytes>) -> Result<Vec<Entry>, FsError> {
    let (built, mut found) = (Built::default(), Vec::new());
    let end = end.map_or(u64::MAX, |end| row_number(end));
    let mut after = row_number(first).checked_sub(1).map(Ino);
    loop {
        let numbers = view.numbers(after, STEP)?;
        let Some(last) = numbers.last() else {
            return Ok(found);
        };
        after = Some(*last);
        for ino in numbers {
            if ino.0 >= end {
                return Ok(found);
            }
            found.extend(view.row(ino, &built)?);
        }
    }
}

/// Node `cid` of the content `of`, of its chunks as the cache has them: what it has not got is taken for a hole.
async fn node(
    source: &Source,
    of: &Cid,
    size: u64,
    cid: &Cid,
    deadline: Instant,
) -> Result<Option<Bytes>, FsError> {
    if kind(cid) != Ok(Kind::Node) {
        return Ok(None);
    }
    let mut held = Held::new();
    let asked = source.solve(&mut held, deadline, |held| {
        file::place_of(of, size, cid, held)
    });
    let place = unless_lost(asked.await)?.flatten();
    let Some(place) = place.filter(|place| place.bytes() <= MOST_BYTES) else {
        return Ok(None);
    };
    let (cache, of, cid) = (Arc::clone(&source.cache), *of, *cid);
    blocking(move || {
        let leaf = |index| leaf(&cache, &of, size, index);
        let made = place.made(&leaf).ok().map(|(block, _)| block);
        Ok(made.filter(|made| made.cid == cid).map(|made| made.data))
    })
    .await?
}

/// Chunk `index` of the content `of`.
fn leaf(cache: &Cache, of: &Cid, size: u64, index: u64) -> Child {
    let len = chunk::len(size, index);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let is_here = cache.read(
        of,
        size,
        index.saturating_mul(chunk::CHUNK_SIZE),
        &mut bytes,
    );
    let bytes = match is_here {
        true => Some(bytes),
        // From an earlier run: what is made of it is verified.
        false => cache.unverified(of, size, index),
    };
    match bytes {
        Some(bytes) => Child::new(leaf_cid(&bytes), len),
        None => Child::new(chunk::zero_leaf(len).cid, len),
    }
}
