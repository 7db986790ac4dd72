//! Every node is a store of names: the suite that the embedded one passes, over the RPC.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use pxfs::clock::{Clock, SystemClock};
use pxfs::names::key::NameKey;
use pxfs::names::record::{BTNS_SEQUENCE, Network, Record};
use pxfs::names::rpc::RpcNames;
use pxfs::names::suite::{World, passes_in};
use pxfs::names::{NameError, NameStore, is_same};
use pxfs::rpc::{Client, Dialect, File, Login};

use prost::Message;

use tokio::time::timeout;

use crate::btfs::Btfs;
use crate::front::{Fault, Front};
use crate::kubo::Kubo;

/// Far beyond what a call takes, and far below for ever.
const SOON: Duration = Duration::from_secs(60);

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
    let key = NameKey::random();
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

/// A name that was published so, and is found so.
async fn published(store: Arc<RpcNames>, world: World) {
    let key = NameKey::random();
    let record = world.record(7, 1).sign(&key);
    let back = store.publish(&key.name(), &record).await;
    assert_eq!(back.as_ref(), Ok(&record));
}

/// A node with many peers takes minutes to tell all of them, and has the record all the while.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_counts_as_published_once_its_node_stores_it() {
    let for_ever = Some(Fault::Late(Duration::from_secs(3600)));
    let node = Kubo::start();
    let front = Front::of(node.url());
    let (world, store) = names(&front.url(), Dialect::Ipfs, Login::Open);
    let hasty = Arc::new(store.with_look(Duration::from_millis(100)));
    for calls in [&["name/put"][..], &["name/put", "routing/get"]] {
        front.set_for(calls, for_ever);
        timeout(SOON, published(Arc::clone(&hasty), world))
            .await
            .expect("it ends");
    }
    // One that says nothing of its disk alone is asked when its time is over.
    let node = Btfs::start();
    let front = Front::of(&node.url());
    let (world, store) = names(&front.url(), Dialect::Btfs, Login::Open);
    front.set_for(&["dht/put"], for_ever);
    let hasty = store.with_patience(Duration::from_secs(2));
    published(Arc::new(hasty), world).await;
}

/// Such a node takes half a minute for a name.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_lookup_of_40_s_is_waited_for() {
    let (ipfs, btfs) = (Kubo::start(), Btfs::start());
    let waits = [
        (ipfs.url().to_owned(), Dialect::Ipfs),
        (btfs.url(), Dialect::Btfs),
    ]
    .map(|(url, dialect)| async move {
        let front = Front::of(&url);
        let (world, store) = names(&front.url(), dialect, Login::Open);
        let key = NameKey::random();
        let record = world.record(7, 1).sign(&key);
        store.publish(&key.name(), &record).await.expect("told");
        let late = Fault::Late(Duration::from_secs(40));
        front.set_for(&["routing/get", "dht/get"], Some(late));
        assert_eq!(store.resolve(&key.name()).await, Ok(record), "{dialect:?}");
    });
    futures::future::join_all(waits).await;
}

/// A record that came by another node is what the node has on its own disk, too: that is what is looked at.
#[tokio::test]
async fn a_node_with_peers_stores_an_accepted_record_on_its_disk() {
    let (a, b) = (Kubo::start(), Kubo::start());
    a.connect(&b);
    let (world, store) = names(a.url(), Dialect::Ipfs, Login::Open);
    published(store, world).await;
}

/// The same record under another sequence: of a field that stands twice the last one counts.
fn forged(record: &[u8], mut sequence: u64) -> Vec<u8> {
    let mut bytes = [record, &[5 << 3]].concat();
    while sequence > 0x7f {
        bytes.push(sequence as u8 | 0x80);
        sequence >>= 7;
    }
    bytes.push(sequence as u8);
    bytes
}

/// Puts it at a node without asking whether it is one.
async fn put_unseen(url: &str, dialect: Dialect, name: &str, record: Vec<u8>) {
    let client = Client::new(url, dialect, Login::Open).expect("a client");
    let (call, route) = match dialect {
        Dialect::Btfs => ("dht/put", format!("/btns/{name}")),
        Dialect::Ipfs => ("routing/put", format!("/ipns/{name}")),
    };
    let args = [("arg", route.as_str()), ("allow-offline", "true")];
    let file = File::new(record.into());
    let put = client.call(call, &args, &[file], 1 << 20, SOON).await;
    put.expect("200");
}

/// What of a record BTFS nodes look at.
#[derive(Clone, PartialEq, Message)]
struct V1 {
    #[prost(bytes = "vec", tag = "1")]
    value: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    signature: Vec<u8>,
    #[prost(uint64, optional, tag = "3")]
    validity_kind: Option<u64>,
    #[prost(bytes = "vec", tag = "4")]
    validity: Vec<u8>,
    #[prost(uint64, tag = "5")]
    sequence: u64,
}

