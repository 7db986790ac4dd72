//! `px-v1` and `px-v2`: usage is added up, and what that costs.

use alloy::primitives::{Address, FixedBytes, U256, hex};
use alloy::providers::Provider;
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::sol_types::SolCall;
use data_encoding::BASE64;

use crate::additive_world::*;
use crate::world::{DAY, FREE_BYTES, done, minted, reason, refusal};

/// What a refusal without words gives.
const WORDLESS: &str = "0x";

#[tokio::test]
async fn usage_is_added_up_and_never_falls() {
    for old in BOTH {
        let w = World::new(old).await;
        let token = w.mint(w.alice).await;
        for (bytes, sum) in [(10, 10), (10, 20), (0, 20), (5, 25)] {
            done(w.update(token, bytes, 1).from(w.reporter())).await;
            assert_eq!(w.usage(token).await, sum, "{:?}", w.old);
        }
    }
}

#[tokio::test]
async fn the_last_byte_fits_and_one_more_is_refused() {
    for old in BOTH {
        let w = World::new(old).await;
        let token = w.mint(w.alice).await;
        let over = w.update(token, FREE_BYTES + 1, 1).from(w.reporter());
        assert_eq!(refusal(over).await, "Storage full");
        assert!(w.can_upload(token, FREE_BYTES).await);
        assert!(!w.can_upload(token, FREE_BYTES + 1).await);
        done(w.update(token, FREE_BYTES, 1).from(w.reporter())).await;
        let over = w.update(token, 1, 1).from(w.reporter());
        assert_eq!(refusal(over).await, "Storage full");
        assert!(w.can_upload(token, 0).await && !w.can_upload(token, 1).await);
        done(w.update(token, 0, 0).from(w.reporter())).await;
    }
}

#[tokio::test]
async fn only_the_token_owner_approved_accounts_or_contract_owner_write_usage() {
    let w = World::new(Old::V2).await;
    let token = w.mint(w.alice).await;
    let stranger = w.update(token, 1, 1).from(w.bob);
    assert_eq!(refusal(stranger).await, "!owner");
    done(w.px.approve(w.bob, token).from(w.alice)).await;
    for who in [w.alice, w.bob, w.owner] {
        done(w.update(token, 1, 1).from(who)).await;
    }
    assert_eq!(w.usage(token).await, 3);
    done(w.px.transferFrom(w.alice, w.bob, token).from(w.alice)).await;
    let seller = w.update(token, 1, 1).from(w.alice);
    assert_eq!(refusal(seller).await, "!owner");
    assert_eq!(w.usage(token).await, 3, "usage stays with the token");
    let absent = w.update(U256::from(77), 0, 0).from(w.owner);
    assert_eq!(refusal(absent).await, WORDLESS);
}

#[tokio::test]
async fn on_the_oldest_the_contracts_owner_alone_writes_usage() {
    let w = World::new(Old::V1).await;
    let token = w.mint(w.alice).await;
    done(w.px.approve(w.bob, token).from(w.alice)).await;
    for who in [w.alice, w.bob] {
        let told = refusal(w.update(token, 0, 0).from(who)).await;
        assert!(told.contains("OwnableUnauthorizedAccount"), "{told}");
    }
    done(w.update(token, 1, 0).from(w.owner)).await;
    assert_eq!(w.usage(token).await, 1);
    let absent = w.update(U256::from(77), 0, 0).from(w.owner);
    assert_eq!(refusal(absent).await, "Incorrect tokenId");
}

#[tokio::test]
async fn the_oldest_know_no_lock() {
    let w = World::new(Old::V1).await;
    let token = w.mint(w.alice).await;
    w.advance(400 * DAY).await;
    assert!(w.can_upload(token, FREE_BYTES).await && !w.can_upload(token, FREE_BYTES + 1).await);
}

#[tokio::test]
async fn an_upload_takes_units_and_without_units_nothing_is_taken() {
    let w = World::new(Old::V2).await;
    let token = w.mint(w.alice).await;
    assert_eq!(w.units(token).await, 25);
    done(w.update(token, 1, 1).from(w.alice)).await;
    done(w.update(token, 1, 20).from(w.alice)).await;
    assert_eq!(w.units(token).await, 4);
    done(w.update(token, 1, 9).from(w.alice)).await;
    assert_eq!(w.units(token).await, 0, "more than there is takes all");
    for bytes in [0, 1] {
        let empty = w.update(token, bytes, 0).from(w.alice);
        assert_eq!(refusal(empty).await, "No bandwidth");
    }
    let full = w.update(token, FREE_BYTES, 0).from(w.alice);
    assert_eq!(refusal(full).await, "Storage full", "that is told first");
    let asked = w.px.canUpload(token, U256::ZERO).call().await.unwrap();
    let told = (asked.can, asked.sizeOrBandwidthExceeded);
    assert_eq!((told, asked.timestampLock), ((false, true), false));
    assert_eq!(w.usage(token).await, 3);
}

