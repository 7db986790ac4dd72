//! The node was put back to an older copy, or emptied, while nothing was mounted: nobody is told that all is published
//! before it is there again.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::command::run;
use crate::harness::Machine;
use crate::nodes::front::Front;
use crate::nodes::kubo::Kubo;
use crate::samples::{assert_pattern, pattern};

/// `CLI.md`: something is damaged.
const DAMAGED: i32 = 9;
const LEN: u64 = 2_000_000;

fn write(machine: &Machine, name: &str, id: u64) {
    let bytes = pattern(id, 0, usize::try_from(LEN).expect("small"));
    fs::write(machine.dir().join(name), bytes).expect("writable");
}

/// `from` becomes `to`, whatever was there.
fn copy(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).expect("removed");
    }
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(from).arg(to);
    run(copy, Duration::from_secs(120)).ok();
}

/// A machine that is stopped, whose node has lost `new`, and whatever else was published since `old`: put back to an older
/// copy, or emptied.
fn lost(folder: &Path, is_emptied: bool) -> (Kubo, Front, Machine) {
    let (repo, kept) = (folder.join("repo"), folder.join("kept"));
    let mut node = Kubo::start_in(&repo);
    let front = Front::of(node.url());
    let mut machine = Machine::demo_with(&["--node", &format!("ipfs={}", front.url())]);
    write(&machine, "old", 1);
    machine.stop();
    node.kill();
    copy(&repo, &kept);
    node.run();
    front.lead_to(node.url());
    machine.start();
    write(&machine, "new", 2);
    machine.stop();
    node.kill();
    if is_emptied {
        node = Kubo::start();
    } else {
        copy(&kept, &repo);
        node.run();
    }
    front.lead_to(node.url());
    (node, front, machine)
}

/// Whoever has the wallet alone finds all of it.
fn assert_elsewhere(machine: &Machine, front: &Front) {
    let node = format!("ipfs={}", front.url());
    let mut second = Machine::prepared_second(machine).with_node(&node);
    second.start();
    assert_pattern(&second.dir().join("old"), 1, LEN);
    assert_pattern(&second.dir().join("new"), 2, LEN);
}

#[test]
fn flush_after_a_node_rollback_returns_once_all_is_restored() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_node, front, mut machine) = lost(folder.path(), false);
    let node = format!("ipfs={}", front.url());
    let checked = machine.ask(&["fsck", "1", "--json", "--node", &node]);
    let checked = checked.exits(DAMAGED).json();
    let reason = checked["damaged"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("published from here last"), "{reason}");
    machine.start();
    machine.flush();
    machine.ask(&["fsck", "1"]).ok();
    machine.kill();
    assert_elsewhere(&machine, &front);
}

#[test]
fn umount_after_the_node_was_emptied_restores_everything_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_node, front, mut machine) = lost(folder.path(), true);
    let node = format!("ipfs={}", front.url());
    let checked = machine.ask(&["fsck", "1", "--node", &node]);
    let told = checked.exits(DAMAGED).one_line();
    assert!(told.stderr.contains("lost its name"), "{}", told.stderr);
    machine.start();
    machine.umount().ok();
    assert_elsewhere(&machine, &front);
}
