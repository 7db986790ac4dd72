//! Who may set what.

use alloy::contract::{CallBuilder, CallDecoder};
use alloy::primitives::{Address, B256, U256};
use alloy::providers::Provider;

use crate::world::*;

/// `call` is refused to everyone but the contract's owner, who may.
async fn owner_alone<P: Provider + Clone, D: CallDecoder + Clone>(
    w: &World,
    name: &str,
    call: CallBuilder<P, D>,
) {
    for who in [w.alice, w.bob, w.oracle] {
        let why = refusal(call.clone().from(who)).await;
        assert!(why.contains("OwnableUnauthorizedAccount"), "{name}: {why}");
    }
    done(call.from(w.owner)).await;
}

#[tokio::test]
async fn only_the_contracts_owner_sets_anything() {
    let w = World::new().await;
    // Alice owns a token, which gives her no right over the contract.
    w.mint(w.alice, 0).await;
    let one = U256::ONE;
    owner_alone(&w, "addNewPackage", w.px.addNewPackage(one, one)).await;
    owner_alone(&w, "updatePackagePrice", w.px.updatePackagePrice(one, one)).await;
    owner_alone(&w, "setPackageActive", w.px.setPackageActive(one, false)).await;
    owner_alone(
        &w,
        "setSyncWindow",
        w.px.setSyncWindow(U256::from(30 * DAY)),
    )
    .await;
    owner_alone(&w, "setMinSyncInterval", w.px.setMinSyncInterval(one)).await;
    owner_alone(&w, "setSyncFee", w.px.setSyncFee(one)).await;
    owner_alone(&w, "setForwarder", w.px.setForwarder(w.bob)).await;
    owner_alone(&w, "setWorkflow", w.px.setWorkflow(B256::ZERO, w.bob)).await;
    owner_alone(&w, "pause", w.px.pause()).await;
    owner_alone(&w, "unpause", w.px.unpause()).await;
    owner_alone(&w, "withdraw", w.px.withdraw()).await;
    owner_alone(&w, "transferOwnership", w.px.transferOwnership(w.bob)).await;
}

#[tokio::test]
async fn the_contract_changes_hands_in_two_steps() {
    let w = World::new().await;
    done(w.px.transferOwnership(w.bob).from(w.owner)).await;
    assert_eq!(w.px.owner().call().await.unwrap(), w.owner);
    assert!(
        refusal(w.px.acceptOwnership().from(w.alice))
            .await
            .contains("OwnableUnauthorizedAccount")
    );
    done(w.px.acceptOwnership().from(w.bob)).await;
    assert_eq!(w.px.owner().call().await.unwrap(), w.bob);
    assert!(
        refusal(w.px.pause().from(w.owner))
            .await
            .contains("OwnableUnauthorizedAccount")
    );
}

#[tokio::test]
async fn nobody_can_leave_the_contract_without_an_owner() {
    let w = World::new().await;
    let why = refusal(w.px.renounceOwnership().from(w.owner)).await;
    assert_eq!(why, "ownership cannot be renounced");
    assert_eq!(w.px.owner().call().await.unwrap(), w.owner);
}

#[tokio::test]
async fn window_interval_and_fee_stay_within_their_bounds() {
    let w = World::new().await;
    let second = U256::ONE;
    let (week, ten_years) = (U256::from(7 * DAY), U256::from(3650 * DAY));
    for period in [U256::ZERO, week - second, ten_years + second, U256::MAX] {
        let why = refusal(w.px.setSyncWindow(period).from(w.owner)).await;
        assert_eq!(why, "period out of range", "{period}");
    }
    let day = U256::from(DAY);
    for period in [day + second, U256::MAX] {
        let why = refusal(w.px.setMinSyncInterval(period).from(w.owner)).await;
        assert_eq!(why, "period out of range", "{period}");
    }
    let coin = U256::from(10).pow(U256::from(18));
    for fee in [coin + U256::ONE, U256::MAX] {
        let why = refusal(w.px.setSyncFee(fee).from(w.owner)).await;
        assert_eq!(why, "fee out of range", "{fee}");
    }
    for period in [week, ten_years] {
        done(w.px.setSyncWindow(period).from(w.owner)).await;
    }
    done(w.px.setMinSyncInterval(day).from(w.owner)).await;
    done(w.px.setSyncFee(coin).from(w.owner)).await;
}

