//! A wallet contract that calls back while it is being paid or given a token gains nothing.

use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::{DynProvider, Provider};

use crate::world::re::Reenterer;
use crate::world::*;

/// A wallet contract with coins of its own.
async fn wallet(w: &World) -> Reenterer::ReentererInstance<DynProvider> {
    let call = Reenterer::deploy_builder(w.chain.provider.clone(), *w.px.address());
    let receipt = done(call.value(U256::from(1_000_000)).from(w.bob)).await;
    let address = receipt.contract_address.expect("a new contract");
    Reenterer::new(address, w.chain.provider.clone())
}

/// Arms the wallet with `inner`, lets it send `outer`, and expects that the inner call was made and failed.
async fn fails_inside(
    w: &World,
    wallet: &Reenterer::ReentererInstance<DynProvider>,
    outer: (Bytes, u64),
    inner: (Bytes, u64),
) {
    done(wallet.arm(inner.0, U256::from(inner.1)).from(w.bob)).await;
    done(wallet.attempt(outer.0, U256::from(outer.1)).from(w.bob)).await;
    assert_eq!(
        wallet.attempts().call().await.unwrap(),
        U256::ONE,
        "the wallet was called"
    );
    assert!(
        !wallet.succeeded().call().await.unwrap(),
        "and got nothing by it"
    );
}

async fn balance(w: &World, who: Address) -> U256 {
    w.chain.provider.get_balance(who).await.unwrap()
}

#[tokio::test]
async fn a_mint_cannot_be_nested_in_a_mint() {
    let w = World::new().await;
    done(w.px.updatePackagePrice(U256::ONE, U256::ZERO).from(w.owner)).await;
    let wallet = wallet(&w).await;
    let free: Bytes = w.px.mint_1(U256::ZERO).calldata().clone();
    let other: Bytes = w.px.mint_1(U256::ONE).calldata().clone();
    fails_inside(&w, &wallet, (free, 0), (other.clone(), 0)).await;
    assert_eq!(w.px.totalSupply().call().await.unwrap(), U256::ONE);
    assert_eq!(
        w.px.ownerOf(U256::ONE).call().await.unwrap(),
        *wallet.address()
    );
    // Afterwards it is free to mint.
    done(wallet.arm(Bytes::new(), U256::ZERO).from(w.bob)).await;
    done(wallet.attempt(other, U256::ZERO).from(w.bob)).await;
}

#[tokio::test]
async fn the_surplus_of_a_sync_cannot_be_spent_inside_it() {
    let w = World::new().await;
    w.set_fee(U256::from(100)).await;
    // Coins that are not the wallet's lie in the contract.
    w.mint(w.alice, 1).await;
    let wallet = wallet(&w).await;
    let mint = |package: u64| {
        w.px.mint_0(U256::from(package), KEY.to_owned())
            .calldata()
            .clone()
    };
    done(wallet.attempt(mint(0), U256::ZERO).from(w.bob)).await;
    done(w.px.updatePackagePrice(U256::ONE, U256::ZERO).from(w.owner)).await;
    done(wallet.attempt(mint(1), U256::ZERO).from(w.bob)).await;

    let before = (
        balance(&w, *wallet.address()).await,
        balance(&w, *w.px.address()).await,
    );
    let sync = |token: u64| w.px.sync(U256::from(token)).calldata().clone();
    fails_inside(&w, &wallet, (sync(2), 150), (sync(3), 150)).await;
    let after = (
        balance(&w, *wallet.address()).await,
        balance(&w, *w.px.address()).await,
    );
    let fee = U256::from(100);
    assert_eq!(
        after,
        (before.0 - fee, before.1 + fee),
        "one fee was taken, one surplus given back"
    );
    assert!(!w.info(U256::from(2)).await.requestId.is_zero());
    assert!(w.info(U256::from(3)).await.requestId.is_zero());
}

#[tokio::test]
async fn a_request_is_open_before_its_surplus_is_paid() {
    let w = World::new().await;
    let wallet = wallet(&w).await;
    let mint = w.px.mint_0(U256::ZERO, KEY.to_owned()).calldata().clone();
    done(wallet.attempt(mint, U256::ZERO).from(w.bob)).await;
    let sync = w.px.sync(U256::ONE).calldata().clone();
    fails_inside(&w, &wallet, (sync.clone(), 10), (sync, 10)).await;
}

#[tokio::test]
async fn an_owner_contract_withdraws_the_income_once() {
    let w = World::new().await;
    w.mint(w.alice, 1).await;
    let wallet = wallet(&w).await;
    done(w.px.transferOwnership(*wallet.address()).from(w.owner)).await;
    done(
        wallet
            .attempt(w.px.acceptOwnership().calldata().clone(), U256::ZERO)
            .from(w.bob),
    )
    .await;
    let before = balance(&w, *wallet.address()).await;
    let withdraw = w.px.withdraw().calldata().clone();
    fails_inside(&w, &wallet, (withdraw.clone(), 0), (withdraw, 0)).await;
    assert_eq!(
        balance(&w, *wallet.address()).await,
        before + w.price(1).await
    );
}

#[tokio::test]
async fn a_surplus_that_cannot_be_paid_back_is_not_kept() {
    let w = World::new().await;
    let wallet = wallet(&w).await;
    let mint = w.px.mint_0(U256::ZERO, KEY.to_owned()).calldata().clone();
    done(wallet.attempt(mint, U256::ZERO).from(w.bob)).await;
    w.set_fee(U256::from(100)).await;
    done(wallet.refuse(true).from(w.bob)).await;
    let sync = w.px.sync(U256::ONE).calldata().clone();
    let with_surplus = wallet.attempt(sync.clone(), U256::from(101));
    assert_eq!(refusal(with_surplus.from(w.bob)).await, "payment refused");
    done(wallet.attempt(sync, U256::from(100)).from(w.bob)).await;
}
