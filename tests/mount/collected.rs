//! A node that collects its garbage again and again, beside a drive that publishes to it.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::harness::Machine;
use crate::nodes::kubo::Kubo;
use crate::samples::{assert_pattern, pattern};

/// Changes that are published one after the other.
const ROUNDS: u64 = 8;
/// Who collects, so that one begins while another ends.
const COLLECTORS: usize = 3;
const LARGE: u64 = 900_000;
const SMALL: u64 = 3_000;

fn write(machine: &Machine, name: &str, id: u64, len: u64) {
    let path = machine.dir().join(name);
    let bytes = pattern(id, 0, usize::try_from(len).expect("small"));
    fs::write(path, bytes).expect("writable");
}

/// Writes anew what every round has, and some files of its own, and takes away some of an older one.
fn change(machine: &Machine, round: u64) {
    let folder = machine.dir().join(format!("folder-{round}"));
    fs::create_dir(folder).expect("made");
    write(machine, "again", round, LARGE);
    write(machine, &format!("large-{round}"), 100 + round, LARGE);
    for n in 0..5 {
        write(machine, &format!("folder-{round}/{n}"), 200 + round, SMALL);
    }
    if let Some(old) = round.checked_sub(2) {
        fs::remove_file(machine.dir().join(format!("large-{old}"))).expect("removed");
    }
}

/// All below the root that is published is on the node.
fn assert_whole(machine: &Machine, node: &Kubo) {
    let root = machine.token("1")["root"].clone();
    let root = root.as_str().expect("a root");
    // Without a peer a block that is lost is searched for until the time is over.
    node.ipfs(&["--timeout=60s", "refs", "-r", root]);
}

#[test]
fn commits_beside_a_collection_without_end_are_all_published_whole() {
    let node = Kubo::start();
    let url = format!("ipfs={}", node.url());
    let args = ["--node", &url, "--commit-idle", "1h", "--commit-max", "1h"];
    let mut machine = Machine::demo_with(&args);
    let (is_over, collections) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        // However the rounds end, the collections do.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        let _end = End(&is_over);
        for _ in 0..COLLECTORS {
            scope.spawn(|| {
                while !is_over.load(Ordering::Acquire) {
                    node.ipfs(&["repo", "gc", "--quiet"]);
                    collections.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        for round in 0..ROUNDS {
            let before = collections.load(Ordering::Acquire);
            change(&machine, round);
            machine.flush();
            assert_whole(&machine, &node);
            let since = collections.load(Ordering::Acquire) - before;
            assert!(since > 0, "none in round {round}");
        }
    });
    machine.stop();
    let mut second = Machine::prepared_second(&machine).with_node(&url);
    second.start();
    let last = ROUNDS - 1;
    assert_pattern(&second.dir().join("again"), last, LARGE);
    for round in [last - 1, last] {
        let large = second.dir().join(format!("large-{round}"));
        assert_pattern(&large, 100 + round, LARGE);
    }
    for round in 0..ROUNDS {
        for n in 0..5 {
            let small = second.dir().join(format!("folder-{round}/{n}"));
            assert_pattern(&small, 200 + round, SMALL);
        }
    }
}
