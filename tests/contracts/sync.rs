//! `sync`: who may ask, what it costs, how often, and when a token is overdue.

use alloy::primitives::{B256, U256};
use alloy::providers::Provider;

use crate::world::*;

const TIMEOUT: u64 = 300;

#[tokio::test]
async fn a_sync_tells_the_oracle_where_to_look() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let receipt = done(w.px.sync(token).from(w.alice)).await;
    let event = the::<PxSync::SyncRequested>(&receipt);
    assert_eq!(
        (event.tokenId, event.epoch, event.btnsKey.as_str()),
        (token, 1, KEY)
    );
    let info = w.info(token).await;
    assert_eq!(info.requestId, event.requestId);
    assert_eq!(info.requestedAt, w.now().await);

    let nowhere = w.px.sync(U256::from(2)).from(w.bob);
    assert!(refusal(nowhere).await.contains("ERC721NonexistentToken"));
}

#[tokio::test]
async fn the_fee_is_kept_and_the_surplus_goes_back() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let gift = w.px.sync(token).value(U256::from(5)).from(w.alice);
    done(gift).await;
    let balance = async |who| w.chain.provider.get_balance(who).await.unwrap();
    let at = *w.px.address();
    assert_eq!(
        balance(at).await,
        U256::ZERO,
        "a sync costs nothing unless a fee is set"
    );

    let fee = U256::from(1000);
    w.set_fee(fee).await;
    let token = w.mint(w.bob, 0).await;
    for value in [U256::ZERO, fee - U256::ONE] {
        assert_eq!(
            refusal(w.px.sync(token).value(value).from(w.bob)).await,
            "fee too low"
        );
    }
    let before = balance(w.bob).await;
    let receipt = done(w.px.sync(token).value(fee + U256::from(77)).from(w.bob)).await;
    let gas = U256::from(receipt.effective_gas_price) * U256::from(receipt.gas_used);
    assert_eq!(balance(w.bob).await, before - gas - fee);
    assert_eq!(balance(at).await, fee);
}

#[tokio::test]
async fn only_one_request_is_open_and_it_can_be_renewed_after_timeout() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let first = w.request(w.alice, token).await;
    let asked = w.info(token).await.requestedAt;
    let again = || w.px.sync(token).from(w.alice);
    assert_eq!(refusal(again()).await, "sync already requested");
    w.chain.mine_at(asked + TIMEOUT - 60).await;
    assert_eq!(refusal(again()).await, "sync already requested");

    w.chain.mine_at(asked + TIMEOUT).await;
    let second = w.request(w.alice, token).await;
    assert_ne!(first, second);

    // The answer to the first comes late: it is ignored, and the second stays open.
    let before = w.info(token).await;
    let late = w.answer(first, token, 1, 1, ROOT).await;
    assert!(w.deliver(&late).await.logs().is_empty());
    assert_eq!(w.info(token).await, before);
    let report = Report {
        request: second,
        ..late
    };
    the::<PxSync::Synced>(&w.deliver(&report).await);
}

#[tokio::test]
async fn requests_of_two_tokens_do_not_hinder_each_other() {
    let w = World::new().await;
    let (one, two) = (w.mint(w.alice, 0).await, w.mint(w.bob, 0).await);
    let (first, second) = (w.request(w.alice, one).await, w.request(w.bob, two).await);
    assert_ne!(first, second);
    // An answer with the other token's request answers neither.
    let crossed = w.answer(first, two, 1, 1, ROOT).await;
    assert!(w.deliver(&crossed).await.logs().is_empty());
    let report = w.answer(second, two, 2, 1, ROOT).await;
    the::<PxSync::Synced>(&w.deliver(&report).await);
    assert_eq!(w.info(one).await.requestId, first);
}

#[tokio::test]
async fn an_answer_after_the_timeout_counts_until_the_request_is_renewed() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let request = w.request(w.alice, token).await;
    w.advance(2 * TIMEOUT).await;
    let report = w.answer(request, token, 1, 1, ROOT).await;
    the::<PxSync::Synced>(&w.deliver(&report).await);
}

