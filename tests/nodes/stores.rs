//! Every node is a store: the suite that the embedded one passes, over the RPC.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pxfs::pack::dagpb::bundle;
use pxfs::rpc::{Client, Dialect, File, Login};
use pxfs::store::rpc::{Patience, RpcStore};
use pxfs::store::suite::{self, unique_leaf, unique_tree};
use pxfs::store::{BlockStore, BlockStoreExt, StoreError};

use crate::btfs::Btfs;
use crate::front::{Fault, Front};
use crate::kubo::Kubo;

/// What a test waits for a block that is nowhere.
pub(crate) const PATIENCE: Patience = Patience {
    ask: Duration::from_secs(30),
    network: Duration::ZERO,
    pin: Duration::from_secs(60),
    doubt: Duration::from_millis(200),
};

/// The node at `url` as a store.
pub(crate) fn store(url: &str, dialect: Dialect, login: Login) -> Arc<RpcStore> {
    Arc::new(RpcStore::new(client(url, dialect, login), PATIENCE))
}

/// A client of the node at `url`.
pub(crate) fn client(url: &str, dialect: Dialect, login: Login) -> Client {
    Client::new(url, dialect, login).expect("a client")
}

#[tokio::test]
async fn an_ipfs_node_passes() {
    let node = Kubo::start();
    suite::passes(store(node.url(), Dialect::Ipfs, Login::Open)).await;
}

/// Its nodes are held by their bytes: what they link to need not be there.
#[tokio::test]
async fn blocks_held_on_an_ipfs_node_survive_gc_until_unpinned() {
    let node = Kubo::start();
    let store = store(node.url(), Dialect::Ipfs, Login::Open);
    let mut blocks = unique_tree(3);
    let left_out = blocks.remove(0);
    let bundle = bundle(&blocks).expect("a node");
    assert!(store.put(&blocks, Some(&bundle)).await.expect("stored"));
    node.ipfs(&["repo", "gc"]);
    for block in &blocks {
        assert!(store.has(&block.cid).await.expect("an answer"));
    }
    assert!(!store.has(&left_out.cid).await.expect("an answer"));
    store.unpin(&bundle.cid).await.expect("let go of");
    node.ipfs(&["repo", "gc"]);
    for block in blocks.iter().chain([&bundle]) {
        assert!(!store.has(&block.cid).await.expect("an answer"));
    }
}

#[tokio::test]
async fn a_btfs_node_passes() {
    let node = Btfs::start();
    suite::passes(store(&node.url(), Dialect::Btfs, Login::Open)).await;
    assert!(node.is_alive());
}

#[tokio::test]
async fn a_btfs_node_that_wants_a_login_passes_also_after_its_restart() {
    let mut node = Btfs::guarded("a password & more");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "a password & more\n").expect("a file");
    let login = Login::PasswordFile(file.path().to_owned());
    let store = store(&node.url(), Dialect::Btfs, login);
    suite::passes(store.clone()).await;
    let block = unique_leaf(100);
    let put = store.put_many(std::slice::from_ref(&block)).await;
    put.expect("put");
    for restart in [false, true] {
        match restart {
            true => node.run(),
            false => node.expire_tokens(),
        }
        assert_eq!(store.get(&block.cid).await, Ok(block.data.clone()));
    }
    std::fs::write(file.path(), "another").expect("a file");
    node.expire_tokens();
    let refused = store
        .get(&block.cid)
        .await
        .expect_err("the password is wrong");
    assert!(matches!(&refused, StoreError::Permanent(why) if why.contains("password")));
    assert!(!refused.to_string().contains("another"));
}

