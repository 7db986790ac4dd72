//! A node that is away, slow, unwell or lying is told as what it is: nothing counts as stored that is
//! not, nothing as lost that is there, no wrong byte is given out, no call takes longer than its bound;
//! and when the node is well again, the same client goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cid::Cid;
use pxfs::names::key::NameKey;
use pxfs::names::record::{BTNS_SEQUENCE, Record};
use pxfs::names::{NameError, NameStore};
use pxfs::rpc::{Client, Dialect, File, Login, RpcError};
use pxfs::store::retry::{Policy, RetryStore};
use pxfs::store::rpc::{Patience, RpcStore};
use pxfs::store::suite::{unique_leaf, unique_tree};
use pxfs::store::{Block, BlockStore, BlockStoreExt, StoreError, car};
use tokio::time::timeout;

use crate::btfs::Btfs;
use crate::front::{Fault, Front};
use crate::kubo::Kubo;
use crate::names::names;
use crate::stores::{self, client};

/// Every fault that the stores of blocks and of names can meet in any call, once.
fn faults() -> impl Iterator<Item = Fault> {
    let more = [Fault::Status(404), Fault::Status(502)];
    Fault::SILENT.into_iter().chain(Fault::WRONG).chain(more)
}

/// How long a node is waited for that does this: briefly where all that time goes by without an answer.
fn patience(fault: Fault) -> Patience {
    let is_waited_for =
        Fault::SILENT.contains(&fault) || matches!(fault, Fault::Slow(_) | Fault::HangsInItsCall);
    let answer = match is_waited_for {
        true => Duration::from_secs(1),
        false => ANSWER,
    };
    Patience {
        ask: answer,
        network: Duration::from_millis(300),
        pin: answer,
        doubt: Duration::from_millis(100),
    }
}

/// More than a node that answers at once needs, on a loaded machine.
const ANSWER: Duration = Duration::from_secs(10);
/// Far beyond what any call may take by its patience, and far below for ever.
const BOUND: Duration = Duration::from_secs(60);

/// Whether a fault leaves what is small, and has no CID in it, as it is.
fn may_do(fault: Fault) -> bool {
    matches!(fault, Fault::Slow(_) | Fault::WrongCid)
}

/// What can be told of a node that does this: that another try may help, that none does.
fn told(fault: Fault, error: &StoreError) -> bool {
    match fault {
        Fault::Status(401 | 403 | 404) => matches!(error, StoreError::Permanent(_)),
        Fault::WrongBytes | Fault::WrongCid | Fault::Truncated => {
            matches!(
                error,
                StoreError::Transient(_) | StoreError::Away(_) | StoreError::Corrupt(..)
            )
        }
        _ => matches!(error, StoreError::Transient(_) | StoreError::Away(_)),
    }
}

async fn within<T>(fault: Fault, call: impl Future<Output = T>) -> T {
    let ended = timeout(BOUND, call).await;
    ended.unwrap_or_else(|_| panic!("{fault:?}: the call does not end"))
}

