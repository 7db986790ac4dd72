//! One suite for every transport: the embedded chain and a chain over HTTP behave alike.
//!
//! Each test runs on an embedded chain and its own anvil; addresses, gas, reverts and logs must be
//! equal.

use std::sync::Arc;
use std::time::Duration;

use alloy::eips::BlockId;
use alloy::network::TransactionBuilder;
use alloy::primitives::{Address, B256, Bytes, Log, U256, b256};
use alloy::providers::{Provider, ProviderBuilder};
use alloy::rpc::types::{Filter, TransactionRequest};
use alloy::sol_types::{SolEvent, SolValue};
use zeroize::Zeroizing;

use self::anvil::Anvil;
use super::ChainError;
use super::contract::PxSync;
use super::deploy::{Deployment, deploy};
use super::embedded::{Genesis, Handle};
use super::endpoint::Endpoint;
use super::ledger::ContractLedger;
use super::transact::{self, Transactor};
use super::wallet::Wallet;
use pxfs_base::clock::SystemClock;
use pxfs_base::types::TokenId;

/// anvil's first funded account; funded on the embedded chains here too.
const RICH: B256 = b256!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80");
/// A name that the contract takes.
const NAME: &str = "k51qzi5uqu5dgutdk6i1ynyzgkqngpha5xpgia3a5qqp4jsh0u4csozksxel2r";

#[path = "../../../tests/common/anvil.rs"]
pub(super) mod anvil;

/// A chain under test, with a fresh account of a thousand coins.
pub(super) struct Site {
    pub(super) endpoint: Endpoint,
    pub(super) payer: Transactor,
    pub(super) wallet: Wallet,
    /// Its process, if any.
    _anvil: Option<Anvil>,
}

/// The same fresh account everywhere, so that addresses match.
async fn sites() -> Vec<Site> {
    let secret = *Wallet::random().unwrap().secret();
    let anvil = Anvil::start(&[]);
    let over_http = Endpoint::http(anvil.url()).unwrap();
    let mut sites = Vec::new();
    for (endpoint, anvil) in [(embedded(), None), (over_http, Some(anvil))] {
        let wallet = Wallet::from_secret(Zeroizing::new(secret)).unwrap();
        give(&endpoint, wallet.address()).await;
        sites.push(Site {
            payer: Transactor::new(endpoint.clone(), &wallet),
            endpoint,
            wallet,
            _anvil: anvil,
        });
    }
    sites
}

pub(super) fn rich() -> Wallet {
    Wallet::from_secret(Zeroizing::new(RICH.0)).unwrap()
}

/// An in-memory embedded chain, on which [`rich`] has coins.
pub(super) fn embedded_handle() -> Handle {
    let genesis = Genesis::default().fund([rich().address()]);
    Handle::memory(&genesis, Arc::new(SystemClock)).unwrap()
}

fn embedded() -> Endpoint {
    Endpoint::embedded(&embedded_handle())
}

pub(super) async fn give(endpoint: &Endpoint, to: Address) {
    let coins = U256::from(10).pow(U256::from(21));
    let rich = Transactor::new(endpoint.clone(), &rich());
    let given = rich.send(Some(to), Bytes::new(), coins, None).await;
    given.expect("the chain's first account pays");
}

/// Runs `test` on every chain; all results must be equal.
pub(super) async fn everywhere<T: PartialEq + std::fmt::Debug>(
    test: impl AsyncFn(&Site) -> T,
) -> T {
    let mut seen: Option<T> = None;
    for site in sites().await {
        let here = test(&site).await;
        if let Some(before) = &seen {
            assert_eq!(*before, here, "differs on {}", site.endpoint.label());
        }
        seen = Some(here);
    }
    seen.unwrap()
}

pub(super) async fn suite(site: &Site) -> Deployment {
    let operators = [site.payer.address()];
    deploy(&site.payer, &operators, 1).await.unwrap()
}

fn reason(fault: ChainError) -> String {
    assert!(matches!(fault, ChainError::Reverted(_)), "{fault:?}");
    fault.to_string()
}

