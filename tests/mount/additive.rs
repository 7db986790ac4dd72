//! Contracts that add usage up and charge each commit, `px-v1` and `px-v2`, on a chain over HTTP.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use serde_json::Value;

use crate::command::wait_until;
use crate::contract::{Chain, Kind};
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};

/// Upload units of the free package.
const UNITS: u64 = 25;
const SOON: Duration = Duration::from_secs(120);

/// A drive that commits only when it is told to.
fn quiet(chain: &Chain) -> Machine {
    let never = ["--commit-idle", "1h", "--commit-max", "1h"];
    chain.machine_with(None, &never)
}

/// The drive looks at the chain now.
fn look(machine: &Machine) {
    machine.ask(&["dev", "advance", "1s"]).ok();
}

/// Waits until the chain has as many charges as there are commits, and the last one's anchor.
fn all_charged(chain: &Chain, machine: &Machine, foreign_units: u64) {
    wait_until("each commit is charged", SOON, || {
        let sequence = machine.commits("1");
        chain.storage().1 + foreign_units + sequence == UNITS
    });
    wait_until("the last one is anchored", SOON, || {
        chain.anchored()["sequence"] == machine.commits("1")
    });
}

#[test]
fn a_token_that_is_charged_by_the_commit_takes_files_and_gives_them_to_another_machine() {
    for kind in [Kind::V1, Kind::V2] {
        let chain = Chain::new(kind);
        let mut machine = quiet(&chain);
        machine.start();
        let content = pattern(7, 0, 3 << 20);
        fs::write(machine.dir().join("file"), &content).expect("a file");
        machine.flush();
        wait_until("the commit is charged", SOON, || chain.storage().0 > 0);
        let (usage, units) = chain.storage();
        assert!(
            (3 << 20..(3 << 20) + (64 << 10)).contains(&usage),
            "{usage}"
        );
        wait_until("the drive knows", SOON, || {
            look(&machine);
            let token = machine.token("1");
            let left = match kind == Kind::V2 {
                true => Value::from(units),
                false => Value::Null,
            };
            token["usage_on_chain_bytes"] == usage && token["uploads_left"] == left
        });

        // What was deleted stays paid for, and nothing is charged for nothing.
        machine.flush();
        let free = machine.number("1", "free_bytes");
        fs::remove_file(machine.dir().join("file")).expect("a file less");
        assert!(
            machine.number("1", "free_bytes") <= free,
            "deleting gives nothing back"
        );
        fs::write(machine.dir().join("second"), &content).expect("a file");
        machine.stop();

        let mut other = chain.machine(Some(&machine));
        other.start();
        assert_pattern(&other.dir().join("second"), 7, 3 << 20);
        assert!(!other.dir().join("file").exists());
        other.stop();
    }
}

#[test]
fn without_upload_units_nothing_grows_and_deleting_goes_on() {
    let chain = Chain::new(Kind::V2);
    let mut machine = chain.machine(None);
    machine.start();
    fs::write(machine.dir().join("file"), b"content").expect("a file");
    machine.flush();
    all_charged(&chain, &machine, 0);
    chain.charge(1000, UNITS - 2);
    wait_until("the drive knows", SOON, || {
        look(&machine);
        machine.number("1", "uploads_left") == 1
    });
    let refused = fs::write(machine.dir().join("more"), b"x").map_err(|fault| fault.raw_os_error());
    assert_eq!(refused, Err(Some(Errno::DQUOT.raw_os_error())));
    let token = machine.token("1");
    assert_eq!(token["state"], "quota");
    fs::remove_file(machine.dir().join("file")).expect("a file less");
    // The last unit is there for it.
    machine.flush();
    all_charged(&chain, &machine, UNITS - 2);
    assert_eq!(chain.storage().1, 0);
    machine.stop();
}

#[test]
fn commits_are_spread_over_the_time_that_the_units_have_to_last() {
    let chain = Chain::new(Kind::V2);
    let mut machine = chain.machine(None);
    machine.start();
    fs::write(machine.dir().join("first"), b"content").expect("a file");
    machine.flush();
    fs::write(machine.dir().join("second"), b"content").expect("a file");
    let token = machine.token("1");
    let plan: jiff::Timestamp = token["next_commit"]
        .as_str()
        .expect("a plan")
        .parse()
        .expect("a time");
    let hours = (plan - jiff::Timestamp::now())
        .total(jiff::Unit::Hour)
        .expect("hours");
    // 30 days over 24 units.
    assert!((29.0..31.0).contains(&hours), "{hours} h in {token:#}");
    let shown = machine.ask(&["status"]).ok().stdout;
    assert!(shown.contains("the next commit is planned for"), "{shown}");
    let sequence = machine.commits("1");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(machine.commits("1"), sequence, "it waits");
    machine.flush();
    assert_eq!(machine.commits("1"), sequence + 1, "unless it is asked for");
    machine.stop();
}

