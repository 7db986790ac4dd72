//! The dialect of BTFS nodes as pxfs relies on it: held against the stand-in, and against the real
//! node that `PXFS_TEST_BTFS=URL` names. What differs there is wrong here.

use std::time::Duration;

use bytes::Bytes;
use pxfs::names::key::NameKey;
use pxfs::names::record::Network;
use pxfs::names::suite::World;
use pxfs::pack::cid::node_cid;
use pxfs::rpc::{Client, Dialect, File, Login, RpcError, probe};
use pxfs::store::suite::{node, unique_leaf};

use crate::btfs::Btfs;
use crate::kubo::Kubo;

const SOON: Duration = Duration::from_secs(60);

/// Calls with the answer as text, beside the error in its trailer.
async fn ask(
    client: &Client,
    path: &str,
    args: &[(&str, &str)],
    files: &[Bytes],
) -> Result<(String, Option<String>), RpcError> {
    let files: Vec<File> = files.iter().cloned().map(File::new).collect();
    let (answer, error) = client.stream(path, args, &files, 1 << 20, SOON).await?;
    Ok((String::from_utf8_lossy(&answer).into_owned(), error))
}

pub(crate) async fn holds(client: &Client) {
    let unknown = ask(client, "no/such/call", &[], &[]).await;
    assert_eq!(unknown, Err(RpcError::Unknown("no/such/call".into())));

    // Without a format a block is a node, with CIDv0.
    let leaf = unique_leaf(10);
    let page = node(&[leaf.cid]);
    let (told, _) = ask(client, "block/put", &[], std::slice::from_ref(&page.data))
        .await
        .expect("put");
    assert!(told.contains(&page.cid.to_string()), "{told}");

    let root = page.cid.to_string();
    let missing = ask(
        client,
        "block/get",
        &[("arg", &leaf.cid.to_string()), ("offline", "true")],
        &[],
    )
    .await;
    assert!(
        matches!(&missing, Err(RpcError::Failed(why)) if why.contains("could not find")),
        "{missing:?}"
    );
    // A pin waits for what is missing, offline or not.
    let args = [
        ("arg", root.as_str()),
        ("offline", "true"),
        ("timeout", "300ms"),
    ];
    let late = ask(client, "pin/add", &args, &[]).await;
    assert!(
        matches!(&late, Err(RpcError::Failed(why)) if why.contains("deadline exceeded")),
        "{late:?}"
    );
    let listed = ask(client, "pin/ls", &[("arg", &root)], &[]).await;
    assert!(
        matches!(&listed, Err(RpcError::Failed(why)) if why.contains("is not pinned")),
        "{listed:?}"
    );
    let unpinned = ask(client, "pin/rm", &[("arg", &root)], &[]).await;
    assert!(
        matches!(&unpinned, Err(RpcError::Failed(why)) if why.contains("not pinned")),
        "{unpinned:?}"
    );
    // A node that is missing is named by the other form of its CID.
    let lost = node(&[unique_leaf(11).cid]).cid;
    let args = [("arg", &*lost.to_string()), ("offline", "true")];
    let missing = ask(client, "block/get", &args, &[]).await;
    let other_form = lost.into_v1().expect("a CIDv1").to_string();
    assert!(
        matches!(&missing, Err(RpcError::Failed(why)) if why.contains(&other_form)),
        "{missing:?}"
    );
    pins_and_content(client).await;
    let other = unique_leaf(10).cid.to_string();
    let update = [("arg", other.as_str()), ("arg", root.as_str())];
    let moved = ask(client, "pin/update", &update, &[]).await;
    assert!(
        matches!(&moved, Err(RpcError::Failed(why)) if why.contains("not recursively pinned")),
        "{moved:?}"
    );

    // A record that is refused is refused in silence, and one that is taken comes back.
    let key = NameKey::random();
    let route = format!("/btns/{}", key.name());
    let (told, error) = ask(client, "dht/get", &[("arg", &route)], &[])
        .await
        .expect("an answer");
    assert!(told.contains("routing: not found"), "{told}");
    assert_eq!(error.as_deref(), Some("routing: not found"));
    let world = World {
        now_ns: now_ns(),
        ..World::default()
    };
    let mut bad = world.record(1, 1).sign(&key);
    bad[60] ^= 1;
    let (told, error) = ask(client, "dht/put", &[("arg", &route)], &[bad.into()])
        .await
        .expect("200");
    assert_eq!((told.trim(), error), ("", None));
    let old = world.record(1, -1).sign(&key);
    let (told, _) = ask(client, "dht/put", &[("arg", &route)], &[old.into()])
        .await
        .expect("200");
    assert_eq!(told.trim(), "");
    let good = world.record(1, 1).sign(&key);
    // Its public key (field 7) is another one.
    let strange = [&good[..], &[0x3a, 36, 8, 1, 0x12, 0x20], &[7; 32]].concat();
    let (told, _) = ask(client, "dht/put", &[("arg", &route)], &[strange.into()])
        .await
        .expect("200");
    assert_eq!(told.trim(), "");
    let (told, _) = ask(
        client,
        "dht/put",
        &[("arg", &route)],
        &[good.clone().into()],
    )
    .await
    .expect("200");
    assert_ne!(told.trim(), "");
    let (told, _) = ask(client, "dht/get", &[("arg", &route)], &[])
        .await
        .expect("an answer");
    assert!(
        told.contains(&data_encoding::BASE64.encode(&good)),
        "{told}"
    );
    // One that leads into the other network is stored, and leads nowhere.
    let other = NameKey::random();
    let route = format!("/btns/{}", other.name());
    let world = World {
        network: Network::Ipfs,
        ..world
    };
    let record = world.record(1, 1).sign(&other);
    let (told, _) = ask(client, "dht/put", &[("arg", &route)], &[record.into()])
        .await
        .expect("200");
    assert_ne!(told.trim(), "");
    let args = [("arg", route.as_str()), ("nocache", "true")];
    let resolved = ask(client, "name/resolve", &args, &[]).await;
    assert!(
        matches!(&resolved, Err(RpcError::Failed(why)) if why.contains("unknown namespace")),
        "{resolved:?}"
    );
    let foreign = format!("/ipns/{}", key.name());
    let refused = ask(client, "dht/put", &[("arg", &foreign)], &[good.into()]).await;
    assert!(
        matches!(&refused, Err(RpcError::Failed(why)) if why.contains("invalid key")),
        "{refused:?}"
    );
}

