//! What a commit of one small change costs at a node: calls and blocks, whatever the volume's size.

use std::fs;
use std::path::Path;

use crate::harness::Machine;
use crate::nodes::btfs::Btfs;
use crate::nodes::front::Front;
use crate::nodes::kubo::Kubo;

/// The most calls of one commit.
const CALLS: usize = 12;
/// The most blocks.
const BLOCKS: u64 = 10;

/// A tree of 2,000 files, which is published.
fn drive(kind: &str, front: &Front) -> Machine {
    let machine = Machine::demo_with(&["--node", &format!("{kind}={}", front.url())]);
    for folder in 0..20 {
        let folder = machine.dir().join(format!("folder {folder}"));
        fs::create_dir(&folder).expect("a folder");
        for file in 0..100 {
            let text = format!("file {file} of {}", folder.display());
            fs::write(folder.join(file.to_string()), text).expect("a file");
        }
    }
    machine.flush();
    machine
}

/// The calls of the cheapest of a few commits of one changed file each: between two of them the
/// sampler may ask for something, too.
fn calls(machine: &Machine, front: &Front) -> Vec<String> {
    let changed = machine.dir().join("folder 7/7");
    let commits = (0..4).map(|round| {
        front.asked();
        write(&changed, round);
        machine.flush();
        front.asked()
    });
    let cheapest = commits.min_by_key(Vec::len).expect("commits");
    assert!(cheapest.iter().any(|call| call.ends_with("pin/update")));
    cheapest
}

fn write(file: &Path, round: u64) {
    fs::write(file, format!("changed for the {round}th time")).expect("written");
}

#[test]
fn a_small_change_takes_an_ipfs_node_few_calls_and_few_blocks() {
    let node = Kubo::start();
    let front = Front::of(node.url());
    let machine = drive("ipfs", &front);
    let objects = || {
        let told = node.ipfs(&["repo", "stat"]);
        let line = told.lines().find(|line| line.starts_with("NumObjects"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        let number = number.and_then(|number| number.parse::<u64>().ok());
        number.unwrap_or_else(|| panic!("{told}"))
    };
    let before = objects();
    write(&machine.dir().join("folder 3/3"), 100);
    machine.flush();
    let new = objects() - before;
    assert!(new <= BLOCKS, "{new} blocks");
    let calls = calls(&machine, &front);
    assert!(calls.len() <= CALLS, "{} calls: {calls:#?}", calls.len());
}

#[test]
fn a_small_change_takes_a_btfs_node_few_calls() {
    let node = Btfs::start();
    let front = Front::of(&node.url());
    let machine = drive("btfs", &front);
    let calls = calls(&machine, &front);
    assert!(calls.len() <= CALLS, "{} calls: {calls:#?}", calls.len());
}
