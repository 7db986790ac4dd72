//! A node that writes down what it has done, and when: so it can be had as it was in any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;

use crate::clock::ManualClock;
use crate::journal::simulated::Power;
use crate::names::memory::MemoryNames;
use crate::names::{NameError, NameStore};
use crate::publish::tests::rig::Shared;
use crate::store::hook::Hook;
use crate::store::memory::MemoryStore;
use crate::store::{Block, BlockStore, BlockStoreExt, StoreError, links};

/// What a node did.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Put(Vec<Block>),
    Pin(Cid),
    Unpin(Cid),
    Name(Vec<u8>),
}

/// What a node has in one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub(super) blocks: BTreeMap<Cid, Bytes>,
    pub(super) pins: BTreeSet<Cid>,
    pub(super) record: Option<Vec<u8>>,
    /// Blocks that it has not any more, though it said so.
    pub(super) lost: BTreeSet<Cid>,
}

impl Held {
    /// Goes on by one act.
    pub(super) fn play(&mut self, act: &Act) {
        match act {
            Act::Put(blocks) => {
                for block in blocks {
                    self.lost.remove(&block.cid);
                    self.blocks.insert(block.cid, block.data.clone());
                }
            }
            Act::Pin(root) => drop(self.pins.insert(*root)),
            Act::Unpin(root) => drop(self.pins.remove(root)),
            Act::Name(record) => self.record = Some(record.clone()),
        }
    }

    /// All that there is of what `roots` lead to.
    pub(super) fn below(&self, roots: impl IntoIterator<Item = Cid>) -> BTreeSet<Cid> {
        let mut left: Vec<Cid> = roots.into_iter().collect();
        let mut below = BTreeSet::new();
        while let Some(cid) = left.pop() {
            if let Some(data) = self.blocks.get(&cid)
                && below.insert(cid)
            {
                left.extend(links(&cid, data).expect("a block of ours"));
            }
        }
        below
    }

    /// What no pin holds goes.
    pub(super) fn collect(&mut self) {
        let held = self.below(self.pins.iter().copied());
        self.blocks.retain(|cid, _| held.contains(cid));
    }

    /// A block goes that it should have.
    pub(super) fn lose(&mut self, cid: Cid) {
        self.lost.insert(cid);
    }

    /// A node that has just that.
    pub(super) async fn node(&self, clock: Arc<ManualClock>, name: &str) -> Shared {
        let blocks = MemoryStore::new();
        for (cid, data) in &self.blocks {
            blocks.damage(cid, data.clone());
        }
        for pin in &self.pins {
            blocks.pin(pin, None).await.expect("all of what is pinned");
        }
        for cid in &self.lost {
            blocks.lose(cid);
        }
        let names = MemoryNames::new(Arc::<ManualClock>::clone(&clock));
        if let Some(record) = &self.record {
            names.damage(name, record.clone());
        }
        Shared {
            clock,
            blocks: Arc::new(blocks),
            node: None,
            front: None,
            elsewhere: None,
            names: Arc::new(names),
        }
    }
}

/// A node that is watched.
pub(super) struct Watched {
    power: Arc<Power>,
    blocks: Arc<MemoryStore>,
    names: Arc<MemoryNames>,
    /// In order, each with how much the disks had done when it came.
    acts: Mutex<Vec<(usize, Act)>>,
}

impl Watched {
    pub(super) fn new(shared: &Shared, power: &Arc<Power>) -> Arc<Self> {
        Arc::new(Self {
            power: Arc::clone(power),
            blocks: Arc::clone(&shared.blocks),
            names: Arc::clone(&shared.names),
            acts: Mutex::default(),
        })
    }

    /// What it has done, and when.
    pub(super) fn acts(&self) -> Vec<(usize, Act)> {
        let acts = self.acts.lock().unwrap_or_else(PoisonError::into_inner);
        acts.clone()
    }

    fn note(&self, now: usize, act: Act) {
        let mut acts = self.acts.lock().unwrap_or_else(PoisonError::into_inner);
        acts.push((now, act));
    }
}

#[async_trait]
impl Hook for Watched {
    fn inner(&self) -> &dyn BlockStore {
        self.blocks.as_ref()
    }

    async fn put_many(&self, blocks: &[Block]) -> Result<(), StoreError> {
        let now = self.power.now();
        self.blocks.put_many(blocks).await?;
        self.note(now, Act::Put(blocks.to_vec()));
        Ok(())
    }

    async fn pin(&self, root: &Cid, from: Option<&Cid>) -> Result<(), StoreError> {
        let now = self.power.now();
        self.blocks.pin(root, from).await?;
        self.note(now, Act::Pin(*root));
        Ok(())
    }

    async fn unpin(&self, root: &Cid) -> Result<(), StoreError> {
        let now = self.power.now();
        self.blocks.unpin(root).await?;
        self.note(now, Act::Unpin(*root));
        Ok(())
    }
}

#[async_trait]
impl NameStore for Watched {
    async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError> {
        let now = self.power.now();
        let held = self.names.publish(name, record).await?;
        self.note(now, Act::Name(record.to_vec()));
        Ok(held)
    }

    async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError> {
        self.names.resolve(name).await
    }
}