/// Of pins that are moved onto themselves or onto others, and of content that is asked for at once.
async fn pins_and_content(client: &Client) {
    let (one, two) = (unique_leaf(10), unique_leaf(12));
    let (a, b) = (node(&[one.cid]), node(&[two.cid]));
    for (format, blocks) in [("raw", [&one, &two]), ("v0", [&a, &b])] {
        let files = blocks.map(|block| block.data.clone());
        let put = ask(client, "block/put", &[("format", format)], &files).await;
        put.expect("put");
    }
    let (a, b) = (a.cid.to_string(), b.cid.to_string());
    for root in [&a, &b] {
        let pinned = ask(client, "pin/add", &[("arg", root)], &[]).await;
        pinned.expect("pinned");
    }
    let moved = ask(client, "pin/update", &[("arg", &a), ("arg", &a)], &[]).await;
    moved.expect("onto itself");
    let (listed, _) = ask(client, "pin/ls", &[("arg", &a)], &[])
        .await
        .expect("it stays pinned");
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("one object");
    assert_eq!(listed["Keys"][&a]["Type"], "recursive", "{listed}");
    let moved = ask(client, "pin/update", &[("arg", &a), ("arg", &b)], &[]).await;
    assert!(
        matches!(&moved, Err(RpcError::Failed(why)) if why.contains("'to' cid was already recursively pinned")),
        "{moved:?}"
    );
    let leaf = one.cid.to_string();
    let (listed, _) = ask(client, "pin/ls", &[("arg", &leaf)], &[])
        .await
        .expect("below a pin");
    assert!(
        listed.contains(&format!("indirect through {a}")),
        "{listed}"
    );
    let both = [("arg", &*leaf), ("arg", &*two.cid.to_string())];
    let (content, error) = ask(client, "cat", &both, &[]).await.expect("content");
    let wanted = [one.data.as_ref(), two.data.as_ref()].concat();
    assert_eq!(
        (content, error),
        (String::from_utf8_lossy(&wanted).into_owned(), None)
    );
    for root in [&a, &b] {
        let gone = ask(client, "pin/rm", &[("arg", root)], &[]).await;
        gone.expect("let go of");
    }
}