#[tokio::test]
async fn units_are_bought_at_their_price() {
    let w = World::new(Old::V2).await;
    let token = w.mint(w.alice).await;
    let add = w.px.addNewBandwidthPackage(U256::from(3), U256::from(100));
    done(add.from(w.owner)).await;
    let listed = w.px.getAllBandwidthPackages().call().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].id, listed[0].price, listed[0].bandwidth),
        (U256::ZERO, U256::from(3), U256::from(100))
    );
    let buy = || w.px.buyMoreBandwidth(token, U256::ZERO);
    let cheap = buy().value(U256::from(2)).from(w.alice);
    assert_eq!(refusal(cheap).await, "Bandwidth price");
    let stranger = buy().value(U256::from(3)).from(w.bob);
    assert_eq!(refusal(stranger).await, "!owner");
    done(buy().value(U256::from(3)).from(w.alice)).await;
    assert_eq!(w.units(token).await, 125);
}

#[tokio::test]
async fn an_upgrade_grants_more_and_opens_the_lock() {
    for old in BOTH {
        let w = World::new(old).await;
        let token = w.mint(w.alice).await;
        done(w.update(token, 9, 1).from(w.reporter())).await;
        w.advance(40 * DAY).await;
        assert_eq!(w.can_upload(token, 0).await, w.old == Old::V1);
        let upgrade = || w.px.upgradeTokenPackage(token, U256::ONE);
        let wrong = upgrade().value(U256::from(6)).from(w.alice);
        assert_eq!(refusal(wrong).await, "Storage price");
        let stranger = upgrade().value(U256::from(7)).from(w.bob);
        assert_eq!(refusal(stranger).await, WORDLESS);
        done(upgrade().value(U256::from(7)).from(w.alice)).await;
        let again = upgrade().value(U256::from(7)).from(w.alice);
        assert_eq!(refusal(again).await, WORDLESS, "not larger");
        assert!(w.can_upload(token, (1 << 30) - 9).await);
        assert!(!w.can_upload(token, (1 << 30) - 8).await);
        if w.old == Old::V2 {
            assert_eq!(w.units(token).await, 25 - 1 + 50);
        }
    }
}

#[tokio::test]
async fn thirty_days_after_the_last_update_a_token_locks() {
    let w = World::new(Old::V2).await;
    let token = w.mint(w.alice).await;
    let updated = w.updated(token).await;
    w.chain.mine_at(updated + 30 * DAY).await;
    assert!(w.can_upload(token, 0).await, "not yet");
    w.chain.mine_at(updated + 30 * DAY + 1).await;
    assert!(!w.can_upload(token, 0).await);
    let asked = w.px.canUpload(token, U256::ZERO).call().await.unwrap();
    assert!(asked.timestampLock && !asked.sizeOrBandwidthExceeded);
    // An update of nothing opens it, and so does the contract's owner.
    done(w.update(token, 0, 0).from(w.alice)).await;
    assert!(w.can_upload(token, 0).await);
    assert_eq!(w.updated(token).await, w.chain.now().await);
    w.advance(31 * DAY).await;
    assert!(!w.can_upload(token, 0).await);
    let user = w.px.unlockUploading(token).from(w.alice);
    assert!(refusal(user).await.contains("OwnableUnauthorizedAccount"));
    done(w.px.unlockUploading(token).from(w.owner)).await;
    assert!(w.can_upload(token, 0).await);
    assert_eq!(w.usage(token).await, 0);
}

#[tokio::test]
async fn a_pause_stops_minting_and_nothing_else() {
    for old in BOTH {
        let w = World::new(old).await;
        let token = w.mint(w.alice).await;
        let user = w.px.pause(U256::ONE).from(w.alice);
        assert!(refusal(user).await.contains("OwnableUnauthorizedAccount"));
        done(w.px.pause(U256::ONE).from(w.owner)).await;
        assert_eq!(w.px.paused().call().await.unwrap(), U256::ONE);
        let mint = w.px.mint(U256::ZERO).from(w.bob);
        assert_eq!(refusal(mint).await, WORDLESS);
        done(w.update(token, 1, 1).from(w.reporter())).await;
        let upgrade = w.px.upgradeTokenPackage(token, U256::ONE);
        done(upgrade.value(U256::from(7)).from(w.alice)).await;
        done(w.px.transferFrom(w.alice, w.bob, token).from(w.alice)).await;
        done(w.px.pause(U256::ZERO).from(w.owner)).await;
        w.mint(w.bob).await;
    }
}

