//! The BTNS key of a token: its form, and who assigns it when.

use alloy::primitives::U256;

use crate::world::*;

/// `KEY` with its character at `at` replaced.
fn with(at: usize, c: char) -> String {
    let mut chars: Vec<char> = KEY.chars().collect();
    chars[at] = c;
    chars.into_iter().collect()
}

#[tokio::test]
async fn only_a_name_of_62_base36_characters_is_taken_as_a_key() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let mut bad = vec![
        String::new(),
        "k51".to_owned(),
        KEY[..61].to_owned(),
        format!("{KEY}0"),
        KEY.to_uppercase(),
        with(0, 'K'),
        with(0, 'z'),
        with(1, '6'),
        with(2, '2'),
        // As long in bytes as a key is, but not in ASCII.
        format!("{}é", &KEY[..60]),
    ];
    // The neighbours of the two ranges, at both ends of the text.
    for c in ['/', ':', '`', '{', '_', '-', ' ', '"', '\0', '\n', 'A', 'Z'] {
        bad.push(with(3, c));
        bad.push(with(61, c));
    }
    for key in bad {
        let register = w.px.register(token, key.clone()).from(w.alice);
        assert_eq!(refusal(register).await, "not a btns key", "{key:?}");
    }
    let mint = w.px.mint_0(U256::ZERO, with(30, 'A')).from(w.bob);
    assert_eq!(refusal(mint).await, "not a btns key");

    for c in ['0', '9', 'a', 'z'] {
        done(w.px.register(token, with(3, c)).from(w.alice)).await;
        done(w.px.register(token, with(61, c)).from(w.alice)).await;
        assert_eq!(w.px.btnsKey(token).call().await.unwrap(), with(61, c));
    }
}

#[tokio::test]
async fn a_token_minted_with_a_key_is_registered_at_once() {
    let w = World::new().await;
    let receipt = done(w.px.mint_0(U256::ZERO, KEY.to_owned()).from(w.alice)).await;
    let event = the::<PxSync::Registered>(&receipt);
    assert_eq!(
        (event.tokenId, event.epoch, event.btnsKey.as_str()),
        (U256::ONE, 1, KEY)
    );
    assert_eq!(w.px.btnsKey(U256::ONE).call().await.unwrap(), KEY);
    assert_eq!(w.px.epoch(U256::ONE).call().await.unwrap(), 1);
}

#[tokio::test]
async fn a_token_minted_without_a_key_cannot_sync_until_it_is_registered() {
    let w = World::new().await;
    let receipt = done(w.px.mint_1(U256::ZERO).from(w.alice)).await;
    let token = minted(&receipt);
    assert!(events::<PxSync::Registered>(&receipt).is_empty());
    assert_eq!(w.px.btnsKey(token).call().await.unwrap(), "");
    assert_eq!(w.px.epoch(token).call().await.unwrap(), 1);
    assert_eq!(
        refusal(w.px.sync(token).from(w.alice)).await,
        "not registered"
    );

    let receipt = done(w.px.register(token, KEY.to_owned()).from(w.alice)).await;
    let event = the::<PxSync::Registered>(&receipt);
    assert_eq!(
        (event.tokenId, event.epoch, event.btnsKey.as_str()),
        (token, 2, KEY)
    );
    w.synced(token, 9, 0, ROOT).await;
}

#[tokio::test]
async fn only_the_tokens_owner_assigns_its_key() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    done(w.px.approve(w.bob, token).from(w.alice)).await;
    done(w.px.setApprovalForAll(w.bob, true).from(w.alice)).await;
    for other in [w.bob, w.owner, w.oracle] {
        let call = w.px.register(token, OTHER_KEY.to_owned()).from(other);
        assert_eq!(refusal(call).await, "!owner");
    }
    let nowhere =
        w.px.register(U256::from(2), OTHER_KEY.to_owned())
            .from(w.alice);
    assert!(refusal(nowhere).await.contains("ERC721NonexistentToken"));
    assert_eq!(w.px.btnsKey(token).call().await.unwrap(), KEY);
}

#[tokio::test]
async fn two_tokens_may_have_the_same_key() {
    let w = World::new().await;
    let (one, two) = (w.mint(w.alice, 0).await, w.mint(w.bob, 0).await);
    assert_eq!(w.px.btnsKey(one).call().await.unwrap(), KEY);
    assert_eq!(w.px.btnsKey(two).call().await.unwrap(), KEY);
}
