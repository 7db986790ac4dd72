//! Packages: what they grant, what they cost, who may change them.

use alloy::primitives::{U256, utils::parse_ether};
use alloy::providers::Provider;

use crate::world::*;

#[tokio::test]
async fn the_free_package_grants_100_mib_once_an_address() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    assert_eq!(token, U256::from(1), "tokens count from 1");
    assert_eq!(w.info(token).await.sizeInBytes, U256::from(FREE_BYTES));
    assert!(w.px.pxFreePackage(w.alice).call().await.unwrap());

    let again = w.px.mint_0(U256::ZERO, KEY.to_owned()).from(w.alice);
    assert_eq!(refusal(again).await, "free package already minted");
    let without_key = w.px.mint_1(U256::ZERO).from(w.alice);
    assert_eq!(refusal(without_key).await, "free package already minted");
    // Giving the token away does not give the right back.
    w.transfer(w.alice, w.bob, token).await;
    assert_eq!(
        refusal(w.px.mint_1(U256::ZERO).from(w.alice)).await,
        "free package already minted"
    );
    assert_eq!(
        w.mint(w.bob, 0).await,
        U256::from(2),
        "another address has its own"
    );
}

#[tokio::test]
async fn the_list_of_packages_tells_sizes_and_prices() {
    let w = World::new().await;
    let all = w.px.getAllPackages().call().await.unwrap();
    let gib = |n: u64| U256::from(n << 30);
    let expected = [
        ("100MB", "MB", 100, U256::from(FREE_BYTES), "0"),
        ("1GB", "GB", 1, gib(1), "0.1"),
        ("5GB", "GB", 5, gib(5), "0.4"),
        ("20GB", "GB", 20, gib(20), "1.2"),
    ];
    assert_eq!(all.len(), expected.len());
    for (id, (package, (name, unit, size, bytes, price))) in all.iter().zip(expected).enumerate() {
        assert_eq!(package.id, U256::from(id));
        assert_eq!(package.name, name);
        assert_eq!(package.storageUnit, unit);
        assert_eq!(package.size, U256::from(size));
        assert_eq!(package.sizeInBytes, bytes);
        assert_eq!(package.price, parse_ether(price).unwrap());
        assert_eq!(package.bandwidthLimit, U256::MAX);
        assert!(package.active);
    }
}

#[tokio::test]
async fn a_wrong_price_buys_nothing() {
    let w = World::new().await;
    let price = w.price(2).await;
    for value in [U256::ZERO, price - U256::ONE, price + U256::ONE] {
        let call =
            w.px.mint_0(U256::from(2), KEY.to_owned())
                .value(value)
                .from(w.alice);
        assert_eq!(refusal(call).await, "wrong price");
    }
    let gift = w.px.mint_1(U256::ZERO).value(U256::ONE).from(w.alice);
    assert_eq!(
        refusal(gift).await,
        "wrong price",
        "the free package takes no money"
    );
    assert_eq!(w.px.totalSupply().call().await.unwrap(), U256::ZERO);
    let token = w.mint(w.alice, 2).await;
    assert_eq!(w.info(token).await.packageName, "5GB");
}

#[tokio::test]
async fn a_package_that_is_not_on_sale_cannot_be_bought() {
    let w = World::new().await;
    assert_eq!(
        refusal(w.px.mint_1(U256::from(4)).from(w.alice)).await,
        "no such package"
    );
    assert_eq!(
        refusal(w.px.mint_1(U256::MAX).from(w.alice)).await,
        "no such package"
    );
    let token = w.mint(w.alice, 0).await;
    let one = U256::from(1);
    let price = w.price(1).await;
    done(w.px.setPackageActive(one, false).from(w.owner)).await;
    assert_eq!(
        refusal(w.px.mint_1(one).value(price).from(w.alice)).await,
        "package not on sale"
    );
    let upgrade =
        w.px.upgradeTokenPackage(token, one)
            .value(price)
            .from(w.alice);
    assert_eq!(refusal(upgrade).await, "package not on sale");
    done(w.px.setPackageActive(one, true).from(w.owner)).await;
    w.mint(w.alice, 1).await;
}