#[tokio::test]
async fn a_package_is_bought_once_free_or_at_its_price() {
    for old in BOTH {
        let w = World::new(old).await;
        let token = w.mint(w.alice).await;
        assert_eq!(token, U256::ONE, "tokens count from 1");
        let again = w.px.mint(U256::ZERO).from(w.alice);
        assert_eq!(refusal(again).await, "Already minted");
        for value in [6, 8] {
            let wrong = w.px.mint(U256::ONE).value(U256::from(value)).from(w.bob);
            assert_eq!(refusal(wrong).await, WORDLESS);
        }
        let off =
            w.px.activateDeactivatePackage(U256::ONE, U256::ZERO)
                .from(w.owner);
        done(off).await;
        let bought = || w.px.mint(U256::ONE).value(U256::from(7)).from(w.bob);
        assert_eq!(refusal(bought()).await, WORDLESS, "not on sale");
        let on =
            w.px.activateDeactivatePackage(U256::ONE, U256::ONE)
                .from(w.owner);
        done(on).await;
        done(bought()).await;
        assert_eq!(w.px.ownerOf(U256::from(2)).call().await.unwrap(), w.bob);
        assert_eq!(w.px._tokenIds().call().await.unwrap(), U256::from(2));
        assert!(w.can_upload(U256::from(2), 1 << 30).await);
    }
}

#[tokio::test]
async fn the_list_of_packages_has_upload_units_where_they_count() {
    let v1 = World::new(Old::V1).await;
    let free = &v1.v1().getAllPackages().call().await.unwrap()[0];
    assert_eq!(
        (free.sizeInBytes, free.active),
        (U256::from(FREE_BYTES), U256::ONE)
    );
    drop(v1);
    let v2 = World::new(Old::V2).await;
    let all = v2.px.getAllPackages().call().await.unwrap();
    let told: Vec<(u64, u64, u64, u64)> = all
        .iter()
        .map(|package| {
            let bytes = package.sizeInBytes.to();
            let units = package.bandwidthLimit.to();
            (package.id.to(), bytes, units, package.price.to())
        })
        .collect();
    assert_eq!(told, [(0, FREE_BYTES, 25, 0), (1, 1 << 30, 50, 7)]);
}

