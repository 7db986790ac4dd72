//! Contracts that add usage up and charge each commit, `px-v1` and `px-v2`, on a chain over HTTP.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use alloy::eips::BlockId;
use alloy::primitives::{Address, Bytes, U256, hex, keccak256};
use alloy::providers::Provider;
use alloy::rpc::types::{TransactionInput, TransactionRequest};
use alloy::sol_types::SolValue;
use pxfs::chain::endpoint::Endpoint;
use pxfs::chain::transact::Transactor;
use pxfs::chain::wallet::Wallet;
use rustix::io::Errno;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::anvil::Anvil;
use crate::command::wait_until;
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};

/// The first account of anvil.
const RICH: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const V1: &str = include_str!("../../contracts/artifacts/PxV1.json");
const V2: &str = include_str!("../../contracts/artifacts/PxV2.json");
/// Upload units of the free package.
const UNITS: u64 = 25;

/// A chain with one contract, on which the wallet has minted the free package.
struct Chain {
    runtime: Runtime,
    payer: Transactor,
    contract: Address,
    is_v2: bool,
    anvil: Anvil,
}

impl Chain {
    fn new(artifact: &str) -> Self {
        let anvil = Anvil::start(&["--slots-in-an-epoch", "1"]);
        let runtime = Runtime::new().expect("a runtime");
        let secret: [u8; 32] = hex::decode_to_array(RICH).expect("hex");
        let wallet = Wallet::from_secret(secret.into()).expect("a key");
        let (payer, contract) = runtime.block_on(async {
            let payer = Transactor::new(Endpoint::http(anvil.url()).expect("a URL"), &wallet);
            let artifact: Value = serde_json::from_str(artifact).expect("JSON");
            let code = hex::decode(artifact["bytecode"].as_str().expect("code")).expect("hex");
            let made = payer.send(None, code.into(), U256::ZERO, None).await;
            let contract = made
                .expect("a contract")
                .contract_address
                .expect("its address");
            let minted = payer.mint_for(contract, 0, U256::ZERO).await;
            minted.expect("a token");
            (payer, contract)
        });
        Self {
            runtime,
            payer,
            contract,
            is_v2: artifact == V2,
            anvil,
        }
    }

    /// A machine that mounts it, not started.
    fn machine(&self, first: Option<&Machine>) -> Machine {
        let machine = Machine::prepared("mount");
        let wallet = machine.scratch().join("wallet");
        fs::write(&wallet, RICH).expect("a wallet");
        fs::set_permissions(&wallet, fs::Permissions::from_mode(0o600)).expect("its mode");
        let node = first.unwrap_or(&machine).node();
        let (rpc, contract) = (self.anvil.url().to_owned(), self.contract.to_string());
        let (wallet, node) = (wallet.display().to_string(), node.display().to_string());
        machine.with_args(&[
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
            "--commit-idle",
            "500ms",
        ])
    }

    /// What the contract says of token 1: usage in bytes, and upload units left.
    fn storage(&self) -> (u64, u64) {
        let data = [
            &keccak256("pxStorage(uint256)")[..4],
            &U256::ONE.to_be_bytes::<32>(),
        ]
        .concat();
        let request = TransactionRequest::default()
            .to(self.contract)
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
        (word(1), if self.is_v2 { word(8) } else { 0 })
    }

    /// Another program charges the same token, from the same account.
    fn charge(&self, bytes: u64, units: u64) {
        let call = (U256::ONE, U256::from(bytes), U256::from(units)).abi_encode_params();
        let selector = keccak256("updateStorageUsage(uint256,uint256,uint256)");
        let data: Bytes = [&selector[..4], &call].concat().into();
        let sent = self.payer.send(Some(self.contract), data, U256::ZERO, None);
        self.runtime.block_on(sent).expect("a charge");
    }
}

/// The drive looks at the chain now.
fn look(machine: &Machine) {
    machine.ask(&["dev", "advance", "1s"]).ok();
}

/// Waits until the chain has as many charges as there are commits.
fn all_charged(chain: &Chain, machine: &Machine, foreign_units: u64) {
    wait_until("each commit is charged", Duration::from_secs(30), || {
        let sequence = machine.number("1", "sequence");
        chain.storage().1 + foreign_units + sequence == UNITS
    });
}

