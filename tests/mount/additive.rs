//! Contracts that add usage up and charge each commit, `px-v1` and `px-v2`, on a chain over HTTP.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pxfs::chain::outbox::shelf::Kept;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use serde_json::Value;

use crate::command::wait_until;
use crate::contract::{Chain, Kind};
use crate::harness::Machine;
use crate::line::Line;
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

/// Such a drive of a new chain, mounted.
#[track_caller]
fn mounted(kind: Kind) -> (Chain, Machine) {
    let chain = Chain::new(kind);
    let machine = started(quiet(&chain));
    (chain, machine)
}

#[track_caller]
fn started(mut machine: Machine) -> Machine {
    machine.start();
    machine
}

/// Writes a file of the first token.
#[track_caller]
fn write(machine: &Machine, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let file = machine.dir().join(name);
    fs::write(&file, content).expect("a file");
    file
}

/// The same, and it survives a crash.
#[track_caller]
fn write_durably(machine: &Machine, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let file = write(machine, name, content);
    let synced = File::open(&file).and_then(|file| file.sync_all());
    synced.expect("durable here");
    file
}

/// The same, and it is published.
#[track_caller]
fn publish(machine: &Machine, name: &str, content: impl AsRef<[u8]>) {
    write(machine, name, content);
    machine.flush();
}

#[track_caller]
fn assert_empty(machine: &Machine) {
    let mut entries = fs::read_dir(machine.dir()).expect("a folder");
    assert!(entries.next().is_none());
}

#[track_caller]
fn assert_says(text: &str, all: &[&str]) {
    for words in all {
        assert!(text.contains(words), "{words}: {text}");
    }
}

/// It is not mounted, and says why.
#[track_caller]
fn assert_refused(machine: &mut Machine, why: &[&str]) {
    assert_says(&machine.try_start().expect_err("nothing is mounted"), why);
}

