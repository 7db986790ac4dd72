//! A node that is slow or far away: the sampler comes round all the same, through large files too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;
use tokio::time::timeout;

use super::damage::{CHUNK, SHORT, losses};
use super::rig::{Machine, Shared};
use crate::pack::cid::leaf_cid;
use crate::publish::receipt::Receipts;
use crate::publish::sample::Sampler;
use crate::store::fault::Call;
use crate::store::hook::Hook;
use crate::store::{BlockStore, BlockStoreExt, StoreError};

use std::time::Duration;

/// A node that answers so many questions about blocks, and then no more.
struct Slow {
    inner: Arc<dyn BlockStore>,
    left: AtomicUsize,
}

impl Slow {
    async fn take(&self) {
        let left = |left: usize| left.checked_sub(1);
        if self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left)
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Hook for Slow {
    fn inner(&self) -> &dyn BlockStore {
        self.inner.as_ref()
    }

    async fn get(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        self.take().await;
        self.inner.get(cid).await
    }
    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        self.take().await;
        self.inner.has(cid).await
    }
}

/// A machine without a cache, and the node without the last chunk of its one file, of 24.
async fn without_the_end(shared: &Shared) -> Machine {
    let machine = Machine::new(shared);
    let (begin, end) = (vec![1; 23 * CHUNK], vec![2; CHUNK]);
    let parts: [(u64, &[u8]); 2] = [(0, &begin), (23 * CHUNK as u64, &end)];
    machine.put(machine.root, "large", &parts).await;
    machine.commit().await.unwrap();
    let machine = machine.crash(shared);
    assert!(shared.blocks.lose(&leaf_cid(&end)));
    machine
}

#[tokio::test]
async fn a_loss_at_the_end_of_a_large_file_is_found_though_no_step_comes_to_its_end() {
    let shared = Shared::new();
    let mut machine = without_the_end(&shared).await;
    let slow = Arc::new(Slow {
        inner: Arc::clone(&machine.context.node.store),
        left: AtomicUsize::new(0),
    });
    machine.context.node.store = Arc::<Slow>::clone(&slow);
    let mut sampler = Sampler::begin(&machine.volume, Receipts::new());
    for _ in 0..100 {
        // Above the tree, on the way, and a few of the 24.
        slow.left.store(8, Ordering::SeqCst);
        let _ = timeout(SHORT, sampler.step(&machine.context)).await;
        if !losses(&machine).is_empty() {
            return;
        }
    }
    panic!("it never comes so far");
}

#[tokio::test]
async fn a_step_that_has_gone_on_for_long_ends_and_the_next_one_goes_on_behind_it() {
    let shared = Shared::new();
    let machine = without_the_end(&shared).await;
    let mut sampler = Sampler::begin(&machine.volume, Receipts::new());
    sampler.patience = Duration::ZERO;
    let asked = || machine.store.count(Call::Has) + machine.store.count(Call::Get);
    let mut steps = 0;
    while losses(&machine).is_empty() {
        machine.store.reset_counts();
        sampler.step(&machine.context).await.unwrap();
        assert!(asked() < 16, "{} questions in a step", asked());
        steps += 1;
        assert!(steps < 100, "it never comes so far");
    }
    assert!(steps >= 24, "{steps} steps");
}
