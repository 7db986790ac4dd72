//! A month on a chain over HTTP with a real node: growth stops, an operator answers, growth goes on.

use std::fs;
use std::io;
use std::time::Duration;

use crate::command::wait_until;
use crate::contract::{Chain, Kind};
use crate::harness::Machine;
use crate::nodes::kubo::Kubo;
use crate::nodes::{assert_same, publish_tree};

const SOON: Duration = Duration::from_secs(120);

/// A token on a node that runs, registered and writable.
fn started(chain: &Chain, node: &Kubo) -> Machine {
    let gateway = format!("gateway={}", node.gateway());
    let mut machine = chain
        .machine(None)
        .with_node(&format!("ipfs={}", node.url()))
        .with_args(&["--node", &gateway, "--refresh", "1s"]);
    machine.start();
    if chain.kind == Kind::Sync {
        machine.ask(&["register", "1", "--yes"]).ok();
    }
    let writable = || fs::write(machine.dir().join("first"), "x").is_ok();
    wait_until("it is writable", SOON, writable);
    machine
}

fn told(machine: &Machine, field: &str) -> String {
    let row = machine.token("1");
    row[field].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn assert_locked(machine: &Machine) {
    let refused = fs::write(machine.dir().join("more"), [b'x'; 20_000]).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(told(machine, "state"), "overdue");
}

#[test]
fn an_overdue_token_stops_growing_and_each_failure_names_its_remedy() {
    let (node, chain) = (Kubo::start(), Chain::new(Kind::Sync));
    let mut machine = started(&chain, &node);
    let local = publish_tree(&machine);
    machine.ask(&["dev", "advance", "31d"]).ok();
    machine.wait_for("1", "state", "overdue");
    assert_locked(&machine);

    // Nobody pays.
    chain.endow(1);
    machine.ask(&["sync", "1", "--yes"]).exits(6);
    let error = told(&machine, "last_error");
    assert!(error.contains("is missing"), "{error}");
    chain.endow(u64::MAX);

    // Nobody answers.
    machine.ask(&["sync", "1", "--yes", "--no-wait"]).ok();
    let reason = told(&machine, "reason");
    assert!(reason.contains("has not answered"), "{reason}");
    machine.ask(&["dev", "advance", "6m"]).ok();
    let late = || told(&machine, "reason").contains("no operator of the oracle");
    wait_until("that nobody answers is told", SOON, late);
    assert_locked(&machine);

    let operator = chain.operator(&node.gateway(), &machine.scratch().join("operator"));
    let open = || told(&machine, "state") != "overdue";
    wait_until("the request that was open is answered", SOON, open);
    fs::write(machine.dir().join("more"), "x").expect("it grows again");
    assert_eq!(told(&machine, "last_error"), "");
    assert_same(&local, &machine.dir().join("tree"));

    // The gateway keeps what it has read for some minutes, and nothing is paid for that.
    machine.flush();
    let behind = machine.ask(&["sync", "1", "--yes"]).exits(12);
    assert!(
        behind.stderr.contains("nothing was spent"),
        "{}",
        behind.stderr
    );
    drop(operator);
    machine.stop();
}

#[test]
fn after_a_month_an_older_token_grows_again_once_it_is_renewed() {
    let (node, chain) = (Kubo::start(), Chain::new(Kind::V2));
    let mut machine = started(&chain, &node);
    let local = publish_tree(&machine);
    machine.ask(&["dev", "advance", "31d"]).ok();
    machine.wait_for("1", "state", "overdue");
    assert_locked(&machine);
    machine.ask(&["sync", "1", "--yes"]).ok();
    fs::write(machine.dir().join("more"), "x").expect("it grows again");
    assert_same(&local, &machine.dir().join("tree"));
    machine.stop();
}
