//! The ledger over every dialect, on every chain.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy::primitives::{Address, Bytes};
use alloy::sol;
use alloy::sol_types::SolCall;
use alloy::transports::BoxTransport;
use tokio::sync::Notify;

use super::owned::Pace;
use super::*;
use crate::NO_LOCK_S;
use crate::contract::creation;
use crate::meddle::{Asked, Meddler, SILENCE};
use crate::tests::{Site, embedded_handle, everywhere, give, rich, suite};
use crate::transact::Transactor;
use crate::wallet::Wallet;

mod follow;
mod refresh;

sol! {
    function addNewPackage(uint256 price, uint256 size) external;
    function addNewPackageV2(uint256 price, uint256 size, uint256 units) external;
    function transferFrom(address from, address to, uint256 tokenId) external;
}

const BOTH: [Dialect; 2] = [Dialect::PxV1, Dialect::PxV2];

const V1: &str = include_str!("../../../../contracts/artifacts/PxV1.json");
/// The same, listing neither packages nor tokens.
const V1_BARE: &str = include_str!("../../../../contracts/artifacts/PxV1Bare.json");

/// Deploys the contract that behaves as `dialect`.
pub(crate) async fn older(payer: &Transactor, dialect: Dialect) -> Address {
    let artifact = match dialect {
        Dialect::PxV1 => V1,
        _ => include_str!("../../../../contracts/artifacts/PxV2.json"),
    };
    deployed(payer, artifact).await
}

async fn deployed(payer: &Transactor, artifact: &str) -> Address {
    let code = creation(artifact, Vec::new()).unwrap();
    let receipt = payer.send(None, code, U256::ZERO, None).await.unwrap();
    receipt.contract_address.unwrap()
}

/// Puts package 1 on sale: 1 GiB, 50 uploads, free.
pub(crate) async fn add_package(payer: &Transactor, contract: Address, dialect: Dialect) {
    let (price, size) = (U256::ZERO, U256::ONE);
    let data: Bytes = match dialect {
        Dialect::PxV1 => addNewPackageCall { price, size }.abi_encode().into(),
        _ => {
            let units = U256::from(50);
            let call = addNewPackageV2Call { price, size, units }.abi_encode();
            let selector = alloy::primitives::keccak256("addNewPackage(uint256,uint256,uint256)");
            [&selector[..4], &call[4..]].concat().into()
        }
    };
    send(payer, contract, data).await;
}

async fn send(payer: &Transactor, contract: Address, data: Bytes) {
    let sent = payer.send(Some(contract), data, U256::ZERO, None).await;
    sent.unwrap();
}

async fn charge(
    payer: &Transactor,
    contract: Address,
    dialect: Dialect,
    token: TokenId,
    bytes: u64,
) {
    let (id, bytes) = (token.0, U256::from(bytes));
    let data = match dialect {
        Dialect::PxV1 => PxV1::updateStorageUsageCall {
            tokenId: id,
            usageInBytes: bytes,
        }
        .abi_encode(),
        _ => PxV2::updateStorageUsageCall {
            tokenId: id,
            usageInBytes: bytes,
            bandwidth: U256::ONE,
        }
        .abi_encode(),
    };
    send(payer, contract, data.into()).await;
}

fn ids(snapshot: &Snapshot) -> Vec<TokenId> {
    snapshot.tokens.iter().map(|token| token.id).collect()
}

#[tokio::test]
async fn every_dialect_is_told_by_what_the_contract_answers() {
    everywhere(async |site| {
        let newest = suite(site).await.contract;
        let mut told = Vec::new();
        for contract in [
            newest,
            older(&site.payer, Dialect::PxV2).await,
            deployed(&site.payer, V1).await,
            deployed(&site.payer, V1_BARE).await,
        ] {
            let dialect = Dialect::of(&site.endpoint, contract).await.unwrap();
            told.push(dialect.name());
        }
        assert_eq!(told, ["px-sync", "px-v2", "px-v1", "px-v1"]);
    })
    .await;
}

/// Nine fields as in `px-v2`, and one answer to `canUpload`: one such version locks after a day,
/// another reserves its update for its owner.
#[tokio::test]
async fn a_contract_between_the_dialects_is_refused_in_words() {
    let meddler = Meddler::new(BoxTransport::new(embedded_handle()));
    let payer = Transactor::new(meddler.endpoint(), &rich());
    let contract = older(&payer, Dialect::PxV2).await;
    meddler.lie(
        |asked, honest| match asked.calls(PxV2::canUploadCall::SELECTOR) {
            true => honest.as_str().unwrap()[..66].into(),
            false => honest,
        },
    );
    let told = Dialect::of(&meddler.endpoint(), contract)
        .await
        .unwrap_err();
    assert!(
        told.to_string().contains("between px-v1 and px-v2"),
        "{told}"
    );
}

