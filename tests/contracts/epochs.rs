//! Epochs: what a transfer or a new registration voids.

use alloy::primitives::{B256, U256};

use crate::world::*;

/// What must be left of the epoch before.
fn assert_fresh(info: &TokenInfo, epoch: u64) {
    assert_eq!(info.epoch, epoch);
    assert!(!info.synced);
    assert_eq!(info.sequence, 0);
    assert_eq!(info.root, B256::ZERO);
    assert_eq!(info.requestId, B256::ZERO);
}

#[tokio::test]
async fn a_transfer_voids_key_request_sequence_and_root() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    w.synced(token, 1000, 7, ROOT).await;
    let request = w.request(w.alice, token).await;
    let late = w.answer(request, token, 2000, 8, ROOT).await;
    let before = w.info(token).await;
    w.transfer(w.alice, w.bob, token).await;

    let after = w.info(token).await;
    assert_fresh(&after, 2);
    assert_eq!(after.owner, w.bob);
    assert_eq!(after.btnsKey, "");
    assert_eq!(
        after.requestedAt, 0,
        "the buyer need not wait for the seller's last sync"
    );
    assert_eq!(
        after.usage, before.usage,
        "usage and deadline are the oracle's to change"
    );
    assert_eq!(after.lastUpdateTimestamp, before.lastUpdateTimestamp);
    assert_eq!(
        refusal(w.px.sync(token).from(w.bob)).await,
        "not registered"
    );

    assert!(w.deliver(&late).await.logs().is_empty());
    assert_eq!(
        w.info(token).await,
        after,
        "the seller's request is unknown now"
    );
}

#[tokio::test]
async fn a_sellers_greatest_sequence_does_not_bind_the_buyer() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    w.synced(token, 1000, MAX_INTEGER, ROOT).await;
    assert_eq!(w.info(token).await.sequence, MAX_INTEGER);
    w.transfer(w.alice, w.bob, token).await;
    done(w.px.register(token, OTHER_KEY.to_owned()).from(w.bob)).await;
    let request = w.request(w.bob, token).await;
    let report = w.answer(request, token, 0, 0, B256::ZERO).await;
    the::<PxSync::Synced>(&w.deliver(&report).await);
    let info = w.info(token).await;
    assert_eq!(
        (info.synced, info.sequence, info.usage),
        (true, 0, U256::ZERO)
    );
}

#[tokio::test]
async fn a_seller_who_syncs_and_sells_writes_nothing_to_the_buyers_token() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let request = w.request(w.alice, token).await;
    w.transfer(w.alice, w.bob, token).await;
    done(w.px.register(token, OTHER_KEY.to_owned()).from(w.bob)).await;
    let before = w.info(token).await;

    // The seller's documents are of epoch 1, the token's is 3: whichever the report says, the request is gone.
    for epoch in [1, 2, 3] {
        let mut report = w
            .answer(request, token, FREE_BYTES, MAX_INTEGER, ROOT)
            .await;
        report.epoch = U256::from(epoch);
        assert!(w.deliver(&report).await.logs().is_empty());
    }
    assert_eq!(w.info(token).await, before);

    // A report of the buyer's own request, made from the seller's document, is refused aloud.
    let request = w.request(w.bob, token).await;
    let mut report = w
        .answer(request, token, FREE_BYTES, MAX_INTEGER, ROOT)
        .await;
    report.epoch = U256::ONE;
    assert_eq!(
        failure(&w.deliver(&report).await),
        w.px.OTHER_EPOCH().call().await.unwrap()
    );
    assert!(!w.info(token).await.synced);
}

#[tokio::test]
async fn the_buyers_sync_does_not_wait_for_the_sellers_interval() {
    let w = World::new().await;
    done(w.px.setMinSyncInterval(U256::from(DAY)).from(w.owner)).await;
    let token = w.mint(w.alice, 0).await;
    w.synced(token, 1, 0, ROOT).await;
    w.transfer(w.alice, w.bob, token).await;
    done(w.px.register(token, OTHER_KEY.to_owned()).from(w.bob)).await;
    w.request(w.bob, token).await;
}

#[tokio::test]
async fn a_token_that_comes_back_does_not_revive_its_old_epoch() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let request = w.request(w.alice, token).await;
    let report = w.answer(request, token, 5, 5, ROOT).await;
    w.transfer(w.alice, w.bob, token).await;
    w.transfer(w.bob, w.alice, token).await;
    assert_eq!(w.px.epoch(token).call().await.unwrap(), 3);
    assert!(w.deliver(&report).await.logs().is_empty());
    // A transfer to oneself is one too.
    w.transfer(w.alice, w.alice, token).await;
    assert_fresh(&w.info(token).await, 4);
}

#[tokio::test]
async fn a_new_registration_begins_an_epoch() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    w.synced(token, 1000, 7, ROOT).await;
    let request = w.request(w.alice, token).await;
    let old = w.answer(request, token, 2000, 8, ROOT).await;
    let before = w.info(token).await;
    done(w.px.register(token, OTHER_KEY.to_owned()).from(w.alice)).await;
    let after = w.info(token).await;
    assert_fresh(&after, 2);
    assert_eq!(after.btnsKey, OTHER_KEY);
    assert_eq!(after.usage, before.usage);
    assert_eq!(
        after.lastUpdateTimestamp, before.lastUpdateTimestamp,
        "a new key is no sync"
    );
    assert!(
        w.deliver(&old).await.logs().is_empty(),
        "answers of the lost key are void"
    );

    // The new key's documents begin at 0 again.
    w.synced(token, 10, 0, OTHER_ROOT).await;
    done(w.px.register(token, OTHER_KEY.to_owned()).from(w.alice)).await;
    assert_eq!(
        w.px.epoch(token).call().await.unwrap(),
        3,
        "the same key again counts too"
    );
}

#[tokio::test]
async fn registering_anew_does_not_get_round_the_interval() {
    let w = World::new().await;
    done(w.px.setMinSyncInterval(U256::from(DAY)).from(w.owner)).await;
    let token = w.mint(w.alice, 0).await;
    w.synced(token, 1, 0, ROOT).await;
    done(w.px.register(token, OTHER_KEY.to_owned()).from(w.alice)).await;
    assert_eq!(
        refusal(w.px.sync(token).from(w.alice)).await,
        "synced too recently"
    );
}
