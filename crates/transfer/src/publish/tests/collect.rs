//! The room of old roots comes back, and nothing that somebody can reach goes with it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cid::Cid;

use super::rig::{Machine, Shared, second};
use crate::fault::Fault;
use crate::names::NameError;
use crate::names::fault::Call as NameCall;
use crate::pack::cid::{Kind, kind};
use crate::publish::PublishError;
use crate::publish::state::Head;
use crate::store::embedded::EmbeddedStore;
use crate::store::fault::Call;
use crate::store::hook::Hook;
use crate::store::memory::MemoryStore;
use crate::store::{Block, BlockStore, BlockStoreExt, StoreError, links};

const DAY: Duration = Duration::from_secs(24 * 3600 + 1);
const BIG: usize = 3 << 20;

/// Bytes that no other seed gives.
fn content(seed: u8) -> Vec<u8> {
    let chunk = |i: usize| [seed, (i >> 20) as u8, (i >> 12) as u8, (i >> 4) as u8];
    (0..BIG).map(|i| chunk(i)[i % 4]).collect()
}

async fn stored_bytes(shared: &Shared) -> u64 {
    let (store, _) = shared.node.as_ref().unwrap();
    store.usage().await.unwrap().block_bytes
}

#[tokio::test]
async fn room_of_what_was_overwritten_comes_back_and_all_that_is_left_can_be_read() {
    let shared = Shared::embedded();
    let (store, _) = shared.node.as_ref().unwrap();
    let machine = Machine::new(&shared);
    machine
        .put(machine.root, "kept", &[(0, &content(200))])
        .await;
    for seed in 0..4 {
        machine.put(machine.root, "f", &[(0, &content(seed))]).await;
        machine.commit().await.unwrap();
    }
    // In grace: readers of old roots still find everything.
    shared.clock.advance(Duration::from_secs(7200));
    store.collect(EmbeddedStore::GRACE).await.unwrap();
    assert!(stored_bytes(&shared).await > 5 * BIG as u64);
    shared.clock.advance(DAY);
    machine
        .put(machine.root, "small", &[(0, b"a change")])
        .await;
    machine.commit().await.unwrap();
    store.collect(EmbeddedStore::GRACE).await.unwrap();
    let left = stored_bytes(&shared).await;
    // The last but one root has only just left: its content is the newest one's.
    assert!(left < 2 * BIG as u64 + (1 << 20), "{left} bytes are left");
    let other = second(&shared).await;
    assert_eq!(other.tree().await, machine.tree().await);
}

#[tokio::test]
async fn a_collection_beside_a_commit_takes_nothing_that_the_commit_names() {
    let shared = Shared::embedded();
    let (store, _) = shared.node.as_ref().unwrap();
    let machine = Machine::new(&shared);
    machine.put(machine.root, "f", &[(0, &content(1))]).await;
    machine.commit().await.unwrap();
    machine.put(machine.root, "f", &[(0, &content(2))]).await;
    machine.put(machine.root, "g", &[(0, &content(3))]).await;
    // Everything is put, and the pin does not come: the worst moment.
    machine.store.set(Call::Pin, Fault::Hang, None);
    let committing = machine.commit();
    let collecting = async {
        while machine.store.count(Call::Pin) < 3 {
            tokio::task::yield_now().await;
        }
        store.collect(EmbeddedStore::GRACE).await.unwrap();
        machine.store.clear();
    };
    let (committed, ()) = tokio::join!(committing, collecting);
    committed.unwrap();
    shared.clock.advance(DAY);
    let other = second(&shared).await;
    assert_eq!(other.tree().await, machine.tree().await);
}

