//! What a commit of one small change, and a look at what is not here, cost at a node: calls and blocks, whatever
//! the volume's size.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::command::run;
use crate::harness::Machine;
use crate::nodes::btfs::Btfs;
use crate::nodes::front::Front;
use crate::nodes::kubo::Kubo;
use crate::samples::pattern;

/// The most calls of one commit.
const CALLS: usize = 12;
/// The most blocks.
const BLOCKS: u64 = 10;

/// Files in each folder of a tree.
const FILES: usize = 100;

/// A tree of so many folders, which is published.
fn drive(kind: &str, front: &Front, folders: usize) -> Machine {
    let node = format!("{kind}={}", front.url());
    // Nor does it look in between whether another machine has gone on.
    let quiet = ["--refresh", "1h"];
    let args = ["--package", "1", "--node", &node, quiet[0], quiet[1]];
    let machine = Machine::demo_with(&args);
    for folder in 0..folders {
        let folder = machine.dir().join(format!("folder {folder}"));
        fs::create_dir(&folder).expect("a folder");
        for file in 0..FILES {
            File::create(folder.join(file.to_string())).expect("a file");
        }
    }
    machine.flush();
    machine
}

/// Rounds that are counted.
const ROUNDS: usize = 4;

/// The calls of each of [`ROUNDS`] rounds, which are numbered. The sampler, which goes on for a moment once in a minute, is
/// known by its `block/stat`, which none of them makes: where it comes in between, they are made again.
fn undisturbed(front: &Front, mut round: impl FnMut(usize)) -> Vec<Vec<String>> {
    for attempt in 0..3 {
        front.asked();
        // What is on its way before the first, and after the last, is of two that are not counted.
        let rounds = (0..ROUNDS + 2).map(|n| {
            round(attempt * (ROUNDS + 2) + n);
            front.asked()
        });
        let mut rounds: Vec<Vec<String>> = rounds.collect();
        if !rounds
            .iter()
            .flatten()
            .any(|call| call.ends_with("block/stat"))
        {
            rounds.pop();
            return rounds.split_off(1);
        }
    }
    panic!("the sampler comes into all that is done here");
}

/// The calls of each of a few commits of one changed file each.
fn calls(machine: &Machine, front: &Front) -> Vec<Vec<String>> {
    let changed = machine.dir().join("folder 7/7");
    let commits = undisturbed(front, |round| {
        write(&changed, round);
        machine.flush();
    });
    for calls in &commits {
        assert!(calls.iter().any(|call| call.ends_with("pin/update")));
        assert!(calls.len() <= CALLS, "{} calls: {calls:#?}", calls.len());
    }
    commits
}

fn write(file: &Path, round: usize) {
    fs::write(file, format!("changed for the {round}th time")).expect("written");
}

#[test]
fn a_small_change_takes_an_ipfs_node_few_calls_and_few_blocks() {
    is_cheap_for_ipfs(20);
}

#[test]
#[ignore = "benchmark: the same among 100,000 files, which take minutes to be made"]
fn a_small_change_among_100_000_files_takes_an_ipfs_node_as_few() {
    is_cheap_for_ipfs(1000);
}

fn is_cheap_for_ipfs(folders: usize) {
    let node = Kubo::start();
    let front = Front::of(node.url());
    let machine = drive("ipfs", &front, folders);
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
    let calls: Vec<usize> = calls(&machine, &front).iter().map(Vec::len).collect();
    println!("{folders} folders: {new} blocks, calls: {calls:?}");
}

#[test]
fn a_small_change_takes_a_btfs_node_few_calls() {
    let node = Btfs::start();
    let front = Front::of(&node.url());
    let machine = drive("btfs", &front, 20);
    calls(&machine, &front);
}

/// Another machine, which has the wallet and nothing else, behind `front`.
fn elsewhere(mut first: Machine, front: &Front) -> (Machine, Machine) {
    first.stop();
    let node = format!("ipfs={}", front.url());
    let mut second = Machine::prepared_second(&first)
        .with_node(&node)
        .with_args(&["--take-over"]);
    second.start();
    // It has taken over: what that looks at is not counted.
    second.flush();
    (first, second)
}

/// How many blocks were asked for since the last time.
fn fetched(front: &Front) -> usize {
    reads_of(&front.asked())
}

fn reads_of(asked: &[String]) -> usize {
    let reads = |call: &&String| call.ends_with("block/get") || call.ends_with("/cat");
    asked.iter().filter(reads).count()
}

#[test]
fn a_listing_of_what_is_not_here_takes_a_call_for_each_page_of_a_folder() {
    const FOLDERS: usize = 50;
    let node = Kubo::start();
    let front = Front::of(node.url());
    let machine = Machine::demo_with(&["--node", &format!("ipfs={}", front.url())]);
    for folder in 0..FOLDERS {
        let folder = machine.dir().join(format!("folder {folder}"));
        fs::create_dir(&folder).expect("a folder");
        for file in 0..FILES {
            fs::write(folder.join(file.to_string()), file.to_string()).expect("a file");
        }
    }
    machine.flush();
    let (_first, second) = elsewhere(machine, &front);
    fetched(&front);
    let mut ls = Command::new("ls");
    ls.arg("-lR").arg(second.dir());
    let listed = run(ls, Duration::from_secs(120)).ok().stdout;
    let files = listed.lines().filter(|line| line.starts_with("-rw"));
    assert_eq!(files.count(), FOLDERS * FILES);
    let (calls, most) = (fetched(&front), (FOLDERS + 1) * 11 / 10);
    assert!(calls >= FOLDERS, "{calls} calls: they are not counted");
    assert!(calls <= most, "{calls} calls for {} pages", FOLDERS + 1);
}

#[test]
fn a_read_at_a_random_place_of_what_is_not_here_takes_one_block() {
    const MIB: u64 = 1 << 20;
    let node = Kubo::start();
    let front = Front::of(node.url());
    let machine = Machine::demo_with(&["--node", &format!("ipfs={}", front.url())]);
    let bytes = pattern(5, 0, 64 << 20);
    fs::write(machine.dir().join("image"), &bytes).expect("written");
    machine.flush();
    let (_first, second) = elsewhere(machine, &front);
    let image = File::open(second.dir().join("image")).expect("opened");
    // No two distances, one behind the other, are the same.
    let chunks = [
        37_u64, 20, 9, 31, 49, 3, 10, 63, 40, 7, 32, 50, 4, 46, 19, 2, 13, 45, 38, 8, 27, 12, 58,
        47, 6, 61, 17, 33, 11, 51, 1, 23, 5, 41, 18, 29,
    ];
    let rounds = undisturbed(&front, |round| {
        for n in [2 * round, 2 * round + 1] {
            let offset = chunks[n] * MIB + (n % 16 + 4) as u64 * 40_000;
            let mut part = [0; 4096];
            image.read_exact_at(&mut part, offset).expect("read");
            let at = usize::try_from(offset).expect("an offset");
            assert!(part[..] == bytes[at..at + 4096], "other bytes at {offset}");
        }
    });
    // A leaf each; the node above them is had since the round that is not counted.
    let blocks: Vec<usize> = rounds.iter().map(|calls| reads_of(calls)).collect();
    assert_eq!(blocks, [2; ROUNDS], "{rounds:#?}");
}
