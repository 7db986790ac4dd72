//! External signers: anvil, which signs for its own accounts, and a proxy in front.

use alloy::eips::Encodable2718;
use alloy::network::TransactionBuilder;
use alloy::primitives::{U256, b256, hex};
use alloy::signers::local::PrivateKeySigner;

use super::*;
use crate::ChainError;
use crate::endpoint::Endpoint;
use crate::http::proxy::{Mode, Proxy};
use crate::signer::Signer;
use crate::tests::anvil::Anvil;
use crate::transact::Transactor;
use std::sync::Arc;

const ACCOUNT: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";

/// A chain, another anvil that signs, and a proxy before it.
async fn site() -> (Anvil, Anvil, Proxy, Transactor) {
    let (chain, signer) = (Anvil::start(&[]), Anvil::start(&[]));
    let proxy = Proxy::before(signer.url()).await;
    let place = Place::new(&proxy.url, Duration::from_secs(2)).unwrap();
    let remote = RemoteSigner::at(place, ACCOUNT.parse().unwrap());
    let endpoint = Endpoint::http(chain.url()).unwrap();
    let payer = Transactor::signed_by(endpoint, Signer::Remote(Arc::new(remote)));
    (chain, signer, proxy, payer)
}

async fn pay(payer: &Transactor, wei: u64) -> Result<(), ChainError> {
    let to = Some(Address::repeat_byte(9));
    let sent = payer.send(to, Bytes::from(vec![1, 2, 3]), U256::from(wei), None);
    sent.await.map(drop)
}

#[tokio::test]
async fn a_signer_elsewhere_is_asked_for_one_signature_and_nothing_else() {
    let (_chain, _signer, proxy, payer) = site().await;
    pay(&payer, 1).await.unwrap();
    let asked = proxy.asked();
    assert_eq!(asked, ["account_version", "eth_signTransaction"]);
    pay(&payer, 2).await.unwrap();
    assert_eq!(proxy.asked(), ["eth_signTransaction"]);
}

/// A person is not asked the same again and again.
#[tokio::test]
async fn a_signers_refusal_is_reported_and_not_retried_unasked() {
    let (_chain, _signer, proxy, payer) = site().await;
    pay(&payer, 1).await.unwrap();
    let unasked = payer.unasked().with_gas_cost_max(Some(U256::MAX));
    proxy.asked();
    proxy.set(Mode::Refuse(-32000, "Request denied\n\u{1b}[2J"));
    for _ in 0..3 {
        let told = pay(&unasked, 5).await.unwrap_err();
        assert!(matches!(told, ChainError::Signer(_)), "{told}");
        let told = told.to_string();
        assert!(
            told.contains("refuses") && told.contains("Request denied"),
            "{told}"
        );
        assert!(
            told.lines().count() == 1 && !told.contains('\u{1b}'),
            "{told}"
        );
    }
    assert_eq!(proxy.asked(), ["eth_signTransaction"]);
    // Another transaction is another question.
    pay(&unasked, 6).await.unwrap_err();
    assert_eq!(proxy.asked(), ["eth_signTransaction"]);
    proxy.set(Mode::Well);
    pay(&unasked, 5).await.unwrap_err();
    pay(&payer, 5).await.unwrap();
    pay(&unasked, 5).await.unwrap();
}

#[tokio::test]
async fn a_signer_that_answers_nothing_or_nonsense_ends_in_one_line() {
    let (_chain, _signer, proxy, payer) = site().await;
    pay(&payer, 1).await.unwrap();
    for (mode, words) in [
        (Mode::Hang, "has not answered"),
        (Mode::Flood, "without end"),
        (Mode::Say("<html>"), "no JSON-RPC"),
        (
            Mode::Say("{\"result\":\"0x1234\"}"),
            "no signed transaction",
        ),
        (Mode::Refuse(-32601, "no such method"), "does not know"),
        (Mode::Close, "breaks the connection off"),
    ] {
        proxy.set(mode);
        let told = pay(&payer, 7).await.unwrap_err();
        assert!(matches!(told, ChainError::Signer(_)), "{told}");
        assert!(told.to_string().contains(words), "{told}");
    }
    drop(proxy);
    let told = pay(&payer, 8).await.unwrap_err().to_string();
    assert!(told.contains("cannot be reached"), "{told}");
}

/// It has signed for the account, but to pay somebody else.
#[tokio::test]
async fn a_signer_that_signs_something_else_has_nothing_sent() {
    let (_chain, _signer, proxy, payer) = site().await;
    pay(&payer, 1).await.unwrap();
    let key = b256!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80");
    let theirs = TransactionRequest::default()
        .with_to(Address::repeat_byte(66))
        .with_value(U256::from(1_000))
        .with_nonce(1)
        .with_chain_id(31337)
        .with_gas_limit(50_000)
        .with_max_fee_per_gas(10_000_000_000)
        .with_max_priority_fee_per_gas(1_000_000_000);
    let signer = Signer::Local(PrivateKeySigner::from_bytes(&key).unwrap());
    let signed = signer.sign(theirs).await.unwrap().encoded_2718();
    let answer = format!("{{\"result\":\"{}\"}}", hex::encode_prefixed(signed));
    proxy.set(Mode::Say(answer.leak()));
    let told = pay(&payer, 7).await.unwrap_err();
    assert!(matches!(told, ChainError::Signer(_)), "{told}");
    assert!(told.to_string().contains("another transaction"), "{told}");
    proxy.set(Mode::Well);
    assert_eq!(payer.next_nonce().await.unwrap(), 1);
}

#[tokio::test]
async fn only_a_signer_with_several_accounts_needs_an_address() {
    let several = Anvil::start(&["--accounts", "2"]);
    let told = RemoteSigner::open(several.url(), None).await.err().unwrap();
    assert!(told.to_string().contains("--address"), "{told}");
    let one = Anvil::start(&["--accounts", "1"]);
    let found = RemoteSigner::open(one.url(), None).await.unwrap();
    assert_eq!(found.address().to_string(), ACCOUNT);
    found.check().await.unwrap();
}
