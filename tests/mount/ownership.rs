//! What happens on the chain to tokens that are mounted: each shows with the next look, in the
//! directory, in `statfs`, as an error and in `status`, whatever the contract.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use crate::command::wait_until;
use crate::contract::{Chain, Kind};
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};

/// A look is a second apart; a machine under load is slow.
const SOON: Duration = Duration::from_secs(120);
const FREE_BYTES: u64 = 100 << 20;
const LARGE_BYTES: u64 = 1 << 30;

/// A chain, and a drive on it that can be written.
#[track_caller]
fn mounted(kind: Kind, more: &[&str]) -> (Chain, Machine) {
    let chain = Chain::new(kind);
    let mut machine = chain
        .machine_with(None, more)
        .with_args(&["--refresh", "1s"]);
    machine.start();
    register(&chain, &machine);
    (chain, machine)
}

#[track_caller]
fn register(chain: &Chain, machine: &Machine) {
    if chain.kind == Kind::Sync {
        machine.ask(&["register", "1", "--yes"]).ok();
    }
    wait_state(machine, "1", "ok");
}

#[track_caller]
fn wait_state(machine: &Machine, token: &str, state: &str) {
    wait_until(&format!("token {token} is {state}"), SOON, || {
        let status = machine.ask(&["status", "--json"]).ok().json();
        let tokens = status["tokens"].as_array().cloned().unwrap_or_default();
        let found = tokens.iter().find(|row| row["id"] == token);
        found.is_some_and(|row| row["state"] == state)
    });
}

fn errno<T>(result: io::Result<T>) -> Option<Errno> {
    let code = result.err()?.raw_os_error()?;
    Some(Errno::from_raw_os_error(code))
}

fn size_bytes(dir: &Path) -> u64 {
    let told = statvfs(dir).expect("statvfs");
    told.f_blocks * told.f_frsize
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("listing");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    names
}

