//! Every node is a store of names: the suite that the embedded one passes, over the RPC.

use std::sync::Arc;

use pxfs::clock::{Clock, SystemClock};
use pxfs::names::key::NameKey;
use pxfs::names::record::{BTNS_SEQUENCE, Network};
use pxfs::names::rpc::RpcNames;
use pxfs::names::suite::{World, passes_in};
use pxfs::names::{NameError, NameStore};
use pxfs::rpc::{Client, Dialect, Login};

use crate::btfs::Btfs;
use crate::kubo::Kubo;

/// The names of the node at `url`, and what it expects of records.
pub(crate) fn names(url: &str, dialect: Dialect, login: Login) -> (World, Arc<RpcNames>) {
    let client = Client::new(url, dialect, login).expect("a client");
    let world = World {
        network: match dialect {
            Dialect::Btfs => Network::Btfs,
            Dialect::Ipfs => Network::Ipfs,
        },
        now_ns: SystemClock.wall_ns(),
    };
    (
        world,
        Arc::new(RpcNames::new(client, Arc::new(SystemClock))),
    )
}

#[tokio::test]
async fn an_ipfs_node_passes() {
    let node = Kubo::start();
    let (world, store) = names(node.url(), Dialect::Ipfs, Login::Open);
    passes_in(world, store).await;
}

#[tokio::test]
async fn a_btfs_node_passes() {
    let node = Btfs::start();
    let (world, store) = names(&node.url(), Dialect::Btfs, Login::Open);
    passes_in(world, store).await;
}

#[tokio::test]
async fn a_name_is_still_there_after_the_node_was_killed() {
    let key = NameKey::random().expect("a key");
    let mut node = Kubo::start();
    let (world, store) = names(node.url(), Dialect::Ipfs, Login::Open);
    let record = world.record(7, 1).sign(&key);
    assert_eq!(store.publish(&key.name(), &record).await.map(drop), Ok(()));
    node.kill();
    node.run();
    let (_, store) = names(node.url(), Dialect::Ipfs, Login::Open);
    assert_eq!(store.resolve(&key.name()).await.as_ref(), Ok(&record));

    let mut node = Btfs::start();
    let (world, store) = names(&node.url(), Dialect::Btfs, Login::Open);
    let record = world.record(7, 1).sign(&key);
    assert_eq!(store.publish(&key.name(), &record).await.map(drop), Ok(()));
    node.run();
    assert_eq!(store.resolve(&key.name()).await, Ok(record));
}

/// A BTFS node takes a sequence that nobody signed: with rising ones, one forgery would silence the
/// name for good.
#[tokio::test]
async fn a_forged_sequence_neither_wins_a_btfs_name_nor_silences_it() {
    let key = NameKey::random().expect("a key");
    let node = Btfs::start();
    let (world, store) = names(&node.url(), Dialect::Btfs, Login::Open);
    let name = key.name();
    let first = world.record(BTNS_SEQUENCE, 1);
    let second = world.record(BTNS_SEQUENCE, 2);
    assert_eq!(
        store.publish(&name, &first.sign(&key)).await.map(drop),
        Ok(())
    );
    assert_eq!(
        store.publish(&name, &second.sign(&key)).await.map(drop),
        Ok(())
    );
    // The first one again: with the sequence at its highest there is none above to forge.
    let replayed = store.publish(&name, &first.sign(&key)).await;
    assert!(
        matches!(replayed, Err(NameError::Stale { .. })),
        "{replayed:?}"
    );
    assert_eq!(store.resolve(&name).await, Ok(second.sign(&key)));
    let third = world.record(BTNS_SEQUENCE, 3).sign(&key);
    assert_eq!(store.publish(&name, &third).await.map(drop), Ok(()));
    assert_eq!(store.resolve(&name).await, Ok(third));
}
