//! A sync is paid only if gateways have the oracle's document; each failure is reported.

use std::sync::{Arc, Mutex};

use alloy::primitives::{U256, keccak256};
use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::Value;

use super::World;
use crate::billing;
use crate::billing::sync::{self, By};
use crate::config::NodeUrl;
use crate::control::{Request, Terms};
use crate::exit::{Exit, of};
use crate::names::key::NameKey;
use crate::names::record::Record;
use crate::oracle;
use crate::pack::cid::node_of_digest;
use crate::pack::usage::{self, Usage};
use crate::store::BlockStoreExt;
use crate::types::{TokenId, VolumeKey};

/// The gateway's content; `None` makes it fail.
type Shelf = Arc<Mutex<Option<Vec<u8>>>>;

async fn gateway() -> (String, Shelf) {
    async fn serve(Shared(shelf): Shared<Shelf>) -> Result<Vec<u8>, StatusCode> {
        let found = shelf.lock().unwrap().clone();
        found.ok_or(StatusCode::BAD_GATEWAY)
    }
    let shelf = Shelf::default();
    let app = Router::new()
        .route("/ipns/{name}", get(serve))
        .with_state(Arc::clone(&shelf));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, shelf)
}

/// The node's document under the token's name.
async fn published(world: &World, name: &str) -> Vec<u8> {
    let record = world.parts.node.names.resolve(name).await.unwrap();
    let record = Record::verify(name, &record).unwrap();
    let block = world.parts.node.reads.get(&record.cid).await.unwrap();
    usage::document(&record.cid, &block).unwrap().to_vec()
}

async fn nonce(world: &World) -> u64 {
    world.sender().next_nonce().await.unwrap()
}

fn document(volume: VolumeKey, sequence: u64, key: &NameKey) -> Vec<u8> {
    let document = Usage {
        volume,
        quota: 100 << 20,
        usage: 1,
        uploads: 1,
        cid: None,
        root: Some(node_of_digest([1; 32])),
        sequence,
        updated_s: 1_790_000_000,
    };
    document.sign(key.signing_key()).unwrap()
}

impl World {
    async fn sync(&self, token: TokenId) -> anyhow::Result<Value> {
        sync::of_mount(&self.parts, &self.tokens, token, By::User, true).await
    }