/// Waits until the drive has seen of the chain what `is_so` asks for.
#[track_caller]
fn knows(machine: &Machine, is_so: impl Fn() -> bool) {
    wait_until("the drive knows", SOON, || {
        look(machine);
        is_so()
    });
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
fn tokens_charged_per_commit_take_files_and_share_them_across_machines() {
    for kind in [Kind::V1, Kind::V2] {
        let (chain, mut machine) = mounted(kind);
        let content = pattern(7, 0, 3 << 20);
        publish(&machine, "file", &content);
        wait_until("the commit is charged", SOON, || chain.storage().0 > 0);
        let (usage, units) = chain.storage();
        assert!(
            (3 << 20..(3 << 20) + (64 << 10)).contains(&usage),
            "{usage}"
        );
        knows(&machine, || {
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
        write(&machine, "second", &content);
        machine.stop();

        let mut other = started(chain.machine(Some(&machine)));
        assert_pattern(&other.dir().join("second"), 7, 3 << 20);
        assert!(!other.dir().join("file").exists());
        other.stop();
    }
}

#[test]
fn a_commit_is_charged_though_nothing_else_looks_at_the_chain() {
    let chain = Chain::new(Kind::V2);
    let mut machine = started(quiet(&chain).with_args(&["--refresh", "1h"]));
    // What is looked at because the token was shown is over then.
    std::thread::sleep(Duration::from_secs(6));
    for commit in 1..=2 {
        publish(&machine, "file", pattern(commit, 0, 1 << 20));
        all_charged(&chain, &machine, 0);
    }
    machine.stop();
}

/// As `px-v1` is deployed: its own owner alone reports usage, and nothing locks.
#[test]
fn a_contract_without_user_reports_allows_writing_and_is_sent_nothing() {
    let chain = Chain::new(Kind::V1);
    chain.hand_over();
    let sent = chain.sent();
    let mut machine = started(quiet(&chain).with_args(&["--refresh", "1s"]));
    let content = pattern(7, 0, 3 << 20);
    publish(&machine, "file", &content);
    machine.ask(&["dev", "advance", "40d"]).ok();
    fs::write(machine.dir().join("second"), &content).expect("no lock");
    machine.flush();
    let token = machine.token("1");
    assert_eq!(
        (&token["state"], &token["sync_deadline"]),
        (&"ok".into(), &Value::Null)
    );
    let told = token["reason"].as_str().expect("what is not usual");
    assert!(told.contains("PollinationX alone"), "{told}");
    assert_eq!(token["last_error"], Value::Null);
    let refused = machine.ask(&["sync", "1", "--yes"]).exits(1).stderr;
    assert!(refused.contains("PollinationX alone"), "{refused}");
    assert_eq!(machine.token("1")["last_error"], Value::Null);

    // What the contract counts is others', and comes on top.
    let free = machine.number("1", "free_bytes");
    chain.issuer_reports(50 << 20);
    knows(&machine, || {
        machine.number("1", "free_bytes") == free - (50 << 20)
    });
    fs::remove_file(machine.dir().join("file")).expect("a file less");
    assert!(machine.number("1", "free_bytes") >= free - (50 << 20) + (3 << 20));
    machine.stop();
    assert_eq!((chain.sent(), chain.storage().0), (sent, 50 << 20));

    let mut other = started(chain.machine(Some(&machine)));
    assert_pattern(&other.dir().join("second"), 7, 3 << 20);
    other.stop();
}

#[test]
fn without_upload_units_nothing_grows_and_deleting_goes_on() {
    let chain = Chain::new(Kind::V2);
    let mut machine = started(chain.machine(None));
    publish(&machine, "file", b"content");
    all_charged(&chain, &machine, 0);
    chain.charge(1000, UNITS - 2);
    knows(&machine, || machine.number("1", "uploads_left") == 1);
    let refused = fs::write(machine.dir().join("more"), b"x").map_err(|fault| fault.raw_os_error());
    assert_eq!(refused, Err(Some(Errno::DQUOT.raw_os_error())));
    let token = machine.token("1");
    assert_eq!(token["state"], "quota");
    fs::remove_file(machine.dir().join("file")).expect("a file less");
    // The last unit is there for it, as soon as the chain was seen with the charge of the first commit.
    machine.flush_at_last();
    all_charged(&chain, &machine, UNITS - 2);
    assert_eq!(chain.storage().1, 0);
    machine.stop();
}

#[test]
fn commits_are_spread_over_the_time_that_the_units_have_to_last() {
    let chain = Chain::new(Kind::V2);
    let mut machine = started(chain.machine(None));
    publish(&machine, "first", b"content");
    write(&machine, "second", b"content");
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
    assert!(shown.contains("next upload planned for"), "{shown}");
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
    let mut machine = started(chain.machine(None));
    for round in 0..8_u64 {
        publish(&machine, "file", pattern(round, 0, 100_000));
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
fn a_lost_name_record_never_makes_a_used_token_look_empty() {
    let (chain, mut machine) = mounted(Kind::V1);
    write(&machine, "file", pattern(1, 0, 100_000));
    machine.stop();
    assert!(chain.storage().0 > 0);

    let mut other = quiet(&chain);
    assert_refused(
        &mut other,
        &["no node has the record of its name", "--begin-anew"],
    );
    drop(other);
    let mut other = quiet(&chain).with_args(&["--begin-anew"]);
    assert_refused(&mut other, &["--token"]);
    let mut other = other.with_args(&["--token", "1"]);
    other.start();
    assert_empty(&other);
    // What was begun goes on, also before anything of it is published.
    let begun = write_durably(&other, "anew", b"x");
    other.kill();
    other.remove_arg("--begin-anew");
    other.start();
    assert_eq!(fs::read(&begun).expect("it is there"), b"x");
    other.stop();
}

/// `px-v2` keeps texts beside a token: root and sequence of what was published last are one.
#[test]
fn a_tree_without_its_record_is_found_by_its_contract_anchor() {
    let (chain, mut machine) = mounted(Kind::V2);
    for (round, name) in [(1, "first"), (2, "second")] {
        publish(&machine, name, pattern(round, 0, 100_000));
    }
    machine.stop();
    assert_eq!(chain.anchored()["sequence"], 2, "{}", chain.anchored());
    assert_eq!(chain.storage().1, UNITS - 2, "an anchor takes no unit");
    let sent = chain.sent();

    // The node has the blocks, and no name any more.
    let names = machine.node().join("names");
    fs::remove_dir_all(&names).expect("the records");
    let mut other = started(chain.machine_with(Some(&machine), &["--take-over"]));
    for (round, name) in [(1, "first"), (2, "second")] {
        assert_pattern(&other.dir().join(name), round, 100_000);
    }
    assert_eq!(chain.sent(), sent, "what is anchored is not anchored again");
    write(&other, "third", b"on from there");
    other.stop();
    assert_eq!(chain.anchored()["sequence"], 3);
}

#[test]
fn a_record_older_than_the_contract_anchor_rolls_nothing_back() {
    let (chain, mut machine) = mounted(Kind::V2);
    publish(&machine, "first", pattern(1, 0, 100_000));
    // Somebody keeps the record of now, and brings it back later.
    let names = machine.node().join("names");
    let old = machine.scratch().join("old");
    copy_folder(&names, &old);
    write(&machine, "second", pattern(2, 0, 100_000));
    machine.stop();
    fs::remove_dir_all(&names).expect("the records");
    copy_folder(&old, &names);

    let mut other = started(chain.machine(Some(&machine)));
    assert_pattern(&other.dir().join("second"), 2, 100_000);
    other.stop();
}

/// The disk of the only node is gone, and the machine that wrote: the token is not.
#[test]
fn a_token_whose_tree_nobody_has_any_more_can_be_begun_anew() {
    let (chain, mut machine) = mounted(Kind::V2);
    write(&machine, "file", pattern(1, 0, 100_000));
    machine.stop();
    assert_eq!(chain.anchored()["sequence"], 1);
    drop(machine);

    let mut other = quiet(&chain).with_args(&["--token", "1", "--take-over"]);
    assert_refused(
        &mut other,
        &["no node has what was published last", "--begin-anew"],
    );
    other.remove_arg("--take-over");
    let mut other = other.with_args(&["--begin-anew"]);
    other.start();
    assert_empty(&other);
    other.stop();
    // What was begun is gone on with, and what is published then is the newest.
    other.remove_arg("--begin-anew");
    other.start();
    fs::write(other.dir().join("anew"), b"x").expect("begun anew");
    other.flush();
    other.restart();
    assert_eq!(
        fs::read(other.dir().join("anew")).expect("it is there"),
        b"x"
    );
    other.stop();
    assert_eq!(chain.anchored()["sequence"], 2);

    let mut fresh = quiet(&chain);
    fresh
        .try_start()
        .expect_err("without it nothing is begun anew");
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
    let (chain, mut machine) = mounted(Kind::V2);
    write(&machine, "file", pattern(1, 0, 100_000));
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
    assert_refused(&mut chain.watcher(&node), &["keeps no names"]);
}

#[test]
fn what_was_published_last_is_charged_before_the_drive_is_left() {
    for leave in ["umount", "signal", "umount(8)"] {
        let (chain, mut machine) = mounted(Kind::V2);
        write(&machine, "file", pattern(1, 0, 100_000));
        match leave {
            "umount" => drop(machine.umount().ok()),
            "signal" => machine.signal(Signal::TERM),
            _ => unmount(machine.mountpoint(), UnmountFlags::empty()).expect("nothing is open"),
        }
        assert!(machine.ended(SOON).success(), "{}", machine.log());
        let (usage, units) = chain.storage();
        assert!(usage > 100_000, "{usage} bytes after {leave}");
        assert_eq!(units, UNITS - 1, "after {leave}");
    }
}

#[test]
fn umount_with_an_unreachable_chain_says_what_is_uncharged() {
    let (chain, mut machine) = mounted(Kind::V2);
    write(&machine, "file", pattern(1, 0, 100_000));
    chain.end();
    let left = machine.umount().ok();
    machine.ended(SOON);
    assert_says(
        &left.stderr,
        &["token 1:", "not charged yet", "after the next mount"],
    );
}

/// A server that takes every call and answers none is waited for no longer than a person would wait.
#[test]
fn who_leaves_a_chain_that_hangs_is_not_kept_there() {
    let chain = Chain::new(Kind::V2);
    let line = Line::to(chain.url());
    let mut machine = quiet(&chain);
    machine.replace_arg("--rpc-url", "--rpc-url", &line.url("http"));
    machine.start();
    write(&machine, "file", pattern(1, 0, 100_000));
    line.hang(true);
    let left = machine.umount().ok();
    assert!(machine.ended(SOON).success(), "{}", machine.log());
    assert_says(
        &left.stderr,
        &[
            "token 1:",
            "does not tell within 10 s",
            "after the next mount",
        ],
    );
    assert_eq!(chain.storage().0, 0);
    line.hang(false);
    machine.start();
    all_charged(&chain, &machine, 0);
    machine.stop();
}

/// One charge becomes final, is settled and forgotten, while a command that has seen it open waits for another.
#[test]
fn a_charge_settled_while_a_sync_waits_is_not_resent() {
    let chain = Chain::new(Kind::V1);
    let mut machine = started(quiet(&chain).with_args(&["--refresh", "1s"]));
    publish(&machine, "first", pattern(1, 0, 100_000));
    wait_until("the first is charged", SOON, || chain.storage().0 > 0);
    let first = chain.storage().0;
    chain.mines(false);
    publish(&machine, "second", pattern(2, 0, 100_000));
    wait_until("the second is on its way", SOON, || chain.waits());
    let waits = std::thread::scope(|scope| {
        let asked = scope.spawn(|| machine.ask(&["sync", "1", "--yes"]));
        // It has looked at both.
        std::thread::sleep(Duration::from_secs(2));
        // The first is final now, and the second is in none of these blocks.
        chain.mine_without_what_waits(8);
        std::thread::sleep(Duration::from_secs(5));
        chain.mines(true);
        asked.join().expect("an answer")
    });
    waits.ok();
    let both = chain.storage().0;
    assert!(both > first + 100_000, "{first} and then {both}");
    assert!(
        both < first + 150_000,
        "charged twice: {first} and then {both}"
    );
    machine.stop();
    assert_eq!(chain.storage().0, both);
}

/// The folder that gave way has what it published charged by the one in its place, and not once more when somebody
/// moves it back.
#[test]
fn a_give_way_folder_moved_back_is_not_charged_twice() {
    let (chain, mut first) = mounted(Kind::V2);
    publish(&first, "base", pattern(1, 0, 100_000));
    all_charged(&chain, &first, 0);
    chain.mines(false);
    publish(&first, "published", pattern(2, 0, 100_000));
    wait_until("its charge is on its way", SOON, || chain.waits());
    let mine = write_durably(&first, "mine", pattern(3, 0, 100_000));
    first.kill();
    chain.mines(true);
    let mut second = started(chain.machine_with(Some(&first), &["--take-over"]));
    write(&second, "theirs", pattern(4, 0, 100_000));
    second.stop();

    let mut first = first.with_args(&["--give-way"]);
    first.start();
    assert!(first.dir().join("theirs").exists());
    wait_until("its charge is settled, and forgotten", SOON, || {
        chain.mine_without_what_waits(8);
        !has_charge(&first.state().join("outbox"))
    });
    first.stop();
    let charged = chain.storage();
    assert_eq!(charged.1, UNITS - 3, "each commit once");
    first.remove_arg("--give-way");
    first.bring_back_what_gave_way();
    first.start();
    first.wait_for("1", "state", "conflict");
    assert_pattern(&mine, 3, 100_000);
    // Whoever leaves has what is owed charged first.
    first.terminate();
    assert_eq!(chain.storage(), charged);
}

/// Whether that outbox has a charge that was not forgotten. What was forgotten may lie there still: the last nonce of an
/// account is kept.
fn has_charge(outbox: &Path) -> bool {
    let entries = fs::read_dir(outbox).into_iter().flatten().flatten();
    let mut paths = entries.map(|entry| entry.path());
    paths.any(|path| match fs::read(&path) {
        // The lock file holds no entry.
        Ok(entry) => {
            Kept::from_bytes(&entry).is_ok_and(|kept| kept.tag.starts_with("charge ") && !kept.told)
        }
        Err(_) => path.is_dir() && has_charge(&path),
    })
}

#[test]
fn a_sync_reports_what_is_published_and_only_renews_where_nothing_is() {
    let (chain, mut machine) = mounted(Kind::V1);
    for round in 1..=3_u64 {
        publish(&machine, "file", pattern(round, 0, 100_000));
        let synced = machine.ask(&["sync", "1", "--yes", "--json"]).ok().json();
        let usage = chain.storage().0;
        assert!(
            usage > round * 100_000,
            "{usage} bytes after {round} commits"
        );
        assert!(
            usage < round * 150_000,
            "{usage} bytes after {round} commits"
        );
        assert_eq!(synced["usage"], usage);
    }
    let (usage, sent) = (chain.storage().0, chain.sent());
    machine.ask(&["sync", "1", "--yes"]).ok();
    assert_eq!(chain.storage().0, usage, "nothing is charged for nothing");
    assert_eq!(chain.sent(), sent + 1, "the time is renewed");
    machine.stop();
}

/// Whoever compares `status` with a block explorer sees one number.
#[test]
fn upload_units_are_told_as_the_chain_has_them() {
    let chain = Chain::new(Kind::V2);
    let mut machine = started(quiet(&chain).with_args(&["--refresh", "1s"]));
    chain.mines(false);
    publish(&machine, "file", b"content");
    wait_until("the charge is on its way", SOON, || chain.waits());
    assert_eq!(machine.number("1", "uploads_left"), UNITS);
    chain.mines(true);
    wait_until("the drive knows", SOON, || {
        machine.number("1", "uploads_left") == UNITS - 1
    });
    machine.stop();
}

#[test]
fn what_a_sync_has_charged_is_counted_once() {
    let (chain, mut machine) = mounted(Kind::V2);
    for round in 1..=3_u64 {
        publish(&machine, "file", pattern(round, 0, 100_000));
        machine.ask(&["sync", "1", "--yes"]).ok();
        let token = machine.token("1");
        assert_eq!(token["uploads_left"], UNITS - round, "{token:#}");
        assert_eq!(
            token["usage_on_chain_bytes"],
            chain.storage().0,
            "{token:#}"
        );
    }
    machine.stop();
}