/// By a deletion, and by another file that took its name: who has it open reads on, however much later, and from a node
/// that collects all that it may.
#[tokio::test]
async fn a_file_that_is_open_without_a_name_can_be_read_for_as_long_as_it_is_open() {
    let shared = Shared::embedded();
    let (store, _) = shared.node.as_ref().unwrap();
    let machine = Machine::new(&shared);
    let root = machine.root;
    machine.put(root, "deleted", &[(0, &content(1))]).await;
    machine.put(root, "replaced", &[(0, &content(2))]).await;
    machine.put(root, "other", &[(0, b"other")]).await;
    machine.commit().await.unwrap();
    // Nothing of it is here.
    let machine = machine.crash(&shared);
    let mut open = Vec::new();
    for name in ["deleted", "replaced"] {
        let attr = machine.call(|d| d.lookup(root, name.as_bytes())).await;
        let ino = attr.unwrap().ino;
        open.push((ino, machine.drive.open(ino, 0).unwrap().fh));
    }
    machine.call(|d| d.unlink(root, b"deleted")).await.unwrap();
    let renamed = machine.call(|d| d.rename(root, b"other", root, b"replaced", 0));
    renamed.await.unwrap();
    for round in 0..4_u8 {
        machine.put(root, "new", &[(0, &[round])]).await;
        machine.commit().await.unwrap();
        shared.clock.advance(DAY);
        store.collect(EmbeddedStore::GRACE).await.unwrap();
    }
    for ((ino, fh), seed) in open.iter().zip([1, 2]) {
        let read = machine.call(|d| d.read(*ino, *fh, 0, BIG as u32)).await;
        assert!(read.unwrap() == content(seed), "{seed}");
    }
    // Closed, they go: the first with the second still open does not.
    for (closed, (ino, fh)) in open.iter().enumerate() {
        assert!(stored_bytes(&shared).await > 2 * BIG as u64, "{closed}");
        machine.drive.release(*ino, *fh);
        machine.drive.forget(*ino, || false);
        machine.put(root, "new", &[(0, &[9, closed as u8])]).await;
        machine.commit().await.unwrap();
        shared.clock.advance(DAY);
        store.collect(EmbeddedStore::GRACE).await.unwrap();
    }
    assert!(stored_bytes(&shared).await < BIG as u64);
}

/// The last commit that is the head.
fn sequence_of(machine: &Machine) -> u64 {
    let head: Option<Head> = machine.volume.meta("head").unwrap();
    head.map_or(0, |head| head.sequence)
}

/// A commit whose name is lost on its way, after all that was to be finished before it; what it was cut off with is
/// not settled.
async fn cut_off(machine: &Machine, finished: u64) {
    let lost = || NameError::Transient("the line broke".to_owned());
    let losing = async {
        while sequence_of(machine) < finished {
            tokio::task::yield_now().await;
        }
        (machine.names).set(NameCall::Publish, Fault::After(lost()), None);
    };
    let (committed, ()) = tokio::join!(machine.commit(), losing);
    assert!(committed.is_err());
}

#[tokio::test]
async fn what_a_file_lies_over_stays_until_the_file_is_published_whatever_was_cut_off_in_between() {
    let shared = Shared::embedded();
    let (store, _) = shared.node.as_ref().unwrap();
    let machine = Machine::new(&shared);
    machine.put(machine.root, "f", &[(0, &content(1))]).await;
    machine.commit().await.unwrap();
    // Each life is cut off between the name and settling, and the next one begins days later.
    machine.put(machine.root, "f", &[(100, b"one")]).await;
    cut_off(&machine, 1).await;
    let machine = machine.crash(&shared);
    shared.clock.advance(DAY);
    machine.put(machine.root, "f", &[(200, b"two")]).await;
    cut_off(&machine, 2).await;
    let machine = machine.crash(&shared);
    shared.clock.advance(DAY);
    machine.put(machine.root, "f", &[(300, b"three")]).await;
    cut_off(&machine, 3).await;
    let machine = machine.crash(&shared);
    shared.clock.advance(DAY);
    store.collect(EmbeddedStore::GRACE).await.unwrap();
    machine.commit().await.unwrap();
    let mut expected = content(1);
    for (at, bytes) in [(100, &b"one"[..]), (200, b"two"), (300, b"three")] {
        expected[at..at + bytes.len()].copy_from_slice(bytes);
    }
    let tree = machine.tree().await;
    assert!(tree["/f"].content == expected);
    assert_eq!(second(&shared).await.tree().await, tree);
}

/// A node that collects what no pin holds as soon as it has stored it, as one does that collects again and again.
struct Collecting {
    inner: Arc<MemoryStore>,
    /// What each bundle holds; `None` where the node cannot pin as it stores.
    held: Option<Mutex<HashMap<Cid, Vec<Cid>>>>,
}

impl Collecting {
    fn holds(&self) -> HashSet<Cid> {
        let held = self.held.iter();
        held.flat_map(|held| {
            held.lock()
                .unwrap()
                .values()
                .flatten()
                .copied()
                .collect::<Vec<_>>()
        })
        .collect()
    }

