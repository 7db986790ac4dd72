//! Large directories and large files: their cost follows what changed, not what is there.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use crate::harness::Machine;
use crate::samples::pattern;

/// Creates `count` empty files in `folder`.
fn crowd(folder: &Path, count: u32) {
    fs::create_dir(folder).expect("mkdir");
    for n in 0..count {
        File::create(folder.join(format!("entry-{n:06}"))).expect("create");
    }
}

/// How many blocks are sent when one file of `folder` is touched and published, by a daemon that
/// does not know what the node has already.
fn blocks_of_one_touch(machine: &mut Machine, folder: &Path) -> u64 {
    machine.restart();
    machine.flush();
    let before = machine.blocks_sent();
    let file = File::options()
        .write(true)
        .open(folder.join("entry-000500"))
        .expect("open");
    file.set_modified(std::time::UNIX_EPOCH).expect("touch");
    drop(file);
    machine.flush();
    machine.blocks_sent() - before
}

#[test]
fn touching_one_file_among_many_costs_what_it_costs_among_few() {
    let mut machine = Machine::demo_with(&["--package", "1"]);
    let dir = machine.dir();
    crowd(&dir.join("few"), 10_000);
    let few = blocks_of_one_touch(&mut machine, &dir.join("few"));
    crowd(&dir.join("many"), 100_000);
    assert_eq!(
        fs::read_dir(dir.join("many")).expect("listing").count(),
        100_000
    );
    let many = blocks_of_one_touch(&mut machine, &dir.join("many"));
    // Both directories are trees of pages; ten times the entries may make the tree one level deeper.
    // Neither is small: its pages, the index above them, the table, root and document.
    assert!(
        (1..=12).contains(&few) && many <= few + 1,
        "{few} blocks among few, {many} among many"
    );

    // 200,000 inodes known.
    crowd(&dir.join("more"), 90_000);
    tool_ls(&dir);
    held_little(&machine, "200,000 inodes known");
}

/// Lists everything with attributes, so that the kernel and the daemon know every inode.
fn tool_ls(dir: &Path) {
    let mut known = 0;
    for folder in fs::read_dir(dir).expect("listing") {
        for entry in fs::read_dir(folder.expect("an entry").path()).expect("listing") {
            entry.expect("an entry").metadata().expect("stat");
            known += 1;
        }
    }
    assert_eq!(known, 200_000);
}

#[test]
fn a_large_file_is_never_held_in_memory() {
    let mut machine = Machine::demo_with(&["--package", "2"]);
    let path = machine.dir().join("large");
    let pieces = 1024;
    let mut file = File::create(&path).expect("create");
    for n in 0..pieces {
        // Every piece differs, so that no block can stand for another.
        let mut piece = pattern(7, 0, 1 << 20);
        piece[..8].copy_from_slice(&u64::to_le_bytes(n));
        file.write_all(&piece).expect("write");
    }
    drop(file);
    machine.flush();
    held_little(&machine, "writing and publishing");

    // From the node, not from what this machine has kept.
    machine.stop();
    drop(fs::remove_dir_all(machine.cache()));
    machine.start();
    let mut file = File::open(&path).expect("open");
    let expected = pattern(7, 0, 1 << 20);
    let mut piece = vec![0; 1 << 20];
    for n in 0..pieces {
        file.read_exact(&mut piece).expect("read");
        assert_eq!(piece[..8], u64::to_le_bytes(n));
        assert!(piece[8..] == expected[8..], "piece {n}");
    }
    held_little(&machine, "reading");
}

#[test]
#[ignore = "benchmark: some minutes; `cargo test --release --test mount -- --ignored --nocapture million`"]
fn a_directory_of_a_million_entries_lists_publishes_and_reloads() {
    let mut machine = Machine::demo_with(&["--package", "1"]);
    let folder = machine.dir().join("million");
    let told = |machine: &Machine, what: &str, begin: Instant| {
        let (now, most) = (memory_kib(machine, "VmRSS"), memory_kib(machine, "VmHWM"));
        eprintln!(
            "{what}: {:.1?}; daemon {} MiB, at most {} MiB",
            begin.elapsed(),
            now >> 10,
            most >> 10
        );
    };
    let list = || fs::read_dir(&folder).expect("listing").count();
    let stat_all = || {
        let entries = fs::read_dir(&folder).expect("listing");
        entries
            .map(|entry| entry.expect("an entry").metadata().expect("stat").len())
            .sum::<u64>()
    };

    let begin = Instant::now();
    crowd(&folder, 1_000_000);
    told(&machine, "create", begin);
    let begin = Instant::now();
    assert_eq!(list(), 1_000_000);
    told(&machine, "list", begin);
    let begin = Instant::now();
    assert_eq!(stat_all(), 0);
    told(&machine, "list and stat", begin);
    let begin = Instant::now();
    machine.flush();
    told(&machine, "publish", begin);
    held_little(&machine, "a million files made, listed and published");
    let begin = Instant::now();
    machine.restart();
    told(&machine, "stop and start", begin);
    let begin = Instant::now();
    assert_eq!(list(), 1_000_000);
    told(&machine, "list again", begin);
    let begin = Instant::now();
    fs::remove_file(folder.join("entry-000001")).expect("unlink");
    machine.flush();
    told(&machine, "remove one and publish", begin);
    held_little(&machine, "a million files listed, one removed");

    // Another machine has nothing of it.
    machine.stop();
    let mut second = Machine::prepared_second(&machine);
    let begin = Instant::now();
    second.start();
    told(&second, "mount on another machine", begin);
    let folder = second.dir().join("million");
    let begin = Instant::now();
    assert!(folder.join("entry-777777").is_file());
    told(&second, "first look into the folder there", begin);
    let begin = Instant::now();
    assert_eq!(fs::read_dir(&folder).expect("listing").count(), 999_999);
    told(&second, "list there", begin);
}

/// The daemon has had 256 MiB at most since it was started.
#[track_caller]
fn held_little(machine: &Machine, what: &str) {
    let peak = memory_kib(machine, "VmHWM") >> 10;
    assert!(peak <= 256, "{what}: the daemon held {peak} MiB");
}

/// The daemon's memory in KiB: now (`VmRSS`) or at its most (`VmHWM`).
#[track_caller]
fn memory_kib(machine: &Machine, field: &str) -> u64 {
    let path = format!("/proc/{}/status", machine.pid().as_raw_nonzero());
    let text = fs::read_to_string(path).expect("the daemon's status");
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .expect("a figure")
}
