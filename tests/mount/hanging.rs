//! Whatever the node does, every call ends: what is local goes on, what needs the node ends by its
//! deadline, and nothing is lost.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Signal;

use crate::command::{ends, wait_until};
use crate::harness::{Machine, is_mounted};
use crate::nodes::btfs::Btfs;
use crate::nodes::front::{Fault, Front};
use crate::samples::{assert_pattern, pattern, read_at_last};

/// More than any local call takes on a loaded machine, less than [`LONG`].
const LOCAL: Duration = Duration::from_secs(120);
/// More than the read timeout of 2 s that these tests set, on a loaded machine.
const NETWORK: Duration = Duration::from_secs(120);
/// A read timeout: who waits for a node that hangs is not back in any time that a test has.
const LONG: [&str; 2] = ["--read-timeout", "1h"];

/// Every kind of call that needs no network, in `dir`, where `known` is a file.
fn local_calls(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("new"), pattern(5, 0, 200_000))?;
    File::open(dir.join("new"))?.sync_all()?;
    fs::create_dir(dir.join("folder"))?;
    symlink("new", dir.join("link"))?;
    fs::hard_link(dir.join("new"), dir.join("folder/linked"))?;
    fs::rename(dir.join("new"), dir.join("renamed"))?;
    File::options()
        .write(true)
        .open(dir.join("renamed"))?
        .set_len(100_000)?;
    for entry in fs::read_dir(dir)? {
        entry?.metadata()?;
    }
    rustix::fs::statvfs(dir)?;
    assert!(fs::read(dir.join("renamed"))? == pattern(5, 0, 100_000));
    fs::remove_file(dir.join("link"))?;
    fs::remove_file(dir.join("folder/linked"))?;
    fs::remove_dir(dir.join("folder"))?;
    File::open(dir)?.sync_all()
}

/// A machine with one published file that it no longer holds itself, and short deadlines: what has to succeed may take
/// more than one try.
fn with_a_remote_file() -> Machine {
    with_a_remote_file_and(&["--read-timeout", "2s"])
}

fn with_a_remote_file_and(args: &[&str]) -> Machine {
    let mut machine = Machine::demo_with(&["--commit-idle", "100ms"]);
    fs::write(machine.dir().join("remote"), pattern(1, 0, 3_000_000)).expect("writable");
    machine.stop();
    drop(fs::remove_dir_all(machine.cache()));
    let mut machine = machine.with_args(args);
    machine.start();
    machine
}

#[test]
fn local_calls_go_on_while_the_node_hangs() {
    let mut machine = with_a_remote_file_and(&LONG);
    machine.fault("all hang");
    let dir = machine.dir();
    ends("local calls", LOCAL, move || local_calls(&dir)).expect("local calls succeed");
    assert!(machine.status()["tokens"].is_array());
    // The node comes back: what was held up is published by itself.
    machine.fault("");
    machine.flush();
    machine.restart();
    assert_pattern(&machine.dir().join("renamed"), 5, 100_000);
}

#[test]
fn a_read_that_needs_the_node_ends_by_its_deadline() {
    let machine = with_a_remote_file();
    let remote = machine.dir().join("remote");
    let read = |what: &str, at_last: bool| {
        let path = remote.clone();
        let read = move || match at_last {
            true => read_at_last(&path),
            false => fs::read(&path),
        };
        ends(what, NETWORK, read).map_err(|why| why.raw_os_error())
    };
    let timed_out = Err(Some(Errno::TIMEDOUT.raw_os_error()));
    let failed = Err(Some(Errno::IO.raw_os_error()));
    for (fault, at_last, expected) in [
        ("get hang", false, vec![timed_out.clone()]),
        ("get fail", false, vec![timed_out, failed.clone()]),
        ("get corrupt", true, vec![failed.clone()]),
        ("get drop", true, vec![failed]),
    ] {
        machine.fault(fault);
        let result = read(fault, at_last);
        assert!(
            expected.contains(&result),
            "{fault}: {:?}",
            result.map(|bytes| bytes.len())
        );
    }
    machine.fault("");
    assert!(read("after the fault", true) == Ok(pattern(1, 0, 3_000_000)));
}

