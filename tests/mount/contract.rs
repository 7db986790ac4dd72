//! A chain over HTTP with one token contract, of any dialect, and what its users do there.
//!
//! Invariant: the account that the drive's wallet is has minted token 1, of the free package.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use alloy::eips::BlockId;
use alloy::primitives::{Address, Bytes, U256, hex, keccak256};
use alloy::providers::Provider;
use alloy::rpc::types::{TransactionInput, TransactionRequest};
use alloy::sol_types::SolValue;
use pxfs::chain::ChainError;
use pxfs::chain::deploy::deploy;
use pxfs::chain::endpoint::Endpoint;
use pxfs::chain::transact::{Transactor, upgrade_calldata};
use pxfs::chain::wallet::Wallet;
use pxfs::types::TokenId;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::anvil::Anvil;
use crate::anvil::keeper::Kept;
use crate::harness::Machine;

/// The first two accounts of anvil.
pub(crate) const RICH: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const OTHER: &str = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
const V1: &str = include_str!("../../contracts/artifacts/PxV1.json");
const V2: &str = include_str!("../../contracts/artifacts/PxV2.json");

/// The dialects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of which the drive's wallet owns the contract too, and may report usage: see [`Chain::hand_over`].
    V1,
    V2,
    Sync,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Sync, Self::V2, Self::V1];
}

/// A chain with one contract, on which the wallet has minted the free package.
pub(crate) struct Chain {
    runtime: Runtime,
    payer: Transactor,
    contract: Address,
    pub(crate) kind: Kind,
    anvil: Anvil,
}

impl Chain {
    pub(crate) fn new(kind: Kind) -> Self {
        Self::with(kind, &[])
    }

    /// The same, with more of anvil's options.
    pub(crate) fn with(kind: Kind, options: &[&str]) -> Self {
        let anvil = Anvil::start(&[&["--slots-in-an-epoch", "1"], options].concat());
        let runtime = Runtime::new().expect("a runtime");
        let payer = transactor(anvil.url(), RICH);
        let contract = runtime.block_on(deployed(&payer, anvil.url(), kind));
        Self {
            runtime,
            payer,
            contract,
            kind,
            anvil,
        }
    }

    /// Another contract on the same chain, with a token 1 of the same account.
    pub(crate) fn another(&self, kind: Kind) -> Address {
        let made = deployed(&self.payer, self.anvil.url(), kind);
        self.runtime.block_on(made)
    }

    /// The contract.
    pub(crate) fn contract(&self) -> Address {
        self.contract
    }

    /// Where the chain is.
    pub(crate) fn url(&self) -> &str {
        self.anvil.url()
    }

    /// It answers nobody from now on.
    pub(crate) fn end(self) {
        drop(self.anvil);
    }

    /// It answers nobody while `work` is done, and then as before.
    pub(crate) fn without<T>(self, work: impl FnOnce() -> T) -> (Self, T) {
        let state = self.anvil_does("anvil_dumpState", &());
        let url = self.url().to_owned();
        drop(self.anvil);
        let done = work();
        let (_, port) = url.rsplit_once(':').expect("a port");
        let anvil = Anvil::start(&["--slots-in-an-epoch", "1", "--port", port]);
        let again = Self { anvil, ..self };
        again.anvil_does("anvil_loadState", &(state,));
        (again, done)
    }

    /// A machine that mounts it, not started.
    pub(crate) fn machine(&self, first: Option<&Machine>) -> Machine {
        self.machine_with(first, &["--commit-idle", "500ms"])
    }

    /// The same, with these arguments instead of a commit that follows soon.
    pub(crate) fn machine_with(&self, first: Option<&Machine>, more: &[&str]) -> Machine {
        let machine = Machine::prepared("mount");
        let wallet = wallet(&machine);
        let node = first.unwrap_or(&machine).node();
        let (rpc, contract) = (self.anvil.url().to_owned(), self.contract.to_string());
        let node = node.display().to_string();
        let machine = machine.with_args(&[
            "-f",
            "--rpc-url",
            &rpc,
            "--contract",
            &contract,
            "--wallet",
            &wallet,
            "--node",
            &format!("embedded={node}"),
            "--volume",
            "plain",
        ]);
        machine.with_args(more)
    }