#[tokio::test]
async fn a_small_text_is_kept_for_the_token() {
    let w = World::new(Old::V2).await;
    let token = w.mint(w.alice).await;
    let (key, text) = ("a key".to_owned(), r#"{"cid": "Qm"}"#.to_owned());
    let write =
        |key: &str, text: &str| w.px.addExtraContent(token, key.to_owned(), text.to_owned());
    let absent = w.px.getExtraContent(token, key.clone()).call().await;
    assert_eq!(reason(&absent.unwrap_err()), "Invalid Hash");
    for who in [w.bob, w.owner] {
        assert_eq!(refusal(write(&key, "no").from(who)).await, "!owner");
    }
    done(write(&key, "first").from(w.alice)).await;
    done(w.px.approve(w.bob, token).from(w.alice)).await;
    done(write(&key, &text).from(w.bob)).await;
    let read = w.px.getExtraContent(token, key.clone());
    assert_eq!(read.from(w.owner).call().await.unwrap(), text);
    // Empty is not absent, and another key is another text.
    done(write("other", "").from(w.alice)).await;
    let other = w.px.getExtraContent(token, "other".to_owned()).call().await;
    assert_eq!(other.unwrap(), "");
    done(w.px.transferFrom(w.alice, w.bob, token).from(w.alice)).await;
    let kept = w.px.getExtraContent(token, key).call().await;
    assert_eq!(kept.unwrap(), text, "it stays with the token");
}

#[tokio::test]
async fn the_dialects_differ_in_the_number_of_words() {
    for old in BOTH {
        let w = World::new(old).await;
        let token = w.mint(w.alice).await;
        let (fields, words) = match w.old {
            Old::V1 => (8, 1),
            Old::V2 => (9, 3),
        };
        let asked = w.can_upload_raw(token, 0).await;
        assert_eq!(asked.len(), 32 * words);
        let read = PxV2::pxStorageCall { tokenId: token };
        let read = w.raw(read.abi_encode()).await;
        // The first text lies behind the fields.
        let offset = U256::from_be_slice(&read[..32]);
        assert_eq!(offset, U256::from(32 * fields));
    }
}

#[tokio::test]
async fn a_nonexistent_token_reads_as_zeros_and_has_no_owner() {
    for old in BOTH {
        let w = World::new(old).await;
        w.mint(w.alice).await;
        for token in [U256::ZERO, U256::from(2), U256::MAX] {
            assert_eq!(w.usage(token).await, 0);
            assert_eq!(w.updated(token).await, 0);
            let owner = w.px.ownerOf(token).call().await.unwrap_err();
            assert_eq!(reason(&owner), "ERC721: invalid token ID");
        }
    }
}

#[tokio::test]
async fn a_wallets_tokens_cannot_be_listed() {
    for old in BOTH {
        let w = World::new(old).await;
        w.mint(w.alice).await;
        let spoken = async |id: [u8; 4]| {
            let asked = w.px.supportsInterface(FixedBytes(id)).call().await;
            asked.unwrap()
        };
        assert!(spoken(hex!("80ac58cd")).await, "ERC-721");
        assert!(!spoken(hex!("780e9d63")).await, "its enumeration");
        assert!(!spoken(hex!("fcf82eae")).await, "px-sync");
        let list = first_of(w.alice);
        let request = TransactionRequest::default()
            .to(*w.px.address())
            .input(list.into());
        assert!(w.chain.provider.call(request).await.is_err());
    }
}

/// `tokenOfOwnerByIndex(owner, 0)`.
fn first_of(owner: Address) -> Vec<u8> {
    alloy::sol!(
        function tokenOfOwnerByIndex(address owner, uint256 index) external view returns (uint256);
    );
    let index = U256::ZERO;
    tokenOfOwnerByIndexCall { owner, index }.abi_encode()
}

#[tokio::test]
async fn a_market_sees_usage_capacity_and_units() {
    for old in BOTH {
        let w = World::new(old).await;
        let token = w.mint(w.alice).await;
        done(w.update(token, FREE_BYTES / 2, 1).from(w.reporter())).await;
        let uri = w.px.tokenURI(token).call().await.unwrap();
        let json = uri.strip_prefix("data:application/json;base64,").unwrap();
        let json = BASE64.decode(json.as_bytes()).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let image = json["image"].as_str().unwrap();
        assert!(image.starts_with("data:image/svg+xml;base64,"));
        assert_eq!(json["attributes"][0]["value"], 50);
        assert_eq!(json["attributes"][1]["value"], "100MB");
        match w.old {
            Old::V1 => assert_eq!(json["attributes"].as_array().unwrap().len(), 2),
            Old::V2 => assert_eq!(json["attributes"][2]["value"], "24"),
        }
    }
}

/// As measured of the contract that PollinationX publishes, compiled unchanged. What is too cheap here
/// hides every bound on what may be spent.
#[tokio::test]
async fn each_change_of_a_token_costs_what_the_deployed_contract_asks() {
    let w = World::new(Old::V2).await;
    let used = |receipt: TransactionReceipt| receipt.gas_used;
    let free = done(w.px.mint(U256::ZERO).from(w.alice)).await;
    let token = minted(&free);
    let first = used(done(w.update(token, 1_000_000, 1).from(w.alice)).await);
    let later = used(done(w.update(token, 60_000_000, 1).from(w.alice)).await);
    let larger = w.px.upgradeTokenPackage(token, U256::ONE);
    let larger = used(done(larger.value(U256::from(7)).from(w.alice)).await);
    // As long as what a drive keeps there.
    let (key, text) = ("pxfs".to_owned(), "v".repeat(200));
    let content = used(done(w.px.addExtraContent(token, key, text).from(w.alice)).await);
    for (what, used, real) in [
        ("mint", used(free), 3_819_098),
        ("the first update", first, 869_000),
        ("a later update", later, 912_000),
        ("an upgrade", larger, 948_231),
        ("the first extra content", content, 230_000),
    ] {
        let within = real / 10;
        assert!(
            used.abs_diff(real) <= within,
            "{what}: {used}, and the deployed one {real}"
        );
    }
}

#[tokio::test]
async fn the_owner_names_a_package_as_he_likes() {
    for old in BOTH {
        let w = World::new(old).await;
        let token = w.mint(w.alice).await;
        let name = |name: &str| w.px.updateTokenPackageName(token, name.to_owned());
        assert_eq!(refusal(name("no").from(w.bob)).await, "!owner");
        done(name("holiday \"pictures\"").from(w.alice)).await;
        let read = w.v1().pxStorage(token).call().await.unwrap();
        assert_eq!(read.name, "holiday \"pictures\"");
    }
}