/// It denies with 403, where a BTFS node has 401, and tells also what it is to nobody without a login.
#[tokio::test(flavor = "multi_thread")]
async fn an_ipfs_node_with_bearer_login_works_after_its_token_changes() {
    let mut node = Kubo::guarded("bearer:the first token");
    let front = Front::of(node.url());
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "the first token\n").expect("a file");
    let login = Login::TokenFile(file.path().to_owned());
    let store = store(&front.url(), Dialect::Ipfs, login);
    suite::passes(store.clone()).await;
    let block = unique_leaf(100);
    let put = store.put_many(std::slice::from_ref(&block)).await;
    put.expect("put");

    node.kill();
    node.want("bearer:the second token");
    node.run();
    front.lead_to(node.url());
    // More than it reads before it turns an upload away.
    let more: Vec<_> = (0..3).map(|_| unique_leaf(500_000)).collect();
    for refused in [
        store.put_many(&more).await,
        store.get(&block.cid).await.map(drop),
        store.pin(&block.cid, None).await,
    ] {
        let refused = refused.expect_err("the token is old");
        assert!(
            matches!(&refused, StoreError::Permanent(why) if why.contains("Access Denied")),
            "{refused:?}"
        );
        assert!(!refused.to_string().contains("first"), "{refused}");
    }
    std::fs::write(file.path(), "the second token\n").expect("a file");
    store.put_many(&more).await.expect("put");
    store.pin(&more[0].cid, None).await.expect("pinned");
    assert_eq!(store.get(&block.cid).await, Ok(block.data.clone()));
}

#[tokio::test]
async fn an_ipfs_node_with_basic_auth_works_by_its_url() {
    let node = Kubo::guarded("basic:drive:pass word");
    let url = node.url().replace("://", "://drive:pass%20word@");
    suite::passes(store(&url, Dialect::Ipfs, Login::Open)).await;
    let told = store(node.url(), Dialect::Ipfs, Login::Open);
    let told = told.put_many(&[unique_leaf(10)]).await;
    assert!(
        matches!(&told, Err(StoreError::Permanent(why)) if why.contains("give --node-token-file")),
        "{told:?}"
    );
}

/// What an IPFS node is sent first ends the process of a BTFS node.
#[tokio::test]
async fn a_btfs_node_mistaken_for_ipfs_and_started_late_is_not_killed() {
    let mut node = Btfs::start();
    let store = store(&node.url(), Dialect::Ipfs, Login::Open);
    let block = [unique_leaf(100)];
    node.kill();
    let away = store.put_many(&block).await;
    assert!(
        matches!(away, Err(StoreError::Transient(_) | StoreError::Away(_))),
        "{away:?}"
    );
    node.run();
    let refused = store.put_many(&block).await;
    assert!(
        matches!(&refused, Err(StoreError::Permanent(why)) if why.contains("give --node btfs=")),
        "{refused:?}"
    );
    assert!(node.is_alive());
}

/// One that was met may be followed by another at its address, with or without a call that fails in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_btfs_node_at_an_ipfs_nodes_address_is_not_killed() {
    let ipfs = Kubo::start();
    let rows = [
        None,
        Some(Fault::Refused),
        Some(Fault::ResetAtOnce),
        Some(Fault::ResetBeforeItsAnswer),
        Some(Fault::Status(502)),
        Some(Fault::Empty),
    ];
    for fault in rows {
        let (btfs, front) = (Btfs::start(), Front::of(ipfs.url()));
        let store = store(&front.url(), Dialect::Ipfs, Login::Open);
        store.put_many(&[unique_leaf(100)]).await.expect("put");
        if fault.is_some() {
            front.set(fault);
            let away = store.put_many(&[unique_leaf(100)]).await;
            assert!(
                matches!(away, Err(StoreError::Transient(_) | StoreError::Away(_))),
                "{away:?}"
            );
        }
        front.lead_to(&btfs.url());
        front.set(None);
        front.asked();
        is_refused(&store.put_many(&[unique_leaf(100)]).await);
        // Nor has it been given a token that is meant for the other.
        assert_eq!(front.asked(), ["/api/v1/id"], "{fault:?}");
        assert!(btfs.is_alive(), "{fault:?}");
        front.lead_to(ipfs.url());
        store.put_many(&[unique_leaf(100)]).await.expect("put");
    }
}

/// What was on its way to the one is not sent again to the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_btfs_node_replacing_an_ipfs_node_during_upload_is_not_killed() {
    let (ipfs, btfs) = (Kubo::start(), Btfs::start());
    let front = Front::of(ipfs.url());
    let store = store(&front.url(), Dialect::Ipfs, Login::Open);
    store.put_many(&[unique_leaf(100)]).await.expect("put");
    front.set_for(&["dag/import"], Some(Fault::HangsBeforeItsAnswer));
    front.asked();
    let block = [unique_leaf(100)];
    let putting = tokio::spawn(async move { store.put_many(&block).await });
    let changed = tokio::task::spawn_blocking(move || {
        let begin = std::time::Instant::now();
        while !front
            .asked()
            .iter()
            .any(|path| path.ends_with("dag/import"))
        {
            assert!(begin.elapsed() < PATIENCE.ask, "nothing was sent");
            std::thread::sleep(Duration::from_millis(5));
        }
        front.lead_to(&btfs.url());
        front.set(None);
        (btfs, front)
    });
    let (btfs, _front) = changed.await.expect("it has changed");
    is_refused(&putting.await.expect("it ends"));
    assert!(btfs.is_alive());
}