#[test]
fn a_node_failing_before_or_after_acting_only_delays_a_commit() {
    let mut machine = with_a_remote_file();
    for (n, fault) in [
        "put-many fail 3",
        "put-many fail-after 3",
        "pin fail-after 1",
        "publish fail 2",
        "publish fail-after 1",
    ]
    .into_iter()
    .enumerate()
    {
        machine.fault(fault);
        fs::write(
            machine.dir().join(format!("f{n}")),
            pattern(n as u64, 0, 300_000),
        )
        .expect("writable");
        machine.flush_at_last();
    }
    machine.fault("");
    machine.restart();
    for n in 0..5 {
        assert_pattern(&machine.dir().join(format!("f{n}")), n, 300_000);
    }
}

#[test]
fn unmounting_with_a_node_that_hangs_ends_and_keeps_everything() {
    let mut machine = with_a_remote_file();
    machine.fault("all hang");
    fs::write(machine.dir().join("pending"), pattern(7, 0, 500_000)).expect("writable");
    machine.umount().exits(7).one_line();
    machine.ended(LOCAL);
    machine.clear_fault();
    machine.start();
    assert_pattern(&machine.dir().join("pending"), 7, 500_000);
    machine.flush_at_last();
    machine.stop();
    let mut second = Machine::second(&machine);
    assert_pattern(&second.dir().join("pending"), 7, 500_000);
    second.stop();
}

/// Who leaves with nothing pending is not kept as long as a node that is to take something may take.
#[test]
fn leaving_with_nothing_pending_waits_for_no_node_that_is_away() {
    for fault in ["all fail", "all hang"] {
        let mut machine = Machine::demo_with(&LONG);
        fs::write(machine.dir().join("file"), pattern(7, 0, 500_000)).expect("writable");
        machine.flush();
        machine.fault(fault);
        let left;
        (machine, left) = ends("leaving", LOCAL, move || {
            let left = machine.umount();
            (machine, left)
        });
        let left = left.exits(7).one_line();
        assert!(left.stderr.contains("nothing of token 1 waits"), "{left:?}");
        machine.ended(LOCAL);
    }
}

/// The kernel has asked for the page ahead of whoever read there, and waits for it.
#[test]
fn leaving_waits_for_no_page_that_nobody_reads_any_more() {
    let mut machine = with_a_remote_file_and(&LONG);
    machine.fault("get hang");
    let file = File::open(machine.dir().join("remote")).expect("opened");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::WillNeed).expect("read ahead");
    drop(file);
    let place = machine.mountpoint();
    let place = place.to_str().expect("UTF-8");
    machine.ask(&["umount", "--now", place]).ok();
    machine.ended(LOCAL);
    machine.clear_fault();
    machine.start();
    assert_pattern(&machine.dir().join("remote"), 1, 3_000_000);
    machine.stop();
}

/// What a node may answer to a commit, for ever: the call, and what it does.
const REFUSALS: [&str; 6] = [
    "put-many refuse",
    "put-many fail",
    "pin refuse",
    "pin fail",
    "publish refuse",
    "publish fail",
];

#[test]
fn a_flush_to_a_node_that_refuses_ends_and_says_why() {
    let mut machine = with_a_remote_file();
    for (n, fault) in REFUSALS.into_iter().enumerate() {
        machine.fault(fault);
        fs::write(
            machine.dir().join(format!("f{n}")),
            pattern(n as u64, 0, 2 << 20),
        )
        .expect("writable");
        // Where all is slow it may be a call without an answer that is told first.
        wait_until(fault, NETWORK, || {
            let answer = machine.ask(&["flush"]).exits(7).one_line();
            answer.stderr.contains("told to")
        });
    }
    // It thinks better of it.
    machine.fault("");
    machine.flush_at_last();
    machine.restart();
    for n in 0..REFUSALS.len() {
        assert_pattern(&machine.dir().join(format!("f{n}")), n as u64, 2 << 20);
    }
}

#[test]
fn leaving_a_node_that_refuses_ends_and_keeps_everything() {
    let mut machine = with_a_remote_file();
    for (n, fault) in REFUSALS.into_iter().enumerate() {
        machine.fault(fault);
        fs::write(
            machine.dir().join(format!("f{n}")),
            pattern(n as u64, 0, 2 << 20),
        )
        .expect("writable");
        let status = if n % 2 == 0 {
            machine.signal(Signal::TERM);
            machine.ended(NETWORK)
        } else {
            machine.umount().exits(7).one_line();
            machine.ended(LOCAL)
        };
        assert_eq!(status.code(), Some(7), "{fault}");
        machine.clear_fault();
        machine.start();
    }
    for n in 0..REFUSALS.len() {
        assert_pattern(&machine.dir().join(format!("f{n}")), n as u64, 2 << 20);
    }
    machine.flush_at_last();
    machine.stop();
}

