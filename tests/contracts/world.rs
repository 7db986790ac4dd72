//! A freshly deployed token contract, the people around it, and the few acts that most tests share.
//!
//! Invariant: every act checks that its transaction went through; what must be refused goes through
//! [`refusal`].

use alloy::contract::{CallBuilder, CallDecoder};
use alloy::primitives::{Address, B256, U256, b256};
use alloy::providers::{DynProvider, Provider};
use alloy::rpc::types::TransactionReceipt;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{Revert, SolError, SolEvent, SolInterface, SolValue};

use crate::harness::{self, Chain};

/// The token contract.
pub(crate) mod px {
    alloy::sol!(
        #[sol(rpc)]
        #[derive(Debug, PartialEq, Eq)]
        PxSync,
        "contracts/artifacts/PxSync.json"
    );
}
/// The forwarder of operators' reports.
pub(crate) mod fwd {
    alloy::sol!(
        #[sol(rpc)]
        #[derive(Debug)]
        OracleForwarder,
        "contracts/artifacts/OracleForwarder.json"
    );
}
/// A wallet that calls back while it is paid.
pub(crate) mod re {
    alloy::sol!(
        #[sol(rpc)]
        Reenterer,
        "contracts/artifacts/Reenterer.json"
    );
}

pub(crate) use px::IPxSync::TokenInfo;
pub(crate) use px::PxSync;

/// Two names of ed25519 keys.
pub(crate) const KEY: &str = "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8";
pub(crate) const OTHER_KEY: &str = "k51qzi5uqu5dgutdk6i1ynyzgkqngpha5xpgia3a5qqp4jsh0u4csozksxel2r";
/// Two digests of roots.
pub(crate) const ROOT: B256 =
    b256!("1111111111111111111111111111111111111111111111111111111111111111");
pub(crate) const OTHER_ROOT: B256 =
    b256!("2222222222222222222222222222222222222222222222222222222222222222");
/// The greatest integer of the usage metadata.
pub(crate) const MAX_INTEGER: u64 = (1 << 53) - 1;
/// Bytes of the free package.
pub(crate) const FREE_BYTES: u64 = 104_857_600;
pub(crate) const DAY: u64 = 86_400;

/// A report before it is encoded. Wider than the contract's types, so that a test can lie.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) request: B256,
    pub(crate) token: U256,
    pub(crate) epoch: U256,
    pub(crate) usage: U256,
    pub(crate) sequence: U256,
    pub(crate) root: B256,
    pub(crate) error: U256,
}

impl Report {
    /// `abi.encode` of the seven words.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let numbers = (self.token, self.epoch, self.usage, self.sequence);
        (
            self.request,
            numbers.0,
            numbers.1,
            numbers.2,
            numbers.3,
            self.root,
            self.error,
        )
            .abi_encode_params()
    }
}

/// One contract and the people around it.
pub(crate) struct World {
    pub(crate) px: PxSync::PxSyncInstance<DynProvider>,
    pub(crate) chain: Chain,
    /// Owns the contract.
    pub(crate) owner: Address,
    /// Is the contract's forwarder: a plain account here, to report what a test likes.
    pub(crate) oracle: Address,
    pub(crate) oracle_signer: PrivateKeySigner,
    pub(crate) alice: Address,
    pub(crate) bob: Address,
}

impl World {
    /// Deploys the token contract.
    pub(crate) async fn new() -> Self {
        let people: [PrivateKeySigner; 4] = std::array::from_fn(|_| PrivateKeySigner::random());
        let chain = harness::chain(&people).await;
        let oracle_signer = people[1].clone();
        let [owner, oracle, alice, bob] = people.map(|signer| signer.address());
        let deployment = PxSync::deploy_builder(chain.provider.clone(), owner, oracle).from(owner);
        let address = done(deployment)
            .await
            .contract_address
            .expect("a new contract");
        Self {
            px: PxSync::new(address, chain.provider.clone()),
            chain,
            owner,
            oracle,
            oracle_signer,
            alice,
            bob,
        }
    }

    /// Mints a package with [`KEY`], at its price; answers the token.
    pub(crate) async fn mint(&self, who: Address, package: u64) -> U256 {
        let price = self.price(package).await;
        let call = self
            .px
            .mint_0(U256::from(package), KEY.to_owned())
            .value(price);
        minted(&done(call.from(who)).await)
    }

    /// What a package costs, in wei.
    pub(crate) async fn price(&self, package: u64) -> U256 {
        let all = self.px.getAllPackages().call().await.expect("packages");
        all[usize::try_from(package).expect("small")].price
    }

    /// All of one token.
    pub(crate) async fn info(&self, token: U256) -> TokenInfo {
        self.px.tokenInfo(token).call().await.expect("a token")
    }

    /// `syncFee` and `syncWindow` as of the newest block.
    pub(crate) async fn terms(&self) -> (U256, U256) {
        let block = self.chain.provider.get_block_number().await;
        let block = block.expect("a block");
        let fee = self.px.syncFee().block(block.into()).call().await;
        let window = self.px.syncWindow().block(block.into()).call().await;
        (fee.expect("the fee"), window.expect("the window"))
    }

    /// Sets the fee of a sync, and lets the time pass until it is in force.
    pub(crate) async fn set_fee(&self, fee: U256) {
        let receipt = done(self.px.setSyncFee(fee).from(self.owner)).await;
        let since = the::<PxSync::SyncFeeAnnounced>(&receipt).since;
        self.chain
            .mine_at(u64::try_from(since).expect("a time"))
            .await;
    }

