//! Building the blocks of a commit from a cut: contents, then directories from the leaves of the
//! tree up, then the inode table. Reads and writes what differs and the way to it, nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use futures::StreamExt;
use tokio::time::Instant;

use super::PublishError;
use super::upload::Upload;
use super::whole::lost_below;
use crate::fetch::source::{Held, Source, blocking};
use crate::fs::{Built, Changes, Cut, CutFile, FsError, LostBlock};
use crate::pack::entry::TreeRef;
use crate::pack::holes::Holes;
use crate::pack::tree::{Change, TreeKind};
use crate::pack::{Child, chunk, file, tree};
use crate::store::Block;
use crate::types::Ino;

/// How long the blocks that one object is built from may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Entries that are built and applied at a time: what a commit needs of memory does not grow with a
/// directory. A page at a border is written twice.
const STEP: usize = 8192;

/// Chunks of a file that are read and hashed at one time, so that what is sent waits for none of them.
const CHUNKS_AT_ONCE: usize = 4;

/// Files that are looked at in one step, the small ones read and hashed (each 64 KiB at most), and steps at one time.
const FILES: usize = 64;
const STEPS_AT_ONCE: usize = 2;

/// Builds what differs and sends it. Gives what became of each object, the root directory and the
/// inode table among them.
pub(super) async fn build(
    cut: &Arc<Cut>,
    changes: &Arc<Changes>,
    source: &Source,
    upload: &mut Upload,
) -> Result<Built, PublishError> {
    let mut built = cut.begin_build();
    let steps = 0..changes.files.len().div_ceil(FILES);
    let of_step = {
        let (cut, changes) = (Arc::clone(cut), Arc::clone(changes));
        move |step| read_small(Arc::clone(&cut), Arc::clone(&changes), step)
    };
    let mut small = std::pin::pin!(
        futures::stream::iter(steps)
            .map(of_step)
            .buffered(STEPS_AT_ONCE)
    );
    while let Some(step) = small.next().await {
        relieve(cut).await?;
        for (ino, leaf) in step? {
            let (content, is_damaged) = match leaf {
                Some((leaf, is_damaged)) => {
                    let child = Child::new(leaf.cid, leaf.data.len() as u64);
                    upload.push(leaf).await?;
                    (Ok(child), is_damaged)
                }
                None => build_file(cut, ino, source, upload).await?,
            };
            let content = match content {
                Ok(content) if is_damaged => match lost_of(&content, upload).await? {
                    None => Ok(content),
                    Some(lost) => Err(lost),
                },
                other => other,
            };
            match content {
                Ok(content) => built.files.insert(ino, content)?,
                // All else is published. What was written stays here.
                Err(lost) => cut.note_stuck(ino, &lost)?,
            }
        }
    }
    for dir in &changes.directories {
        let old = match changes.rebuilt.contains(dir) {
            true => None,
            false => cut.published_tree(*dir)?,
        };
        let which = Which::Changed(changes);
        let tree = match build_directory(cut, *dir, old, which, &built, source, upload).await {
            Err(PublishError::Local(FsError::Lost(lost))) if cut.is_loaded(*dir)? => {
                tracing::warn!(dir = dir.0, why = lost.why, "a directory is published anew");
                upload.forget_receipts();
                build_directory(cut, *dir, None, Which::All, &built, source, upload).await?
            }
            other => other?,
        };
        built.directories.insert(*dir, tree);
    }
    let rows: Vec<Ino> = changes.rows.iter().copied().collect();
    let mut table = cut.table()?;
    let mut held = Held::new();
    for step in rows.chunks(STEP) {
        relieve(cut).await?;
        let mut edits: Vec<Change> = Vec::with_capacity(step.len());
        for ino in step {
            edits.push((crate::pack::entry::row_key(*ino), cut.row(*ino, &built)?));
        }
        table = Some(edit(TreeKind::Table, table, &edits, &mut held, source, upload).await?);
    }
    if table.is_none() || !rows.is_empty() {
        built.table = Some(match table {
            Some(table) => table,
            None => edit(TreeKind::Table, None, &[], &mut held, source, upload).await?,
        });
    }
    Ok(built)
}

