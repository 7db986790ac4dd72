//! The gateway beside an IPFS node's RPC is a shorter way to its leaves: whatever it does, the block comes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pxfs::rpc::{Dialect, Login};
use pxfs::store::many::ManyStore;
use pxfs::store::rpc::RpcStore;
use pxfs::store::suite::unique_leaf;
use pxfs::store::{Block, BlockStore, BlockStoreExt, StoreError};

use crate::front::{Fault, Front};
use crate::kubo::Kubo;
use crate::stores;

/// Far beyond what any read may take.
const BOUND: Duration = Duration::from_secs(60);

/// A node, something before its gateway, and a reader of the node who verifies what comes.
struct World {
    node: Kubo,
    gateway: Front,
    /// The node itself, and what reads from it.
    rpc: Arc<RpcStore>,
    store: ManyStore,
}

impl World {
    fn new() -> Self {
        let node = Kubo::start();
        let gateway = Front::of(&node.gateway());
        let world = Self::reader(node, gateway);
        world.points_at(&world.gateway);
        world
    }

    fn reader(node: Kubo, gateway: Front) -> Self {
        let rpc = stores::store(node.url(), Dialect::Ipfs, Login::Open);
        Self {
            node,
            gateway,
            store: ManyStore::new(Arc::<RpcStore>::clone(&rpc), Vec::new()),
            rpc,
        }
    }

    /// The node says that its gateway is there.
    fn points_at(&self, front: &Front) {
        let port = front.url().rsplit(':').next().expect("a port").to_owned();
        let address = format!("/ip4/127.0.0.1/tcp/{port}");
        self.node.ipfs(&["config", "Addresses.Gateway", &address]);
    }

    async fn put(&self, size: usize) -> Block {
        let block = unique_leaf(size);
        let put = self.store.put_many(std::slice::from_ref(&block)).await;
        put.expect("put");
        block
    }

    async fn reads(&self, block: &Block, why: &str) {
        let got = tokio::time::timeout(BOUND, self.store.get(&block.cid)).await;
        let is_right = got.expect("it ends").is_ok_and(|data| data == block.data);
        assert!(is_right, "{why}");
    }

    /// Reads until the gateway was asked for what was read.
    async fn reads_beside(&self, block: &Block) {
        let path = format!("/ipfs/{}", block.cid);
        let begin = Instant::now();
        // The first time is the trial.
        let mut times = 0;
        while times < 2 {
            assert!(begin.elapsed() < BOUND, "the gateway is not used");
            self.reads(block, "without a fault").await;
            times += self.asked(&path);
        }
    }

    fn asked(&self, path: &str) -> usize {
        let asked = self.gateway.asked();
        asked.iter().filter(|asked| *asked == path).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_gateway_fault_prevents_a_read_and_a_faulty_one_is_skipped() {
    let rows = Fault::SILENT.into_iter().chain(Fault::WRONG);
    let more = [404, 412, 502, 301].map(Fault::Status);
    let rows = rows.chain(more).map(|fault| async move {
        let world = World::new();
        let block = world.put(300_000).await;
        world.reads_beside(&block).await;
        world.gateway.set(Some(fault));
        let why = format!("{fault:?}");
        world.reads(&block, &why).await;
        world.gateway.asked();
        for _ in 0..3 {
            world.reads(&block, &why).await;
        }
        let path = format!("/ipfs/{}", block.cid);
        assert_eq!(world.asked(&path), 0, "{why}: it is asked again");
    });
    // A node for each row, a few at one time.
    futures::StreamExt::collect::<Vec<()>>(futures::StreamExt::buffer_unordered(
        futures::stream::iter(rows),
        4,
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_gateway_is_skipped_after_a_read_was_abandoned() {
    let world = World::new();
    let block = world.put(1000).await;
    world.reads_beside(&block).await;
    world.gateway.set(Some(Fault::HangsBeforeItsAnswer));
    let path = format!("/ipfs/{}", block.cid);
    let mut asked = 0;
    let given_up = async {
        while asked == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            asked += world.asked(&path);
        }
    };
    tokio::select! {
        got = world.store.get(&block.cid) => panic!("{got:?}"),
        () = given_up => {}
    }
    world.reads(&block, "after another gave up").await;
    assert_eq!(world.asked(&path), 0, "it is asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_lying_from_the_start_or_of_another_node_is_distrusted() {
    let other = Kubo::start();
    for (fault, why) in [
        (None, "another node's"),
        (Some(Fault::WrongBytes), "a liar"),
        (Some(Fault::Status(404)), "no gateway"),
    ] {
        let world = World::reader(Kubo::start(), Front::of(&other.gateway()));
        world.gateway.set(fault);
        world.points_at(&world.gateway);
        let block = world.put(300_000).await;
        let path = format!("/ipfs/{}", block.cid);
        if why == "a liar" {
            let put = stores::store(other.url(), Dialect::Ipfs, Login::Open);
            let put = put.put_many(std::slice::from_ref(&block)).await;
            put.expect("put");
        }
        let (begin, mut asked) = (Instant::now(), 0);
        while asked == 0 {
            assert!(begin.elapsed() < BOUND, "{why}: it is not tried");
            world.reads(&block, why).await;
            asked += world.asked(&path);
        }
        for _ in 0..5 {
            world.reads(&block, why).await;
        }
        assert_eq!(asked + world.asked(&path), 1, "{why}");
    }
}

/// The gateway's word that a block is there counts for nothing where the node is asked whether it has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_only_the_gateway_has_counts_as_lost() {
    let world = World::new();
    let (block, lost) = (world.put(1000).await, world.put(1000).await);
    world.reads_beside(&block).await;
    let other = Kubo::start();
    let put = stores::store(other.url(), Dialect::Ipfs, Login::Open);
    let both = [block.clone(), lost.clone()];
    put.put_many(&both).await.expect("put");
    world.gateway.lead_to(&other.gateway());
    world.node.ipfs(&["block", "rm", &lost.cid.to_string()]);
    for _ in 0..2 {
        assert_eq!(world.rpc.has(&lost.cid).await, Ok(false));
        let got = world.rpc.get(&lost.cid).await;
        assert_eq!(got, Err(StoreError::Missing(lost.cid)));
        world.reads_beside(&block).await;
    }
    world.reads(&lost, "it is read all the same").await;
}
