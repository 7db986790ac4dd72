//! Tokens come, go and lack a key while the drive is mounted.

use std::fs;
use std::time::Duration;

use alloy::primitives::{Address, U256, hex, keccak256};
use pxfs::chain::wallet::Wallet;
use rustix::io::Errno;

use crate::command::wait_until;
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};

/// As the promise says.
const SOON: Duration = Duration::from_secs(5);

/// A call of the contract: its signature, and arguments of 32 bytes each.
fn calldata(signature: &str, words: &[U256]) -> String {
    let mut bytes = keccak256(signature)[..4].to_vec();
    bytes.extend(words.iter().flat_map(U256::to_be_bytes::<32>));
    hex::encode_prefixed(bytes)
}

/// Transfers a token to an address that nobody has.
#[track_caller]
fn give_away(machine: &Machine, token: u64) {
    let wallet = machine.state().join("wallet");
    let wallet = Wallet::open(&wallet, None).expect("the wallet");
    let word = |address: Address| U256::from_be_slice(address.as_slice());
    let to = Address::repeat_byte(0xaa);
    let words = [word(wallet.address()), word(to), U256::from(token)];
    let data = calldata("transferFrom(address,address,uint256)", &words);
    machine.ask(&["dev", "call", &data]).ok();
}

/// Mints as a block explorer does: no name key comes with it.
#[track_caller]
fn mint_without_key(machine: &Machine, package: u64) {
    let packages = machine.ask(&["packages", "--json"]).ok().json();
    let price = packages
        .as_array()
        .and_then(|all| all.iter().find(|one| one["id"] == package))
        .and_then(|one| one["price_wei"].as_str())
        .expect("a price")
        .to_owned();
    let data = calldata("mint(uint256)", &[U256::from(package)]);
    machine.ask(&["dev", "call", &data, "--value", &price]).ok();
}

#[test]
fn a_token_minted_while_mounted_appears_and_can_be_used() {
    let mut machine = Machine::demo();
    let minted = machine
        .ask(&["mint", "--package", "1", "--yes", "--json"])
        .ok()
        .json();
    assert_eq!(minted["token"], "2");
    let dir = machine.mountpoint().join("2");
    wait_until("the new directory appears", SOON, || dir.is_dir());
    fs::write(dir.join("file"), pattern(1, 0, 100_000)).expect("writable at once");
    machine.flush();
    machine.ask(&["sync", "2"]).ok();
    assert!(machine.number("2", "usage_on_chain_bytes") >= 100_000);
    machine.restart();
    assert_pattern(&dir.join("file"), 1, 100_000);
    let names: Vec<_> = fs::read_dir(machine.mountpoint())
        .expect("listing")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn nothing_is_made_or_removed_in_the_mountpoint_itself() {
    let machine = Machine::demo();
    let root = machine.mountpoint();
    let not_permitted = Some(Errno::PERM.raw_os_error());
    let code = |result: std::io::Result<()>| result.err().and_then(|why| why.raw_os_error());
    assert_eq!(code(fs::create_dir(root.join("99"))), not_permitted);
    assert_eq!(code(fs::write(root.join("file"), "x")), not_permitted);
    assert_eq!(code(fs::remove_dir(root.join("1"))), not_permitted);
    assert_eq!(
        code(fs::rename(root.join("1"), root.join("2"))),
        not_permitted
    );
}

#[test]
fn a_token_that_was_given_away_turns_read_only_and_says_why() {
    let machine = Machine::demo();
    let dir = machine.dir();
    fs::write(dir.join("mine"), pattern(1, 0, 5000)).expect("writable");
    machine.flush();
    give_away(&machine, 1);
    let refused = || {
        let result = fs::write(machine.mountpoint().join("1/more"), "x");
        result.is_err_and(|why| why.raw_os_error() == Some(Errno::ROFS.raw_os_error()))
    };
    wait_until("the token turns read-only", SOON, refused);
    let row = machine.token("1");
    assert!(
        ["read-only", "detached"].contains(&row["state"].as_str().unwrap_or("")),
        "{row:#}"
    );
    assert!(
        row["reason"]
            .as_str()
            .is_some_and(|reason| !reason.is_empty()),
        "{row:#}"
    );
    assert_pattern(&dir.join("mine"), 1, 5000);
}

#[test]
fn a_token_without_a_key_is_read_only_until_it_is_registered() {
    let machine = Machine::demo();
    mint_without_key(&machine, 1);
    let dir = machine.mountpoint().join("2");
    wait_until("the new directory appears", SOON, || dir.is_dir());
    let row = machine.token("2");
    assert_eq!(row["state"], "unregistered");
    let reason = row["reason"].as_str().unwrap_or("");
    assert!(
        reason.contains("pxfs register 2"),
        "the remedy is named: {reason}"
    );
    let refused = fs::write(dir.join("file"), "x").expect_err("read-only");
    assert_eq!(refused.raw_os_error(), Some(Errno::ROFS.raw_os_error()));

    machine.ask(&["register", "2", "--yes"]).ok();
    wait_until("it can be written", SOON, || {
        fs::write(dir.join("file"), "x").is_ok()
    });
    machine.flush();
    assert_eq!(machine.token("2")["state"], "ok");
}
