//! A drive on a node that does everything that nodes do wrong: what was acknowledged is read back at
//! any time, a flush says what is true, and when the node is well again all is published and another
//! machine has it.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use crate::command::{ends, wait_until};
use crate::harness::Machine;
use crate::nodes::btfs::Btfs;
use crate::nodes::front::{Fault, Front};
use crate::nodes::kubo::Kubo;
use crate::samples::{assert_pattern, pattern, read_at_last};

/// What a node may answer that is not the answer.
fn wrong() -> Vec<Fault> {
    let full = Fault::Says("write /repo/blocks: no space left on device");
    Fault::WRONG.into_iter().chain([full]).collect()
}

/// What keeps an answer, or what is sent, from arriving.
fn silent() -> Vec<Fault> {
    Fault::SILENT.into_iter().chain(Fault::CUT).collect()
}

/// Length of a file that goes through the stage, and of one that does not.
const GREAT: usize = 150_000;
const SMALL: usize = 900;

/// Much more than a read may take by its timeout of 2 s, on a loaded machine.
const BOUND: Duration = Duration::from_secs(60);

/// The arguments of all machines here: short waits.
const HASTY: [&str; 4] = ["--read-timeout", "2s", "--commit-idle", "50ms"];

/// Bytes of file `kind` of row `n`.
fn seed(kind: u64, n: usize) -> u64 {
    kind * 1000 + n as u64
}

/// A machine behind `front` that holds nothing itself of what is published: a great file a row.
fn remote(front: &Front, kind: &str, rows: usize) -> Machine {
    let node = format!("{kind}={}", front.url());
    let mut first = Machine::demo_with(&["--node", &node]);
    for n in (0..rows).rev() {
        let file = first.dir().join(old(n));
        fs::write(file, pattern(seed(1, n), 0, GREAT)).expect("written");
    }
    first.flush();
    first.stop();
    drop(fs::remove_dir_all(first.cache()));
    let mut machine = first.with_args(&HASTY);
    machine.start();
    machine
}

/// A file that is not here. Later ones come earlier in a listing: who reads them in turn goes against its order, and
/// none is fetched ahead of him.
fn old(n: usize) -> String {
    format!("old-{:02}", 99 - n)
}

/// One row: everything that a user does, while the node has `fault`.
fn bears(machine: &Machine, front: &Front, n: usize, fault: Fault) {
    let dir = machine.dir();
    front.set(Some(fault));
    let (great, small) = (dir.join(format!("new-{n}")), dir.join(format!("small-{n}")));
    fs::write(&great, pattern(seed(2, n), 0, GREAT)).expect("written");
    fs::write(&small, pattern(seed(3, n), 0, SMALL)).expect("written");
    File::open(&great)
        .and_then(|file| file.sync_all())
        .expect("synced");
    fs::rename(&small, dir.join(format!("renamed-{n}"))).expect("renamed");

    // What is not here: right, or an error in time; never other bytes.
    let old = dir.join(old(n));
    match ends("a read", BOUND, move || fs::read(old)) {
        Ok(bytes) => {
            assert!(bytes == pattern(seed(1, n), 0, GREAT), "{fault:?}");
            // What strikes files that are sent alone lets a read pass.
            assert!(
                matches!(fault, Fault::Slow(_)) || Fault::CUT.contains(&fault),
                "{fault:?}: it was not asked"
            );
        }
        Err(error) => {
            let known = [Errno::IO, Errno::TIMEDOUT].map(|errno| Some(errno.raw_os_error()));
            assert!(known.contains(&error.raw_os_error()), "{fault:?}: {error}");
        }
    }

    let flushed = machine.ask(&["flush"]);
    let is_published = machine.token("1")["pending_bytes"] == 0;
    let may_publish = matches!(fault, Fault::Slow(_) | Fault::WrongCid);
    match flushed.code {
        Some(0) => assert!(may_publish, "{fault:?}"),
        _ => {
            flushed.exits(7).one_line();
            // What gets through at all goes on behind a flush that has given up.
            assert!(
                may_publish || !is_published,
                "{fault:?}: all is published, and a flush says it is not"
            );
        }
    }
    assert_row(&dir, n, false);
    front.set(None);
    machine.flush_at_last();
    assert_row(&dir, n, true);
}

