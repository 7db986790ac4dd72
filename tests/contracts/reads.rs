//! What apps and markets read: the older contracts' answers, ERC-165, ERC-721, metadata.

use alloy::primitives::FixedBytes;
use alloy::primitives::{Address, B256, U256, hex, keccak256};
use data_encoding::BASE64;

use crate::world::*;

#[tokio::test]
async fn a_token_reads_as_on_the_older_contracts() {
    let w = World::new().await;
    let token = w.mint(w.alice, 2).await;
    let bought = w.now().await;
    w.advance(DAY).await;
    w.synced(token, 2 << 30, 1, ROOT).await;
    let read = w.px.pxStorage(token).call().await.unwrap();
    assert_eq!(
        (read.name.as_str(), read.storageUnit.as_str()),
        ("5GB", "GB")
    );
    assert_eq!(read.usage, U256::from(2u64 << 30));
    assert_eq!(read.usagePercentage, U256::from(40));
    assert_eq!(read.size, U256::from(5));
    assert_eq!(read.sizeInBytes, U256::from(5u64 << 30));
    assert_eq!(read.buyTimestamp, U256::from(bought));
    assert_eq!(read.lastUpdateTimestamp, U256::from(w.now().await));
    assert_eq!(read.bandwidth, U256::MAX);
    assert_eq!(
        w.px.getStorageUsageInBytes(token).call().await.unwrap(),
        read.usage
    );
}

#[tokio::test]
async fn can_upload_tells_the_last_byte_that_fits() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    w.synced(token, FREE_BYTES - 10, 1, ROOT).await;
    for (more, fits) in [
        (U256::ZERO, true),
        (U256::from(10), true),
        (U256::from(11), false),
        (U256::MAX, false),
    ] {
        let answer = w.px.canUpload(token, more).call().await.unwrap();
        assert_eq!(answer.can, fits, "{more}");
        assert_eq!(answer.sizeOrBandwidthExceeded, !fits);
        assert!(!answer.timestampLock);
    }
}

#[tokio::test]
async fn the_older_way_to_write_usage_is_closed_to_everyone() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    for who in [w.alice, w.owner, w.oracle] {
        let call =
            w.px.updateStorageUsage(token, U256::ZERO, U256::ZERO)
                .from(who);
        assert_eq!(refusal(call).await, "use sync");
    }
}

#[tokio::test]
async fn reads_of_a_token_that_does_not_exist_are_refused() {
    let w = World::new().await;
    w.mint(w.alice, 0).await;
    for token in [U256::ZERO, U256::from(2), U256::MAX] {
        let answers = [
            w.px.tokenInfo(token).call().await.err(),
            w.px.pxStorage(token).call().await.err(),
            w.px.canUpload(token, U256::ZERO).call().await.err(),
            w.px.getStorageUsageInBytes(token).call().await.err(),
            w.px.tokenURI(token).call().await.err(),
            w.px.btnsKey(token).call().await.err(),
            w.px.epoch(token).call().await.err(),
            w.px.ownerOf(token).call().await.err(),
        ];
        for answer in answers {
            let error = answer.expect("no such token");
            assert!(reason(&error).contains("ERC721NonexistentToken"));
        }
    }
}

#[tokio::test]
async fn one_call_tells_all_of_a_token() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let bought = w.now().await;
    w.synced(token, 1000, 7, ROOT).await;
    let updated = w.now().await;
    let request = w.request(w.alice, token).await;
    let expected = TokenInfo {
        tokenId: token,
        owner: w.alice,
        packageId: U256::ZERO,
        packageName: "100MB".to_owned(),
        sizeInBytes: U256::from(FREE_BYTES),
        usage: U256::from(1000),
        buyTimestamp: bought,
        lastUpdateTimestamp: updated,
        syncWindow: U256::from(30 * DAY),
        epoch: 1,
        btnsKey: KEY.to_owned(),
        synced: true,
        sequence: 7,
        root: ROOT,
        requestId: request,
        requestedAt: w.now().await,
    };
    assert_eq!(w.info(token).await, expected);
}

