//! A drive that is mounted while the chain does not answer.

use std::fs::{self, File};
use std::io::Write;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::command::wait_until;
use crate::contract::{Chain, Kind};
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};

const SOON: Duration = Duration::from_secs(120);
/// Upload units of the free package.
const UNITS: u64 = 25;

/// A drive that publishes only when it is told to, and whose token can be written.
#[track_caller]
fn mounted(kind: Kind) -> (Chain, Machine) {
    let chain = Chain::new(kind);
    let never = [
        "--commit-idle",
        "1h",
        "--commit-max",
        "1h",
        "--refresh",
        "1s",
    ];
    let mut machine = chain.machine_with(None, &never);
    machine.start();
    if kind == Kind::Sync {
        machine.ask(&["register", "1", "--yes"]).ok();
    }
    machine.wait_for("1", "state", "ok");
    (chain, machine)
}

#[test]
fn an_offline_chain_leaves_a_synced_drive_readable_writable_and_publishing() {
    for kind in [Kind::Sync, Kind::V2] {
        let (chain, mut machine) = mounted(kind);
        let dir = machine.dir();
        let mut before = File::create(dir.join("before")).expect("a file");
        before.write_all(&pattern(1, 0, 300_000)).expect("written");
        before.sync_all().expect("synced");
        drop(before);
        machine.kill();
        let (chain, ()) = chain.without(|| {
            machine.start();
            assert_pattern(&dir.join("before"), 1, 300_000);
            let told = machine.status()["chain"].clone();
            assert_eq!(told["ok"], false, "{told:#}");
            assert!(told["block"].as_u64() > Some(0), "{told:#}");
            let line = told["error"].as_str().unwrap_or_default();
            assert!(line.contains("it has told nothing since 20"), "{line}");
            fs::write(dir.join("after"), pattern(2, 0, 300_000)).expect("it grows");
            let large = File::create(dir.join("large")).expect("a file");
            let grown = fallocate(&large, FallocateFlags::empty(), 0, 110 << 20);
            assert_eq!(grown, Err(Errno::DQUOT), "the quota that was known counts");
            machine.flush();
            let row = machine.token("1");
            assert_eq!(row["pending"], false, "{row:#}");
            assert!(row["root"].is_string(), "{row:#}");
        });
        wait_until("the chain is seen", SOON, || {
            machine.status()["chain"]["ok"] == true
        });
        let price = chain.larger_package();
        chain.mint(price);
        let new = machine.mountpoint().join("2");
        wait_until("a new token comes", SOON, || new.is_dir());
        if kind == Kind::V2 {
            wait_until("what was published meanwhile is charged", SOON, || {
                chain.storage().1 + machine.commits("1") == UNITS
            });
        }
        chain.give_away();
        wait_until("a token goes", SOON, || {
            machine.token("1")["state"] == "read-only"
        });
        assert_pattern(&dir.join("after"), 2, 300_000);
        machine.stop();
    }
}

#[test]
fn a_first_mount_without_the_chain_says_that_it_needs_it() {
    let chain = Chain::new(Kind::Sync);
    let mut machine = chain.machine(None);
    let (_, log) = chain.without(|| machine.try_start().expect_err("nothing is known yet"));
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("cannot be reached"), "{log}");
}