/// A user's ledger and token of somebody else's `px-v1` contract, as all deployed ones are.
async fn issued(site: &Site, artifact: &str) -> (ContractLedger, Transactor, TokenId) {
    let contract = deployed(&site.payer, artifact).await;
    add_package(&site.payer, contract, Dialect::PxV1).await;
    let wallet = Wallet::random().unwrap();
    give(&site.endpoint, wallet.address()).await;
    let user = Transactor::new(site.endpoint.clone(), &wallet);
    let token = user.mint_for(contract, 0, U256::ZERO).await.unwrap().token;
    let ledger = ContractLedger::new(site.endpoint.clone(), contract, user.address());
    (ledger, user, token)
}

#[tokio::test]
async fn issuer_accounted_tokens_are_neither_charged_nor_locked() {
    everywhere(async |site| {
        for artifact in [V1, V1_BARE] {
            let (ledger, user, token) = issued(site, artifact).await;
            let contract = ledger.contract();
            assert_eq!(ledger.known_accounting(), None);
            charge(&site.payer, contract, Dialect::PxV1, token, 1000).await;
            let month = Duration::from_secs(31 * 86_400);
            site.endpoint.advance(month).await.unwrap();
            let all = ledger.snapshot().await.unwrap().tokens;
            let seen = &all[0];
            assert_eq!((all.len(), seen.id, seen.usage_bytes), (1, token, 1000));
            assert_eq!(seen.accounting, Accounting::ByIssuer);
            assert_eq!(seen.sync_window_s, NO_LOCK_S);
            assert_eq!(ledger.known_accounting(), Some(Accounting::ByIssuer));
            let sizes = ledger.packages().await.unwrap();
            let sizes: Vec<_> = sizes.iter().map(|one| (one.id, one.size_bytes)).collect();
            assert_eq!(sizes, [(0, 100 << 20), (1, 1 << 30)]);
            let renewed = user.renew(contract, Dialect::PxV1, token).await;
            assert!(matches!(renewed, Err(ChainError::Reverted(_))));

            // The contract's owner is not refused.
            let own = site.payer.mint_for(contract, 1, U256::ZERO).await.unwrap();
            let issuer = ContractLedger::new(site.endpoint.clone(), contract, site.payer.address());
            let seen = issuer.token(own.token).await.unwrap();
            assert_eq!(seen.accounting, Accounting::Additive);
        }
    })
    .await;
}

#[tokio::test]
async fn a_token_that_the_contract_lets_nothing_be_uploaded_to_is_locked() {
    let old = old(Dialect::PxV1).await;
    old.meddler.lie(
        |asked, honest| match asked.calls(PxV1::canUploadCall::SELECTOR) {
            true => format!("0x{:064x}", 0).into(),
            false => honest,
        },
    );
    let ledger = old.ledger();
    let window = async || ledger.token(old.token).await.unwrap().sync_window_s;
    assert_eq!(window().await, 0);
    old.meddler.lie(|_, honest| honest);
    assert_eq!(window().await, NO_LOCK_S);
}

#[tokio::test]
async fn a_token_of_an_older_contract_shows_what_it_grants() {
    for dialect in BOTH {
        everywhere(async |site| shows_what_it_grants(site, dialect).await).await;
    }
}