/// What a row has written, and what was there before it.
#[track_caller]
fn assert_row(dir: &Path, n: usize, is_well: bool) {
    assert_pattern(&dir.join(format!("new-{n}")), seed(2, n), GREAT as u64);
    assert_pattern(&dir.join(format!("renamed-{n}")), seed(3, n), SMALL as u64);
    if is_well {
        let read = read_at_last(&dir.join(old(n))).expect("read");
        assert!(read == pattern(seed(1, n), 0, GREAT), "row {n}");
    }
}

/// All rows on one drive, and then a machine that has the wallet alone.
fn bears_all(url: &str, kind: &str, faults: &[Fault]) {
    let front = Front::of(url);
    let mut machine = remote(&front, kind, faults.len());
    for (n, fault) in faults.iter().enumerate() {
        bears(&machine, &front, n, *fault);
    }
    machine.stop();
    let node = format!("{kind}={url}");
    let mut second = Machine::prepared_second(&machine)
        .with_node(&node)
        .with_args(&["--take-over"]);
    second.start();
    for n in 0..faults.len() {
        assert_row(&second.dir(), n, true);
    }
    assert!(second.token("1")["last_error"].is_null());
}

#[test]
fn an_ipfs_node_that_does_not_answer_costs_nothing() {
    let node = Kubo::start();
    bears_all(node.url(), "ipfs", &silent());
}

#[test]
fn an_ipfs_node_that_answers_wrong_costs_nothing() {
    let node = Kubo::start();
    bears_all(node.url(), "ipfs", &wrong());
}

#[test]
fn a_btfs_node_that_does_not_answer_costs_nothing() {
    let node = Btfs::start();
    bears_all(&node.url(), "btfs", &silent());
}

#[test]
fn a_btfs_node_that_answers_wrong_costs_nothing() {
    let node = Btfs::start();
    bears_all(&node.url(), "btfs", &wrong());
}

/// A node as tests use both kinds.
trait Node {
    fn begin() -> Self;
    fn place(&self) -> String;
    fn kill_and_run(&mut self);
    /// Loses blocks behind its pins.
    fn lose(&mut self, lost: &[cid::Cid]);
    const KIND: &'static str;
    /// The calls that read its names.
    const NAMES: &'static [&'static str];
}

impl Node for Kubo {
    fn begin() -> Self {
        Self::start()
    }
    fn place(&self) -> String {
        self.url().to_owned()
    }
    fn kill_and_run(&mut self) {
        self.kill();
        self.run();
    }
    fn lose(&mut self, lost: &[cid::Cid]) {
        self.kill();
        lost.iter().for_each(|cid| Kubo::lose(self, cid));
        self.run();
    }
    const KIND: &'static str = "ipfs";
    const NAMES: &'static [&'static str] = &["routing/get"];
}

impl Node for Btfs {
    fn begin() -> Self {
        Self::start()
    }
    fn place(&self) -> String {
        self.url()
    }
    fn kill_and_run(&mut self) {
        self.kill();
        self.run();
    }
    fn lose(&mut self, lost: &[cid::Cid]) {
        lost.iter().for_each(|cid| Btfs::lose(self, cid));
    }
    const KIND: &'static str = "btfs";
    const NAMES: &'static [&'static str] = &["dht/get"];
}

/// A drive with some published files, on a node behind a front.
fn drive<N: Node>(patience: &str) -> (N, Front, Machine) {
    let node = N::begin();
    let front = Front::of(&node.place());
    let url = format!("{}={}", N::KIND, front.url());
    // A node waits for a block that it has lost: a while goes by until that is told.
    let patience = ["--read-timeout", patience, "--commit-idle", "50ms"];
    let args = [&["--node", url.as_str()][..], &patience].concat();
    let machine = Machine::demo_with(&args);
    fs::create_dir(machine.dir().join("folder")).expect("a folder");
    for n in 0..10 {
        let file = machine.dir().join(format!("folder/old-{n}"));
        fs::write(file, pattern(seed(1, n), 0, GREAT)).expect("written");
    }
    machine.flush_at_last();
    (node, front, machine)
}

/// A machine that has the wallet alone finds `more` great files of seed 2, and what [`drive`] wrote.
fn assert_elsewhere<N: Node>(mut machine: Machine, node: &N, more: usize) {
    machine.stop();
    let mut second = Machine::prepared_second(&machine)
        .with_node(&format!("{}={}", N::KIND, node.place()))
        .with_args(&["--take-over"]);
    second.start();
    for n in 0..10 {
        let file = second.dir().join(format!("folder/old-{n}"));
        assert_pattern(&file, seed(1, n), GREAT as u64);
    }
    for n in 0..more {
        assert_pattern(
            &second.dir().join(format!("new-{n}")),
            seed(2, n),
            GREAT as u64,
        );
    }
}