/// A week to sync by the old terms, or to take the data out.
#[tokio::test]
async fn a_fee_and_a_window_are_announced_seven_days_ahead() {
    let w = World::new().await;
    let (fee, window) = (U256::from(1000), U256::from(7 * DAY));
    let receipt = done(w.px.setSyncFee(fee).from(w.owner)).await;
    let fee_from = the::<PxSync::SyncFeeAnnounced>(&receipt);
    let receipt = done(w.px.setSyncWindow(window).from(w.owner)).await;
    let window_from = the::<PxSync::SyncWindowAnnounced>(&receipt);
    let delay = U256::from(7 * DAY);
    assert_eq!((fee_from.fee, window_from.period), (fee, window));
    assert_eq!(window_from.since, U256::from(w.now().await) + delay);
    assert!(fee_from.since <= window_from.since);

    let since = u64::try_from(fee_from.since).unwrap();
    w.chain.mine_at(since - 1).await;
    let old = (U256::ZERO, U256::from(30 * DAY));
    assert_eq!(w.terms().await, old, "a second too early");
    w.chain
        .mine_at(u64::try_from(window_from.since).unwrap())
        .await;
    assert_eq!(w.terms().await, (fee, window));
}

#[tokio::test]
async fn a_later_announcement_replaces_one_not_yet_in_force() {
    let w = World::new().await;
    let thousand = U256::from(1000);
    done(w.px.setSyncFee(thousand).from(w.owner)).await;
    w.advance(6 * DAY).await;
    done(w.px.setSyncFee(U256::ZERO).from(w.owner)).await;
    w.advance(2 * DAY).await;
    assert_eq!(w.px.syncFee().call().await.unwrap(), U256::ZERO);
    w.advance(6 * DAY).await;
    assert_eq!(w.px.syncFee().call().await.unwrap(), U256::ZERO);

    // One in force stays so until the next one is.
    done(w.px.setSyncFee(thousand).from(w.owner)).await;
    w.advance(8 * DAY).await;
    done(w.px.setSyncFee(U256::ZERO).from(w.owner)).await;
    assert_eq!(w.px.syncFee().call().await.unwrap(), thousand);
    w.advance(7 * DAY).await;
    assert_eq!(w.px.syncFee().call().await.unwrap(), U256::ZERO);
}

#[tokio::test]
async fn a_new_forwarder_takes_the_old_ones_place() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let request = w.request(w.alice, token).await;
    let report = w.answer(request, token, 1, 1, ROOT).await;
    done(w.px.setForwarder(w.bob).from(w.owner)).await;
    let call = w.px.onReport(Default::default(), report.encode().into());
    assert_eq!(refusal(call.clone().from(w.oracle)).await, "!forwarder");
    the::<PxSync::Synced>(&done(call.from(w.bob)).await);

    // Without a forwarder nobody reports.
    done(w.px.setForwarder(Address::ZERO).from(w.owner)).await;
    let call = w.px.onReport(Default::default(), report.encode().into());
    assert_eq!(refusal(call.from(w.bob)).await, "!forwarder");
}

#[tokio::test]
async fn a_token_is_moved_only_by_its_owner_or_who_is_approved() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    for who in [w.bob, w.owner, w.oracle] {
        let call = w.px.transferFrom(w.alice, who, token).from(who);
        assert!(refusal(call).await.contains("ERC721InsufficientApproval"));
    }
    done(w.px.approve(w.bob, token).from(w.alice)).await;
    done(w.px.transferFrom(w.alice, w.bob, token).from(w.bob)).await;
    assert_eq!(
        w.info(token).await.epoch,
        2,
        "a market's transfer begins an epoch too"
    );
}