    /// The status's failures of the only token.
    async fn told(&self) -> Option<String> {
        let status = self.statuses().await.remove(0);
        status.local.and_then(|local| local.last_error)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_spent_unless_the_gateways_have_the_newest_document() {
    let (url, shelf) = gateway().await;
    let world = World::begin_with(tempfile::tempdir().unwrap(), |parts| {
        parts.config.nodes.push(NodeUrl::Gateway(url));
    })
    .await;
    let minted = billing::mint(&world.parts, 0).await.unwrap();
    let (token, name) = (minted.token, minted.name.unwrap());
    world.look(token).await;
    let first = published(&world, &name).await;
    world.write("1", "mine", b"precious").unwrap();
    world.tokens.get(token).unwrap().flush().await.unwrap();
    let newest = published(&world, &name).await;
    let info = world.chain().ledger.token(token).await.unwrap();
    let volume = world.parts.volume_key(&info);
    let (_, key) = world.parts.find_key(&name).await.unwrap().unwrap();
    let before = nonce(&world).await;

    let mut other = volume;
    other.epoch += 1;
    let thief = NameKey::from_seed(&[66; 32]);
    for (bytes, words) in [
        (None, "502"),
        (Some(first.clone()), "sequence 0, and 1 is the newest"),
        (Some(document(volume, 9, &thief)), "not signed"),
        (Some(document(other, 9, &key)), "another token or epoch"),
        (Some(b"{}".to_vec()), "usage metadata"),
    ] {
        *shelf.lock().unwrap() = bytes;
        let error = world.sync(token).await.unwrap_err();
        let line = format!("{error:#}");
        assert_eq!(of(&error), Exit::Oracle, "{line}");
        assert!(
            line.contains("nothing was spent") && line.contains(words),
            "{words}: {line}"
        );
        let told = world.told().await.unwrap();
        assert!(
            told.contains(words) && told.contains("try again") || told.contains("--node"),
            "{told}"
        );
    }
    assert_eq!(nonce(&world).await, before, "something was sent");

    // A slightly older document suffices only for the deadline.
    let unasked = |bytes: &[u8]| {
        *shelf.lock().unwrap() = Some(bytes.to_vec());
        sync::of_mount(&world.parts, &world.tokens, token, By::Itself, false)
    };
    let old = document(volume, 0, &key);
    unasked(&old).await.unwrap_err();
    assert_eq!(nonce(&world).await, before, "something was sent");
    unasked(&first).await.unwrap();
    assert_eq!(nonce(&world).await, before + 1);

    *shelf.lock().unwrap() = Some(newest);
    let oracle = oracle::begin(&world.parts).await.unwrap().unwrap();
    let oracle = tokio::spawn(oracle);
    let answer = world.sync(token).await.unwrap();
    assert_eq!(answer["sequence"], 1);
    assert_eq!(world.told().await, None);
    oracle.abort();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_open_is_waited_for_and_not_paid_again() {
    let world = World::new().await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    world.look(token).await;
    // No operator runs yet.
    let asked = sync::of_mount(&world.parts, &world.tokens, token, By::User, false);
    let asked = asked.await.unwrap();
    let status = world.look(token).await;
    let reason = status.reason.unwrap();
    assert!(reason.contains("has not answered"), "{reason}");
    let before = nonce(&world).await;
    let oracle = oracle::begin(&world.parts).await.unwrap().unwrap();
    // The same account delivers, so no new request before that is known.
    let again = sync::of_mount(&world.parts, &world.tokens, token, By::User, false);
    assert_eq!(again.await.unwrap()["request"], asked["request"]);
    assert_eq!(nonce(&world).await, before);
    let oracle = tokio::spawn(oracle);
    world.sync(token).await.unwrap();
    oracle.abort();

    // After five minutes without an answer that is reported, and requested again.
    let open = sync::of_mount(&world.parts, &world.tokens, token, By::User, false);
    let open = open.await.unwrap();
    let minutes = std::time::Duration::from_secs(301);
    world.chain().endpoint.advance(minutes).await.unwrap();
    let reason = world.look(token).await.reason.unwrap();
    assert!(
        reason.contains("no operator") && reason.contains("`pxfs sync 1`"),
        "{reason}"
    );
    let anew = sync::of_mount(&world.parts, &world.tokens, token, By::User, false);
    assert_ne!(anew.await.unwrap()["request"], open["request"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_sync_failed_is_told_after_a_restart_until_one_lands() {
    let (url, shelf) = gateway().await;
    let broken = |parts: &mut crate::contracts::Parts| {
        parts.config.nodes.push(NodeUrl::Gateway(url.clone()));
    };
    let world = World::begin_with(tempfile::tempdir().unwrap(), broken).await;
    let minted = billing::mint(&world.parts, 0).await.unwrap();
    let (token, name) = (minted.token, minted.name.unwrap());
    world.look(token).await;
    world.sync(token).await.unwrap_err();
    let told = world.told().await.unwrap();
    assert!(told.contains("nothing was spent"), "{told}");

    let dir = world.end().await;
    let world = World::begin_with(dir, broken).await;
    assert_eq!(world.told().await, Some(told), "it is forgotten");
    let oracle = oracle::begin(&world.parts).await.unwrap().unwrap();
    let oracle = tokio::spawn(oracle);
    *shelf.lock().unwrap() = Some(published(&world, &name).await);
    // By a command that does not know this drive's tokens.
    let request = crate::control::Request::Sync {
        token: token.into(),
        wait: true,
    };
    let later = std::time::Duration::from_secs(9);
    world.chain().endpoint.advance(later).await.unwrap();
    billing::answer(&world.parts, &request).await.unwrap();
    oracle.abort();
    let dir = world.end().await;
    let world = World::begin_with(dir, broken).await;
    assert_eq!(world.told().await, None, "it has landed since");
    world.end().await;
}

/// The contract's owner may set a fee of a whole coin, and an overdue user syncs.
#[tokio::test(flavor = "multi_thread")]
async fn a_typed_sync_refuses_a_fee_above_the_limit() {
    let world = World::new().await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    world.look(token).await;
    let coin = U256::from(10).pow(U256::from(18));
    let set_fee = [
        &keccak256("setSyncFee(uint256)")[..4],
        &coin.to_be_bytes::<32>(),
    ];
    let (sender, contract) = (world.sender(), world.chain().contract);
    let set = sender.send(Some(contract), set_fee.concat().into(), U256::ZERO, None);
    set.await.unwrap();
    // In force seven days later.
    let week = std::time::Duration::from_secs(7 * 86_400);
    world.chain().endpoint.advance(week).await.unwrap();
    let before = nonce(&world).await;
    let request = Request::Sync {
        token: token.into(),
        wait: true,
    };
    // By the drive, and by a command without a drive.
    for refused in [
        world.sync(token).await,
        billing::answer(&world.parts.under(&Terms::default()), &request).await,
    ] {
        let words = format!("{:#}", refused.unwrap_err());
        assert!(words.contains("it costs 1 coins and its gas"), "{words}");
        assert!(words.contains("--max-fee allows 0.1"), "{words}");
    }
    assert_eq!(nonce(&world).await, before, "something was sent");
    let terms = Terms {
        max_fee: Some(coin * U256::from(2)),
        ..Terms::default()
    };
    let allowed = Arc::new(world.parts.under(&terms));
    let asked = sync::of_mount(&allowed, &world.tokens, token, By::User, false);
    asked.await.unwrap();
    assert_eq!(nonce(&world).await, before + 1);
    world.end().await;
}
