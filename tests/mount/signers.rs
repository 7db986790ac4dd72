//! Drives whose owner's key is elsewhere: in a program that signs, or with somebody who has approved another account.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use alloy::primitives::{Address, hex, keccak256};
use alloy::sol_types::SolValue;

use crate::anvil::Anvil;
use crate::command::wait_until;
use crate::contract::{Chain, Kind};
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};
use crate::watch::QUIET;

const SOON: Duration = Duration::from_secs(120);
/// What anvil's accounts are made from, and the second of them.
const WORDS: &str = "test test test test test test test test test test test junk";
const SECOND: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

/// A file of `machine` that nobody else may read.
fn secret(machine: &Machine, name: &str, text: &str) -> String {
    let file = machine.scratch().join(name);
    fs::write(&file, text).expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its mode");
    file.display().to_string()
}

/// A machine with no key of the owner, and with these options in place of the wallet.
fn without_wallet(chain: &Chain, first: Option<&Machine>, options: &[&str]) -> Machine {
    let mut machine = chain.machine_with(first, &QUIET);
    machine.replace_arg("--wallet", "--read-timeout", "30s");
    let key = secret(&machine, "name.key", &"5e".repeat(32));
    let wallet = machine.scratch().join("wallet");
    fs::remove_file(wallet).expect("there was one");
    machine.with_args(&["--name-key", &key]).with_args(options)
}

#[test]
fn a_remote_signer_charges_a_drive_and_its_loss_is_reported() {
    let (chain, signer) = (Chain::new(Kind::V2), Anvil::start(&[]));
    let owner = chain.owner().to_string();
    let options = ["--signer", signer.url(), "--address", &owner];
    let mut machine = without_wallet(&chain, None, &options);
    machine.start();
    fs::write(machine.dir().join("file"), pattern(7, 0, 1 << 20)).expect("a file");
    machine.flush();
    wait_until("it is charged", SOON, || chain.storage().0 >= 1 << 20);
    machine.wait_for("1", "state", "ok");

    drop(signer);
    fs::write(machine.dir().join("more"), pattern(8, 0, 1 << 20)).expect("a file");
    machine.flush();
    machine.wait_for("1", "state", "uncharged");
    let row = machine.token("1");
    let reason = row["reason"].as_str().expect("a reason");
    assert!(
        reason.contains("signer") && reason.contains("cannot be reached"),
        "{reason}"
    );
    assert_pattern(&machine.dir().join("file"), 7, 1 << 20);
    // What it would have signed.
    let charges = machine.ask(&["sync", "1", "--print", "--json"]);
    let charges = charges.ok().json();
    let selector = keccak256("updateStorageUsage(uint256,uint256,uint256)");
    let selector = hex::encode_prefixed(&selector[..4]);
    let data = charges[0]["data"].as_str().expect("data");
    assert!(data.starts_with(&selector), "{charges:#}");
    machine.stop();
}

#[test]
fn an_approved_account_pays_for_a_drive_whose_owner_signs_nothing() {
    let chain = Chain::new(Kind::V2);
    let owner = chain.owner().to_string();
    let mut machine = without_wallet(&chain, None, &["--owner", &owner]);
    let wallet = secret(&machine, "operator", WORDS);
    machine = machine.with_args(&["--wallet", &wallet]);
    machine = machine.with_args(&["--derivation-path", "m/44'/60'/0'/0/1"]);
    machine.start();
    let row = machine.token("1");
    let reason = row["reason"].as_str().expect("a reason");
    assert_eq!(row["state"], "read-only", "{row:#}");
    for said in [
        &owner,
        SECOND,
        "has not approved",
        "setApprovalForAll",
        "mount again",
    ] {
        assert!(reason.contains(said), "{said}: {reason}");
    }
    assert!(fs::write(machine.dir().join("file"), b"x").is_err());
    machine.stop();

    let operator: Address = SECOND.parse().expect("an address");
    chain.call(
        "setApprovalForAll(address,bool)",
        &(operator, true).abi_encode_params(),
    );
    let sent = chain.sent();
    machine.start();
    machine.wait_for("1", "state", "ok");
    fs::write(machine.dir().join("file"), pattern(7, 0, 1 << 20)).expect("a file");
    machine.flush();
    wait_until("it is charged", SOON, || chain.storage().0 >= 1 << 20);
    machine.ask(&["sync", "1", "--yes"]).ok();
    let refused = machine
        .ask(&["mint", "--package", "0", "--yes"])
        .exits(2)
        .stderr;
    assert!(
        refused.contains(&owner) && refused.contains("--print"),
        "{refused}"
    );
    machine.stop();
    assert_eq!(chain.sent(), sent, "the owner's key sent nothing");
}

#[test]
fn a_token_registered_by_hardware_is_writable_with_its_name_key() {
    let chain = Chain::new(Kind::Sync);
    let owner = chain.owner().to_string();
    let mut machine = without_wallet(&chain, None, &["--address", &owner]);
    machine.start();
    machine.wait_for("1", "state", "read-only");
    // What the owner's device would send.
    let call = machine
        .ask(&["register", "1", "--print", "--json"])
        .ok()
        .json();
    assert_eq!(call["nonce"], serde_json::Value::Null);
    let data: alloy::primitives::Bytes =
        serde_json::from_value(call["data"].clone()).expect("data");
    chain.send_data(data);
    machine.stop();
    machine.start();
    machine.wait_for("1", "state", "ok");
    assert_eq!(machine.token("1")["name"], call["name"]);
    let sent = chain.sent();
    fs::write(machine.dir().join("file"), pattern(7, 0, 1 << 20)).expect("a file");
    machine.flush();
    let refused = machine
        .ask(&["upgrade", "1", "--package", "1", "--yes"])
        .exits(2);
    assert!(
        refused.stderr.contains("only watched"),
        "{}",
        refused.stderr
    );
    let sync = machine.ask(&["sync", "1", "--print"]).ok().stdout;
    let selector = keccak256("sync(uint256)");
    let selector = hex::encode_prefixed(&selector[..4]);
    assert!(sync.contains(&selector), "{sync}");
    machine.stop();
    assert_eq!(chain.sent(), sent);

    // Whoever has the address alone reads it.
    let mut reader = chain.watcher(&format!("embedded={}", machine.node().display()));
    reader.start();
    assert_pattern(&reader.dir().join("file"), 7, 1 << 20);
    assert_eq!(reader.token("1")["state"], "read-only");
    reader.stop();
}