/// A connection that was kept ends with the node; the next one leads to whoever listens by then.
#[tokio::test]
async fn a_btfs_node_started_in_a_stopped_ipfs_nodes_place_survives() {
    for is_noticed in [true, false] {
        let mut ipfs = Kubo::start();
        let store = store(ipfs.url(), Dialect::Ipfs, Login::Open);
        store.put_many(&[unique_leaf(100)]).await.expect("put");
        ipfs.kill();
        if is_noticed {
            let away = store.put_many(&[unique_leaf(100)]).await;
            assert!(
                matches!(away, Err(StoreError::Transient(_) | StoreError::Away(_))),
                "{away:?}"
            );
        }
        let btfs = Btfs::start_at(ipfs.url());
        is_refused(&store.put_many(&[unique_leaf(100)]).await);
        assert!(btfs.is_alive(), "{is_noticed}");
    }
}

#[track_caller]
fn is_refused(put: &Result<(), StoreError>) {
    assert!(
        matches!(put, Err(StoreError::Permanent(why)) if why.contains("give --node btfs=")),
        "{put:?}"
    );
}

/// A BTFS node answers an upload that ends in the middle with 200, and names what came.
#[tokio::test]
async fn a_cut_upload_to_btfs_counts_only_blocks_that_arrived() {
    let node = Btfs::start();
    let front = Front::of(&node.url());
    let through = client(&front.url(), Dialect::Btfs, Login::Open);
    let store = store(&front.url(), Dialect::Btfs, Login::Open);
    let blocks: Vec<_> = (0..8).map(|_| unique_leaf(5000)).collect();
    store.put_many(&[unique_leaf(10)]).await.expect("put");
    front.set_for(&["block/put"], Some(Fault::CutsUpload));
    let files: Vec<File> = blocks.iter().map(|b| File::new(b.data.clone())).collect();
    let args = [("format", "raw")];
    let told = through.stream("block/put", &args, &files, 1 << 20, PATIENCE.ask);
    let (lines, error) = told.await.expect("200");
    let lines = String::from_utf8_lossy(&lines).lines().count();
    assert!((1..8).contains(&lines), "{lines}");
    assert!(error.is_some(), "it does not say that it was cut");
    let more: Vec<_> = (0..8).map(|_| unique_leaf(5000)).collect();
    let put = store.put_many(&more).await;
    assert!(
        matches!(put, Err(StoreError::Transient(_) | StoreError::Away(_))),
        "{put:?}"
    );
    assert_eq!(store.has(&more[7].cid).await, Ok(false));
    front.set(None);
    store.put_many(&more).await.expect("put");
    assert_eq!(store.has(&more[7].cid).await, Ok(true));
}

/// The sampler of a commit is not what finds this: the pin says which block it is.
#[tokio::test]
async fn a_pin_on_btfs_names_the_lost_block() {
    let node = Btfs::start();
    let store = store(&node.url(), Dialect::Btfs, Login::Open);
    let tree = unique_tree(3);
    store.put_many(&tree).await.expect("put");
    node.lose(&tree[0].cid);
    let root = tree.last().expect("a root").cid;
    let pinned = store.pin(&root, None).await;
    assert_eq!(pinned, Err(StoreError::Missing(tree[0].cid)));
}

/// An IPFS node that waits for a block does not always hear that it has come.
#[tokio::test]
async fn a_pin_ends_its_wait_once_the_missing_block_arrives() {
    let node = Kubo::start();
    let patience = Patience {
        doubt: Duration::from_secs(1),
        ..PATIENCE
    };
    let client = client(node.url(), Dialect::Ipfs, Login::Open);
    let store = RpcStore::new(client, patience);
    let tree = unique_tree(3);
    store.put_many(&tree[1..]).await.expect("put");
    let root = tree.last().expect("a root").cid;
    let late = async {
        tokio::time::sleep(patience.doubt / 2).await;
        store.put_many(&tree[..1]).await
    };
    let both = futures::future::join(store.pin(&root, None), late);
    let both = tokio::time::timeout(patience.pin / 2, both).await;
    assert_eq!(both.expect("it ends"), (Ok(()), Ok(())));
}