#[tokio::test]
async fn a_token_syncs_at_most_once_an_interval() {
    let w = World::new().await;
    done(w.px.setMinSyncInterval(U256::from(DAY)).from(w.owner)).await;
    let token = w.mint(w.alice, 0).await;
    w.synced(token, 1, 1, ROOT).await;
    let asked = w.info(token).await.requestedAt;
    let again = || w.px.sync(token).from(w.alice);
    assert_eq!(refusal(again()).await, "synced too recently");
    w.chain.mine_at(asked + DAY - 60).await;
    assert_eq!(refusal(again()).await, "synced too recently");
    w.chain.mine_at(asked + DAY).await;
    let request = w.request(w.alice, token).await;

    // A refused answer does not give the right back.
    let report = w.failed(request, token, 1).await;
    assert_eq!(failure(&w.deliver(&report).await), 1);
    assert_eq!(refusal(again()).await, "synced too recently");
}

#[tokio::test]
async fn a_request_without_an_answer_is_renewed_before_the_interval_is_over() {
    let w = World::new().await;
    done(w.px.setMinSyncInterval(U256::from(DAY)).from(w.owner)).await;
    let token = w.mint(w.alice, 0).await;
    w.request(w.alice, token).await;
    w.advance(TIMEOUT).await;
    w.request(w.alice, token).await;
}

#[tokio::test]
async fn an_overdue_token_need_not_wait_for_the_interval() {
    let w = World::new().await;
    done(w.px.setMinSyncInterval(U256::from(DAY)).from(w.owner)).await;
    let token = w.mint(w.alice, 0).await;
    w.synced(token, 1, 1, ROOT).await;
    // Asked for, and refused, an hour before the window ends.
    w.advance(30 * DAY - 3600).await;
    let request = w.request(w.alice, token).await;
    let report = w.failed(request, token, 1).await;
    assert_eq!(failure(&w.deliver(&report).await), 1);
    assert_eq!(
        refusal(w.px.sync(token).from(w.alice)).await,
        "synced too recently"
    );
    w.advance(2 * 3600).await;
    w.synced(token, 1, 1, ROOT).await;
    assert_eq!(
        refusal(w.px.sync(token).from(w.alice)).await,
        "synced too recently"
    );
}

#[tokio::test]
async fn a_token_locks_right_after_its_window_until_the_next_sync() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let window = 30 * DAY;
    assert_eq!(w.px.syncWindow().call().await.unwrap(), U256::from(window));
    let deadline = w.info(token).await.lastUpdateTimestamp + window;
    let can = || async {
        let block = w.chain.provider.get_block_number().await.unwrap();
        w.px.canUpload(token, U256::ONE)
            .block(block.into())
            .call()
            .await
            .unwrap()
    };
    w.chain.mine_at(deadline).await;
    assert_eq!(w.now().await, deadline);
    let answer = can().await;
    assert!(
        answer.can && !answer.timestampLock,
        "the last second still counts"
    );
    w.chain.mine_at(deadline + 1).await;
    let answer = can().await;
    assert!(!answer.can && answer.timestampLock && !answer.sizeOrBandwidthExceeded);

    // A request does not open it, an answer does.
    let request = w.request(w.alice, token).await;
    assert!(can().await.timestampLock);
    let report = w.failed(request, token, 1).await;
    w.deliver(&report).await;
    assert!(can().await.timestampLock, "a failed sync does not");
    w.synced(token, 0, 0, B256::ZERO).await;
    assert!(can().await.can);
}

#[tokio::test]
async fn a_new_window_counts_for_all_tokens_once_it_is_in_force() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    done(w.px.setSyncWindow(U256::from(7 * DAY)).from(w.owner)).await;
    w.advance(6 * DAY).await;
    let can = w.px.canUpload(token, U256::ONE);
    assert!(can.call().await.unwrap().can);
    w.advance(2 * DAY).await;
    assert!(can.call().await.unwrap().timestampLock);
    assert_eq!(w.info(token).await.syncWindow, U256::from(7 * DAY));
    w.synced(token, 0, 0, B256::ZERO).await;
    done(w.px.setSyncWindow(U256::from(60 * DAY)).from(w.owner)).await;
    w.advance(10 * DAY).await;
    assert!(can.call().await.unwrap().can);
}