#[tokio::test]
async fn a_token_is_minted_found_synced_and_given_away() {
    everywhere(async |site| {
        let suite = suite(site).await;
        let owner = site.payer.address();
        let ledger = ContractLedger::new(site.endpoint.clone(), suite.contract, owner);
        assert_eq!(ledger.snapshot().await.unwrap().tokens, []);
        assert!(matches!(
            ledger.token(TokenId::from(1)).await,
            Err(ChainError::Missing(_))
        ));

        let nonce = site.payer.next_nonce().await.unwrap();
        let minted = site
            .payer
            .mint(suite.contract, 0, NAME, nonce)
            .await
            .unwrap();
        assert_eq!(site.payer.next_nonce().await.unwrap(), nonce + 1);
        let bare = site.payer.mint_bare(suite.contract, 1).await.unwrap();
        let snapshot = ledger.snapshot().await.unwrap();
        let names: Vec<_> = snapshot
            .tokens
            .iter()
            .map(|token| (token.id, token.name.clone()))
            .collect();
        assert_eq!(
            names,
            [(minted.token, Some(NAME.to_owned())), (bare.token, None)]
        );
        let token = &snapshot.tokens[0];
        assert_eq!(token, &ledger.token(minted.token).await.unwrap());
        assert_eq!(
            (token.size_bytes, token.usage_bytes, token.epoch),
            (100 << 20, 0, 1)
        );
        assert_eq!(
            (token.sequence, token.root, token.sync_asked_s),
            (None, None, None)
        );
        assert!(snapshot.timestamp_s >= token.last_sync_s);

        let open = site.payer.open_sync(suite.contract, minted.token).await;
        assert_eq!(open.unwrap(), None);
        let request = site.payer.sync(suite.contract, minted.token).await.unwrap();
        let open = site.payer.open_sync(suite.contract, minted.token).await;
        let asked = open.unwrap().unwrap();
        assert_eq!(
            (asked.request, asked.mined.block),
            (request.request, request.mined.block)
        );
        let asked_s = ledger.token(minted.token).await.unwrap().sync_asked_s;
        assert!(asked_s >= Some(snapshot.timestamp_s), "{asked_s:?}");
        let waited = site
            .payer
            .wait_synced(suite.contract, &request, Duration::from_millis(50))
            .await;
        assert!(matches!(waited, Err(ChainError::Oracle(_))));

        let other = Address::repeat_byte(7);
        site.payer
            .transfer(suite.contract, minted.token, other)
            .await
            .unwrap();
        let left: Vec<_> = ledger.snapshot().await.unwrap().tokens;
        assert_eq!(
            left.iter().map(|token| token.id).collect::<Vec<_>>(),
            [bare.token]
        );
        let gone = ledger.token(minted.token).await.unwrap();
        assert_eq!((gone.owner, gone.epoch, gone.name), (other, 2, None));
        (minted.token, bare.token, suite.contract, suite.forwarder)
    })
    .await;
}

#[tokio::test]
async fn what_would_revert_is_told_before_it_is_paid_for() {
    let reasons = everywhere(async |site| {
        let suite = suite(site).await;
        let contract = suite.contract;
        let nonce = site.payer.next_nonce().await.unwrap();
        let mut reasons = vec![
            reason(
                site.payer
                    .mint(contract, 0, "k51short", nonce)
                    .await
                    .unwrap_err(),
            ),
            reason(
                site.payer
                    .sync(contract, TokenId::from(1))
                    .await
                    .unwrap_err(),
            ),
        ];
        let minted = site.payer.mint(contract, 0, NAME, nonce).await.unwrap();
        let before = site.payer.next_nonce().await.unwrap();
        let again = site.payer.mint(contract, 0, NAME, before).await;
        reasons.push(reason(again.unwrap_err()));
        site.payer.sync(contract, minted.token).await.unwrap();
        let twice = site.payer.sync(contract, minted.token).await;
        reasons.push(reason(twice.unwrap_err()));
        let stranger = Transactor::new(site.endpoint.clone(), &Wallet::random().unwrap());
        let theirs = stranger.register(contract, minted.token, NAME, 0).await;
        reasons.push(reason(theirs.unwrap_err()));
        assert_eq!(
            site.payer.next_nonce().await.unwrap(),
            before + 1,
            "one was paid for"
        );
        let unknown = site.payer.mint(contract, 77, NAME, before + 1).await;
        assert!(matches!(unknown, Err(ChainError::Missing(_))));
        reasons
    })
    .await;
    assert_eq!(
        reasons,
        [
            "transaction: reverted: not a btns key",
            "transaction: reverted: token 1 does not exist",
            "transaction: reverted: free package already minted",
            "transaction: reverted: sync already requested",
            "transaction: reverted: !owner",
        ]
    );
}

#[tokio::test]
async fn a_wallet_without_money_is_told_so() {
    everywhere(async |site| {
        let suite = suite(site).await;
        let poor = Transactor::new(site.endpoint.clone(), &Wallet::random().unwrap());
        let fault = poor.mint_bare(suite.contract, 1).await.unwrap_err();
        assert!(reason(fault).to_lowercase().contains("insufficient funds"));
    })
    .await;
}