fn write_new(machine: &Machine, n: usize) {
    let file = machine.dir().join(format!("new-{n}"));
    fs::write(file, pattern(seed(2, n), 0, GREAT)).expect("written");
}

fn killed_in_a_commit<N: Node>() {
    let (mut node, front, machine) = drive::<N>("2s");
    for n in 0..6 {
        write_new(&machine, n);
        // The node dies at another place of a commit each time.
        let flushing = std::thread::spawn({
            let mut flush = machine.command();
            flush.arg("flush").arg(machine.mountpoint());
            move || flush.output()
        });
        std::thread::sleep(Duration::from_millis(20 * n as u64));
        node.kill_and_run();
        front.lead_to(&node.place());
        flushing.join().expect("a thread").expect("it ends");
    }
    machine.flush_at_last();
    assert_elsewhere(machine, &node, 6);
}

#[test]
fn an_ipfs_node_that_is_killed_in_a_commit_costs_nothing() {
    killed_in_a_commit::<Kubo>();
}

#[test]
fn a_btfs_node_that_is_killed_in_a_commit_costs_nothing() {
    killed_in_a_commit::<Btfs>();
}

fn comes_back_empty<N: Node>() {
    let (_old, front, machine) = drive::<N>("15s");
    let node = N::begin();
    front.lead_to(&node.place());
    front.set(None);
    write_new(&machine, 0);
    machine.flush_at_last();
    assert!(
        machine.log().contains("was it emptied?"),
        "{}",
        machine.log()
    );
    assert_elsewhere(machine, &node, 1);
}

#[test]
fn a_btfs_node_that_comes_back_empty_is_filled_again() {
    comes_back_empty::<Btfs>();
}

#[test]
fn an_ipfs_node_that_comes_back_empty_is_filled_again() {
    comes_back_empty::<Kubo>();
}

/// What a name does not say, or says of yesterday, never takes back what was published.
fn withholds_and_replays<N: Node>() {
    let (node, front, machine) = drive::<N>("2s");
    front.remember();
    for n in 0..2 {
        write_new(&machine, n);
        machine.flush_at_last();
    }
    let sequence = machine.commits("1");
    let withheld = Fault::Says("routing: not found");
    for (n, fault, why) in [
        (2, withheld, "does not hold the record that it took"),
        (
            3,
            Fault::Replays,
            "holds another record than the one it took",
        ),
    ] {
        front.set_for(N::NAMES, Some(fault));
        write_new(&machine, n);
        // What cannot be read back is not published.
        let told = machine.ask(&["flush"]).exits(7).one_line();
        assert!(told.stderr.contains(why), "{}", told.stderr);
        assert_pattern(
            &machine.dir().join(format!("new-{n}")),
            seed(2, n),
            GREAT as u64,
        );
        front.set(None);
        machine.flush_at_last();
    }
    assert!(machine.commits("1") > sequence);
    assert_elsewhere(machine, &node, 4);
}

#[test]
fn an_ipfs_node_hiding_or_replaying_records_rolls_nothing_back() {
    withholds_and_replays::<Kubo>();
}

#[test]
fn a_btfs_node_hiding_or_replaying_records_rolls_nothing_back() {
    withholds_and_replays::<Btfs>();
}

/// As a collection does that forgets pinned blocks, or a disk: the pin stays listed.
fn loses_pinned_blocks<N: Node>() {
    let (mut node, front, machine) = drive::<N>("2s");
    let lost: Vec<cid::Cid> = (0..10)
        .map(|n| pattern(seed(1, n), 0, GREAT))
        .map(|bytes| pxfs::pack::cid::leaf_cid(&bytes))
        .collect();
    node.lose(&lost);
    front.lead_to(&node.place());
    let is_back = || {
        let log = machine.log();
        let again = |cid: &cid::Cid| log.contains(&format!("put again block={cid}"));
        lost.iter().all(again)
    };
    wait_until(
        "the lost blocks are put again",
        Duration::from_secs(180),
        is_back,
    );
    write_new(&machine, 0);
    machine.flush_at_last();
    assert_elsewhere(machine, &node, 1);
}

#[test]
fn a_btfs_node_that_loses_pinned_blocks_gets_them_again() {
    loses_pinned_blocks::<Btfs>();
}

#[test]
fn an_ipfs_node_that_loses_pinned_blocks_gets_them_again() {
    loses_pinned_blocks::<Kubo>();
}
