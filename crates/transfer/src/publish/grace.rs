//! Old roots and documents: pinned for a while longer, for readers that still hold them, and for as long as a file is
//! open here that has no name any more and lies over what they published of it.
//!
//! Invariant: nothing is let go of for its age before both clocks say so. The wall clock may jump, and the boot clock
//! knows of no other boot: what was added before this one is as old as the wall clock said when this one first looked.

use std::collections::HashSet;

use cid::Cid;
use minicbor::{CborLen, Decode, Encode};

use crate::clock::Clock;
use crate::journal::record::CidBytes;
use crate::store::{BlockStore, StoreError};
use crate::types::Ino;

/// How long an old root stays pinned, seconds, and how many at most.
const GRACE_S: u64 = 24 * 3600;
const MOST: usize = 100;

/// How many old roots are remembered that a node does not come to let go of.
const MOST_LATE: usize = 1000;

/// Pins that are to be released.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(super) struct Grace {
    /// Oldest first.
    #[n(0)]
    old: Vec<Old>,
    /// The boot that [`Old::since_boot_s`] is told in.
    #[n(1)]
    #[cbor(default)]
    boot: String,
    /// What open files lie over.
    #[n(2)]
    #[cbor(default)]
    held: Vec<Held>,
}

/// Open files that lost their last name between two roots: one of these has what was published of each.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
struct Held {
    #[n(0)]
    files: Vec<u64>,
    #[n(1)]
    roots: [CidBytes; 2],
}

/// One pin, and since when nothing of ours points at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(super) struct Old {
    #[n(0)]
    pub(super) cid: CidBytes,
    #[n(1)]
    since_s: u64,
    /// The same by the boot clock; before a boot that came later it is negative.
    #[n(2)]
    #[cbor(default)]
    since_boot_s: i64,
}

impl Old {
    /// Whether it held blocks until their commit was pinned, and is of no use since: there are as many as a commit has
    /// megabytes, and each one that stayed would hold what is deleted later.
    fn is_spent(&self) -> bool {
        self.since_s == 0
    }
}

/// An instant, by both clocks.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    /// Unix seconds.
    wall_s: u64,
    boot_s: i64,
    boot: String,
}

impl Moment {
    pub(super) fn now(clock: &dyn Clock) -> Self {
        Self {
            wall_s: clock.wall_s(),
            boot_s: seconds(clock.boottime().as_secs()),
            boot: clock.boot_id(),
        }
    }

    /// Whether nothing of ours has pointed at `old` for long enough.
    fn ends(&self, old: &Old) -> bool {
        self.wall_s.saturating_sub(old.since_s) >= GRACE_S
            && self.boot_s.saturating_sub(old.since_boot_s) >= seconds(GRACE_S)
    }
}

fn seconds(s: u64) -> i64 {
    i64::try_from(s).unwrap_or(i64::MAX)
}

impl Grace {
    /// `cid` is not the newest any more.
    pub(super) fn add(&mut self, cid: Cid, now: &Moment) {
        self.go_on_in(now);
        self.old.retain(|old| old.cid.0 != cid);
        self.old.push(Old {
            cid: CidBytes(cid),
            since_s: now.wall_s,
            since_boot_s: now.boot_s,
        });
    }

    /// `cid` is of no use from the next commit on.
    pub(super) fn add_spent(&mut self, cid: Cid) {
        self.old.retain(|old| old.cid.0 != cid);
        let old = Old {
            cid: CidBytes(cid),
            since_s: 0,
            since_boot_s: i64::MIN,
        };
        self.old.insert(0, old);
    }

    /// `open` are the files without a name now that `new` takes the place of the root `old`: neither is let go of while one
    /// of those is open that are not known yet.
    pub(super) fn hold(&mut self, open: &[Ino], old: Cid, new: Cid) {
        let mut open: HashSet<u64> = open.iter().map(|ino| ino.0).collect();
        for held in &mut self.held {
            held.files.retain(|file| open.remove(file));
        }
        self.held.retain(|held| !held.files.is_empty());
        if !open.is_empty() {
            self.held.push(Held {
                files: open.into_iter().collect(),
                roots: [old, new].map(CidBytes),
            });
        }
    }

    fn is_held(&self, cid: &CidBytes) -> bool {
        self.held.iter().any(|held| held.roots.contains(cid))
    }

    /// Tells all in the boot of `now`.
    fn go_on_in(&mut self, now: &Moment) {
        if self.boot != now.boot {
            for old in &mut self.old {
                let age_s = now.wall_s.saturating_sub(old.since_s);
                old.since_boot_s = now.boot_s.saturating_sub(seconds(age_s));
            }
            self.boot.clone_from(&now.boot);
        }
    }

