//! A whole volume as one archive of blocks (CARv1), and back onto a node.
//!
//! Invariant: a finished archive holds every block below the root, each verified; an import
//! verifies blocks before it sends them, and pins them before it reports success.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::cid::Cid;
use anyhow::Context;
use futures::{StreamExt, TryStreamExt};

use super::new_file::NewFile;
use super::published::{patient, published};
use crate::context::MountContext;
use crate::control::Amount;
use crate::control::Report;
use crate::exit::fail;
use crate::pack::root::Root;
use crate::status::ArchiveAnswer;
use crate::store::retry::{Policy, RetryStore};
use crate::store::{Block, BlockStore, BlockStoreExt, StoreError, car, links};
use crate::types::TokenId;

const AT_ONCE: usize = 16;
pub(super) const BATCH_BLOCKS: usize = 128;
pub(super) const BATCH_BYTES: usize = 8 << 20;
/// The limit for sending them with all retries; at 8 KiB a second, the slowest node tolerated, it
/// takes 17 min.
pub(super) const BATCH_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Writes all blocks of a token's published volume, and its usage metadata, to a new file.
pub(super) async fn export(
    ground: &MountContext,
    token: TokenId,
    file: &Path,
    tell: Report<'_>,
) -> anyhow::Result<ArchiveAnswer> {
    let published = published(ground, token).await?;
    let store = patient(&ground.parts.node.reads);
    let root = published.root.cid;
    let document = published.document;
    let roots: Vec<Cid> = std::iter::once(root)
        .chain(document.as_ref().map(|block| block.cid))
        .collect();
    let mut out = NewFile::create(file)?;
    out.write(&car::header(&roots))?;
    let mut answer = ArchiveAnswer {
        token,
        root: root.to_string(),
        file: file.display().to_string(),
        blocks: 0,
        bytes: 0,
        left_out: 0,
    };
    let total = published.record.usage();
    let mut add = |out: &mut NewFile<'_>, block: &Block| -> anyhow::Result<()> {
        out.write(&car::head(block))?;
        out.write(&block.data)?;
        answer.blocks += 1;
        answer.bytes += block.data.len() as u64;
        let what = format!("exporting: {} blocks", answer.blocks);
        tell(&what, Amount::of_about(answer.bytes, total));
        Ok(())
    };
    if let Some(document) = &document {
        add(&mut out, document)?;
    }
    let mut left = vec![root];
    let mut seen = HashSet::from([root]);
    while !left.is_empty() {
        let next = left.split_off(left.len().saturating_sub(AT_ONCE));
        let fetched: Vec<Block> = futures::stream::iter(next)
            .map(|cid| {
                let store = std::sync::Arc::clone(&store);
                async move {
                    let block = Block {
                        cid,
                        data: store.get(&cid).await?,
                    };
                    block.check()?;
                    Ok::<_, StoreError>(block)
                }
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        for block in fetched {
            add(&mut out, &block)?;
            let below = links(&block.cid, &block.data)?;
            left.extend(below.into_iter().filter(|cid| seen.insert(*cid)));
        }
    }
    out.finish()?;
    Ok(answer)
}

/// Uploads an archive's blocks to `node`, and pins its roots.
pub(super) async fn import(
    ground: &MountContext,
    node: &Arc<dyn BlockStore>,
    token: TokenId,
    file: &Path,
    tell: Report<'_>,
) -> anyhow::Result<ArchiveAnswer> {
    let shown = file.display().to_string();
    let info = ground.parts.owned(token).await?;
    let volume = ground.parts.volume_key(&info);
    let found = tokio::task::block_in_place(|| look(file)).with_context(|| shown.clone())?;
    let roots = found.roots;
    let Some((root, record)) = found.volume else {
        fail!(
            Usage,
            "{shown}: holds no volume: make one with `pxfs export`"
        );
    };
    if record.volume.token != volume.token {
        let of = &record.volume.token;
        fail!(
            Usage,
            "{shown}: is of token {} of {} on chain {}, not of token {token}",
            of.token,
            of.contract,
            of.chain_id
        );
    }
    let store = bounded(node, BATCH_LIMIT);
    let mut answer = ArchiveAnswer {
        token,
        root: root.to_string(),
        file: shown.clone(),
        blocks: 0,
        bytes: 0,
        left_out: 0,
    };
    let total = std::fs::metadata(file).map_or(0, |meta| meta.len());
    let note = |blocks, bytes| {
        answer.blocks += blocks;
        answer.bytes += bytes;
        let what = format!("importing: {} blocks", answer.blocks);
        tell(&what, Amount::of_about(answer.bytes, total));
    };
    send(open(file)?, &shown, &store, note).await?;
    for root in &roots {
        // It ends by itself; the volume's size decides when.
        match node.pin(root, None).await {
            Err(error @ StoreError::Missing(_)) => {
                return Err(anyhow::Error::from(error).context("the archive is not whole"));
            }
            pinned => pinned?,
        }
    }
    if !store.all_pinned(&roots).await? {
        fail!(
            Node,
            "the storage node does not list a pin that it acknowledged"
        );
    }
    Ok(answer)
}

/// The same store; a batch may take `limit` with all retries.
pub(super) fn bounded(node: &Arc<dyn BlockStore>, limit: Duration) -> RetryStore {
    let policy = Policy {
        deadline: limit,
        ..Policy::default()
    };
    RetryStore::new(Arc::clone(node), policy)
}

/// Sends an archive's blocks in batches; `note` gets each one's blocks and bytes.
pub(super) async fn send(
    mut reader: car::Reader<impl Read>,
    shown: &str,
    store: &RetryStore,
    mut note: impl FnMut(u64, u64),
) -> anyhow::Result<()> {
    let mut more = true;
    while more {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while more && batch.len() < BATCH_BLOCKS && bytes < BATCH_BYTES {
            let next = tokio::task::block_in_place(|| reader.next_block());
            match next.with_context(|| shown.to_owned())? {
                Some(block) => {
                    bytes += block.data.len();
                    batch.push(block);
                }
                None => more = false,
            }
        }
        store.put_many(&batch).await?;
        note(batch.len() as u64, bytes as u64);
    }
    Ok(())
}

fn open(file: &Path) -> anyhow::Result<car::Reader<BufReader<File>>> {
    let shown = || file.display().to_string();
    match File::open(file) {
        Ok(opened) => car::Reader::new(BufReader::new(opened)).with_context(shown),
        Err(fault) => fail!(Usage, "{}: {fault}", shown()),
    }
}

struct Found {
    roots: Vec<Cid>,
    /// The volume's root, if any.
    volume: Option<(Cid, Root)>,
}

fn look(file: &Path) -> anyhow::Result<Found> {
    let mut reader = open(file)?;
    let roots = reader.roots().to_vec();
    let mut found = None;
    while let Some(block) = reader.next_block()? {
        if roots.contains(&block.cid)
            && let Ok(root) = Root::decode(&block)
        {
            found = Some((block.cid, root));
        }
    }
    Ok(Found {
        roots,
        volume: found,
    })
}