#[tokio::test]
async fn the_owner_adds_packages_and_sets_prices() {
    let w = World::new().await;
    let wei = U256::from(7);
    done(w.px.addNewPackage(wei, U256::from(100)).from(w.owner)).await;
    let token = w.mint(w.bob, 4).await;
    assert_eq!(w.info(token).await.sizeInBytes, U256::from(100u64 << 30));

    done(
        w.px.updatePackagePrice(U256::from(4), U256::from(9))
            .from(w.owner),
    )
    .await;
    let old_price = w.px.mint_1(U256::from(4)).value(wei).from(w.bob);
    assert_eq!(refusal(old_price).await, "wrong price");
    assert_eq!(w.price(4).await, U256::from(9));

    let free = w.px.updatePackagePrice(U256::ZERO, wei).from(w.owner);
    assert_eq!(refusal(free).await, "package 0 is free");
    for size in [U256::ZERO, U256::from(1 << 23), U256::MAX] {
        let call = w.px.addNewPackage(wei, size).from(w.owner);
        assert_eq!(refusal(call).await, "size out of range");
    }
    let dear = w.px.addNewPackage(U256::MAX, U256::ONE).from(w.owner);
    assert_eq!(refusal(dear).await, "price out of range");
    // The largest package there can be stays below the greatest integer of the usage metadata.
    let largest = U256::from((1 << 23) - 1);
    done(w.px.addNewPackage(wei, largest).from(w.owner)).await;
    let all = w.px.getAllPackages().call().await.unwrap();
    assert!(all[5].sizeInBytes <= U256::from(MAX_INTEGER));
}

#[tokio::test]
async fn an_upgrade_grants_more_and_changes_nothing_else() {
    let w = World::new().await;
    let token = w.mint(w.alice, 1).await;
    w.synced(token, 5 << 29, 3, ROOT).await;
    let before = w.info(token).await;
    let can = |more: u64| w.px.canUpload(token, U256::from(more));
    assert!(!can(1).call().await.unwrap().can, "2.5 GiB lie in 1 GiB");
    w.advance(DAY).await;

    let two = U256::from(2);
    let price = w.price(2).await;
    let cheap =
        w.px.upgradeTokenPackage(token, two)
            .value(price - U256::ONE)
            .from(w.alice);
    assert_eq!(refusal(cheap).await, "wrong price");
    let stranger =
        w.px.upgradeTokenPackage(token, two)
            .value(price)
            .from(w.bob);
    assert!(
        refusal(stranger)
            .await
            .contains("ERC721InsufficientApproval")
    );
    done(w.px.approve(w.bob, token).from(w.alice)).await;
    let receipt = done(
        w.px.upgradeTokenPackage(token, two)
            .value(price)
            .from(w.bob),
    )
    .await;
    assert_eq!(the::<PxSync::MetadataUpdate>(&receipt)._tokenId, token);

    let expected = TokenInfo {
        packageId: two,
        packageName: "5GB".to_owned(),
        sizeInBytes: U256::from(5u64 << 30),
        ..before
    };
    assert_eq!(
        w.info(token).await,
        expected,
        "usage, deadline, epoch, sequence and key stay"
    );
    assert!(can(1).call().await.unwrap().can);

    for package in [0, 1, 2] {
        let call =
            w.px.upgradeTokenPackage(token, U256::from(package))
                .from(w.alice);
        assert_eq!(refusal(call).await, "package not larger");
    }
}

#[tokio::test]
async fn pausing_stops_minting_and_nothing_else() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    done(w.px.pause().from(w.owner)).await;
    assert!(w.px.paused().call().await.unwrap());
    let mint = w.px.mint_0(U256::ZERO, KEY.to_owned()).from(w.bob);
    assert!(refusal(mint).await.contains("EnforcedPause"));
    assert!(
        refusal(w.px.mint_1(U256::ZERO).from(w.bob))
            .await
            .contains("EnforcedPause")
    );

    w.synced(token, 1, 0, ROOT).await;
    let price = w.price(1).await;
    done(
        w.px.upgradeTokenPackage(token, U256::ONE)
            .value(price)
            .from(w.alice),
    )
    .await;
    done(w.px.register(token, OTHER_KEY.to_owned()).from(w.alice)).await;
    w.transfer(w.alice, w.bob, token).await;

    done(w.px.unpause().from(w.owner)).await;
    w.mint(w.bob, 0).await;
}

#[tokio::test]
async fn the_income_goes_to_the_contracts_owner() {
    let w = World::new().await;
    w.mint(w.alice, 3).await;
    let price = w.price(3).await;
    let at = *w.px.address();
    assert_eq!(w.chain.provider.get_balance(at).await.unwrap(), price);
    assert!(
        refusal(w.px.withdraw().from(w.alice))
            .await
            .contains("OwnableUnauthorizedAccount")
    );
    let before = w.chain.provider.get_balance(w.owner).await.unwrap();
    let receipt = done(w.px.withdraw().from(w.owner)).await;
    let gas = U256::from(receipt.effective_gas_price) * U256::from(receipt.gas_used);
    let after = w.chain.provider.get_balance(w.owner).await.unwrap();
    assert_eq!(after, before + price - gas);
    assert_eq!(w.chain.provider.get_balance(at).await.unwrap(), U256::ZERO);
}