/// Gives the journal its room back, where the cut has held it up for long.
async fn relieve(cut: &Arc<Cut>) -> Result<(), PublishError> {
    if cut.is_due_to_move() {
        let cut = Arc::clone(cut);
        blocking(move || cut.relieve()).await?;
    }
    Ok(())
}

/// Which names of a directory are applied to its tree.
#[derive(Clone, Copy)]
enum Which<'a> {
    Changed(&'a Changes),
    All,
}

/// Applies what is under these names now to the tree of a directory.
async fn build_directory(
    cut: &Arc<Cut>,
    dir: Ino,
    old: Option<TreeRef>,
    which: Which<'_>,
    built: &Built,
    source: &Source,
    upload: &mut Upload,
) -> Result<TreeRef, PublishError> {
    let mut tree = old;
    let mut held = Held::new();
    let mut after: Option<Bytes> = None;
    loop {
        relieve(cut).await?;
        let names = match which {
            Which::Changed(changes) => cut.changed_names(changes, dir, after.as_deref(), STEP)?,
            Which::All => cut.names(dir, after.as_deref(), STEP)?,
        };
        let Some(last) = names.last() else { break };
        after = Some(last.clone());
        let mut edits: Vec<Change> = Vec::with_capacity(names.len());
        for name in names {
            let entry = cut.entry(dir, &name, built)?;
            edits.push((name, entry));
        }
        tree = Some(edit(TreeKind::Directory, tree, &edits, &mut held, source, upload).await?);
    }
    match tree {
        Some(tree) => Ok(tree),
        None => edit(TreeKind::Directory, None, &[], &mut held, source, upload).await,
    }
}

/// Reads and hashes the files of one step that are small, beside the runtime: each with its leaf, and whether
/// what is published of it is damaged. The others come without.
async fn read_small(
    cut: Arc<Cut>,
    changes: Arc<Changes>,
    step: usize,
) -> Result<Vec<(Ino, Option<(Block, bool)>)>, PublishError> {
    let read = move || {
        let files = changes.files.iter().skip(step * FILES).take(FILES);
        let small = files.map(|ino| {
            let found = cut.small(*ino)?;
            let leaf = found.map(|(bytes, is_damaged)| (chunk::leaf(bytes), is_damaged));
            Ok::<_, PublishError>((*ino, leaf))
        });
        small.collect()
    };
    blocking(read).await?
}

/// What a content that was made over a damaged one still lacks: nothing that is linked may be
/// lost, or the root cannot be pinned.
async fn lost_of(content: &Child, upload: &mut Upload) -> Result<Option<LostBlock>, PublishError> {
    upload.finish().await?;
    let store = Arc::clone(upload.store());
    lost_below(&store, &content.cid, || upload.note_step()).await
}

/// Applies `edits` to a tree. `held` has what the edits before have written, and afterwards what
/// these have.
async fn edit(
    kind: TreeKind,
    old: Option<TreeRef>,
    edits: &[Change],
    held: &mut Held,
    source: &Source,
    upload: &mut Upload,
) -> Result<TreeRef, PublishError> {
    let (tree, blocks) = source
        .solve(held, Instant::now() + PATIENCE, |held| {
            let mut blocks = Vec::new();
            let mut out = |block| blocks.push(block);
            let tree = if old.is_none() && edits.is_empty() {
                tree::empty(kind, &mut out)?
            } else {
                tree::update(kind, old.as_ref(), edits, held, &mut out)?
            };
            Ok((tree, blocks))
        })
        .await?;
    held.clear();
    for block in blocks {
        // A page just written is read by the next commit.
        source.cache.put_node(&block.cid, &block.data);
        held.insert(block.cid, block.data.clone());
        upload.push(block).await?;
    }
    Ok(tree)
}

/// The content of a file that is not small, or why it cannot be built; and whether what is published of it is
/// damaged.
async fn build_file(
    cut: &Arc<Cut>,
    ino: Ino,
    source: &Source,
    upload: &mut Upload,
) -> Result<(Result<Child, LostBlock>, bool), PublishError> {
    let file = Arc::new(cut.file(ino)?);
    let is_damaged = file.base.is_some_and(|(base, _)| base.damaged);
    match build_content(cut, &file, source, upload).await {
        Ok(content) => Ok((Ok(content), is_damaged)),
        Err(PublishError::Local(FsError::Lost(lost))) => Ok((Err(*lost), is_damaged)),
        Err(error) => Err(error),
    }
}