fn now_ns() -> i64 {
    use pxfs::clock::Clock;
    pxfs::clock::SystemClock.wall_ns()
}

#[tokio::test]
async fn the_stand_in_speaks_it() {
    let node = Btfs::start();
    holds(&Client::new(&node.url(), Dialect::Btfs, Login::Open).expect("a client")).await;
}

#[tokio::test]
async fn the_btfs_stand_ins_gateway_answers_like_a_real_one() {
    let btfs = Btfs::start();
    let client = Client::new(&btfs.url(), Dialect::Btfs, Login::Open).expect("a client");
    let text = Bytes::from_static(b"{}");
    let file = pxfs::pack::usage::block(&text).expect("a block");
    let leaf = pxfs::pack::chunk::leaf(text);
    for (format, block) in [("raw", &leaf), ("v0", &file)] {
        let data = std::slice::from_ref(&block.data);
        let put = ask(&client, "block/put", &[("format", format)], data).await;
        put.expect("put");
    }
    let fetch = async |path: String| {
        let reply = reqwest::get(format!("{}{path}", btfs.gateway_url())).await?;
        Ok::<_, reqwest::Error>((reply.status().as_u16(), reply.text().await.ok()))
    };
    let (leaf, file) = (leaf.cid, file.cid);
    let whole = (200, Some("{}".to_owned()));
    for (path, wanted) in [
        (format!("/btfs/{file}"), whole.clone()),
        (format!("/btfs/{leaf}?filename=usage.json"), whole),
        (format!("/btfs/{leaf}"), (200, None)),
    ] {
        assert_eq!(
            fetch(path.clone()).await.expect("an answer"),
            wanted,
            "{path}"
        );
    }
    let (status, _) = fetch(format!("/btfs/{leaf}?format=raw"))
        .await
        .expect("an answer");
    assert_eq!(status, 500);
    let (status, _) = fetch(format!("/ipfs/{leaf}")).await.expect("an answer");
    assert_eq!(status, 404);
}

/// Nobody who uses a node for other things is made to crash it by the stand-in's defects: these are
/// looked at on the stand-in alone.
#[tokio::test]
async fn the_stand_in_has_the_defects_of_btfs_nodes() {
    let mut btfs = Btfs::start();
    let client = Client::new(&btfs.url(), Dialect::Btfs, Login::Open).expect("a client");
    // A pinned node with a CIDv1 is collected, stays listed, and the next collection fails.
    let leaf = unique_leaf(10);
    let page = node(&[leaf.cid]);
    ask(
        &client,
        "block/put",
        &[("format", "raw")],
        std::slice::from_ref(&leaf.data),
    )
    .await
    .expect("put");
    ask(
        &client,
        "block/put",
        &[("format", "protobuf")],
        std::slice::from_ref(&page.data),
    )
    .await
    .expect("put");
    let v1 = node_cid(&page.data).into_v1().expect("a CIDv1").to_string();
    ask(&client, "pin/add", &[("arg", &v1)], &[])
        .await
        .expect("pinned");
    ask(&client, "repo/gc", &[], &[]).await.expect("collected");
    let gone = ask(
        &client,
        "block/get",
        &[("arg", &v1), ("offline", "true")],
        &[],
    )
    .await;
    assert!(matches!(gone, Err(RpcError::Failed(_))), "{gone:?}");
    let listed = ask(&client, "pin/ls", &[("arg", &v1)], &[]).await;
    assert!(listed.is_ok_and(|(lines, _)| lines.contains(&v1)));
    assert!(ask(&client, "repo/gc", &[], &[]).await.is_err());

    let import = ask(&client, "dag/import", &[], &[Bytes::from_static(b"car")]).await;
    assert!(
        matches!(
            import,
            Err(RpcError::Transport(_) | RpcError::Away(_) | RpcError::Broken(_))
        ),
        "{import:?}"
    );
    assert!(!btfs.is_alive());
    btfs.run();
    let back = ask(
        &client,
        "block/get",
        &[("arg", &leaf.cid.to_string()), ("offline", "true")],
        &[],
    )
    .await;
    assert!(back.is_ok(), "{back:?}");
}

