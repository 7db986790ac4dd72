//! A published directory enters a volume: its pages are read in steps, names of inodes with more
//! than one name get them from the inode table.
//!
//! Invariant: memory does not grow with the directory: one step of entries and a bounded number of
//! pages. A directory that could not be read whole is not finished, and the next look begins anew.
//! Called by [`super::Fetcher`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use tokio::time::Instant;

use super::source::{Held, Source, blocking};
use crate::fs::{Behind, FsError, LoadedEntry, LostBlock, Place, Volume};
use crate::pack::entry::{Entry, Inode, TreeRef, row_key};
use crate::pack::tree::{self, TreeKind};
use crate::types::Ino;

/// Entries that are read and entered in one step.
const STEP: usize = 2000;
/// Pages that are kept from one step to the next, in bytes, before all are let go.
const HELD_BYTES: usize = 16 << 20;

/// What takes the entries of published directories: a volume. All calls may wait for the local
/// disk, and are made beside the runtime.
pub trait DirectorySink: Send + Sync {
    /// The published tree of a directory whose entries are not here yet; `None` when they are.
    fn unloaded_tree(&self, dir: Ino) -> Result<Option<TreeRef>, FsError>;
    /// The published inode table, if there is one.
    fn published_table(&self) -> Result<Option<TreeRef>, FsError>;
    /// Enters some entries of the tree `of`; entering one twice does nothing, nor does entering any
    /// where that is not the directory's tree any more.
    fn enter_loaded(&self, dir: Ino, of: &Cid, entries: &[LoadedEntry]) -> Result<(), FsError>;
    /// The node has lost a block of what `ino` has published as `of`.
    fn note_lost(&self, ino: Ino, of: &Cid, lost: &LostBlock);
    /// All entries of the tree `of` are in.
    fn finish_loading(&self, dir: Ino, of: &Cid) -> Result<(), FsError>;
    /// Where an inode stands; `None` when it has no name here.
    fn place_of(&self, ino: Ino) -> Result<Option<Place>, FsError>;
    /// Up to `most` entries behind `place` in its directory, as far as they are here.
    fn behind(&self, place: Place, most: usize) -> Result<Vec<Behind>, FsError>;
}

impl DirectorySink for Volume {
    fn unloaded_tree(&self, dir: Ino) -> Result<Option<TreeRef>, FsError> {
        Self::unloaded_tree(self, dir)
    }

    fn published_table(&self) -> Result<Option<TreeRef>, FsError> {
        Self::published_table(self)
    }

    fn enter_loaded(&self, dir: Ino, of: &Cid, entries: &[LoadedEntry]) -> Result<(), FsError> {
        Self::enter_loaded(self, dir, of, entries)
    }

    fn note_lost(&self, ino: Ino, of: &Cid, lost: &LostBlock) {
        Self::note_lost(self, ino, of, lost);
    }

    fn finish_loading(&self, dir: Ino, of: &Cid) -> Result<(), FsError> {
        Self::finish_loading(self, dir, of)
    }

    fn place_of(&self, ino: Ino) -> Result<Option<Place>, FsError> {
        Self::place_of(self, ino)
    }

    fn behind(&self, place: Place, most: usize) -> Result<Vec<Behind>, FsError> {
        Self::behind(self, place, most)
    }
}

/// Loads `dir` into `sink`. Each block may take `patience`.
pub(super) async fn load(
    source: &Source,
    sink: Arc<dyn DirectorySink>,
    dir: Ino,
    patience: Duration,
) -> Result<(), FsError> {
    let known = Arc::clone(&sink);
    let trees = move || Ok::<_, FsError>((known.unloaded_tree(dir)?, known.published_table()?));
    let (Some(mut pages), table) = blocking(trees).await?? else {
        return Ok(());
    };
    // Marked as damaged or not: what is there can be read.
    pages.root.damaged = false;
    let of = pages.root.cid;
    let mut held = Held::new();
    let mut rows = Rows::default();
    let mut after: Option<Bytes> = None;
    loop {
        let deadline = Instant::now() + patience;
        let entries = source
            .solve(&mut held, deadline, |held| {
                tree::scan(TreeKind::Directory, &pages, after.as_deref(), STEP, held)
            })
            .await;
        if let Err(FsError::Lost(lost)) = &entries {
            let (taker, lost) = (Arc::clone(&sink), lost.clone());
            blocking(move || taker.note_lost(dir, &of, &lost)).await?;
        }
        let entries = entries?;
        let ended = entries.len() < STEP;
        after = entries.last().map(|entry| entry.key.clone());
        let table = table.as_ref();
        let loaded = resolve(source, table, &mut rows, entries, patience).await?;
        bound(&mut held);
        let taker = Arc::clone(&sink);
        blocking(move || taker.enter_loaded(dir, &of, &loaded)).await??;
        if ended {
            break;
        }
    }
    blocking(move || sink.finish_loading(dir, &of)).await?
}

/// Rows of the inode table that were read at once: neighbours are mostly wanted together.
#[derive(Default)]
struct Rows {
    held: Held,
    known: BTreeMap<Ino, Inode>,
}

/// The entries with their inodes, by ascending number.
async fn resolve(
    source: &Source,
    table: Option<&TreeRef>,
    rows: &mut Rows,
    mut entries: Vec<Entry>,
    patience: Duration,
) -> Result<Vec<LoadedEntry>, FsError> {
    entries.sort_by_key(|entry| entry.ino);
    let mut loaded = Vec::with_capacity(entries.len());
    for Entry { key, ino, inode } in entries {
        let hard = inode.is_none();
        let inode = match inode {
            Some(inode) => inode,
            None => row(source, table, rows, ino, patience).await?,
        };
        loaded.push(LoadedEntry {
            name: key,
            ino,
            inode,
            hard,
        });
    }
    Ok(loaded)
}

/// The row of an inode.
async fn row(
    source: &Source,
    table: Option<&TreeRef>,
    rows: &mut Rows,
    ino: Ino,
    patience: Duration,
) -> Result<Inode, FsError> {
    let dangling = || FsError::Damaged(format!("inode {} is not in the inode table", ino.0));
    if !rows.known.contains_key(&ino) {
        let table = table.ok_or_else(dangling)?;
        let deadline = Instant::now() + patience;
        let before = row_key(Ino(ino.0.saturating_sub(1)));
        let found = source
            .solve(&mut rows.held, deadline, |held| {
                tree::scan(TreeKind::Table, table, Some(&before), STEP, held)
            })
            .await
            .map_err(|error| match error {
                // It is the table that lacks it, not the directory.
                FsError::Lost(lost) => FsError::Damaged(format!("inode table: {}", lost.why)),
                other => other,
            })?;
        bound(&mut rows.held);
        rows.known = found
            .into_iter()
            .filter_map(|row| row.inode.map(|inode| (row.ino, inode)))
            .collect();
    }
    rows.known.get(&ino).cloned().ok_or_else(dangling)
}

/// Lets pages go when they are too many; those that are needed again come from the cache.
fn bound(held: &mut Held) {
    if held.values().map(Bytes::len).sum::<usize>() > HELD_BYTES {
        held.clear();
    }
}