    /// Asks for a sync; answers the request.
    pub(crate) async fn request(&self, who: Address, token: U256) -> B256 {
        let fee = self.px.syncFee().call().await.expect("the fee");
        let receipt = done(self.px.sync(token).value(fee).from(who)).await;
        the::<PxSync::SyncRequested>(&receipt).requestId
    }

    /// A true report of `usage`, `sequence` and `root` for an open request, in the token's epoch.
    pub(crate) async fn answer(
        &self,
        request: B256,
        token: U256,
        usage: u64,
        sequence: u64,
        root: B256,
    ) -> Report {
        Report {
            request,
            token,
            epoch: U256::from(self.info(token).await.epoch),
            usage: U256::from(usage),
            sequence: U256::from(sequence),
            root,
            error: U256::ZERO,
        }
    }

    /// The oracle's failure `code` for an open request, seen in the newest block.
    pub(crate) async fn failed(&self, request: B256, token: U256, code: u8) -> Report {
        Report {
            error: U256::from(code),
            ..self.answer(request, token, 1, self.now().await, ROOT).await
        }
    }

    /// Delivers a report as the oracle, and shows what came of it.
    pub(crate) async fn deliver(&self, report: &Report) -> TransactionReceipt {
        done(
            self.px
                .onReport(Default::default(), report.encode().into())
                .from(self.oracle),
        )
        .await
    }

    /// Asks, answers, and takes nothing but success.
    pub(crate) async fn synced(&self, token: U256, usage: u64, sequence: u64, root: B256) {
        let receipt = self.try_sync(token, usage, sequence, root).await;
        the::<PxSync::Synced>(&receipt);
    }

    /// Asks and answers, whatever comes of it.
    pub(crate) async fn try_sync(
        &self,
        token: U256,
        usage: u64,
        sequence: u64,
        root: B256,
    ) -> TransactionReceipt {
        let request = self.request(self.alice, token).await;
        let report = self.answer(request, token, usage, sequence, root).await;
        self.deliver(&report).await
    }

    /// Hands a token over.
    pub(crate) async fn transfer(&self, from: Address, to: Address, token: U256) {
        done(self.px.transferFrom(from, to, token).from(from)).await;
    }

    /// Timestamp of the newest block, unix seconds.
    pub(crate) async fn now(&self) -> u64 {
        self.chain.now().await
    }

    /// Lets chain time pass.
    pub(crate) async fn advance(&self, seconds: u64) {
        self.chain.mine_at(self.now().await + seconds).await;
    }
}

/// Sends a transaction and waits until it is mined; it must go through.
pub(crate) async fn done<P: Provider, D: CallDecoder>(
    call: CallBuilder<P, D>,
) -> TransactionReceipt {
    let gas = call.estimate_gas().await;
    let gas = gas.unwrap_or_else(|e| panic!("refused: {}", reason(&e)));
    // What a transaction needs can rise until it is mined: writing a new second costs more than the same.
    let pending = call.gas(2 * gas).send().await.expect("sent");
    let receipt = pending.get_receipt().await.expect("a receipt");
    assert!(receipt.status(), "reverted: {receipt:?}");
    receipt
}

/// Why a transaction is refused: the contract's words, or the name of its error. It must be.
pub(crate) async fn refusal<P: Provider, D: CallDecoder>(call: CallBuilder<P, D>) -> String {
    match call.send().await {
        Ok(_) => panic!("a transaction went through that must be refused"),
        Err(error) => reason(&error),
    }
}

/// The words of a `require`, else the contract's error as Rust prints it.
pub(crate) fn reason(error: &alloy::contract::Error) -> String {
    let Some(data) = error.as_revert_data() else {
        return error.to_string();
    };
    if let Ok(revert) = Revert::abi_decode(&data) {
        return revert.reason;
    }
    if let Ok(error) = PxSync::PxSyncErrors::abi_decode(&data) {
        return format!("{error:?}");
    }
    match fwd::OracleForwarder::OracleForwarderErrors::abi_decode(&data) {
        Ok(error) => format!("{error:?}"),
        Err(_) => format!("{data}"),
    }
}

/// All events of one kind in a receipt.
pub(crate) fn events<E: SolEvent>(receipt: &TransactionReceipt) -> Vec<E> {
    let logs = receipt.logs().iter();
    logs.filter_map(|log| E::decode_log(&log.inner).ok().map(|log| log.data))
        .collect()
}

/// The one event of its kind in a receipt.
pub(crate) fn the<E: SolEvent>(receipt: &TransactionReceipt) -> E {
    let mut all = events::<E>(receipt);
    assert_eq!(all.len(), 1, "{} in {receipt:?}", E::SIGNATURE);
    all.remove(0)
}

/// The token of a receipt of `mint`.
pub(crate) fn minted(receipt: &TransactionReceipt) -> U256 {
    let transfer = the::<PxSync::Transfer>(receipt);
    assert_eq!(transfer.from, Address::ZERO);
    transfer.tokenId
}

/// The code with which a report was refused; it must have been, and nothing else must have happened.
pub(crate) fn failure(receipt: &TransactionReceipt) -> u8 {
    assert_eq!(
        receipt.logs().len(),
        1,
        "a refusal does nothing but say so: {receipt:?}"
    );
    the::<PxSync::SyncFailed>(receipt).code
}