#[test]
fn a_token_transferred_and_returned_is_read_only_in_between() {
    for kind in Kind::ALL {
        let (chain, mut machine) = mounted(kind, &[]);
        let dir = machine.dir();
        fs::write(dir.join("mine"), pattern(1, 0, 5000)).expect("writable");
        machine.flush();
        if kind != Kind::Sync {
            wait_until("it is charged", SOON, || chain.storage().0 > 0);
        }
        chain.give_away();
        wait_state(&machine, "1", "read-only");
        assert_eq!(errno(fs::write(dir.join("more"), "x")), Some(Errno::ROFS));
        assert_eq!(names(&machine.mountpoint()), ["1"], "{kind:?}");
        assert_eq!(size_bytes(&dir), FREE_BYTES, "{kind:?}");
        assert_pattern(&dir.join("mine"), 1, 5000);
        let row = machine.token("1");
        let reason = row["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("belongs to 0x"), "{reason}");

        chain.give_back();
        if kind == Kind::Sync {
            // A buyer gets room, not the seller's files: that holds also for who sells and buys.
            wait_state(&machine, "1", "unregistered");
            assert_eq!(names(&dir), [""; 0]);
            register(&chain, &machine);
        } else {
            wait_state(&machine, "1", "ok");
            assert_pattern(&dir.join("mine"), 1, 5000);
        }
        fs::write(dir.join("again"), "x").expect("writable");
        machine.flush();
        machine.stop();
    }
}

#[test]
fn a_token_that_ceases_to_exist_is_read_only_and_says_so() {
    for kind in Kind::ALL {
        let (chain, mut machine) = mounted(kind, &[]);
        let price = chain.larger_package();
        let before = chain.remember();
        chain.mint(price);
        let dir = machine.mountpoint().join("2");
        wait_until("the new directory appears", SOON, || dir.is_dir());
        assert_eq!(size_bytes(&dir), LARGE_BYTES, "{kind:?}");
        assert_eq!(size_bytes(&machine.mountpoint()), LARGE_BYTES + FREE_BYTES);
        fs::read_dir(&dir).expect("one that was never used would just go");
        chain.set_back(&before);
        wait_until("it is told", SOON, || {
            let reason = machine.token("2")["reason"].to_string();
            reason.contains("does not exist any more")
        });
        assert_eq!(machine.token("2")["state"], "read-only");
        assert_eq!(errno(fs::write(dir.join("x"), "x")), Some(Errno::ROFS));
        fs::write(machine.dir().join("x"), "x").expect("the other one is as it was");
        machine.stop();
    }
}

#[test]
fn a_quota_that_grows_or_shrinks_counts_at_the_next_look() {
    for kind in Kind::ALL {
        let (chain, mut machine) = mounted(kind, &["--commit-idle", "1h", "--commit-max", "1h"]);
        let dir = machine.dir();
        let price = chain.larger_package();
        let before = chain.remember();
        let file = File::create(dir.join("large")).expect("a file");
        let grow = |bytes: u64| fallocate(&file, FallocateFlags::empty(), 0, bytes);
        assert_eq!(grow(110 << 20), Err(Errno::DQUOT), "{kind:?}");
        chain.upgrade(price);
        wait_until("statfs tells the new quota", SOON, || {
            size_bytes(&dir) == LARGE_BYTES
        });
        assert_eq!(machine.number("1", "quota_bytes"), LARGE_BYTES);
        grow(110 << 20).expect("it fits now");
        assert_eq!(machine.token("1")["state"], "ok");

        // The chain takes it back.
        chain.set_back(&before);
        wait_until("statfs tells the old quota", SOON, || {
            size_bytes(&dir) == FREE_BYTES
        });
        assert_eq!(grow(111 << 20), Err(Errno::DQUOT), "{kind:?}");
        let told = statvfs(&dir).expect("statvfs");
        assert_eq!(told.f_bavail, 0, "{kind:?}");
        let row = machine.token("1");
        assert_eq!(
            (&row["state"], &row["quota_bytes"]),
            (&"quota".into(), &FREE_BYTES.into())
        );
        drop(file);
        fs::remove_file(dir.join("large")).expect("deleting goes on");
        if kind != Kind::Sync {
            // What was reserved there for the commit comes back with it.
            machine.flush();
        }
        fs::write(dir.join("small"), pattern(2, 0, 5000)).expect("and makes room");
        assert_eq!(machine.token("1")["state"], "ok");
        machine.stop();
    }
}

#[test]
fn a_contract_that_is_paused_mints_nothing_and_leaves_the_drive_alone() {
    for kind in Kind::ALL {
        let (chain, mut machine) = mounted(kind, &[]);
        chain.larger_package();
        let state = |paused: bool| match (kind, paused) {
            (Kind::Sync, true) => chain.call("pause()", &[]),
            (Kind::Sync, false) => chain.call("unpause()", &[]),
            (_, paused) => {
                let word = alloy::primitives::U256::from(paused).to_be_bytes::<32>();
                chain.call("pause(uint256)", &word);
            }
        };
        state(true);
        let refused = machine.ask(&["mint", "--package", "1", "--yes"]);
        let refused = refused.exits(6).one_line();
        assert!(
            refused.stderr.contains("paused minting"),
            "{}",
            refused.stderr
        );
        fs::write(machine.dir().join("file"), pattern(1, 0, 5000)).expect("writable");
        machine.flush();
        assert_eq!(machine.token("1")["state"], "ok");
        assert_eq!(size_bytes(&machine.dir()), FREE_BYTES);
        state(false);
        machine.ask(&["mint", "--package", "1", "--yes"]).ok();
        let dir = machine.mountpoint().join("2");
        wait_until("the new directory appears", SOON, || dir.is_dir());
        machine.stop();
    }
}

#[test]
fn a_chain_with_stale_blocks_is_reported_and_the_drive_works() {
    let chain = Chain::with(Kind::V2, &["--timestamp", "1700000000"]);
    let mut machine = chain.machine(None).with_args(&["--refresh", "1s"]);
    machine.start();
    let told = || machine.ask(&["status", "--json"]).ok().json()["chain"].clone();
    let chain_said = told();
    assert_eq!(chain_said["ok"], false, "{chain_said:#}");
    let line = chain_said["error"].as_str().unwrap_or_default();
    assert!(
        line.contains("min old") && line.contains("--rpc-url"),
        "{line}"
    );
    fs::write(machine.dir().join("file"), "x").expect("writable");
    machine.flush();
    machine.stop();
}

#[test]
fn a_vanished_chain_leaves_the_drive_working_and_its_age_shown() {
    for kind in Kind::ALL {
        let (chain, mut machine) = mounted(kind, &["--commit-idle", "1h", "--commit-max", "1h"]);
        let dir = machine.dir();
        fs::write(dir.join("before"), pattern(1, 0, 5000)).expect("writable");
        chain.end();
        let told = || machine.ask(&["status", "--json"]).ok().json()["chain"].clone();
        wait_until("it is told, with an age", SOON, || {
            let chain = told();
            chain["ok"] == false && chain["age_s"].as_u64() >= Some(2)
        });
        let line = told()["error"].as_str().unwrap_or_default().to_owned();
        assert!(line.contains("cannot be reached"), "{line}");
        assert_eq!(size_bytes(&dir), FREE_BYTES, "{kind:?}");
        fs::write(dir.join("after"), pattern(2, 0, 5000)).expect("writable");
        assert_pattern(&dir.join("before"), 1, 5000);
        let too_much = File::create(dir.join("large")).expect("a file");
        let grown = fallocate(&too_much, FallocateFlags::empty(), 0, 110 << 20);
        assert_eq!(grown, Err(Errno::DQUOT), "the quota that was known counts");
        machine.flush();
        machine.stop();
    }
}
