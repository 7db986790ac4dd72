//! Old roots and documents: pinned for a while longer, for readers that still hold them.

use cid::Cid;
use minicbor::{CborLen, Decode, Encode};

use crate::journal::record::CidBytes;
use crate::store::{BlockStore, StoreError};

/// How long an old root stays pinned, seconds, and how many at most.
const GRACE_S: u64 = 24 * 3600;
const MOST: usize = 100;

/// Pins that are to be released.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(super) struct Grace {
    /// Oldest first.
    #[n(0)]
    old: Vec<Old>,
}

/// One pin, and since when nothing of ours points at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(super) struct Old {
    #[n(0)]
    pub(super) cid: CidBytes,
    #[n(1)]
    since_s: u64,
}

impl Grace {
    /// `cid` is not the newest any more.
    pub(super) fn add(&mut self, cid: Cid, now_s: u64) {
        self.old.retain(|old| old.cid.0 != cid);
        self.old.push(Old {
            cid: CidBytes(cid),
            since_s: now_s,
        });
    }

    /// `cid` is in use again.
    pub(super) fn keep(&mut self, cid: &Cid) {
        self.old.retain(|old| old.cid.0 != *cid);
    }

    /// Takes out what is due: too old or, thinned from the middle of the past, too many.
    pub(super) fn due(&mut self, now_s: u64) -> Vec<Old> {
        let mut due: Vec<Old> = Vec::new();
        self.old.retain(|old| {
            let keep = now_s.saturating_sub(old.since_s) < GRACE_S;
            if !keep {
                due.push(*old);
            }
            keep
        });
        while self.old.len() > MOST {
            // The neighbour that is closest in time to the one before it says least.
            let closest = (1..self.old.len() - 1)
                .min_by_key(|i| {
                    self.old[i + 1]
                        .since_s
                        .saturating_sub(self.old[i - 1].since_s)
                })
                .unwrap_or(0);
            due.push(self.old.remove(closest));
        }
        due
    }

    /// Releases what is due, and tells `moves` of each. What the node does not come to now is due the next time; what it
    /// refuses is left pinned: it costs room, not data.
    pub(super) async fn release(&mut self, store: &dyn BlockStore, now_s: u64, moves: impl Fn()) {
        let mut due = self.due(now_s).into_iter();
        for old in due.by_ref() {
            let cid = old.cid.0;
            match store.unpin(&cid).await {
                Ok(()) => {}
                Err(error @ StoreError::Transient(_)) => {
                    tracing::debug!(%cid, %error, "an old root is not released yet");
                    self.old.insert(0, old);
                    break;
                }
                Err(error) => tracing::warn!(%cid, %error, "an old root stays pinned"),
            }
            moves();
        }
        self.old.splice(0..0, due);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fault::Fault;
    use crate::pack::cid::node_cid;
    use crate::store::fault::{Call, FaultStore};
    use crate::store::memory::MemoryStore;
    use crate::store::suite::unique_leaf;

    #[test]
    fn an_old_root_is_released_after_a_day_and_the_newest_never_early() {
        let mut grace = Grace::default();
        let cid = |n: u64| node_cid(&n.to_be_bytes());
        for n in 0..300 {
            grace.add(cid(n), n * 60);
        }
        let due = grace.due(300 * 60);
        assert_eq!(due.len(), 200);
        let due: Vec<Cid> = due.iter().map(|old| old.cid.0).collect();
        assert!(!due.contains(&cid(299)) && !due.contains(&cid(0)));
        assert_eq!(grace.due(300 * 60 + GRACE_S).len(), 100);
        assert_eq!(grace, Grace::default());
    }

    #[tokio::test]
    async fn an_old_root_that_a_node_does_not_release_at_once_is_released_later() {
        let store = FaultStore::new(Arc::new(MemoryStore::new()));
        let mut grace = Grace::default();
        for n in 0..5 {
            let block = unique_leaf(n);
            store.put_many(std::slice::from_ref(&block)).await.unwrap();
            store.pin(&block.cid, None).await.unwrap();
            grace.add(block.cid, 0);
        }
        let busy = StoreError::Transient("busy".to_owned());
        store.set(Call::Unpin, Fault::Before(busy), Some(2));
        store.reset_counts();
        for _ in 0..2 {
            grace.release(&store, GRACE_S, || ()).await;
            assert_eq!(store.pins().await.unwrap().len(), 5);
        }
        // A node that does not answer has no more than one call of a commit.
        assert_eq!(store.count(Call::Unpin), 2);
        grace.release(&store, GRACE_S, || ()).await;
        assert_eq!(store.pins().await.unwrap(), []);
        assert_eq!(grace, Grace::default());
    }
}
