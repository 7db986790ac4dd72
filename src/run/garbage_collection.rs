//! Collects the embedded node's garbage once a day.
//!
//! Invariant: blocks that a commit has put and not pinned yet stay, however long that takes and
//! after a crash: a collection leaves whatever is younger than the oldest of them.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::store::StoreError;
use crate::store::embedded::{Collected, EmbeddedStore};
use crate::tokens::MountedContracts;

/// Between two collections.
const PERIOD: Duration = Duration::from_secs(24 * 3600);
/// Before the first check: mounting comes first.
const FIRST_LOOK: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_secs(60);
/// After a failed one, which has walked all pins for nothing.
const AFTER_FAILURE: Duration = Duration::from_secs(3600);

pub(crate) async fn run(
    store: EmbeddedStore,
    clock: Arc<dyn Clock>,
    tokens: Arc<MountedContracts>,
) {
    let mut pause = FIRST_LOOK;
    loop {
        tokio::time::sleep(pause).await;
        let since: Vec<Option<u64>> = tokens
            .all()
            .iter()
            .map(|live| live.publishing.unpinned_since_s())
            .collect();
        pause = match collect(&store, &*clock, &since).await {
            Ok(None) => LOOK,
            Ok(Some(collected)) => {
                for live in tokens.all() {
                    live.publishing.forget_receipts();
                }
                let Collected {
                    removed_count,
                    removed_bytes,
                } = collected;
                tracing::info!(
                    removed_count,
                    removed_bytes,
                    "the node's garbage is collected"
                );
                LOOK
            }
            Err(error) => {
                tracing::warn!(%error, "the node's garbage is not collected");
                AFTER_FAILURE
            }
        };
    }
}

/// Collects if due; `None` if not, or if unpinned blocks are unknown. `since` says for each token
/// since when its commits have unpinned blocks on the node.
async fn collect(
    store: &EmbeddedStore,
    clock: &dyn Clock,
    since: &[Option<u64>],
) -> Result<Option<Collected>, StoreError> {
    let oldest_s = since.iter().flatten().min().copied();
    if oldest_s == Some(0) || !store.is_collection_due(PERIOD).await? {
        return Ok(None);
    }
    let now_s = clock.wall_s();
    // A second more, because file times are coarser.
    let busy_s = oldest_s.map_or(0, |oldest_s| now_s.saturating_sub(oldest_s) + 1);
    let grace = EmbeddedStore::GRACE.max(Duration::from_secs(busy_s));
    store.collect(grace).await.map(Some)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tempfile::TempDir;

    use super::*;
    use crate::clock::ManualClock;
    use crate::pack::cid::leaf_cid;
    use crate::store::BlockStoreExt;
    use crate::store::{Block, BlockStore};

    const DAY_S: u64 = 24 * 3600;
    const NOW_S: u64 = 1_800_000_000;

    fn store() -> (TempDir, Arc<ManualClock>, EmbeddedStore) {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(
            i64::try_from(NOW_S).unwrap() * 1_000_000_000,
        ));
        let store = EmbeddedStore::open(dir.path(), Arc::<ManualClock>::clone(&clock)).unwrap();
        (dir, clock, store)
    }

    async fn put(store: &EmbeddedStore, data: &'static [u8]) -> cid::Cid {
        let block = Block {
            cid: leaf_cid(data),
            data: Bytes::from_static(data),
        };
        store.put_many(std::slice::from_ref(&block)).await.unwrap();
        block.cid
    }

    #[tokio::test]
    async fn room_comes_back_once_a_day_and_not_more_often() {
        let (dir, clock, store) = store();
        let old = put(&store, b"old").await;
        clock.advance(Duration::from_secs(7200));
        let done = collect(&store, &*clock, &[None]).await.unwrap().unwrap();
        assert_eq!((done.removed_count, done.removed_bytes), (1, 3));
        assert!(!store.has(&old).await.unwrap());
        // Also after a restart.
        drop(store);
        let store = EmbeddedStore::open(dir.path(), Arc::<ManualClock>::clone(&clock)).unwrap();
        clock.advance(Duration::from_secs(DAY_S - 1));
        assert_eq!(collect(&store, &*clock, &[]).await, Ok(None));
        clock.advance(Duration::from_secs(1));
        assert!(collect(&store, &*clock, &[]).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn an_upload_that_takes_days_keeps_what_it_has_sent() {
        let (_dir, clock, store) = store();
        let garbage = put(&store, b"garbage").await;
        clock.advance(Duration::from_secs(10));
        let sent = put(&store, b"sent").await;
        clock.advance(Duration::from_secs(3 * DAY_S));
        let since = [None, Some(NOW_S + 10), Some(NOW_S + DAY_S)];
        assert!(collect(&store, &*clock, &since).await.unwrap().is_some());
        assert!(store.has(&sent).await.unwrap());
        assert!(!store.has(&garbage).await.unwrap());
    }

    #[tokio::test]
    async fn nothing_is_collected_while_an_interrupted_commit_waits() {
        let (_dir, clock, store) = store();
        let sent = put(&store, b"sent").await;
        clock.advance(Duration::from_secs(3 * DAY_S));
        assert_eq!(collect(&store, &*clock, &[Some(0), None]).await, Ok(None));
        assert!(store.has(&sent).await.unwrap());
    }
}