/// What IPFS nodes do.
#[derive(Clone, PartialEq, Message)]
struct V2 {
    #[prost(bytes = "vec", tag = "8")]
    signature: Vec<u8>,
    #[prost(bytes = "vec", tag = "9")]
    data: Vec<u8>,
}

/// The same record, with what anybody can put around it, and without what its node does not look at.
fn meddled(record: &[u8], dialect: Dialect) -> Vec<Vec<u8>> {
    let (mut all, stripped) = match dialect {
        Dialect::Btfs => (
            vec![],
            V1::decode(record).expect("a record").encode_to_vec(),
        ),
        Dialect::Ipfs => (
            // A sequence that is no number is a field that is not known.
            vec![[record, &[0x2a, 0]].concat()],
            V2::decode(record).expect("a record").encode_to_vec(),
        ),
    };
    let unknown: [&[u8]; 2] = [&[0x7a, 1, b'x'], &[0x7b, 0x42, 1, b'x', 0x7c]];
    all.extend(unknown.map(|more| [record, more].concat()));
    // Of a field that stands twice the last one counts.
    all.extend([[record, record].concat(), stripped]);
    all
}

/// Of records of one sequence and one end an IPFS node keeps the greater bytes, and a BTFS node any.
#[tokio::test]
async fn bytes_anyone_appends_to_an_ipns_record_do_not_hide_it() {
    let key = NameKey::random();
    let name = key.name();
    let node = Kubo::start();
    let (world, store) = names(node.url(), Dialect::Ipfs, Login::Open);
    let cases = meddled(&world.record(0, 1).sign(&key), Dialect::Ipfs).len();
    for case in 0..cases {
        let record = world.record(case as u64, 1).sign(&key);
        assert_eq!(store.publish(&name, &record).await.as_ref(), Ok(&record));
        let meddled = meddled(&record, Dialect::Ipfs).swap_remove(case);
        put_unseen(node.url(), Dialect::Ipfs, &name, meddled.clone()).await;
        // Else this shows nothing.
        assert_eq!(store.resolve(&name).await.as_ref(), Ok(&meddled), "{case}");
        let again = store.publish(&name, &record).await;
        assert_eq!(again, Ok(meddled), "it is what was published");
    }
}

/// A BTFS node takes a sequence that nobody signed: with rising ones, one forgery silences the name for good.
#[tokio::test]
async fn a_forged_sequence_neither_wins_a_btfs_name_nor_silences_it() {
    let key = NameKey::random();
    let node = Btfs::start();
    let (world, store) = names(&node.url(), Dialect::Btfs, Login::Open);
    let name = key.name();
    let end = |years: i64| world.record(BTNS_SEQUENCE, years).sign(&key);
    for years in [1, 2] {
        let record = end(years);
        assert_eq!(store.publish(&name, &record).await, Ok(record));
        // Whatever sequence is put on an older one: there is none above the highest.
        for sequence in [BTNS_SEQUENCE, BTNS_SEQUENCE - 1, 0] {
            let old = world.record(years as u64, years - 1);
            let old = Record {
                end_of_life: old.end_of_life + SignedDuration::from_hours(1),
                ..old
            };
            let forged = forged(&old.sign(&key), sequence);
            put_unseen(&node.url(), Dialect::Btfs, &name, forged).await;
            assert_eq!(store.resolve(&name).await, Ok(end(years)), "{sequence}");
        }
        // Nor does the very record, with more or less around it.
        for meddled in meddled(&end(years), Dialect::Btfs) {
            put_unseen(&node.url(), Dialect::Btfs, &name, meddled.clone()).await;
            assert_eq!(store.resolve(&name).await.as_ref(), Ok(&meddled));
            assert!(is_same(&name, &meddled, &end(years)));
        }
    }
    let replayed = store.publish(&name, &end(1)).await;
    assert!(
        matches!(replayed, Err(NameError::Stale { .. })),
        "{replayed:?}"
    );
    let third = end(3);
    assert_eq!(store.publish(&name, &third).await.as_ref(), Ok(&third));
    assert_eq!(store.resolve(&name).await, Ok(third));

    // What it is good for: a name whose sequences rise is taken back, and takes no honest record any more.
    let key = NameKey::random();
    let name = key.name();
    let rising = |n: u64| world.record(n, n as i64).sign(&key);
    for n in [1, 2] {
        assert_eq!(store.publish(&name, &rising(n)).await, Ok(rising(n)));
    }
    let forged = forged(&rising(1), BTNS_SEQUENCE);
    put_unseen(&node.url(), Dialect::Btfs, &name, forged.clone()).await;
    assert_eq!(store.resolve(&name).await, Ok(forged));
    let silenced = store.publish(&name, &rising(3)).await;
    assert!(silenced.is_err(), "{silenced:?}");
}
