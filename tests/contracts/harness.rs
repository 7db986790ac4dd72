//! Which chain the tests run on: the only file here that knows.
//!
//! Each test has an embedded chain of its own, in memory, whose clock stands still until the test moves it.
//! With `PXFS_TEST_RPC=URL` it is the development chain at that address instead (anvil, or one that speaks
//! its `evm_` methods). Its first well-known account pays; `PXFS_TEST_KEY=HEX` names another. All tests then
//! share one chain and one clock, so they take turns.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alloy::network::EthereumWallet;
use alloy::primitives::utils::parse_ether;
use alloy::providers::{DynProvider, Provider, ProviderBuilder};
use alloy::rpc::client::{ClientBuilder, RpcClient};
use alloy::rpc::types::TransactionRequest;
use alloy::signers::local::PrivateKeySigner;
use pxfs::chain::embedded::{Genesis, Handle};
use pxfs::clock::ManualClock;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// The variable that names the chain.
pub(crate) const RPC: &str = "PXFS_TEST_RPC";
/// The first account of the development chains' common mnemonic.
const DEV_KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
/// What a signer owns: enough for the largest package and all gas.
const COINS: &str = "4";
/// When an embedded chain begins: 2026-01-01, in nanoseconds.
const BEGIN_NS: i64 = 1_767_225_600_000_000_000;

/// A chain and its clock.
pub(crate) struct Chain {
    /// Signs for every signer that was asked for.
    pub(crate) provider: DynProvider,
    time: Time,
}

/// What moves a chain's clock.
enum Time {
    Clock(Arc<ManualClock>),
    /// The right to move a clock that all tests share.
    Rpc {
        _turn: OwnedMutexGuard<()>,
    },
}

/// A chain on which `signers` are new and own coins.
pub(crate) async fn chain(signers: &[PrivateKeySigner]) -> Chain {
    match std::env::var(RPC) {
        Ok(url) => over_rpc(&url, signers).await,
        Err(_) => embedded(signers),
    }
}

fn embedded(signers: &[PrivateKeySigner]) -> Chain {
    let coins = parse_ether(COINS).expect("a number");
    let genesis = Genesis {
        funded: signers
            .iter()
            .map(|signer| (signer.address(), coins))
            .collect(),
        ..Genesis::default()
    };
    let clock = Arc::new(ManualClock::at(BEGIN_NS));
    let handle = Handle::memory(&genesis, clock.clone()).expect("a chain in memory");
    Chain {
        provider: provider(RpcClient::new(handle, true), signers),
        time: Time::Clock(clock),
    }
}

async fn over_rpc(url: &str, signers: &[PrivateKeySigner]) -> Chain {
    static TURN: OnceLock<Arc<Mutex<()>>> = OnceLock::new();
    let turn = TURN.get_or_init(Arc::default).clone().lock_owned().await;
    let funder: PrivateKeySigner = std::env::var("PXFS_TEST_KEY")
        .unwrap_or_else(|_| DEV_KEY.to_owned())
        .parse()
        .expect("a private key of 64 hex digits");
    let client = ClientBuilder::default().http(url.parse().expect("a URL in PXFS_TEST_RPC"));
    let all = [std::slice::from_ref(&funder), signers].concat();
    let provider = provider(client, &all);
    for signer in signers {
        let gift = TransactionRequest::default()
            .from(funder.address())
            .to(signer.address())
            .value(parse_ether(COINS).expect("a number"));
        let pending = provider
            .send_transaction(gift)
            .await
            .expect("the funder can pay");
        pending.get_receipt().await.expect("a receipt");
    }
    Chain {
        provider,
        time: Time::Rpc { _turn: turn },
    }
}

fn provider(client: RpcClient, signers: &[PrivateKeySigner]) -> DynProvider {
    client.set_poll_interval(Duration::from_millis(5));
    let mut wallet = EthereumWallet::default();
    for signer in signers {
        wallet.register_signer(signer.clone());
    }
    ProviderBuilder::new()
        .with_simple_nonce_management()
        .wallet(wallet)
        .connect_client(client)
        .erased()
}

impl Chain {
    /// Timestamp of the newest block, unix seconds.
    pub(crate) async fn now(&self) -> u64 {
        let block = self.provider.get_block(Default::default()).await;
        block.expect("an answer").expect("a block").header.timestamp
    }

    /// Mines a block whose timestamp is exactly `timestamp_s`, unix seconds, which must be to come.
    pub(crate) async fn mine_at(&self, timestamp_s: u64) {
        match &self.time {
            Time::Clock(clock) => {
                let step = timestamp_s
                    .checked_sub(self.now().await)
                    .expect("a time to come");
                clock.advance(Duration::from_secs(step));
            }
            Time::Rpc { .. } => {
                let _: serde_json::Value = self
                    .provider
                    .raw_request("evm_setNextBlockTimestamp".into(), [timestamp_s])
                    .await
                    .expect("a chain whose clock can be set");
            }
        }
        let _: serde_json::Value = self
            .provider
            .raw_request("evm_mine".into(), ())
            .await
            .expect("a chain that mines on demand");
        assert_eq!(self.now().await, timestamp_s);
    }
}
