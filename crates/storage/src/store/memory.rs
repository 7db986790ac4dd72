//! Blocks in memory, for tests.
//!
//! Invariant: passes the suite beside it; nothing survives the process.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;

use super::walk::{self, Source};
use super::{Block, BlockStore, Lookup, StoreError, check_bytes, links, those};

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blocks: HashMap<Cid, Bytes>,
    pins: HashSet<Cid>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of blocks.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.state().blocks.len()
    }

    /// All CIDs. A test's tool.
    #[must_use]
    pub fn all(&self) -> Vec<Cid> {
        self.state().blocks.keys().copied().collect()
    }

    /// Loses a block, as a damaged node does; whether it existed. A test's tool.
    pub fn lose(&self, cid: &Cid) -> bool {
        self.state().blocks.remove(cid).is_some()
    }

    /// Replaces the bytes under `cid` unchecked. A test's tool.
    pub fn damage(&self, cid: &Cid, data: Bytes) {
        self.state().blocks.insert(*cid, data);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one insert or remove, so the state is valid even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn get(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        let data = self.blocks.get(cid).ok_or(StoreError::Missing(*cid))?;
        check_bytes(cid, data)?;
        Ok(data.clone())
    }
}

impl Source for &State {
    fn links(&mut self, node: &Cid) -> Result<Vec<Cid>, StoreError> {
        links::links(node, &self.get(node)?)
    }

    fn has_leaf(&mut self, leaf: &Cid) -> Result<bool, StoreError> {
        Ok(self.blocks.contains_key(leaf))
    }
}

#[async_trait]
impl BlockStore for MemoryStore {
    async fn put(&self, blocks: &[Block], bundle: Option<&Block>) -> Result<bool, StoreError> {
        if bundle.is_some() {
            return Ok(false);
        }
        blocks.iter().try_for_each(Block::check)?;
        let mut state = self.state();
        for block in blocks {
            state.blocks.insert(block.cid, block.data.clone());
        }
        Ok(true)
    }

    async fn lookup(&self, cid: &Cid, _: Lookup) -> Result<Bytes, StoreError> {
        self.state().get(cid)
    }

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        Ok(self.state().blocks.contains_key(cid))
    }

    async fn pin_with(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        _: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.pins.contains(root) {
            return Ok(());
        }
        let from = from.filter(|cid| state.pins.contains(cid));
        walk::check_whole(root, from, &mut &*state)?;
        state.pins.insert(*root);
        Ok(())
    }

    async fn unpin(&self, root: &Cid) -> Result<(), StoreError> {
        self.state().pins.remove(root);
        Ok(())
    }

    async fn pinned(&self, among: Option<&[Cid]>) -> Result<Vec<Cid>, StoreError> {
        Ok(those(self.state().pins.iter().copied().collect(), among))
    }
}
