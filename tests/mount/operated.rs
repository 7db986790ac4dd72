//! A drive that is its own oracle: a chain over HTTP, and a storage node inside the daemon that nobody else can read.
//!
//! The way of docs/oracle.md, by the program alone.

use std::fs;
use std::io;

use crate::anvil::Anvil;
use crate::contract::wallet;
use crate::harness::Machine;

/// An account that anvil knows, and that is no operator of what another has deployed.
const STRANGER: &str = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

/// A machine whose wallet has deployed the contracts and minted token 1, not started; and its way to them.
fn deployed(anvil: &Anvil) -> (Machine, Vec<String>) {
    let machine = Machine::prepared("mount");
    let mut way: Vec<String> = vec![
        format!("--rpc-url={}", anvil.url()),
        format!("--wallet={}", wallet(&machine)),
        format!("--node=embedded={}", machine.node().display()),
    ];
    let ask = |words: &[&str], way: &[String]| {
        let way: Vec<&str> = way.iter().map(String::as_str).collect();
        machine.ask(&[words, &way].concat()).ok().json()
    };
    let made = ask(&["deploy", "--yes", "--json"], &way[..2]);
    let contract = made["contract"].as_str().expect("an address");
    way.push(format!("--contract={contract}"));
    let minted = ask(&["mint", "--package", "0", "--yes", "--json"], &way);
    assert_eq!(minted["token"], "1");
    (machine, way)
}

#[test]
fn a_drive_with_its_own_node_is_synced_by_its_daemon() {
    let anvil = Anvil::start(&[]);
    let (machine, way) = deployed(&anvil);
    let way: Vec<&str> = way.iter().map(String::as_str).collect();
    let more = ["-f", "--volume=plain", "--operate", "--refresh=1s"];
    let mut machine = machine.with_args(&[&way[..], &more].concat());
    machine.start();
    fs::write(machine.dir().join("photo"), [b'x'; 300_000]).expect("a file");
    machine.flush();
    machine.ask(&["dev", "advance", "31d"]).ok();
    machine.wait_for("1", "state", "overdue");
    let more = || fs::write(machine.dir().join("more"), [b'y'; 300_000]);
    assert_eq!(more().unwrap_err().kind(), io::ErrorKind::PermissionDenied);

    let synced = machine.ask(&["sync", "1", "--yes", "--json"]).ok().json();
    assert!(synced["usage"].as_u64() > Some(300_000), "{synced}");
    more().expect("it grows again");
    machine.flush();
    machine.stop();

    // So is a token without a drive, by the command itself.
    let sync = ["sync", "1", "--yes", "--json", "--operate", "--refresh=1s"];
    let again = machine.ask(&[&sync[..], &way].concat()).ok().json();
    assert!(again["usage"].as_u64() > Some(600_000), "{again}");
}

#[test]
fn a_wallet_that_is_no_operator_is_refused_before_mounting() {
    let anvil = Anvil::start(&[]);
    let (machine, mut way) = deployed(&anvil);
    let other = machine.scratch().join("stranger");
    fs::write(&other, STRANGER).expect("a wallet");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&other, mode).expect("its mode");
    way.retain(|word| !word.starts_with("--wallet"));
    way.push(format!("--wallet={}", other.display()));
    let way: Vec<&str> = way.iter().map(String::as_str).collect();
    let mut machine = machine.with_args(&[&way[..], &["-f", "--operate"]].concat());
    let refused = machine.try_start().unwrap_err();
    assert!(refused.contains("setOperators"), "{refused}");
}
