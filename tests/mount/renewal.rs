//! Tokens that are synced unasked before their deadlines.

use std::fs;
use std::time::Duration;

use crate::command::wait_until;
use crate::contract::{Chain, Kind};
use crate::harness::Machine;

const SOON: Duration = Duration::from_secs(120);

fn last_sync(machine: &Machine) -> String {
    let told = machine.token("1")["last_sync"].as_str().map(str::to_owned);
    told.expect("a time")
}

#[test]
fn a_token_is_synced_unasked_before_its_deadline_and_goes_on_growing() {
    let mut machine = Machine::demo_with(&["--auto-sync", "3d"]);
    fs::write(machine.dir().join("file"), "x").expect("writable");
    machine.flush();
    let before = last_sync(&machine);
    machine.ask(&["dev", "advance", "26d"]).ok();
    // Two looks: it is too early.
    std::thread::sleep(Duration::from_secs(11));
    assert_eq!(last_sync(&machine), before);
    machine.ask(&["dev", "advance", "3d"]).ok();
    wait_until("it is synced", SOON, || last_sync(&machine) > before);
    machine.ask(&["dev", "advance", "20d"]).ok();
    fs::write(machine.dir().join("more"), "x").expect("writable, 49 days after it began");
    machine.stop();
}

#[test]
fn a_token_of_an_older_contract_is_renewed_unasked_and_charged_nothing() {
    let chain = Chain::new(Kind::V2);
    let mut machine = chain
        .machine(None)
        .with_args(&["--auto-sync", "3d", "--refresh", "1s"]);
    machine.start();
    let (before, charged) = (last_sync(&machine), chain.storage());
    machine.ask(&["dev", "advance", "29d"]).ok();
    wait_until("it is renewed", SOON, || last_sync(&machine) > before);
    assert_eq!(chain.storage(), charged);
    machine.stop();
}