    async fn collect(&self) {
        let (mut reached, mut left) = (self.holds(), self.inner.pins().await.unwrap());
        while let Some(cid) = left.pop() {
            let data = self.inner.get(&cid).await;
            reached.insert(cid);
            if let (Ok(Kind::Node), Ok(data)) = (kind(&cid), data) {
                left.extend(links(&cid, &data).unwrap());
            }
        }
        for cid in self.inner.all() {
            if !reached.contains(&cid) {
                self.inner.lose(&cid);
            }
        }
    }
}

#[async_trait]
impl Hook for Collecting {
    fn inner(&self) -> &dyn BlockStore {
        self.inner.as_ref()
    }

    async fn put_many(&self, blocks: &[Block]) -> Result<(), StoreError> {
        self.inner.put_many(blocks).await?;
        self.collect().await;
        Ok(())
    }

    async fn put_held(&self, blocks: &[Block], bundle: &Block) -> Result<bool, StoreError> {
        let Some(held) = &self.held else {
            return Ok(false);
        };
        let cids = blocks.iter().map(|block| block.cid).collect();
        held.lock().unwrap().insert(bundle.cid, cids);
        Hook::put_many(self, blocks).await?;
        Ok(true)
    }

    async fn unpin(&self, root: &Cid) -> Result<(), StoreError> {
        if let Some(held) = &self.held {
            held.lock().unwrap().remove(root);
        }
        self.inner.unpin(root).await?;
        self.collect().await;
        Ok(())
    }
}

/// A machine whose node is such a one.
fn beside_a_collection(shared: &Shared, holds: bool) -> (Machine, Arc<Collecting>) {
    let mut machine = Machine::new(shared);
    let node = Arc::new(Collecting {
        inner: Arc::clone(&shared.blocks),
        held: holds.then(Mutex::default),
    });
    machine.context.node.store = Arc::<Collecting>::clone(&node);
    (machine, node)
}

#[tokio::test]
async fn what_is_written_is_published_beside_a_collection_that_begins_again_and_again() {
    let shared = Shared::new();
    let (machine, node) = beside_a_collection(&shared, true);
    machine.put(machine.root, "f", &[(0, &content(1))]).await;
    let mut errors = Vec::new();
    while let Err(error) = machine.commit().await {
        errors.push(error);
        assert!(errors.len() < 3, "{errors:?}");
    }
    assert_eq!(second(&shared).await.tree().await, machine.tree().await);
    // What held the blocks until then is let go of: root and usage metadata are left.
    assert!(node.holds().is_empty());
    assert_eq!(shared.blocks.pins().await.unwrap().len(), 2);
    // It goes on so, at the first try.
    machine.put(machine.root, "g", &[(0, &content(2))]).await;
    machine.commit().await.unwrap();
    assert!(node.holds().is_empty());
    assert_eq!(second(&shared).await.tree().await, machine.tree().await);
}

#[tokio::test]
async fn where_a_node_can_hold_nothing_beside_its_collection_it_is_said_what_to_stop() {
    let shared = Shared::new();
    let (machine, _) = beside_a_collection(&shared, false);
    machine.put(machine.root, "f", &[(0, b"f")]).await;
    machine.commit().await.unwrap_err();
    let error = machine.commit().await.unwrap_err();
    assert!(matches!(error, PublishError::Unverified(_)), "{error:?}");
    assert!(error.to_string().contains("`repo gc`"), "{error}");
}

/// Also what a crash has left of it.
#[tokio::test]
async fn what_held_the_blocks_of_a_commit_that_came_to_no_end_is_let_go_of_by_the_next_one() {
    let shared = Shared::new();
    let (machine, node) = beside_a_collection(&shared, true);
    machine.put(machine.root, "f", &[(0, &content(1))]).await;
    machine.commit().await.unwrap_err();
    let away = NameError::Transient("away".to_owned());
    machine
        .names
        .set(NameCall::Publish, Fault::Before(away), None);
    machine.commit().await.unwrap_err();
    assert!(!node.holds().is_empty());
    let mut machine = machine.crash(&shared);
    machine.context.node.store = Arc::<Collecting>::clone(&node);
    machine.put(machine.root, "g", &[(0, b"g")]).await;
    let mut tries = 0;
    while let Err(error) = machine.commit().await {
        tries += 1;
        assert!(tries < 3, "{error}");
    }
    assert!(node.holds().is_empty());
    assert_eq!(second(&shared).await.tree().await, machine.tree().await);
}
