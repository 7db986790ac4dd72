//! Building the blocks of a commit from a cut: contents, then directories from the leaves of the
//! tree up, then the inode table. Reads and writes what differs and the way to it, nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use tokio::time::Instant;

use super::PublishError;
use super::upload::Upload;
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

/// Builds what differs and sends it. Gives what became of each object, the root directory and the
/// inode table among them.
pub(super) async fn build(
    cut: &Arc<Cut>,
    changes: &Arc<Changes>,
    source: &Source,
    upload: &mut Upload,
) -> Result<Built, PublishError> {
    let mut built = cut.begin_build();
    for ino in &changes.files {
        relieve(cut).await?;
        let content = match build_file(cut, *ino, source, upload).await {
            Ok(content) => match is_whole(cut, *ino, &content, upload).await? {
                None => Ok(content),
                Some(lost) => Err(lost),
            },
            Err(PublishError::Local(FsError::Lost(lost))) => Err(*lost),
            Err(error) => return Err(error),
        };
        match content {
            Ok(content) => built.files.insert(*ino, content)?,
            // All else is published. What was written stays here.
            Err(lost) => cut.note_stuck(*ino, &lost)?,
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

/// What a content that was made over a damaged one still lacks: nothing that is linked may be
/// lost, or the root cannot be pinned.
async fn is_whole(
    cut: &Cut,
    ino: Ino,
    content: &Child,
    upload: &mut Upload,
) -> Result<Option<LostBlock>, PublishError> {
    if !cut.file(ino)?.base.is_some_and(|(base, _)| base.damaged) {
        return Ok(None);
    }
    upload.finish().await?;
    super::heal::lost_below(cut.volume(), upload.store(), &content.cid).await
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

async fn build_file(
    cut: &Arc<Cut>,
    ino: Ino,
    source: &Source,
    upload: &mut Upload,
) -> Result<Child, PublishError> {
    let file = cut.file(ino)?;
    if let Some(bytes) = file.inline {
        let block = chunk::leaf(bytes);
        let child = Child::new(block.cid, block.data.len() as u64);
        upload.push(block).await?;
        return Ok(child);
    }
    let file = Arc::new(file);
    let mut changed: BTreeMap<u64, Cid> = BTreeMap::new();
    for index in file.changed() {
        if file.holes.contains(index) || chunk::len(file.size, index) == 0 {
            continue;
        }
        let below = if file.needs_below(index) {
            Some(read_below(&file, index, source).await?)
        } else {
            None
        };
        let block = read_leaf(cut, &file, index, below).await?;
        changed.insert(index, block.cid);
        upload.push(block).await?;
        cut.release_chunk(&file, index);
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
    cut: &Arc<Cut>,
    file: &Arc<CutFile>,
    index: u64,
    below: Option<Bytes>,
) -> Result<Block, PublishError> {
    let (cut, file) = (Arc::clone(cut), Arc::clone(file));
    let leaf = blocking(move || {
        let bytes = cut.read_chunk(&file, index, below.as_deref())?;
        Ok::<_, PublishError>(chunk::leaf(Bytes::from(bytes)))
    });
    leaf.await?
}