    /// The address of the drive's wallet.
    pub(crate) fn owner(&self) -> Address {
        self.payer.address()
    }

    /// How many transactions that account has sent.
    pub(crate) fn sent(&self) -> u64 {
        let count = self.payer.endpoint().provider();
        let count = async { count.get_transaction_count(self.owner()).await };
        self.runtime.block_on(count).expect("an answer")
    }

    /// A machine that knows the owner's address alone, not started; `node` as `--node` takes it.
    pub(crate) fn watcher(&self, node: &str) -> Machine {
        let (contract, owner) = (self.contract.to_string(), self.owner().to_string());
        Machine::prepared("mount").with_args(&[
            "-f",
            "--rpc-url",
            self.anvil.url(),
            "--contract",
            &contract,
            "--address",
            &owner,
            "--node",
            node,
            "--refresh",
            "1s",
        ])
    }

    /// What its owner keeps beside token 1 of `px-v2`, as pxfs writes it; null where that is nothing.
    pub(crate) fn anchored(&self) -> Value {
        let call = (U256::ONE, "pxfs".to_owned()).abi_encode_params();
        let selector = &keccak256("getExtraContent(uint256,string)")[..4];
        let request = TransactionRequest {
            to: Some(self.contract.into()),
            input: TransactionInput::new([selector, &call].concat().into()),
            ..TransactionRequest::default()
        };
        let provider = self.payer.endpoint().provider();
        let answer = self
            .runtime
            .block_on(async { provider.call(request).await });
        let text = answer
            .ok()
            .and_then(|answer| String::abi_decode(&answer).ok());
        text.map_or(Value::Null, |text| {
            serde_json::from_str(&text).expect("JSON")
        })
    }

    /// Has its owner keep `text` there.
    pub(crate) fn anchor(&self, text: &str) {
        let words = (U256::ONE, "pxfs".to_owned(), text.to_owned()).abi_encode_params();
        self.call("addExtraContent(uint256,string,string)", &words);
    }

    /// What the contract says of token 1: usage in bytes, and upload units left.
    pub(crate) fn storage(&self) -> (u64, u64) {
        self.storage_on(self.contract, self.kind)
    }

    /// The same of another contract of the chain.
    pub(crate) fn storage_on(&self, contract: Address, kind: Kind) -> (u64, u64) {
        let data = [
            &keccak256("pxStorage(uint256)")[..4],
            &U256::ONE.to_be_bytes::<32>(),
        ]
        .concat();
        let request = TransactionRequest::default()
            .to(contract)
            .input(TransactionInput::both(data.into()));
        let call = self.payer.endpoint().provider().call(request);
        let answer = self
            .runtime
            .block_on(async { call.block(BlockId::latest()).await });
        let answer = answer.expect("an answer");
        let word = |index: usize| {
            let word = answer.get(index * 32..index * 32 + 32).expect("a word");
            u64::try_from(U256::from_be_slice(word)).expect("a number")
        };
        let is_v2 = kind == Kind::V2;
        (word(1), if is_v2 { word(8) } else { 0 })
    }

    /// Another program charges the same token, from the same account.
    pub(crate) fn charge(&self, bytes: u64, units: u64) {
        let words = (U256::ONE, U256::from(bytes), U256::from(units)).abi_encode_params();
        self.call("updateStorageUsage(uint256,uint256,uint256)", &words);
    }

    /// The contract is another account's from now on, as all of `px-v1` that are deployed.
    pub(crate) fn hand_over(&self) {
        let to = transactor(self.anvil.url(), OTHER).address();
        self.call("transferOwnership(address)", &(to,).abi_encode_params());
    }

    /// That account reports what it has stored for token 1 of `px-v1`.
    pub(crate) fn issuer_reports(&self, bytes: u64) {
        let words = (U256::ONE, U256::from(bytes)).abi_encode_params();
        let selector = &keccak256("updateStorageUsage(uint256,uint256)")[..4];
        let data = [selector, &words].concat().into();
        let issuer = transactor(self.anvil.url(), OTHER);
        let sent = issuer.send(Some(self.contract), data, U256::ZERO, None);
        self.runtime.block_on(sent).expect("it is the owner");
    }