#[tokio::test]
async fn a_nonce_that_is_taken_is_never_reused() {
    everywhere(async |site| {
        let suite = suite(site).await;
        let nonce = site.payer.next_nonce().await.unwrap();
        site.payer
            .mint(suite.contract, 0, NAME, nonce)
            .await
            .unwrap();
        let late = site.payer.mint(suite.contract, 1, NAME, nonce).await;
        assert!(matches!(late, Err(ChainError::Transient(_))));
    })
    .await;
}

#[tokio::test]
async fn receipts_logs_and_gas_are_those_of_the_contract() {
    everywhere(async |site| {
        let suite = suite(site).await;
        let provider = site.endpoint.provider();
        let data = transact::mint_calldata(0, NAME);
        let receipt = site
            .payer
            .send(Some(suite.contract), data, U256::ZERO, None)
            .await
            .unwrap();
        let block = receipt.block_number.unwrap();

        // By range, by address, by each topic, by hash.
        let all = Filter::new().from_block(suite.block).to_block(block);
        let here = |logs: Vec<alloy::rpc::types::Log>| -> Vec<Log> {
            let ours = logs
                .into_iter()
                .filter(|log| log.address() == suite.contract);
            ours.map(|log| log.inner).collect()
        };
        let ranged = here(provider.get_logs(&all).await.unwrap());
        let of_block = Filter::new().at_block_hash(receipt.block_hash.unwrap());
        let of_block = here(provider.get_logs(&of_block).await.unwrap());
        let in_receipt: Vec<_> = receipt.logs().iter().map(|log| log.inner.clone()).collect();
        assert_eq!(of_block, in_receipt);
        assert!(ranged.ends_with(&in_receipt) && ranged.len() > in_receipt.len());
        let minted = all
            .clone()
            .address(suite.contract)
            .event_signature(PxSync::Transfer::SIGNATURE_HASH)
            .topic2(site.payer.address().into_word());
        assert_eq!(here(provider.get_logs(&minted).await.unwrap()).len(), 1);
        let none = minted.clone().topic2(B256::repeat_byte(1));
        assert_eq!(here(provider.get_logs(&none).await.unwrap()).len(), 0);
        let older = minted.from_block(0).to_block(block - 1);
        assert_eq!(here(provider.get_logs(&older).await.unwrap()).len(), 0);

        let found = provider
            .get_transaction_by_hash(receipt.transaction_hash)
            .await;
        assert_eq!(found.unwrap().unwrap().block_number, Some(block));
        let by_number = provider
            .get_block(BlockId::number(block))
            .await
            .unwrap()
            .unwrap();
        let by_hash = provider
            .get_block_by_hash(by_number.header.hash)
            .await
            .unwrap();
        assert_eq!(by_hash.unwrap(), by_number);
        assert_eq!(by_number.header.gas_used, receipt.gas_used);
        let code = provider.get_code_at(suite.contract).await.unwrap();
        (
            receipt.gas_used,
            in_receipt,
            alloy::primitives::keccak256(code),
        )
    })
    .await;
}

#[tokio::test]
async fn calls_at_an_older_block_see_that_block() {
    everywhere(async |site| {
        let suite = suite(site).await;
        let before = site.endpoint.height().await.unwrap();
        site.payer.mint_bare(suite.contract, 0).await.unwrap();
        let call = PxSync::tokensOfCall {
            owner: site.payer.address(),
            from: U256::ZERO,
            limit: U256::from(5),
        };
        let count = async |block| {
            let tokens = site.endpoint.call(suite.contract, &call, block).await;
            tokens.unwrap().len()
        };
        assert_eq!(count(BlockId::number(before)).await, 0);
        assert_eq!(count(BlockId::latest()).await, 1);
    })
    .await;
}

#[tokio::test]
async fn alloys_own_fillers_and_receipts_work() {
    everywhere(async |site| {
        let wallet = alloy::network::EthereumWallet::from(site.wallet.signer().clone());
        let provider = ProviderBuilder::new()
            .wallet(wallet)
            .connect_provider(site.endpoint.provider().clone());
        let to = Address::repeat_byte(3);
        let request = TransactionRequest::default()
            .with_to(to)
            .with_value(U256::from(5));
        let before = provider.get_balance(to).await.unwrap();
        let pending = provider.send_transaction(request).await.unwrap();
        let pending = pending.with_timeout(Some(Duration::from_secs(120)));
        let receipt = pending.get_receipt().await.unwrap();
        assert_eq!(
            provider.get_balance(to).await.unwrap() - before,
            U256::from(5)
        );
        receipt.gas_used
    })
    .await;
}