/// One row of the table: `store` goes through the front, `direct` does not.
async fn bears(fault: Fault, front: &Front, client: Client, direct: &RpcStore) {
    let tree = unique_tree(2);
    let (root, leaf) = (tree[tree.len() - 1].cid, &tree[0]);
    let hasty = RpcStore::new(client.clone(), patience(fault));
    let store = RpcStore::new(client, stores::PATIENCE);
    store.put_many(&tree).await.expect("put");
    store.pin(&root, None).await.expect("pinned");
    front.set(Some(fault));

    match within(fault, hasty.get(&leaf.cid)).await {
        Ok(data) => assert!(data == leaf.data, "{fault:?}"),
        Err(error) => assert!(told(fault, &error), "{fault:?}: {error:?}"),
    }
    match within(fault, hasty.has(&leaf.cid)).await {
        Ok(there) => assert!(there, "{fault:?}: it is there"),
        Err(error) => assert!(told(fault, &error), "{fault:?}: {error:?}"),
    }
    let new = unique_tree(2);
    let new_root = new[new.len() - 1].cid;
    match within(fault, hasty.put_many(&new)).await {
        Ok(()) => {
            for block in &new {
                assert_eq!(direct.has(&block.cid).await, Ok(true), "{fault:?}");
            }
        }
        Err(error) => assert!(told(fault, &error), "{fault:?}: {error:?}"),
    }
    let other = unique_tree(2);
    let other_root = other[other.len() - 1].cid;
    direct.put_many(&other).await.expect("put");
    match within(fault, hasty.pin(&other_root, Some(&root))).await {
        Ok(()) => {
            let pins = direct.pins().await.expect("pins");
            assert!(pins.contains(&other_root), "{fault:?}");
        }
        Err(error) => assert!(told(fault, &error), "{fault:?}: {error:?}"),
    }
    match within(fault, hasty.pins()).await {
        // A list of nothing, or one that ends after a line, is an answer too: a commit misses its own root in it.
        Ok(pins) => assert!(
            pins.contains(&root)
                || matches!(
                    fault,
                    Fault::Empty | Fault::Truncated | Fault::WrongBytes | Fault::WrongCid
                ),
            "{fault:?}"
        ),
        Err(error) => assert!(told(fault, &error), "{fault:?}: {error:?}"),
    }
    match within(fault, hasty.all_pinned(&[root])).await {
        Ok(pinned) => assert!(pinned, "{fault:?}"),
        Err(error) => assert!(told(fault, &error), "{fault:?}: {error:?}"),
    }

    front.set(None);
    store.put_many(&new).await.expect("put when it is well");
    store.pin(&new_root, Some(&root)).await.expect("pinned");
    for block in tree.iter().chain(&new) {
        assert_eq!(
            store.get(&block.cid).await,
            Ok(block.data.clone()),
            "{fault:?}"
        );
    }
    for root in [root, new_root, other_root] {
        store.unpin(&root).await.expect("unpinned");
    }
    // Too much for a slow line is told as that, and not as lost.
    if let Fault::Slow(_) = fault {
        let great = unique_leaf(200_000);
        let put = direct.put_many(std::slice::from_ref(&great)).await;
        put.expect("put");
        front.set(Some(fault));
        match within(fault, hasty.get(&great.cid)).await {
            Ok(data) => assert!(data == great.data),
            Err(error) => assert!(
                matches!(error, StoreError::Transient(_) | StoreError::Away(_)),
                "{error:?}"
            ),
        }
        front.set(None);
    }
}

/// The same for a name.
async fn names_bear(fault: Fault, front: &Front, dialect: Dialect) {
    let (world, store) = names(&front.url(), dialect, Login::Open);
    let hasty = store.with_patience(patience(fault).ask);
    let key = NameKey::random();
    let name = key.name();
    let signed = |sequence, years| {
        let mut record = world.record(sequence, years);
        if let Dialect::Btfs = dialect {
            record.sequence = BTNS_SEQUENCE;
        }
        record.sign(&key)
    };
    let (first, second) = (signed(1, 2), signed(2, 3));
    store.publish(&name, &first).await.expect("published");
    front.set(Some(fault));
    let is_told = |error: &NameError| match fault {
        Fault::Status(401 | 403 | 404) => matches!(error, NameError::Permanent(_)),
        Fault::WrongBytes | Fault::WrongCid | Fault::Truncated => {
            matches!(error, NameError::Transient(_) | NameError::Corrupt(..))
        }
        _ => matches!(error, NameError::Transient(_)),
    };
    match within(fault, hasty.resolve(&name)).await {
        // Around what is signed a byte may be another one: what counts of a record is what it names, and until when.
        Ok(record) => {
            let says = |bytes: &[u8]| {
                let record = Record::verify(&name, bytes).expect("a record");
                (record.cid, record.end_of_life)
            };
            assert_eq!(says(&record), says(&first), "{fault:?}");
            let may_differ = matches!(fault, Fault::WrongBytes | Fault::WrongCid);
            assert!(may_differ || record == first, "{fault:?}");
        }
        Err(error) => assert!(is_told(&error), "{fault:?}: {error:?}"),
    }
    let published = within(fault, hasty.publish(&name, &second)).await;
    match &published {
        Ok(_) => assert!(may_do(fault) || fault == Fault::WrongBytes, "{fault:?}"),
        Err(error) => assert!(is_told(error), "{fault:?}: {error:?}"),
    }
    front.set(None);
    let published = store.publish(&name, &second).await;
    assert_eq!(published.as_ref(), Ok(&second), "{fault:?}");
    assert_eq!(store.resolve(&name).await, Ok(second), "{fault:?}");
}