#[test]
fn each_commit_is_charged_once_however_often_the_daemon_is_killed() {
    let chain = Chain::new(Kind::V2);
    let mut machine = chain.machine(None);
    machine.start();
    for round in 0..8_u64 {
        let wrote: io::Result<()> =
            fs::write(machine.dir().join("file"), pattern(round, 0, 100_000));
        wrote.expect("a file");
        machine.flush();
        // Anywhere between the commit and what follows its charge.
        std::thread::sleep(Duration::from_millis(400 * round));
        machine.kill();
        machine.start();
    }
    all_charged(&chain, &machine, 0);
    std::thread::sleep(Duration::from_secs(5));
    let sequence = machine.commits("1");
    assert_eq!(chain.storage().1 + sequence, UNITS, "and not once more");
    machine.stop();
}

/// The folder of the node, or its record, is gone: what the chain counts is somewhere, and a drive that looked empty
/// would be written over it.
#[test]
fn a_token_whose_record_is_gone_though_the_chain_counts_bytes_is_not_shown_empty() {
    let chain = Chain::new(Kind::V1);
    let mut machine = quiet(&chain);
    machine.start();
    fs::write(machine.dir().join("file"), pattern(1, 0, 100_000)).expect("a file");
    machine.stop();
    assert!(chain.storage().0 > 0);

    let mut other = quiet(&chain);
    let refused = other.try_start().expect_err("what was stored is not known");
    for words in ["no node has the record of its name", "--take-over"] {
        assert!(refused.contains(words), "{refused}");
    }
    drop(other);
    let never = ["--commit-idle", "1h", "--commit-max", "1h", "--take-over"];
    let mut other = chain.machine_with(None, &never);
    other.start();
    assert!(
        fs::read_dir(other.dir())
            .expect("a folder")
            .next()
            .is_none()
    );
    fs::write(other.dir().join("anew"), b"x").expect("begun anew");
    other.flush();
    other.stop();
}

/// `px-v2` keeps texts beside a token: root and sequence of what was published last are one.
#[test]
fn a_tree_whose_record_is_gone_is_found_by_what_the_contract_keeps_beside_its_token() {
    let chain = Chain::new(Kind::V2);
    let mut machine = quiet(&chain);
    machine.start();
    for (round, name) in [(1, "first"), (2, "second")] {
        fs::write(machine.dir().join(name), pattern(round, 0, 100_000)).expect("a file");
        machine.flush();
    }
    machine.stop();
    assert_eq!(chain.anchored()["sequence"], 2, "{}", chain.anchored());
    assert_eq!(chain.storage().1, UNITS - 2, "an anchor takes no unit");
    let sent = chain.sent();

    // The node has the blocks, and no name any more.
    let names = machine.node().join("names");
    fs::remove_dir_all(&names).expect("the records");
    let mut other = chain.machine_with(Some(&machine), &["--take-over"]);
    other.start();
    for (round, name) in [(1, "first"), (2, "second")] {
        assert_pattern(&other.dir().join(name), round, 100_000);
    }
    assert_eq!(chain.sent(), sent, "what is anchored is not anchored again");
    fs::write(other.dir().join("third"), b"on from there").expect("a file");
    other.stop();
    assert_eq!(chain.anchored()["sequence"], 3);
}

#[test]
fn a_record_that_is_older_than_what_the_contract_keeps_rolls_nothing_back() {
    let chain = Chain::new(Kind::V2);
    let mut machine = quiet(&chain);
    machine.start();
    fs::write(machine.dir().join("first"), pattern(1, 0, 100_000)).expect("a file");
    machine.flush();
    // Somebody keeps the record of now, and brings it back later.
    let names = machine.node().join("names");
    let old = machine.scratch().join("old");
    copy_folder(&names, &old);
    fs::write(machine.dir().join("second"), pattern(2, 0, 100_000)).expect("a file");
    machine.stop();
    fs::remove_dir_all(&names).expect("the records");
    copy_folder(&old, &names);

    let mut other = chain.machine(Some(&machine));
    other.start();
    assert_pattern(&other.dir().join("second"), 2, 100_000);
    other.stop();
}