/// A node compares a root with the one before to know what is new, and waits for what it has lost of that.
#[tokio::test]
async fn a_root_is_pinned_even_if_its_predecessor_lost_blocks() {
    let mut node = Kubo::start();
    let patience = Patience {
        doubt: Duration::from_secs(1),
        ..PATIENCE
    };
    let of = |node: &Kubo| RpcStore::new(client(node.url(), Dialect::Ipfs, Login::Open), patience);
    let (before, now) = (unique_tree(3), unique_tree(3));
    let (old, new) = (before[before.len() - 1].cid, now[now.len() - 1].cid);
    let store = of(&node);
    store.put_many(&before).await.expect("put");
    store.pin(&old, None).await.expect("pinned");
    node.kill();
    node.lose(&old);
    node.run();
    let store = of(&node);
    store.put_many(&now).await.expect("put");
    let pinned = tokio::time::timeout(patience.pin / 2, store.pin(&new, Some(&old))).await;
    assert_eq!(pinned.expect("it ends"), Ok(()));
    assert_eq!(store.all_pinned(&[new]).await, Ok(true));
}

/// However long a pin takes in all: a great volume is pinned for as long as the node comes on, and no longer.
#[tokio::test]
async fn a_pin_is_waited_for_only_while_it_makes_progress() {
    let node = Btfs::start();
    let front = Front::of(&node.url());
    let patience = Patience {
        pin: Duration::from_secs(6),
        doubt: Duration::from_secs(2),
        ..PATIENCE
    };
    let store = RpcStore::new(client(&front.url(), Dialect::Btfs, Login::Open), patience);
    let tree = unique_tree(7);
    store.put_many(&tree).await.expect("put");
    let root = tree.last().expect("a root").cid;
    node.pin_slowly(patience.pin * 2 / 57);
    let moved = AtomicU64::new(0);
    let moves = || {
        moved.fetch_add(1, Ordering::SeqCst);
    };
    front.asked();
    assert_eq!(store.pin_with(&root, None, &moves).await, Ok(()));
    assert_eq!(store.all_pinned(&[root]).await, Ok(true));
    let asked = front.asked();
    let asked = asked.iter().filter(|path| path.ends_with("pin/add"));
    assert_eq!(asked.count(), 1, "it was begun anew");
    assert!(
        moved.load(Ordering::SeqCst) > 2,
        "a commit takes it for still"
    );

    // One that misses a block goes on telling, and tells nothing new.
    node.pin_slowly(Duration::ZERO);
    let tree = unique_tree(3);
    store.put_many(&tree[1..]).await.expect("put");
    let root = tree.last().expect("a root").cid;
    let patience = Patience {
        pin: Duration::from_secs(1),
        doubt: Duration::from_secs(60),
        ..PATIENCE
    };
    let store = RpcStore::new(client(&front.url(), Dialect::Btfs, Login::Open), patience);
    let pinned = tokio::time::timeout(patience.doubt / 2, store.pin(&root, None)).await;
    let pinned = pinned.expect("it ends");
    assert!(
        matches!(pinned, Err(StoreError::Transient(_) | StoreError::Away(_))),
        "{pinned:?}"
    );
}

#[tokio::test]
async fn a_btfs_node_collects_nothing_of_a_pinned_volume() {
    let node = Btfs::start();
    let store = store(&node.url(), Dialect::Btfs, Login::Open);
    let (kept, gone) = (unique_tree(4), unique_leaf(100));
    store.put_many(&kept).await.expect("put");
    let put = store.put_many(std::slice::from_ref(&gone)).await;
    put.expect("put");
    let root = kept.last().expect("a root").cid;
    store.pin(&root, None).await.expect("pin");
    Client::new(&node.url(), Dialect::Btfs, Login::Open)
        .expect("a client")
        .call("repo/gc", &[], &[], 1 << 20, Duration::from_secs(60))
        .await
        .expect("it collects");
    for block in &kept {
        assert_eq!(store.get(&block.cid).await, Ok(block.data.clone()));
    }
    assert_eq!(store.has(&gone.cid).await, Ok(false));
}