async fn build_content(
    cut: &Arc<Cut>,
    file: &Arc<CutFile>,
    source: &Source,
    upload: &mut Upload,
) -> Result<Child, PublishError> {
    let mut changed: BTreeMap<u64, Cid> = BTreeMap::new();
    let mut wanted = Vec::new();
    for index in file.changed() {
        if file.holes.contains(index) || chunk::len(file.size, index) == 0 {
            continue;
        }
        let at = file.whole_chunk(index);
        match at.map(|at| upload.ahead(&at)).transpose()?.flatten() {
            Some(leaf) => {
                changed.insert(index, leaf);
                cut.release_chunk(file, index);
            }
            None => wanted.push(index),
        }
    }
    let read = {
        let (cut, file, source) = (Arc::clone(cut), Arc::clone(file), source.clone());
        move |index| read_leaf(Arc::clone(&cut), Arc::clone(&file), index, source.clone())
    };
    let mut leaves = std::pin::pin!(
        futures::stream::iter(wanted)
            .map(read)
            .buffered(CHUNKS_AT_ONCE)
    );
    while let Some(leaf) = leaves.next().await {
        let (index, block) = leaf?;
        changed.insert(index, block.cid);
        upload.push(block).await?;
        cut.release_chunk(file, index);
    }
    let old = file
        .base
        .filter(|(_, size)| *size > 0)
        .map(|(root, size)| file::Content {
            root,
            size,
            // Which of its chunks were holes is not kept: all holes of the new content are made anew.
            holes: Holes::none(),
        });
    if file.size == 0 {
        let block = chunk::leaf(Bytes::new());
        let child = Child::new(block.cid, 0);
        upload.push(block).await?;
        return Ok(child);
    }
    let mut held = Held::new();
    let (child, blocks) = source
        .solve(&mut held, Instant::now() + PATIENCE, |held| {
            let mut blocks = Vec::new();
            let mut out = |block| blocks.push(block);
            let (size, holes) = (file.size, &file.holes);
            let child = file::rebuild(old.as_ref(), size, holes, &changed, held, &mut out)?;
            Ok((child, blocks))
        })
        .await?;
    for block in blocks {
        // As long as the cache has it, it can be put again.
        source.cache.put_node(&block.cid, &block.data);
        upload.push(block).await?;
    }
    Ok(child)
}

/// Chunk `index` of the published content below a file.
async fn read_below(file: &CutFile, index: u64, source: &Source) -> Result<Bytes, PublishError> {
    let Some((root, size)) = file.base else {
        return Ok(Bytes::new());
    };
    let deadline = Instant::now() + PATIENCE;
    let wanted = index..index + 1;
    if let Some(bytes) = cached(source, root.cid, size, index) {
        return Ok(bytes);
    }
    let mut held = Held::new();
    let leaves = source
        .solve(&mut held, deadline, |held| {
            file::leaves(&root.cid, size, wanted.clone(), held)
        })
        .await?;
    match leaves.first() {
        Some((_, leaf)) => Ok(source.block(leaf, deadline).await?),
        None => Ok(Bytes::new()),
    }
}

fn cached(source: &Source, content: Cid, size: u64, index: u64) -> Option<Bytes> {
    let mut bytes = vec![0; chunk::len(size, index) as usize];
    let start = index.checked_mul(chunk::CHUNK_SIZE)?;
    let found = !bytes.is_empty() && source.cache.read(&content, size, start, &mut bytes);
    found.then(|| Bytes::from(bytes))
}

/// Reads and hashes one chunk, beside the runtime.
async fn read_leaf(
    cut: Arc<Cut>,
    file: Arc<CutFile>,
    index: u64,
    source: Source,
) -> Result<(u64, Block), PublishError> {
    let below = match file.needs_below(index) {
        true => Some(read_below(&file, index, &source).await?),
        false => None,
    };
    let leaf = blocking(move || {
        let bytes = cut.read_chunk(&file, index, below.as_deref())?;
        Ok::<_, PublishError>((index, chunk::leaf(Bytes::from(bytes))))
    });
    leaf.await?
}