/// Else anybody could spend the operators' gas on other people's tokens.
#[tokio::test]
async fn a_stranger_asks_once_a_day_and_pays_as_the_owner_does() {
    let w = World::new().await;
    w.set_fee(U256::from(1000)).await;
    let token = w.mint(w.alice, 0).await;
    let ask = |who| w.px.sync(token).value(U256::from(1000)).from(who);
    let soon = "only the owner may sync so soon";
    assert_eq!(refusal(ask(w.bob)).await, soon, "after the mint");
    w.advance(DAY).await;
    assert_eq!(refusal(w.px.sync(token).from(w.bob)).await, "fee too low");
    done(ask(w.bob)).await;
    // Unanswered: the owner may renew it, a stranger may not.
    w.advance(TIMEOUT).await;
    assert_eq!(refusal(ask(w.bob)).await, soon, "a renewal");
    let request = w.request(w.alice, token).await;
    let report = w.answer(request, token, 1, 1, ROOT).await;
    the::<PxSync::Synced>(&w.deliver(&report).await);
    assert_eq!(refusal(ask(w.bob)).await, soon, "after a sync");
    // Also when it is overdue: its owner alone is in a hurry.
    w.advance(31 * DAY).await;
    done(ask(w.bob)).await;
    w.advance(TIMEOUT).await;
    assert_eq!(refusal(ask(w.bob)).await, soon, "overdue");
}

#[tokio::test]
async fn who_is_approved_syncs_as_the_owner_does() {
    let w = World::new().await;
    let (one, two) = (w.mint(w.alice, 0).await, w.mint(w.alice, 1).await);
    done(w.px.approve(w.bob, one).from(w.alice)).await;
    w.request(w.bob, one).await;
    done(w.px.setApprovalForAll(w.oracle, true).from(w.alice)).await;
    w.request(w.oracle, two).await;
}

#[tokio::test]
async fn a_renewal_is_not_paid_twice() {
    let w = World::new().await;
    let fee = U256::from(1000);
    w.set_fee(fee).await;
    let token = w.mint(w.alice, 0).await;
    w.request(w.alice, token).await;
    w.advance(TIMEOUT).await;
    // What comes with it goes back.
    w.request(w.alice, token).await;
    assert_eq!(w.px.heldFees().call().await.unwrap(), fee);
    let at = w.chain.provider.get_balance(*w.px.address());
    assert_eq!(at.await.unwrap(), fee);
}

#[tokio::test]
async fn a_sync_fee_is_held_for_whoever_answers() {
    let w = World::new().await;
    let fee = U256::from(1000);
    w.set_fee(fee).await;
    let balance = async |who| w.chain.provider.get_balance(who).await.unwrap();
    let token = w.mint(w.alice, 0).await;
    let request = w.request(w.alice, token).await;
    done(w.px.withdraw().from(w.owner)).await;
    assert_eq!(balance(*w.px.address()).await, fee, "it is held");

    // Whatever the answer is.
    let before = balance(w.oracle).await;
    let report = w.failed(request, token, 1).await;
    let receipt = w.deliver(&report).await;
    assert_eq!(the::<PxSync::SyncFailed>(&receipt).code, 1);
    assert_eq!(the::<PxSync::FeePaid>(&receipt).fee, fee);
    let gas = U256::from(receipt.effective_gas_price) * U256::from(receipt.gas_used);
    assert_eq!(balance(w.oracle).await, before + fee - gas);
    assert_eq!(w.px.heldFees().call().await.unwrap(), U256::ZERO);
    // A second delivery is paid nothing.
    assert!(w.deliver(&report).await.logs().is_empty());

    // A request that a transfer ends has nobody to answer it.
    w.request(w.alice, token).await;
    w.transfer(w.alice, w.bob, token).await;
    assert_eq!(w.px.heldFees().call().await.unwrap(), U256::ZERO);
    done(w.px.withdraw().from(w.owner)).await;
    assert_eq!(balance(*w.px.address()).await, U256::ZERO);
}