#[tokio::test]
async fn a_wallets_tokens_are_listed_in_pages() {
    let w = World::new().await;
    done(w.px.updatePackagePrice(U256::ONE, U256::ZERO).from(w.owner)).await;
    for _ in 0..3 {
        w.mint(w.alice, 1).await;
    }
    w.mint(w.bob, 1).await;
    w.transfer(w.bob, w.alice, U256::from(4)).await;
    w.transfer(w.alice, w.bob, U256::from(1)).await;

    let list = async |who: Address, from: U256, limit: U256| {
        let tokens = w.px.tokensOf(who, from, limit).call().await.unwrap();
        for token in &tokens {
            assert_eq!(*token, w.info(token.tokenId).await);
        }
        tokens
            .iter()
            .map(|token| token.tokenId.to::<u64>())
            .collect::<Vec<_>>()
    };
    let mut all = list(w.alice, U256::ZERO, U256::MAX).await;
    let mut pages = list(w.alice, U256::ZERO, U256::from(2)).await;
    pages.extend(list(w.alice, U256::from(2), U256::from(2)).await);
    assert_eq!(all, pages);
    all.sort_unstable();
    assert_eq!(all, [2, 3, 4]);
    assert_eq!(list(w.bob, U256::ZERO, U256::MAX).await, [1]);
    assert!(list(w.alice, U256::from(3), U256::MAX).await.is_empty());
    assert!(list(w.alice, U256::MAX, U256::MAX).await.is_empty());
    assert!(list(w.owner, U256::ZERO, U256::MAX).await.is_empty());
    assert_eq!(w.px.balanceOf(w.alice).call().await.unwrap(), U256::from(3));
}

#[tokio::test]
async fn erc165_tells_the_dialect_from_the_others() {
    let w = World::new().await;
    // The dialect's own id: the functions of IPxSync, xored.
    let signatures = [
        "mint(uint256,string)",
        "mint(uint256)",
        "register(uint256,string)",
        "sync(uint256)",
        "btnsKey(uint256)",
        "epoch(uint256)",
        "syncFee()",
        "minSyncInterval()",
        "syncWindow()",
        "tokenInfo(uint256)",
        "tokensOf(address,uint256,uint256)",
    ];
    let mut own = [0u8; 4];
    for signature in signatures {
        for (sum, byte) in own.iter_mut().zip(keccak256(signature).iter()) {
            *sum ^= byte;
        }
    }
    let spoken = [
        ("px-sync", own),
        ("px-sync, as the README tells it", hex!("fcf82eae")),
        ("IReceiver", hex!("805f2132")),
        ("ERC-165", hex!("01ffc9a7")),
        ("ERC-721", hex!("80ac58cd")),
        ("ERC-721 metadata", hex!("5b5e139f")),
        ("ERC-721 enumeration", hex!("780e9d63")),
        ("ERC-4906", hex!("49064906")),
    ];
    for (name, id) in spoken {
        let spoken = w.px.supportsInterface(FixedBytes(id)).call().await.unwrap();
        assert!(spoken, "{name} {}", hex::encode(id));
    }
    for id in [hex!("ffffffff"), hex!("00000000"), hex!("12345678")] {
        assert!(!w.px.supportsInterface(FixedBytes(id)).call().await.unwrap());
    }
}

#[tokio::test]
async fn the_token_uri_is_json_that_a_market_can_show() {
    let w = World::new().await;
    let token = w.mint(w.alice, 1).await;
    w.synced(token, 1 << 29, 1, ROOT).await;
    let uri = w.px.tokenURI(token).call().await.unwrap();
    let json = decode(&uri, "data:application/json;base64,");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(json["name"], "PollinationX #1");
    let attribute = |name: &str| {
        let all = json["attributes"].as_array().expect("a list");
        all.iter()
            .find(|a| a["trait_type"] == name)
            .map(|a| a["value"].clone())
    };
    assert_eq!(attribute("Usage"), Some(50.into()));
    assert_eq!(attribute("Capacity"), Some("1GB".into()));
    assert_eq!(attribute("Bandwidth"), Some("unlimited".into()));
    assert_eq!(attribute("Last sync"), Some(w.now().await.into()));
    let image = json["image"].as_str().expect("a picture");
    let svg = String::from_utf8(decode(image, "data:image/svg+xml;base64,")).expect("text");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>"));
    assert!(
        svg.contains(">1GB</text>") && svg.contains(r#"width="50""#),
        "{svg}"
    );

    // The bar of an overfull token ends where the picture does.
    w.synced(token, 9 << 30, 2, B256::ZERO).await;
    let uri = w.px.tokenURI(token).call().await.unwrap();
    let json: serde_json::Value =
        serde_json::from_slice(&decode(&uri, "data:application/json;base64,")).expect("JSON");
    assert_eq!(json["attributes"][0]["value"], 900);
    let svg = decode(
        json["image"].as_str().expect("a picture"),
        "data:image/svg+xml;base64,",
    );
    assert!(!String::from_utf8(svg).expect("text").contains("900"));
}

fn decode(uri: &str, prefix: &str) -> Vec<u8> {
    let text = uri.strip_prefix(prefix).expect("a data: URI");
    BASE64.decode(text.as_bytes()).expect("base64")
}