#[tokio::test]
async fn a_node_says_which_kind_it_is_whatever_it_is_taken_for() {
    let (ipfs, btfs) = (Kubo::start(), Btfs::guarded("secret"));
    for taken_for in [Dialect::Btfs, Dialect::Ipfs] {
        for (url, is) in [(ipfs.url(), Dialect::Ipfs), (&btfs.url(), Dialect::Btfs)] {
            let client = Client::new(url, taken_for, Login::Open).expect("a client");
            let found = probe::identify(&client).await.expect("it says");
            assert_eq!(found.dialect, is, "{}", found.agent);
        }
    }
    let client = Client::new(ipfs.url(), Dialect::Ipfs, Login::Open).expect("a client");
    let told = probe::warnings(&client, Some(100 << 30))
        .await
        .expect("its configuration");
    let told: Vec<&str> = told.iter().map(|warning| warning.what.as_str()).collect();
    assert!(
        told.iter().any(|what| what.contains("collects garbage")),
        "{told:?}"
    );
    assert!(
        told.iter()
            .any(|what| what.contains("does not wait for its disk")),
        "{told:?}"
    );
    let client = Client::new(&btfs.url(), Dialect::Btfs, Login::Open).expect("a client");
    let told = probe::warnings(&client, Some(1 << 30))
        .await
        .expect("open without a login");
    assert_eq!(told, []);
    let open = Btfs::start();
    open.listen_too("/ip4/0.0.0.0/tcp/5101");
    let client = Client::new(&open.url(), Dialect::Btfs, Login::Open).expect("a client");
    let told = probe::warnings(&client, None).await.expect("asked");
    assert!(
        told[0]
            .what
            .contains("open to others at /ip4/0.0.0.0/tcp/5101"),
        "{told:?}"
    );
}

/// It shows nobody what it wants of whom: whether it lets everybody in is seen at its door.
#[tokio::test]
async fn an_ipfs_node_open_to_others_is_reported_unless_it_needs_login() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "a token").expect("a file");
    for (node, address, is_open) in [
        (Kubo::start(), String::new(), true),
        (Kubo::guarded("bearer:a token"), String::new(), false),
        (Kubo::guarded("basic:a:b"), "a:b@".to_owned(), false),
    ] {
        // It does not listen there, and says that it does.
        let public = serde_json::json!("/ip4/0.0.0.0/tcp/5001");
        node.configure(|config| config["Addresses"]["API"] = public);
        let url = node.url().replace("://", &format!("://{address}"));
        let login = match address.is_empty() {
            true => Login::TokenFile(file.path().to_owned()),
            false => Login::Open,
        };
        let client = Client::new(&url, Dialect::Ipfs, login).expect("a client");
        let told = probe::warnings(&client, None).await;
        let told: Vec<String> = told.expect("asked").into_iter().map(|w| w.what).collect();
        let is_told = told
            .iter()
            .any(|what| what.contains("open to others at /ip4/0.0.0.0"));
        assert_eq!(is_told, is_open, "{told:?}");
    }
}