    /// The contract's owner, who owns token 1 too, calls it.
    pub(crate) fn call(&self, signature: &str, words: &[u8]) {
        let data: Bytes = [&keccak256(signature)[..4], words].concat().into();
        self.send(data, U256::ZERO);
    }

    fn send(&self, data: Bytes, value: U256) {
        self.by_another_wallet(async |payer| {
            let sent = payer.send(Some(self.contract), data.clone(), value, None);
            sent.await.map(drop)
        });
    }

    /// What its user does by another wallet. Where the drive has its nonce at that moment, it is said again; with
    /// nothing of what it sent in mind: the chain may have been set back.
    fn by_another_wallet(&self, act: impl AsyncFn(Transactor) -> Result<(), ChainError>) {
        for _ in 0..10 {
            let payer = transactor(self.anvil.url(), RICH).with_limit(Duration::from_secs(5));
            match self.runtime.block_on(act(payer)) {
                Err(ChainError::Transient(_)) => {}
                done => return done.expect("a transaction"),
            }
        }
        panic!("the drive has every nonce");
    }

    /// The same of data that somebody else has built.
    pub(crate) fn send_data(&self, data: Bytes) {
        self.send(data, U256::ZERO);
    }

    /// What one gas costs in a new block, in wei; in those that follow, a little less each.
    pub(crate) fn base_fee(&self, wei: u64) {
        self.anvil_does("anvil_setNextBlockBaseFeePerGas", &(U256::from(wei),));
        self.anvil_does("evm_mine", &());
    }

    /// The first package that is larger than the free one; what it costs.
    pub(crate) fn larger_package(&self) -> U256 {
        match self.kind {
            Kind::Sync => {
                let price = self.payer.price(self.contract, 1);
                return self.runtime.block_on(price).expect("a price");
            }
            Kind::V1 => {
                let words = (U256::ZERO, U256::ONE).abi_encode_params();
                self.call("addNewPackage(uint256,uint256)", &words);
            }
            Kind::V2 => {
                let words = (U256::ZERO, U256::ONE, U256::from(50)).abi_encode_params();
                self.call("addNewPackage(uint256,uint256,uint256)", &words);
            }
        }
        U256::ZERO
    }

    /// Moves token 1 to the package of 1 GiB.
    pub(crate) fn upgrade(&self, price: U256) {
        self.send(upgrade_calldata(TokenId::from(1), 1), price);
    }

    /// Mints another token, of the package of 1 GiB.
    pub(crate) fn mint(&self, price: U256) {
        let words = U256::ONE.to_be_bytes::<32>();
        let data = [&keccak256("mint(uint256)")[..4], &words].concat();
        self.send(data.into(), price);
    }

    /// Gives token 1 to another account.
    pub(crate) fn give_away(&self) {
        self.give_away_of(self.contract);
    }

    /// The same of another contract of the chain.
    pub(crate) fn give_away_of(&self, contract: Address) {
        let to = transactor(self.anvil.url(), OTHER).address();
        self.by_another_wallet(async |payer| {
            let given = payer.transfer(contract, TokenId::from(1), to);
            given.await.map(drop)
        });
    }

    /// That account gives it back.
    pub(crate) fn give_back(&self) {
        let other = transactor(self.anvil.url(), OTHER);
        let given = other.transfer(self.contract, TokenId::from(1), self.payer.address());
        self.runtime.block_on(given).expect("it was theirs");
    }

    /// Whether it mines what comes, at once.
    pub(crate) fn mines(&self, at_once: bool) {
        self.anvil_does("evm_setAutomine", &(at_once,));
        if at_once {
            self.anvil_does("evm_mine", &());
        }
    }

    /// Whether a transaction waits for a block.
    pub(crate) fn waits(&self) -> bool {
        self.anvil_does("txpool_status", &())["pending"] != "0x0"
    }

