//! The whole suite again, on a chain that is not ours.

use std::process::Command;

use crate::anvil::Anvil;
use crate::harness::RPC;

#[test]
fn every_rule_holds_on_anvil_too() {
    let anvil = Anvil::start(&[]);
    let suite = std::env::current_exe().expect("this program");
    let ran = Command::new(suite)
        .env(RPC, anvil.url())
        .args(["--skip", "everywhere::"])
        .output()
        .expect("this program again");
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "on anvil:\n{told}");
    assert!(!told.contains("running 0 tests"), "nothing ran");
}
