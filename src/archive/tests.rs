//! Block commands on a slow, stalled or lossy node.

mod hostile;
mod lost;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::routing::post;
use cid::Cid;
use tokio::time::{sleep, timeout};

use super::car::{BATCH_BLOCKS, BATCH_BYTES, BATCH_LIMIT, bounded, send};
use super::fsck;
use crate::billing;
use crate::rpc::{Client, Dialect, Login};
use crate::run::tests::World;
use crate::store::fault::{Call, Fault, FaultStore};
use crate::store::hook::Hook;
use crate::store::memory::MemoryStore;
use crate::store::retry::Policy;
use crate::store::rpc::{Patience, RpcStore};
use crate::store::suite::unique_leaf;
use crate::store::{Block, BlockStore, BlockStoreExt, MAX_BLOCK_BYTES, StoreError, car};

const BOUND: Duration = Duration::from_secs(30);

/// An archive of so many batches, and a node without faults.
fn archive(batches: usize) -> (Vec<u8>, Arc<FaultStore>) {
    let blocks: Vec<Block> = (0..batches * BATCH_BLOCKS)
        .map(|_| unique_leaf(16))
        .collect();
    let mut bytes = car::header(&[blocks[0].cid]).to_vec();
    for block in &blocks {
        bytes.extend_from_slice(&car::head(block));
        bytes.extend_from_slice(&block.data);
    }
    (
        bytes,
        Arc::new(FaultStore::new(Arc::new(MemoryStore::new()))),
    )
}