    /// So many blocks without what waits, which is forgotten.
    pub(crate) fn mine_without_what_waits(&self, blocks: u64) {
        self.anvil_does("anvil_dropAllTransactions", &());
        self.anvil_does("anvil_mine", &(U256::from(blocks),));
    }

    /// The chain as it is now, to come back to once.
    pub(crate) fn remember(&self) -> Value {
        self.anvil_does("evm_snapshot", &())
    }

    /// Everything since is undone, as by a reorganisation.
    pub(crate) fn set_back(&self, to: &Value) {
        let done = self.anvil_does("evm_revert", &(to,));
        assert_eq!(done, Value::Bool(true));
    }

    /// What the drive's wallet has from now on, in wei.
    pub(crate) fn endow(&self, wei: u64) {
        self.anvil_does("anvil_setBalance", &(self.payer.address(), U256::from(wei)));
    }

    /// The oracle's operator, a process of its own that reads from this gateway, with its state there.
    pub(crate) fn operator(&self, gateway: &str, state: &Path) -> Kept {
        fs::create_dir_all(state).expect("a folder");
        let wallet = state.join("key");
        fs::write(&wallet, OTHER).expect("a wallet");
        fs::set_permissions(&wallet, fs::Permissions::from_mode(0o600)).expect("its mode");
        let (rpc, contract) = (self.anvil.url(), self.contract.to_string());
        let state = state.join("state");
        let args = [
            "oracle",
            "--json",
            "--rpc-url",
            rpc,
            "--contract",
            &contract,
            "--wallet",
            wallet.to_str().expect("a path"),
            "--state-dir",
            state.to_str().expect("a path"),
            "--node",
            &format!("gateway={gateway}"),
            "--allow-address",
            "127.0.0.1",
            "--refresh",
            "1s",
        ];
        let (kept, lines) = Kept::start(env!("CARGO_BIN_EXE_pxfs"), &args, &[]);
        // What it tells must go somewhere, or it stops.
        std::thread::spawn(move || lines.for_each(drop));
        kept
    }

    fn anvil_does<P: serde::Serialize + Clone + std::fmt::Debug + Send + Sync + Unpin>(
        &self,
        method: &str,
        params: &P,
    ) -> Value {
        let client = self.payer.endpoint().provider().client();
        let asked = client.request::<_, Value>(method.to_owned(), params.clone());
        self.runtime.block_on(asked).expect("anvil does it")
    }
}

/// A contract of this kind, of which `payer` has minted token 1, of the free package.
async fn deployed(payer: &Transactor, url: &str, kind: Kind) -> Address {
    let artifact = match kind {
        Kind::Sync => {
            let operator = transactor(url, OTHER).address();
            let made = deploy(payer, &[operator], 1).await;
            let contract = made.expect("contracts").contract;
            let minted = payer.mint_bare(contract, 0).await;
            minted.expect("a token");
            return contract;
        }
        Kind::V1 => V1,
        Kind::V2 => V2,
    };
    let artifact: Value = serde_json::from_str(artifact).expect("JSON");
    let code = hex::decode(artifact["bytecode"].as_str().expect("code")).expect("hex");
    let made = payer.send(None, code.into(), U256::ZERO, None).await;
    let made = made.expect("a contract");
    let contract = made.contract_address.expect("its address");
    let minted = payer.mint_for(contract, 0, U256::ZERO).await;
    minted.expect("a token");
    contract
}

/// The wallet of all these accounts, in a file of `machine`.
pub(crate) fn wallet(machine: &Machine) -> String {
    let wallet = machine.scratch().join("wallet");
    fs::write(&wallet, RICH).expect("a wallet");
    fs::set_permissions(&wallet, fs::Permissions::from_mode(0o600)).expect("its mode");
    wallet.display().to_string()
}

fn transactor(url: &str, secret: &str) -> Transactor {
    let secret: [u8; 32] = hex::decode_to_array(secret).expect("hex");
    let wallet = Wallet::from_secret(secret.into()).expect("a key");
    Transactor::new(Endpoint::http(url).expect("a URL"), &wallet)
}
