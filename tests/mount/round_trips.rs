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
use crate::nodes::kubo::Kubo;
use crate::samples::pattern;

/// The most calls of one commit.
const CALLS: usize = 12;
/// The most blocks.
const BLOCKS: u64 = 10;

/// Files in each folder of a tree.
const FILES: usize = 100;

/// Has the log tell each call of a node, and what makes it.
const TELLING: &str = "info,pxfs_storage::rpc=trace,pxfs_transfer::publish=debug,pxfs::run=debug,pxfs::tokens=debug,pxfs::context=debug,pxfs::node=debug,pxfs::billing=debug";
/// What looks at the node by itself: for what it has lost, and whether it answers.
const BY_ITSELF: [&str; 2] = [" sample:", " look:"];

/// A tree of so many folders, which is published.
fn drive(kind: &str, url: &str, folders: usize) -> Machine {
    let node = format!("{kind}={url}");
    // Nor does it look in between whether another machine has gone on.
    let mut machine = Machine::prepared("demo").with_args(&[
        "--package",
        "1",
        "--node",
        &node,
        "--refresh",
        "1h",
    ]);
    machine.set_env("PXFS_LOG", TELLING);
    machine.start();
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

/// The calls since the last time, but for those that the daemon makes by itself.
struct Asked<'a> {
    machine: &'a Machine,
    read: usize,
}

impl<'a> Asked<'a> {
    fn of(machine: &'a Machine) -> Self {
        let read = machine.log().len();
        Self { machine, read }
    }

    fn next(&mut self) -> Vec<String> {
        let log = self.machine.log();
        // A line may be half written.
        let end = log.rfind('\n').map_or(0, |at| at + 1);
        let lines = log[self.read..end].lines();
        self.read = end;
        let told = lines.filter(|line| !BY_ITSELF.iter().any(|who| line.contains(who)));
        let path = |line: &str| {
            let (_, path) = line.split_once("a node is asked path=\"")?;
            Some(path.split_once('"')?.0.to_owned())
        };
        told.filter_map(path).collect()
    }
}

/// Rounds that are counted.
const ROUNDS: usize = 4;

/// The calls of each of [`ROUNDS`] rounds, which are numbered.
fn counted(machine: &Machine, mut round: impl FnMut(usize)) -> Vec<Vec<String>> {
    let mut asked = Asked::of(machine);
    // What is on its way before the first, and after the last, is of two that are not counted.
    let rounds = (0..ROUNDS + 2).map(|n| {
        round(n);
        asked.next()
    });
    let mut rounds: Vec<Vec<String>> = rounds.collect();
    rounds.pop();
    rounds.split_off(1)
}

/// The calls of each of a few commits of one changed file each.
fn calls(machine: &Machine) -> Vec<Vec<String>> {
    let changed = machine.dir().join("folder 7/7");
    let commits = counted(machine, |round| {
        write(&changed, round);
        machine.flush();
    });
    for calls in &commits {
        assert!(calls.iter().any(|call| call == "pin/update"));
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
fn a_small_change_among_100_000_files_costs_ipfs_few_calls() {
    is_cheap_for_ipfs(1000);
}

fn is_cheap_for_ipfs(folders: usize) {
    let node = Kubo::start();
    let machine = drive("ipfs", node.url(), folders);
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
    let calls: Vec<usize> = calls(&machine).iter().map(Vec::len).collect();
    println!("{folders} folders: {new} blocks, calls: {calls:?}");
}

#[test]
fn a_small_change_takes_a_btfs_node_few_calls() {
    let node = Btfs::start();
    let machine = drive("btfs", &node.url(), 20);
    calls(&machine);
}

/// Another machine, which has the wallet and nothing else.
fn elsewhere(mut first: Machine, url: &str) -> (Machine, Machine) {
    first.stop();
    let node = format!("ipfs={url}");
    let mut second = Machine::prepared_second(&first)
        .with_node(&node)
        .with_args(&["--take-over"]);
    second.set_env("PXFS_LOG", TELLING);
    second.start();
    // It has taken over: what that looks at is not counted.
    second.flush();
    (first, second)
}

/// How many of these calls are for a block.
fn reads_of(asked: &[String]) -> usize {
    let reads = |call: &&String| *call == "block/get" || *call == "cat";
    asked.iter().filter(reads).count()
}

#[test]
fn listing_uncached_directories_takes_one_call_per_page() {
    const FOLDERS: usize = 50;
    let node = Kubo::start();
    let machine = Machine::demo_with(&["--node", &format!("ipfs={}", node.url())]);
    for folder in 0..FOLDERS {
        let folder = machine.dir().join(format!("folder {folder}"));
        fs::create_dir(&folder).expect("a folder");
        for file in 0..FILES {
            fs::write(folder.join(file.to_string()), file.to_string()).expect("a file");
        }
    }
    machine.flush();
    let (_first, second) = elsewhere(machine, node.url());
    let mut asked = Asked::of(&second);
    let mut ls = Command::new("ls");
    ls.arg("-lR").arg(second.dir());
    let listed = run(ls, Duration::from_secs(120)).ok().stdout;
    let files = listed.lines().filter(|line| line.starts_with("-rw"));
    assert_eq!(files.count(), FOLDERS * FILES);
    let (calls, most) = (reads_of(&asked.next()), (FOLDERS + 1) * 11 / 10);
    assert!(calls >= FOLDERS, "{calls} calls: they are not counted");
    assert!(calls <= most, "{calls} calls for {} pages", FOLDERS + 1);
}

#[test]
fn an_uncached_random_read_fetches_one_block() {
    const MIB: u64 = 1 << 20;
    let node = Kubo::start();
    let machine = Machine::demo_with(&["--node", &format!("ipfs={}", node.url())]);
    let bytes = pattern(5, 0, 64 << 20);
    fs::write(machine.dir().join("image"), &bytes).expect("written");
    machine.flush();
    let (_first, second) = elsewhere(machine, node.url());
    let image = File::open(second.dir().join("image")).expect("opened");
    // No two distances, one behind the other, are the same.
    let chunks = [
        37_u64, 20, 9, 31, 49, 3, 10, 63, 40, 7, 32, 50, 4, 46, 19, 2, 13, 45, 38, 8, 27, 12, 58,
        47, 6, 61, 17, 33, 11, 51, 1, 23, 5, 41, 18, 29,
    ];
    let rounds = counted(&second, |round| {
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