#[tokio::test]
async fn time_that_passes_without_a_block_is_seen_at_once() {
    everywhere(async |site| {
        let endpoint = &site.endpoint;
        let suite = suite(site).await;
        let minted = site.payer.mint_bare(suite.contract, 0).await.unwrap();
        let ledger = ContractLedger::new(endpoint.clone(), suite.contract, site.payer.address());
        let overdue = async || {
            let snapshot = ledger.snapshot().await.unwrap();
            let token = &snapshot.tokens[0];
            snapshot.timestamp_s > token.last_sync_s + token.sync_window_s
        };
        assert!(!overdue().await);
        let client = endpoint.provider().client();
        let step = Duration::from_secs(31 * 86_400);
        let _: serde_json::Value = client
            .request("evm_increaseTime", (step.as_secs(),))
            .await
            .unwrap();
        assert!(overdue().await);
        let can = can_upload(endpoint, suite.contract, minted.token).await;
        assert!(!can, "the contract sees it in a call");
        endpoint.advance(step).await.unwrap();
        let block = endpoint.provider().get_block(BlockId::latest()).await;
        let ahead = block.unwrap().unwrap().header.timestamp;
        let last = ledger.token(minted.token).await.unwrap().last_sync_s;
        assert!(ahead >= last + 2 * step.as_secs());
    })
    .await;
}

async fn can_upload(endpoint: &Endpoint, contract: Address, token: TokenId) -> bool {
    let mut data = alloy::primitives::keccak256("canUpload(uint256,uint256)")[..4].to_vec();
    data.extend((token.0, U256::ZERO).abi_encode_params());
    let request = TransactionRequest::default()
        .with_to(contract)
        .with_input(data);
    let answer = endpoint.provider().call(request).await.unwrap();
    let (can, _, _) = <(bool, bool, bool)>::abi_decode_params(&answer).unwrap();
    can
}

#[tokio::test]
async fn a_reverted_state_is_as_it_was() {
    everywhere(async |site| {
        let (endpoint, payer) = (&site.endpoint, &site.payer);
        let suite = suite(site).await;
        let ledger = ContractLedger::new(endpoint.clone(), suite.contract, payer.address());
        let client = endpoint.provider().client();
        let before = ledger.snapshot().await.unwrap();
        let nonce = payer.next_nonce().await.unwrap();
        let snapshot: U256 = client.request_noparams("evm_snapshot").await.unwrap();
        payer.mint_bare(suite.contract, 0).await.unwrap();
        endpoint.advance(Duration::from_secs(1000)).await.unwrap();
        let done: bool = client.request("evm_revert", (snapshot,)).await.unwrap();
        assert!(done);
        let after = ledger.snapshot().await.unwrap();
        assert_eq!((after.block, after.tokens), (before.block, before.tokens));
        assert!(after.timestamp_s - before.timestamp_s < 500);
        // It does not restore what the chain has lost.
        let payer = Transactor::new(endpoint.clone(), &site.wallet);
        assert_eq!(payer.next_nonce().await.unwrap(), nonce);
        let again: bool = client.request("evm_revert", (snapshot,)).await.unwrap();
        assert!(!again, "a snapshot is used up");
        payer.mint_bare(suite.contract, 0).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_address_that_is_no_token_contract_is_named() {
    everywhere(async |site| {
        let suite = suite(site).await;
        for (address, words) in [
            (Address::repeat_byte(0xee), "there is no contract at 0x"),
            (suite.forwarder, "speaks none of px-sync, px-v2 and px-v1"),
        ] {
            let ledger = ContractLedger::new(site.endpoint.clone(), address, Address::ZERO);
            let fault = ledger.snapshot().await.unwrap_err();
            assert!(matches!(fault, ChainError::Permanent(_)));
            let line = fault.to_string();
            assert!(
                line.contains(words) && line.contains(&address.to_string()),
                "{line}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn an_unreachable_endpoint_is_reported_in_one_line_without_secrets() {
    let endpoint = Endpoint::http("http://user:pass@127.0.0.1:9/v3/secret?key=secret").unwrap();
    let fault = endpoint.chain_id().await.unwrap_err();
    assert_eq!(
        fault,
        ChainError::Transient("http://127.0.0.1:9 cannot be reached".to_owned())
    );
    assert!(Endpoint::http("embedded:/tmp").is_err());
}