#[tokio::test]
async fn what_is_pinned_survives_collection_and_what_is_not_goes() {
    let node = Kubo::start();
    let store = store(node.url(), Dialect::Ipfs, Login::Open);
    let (kept, gone) = (unique_tree(5), unique_tree(2));
    store.put_many(&kept).await.expect("put");
    store.put_many(&gone).await.expect("put");
    let root = kept.last().expect("a root").cid;
    store.pin(&root, None).await.expect("pin");
    node.ipfs(&["repo", "gc"]);
    for block in &kept {
        assert_eq!(store.get(&block.cid).await, Ok(block.data.clone()));
    }
    for block in &gone {
        assert_eq!(store.has(&block.cid).await, Ok(false));
    }
}

/// An IPFS node drops a pin that it is asked for again and cannot complete.
#[tokio::test]
async fn a_volume_that_lost_a_block_keeps_its_pin() {
    let node = Kubo::start();
    let store = store(node.url(), Dialect::Ipfs, Login::Open);
    let tree = unique_tree(4);
    store.put_many(&tree).await.expect("put");
    let root = tree.last().expect("a root").cid;
    store.pin(&root, None).await.expect("pin");
    let lost = tree[0].cid.to_string();
    node.ipfs(&["pin", "rm", &root.to_string()]);
    node.ipfs(&["block", "rm", &lost]);
    // As a damaged disk leaves it: listed, and not whole.
    store.put_many(&tree[..1]).await.expect("put");
    store.pin(&root, None).await.expect("pin");
    remove_block_file(&node, &lost);
    store.pin(&root, None).await.expect("it is pinned");
    assert!(store.pins().await.expect("pins").contains(&root));
    node.ipfs(&["repo", "gc"]);
    assert_eq!(store.has(&tree[1].cid).await, Ok(true));
}

/// Takes a block from the node's disk behind its back.
fn remove_block_file(node: &Kubo, cid: &str) {
    let key = node.ipfs(&[
        "cid",
        "format",
        "-f",
        "%M",
        "-b",
        "base32upper",
        "--mc",
        "raw",
        cid,
    ]);
    let name = format!("{}.data", key.trim().trim_start_matches('B'));
    let file = walk(&node.repo().join("blocks")).into_iter().find(|file| {
        file.file_name()
            .is_some_and(|n| n.to_string_lossy() == name)
    });
    std::fs::remove_file(file.unwrap_or_else(|| panic!("no file {name}"))).expect("removed");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path().is_dir() {
            true => files.extend(walk(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}

#[tokio::test]
async fn a_stopped_node_is_transient_and_its_blocks_return_with_it() {
    let mut node = Kubo::start();
    let block = unique_leaf(5000);
    let before = store(node.url(), Dialect::Ipfs, Login::Open);
    before
        .put_many(std::slice::from_ref(&block))
        .await
        .expect("put");
    node.kill();
    let put = before.put_many(&[unique_leaf(10)]).await;
    assert!(
        matches!(put, Err(StoreError::Transient(_) | StoreError::Away(_))),
        "{put:?}"
    );
    // Whoever reads is not to wait for it: a new connection is refused.
    let fresh = store(node.url(), Dialect::Ipfs, Login::Open);
    let get = fresh.get(&block.cid).await;
    assert!(matches!(get, Err(StoreError::Away(_))), "{get:?}");
    node.run();
    let after = store(node.url(), Dialect::Ipfs, Login::Open);
    assert_eq!(after.get(&block.cid).await, Ok(block.data));
}

#[tokio::test]
async fn a_block_that_only_another_node_has_is_found_through_the_network() {
    let (a, b) = (Kubo::start(), Kubo::start());
    let block = unique_leaf(5000);
    store(a.url(), Dialect::Ipfs, Login::Open)
        .put_many(std::slice::from_ref(&block))
        .await
        .expect("put");
    a.connect(&b);
    let client = Client::new(b.url(), Dialect::Ipfs, Login::Open).expect("a client");
    let patient = Patience {
        network: Duration::from_secs(20),
        ..PATIENCE
    };
    let far = RpcStore::new(client, patient);
    assert_eq!(far.has(&block.cid).await, Ok(false));
    assert_eq!(far.get(&block.cid).await, Ok(block.data));
}