/// A folder with files alone, and such folders.
fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let place = to.join(entry.file_name());
        match entry.file_type().expect("a kind").is_dir() {
            true => copy_folder(&entry.path(), &place),
            false => drop(fs::copy(entry.path(), place).expect("a copy")),
        }
    }
}

/// Whoever buys a token sees what the one before has anchored, and that is not theirs.
#[test]
fn what_another_owner_has_anchored_is_not_taken_for_ones_own() {
    let chain = Chain::new(Kind::V2);
    let mut machine = quiet(&chain);
    machine.start();
    fs::write(machine.dir().join("file"), pattern(1, 0, 100_000)).expect("a file");
    machine.stop();
    let anchored = chain.anchored();
    assert_eq!(anchored["sequence"], 1);
    let node = format!("embedded={}", machine.node().display());

    // By its address alone its owner is watched, without being told the name.
    let mut watcher = chain.watcher(&node);
    watcher.start();
    assert_pattern(&watcher.dir().join("file"), 1, 100_000);
    watcher.stop();

    // The same text for another owner is none.
    let other = "0x7099797051812dc3a010c7d01b50e0d17dc79c8f";
    let forged = anchored.to_string().replace(
        anchored["owner"].as_str().expect("an address"),
        &other.to_lowercase(),
    );
    chain.anchor(&forged);
    let refused = chain.watcher(&node).try_start();
    let refused = refused.expect_err("nothing is known of it");
    assert!(refused.contains("keeps no names"), "{refused}");
}

#[test]
fn what_was_published_last_is_charged_before_the_drive_is_left() {
    for leave in ["umount", "signal", "umount(8)"] {
        let chain = Chain::new(Kind::V2);
        let mut machine = quiet(&chain);
        machine.start();
        fs::write(machine.dir().join("file"), pattern(1, 0, 100_000)).expect("a file");
        let place = machine.mountpoint();
        match leave {
            "umount" => drop(
                machine
                    .ask(&["umount", place.to_str().expect("a path")])
                    .ok(),
            ),
            "signal" => machine.signal(Signal::TERM),
            _ => {
                unmount(&place, UnmountFlags::empty()).expect("nothing is open");
            }
        }
        assert!(machine.ended(SOON).success(), "{}", machine.log());
        let (usage, units) = chain.storage();
        assert!(usage > 100_000, "{usage} bytes after {leave}");
        assert_eq!(units, UNITS - 1, "after {leave}");
    }
}

#[test]
fn who_leaves_a_chain_that_does_not_answer_is_told_what_is_not_charged() {
    let chain = Chain::new(Kind::V2);
    let mut machine = quiet(&chain);
    machine.start();
    fs::write(machine.dir().join("file"), pattern(1, 0, 100_000)).expect("a file");
    chain.end();
    let left = machine.ask(&["umount", machine.mountpoint().to_str().expect("a path")]);
    let left = left.ok();
    machine.ended(SOON);
    for words in ["token 1:", "not charged yet", "after the next mount"] {
        assert!(left.stderr.contains(words), "{}", left.stderr);
    }
}

#[test]
fn a_sync_reports_what_is_published_and_only_renews_where_nothing_is() {
    let chain = Chain::new(Kind::V1);
    let before = chain.sent();
    let mut machine = quiet(&chain);
    machine.start();
    for round in 1..=3_u64 {
        fs::write(machine.dir().join("file"), pattern(round, 0, 100_000)).expect("a file");
        machine.flush();
        let synced = machine.ask(&["sync", "1", "--json"]).ok().json();
        let usage = chain.storage().0;
        assert!(
            usage > round * 100_000,
            "{usage} bytes after {round} commits"
        );
        assert_eq!(synced["usage"], usage);
        assert_eq!(chain.sent(), before + round, "one transaction each");
    }
    let usage = chain.storage().0;
    machine.ask(&["sync", "1"]).ok();
    assert_eq!(chain.storage().0, usage, "nothing is charged for nothing");
    assert_eq!(chain.sent(), before + 4, "the time is renewed");
    machine.stop();
}