async fn shows_what_it_grants(site: &Site, dialect: Dialect) {
    let (payer, owner) = (&site.payer, site.payer.address());
    let contract = older(payer, dialect).await;
    let ledger = ContractLedger::new(site.endpoint.clone(), contract, owner);
    assert_eq!(ledger.snapshot().await.unwrap().tokens, []);
    add_package(payer, contract, dialect).await;
    let packages = ledger.packages().await.unwrap();
    let units = |units: u64| (dialect == Dialect::PxV2).then_some(units);
    let told: Vec<_> = packages
        .iter()
        .map(|package| {
            (
                package.id,
                package.size_bytes,
                package.uploads,
                package.on_sale,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (0, 100 << 20, units(25), true),
            (1, 1 << 30, units(50), true)
        ]
    );

    let free = payer.mint_for(contract, 0, U256::ZERO).await.unwrap().token;
    let large = payer.mint_for(contract, 1, U256::ZERO).await.unwrap().token;
    charge(payer, contract, dialect, large, 1000).await;
    charge(payer, contract, dialect, large, 1000).await;
    let snapshot = ledger.snapshot().await.unwrap();
    assert_eq!(ids(&snapshot), [free, large]);
    let token = &snapshot.tokens[1];
    assert_eq!(token, &ledger.token(large).await.unwrap());
    assert_eq!(
        (token.size_bytes, token.usage_bytes, token.uploads_left),
        (1 << 30, 2000, units(48))
    );
    assert_eq!((token.accounting, token.epoch), (Accounting::Additive, 0));
    let window_s = match dialect {
        Dialect::PxV1 => NO_LOCK_S,
        _ => 30 * 86_400,
    };
    assert_eq!(token.sync_window_s, window_s);
    let renewed = token.last_sync_s;
    assert!(renewed <= snapshot.timestamp_s && renewed + 100 > snapshot.timestamp_s);

    // Given tokens vanish, received ones appear.
    let other = Address::repeat_byte(9);
    payer.transfer(contract, free, other).await.unwrap();
    assert_eq!(ids(&ledger.snapshot().await.unwrap()), [large]);
    assert_eq!(ledger.token(free).await.unwrap().owner, other);
    let late = payer.mint_for(contract, 1, U256::ZERO).await.unwrap().token;
    assert_eq!(ids(&ledger.snapshot().await.unwrap()), [large, late]);
    let absent = ledger.token(TokenId::from(99)).await;
    assert!(matches!(absent, Err(ChainError::Missing(_))));
}

#[tokio::test]
async fn an_update_of_nothing_charges_nothing_and_renews_the_time() {
    everywhere(async |site| {
        for dialect in BOTH {
            let payer = &site.payer;
            let contract = older(payer, dialect).await;
            let ledger = ContractLedger::new(site.endpoint.clone(), contract, payer.address());
            let token = payer.mint_for(contract, 0, U256::ZERO).await.unwrap().token;
            charge(payer, contract, dialect, token, 5).await;
            let before = ledger.token(token).await.unwrap();
            let month = std::time::Duration::from_secs(31 * 86_400);
            site.endpoint.advance(month).await.unwrap();
            payer.renew(contract, dialect, token).await.unwrap();
            let after = ledger.token(token).await.unwrap();
            assert!(after.last_sync_s >= before.last_sync_s + month.as_secs());
            let charged = |token: &TokenInfo| (token.usage_bytes, token.uploads_left);
            assert_eq!(charged(&after), charged(&before));
        }
    })
    .await;
}

/// An embedded chain behind a flaky transport, a contract with one token, and 1,200 blocks on top.
struct Old {
    meddler: Meddler,
    payer: Transactor,
    contract: Address,
    token: TokenId,
}

async fn old(dialect: Dialect) -> Old {
    let meddler = Meddler::new(BoxTransport::new(embedded_handle()));
    let payer = Transactor::new(meddler.endpoint(), &rich());
    let contract = older(&payer, dialect).await;
    let token = payer.mint_for(contract, 0, U256::ZERO).await.unwrap().token;
    let endpoint = meddler.endpoint();
    let client = endpoint.provider().client();
    let mined = client.request::<_, serde_json::Value>("anvil_mine", ("0x4b0",));
    mined.await.unwrap();
    meddler.asked();
    Old {
        meddler,
        payer,
        contract,
        token,
    }
}

impl Old {
    fn ledger(&self) -> ContractLedger {
        ContractLedger::new(self.meddler.endpoint(), self.contract, self.payer.address())
    }

    /// Block ranges of log requests since the last call.
    fn ranges(&self) -> Vec<u64> {
        let asked = self.meddler.asked();
        asked
            .iter()
            .filter_map(|asked| asked.log_blocks())
            .collect()
    }
}

#[tokio::test]
async fn tokens_are_found_with_log_queries_limited_to_100_blocks() {
    let old = old(Dialect::PxV2).await;
    old.meddler.refuse(|asked| {
        let refused = asked.log_blocks().is_some_and(|blocks| blocks > 100);
        let counted = asked.calls(PxV2::_tokenIdsCall::SELECTOR);
        (refused || counted).then_some((-32602, "eth_getLogs is limited to a 100 range"))
    });
    assert_eq!(ids(&old.ledger().snapshot().await.unwrap()), [old.token]);
    let ranges = old.ranges();
    assert!(ranges.iter().any(|&blocks| blocks > 100), "{ranges:?}");
    let given = ranges.iter().filter(|&&blocks| blocks <= 100);
    assert!(given.sum::<u64>() >= 1_200, "{ranges:?}");
    assert!(ranges.len() < 60, "{ranges:?}");
}

#[tokio::test]
async fn ranges_grow_again_when_the_endpoint_gives_more() {
    let old = old(Dialect::PxV2).await;
    let strict = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(8));
    let left = std::sync::Arc::clone(&strict);
    old.meddler.refuse(move |asked| {
        use std::sync::atomic::Ordering::Relaxed;
        let blocks = asked.log_blocks()?;
        let most = if left.load(Relaxed) > 0 { 50 } else { 100_000 };
        left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
            .ok();
        (blocks > most).then_some((-32005, "query returned more than 10000 results"))
    });
    assert_eq!(ids(&old.ledger().snapshot().await.unwrap()), [old.token]);
    let ranges = old.ranges();
    let smallest = ranges.iter().position(|&blocks| blocks <= 50).unwrap();
    assert!(
        ranges[..=smallest]
            .windows(2)
            .all(|pair| pair[1] <= pair[0] / 2 + 1),
        "{ranges:?}"
    );
    assert!(
        ranges[smallest..].iter().any(|&blocks| blocks >= 200),
        "{ranges:?}"
    );
}

