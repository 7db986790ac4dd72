//! What an entry of the tree needs, asked for block by block.
//!
//! Invariant: a block that the node has not got is put again from the cache, or as another node has it; where neither
//! has it, its loss is noted. Called by the sampler's round.

use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use tokio::time::timeout;

use super::{PATIENCE, Sampler};
use crate::fetch::remake::Of;
use crate::fetch::source::{Held, answer_or_needed, blocking};
use crate::fs::{FsError, LostBlock};
use crate::journal::record::CidBytes;
use crate::pack::cid as form;
use crate::pack::entry::{Entry, Kind};
use crate::pack::{PackError, chunk, dagpb, file};
use crate::publish::PublishError;
use crate::publish::commit::Context;
use crate::publish::heal::is_there;
use crate::publish::pending::Doubted;
use crate::store::{Block, BlockStoreExt, StoreError};
use crate::types::Ino;

/// What a block is needed for.
#[derive(Clone, Copy)]
pub(super) struct Need {
    pub(super) ino: Ino,
    /// The content or tree.
    pub(super) of: Cid,
    /// Length of the content.
    pub(super) size: Option<u64>,
}

impl Sampler {
    /// Puts a lost block again.
    pub(super) async fn put_again(
        &self,
        context: &Context,
        block: Block,
    ) -> Result<(), PublishError> {
        let cid = block.cid;
        context.node.store.put_many(&[block]).await?;
        self.receipts.note(std::iter::once(cid));
        tracing::info!(block = %cid, "a lost block is put again");
        Ok(())
    }

    /// Asks for the blocks of an entry's own. False when there are more than this step may ask for.
    pub(super) async fn entry(
        &mut self,
        context: &Context,
        entry: &Entry,
    ) -> Result<bool, PublishError> {
        match entry.inode.as_ref().map(|inode| &inode.kind) {
            Some(Kind::Symlink(target)) => {
                let (block, _) = dagpb::symlink(target)?;
                self.left = self.left.saturating_sub(1);
                if !self.has(context, &block.cid).await? {
                    context.node.store.put_many(&[block]).await?;
                }
                Ok(true)
            }
            Some(Kind::File {
                content,
                size,
                holes,
            }) if !content.damaged => {
                let first = self.place.chunk;
                let runs = || holes.runs().iter().filter(|run| run.end > first + 1);
                // Of a hole all leaves are one.
                let first = match runs().next() {
                    Some(run) if run.start <= first => run.end - 1,
                    _ => first,
                };
                let next_hole = runs().map(|run| run.start + 1).find(|end| *end > first);
                let count = chunk::count(*size);
                let end = count
                    .min(first.saturating_add(self.left.max(1)))
                    .min(next_hole.unwrap_or(u64::MAX));
                let need = Need {
                    ino: entry.ino,
                    of: content.cid,
                    size: Some(*size),
                };
                if !self.file(context, need, first..end).await? || self.place.chunk >= count {
                    self.place.chunk = 0;
                }
                Ok(self.place.chunk == 0)
            }
            _ => Ok(true),
        }
    }

    /// Asks for some chunks of a file, and the nodes above them: until the step has gone on for long enough, the
    /// place moves with each. False at the first that is lost.
    pub(super) async fn file(
        &mut self,
        context: &Context,
        need: Need,
        chunks: std::ops::Range<u64>,
    ) -> Result<bool, PublishError> {
        let mut held = Held::new();
        let size = need.size.unwrap_or(0);
        let ask = |held: &Held| file::leaves(&need.of, size, chunks.clone(), held);
        let leaves = match self.solve(context, need, &mut held, ask).await {
            Err(PublishError::Local(FsError::Lost(lost))) => {
                self.note(context, need, &lost).await;
                return Ok(false);
            }
            other => other?,
        };
        for node in held.keys() {
            if !self.ask(context, need, node, None).await? {
                return Ok(false);
            }
        }
        for (chunk, cid) in leaves {
            if !self.ask(context, need, &cid, Some(chunk)).await? {
                return Ok(false);
            }
            self.place.chunk = chunk + 1;
            if self.is_late() {
                break;
            }
        }
        Ok(true)
    }

