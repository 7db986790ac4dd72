//! Sizes requests by what the node takes in a short time.
//!
//! Invariant: a request has at least one block and at most [`MOST_BYTES`]; its timeout grows with
//! its size, so that a slow node is waited for and a silent one is not.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use tokio::sync::Semaphore;

use crate::store::{Block, StoreError};

const MOST_BYTES: usize = 8 << 20;
const MOST_BLOCKS: usize = 256;
const FIRST_BYTES: usize = 2 << 20;
/// The smallest limit for a slow node.
const LEAST_BYTES: usize = 64 << 10;
/// Requests in flight, of all callers.
const IN_FLIGHT: usize = 4;
/// A faster request lets the next grow, a slower one shrinks it.
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(15);
/// The slowest node tolerated: bounds the wait for a request's bytes.
const LEAST_BYTES_PER_S: usize = 8 << 10;

#[derive(Debug)]
pub(super) struct Pace {
    /// The next request's bytes.
    bytes: AtomicUsize,
    room: Semaphore,
    /// A request's timeout beside the time for its bytes.
    ask: Duration,
}

impl Pace {
    pub(super) fn new(ask: Duration) -> Self {
        Self {
            bytes: AtomicUsize::new(FIRST_BYTES),
            room: Semaphore::new(IN_FLIGHT),
            ask,
        }
    }

    /// Sends `blocks`, each once, by `put`, which gets its timeout. The first error ends it.
    pub(super) async fn send<F>(
        &self,
        blocks: &[Block],
        put: impl Fn(Vec<Block>, Duration) -> F,
    ) -> Result<(), StoreError>
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        let mut seen = HashSet::new();
        let all: Vec<Block> = blocks
            .iter()
            .filter(|block| seen.insert(block.cid))
            .cloned()
            .collect();
        let batches = cut(all, self.bytes.load(Ordering::Relaxed));
        let put = &put;
        let requests = batches.into_iter().map(|batch| async move {
            let _room = self.room.acquire().await;
            let bytes = batch.iter().map(|block| block.data.len()).sum();
            let begin = Instant::now();
            let result = put(batch, self.limit(bytes)).await;
            self.note(bytes, begin.elapsed(), result.is_ok());
            result
        });
        try_join_all(requests).await.map(drop)
    }

    /// Learns from a request.
    fn note(&self, bytes: usize, took: Duration, is_done: bool) {
        let now = self.bytes.load(Ordering::Relaxed);
        let next = match (is_done, took) {
            (false, _) => now / 2,
            (true, took) if took > LONG => now / 2,
            // Small ones say nothing of large ones.
            (true, took) if took < SHORT && bytes * 2 > now => now * 2,
            _ => now,
        };
        let next = next.clamp(LEAST_BYTES, MOST_BYTES);
        self.bytes.store(next, Ordering::Relaxed);
    }

    pub(super) fn limit(&self, bytes: usize) -> Duration {
        let slowest = u64::try_from(bytes / LEAST_BYTES_PER_S).unwrap_or(u64::MAX);
        self.ask + Duration::from_secs(slowest)
    }
}

/// Batches of at most `bytes` and [`MOST_BLOCKS`], or of one block.
fn cut(blocks: Vec<Block>, bytes: usize) -> Vec<Vec<Block>> {
    let mut batches: Vec<Vec<Block>> = Vec::new();
    let mut sum = 0;
    for block in blocks {
        sum += block.data.len();
        match batches.last_mut() {
            Some(batch) if sum <= bytes && batch.len() < MOST_BLOCKS => batch.push(block),
            _ => {
                sum = block.data.len();
                batches.push(vec![block]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite::unique_leaf;

    #[test]
    fn every_block_is_in_one_batch_and_no_batch_is_too_great() {
        let sizes = [900, 200, 10, 5000, 16, 16, 300, 600, 600];
        let blocks: Vec<Block> = sizes.iter().map(|size| unique_leaf(*size)).collect();
        let batches = cut(blocks.clone(), 1000);
        assert_eq!(batches.concat(), blocks);
        for batch in batches {
            let bytes: usize = batch.iter().map(|block| block.data.len()).sum();
            assert!(bytes <= 1000 || batch.len() == 1);
        }
        let many = vec![blocks[4].clone(); 1000];
        assert!(
            cut(many, MOST_BYTES)
                .iter()
                .all(|batch| batch.len() <= MOST_BLOCKS)
        );
    }

    #[test]
    fn batches_shrink_for_a_slow_node_and_grow_for_a_fast() {
        let pace = Pace::new(Duration::from_secs(30));
        let bytes = || pace.bytes.load(Ordering::Relaxed);
        for _ in 0..10 {
            pace.note(bytes(), Duration::from_millis(10), true);
        }
        assert_eq!(bytes(), MOST_BYTES);
        pace.note(10, Duration::from_secs(60), true);
        assert_eq!(bytes(), MOST_BYTES / 2);
        for _ in 0..20 {
            pace.note(10, Duration::ZERO, false);
        }
        assert_eq!(bytes(), LEAST_BYTES);
        pace.note(10, Duration::ZERO, true);
        assert_eq!(bytes(), LEAST_BYTES, "a small one says nothing");
        // Even the largest block has its time on a line of 10 KiB/s.
        assert!(pace.limit(1 << 20) > Duration::from_secs(105));
    }

    #[tokio::test]
    async fn a_block_that_is_given_twice_is_sent_once() {
        let pace = Pace::new(Duration::from_secs(30));
        let (a, b) = (unique_leaf(100), unique_leaf(100));
        let sent = std::sync::Mutex::new(Vec::new());
        let put = |batch: Vec<Block>, _: Duration| {
            let mut sent = sent.lock().unwrap();
            sent.extend(batch.iter().map(|block| block.cid));
            std::future::ready(Ok(()))
        };
        pace.send(&[a.clone(), b.clone(), a.clone()], put)
            .await
            .unwrap();
        assert_eq!(*sent.lock().unwrap(), [a.cid, b.cid]);
    }
}