async fn bears_all(url: &str, dialect: Dialect) {
    // Each fault has its own front, so that all are borne at one time.
    let rows = faults().chain(Fault::CUT).map(|fault| async move {
        let front = Front::of(url);
        let direct = RpcStore::new(client(url, dialect, Login::Open), stores::PATIENCE);
        let through = client(&front.url(), dialect, Login::Open);
        bears(fault, &front, through, &direct).await;
        names_bear(fault, &front, dialect).await;
    });
    futures::future::join_all(rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_ipfs_node_does_nothing_is_lost_nor_told_as_lost() {
    let node = Kubo::start();
    bears_all(node.url(), Dialect::Ipfs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_btfs_node_does_nothing_is_lost_nor_told_as_lost() {
    let node = Btfs::start();
    bears_all(&node.url(), Dialect::Btfs).await;
    assert!(node.is_alive());
}

/// What is sent in one call.
struct Upload {
    path: &'static str,
    args: [(&'static str, &'static str); 1],
    files: Vec<File>,
    /// Its last block.
    last: Cid,
}

/// 16 MiB, which do not fit between here and there.
fn great_upload(dialect: Dialect) -> Upload {
    let blocks: Vec<Block> = (0..16).map(|_| unique_leaf(1 << 20)).collect();
    let last = blocks[15].cid;
    let (path, args, files) = match dialect {
        Dialect::Ipfs => {
            let blocks = blocks.iter();
            let pieces = blocks.flat_map(|block| [car::head(block), block.data.clone()]);
            let pieces = std::iter::once(car::header(&[last])).chain(pieces);
            let archive = File::of(pieces.collect());
            ("dag/import", [("stats", "true")], vec![archive])
        }
        Dialect::Btfs => {
            let files = blocks.iter().map(|block| File::new(block.data.clone()));
            ("block/put", [("format", "raw")], files.collect())
        }
    };
    Upload {
        path,
        args,
        files,
        last,
    }
}

/// How often the node was asked for an upload since the last time.
fn uploads(front: &Front) -> usize {
    let asked = front.asked();
    let uploads = asked
        .iter()
        .filter(|path| path.ends_with("dag/import") || path.ends_with("block/put"));
    uploads.count()
}

/// A node that stops in the middle of what it is sent has not taken the rest, and will say nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_cut_halfway_ends_in_time_and_is_sent_again() {
    let (ipfs, btfs) = (Kubo::start(), Btfs::start());
    let nodes = [
        (ipfs.url().to_owned(), Dialect::Ipfs),
        (btfs.url(), Dialect::Btfs),
    ];
    let rows = nodes
        .iter()
        .flat_map(|node| Fault::CUT.map(|fault| (node, fault)));
    let rows = rows.map(|((url, dialect), fault)| async move {
        let front = Front::of(url);
        let direct = RpcStore::new(client(url, *dialect, Login::Open), stores::PATIENCE);
        let through = client(&front.url(), *dialect, Login::Open);
        let store = RpcStore::new(through.clone(), patience(fault));
        store.put_many(&[unique_leaf(10)]).await.expect("put");

        front.set(Some(fault));
        let great = great_upload(*dialect);
        let limit = Duration::from_secs(2);
        let call = through.call(great.path, &great.args, &great.files, 1 << 20, limit);
        let told = within(fault, call).await.expect_err("it is not all there");
        match fault {
            Fault::HangsInItsCall => assert_eq!(told, RpcError::TimedOut(limit)),
            _ => assert!(matches!(told, RpcError::Broken(_)), "{fault:?}: {told:?}"),
        }
        assert_eq!(direct.has(&great.last).await, Ok(false), "{fault:?}");

        let policy = Policy {
            deadline: BOUND,
            ..Policy::default()
        };
        let patient = RetryStore::new(Arc::new(store), policy);
        let tree = unique_tree(4);
        uploads(&front);
        let again = async {
            let mut asked = 0;
            // A connection that breaks is tried again within a try.
            while asked < 3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
                asked += uploads(&front);
            }
        };
        let put = patient.put_many(&tree);
        tokio::pin!(put);
        tokio::select! {
            put = &mut put => panic!("{fault:?}: {put:?}"),
            () = within(fault, again) => {}
        }
        front.set(None);
        assert_eq!(within(fault, put).await, Ok(()), "{fault:?}");
        for block in &tree {
            assert_eq!(direct.has(&block.cid).await, Ok(true), "{fault:?}");
        }
    });
    futures::future::join_all(rows).await;
    assert!(btfs.is_alive());
}

/// A node that has not got a block asks others: while it is away in that, the block is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_away_while_it_searches_has_lost_nothing() {
    let node = Kubo::start();
    let absent = unique_leaf(100).cid;
    let rows = faults().map(|fault| {
        let patience = Patience {
            network: ANSWER,
            ..patience(fault)
        };
        let front = Arc::new(Front::of(node.url()));
        let store = RpcStore::new(client(&front.url(), Dialect::Ipfs, Login::Open), patience);
        async move {
            // The first call says that it is not on the node's disk; the fault meets the search.
            let setting = Arc::clone(&front);
            let set = tokio::task::spawn_blocking(move || {
                let (mut asked, begin) = (0, Instant::now());
                while asked < 2 && begin.elapsed() < BOUND {
                    asked += setting.asked().len();
                    std::thread::sleep(Duration::from_millis(5));
                }
                setting.set(Some(fault));
            });
            let got = timeout(BOUND, store.get(&absent)).await.expect("it ends");
            set.await.expect("set");
            let is_told = match fault {
                // The node itself says that it has not found the block.
                Fault::Slow(_) | Fault::WrongCid => {
                    matches!(got, Err(StoreError::Missing(_) | StoreError::Transient(_)))
                }
                _ => got.as_ref().is_err_and(|error| told(fault, error)),
            };
            assert!(is_told, "{fault:?}: {got:?}");
        }
    });
    futures::future::join_all(rows).await;
    let client = client(node.url(), Dialect::Ipfs, Login::Open);
    let patience = Patience {
        network: Duration::from_millis(300),
        ..stores::PATIENCE
    };
    let store = RpcStore::new(client, patience);
    let (mut got, begin) = (store.get(&absent).await, Instant::now());
    // A loaded machine may be too slow to have it say anything.
    while matches!(got, Err(StoreError::Transient(_))) && begin.elapsed() < BOUND {
        got = store.get(&absent).await;
    }
    let missing: Result<Bytes, _> = Err(StoreError::Missing(absent));
    assert_eq!(got, missing, "the node itself says so");
}

/// Asks for a pin at a node that makes it, and whose answer meets `fault`: how often the node was asked to.
async fn pins_asked(front: &Front, direct: &RpcStore, dialect: Dialect, fault: Fault) -> usize {
    let patience = Patience {
        doubt: Duration::from_millis(100),
        ..stores::PATIENCE
    };
    let store = RpcStore::new(client(&front.url(), dialect, Login::Open), patience);
    let tree = unique_tree(3);
    let root = tree[tree.len() - 1].cid;
    direct.put_many(&tree).await.expect("put");
    front.set_for(&["pin/add"], Some(fault));
    front.asked();
    assert_eq!(within(fault, store.pin(&root, None)).await, Ok(()));
    front.set(None);
    assert_eq!(direct.all_pinned(&[root]).await, Ok(true));
    let asked = front.asked();
    asked
        .iter()
        .filter(|path| path.ends_with("pin/add"))
        .count()
}

/// An IPFS node takes a pin away before it makes it anew: who asks twice can end with none.
#[tokio::test(flavor = "multi_thread")]
async fn a_pin_whose_answer_was_lost_is_not_requested_again() {
    let (ipfs, btfs) = (Kubo::start(), Btfs::start());
    for (url, dialect) in [(ipfs.url(), Dialect::Ipfs), (&*btfs.url(), Dialect::Btfs)] {
        let front = Front::of(url);
        let direct = RpcStore::new(client(url, dialect, Login::Open), stores::PATIENCE);
        for fault in [
            Fault::HangsBeforeItsAnswer,
            Fault::ResetBeforeItsAnswer,
            Fault::HangsInItsAnswer,
            Fault::ResetInItsAnswer,
        ] {
            let asked = pins_asked(&front, &direct, dialect, fault).await;
            assert_eq!(asked, 1, "{dialect:?}, {fault:?}");
        }
    }
}
