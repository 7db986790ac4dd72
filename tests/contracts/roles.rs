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
    owner_alone(&w, "setSyncWindow", w.px.setSyncWindow(one)).await;
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
async fn periods_stay_within_their_bounds() {
    let w = World::new().await;
    let ten_years = U256::from(3650 * DAY);
    for period in [U256::ZERO, ten_years + U256::ONE, U256::MAX] {
        let why = refusal(w.px.setSyncWindow(period).from(w.owner)).await;
        assert_eq!(why, "period out of range");
    }
    for period in [ten_years + U256::ONE, U256::MAX] {
        let why = refusal(w.px.setMinSyncInterval(period).from(w.owner)).await;
        assert_eq!(why, "period out of range");
    }
    done(w.px.setSyncWindow(ten_years).from(w.owner)).await;
    done(w.px.setMinSyncInterval(ten_years).from(w.owner)).await;
    assert_eq!(w.px.MAX_PERIOD().call().await.unwrap(), ten_years);
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