/// Uploads an archive, each batch within `limit`; `note` hears of each.
async fn import(
    bytes: &[u8],
    node: &Arc<FaultStore>,
    limit: Duration,
    note: impl FnMut(u64, u64),
) -> anyhow::Result<()> {
    let reader = car::Reader::new(bytes).unwrap();
    let node: Arc<dyn BlockStore> = Arc::<FaultStore>::clone(node);
    let store = bounded(&node, limit);
    let sent = timeout(BOUND, send(reader, "archive", &store, note)).await;
    sent.expect("it ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_may_take_any_time_while_batches_keep_finishing() {
    let (bytes, node) = archive(5);
    let limit = Duration::from_secs(2);
    node.set(Call::PutMany, Fault::Delay(limit / 3), None);
    let mut blocks = 0;
    let sent = import(&bytes, &node, limit, |more, _| blocks += more).await;
    sent.unwrap();
    assert_eq!(blocks, 5 * BATCH_BLOCKS as u64);
    assert_eq!(node.block_count(), blocks);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_fails_if_a_batch_hangs_and_does_not_count_it() {
    let (bytes, node) = archive(3);
    let mut batches = 0;
    let sent = import(&bytes, &node, Duration::from_millis(500), |_, _| {
        batches += 1;
        node.set(Call::PutMany, Fault::Hang, None);
    });
    let error = sent.await.unwrap_err();
    assert!(
        matches!(error.downcast_ref(), Some(StoreError::Transient(_))),
        "{error:#}"
    );
    assert_eq!((batches, node.count(Call::PutMany)), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_for_a_moment_ends_no_import() {
    let (bytes, node) = archive(2);
    let reset = StoreError::Transient("connection reset".into());
    node.set(Call::PutMany, Fault::Before(reset), Some(2));
    let mut blocks = 0;
    let sent = import(&bytes, &node, BATCH_LIMIT, |more, _| blocks += more).await;
    sent.unwrap();
    assert_eq!(blocks, 2 * BATCH_BLOCKS as u64);
}

/// The slowest line tolerated: 8 KiB a second.
#[test]
fn the_largest_import_batch_fits_its_timeout_on_the_slowest_line() {
    let slowest_s = (BATCH_BYTES + MAX_BLOCK_BYTES) >> 13;
    assert!(BATCH_LIMIT > Duration::from_secs(slowest_s as u64));
}

/// A node that reports so many blocks while pinning, then stalls.
struct Pinning {
    steps: u64,
    ends: bool,
    asked: AtomicU64,
}

/// Its reporting interval.
const BEAT: Duration = Duration::from_millis(100);

/// Such a node, as far as pins go.
async fn pinning(steps: u64, ends: bool) -> (RpcStore, Arc<Pinning>) {
    async fn none() -> (StatusCode, &'static str) {
        let told = r#"{"Message":"path is not pinned","Code":0,"Type":"error"}"#;
        (StatusCode::INTERNAL_SERVER_ERROR, told)
    }
    async fn pin(Shared(node): Shared<Arc<Pinning>>, url: axum::http::Uri) -> Body {
        node.asked.fetch_add(1, Ordering::SeqCst);
        let query = url.query().unwrap_or_default().to_owned();
        let root = query
            .split(['=', '&'])
            .nth(1)
            .unwrap_or_default()
            .to_owned();
        let lines = futures::stream::unfold(0, move |step| {
            let (node, root) = (Arc::clone(&node), root.clone());
            async move {
                if step > node.steps && node.ends {
                    return None;
                }
                sleep(BEAT).await;
                let line = match step == node.steps && node.ends {
                    true => format!("{{\"Pins\":[\"{root}\"]}}\n"),
                    false => format!("{{\"Progress\":{}}}\n", step.min(node.steps)),
                };
                Some((Ok::<_, std::io::Error>(line), step + 1))
            }
        });
        Body::from_stream(lines)
    }
    let node = Arc::new(Pinning {
        steps,
        ends,
        asked: AtomicU64::new(0),
    });
    let app = Router::new()
        .route("/api/v0/pin/ls", post(none))
        .route("/api/v0/pin/add", post(pin))
        .with_state(Arc::clone(&node));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let client = Client::new(&url, Dialect::Ipfs, Login::Open).unwrap();
    let patience = Patience {
        pin: STILL,
        doubt: BOUND,
        ..Patience::default()
    };
    (RpcStore::new(client, patience), node)
}

/// The limits for a stalled pin and any other call.
const STILL: Duration = Duration::from_secs(2);

struct Slow {
    blocks: Arc<dyn BlockStore>,
    pins: RpcStore,
}

#[async_trait]
impl Hook for Slow {
    fn inner(&self) -> &dyn BlockStore {
        self.blocks.as_ref()
    }

    async fn pin(&self, root: &Cid, from: Option<&Cid>) -> Result<(), StoreError> {
        self.pins.pin(root, from).await
    }
}

/// `fsck --repair` of an unpinned volume on such a node; how often it was asked to pin.
async fn repair(steps: u64, ends: bool) -> (anyhow::Result<u64>, u64) {
    let world = World::new().await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    world.look(token).await;
    world.write("1", "file", b"bytes").unwrap();
    world.flush().await;
    let dir = world.end().await;
    let (pins, node) = pinning(steps, ends).await;
    let world = World::begin_with(dir, |parts| {
        let blocks = Arc::clone(&parts.node.store);
        parts.node.store = Arc::new(Slow { blocks, pins });
    })
    .await;
    let published = super::published::published(&world.ground, token)
        .await
        .unwrap();
    let store = &world.parts.node.store;
    store.unpin(&published.root.cid).await.unwrap();
    let policy = Policy {
        deadline: STILL,
        ..Policy::default()
    };
    let checked = fsck::check(&world.ground, token, true, policy, &|_, _| {});
    let checked = timeout(BOUND, checked).await.expect("it ends");
    world.end().await;
    let asked = node.asked.load(Ordering::SeqCst);
    (checked.map(|answer| answer.repaired), asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_waits_as_long_as_its_pin_makes_progress() {
    let steps = 3 * STILL.as_millis() / BEAT.as_millis() / 2;
    let (repaired, asked) = repair(steps as u64, true).await;
    assert_eq!((repaired.unwrap(), asked), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_whose_pin_stands_still_ends_and_says_so() {
    let (repaired, asked) = repair(3, false).await;
    let error = repaired.expect_err("it is not pinned");
    assert!(
        matches!(error.downcast_ref(), Some(StoreError::Transient(_))),
        "{error:#}"
    );
    assert_eq!(asked, 1, "what stands still was asked for again");
}