#[test]
fn who_no_longer_waits_for_an_unmount_keeps_the_drive() {
    let machine = Machine::demo_with(&[&LONG[..], &["--commit-idle", "100ms"]].concat());
    machine.fault("put-many fail");
    fs::write(machine.dir().join("pending"), pattern(7, 0, 500_000)).expect("writable");
    let mut command = machine.command();
    command.arg("umount").arg(machine.mountpoint());
    command.arg("--state-dir").arg(machine.state());
    let mut client = command.spawn().expect("pxfs starts");
    let says = |what: &str| machine.log().contains(what);
    wait_until("it is leaving", NETWORK, || says("umount: asked to leave"));
    client.kill().expect("still waiting");
    client.wait().expect("our child");
    wait_until("it stays", NETWORK, || says("the drive stays"));
    machine.fault("");
    machine.flush();
    assert!(is_mounted(&machine.mountpoint()));
    assert_pattern(&machine.dir().join("pending"), 7, 500_000);
}

/// A check of a large volume takes hours, and the node is others' as well.
#[test]
fn a_check_whose_command_is_gone_asks_the_node_for_nothing_more() {
    const FILES: usize = 200;
    let node = Btfs::start();
    let front = Front::of(&node.url());
    let machine = Machine::demo_with(&["--node", &format!("btfs={}", front.url())]);
    for i in 0..FILES {
        fs::write(machine.dir().join(i.to_string()), i.to_string()).expect("writable");
    }
    machine.flush();
    let reads = || {
        let asked = front.asked();
        asked
            .iter()
            .filter(|path| path.ends_with("block/get"))
            .count()
    };
    reads();
    front.set_for(&["block/get"], Some(Fault::HangsBeforeItsAnswer));
    let mut command = machine.command();
    command
        .args(["fsck", "1", "--state-dir"])
        .arg(machine.state());
    let mut client = command.spawn().expect("pxfs starts");
    wait_until("the check reads", NETWORK, || reads() > 0);
    client.kill().expect("still waiting");
    client.wait().expect("our child");
    let ends = "what it asked for ends";
    wait_until("it ends", NETWORK, || machine.log().contains(ends));
    front.set(None);
    reads();
    fs::write(machine.dir().join("more"), "more").expect("writable");
    machine.flush();
    let reads = reads();
    assert!(reads < FILES / 2, "{reads} reads for nobody");
}

#[test]
fn a_hanging_commit_is_reported_as_the_nodes_fault() {
    let machine = with_a_remote_file();
    machine.fault("put-many hang");
    fs::write(machine.dir().join("pending"), pattern(7, 0, 500_000)).expect("writable");
    let told = || machine.token("1")["last_error"].as_str().map(str::to_owned);
    wait_until("status tells of the node", NETWORK, || told().is_some());
    let told = told().unwrap_or_default();
    assert!(told.contains("storage node has not answered"), "{told}");
    let answer = machine.ask(&["flush"]).exits(7).one_line();
    let blamed = answer.stderr.contains("storage node has not answered");
    assert!(blamed, "{}", answer.stderr);
    machine.fault("");
    machine.flush_at_last();
    assert!(machine.token("1")["last_error"].is_null());
}

#[test]
fn a_machine_with_nothing_to_publish_unmounts_whatever_the_node_does() {
    let mut machine = with_a_remote_file();
    machine.stop();
    // The first one has just written: this one may only read.
    let mut second = Machine::second(&machine);
    assert_eq!(second.token("1")["state"], "read-only");
    assert_pattern(&second.dir().join("remote"), 1, 3_000_000);
    second.fault("all hang");
    second.umount().ok();
    assert!(second.ended(LOCAL).success());
    drop(second);
    // Nor one that was told not to.
    let mut reader = Machine::prepared_second(&machine).with_args(&["-o", "ro", "--take-over"]);
    reader.start();
    reader.fault("all hang");
    reader.umount().ok();
    assert!(reader.ended(LOCAL).success());
    reader.clear_fault();
    // Whoever has published, and hears nothing of that, leaves as well, and is not told that it is there.
    machine.start();
    machine.fault("all hang");
    let told = machine.umount().exits(7).one_line();
    let why = "waits to be published, but whether the node still has all of it is not known";
    assert!(told.stderr.contains(why), "{}", told.stderr);
    machine.ended(LOCAL);
    machine.clear_fault();
}
