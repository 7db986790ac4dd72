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
    let machine = Machine::demo_with(&["--package", "1", "--node", &node]);
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
    let calls = calls(&machine, &front);
    println!("{folders} folders: {new} blocks, {} calls", calls.len());
    assert!(calls.len() <= CALLS, "{} calls: {calls:#?}", calls.len());
}

#[test]
fn a_small_change_takes_a_btfs_node_few_calls() {
    let node = Btfs::start();
    let front = Front::of(&node.url());
    let machine = drive("btfs", &front, 20);
    let calls = calls(&machine, &front);
    assert!(calls.len() <= CALLS, "{} calls: {calls:#?}", calls.len());
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
    let asked = front.asked();
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
    fetched(&front);
    // No two of them, nor their distances, follow from those before.
    let chunks = [
        37_u64, 5, 50, 12, 44, 21, 60, 3, 31, 57, 16, 26, 9, 47, 34, 62,
    ];
    let reads = |(round, chunks): (usize, &[u64])| {
        fetched(&front);
        for (n, chunk) in chunks.iter().enumerate() {
            let offset = chunk * MIB + (4 * round + n + 4) as u64 * 40_000;
            let mut part = [0; 4096];
            image.read_exact_at(&mut part, offset).expect("read");
            let at = usize::try_from(offset).expect("an offset");
            assert!(part[..] == bytes[at..at + 4096], "other bytes at {offset}");
        }
        fetched(&front)
    };
    // A leaf each, the node above them in the first round; and the sampler may ask for something, too.
    let rounds = chunks.chunks(4).enumerate().map(reads);
    let rounds: Vec<usize> = rounds.collect();
    assert_eq!(
        rounds.iter().min(),
        Some(&4),
        "blocks of rounds: {rounds:?}"
    );
}