    /// Calls `ask` with the nodes in `held` until it needs no more of them.
    pub(super) async fn solve<T>(
        &self,
        context: &Context,
        need: Need,
        held: &mut Held,
        ask: impl Fn(&Held) -> Result<T, PackError>,
    ) -> Result<T, PublishError> {
        loop {
            let needed = match answer_or_needed(ask(held), held)? {
                Ok(answer) => return Ok(answer),
                Err(needed) => needed,
            };
            for cid in needed {
                let node = timeout(PATIENCE, self.node(context, need, &cid)).await;
                held.insert(cid, node.unwrap_or(Err(FsError::TimedOut.into()))?);
            }
        }
    }

    /// A node as the cache has it, or the storage node: that is not to search its network, in which each of many that are
    /// lost would take its time. One that it has lost is put again where that can be.
    async fn node(&self, context: &Context, need: Need, cid: &Cid) -> Result<Bytes, PublishError> {
        let source = context.node.fetcher.source();
        if let Some(data) = source.cached(cid, cid, None, None).await? {
            return Ok(data);
        }
        let data = match context.node.store.get_local(cid).await {
            Ok(data) if form::verify(cid, &data).is_ok() => {
                let (cache, cid, data) = (Arc::clone(&source.cache), *cid, data.clone());
                blocking(move || {
                    cache.put_node(&cid, &data);
                    data
                })
                .await?
            }
            Ok(_) | Err(StoreError::Missing(_) | StoreError::Corrupt(..)) => {
                let of = Of::what(need.ino, need.of, need.size, None);
                let found = self.elsewhere.or_find(context, cid, None, of).await;
                let Ok(Some(data)) = found else {
                    return Err(FsError::Lost(Box::new(missing(cid, None))).into());
                };
                let block = Block {
                    cid: *cid,
                    data: data.clone(),
                };
                self.put_again(context, block).await?;
                data
            }
            Err(error) => return Err(error.into()),
        };
        Ok(data)
    }

    /// Asks for one block; one of eight is read. What is lost is put again, or noted: then false.
    pub(super) async fn ask(
        &mut self,
        context: &Context,
        need: Need,
        cid: &Cid,
        chunk: Option<u64>,
    ) -> Result<bool, PublishError> {
        self.left = self.left.saturating_sub(1);
        let mut dice = [0];
        let _ = getrandom::fill(&mut dice);
        let there = match dice[0] < 32 && !self.sweeps {
            true => is_there(context.node.store.as_ref(), cid).await?,
            false => self.has(context, cid).await?,
        };
        if there {
            return Ok(true);
        }
        let source = context.node.fetcher.source();
        let data = source.cached(cid, &need.of, need.size, chunk).await?;
        let of = Of::what(need.ino, need.of, need.size, chunk);
        if let Ok(Some(data)) = self.elsewhere.or_find(context, cid, data, of).await {
            self.put_again(context, Block { cid: *cid, data }).await?;
            return Ok(true);
        }
        self.note(context, need, &missing(cid, chunk)).await;
        Ok(false)
    }

    /// Whether the node says that it has a block; one that is in doubt is read.
    pub(super) async fn has(&self, context: &Context, cid: &Cid) -> Result<bool, StoreError> {
        let store = &context.node.store;
        let is_doubted = |doubted: &Doubted| doubted.sample.contains(&CidBytes(*cid));
        match self.doubted.as_ref().is_some_and(is_doubted) {
            true => is_there(store.as_ref(), cid).await,
            false => store.has(cid).await,
        }
    }

    /// Notes a loss. The directories that lead to it come here before: its entry is to be written.
    pub(super) async fn note(&mut self, context: &Context, need: Need, lost: &LostBlock) {
        self.found += 1;
        self.lossy = true;
        for dir in self.above.iter().filter(|dir| **dir != need.ino) {
            let volume = Arc::clone(&context.volume);
            if let Err(error) = context.node.fetcher.load_directory(volume, *dir).await {
                tracing::debug!(%error, "the directory of what is lost cannot be read");
                break;
            }
        }
        context.volume.note_lost(need.ino, &need.of, lost);
    }
}

fn missing(cid: &Cid, chunk: Option<u64>) -> LostBlock {
    LostBlock {
        cid: *cid,
        chunk,
        why: format!("block {cid} is missing"),
    }
}
