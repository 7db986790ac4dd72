//! Local state that changed on the disk: what was not published yet is there alone.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::wait_until;
use crate::harness::Machine;
use crate::samples::{assert_pattern, files_below, pattern};

/// `CLI.md`: something is damaged.
const DAMAGED: i32 = 9;
/// Small enough for the journal, and too large for it.
const SIZES: [u64; 2] = [1_000, 300_000];
const BLOCK: usize = 4096;
/// What comes by itself has to come within this time.
const SOON: Duration = Duration::from_secs(60);

/// The names of the files, in the order in which they were made durable.
const NAMES: [&str; 4] = ["one", "two", "three", "four"];

fn size(n: usize) -> u64 {
    SIZES[n % SIZES.len()]
}

/// A machine that was killed with files that are in the log of its journal alone.
fn killed() -> Machine {
    let mut machine = Machine::demo();
    fill_and_kill(&mut machine);
    machine
}

fn fill_and_kill(machine: &mut Machine) {
    machine.fault("all fail");
    for (n, name) in NAMES.iter().enumerate() {
        let mut file = File::create(machine.dir().join(name)).expect("made");
        let bytes = pattern(n as u64, 0, usize::try_from(size(n)).expect("small"));
        file.write_all(&bytes).expect("written");
        file.sync_all().expect("durable");
    }
    machine.kill();
    machine.clear_fault();
}

/// The frame of the log that tells of the file `name`: in which file, and from where to where.
fn frame_of(machine: &Machine, name: &str) -> (PathBuf, usize, usize) {
    let logs = files_below(&machine.state().join("volumes"));
    let logs = logs.into_iter().map(|(path, _)| path).filter(|path| {
        let name = path.file_name().expect("a name").to_string_lossy();
        name.starts_with("journal.redb.wal")
    });
    for path in logs {
        let bytes = fs::read(&path).expect("readable");
        let found = bytes
            .windows(name.len())
            .rposition(|part| part == name.as_bytes());
        let Some(at) = found else { continue };
        let is_begin = |begin: &usize| {
            let size = u32::from_be_bytes(bytes[begin + 40..begin + 44].try_into().expect("four"));
            begin + 44 + size as usize > at
        };
        let begin = (0..=at / BLOCK).map(|block| block * BLOCK).rfind(is_begin);
        return (path, begin.expect("a frame"), at);
    }
    panic!("no frame tells of {name}");
}

fn change(path: &Path, change: impl FnOnce(&mut [u8])) {
    let mut bytes = fs::read(path).expect("readable");
    change(&mut bytes);
    fs::write(path, bytes).expect("writable");
}

/// The paths that are named in the list beside `saved`.
fn named(saved: &Path) -> Vec<String> {
    let list = fs::read_to_string(saved.with_extension("not-sure")).expect("a list");
    let first = |line: &str| line.split('\t').next().expect("a path").to_owned();
    list.lines().map(first).collect()
}

/// What lies below `folder`.
fn bytes_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |(path, _)| {
        let bytes = fs::read(&path).expect("readable");
        (path, bytes)
    };
    files_below(folder).into_iter().map(read).collect()
}

/// The token whose log is `log` is refused, with the command that gets out what can be got out; where that has saved it. A
/// daemon that has other tokens does it itself.
fn saved(machine: &mut Machine, log: &Path, other: Option<&Path>) -> PathBuf {
    let home = log.parent().expect("a folder");
    let told = machine.try_start().expect_err("it is damaged");
    for word in ["was changed on the disk", "pxfs detach TOKEN --save DIR"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    match other {
        Some(other) => wait_until("the other is shown", SOON, || other.exists()),
        None => machine.kill(),
    }
    let before = bytes_below(home);
    let saved = machine.scratch().join("saved");
    let answer = machine.ask(&["detach", "1", "--save", saved.to_str().expect("UTF-8")]);
    let told = answer.exits(DAMAGED).stdout;
    assert!(told.contains("saved.not-sure"), "{told}");
    assert!(
        bytes_below(home) == before,
        "the local state is not as it was"
    );
    saved
}

#[test]
fn files_outside_a_changed_frame_of_the_log_are_saved_whole() {
    let mut machine = killed();
    let (path, _, at) = frame_of(&machine, "two");
    change(&path, |bytes| bytes[at] ^= 0x20);
    let saved = saved(&mut machine, &path, None);
    let named = named(&saved);
    for (n, name) in NAMES.iter().enumerate() {
        let is_named = named.iter().any(|path| path == name);
        assert_eq!(is_named, *name == "two", "{name}: {named:?}");
        if *name != "two" {
            assert_pattern(&saved.join(name), n as u64, size(n));
        }
    }
    // Again, as JSON; what was saved is not written over.
    let folder = saved.to_str().expect("UTF-8");
    machine.ask(&["detach", "1", "--save", folder]).exits(2);
    let other = machine.scratch().join("other");
    let args = [
        "detach",
        "1",
        "--json",
        "--save",
        other.to_str().expect("UTF-8"),
    ];
    let told = machine.ask(&args).exits(DAMAGED).json();
    assert_eq!(told["unsure"]["paths"], named.len());
}

#[test]
fn a_daemon_with_other_tokens_saves_what_it_cannot_show() {
    let mut machine = Machine::demo();
    machine.ask(&["mint", "--package", "1", "--yes"]).ok();
    let other = machine.mountpoint().join("2");
    wait_until("it is shown", SOON, || other.exists());
    fill_and_kill(&mut machine);
    let (path, _, at) = frame_of(&machine, "two");
    change(&path, |bytes| bytes[at] ^= 0x20);
    let saved = saved(&mut machine, &path, Some(&other));
    assert_pattern(&saved.join("one"), 0, size(0));
    assert_pattern(&saved.join("four"), 3, size(3));
    assert!(named(&saved).iter().any(|path| path == "two"));
}

#[test]
fn nothing_is_passed_off_as_whole_where_a_frame_tells_nothing_more() {
    let mut machine = killed();
    let (path, begin, _) = frame_of(&machine, "two");
    change(&path, |bytes| bytes[begin..begin + BLOCK].fill(0));
    let saved = saved(&mut machine, &path, None);
    let named = named(&saved);
    for (n, name) in NAMES.iter().enumerate() {
        match *name {
            "two" => assert!(!saved.join(name).exists(), "its only name is lost"),
            _ => {
                assert!(named.iter().any(|path| path == name), "{name}: {named:?}");
                assert_pattern(&saved.join(name), n as u64, size(n));
            }
        }
    }
}

#[test]
fn status_reports_an_incomplete_last_log_entry() {
    let mut machine = killed();
    let (path, _, at) = frame_of(&machine, "four");
    change(&path, |bytes| bytes[at] ^= 0x20);
    machine.start();
    let reason = machine.token("1")["reason"].to_string();
    for word in [
        "the last entry of the log",
        "was not whole",
        path.to_str().expect("UTF-8"),
    ] {
        assert!(reason.contains(word), "{word}: {reason}");
    }
    let text = machine.ask(&["status"]).ok().stdout;
    assert!(text.contains("the last entry of the log"), "{text}");
    for (n, name) in NAMES.iter().enumerate().take(3) {
        assert_pattern(&machine.dir().join(name), n as u64, size(n));
    }
}
