//! A commit whose charge would cost more than is allowed: that is a state of the token, and it ends by itself.

use std::fs;
use std::time::Duration;

use crate::command::wait_until;
use crate::contract::{Chain, Kind};
use crate::samples::pattern;
use crate::watch::QUIET;

const GWEI: u64 = 1_000_000_000;
const SOON: Duration = Duration::from_secs(120);

#[test]
fn a_commit_too_expensive_to_charge_is_charged_when_gas_falls() {
    let chain = Chain::new(Kind::V2);
    let mut machine = chain.machine_with(None, &QUIET);
    machine.start();
    chain.base_fee(1_000 * GWEI);
    fs::write(machine.dir().join("file"), pattern(7, 0, 1 << 20)).expect("a file");
    machine.flush();
    machine.wait_for("1", "state", "uncharged");
    let reason = machine.token("1")["reason"].clone();
    let reason = reason.as_str().expect("a reason");
    assert!(
        reason.contains("not charged yet") && reason.contains("--max-fee"),
        "{reason}"
    );
    let shown = machine.ask(&["status"]).ok().stdout;
    assert!(shown.contains("uncharged"), "{shown}");
    assert_eq!(chain.storage().0, 0);

    chain.base_fee(GWEI);
    machine.wait_for("1", "state", "ok");
    wait_until("it is charged", SOON, || chain.storage().0 >= 1 << 20);
    machine.stop();
}