#[test]
fn a_token_that_is_charged_by_the_commit_takes_files_and_gives_them_to_another_machine() {
    for artifact in [V1, V2] {
        let chain = Chain::new(artifact);
        let mut machine = chain.machine(None);
        machine.start();
        let content = pattern(7, 0, 3 << 20);
        fs::write(machine.dir().join("file"), &content).expect("a file");
        machine.flush();
        wait_until("the commit is charged", Duration::from_secs(30), || {
            chain.storage().0 > 0
        });
        let (usage, units) = chain.storage();
        assert!(
            (3 << 20..(3 << 20) + (64 << 10)).contains(&usage),
            "{usage}"
        );
        wait_until("the drive knows", Duration::from_secs(30), || {
            look(&machine);
            let token = machine.token("1");
            let left = match chain.is_v2 {
                true => Value::from(units),
                false => Value::Null,
            };
            token["usage_on_chain_bytes"] == usage && token["uploads_left"] == left
        });

        // What was deleted stays paid for, and nothing is charged for nothing.
        machine.flush();
        let free = machine.number("1", "free_bytes");
        fs::remove_file(machine.dir().join("file")).expect("a file less");
        assert!(
            machine.number("1", "free_bytes") <= free,
            "deleting gives nothing back"
        );
        fs::write(machine.dir().join("second"), &content).expect("a file");
        machine.stop();

        let mut other = chain.machine(Some(&machine));
        other.start();
        assert_pattern(&other.dir().join("second"), 7, 3 << 20);
        assert!(!other.dir().join("file").exists());
        other.stop();
    }
}

#[test]
fn without_upload_units_nothing_grows_and_deleting_goes_on() {
    let chain = Chain::new(V2);
    let mut machine = chain.machine(None);
    machine.start();
    fs::write(machine.dir().join("file"), b"content").expect("a file");
    machine.flush();
    all_charged(&chain, &machine, 0);
    chain.charge(1000, UNITS - 2);
    wait_until("the drive knows", Duration::from_secs(30), || {
        look(&machine);
        machine.number("1", "uploads_left") == 1
    });
    let refused = fs::write(machine.dir().join("more"), b"x").map_err(|fault| fault.raw_os_error());
    assert_eq!(refused, Err(Some(Errno::DQUOT.raw_os_error())));
    let token = machine.token("1");
    assert_eq!(token["state"], "quota");
    fs::remove_file(machine.dir().join("file")).expect("a file less");
    // The last unit is there for it.
    machine.flush();
    all_charged(&chain, &machine, UNITS - 2);
    assert_eq!(chain.storage().1, 0);
    machine.stop();
}

#[test]
fn commits_are_spread_over_the_time_that_the_units_have_to_last() {
    let chain = Chain::new(V2);
    let mut machine = chain.machine(None);
    machine.start();
    fs::write(machine.dir().join("first"), b"content").expect("a file");
    machine.flush();
    fs::write(machine.dir().join("second"), b"content").expect("a file");
    let token = machine.token("1");
    let plan: jiff::Timestamp = token["next_commit"]
        .as_str()
        .expect("a plan")
        .parse()
        .expect("a time");
    let hours = (plan - jiff::Timestamp::now())
        .total(jiff::Unit::Hour)
        .expect("hours");
    // 30 days over 24 units.
    assert!((29.0..31.0).contains(&hours), "{hours} h in {token:#}");
    let sequence = machine.number("1", "sequence");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(machine.number("1", "sequence"), sequence, "it waits");
    machine.flush();
    assert_eq!(
        machine.number("1", "sequence"),
        sequence + 1,
        "unless it is asked for"
    );
    machine.stop();
}

#[test]
fn each_commit_is_charged_once_however_often_the_daemon_is_killed() {
    let chain = Chain::new(V2);
    let mut machine = chain.machine(None);
    machine.start();
    for round in 0..8_u64 {
        let wrote: io::Result<()> =
            fs::write(machine.dir().join("file"), pattern(round, 0, 100_000));
        wrote.expect("a file");
        machine.flush();
        // Anywhere between the commit and what follows its charge.
        std::thread::sleep(Duration::from_millis(400 * round));
        machine.kill();
        machine.start();
    }
    all_charged(&chain, &machine, 0);
    std::thread::sleep(Duration::from_secs(5));
    let sequence = machine.number("1", "sequence");
    assert_eq!(chain.storage().1 + sequence, UNITS, "and not once more");
    machine.stop();
}
