//! The BTNS key of a token: its form, and who assigns it when.

use alloy::primitives::U256;

use pxfs::names::key::NameKey;

use crate::world::*;

/// The names of the keys of 32 bytes 0x00 and of 32 bytes 0xff.
const NAME_OF_ZERO: &str = "k51qzi5uqu5dg6l7sg2ssb5uefnq8g7g1d6n6j2zsio0o0k7snyb11p8myhxxc";
const NAME_OF_ONES: &str = "k51qzi5uqu5dmkadisduutrwhobhcd351viuwscvsltkaymqovgho5slq61rlr";

/// A name whose number is one greater; the last digit is below `z`.
fn plus_one(name: &str) -> String {
    let (rest, last) = name.split_at(61);
    let digit = u32::from_str_radix(last, 36).expect("a base36 digit");
    let next = char::from_digit(digit + 1, 36).expect("below z");
    format!("{rest}{next}")
}

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
        done(w.px.register(token, with(61, c)).from(w.alice)).await;
        assert_eq!(w.px.btnsKey(token).call().await.unwrap(), with(61, c));
    }
}

/// A token whose name no oracle can look up could never be synced.
#[tokio::test]
async fn a_name_of_something_else_than_an_ed25519_key_is_refused() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    for (key, what) in [
        (with(3, '0'), "another prefix"),
        (NAME_OF_ZERO.to_owned(), "the key of 32 zero bytes"),
        (plus_one(NAME_OF_ONES), "the number after the last key"),
    ] {
        let register = w.px.register(token, key).from(w.alice);
        assert_eq!(refusal(register).await, "not a btns key", "{what}");
    }
}

#[tokio::test]
async fn every_name_is_read_back_as_it_was_given() {
    let w = World::new().await;
    let token = w.mint(w.alice, 0).await;
    let random = (0..20).map(|_| NameKey::random().name());
    let first = plus_one(NAME_OF_ZERO);
    for key in random.chain([first, NAME_OF_ONES.to_owned()]) {
        let receipt = done(w.px.register(token, key.clone()).from(w.alice)).await;
        assert_eq!(the::<PxSync::Registered>(&receipt).btnsKey, key);
        assert_eq!(w.px.btnsKey(token).call().await.unwrap(), key);
        assert_eq!(w.info(token).await.btnsKey, key);
    }
    let key = w.info(token).await.btnsKey;
    let asked = the::<PxSync::SyncRequested>(&done(w.px.sync(token).from(w.alice)).await);
    assert_eq!(asked.btnsKey, key);
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
