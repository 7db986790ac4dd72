//! Old roots and documents: pinned for a while longer, for readers that still hold them.

use cid::Cid;
use minicbor::{CborLen, Decode, Encode};

use crate::journal::record::CidBytes;
use crate::store::BlockStore;

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
struct Old {
    #[n(0)]
    cid: CidBytes,
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
    pub(super) fn due(&mut self, now_s: u64) -> Vec<Cid> {
        let mut due: Vec<Cid> = Vec::new();
        self.old.retain(|old| {
            let keep = now_s.saturating_sub(old.since_s) < GRACE_S;
            if !keep {
                due.push(old.cid.0);
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
            due.push(self.old.remove(closest).cid.0);
        }
        due
    }

    /// Releases what is due. What the node refuses is left pinned: it costs room, not data.
    pub(super) async fn release(&mut self, store: &dyn BlockStore, now_s: u64) {
        for cid in self.due(now_s) {
            if let Err(error) = store.unpin(&cid).await {
                tracing::warn!(%cid, %error, "an old root stays pinned");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::cid::node_cid;

    #[test]
    fn an_old_root_is_released_after_a_day_and_the_newest_never_early() {
        let mut grace = Grace::default();
        let cid = |n: u64| node_cid(&n.to_be_bytes());
        for n in 0..300 {
            grace.add(cid(n), n * 60);
        }
        let due = grace.due(300 * 60);
        assert_eq!(due.len(), 200);
        assert!(!due.contains(&cid(299)) && !due.contains(&cid(0)));
        assert_eq!(grace.due(300 * 60 + GRACE_S).len(), 100);
        assert_eq!(grace, Grace::default());
    }
}