#[tokio::test]
async fn tokens_are_found_where_old_logs_are_gone() {
    for dialect in BOTH {
        let old = old(dialect).await;
        old.meddler.refuse(|asked| {
            let gone = asked.method == "eth_getLogs";
            gone.then_some((-32000, "pruned history unavailable"))
        });
        assert_eq!(ids(&old.ledger().snapshot().await.unwrap()), [old.token]);
        // A contract that does not count its tokens.
        old.meddler.refuse(|asked| {
            let gone = asked.method == "eth_getLogs";
            let private = asked.calls(PxV2::_tokenIdsCall::SELECTOR);
            (gone || private).then_some((3, "execution reverted"))
        });
        assert_eq!(ids(&old.ledger().snapshot().await.unwrap()), [old.token]);
    }
}

#[tokio::test]
async fn what_was_found_is_not_searched_for_again() {
    let old = old(Dialect::PxV1).await;
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().join("owned");
    let ledger = || old.ledger().remember(31337, &folder);
    assert_eq!(ids(&ledger().snapshot().await.unwrap()), [old.token]);
    assert!(!old.ranges().is_empty());
    let kept = ledger();
    assert_eq!(ids(&kept.snapshot().await.unwrap()), [old.token]);
    assert_eq!(old.ranges(), [0; 0], "remembered between runs");

    // Newer tokens are in the newest blocks: nothing else is read.
    let (payer, contract) = (&old.payer, old.contract);
    add_package(payer, contract, Dialect::PxV1).await;
    let late = payer.mint_for(contract, 1, U256::ZERO).await.unwrap().token;
    old.meddler.asked();
    assert_eq!(ids(&kept.snapshot().await.unwrap()), [old.token, late]);
    assert!(old.ranges().iter().sum::<u64>() < 200);

    // A foreign token in the file is not shown.
    let file = std::fs::read_dir(&folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let text = std::fs::read_to_string(&file).unwrap();
    let lied = text.replace(r#""tokens":["#, r#""tokens":["77","#);
    assert_ne!(text, lied);
    std::fs::write(&file, lied).unwrap();
    assert_eq!(ids(&ledger().snapshot().await.unwrap()), [old.token, late]);
}

#[tokio::test]
async fn a_search_that_is_cut_short_goes_on_and_shows_nothing_wrong() {
    let old = old(Dialect::PxV2).await;
    let ledger = old.ledger();
    old.meddler.refuse(|asked| {
        let down = asked.method == "eth_getLogs";
        down.then_some((429, "rate limit exceeded"))
    });
    let fault = ledger.snapshot().await.unwrap_err();
    assert!(matches!(fault, ChainError::Transient(_)), "{fault}");
    old.meddler.refuse(|_| None);
    assert_eq!(ids(&ledger.snapshot().await.unwrap()), [old.token]);
}

fn tire(old: &Old, counts: impl Fn(&Asked) -> bool + Send + Sync + 'static) -> Arc<Notify> {
    let silent = Arc::new(Notify::new());
    let (left, told) = (AtomicU64::new(6), Arc::clone(&silent));
    old.meddler.refuse(move |asked| {
        if !counts(asked) {
            let logs = asked.log_blocks().is_some();
            return logs.then_some((-32000, "pruned history unavailable"));
        }
        let less = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if less.is_err() {
            told.notify_one();
            return Some(SILENCE);
        }
        let many = asked.log_blocks().is_some_and(|blocks| blocks > 100);
        many.then_some((-32602, "eth_getLogs is limited to a 100 range"))
    });
    silent
}

/// Waiters abort a check after seconds, and a failed command is typed again: each time another
/// process.
async fn comes_to_its_end(old: &Old, counts: fn(&Asked) -> bool) -> Vec<TokenId> {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("owned").join("1.json");
    let pace = Pace {
        ids: 2,
        ..Pace::default()
    };
    for tried in 0..20 {
        let silent = tire(old, counts);
        let ledger = old.ledger().at_pace(file.clone(), pace);
        tokio::select! {
            found = ledger.snapshot() => {
                assert!(tried > 1, "nothing was cut off");
                return ids(&found.unwrap());
            }
            () = silent.notified() => {}
        }
    }
    panic!("each look began anew");
}

#[tokio::test]
async fn a_repeatedly_interrupted_log_search_completes() {
    let old = old(Dialect::PxV2).await;
    let found = comes_to_its_end(&old, |asked| asked.log_blocks().is_some()).await;
    assert_eq!(found, [old.token]);
}

#[tokio::test]
async fn a_repeatedly_interrupted_token_id_search_completes() {
    let old = old(Dialect::PxV2).await;
    add_package(&old.payer, old.contract, Dialect::PxV2).await;
    let mint = || old.payer.mint_for(old.contract, 1, U256::ZERO);
    for _ in 0..20 {
        let gone = mint().await.unwrap().token;
        let away = transferFromCall {
            from: old.payer.address(),
            to: Address::repeat_byte(9),
            tokenId: gone.0,
        };
        send(&old.payer, old.contract, away.abi_encode().into()).await;
    }
    let last = mint().await.unwrap().token;
    let owner = |asked: &Asked| asked.calls(PxV2::ownerOfCall::SELECTOR);
    let found = comes_to_its_end(&old, owner).await;
    assert_eq!(found, [old.token, last]);
}

#[tokio::test]
async fn a_server_that_never_answers_for_logs_has_the_ids_tried() {
    for dialect in BOTH {
        let old = old(dialect).await;
        old.meddler
            .refuse(|asked| asked.log_blocks().map(|_| SILENCE));
        let state = tempfile::tempdir().unwrap();
        let pace = Pace {
            logs: Duration::from_millis(20),
            ..Pace::default()
        };
        let ledger = old.ledger().at_pace(state.path().join("1.json"), pace);
        assert_eq!(ids(&ledger.snapshot().await.unwrap()), [old.token]);
        assert_eq!(old.ranges().len(), 1, "one is enough to know");
    }
}

#[tokio::test]
async fn a_contract_that_answers_anything_is_of_no_dialect() {
    let handle = embedded_handle();
    let endpoint = Endpoint::embedded(&handle);
    let payer = Transactor::new(endpoint.clone(), &rich());
    // Returns the word 1 to every call; returns 96 bytes of ones; refuses everything.
    for code in [
        "600160005260206000f3",
        "60016000526001602052600160405260606000f3",
        "60006000fd",
    ] {
        let code = alloy::hex::decode(code).unwrap();
        let mut creation = vec![0x60, u8::try_from(code.len()).unwrap(), 0x80, 0x60, 0x0b];
        creation.extend([0x60, 0x00, 0x39, 0x60, 0x00, 0xf3]);
        creation.extend(&code);
        let made = payer.send(None, creation.into(), U256::ZERO, None).await;
        let contract = made.unwrap().contract_address.unwrap();
        let told = Dialect::of(&endpoint, contract).await;
        assert!(matches!(told, Err(ChainError::Permanent(_))), "{told:?}");
    }
}

#[test]
fn no_contract_names_a_package_so_that_its_price_is_hidden() {
    let name = "5GB\u{1b}[2K\r free\u{202e}".to_owned() + &"x".repeat(1 << 20);
    let zero = U256::ZERO;
    let newer = (
        zero,
        name.clone(),
        zero,
        zero,
        zero,
        String::new(),
        zero,
        zero,
    );
    let older = (zero, name.clone(), zero, zero, zero, String::new(), zero);
    let own = (zero, name, zero, zero, zero, String::new(), zero, true);
    for package in [
        Package::from(PxV2::Package::from(newer)),
        Package::from(PxV1::Package::from(older)),
        package(PxSync::Package::from(own)),
    ] {
        assert!(package.name.chars().count() <= 64);
        assert!(!package.name.contains(['\u{1b}', '\r', '\u{202e}']));
    }
}