    /// `cid` is in use again.
    pub(super) fn keep(&mut self, cid: &Cid) {
        self.old.retain(|old| old.cid.0 != *cid);
    }

    /// Takes out what is due: too old or, thinned from the middle of the past, too many.
    fn due(&mut self, now: &Moment) -> Vec<Old> {
        self.go_on_in(now);
        let is_held: Vec<bool> = self.old.iter().map(|old| self.is_held(&old.cid)).collect();
        let (mut due, mut left, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for (old, is_held) in self.old.drain(..).zip(is_held) {
            match (is_held, now.ends(&old)) {
                (true, _) => held.push(old),
                (false, true) => due.push(old),
                (false, false) => left.push(old),
            }
        }
        while left.len() > MOST {
            // The neighbour that is closest in time to the one before it says least.
            let closest = (1..left.len() - 1)
                .min_by_key(|&i| left[i + 1].since_s.saturating_sub(left[i - 1].since_s))
                .unwrap_or(0);
            due.push(left.remove(closest));
        }
        held.append(&mut left);
        self.old = held;
        due
    }

    /// Releases what is due, and tells `moves` of each. What the node does not come to now is due the next time; what it
    /// refuses is left pinned: it costs room, not data.
    pub(super) async fn release(&mut self, store: &dyn BlockStore, now: &Moment, moves: impl Fn()) {
        let mut due = self.due(now).into_iter();
        for old in due.by_ref() {
            let cid = old.cid.0;
            match store.unpin(&cid).await {
                Ok(()) => {}
                Err(error @ (StoreError::Transient(_) | StoreError::Away(_))) => {
                    tracing::debug!(%cid, %error, "an old root is not released yet");
                    self.old.insert(0, old);
                    break;
                }
                Err(error) => tracing::warn!(%cid, %error, "an old root stays pinned"),
            }
            moves();
        }
        self.old.splice(0..0, due);
        let roots = self.old.iter().filter(|old| !old.is_spent()).count();
        let mut many = roots.saturating_sub(MOST_LATE);
        self.old.retain(|old| {
            let stays = many == 0 || old.is_spent();
            if !stays {
                many -= 1;
                tracing::warn!(cid = %old.cid.0, "an old root stays pinned");
            }
            stays
        });
    }

    /// Takes out what a release has taken out of `before`, which was read from here and is `after` now. What was added
    /// meanwhile stays.
    pub(super) fn take_out(&mut self, before: &Self, after: &Self, now: &Moment) {
        self.go_on_in(now);
        let is_one = |old: &Old, of: &Self| {
            let same = |one: &Old| (one.cid, one.since_s) == (old.cid, old.since_s);
            of.old.iter().any(same)
        };
        self.old
            .retain(|old| !is_one(old, before) || is_one(old, after));
    }

    /// All that is pinned and will be let go of.
    #[cfg(test)]
    pub(super) fn cids(&self) -> impl Iterator<Item = Cid> {
        self.old.iter().map(|old| old.cid.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fault::Fault;
    use crate::journal::record::Record as _;
    use crate::pack::cid::node_cid;
    use crate::store::BlockStoreExt;
    use crate::store::fault::{Call, FaultStore};
    use crate::store::memory::MemoryStore;
    use crate::store::suite::unique_leaf;

    /// When both clocks say so.
    fn at(s: u64) -> Moment {
        Moment {
            wall_s: s,
            boot_s: seconds(s),
            boot: "a boot".to_owned(),
        }
    }

    #[test]
    fn an_old_root_is_released_after_a_day_and_the_newest_never_early() {
        let mut grace = Grace::default();
        let cid = |n: u64| node_cid(&n.to_be_bytes());
        for n in 0..300 {
            grace.add(cid(n), &at(n * 60));
        }
        let due = grace.due(&at(300 * 60));
        assert_eq!(due.len(), 200);
        let due: Vec<Cid> = due.iter().map(|old| old.cid.0).collect();
        assert!(!due.contains(&cid(299)) && !due.contains(&cid(0)));
        assert_eq!(grace.due(&at(300 * 60 + GRACE_S)).len(), 100);
        assert_eq!(grace.old, []);
    }

    #[test]
    fn a_root_that_an_open_file_lies_over_is_kept_however_old_and_however_many_there_are() {
        let mut grace = Grace::default();
        let cid = |n: u64| node_cid(&n.to_be_bytes());
        for n in 0..300 {
            // Each file is open for as long as all that follows, but for one.
            let open: &[u64] = match n {
                0..100 => &[],
                100..200 => &[7],
                200..250 => &[7, 8, 9],
                _ => &[7, 9],
            };
            let open: Vec<Ino> = open.iter().copied().map(Ino).collect();
            grace.add(cid(n), &at(n * 60));
            grace.hold(&open, cid(n), cid(n + 1));
            grace.due(&at(n * 60));
        }
        let late = at(300 * 60 + GRACE_S);
        assert_eq!(grace.due(&late).len(), 100);
        let kept: Vec<Cid> = grace.cids().collect();
        assert_eq!(kept, [100, 101, 200, 201].map(cid));
        grace.hold(&[Ino(9)], cid(300), cid(301));
        assert_eq!(grace.due(&late).len(), 2);
        grace.hold(&[], cid(301), cid(302));
        assert_eq!(grace.due(&late).len(), 2);
        assert_eq!((grace.old, grace.held), (vec![], vec![]));
    }

    #[test]
    fn old_roots_that_an_earlier_version_has_kept_are_let_go_of_by_this_one() {
        let cid = node_cid(b"old");
        let mut earlier = minicbor::Encoder::new(vec![1]);
        let encoded = earlier.array(1).and_then(|e| e.array(1)?.array(2));
        let encoded = encoded.and_then(|e| e.bytes(&cid.to_bytes())?.u64(1_000_000));
        encoded.unwrap();
        let mut grace = Grace::from_bytes(earlier.writer()).unwrap();
        assert_eq!(grace.due(&at(1_000_000 + GRACE_S - 1)), []);
        let due = grace.due(&at(1_000_000 + GRACE_S));
        assert_eq!(due.iter().map(|old| old.cid.0).collect::<Vec<_>>(), [cid]);
    }

    #[test]
    fn an_old_root_of_another_boot_is_as_old_as_the_wall_clock_says_then() {
        let cid = node_cid(b"old");
        let later = |wall_s: u64, boot_s: u64| Moment {
            wall_s,
            boot_s: seconds(boot_s),
            boot: "the next boot".to_owned(),
        };
        let mut grace = Grace::default();
        grace.add(cid, &at(1_000_000));
        let half = 1_000_000 + GRACE_S / 2;
        assert_eq!(grace.due(&later(half, 5)), []);
        // The other half passes, and one clock alone does not end it.
        assert_eq!(grace.due(&later(half, 5 + GRACE_S / 2)), []);
        assert_eq!(grace.due(&later(half + GRACE_S / 2, 5)), []);
        let both = later(half + GRACE_S / 2, 5 + GRACE_S / 2);
        assert_eq!(grace.due(&both).len(), 1);
        // A clock that stands before all of it lets it go a day later.
        grace.add(cid, &at(1_000_000));
        assert_eq!(grace.due(&later(0, 5)), []);
        assert_eq!(grace.due(&later(1_000_000 + GRACE_S, 5 + GRACE_S)).len(), 1);
    }

    #[tokio::test]
    async fn what_held_a_great_commit_is_released_however_much_a_node_was_busy_first() {
        let store = FaultStore::new(Arc::new(MemoryStore::new()));
        let mut grace = Grace::default();
        for n in 0..MOST_LATE + 200 {
            let block = unique_leaf(n);
            store.put_many(std::slice::from_ref(&block)).await.unwrap();
            store.pin(&block.cid, None).await.unwrap();
            grace.add_spent(block.cid);
        }
        let busy = StoreError::Transient("busy".to_owned());
        store.set(Call::Unpin, Fault::Before(busy), Some(1));
        for _ in 0..2 {
            grace.release(&store, &at(GRACE_S), || ()).await;
        }
        assert_eq!(store.pins().await.unwrap(), []);
    }

    #[tokio::test]
    async fn an_old_root_that_a_node_does_not_release_at_once_is_released_later() {
        let store = FaultStore::new(Arc::new(MemoryStore::new()));
        let mut grace = Grace::default();
        for n in 0..5 {
            let block = unique_leaf(n);
            store.put_many(std::slice::from_ref(&block)).await.unwrap();
            store.pin(&block.cid, None).await.unwrap();
            grace.add(block.cid, &at(0));
        }
        let busy = StoreError::Transient("busy".to_owned());
        store.set(Call::Unpin, Fault::Before(busy), Some(2));
        store.reset_counts();
        for _ in 0..2 {
            grace.release(&store, &at(GRACE_S), || ()).await;
            assert_eq!(store.pins().await.unwrap().len(), 5);
        }
        // A node that does not answer has no more than one call of a commit.
        assert_eq!(store.count(Call::Unpin), 2);
        grace.release(&store, &at(GRACE_S), || ()).await;
        assert_eq!(store.pins().await.unwrap(), []);
        assert_eq!(grace.old, []);
    }
}
