//! Backup programs: restic, borg, rsync, rclone.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use super::start_anew;
use crate::command::{Answer, TOOL, run, tool};
use crate::harness::Machine;
use crate::quota::fill;
use crate::samples::{assert_same, odd_tree, pattern, plain_tree, source_tree};

/// Runs restic in `folder`, with this repository and its cache in `scratch`.
fn restic_with(repository: &Path, scratch: &Path, folder: &Path) -> impl Fn(&[&str]) -> Answer {
    move |args| {
        let mut command = Command::new("restic");
        command
            .env("RESTIC_PASSWORD", "x")
            .env("RESTIC_REPOSITORY", repository)
            .env("RESTIC_CACHE_DIR", scratch.join("restic-cache"))
            .current_dir(folder)
            .args(args);
        run(command, TOOL).ok()
    }
}

#[test]
fn a_restic_backup_can_be_checked_and_restored() {
    let mut machine = Machine::demo_with(&["--package", "1"]);
    let repository = machine.dir().join("backup");
    let scratch = machine.scratch();
    let restic = restic_with(&repository, &scratch, source_tree());
    restic(&["init"]);
    restic(&["backup", "--quiet", "."]);
    restic(&["check", "--read-data"]);
    start_anew(&mut machine);
    restic(&["check", "--read-data"]);
    let restored = scratch.join("restored");
    restic(&[
        "restore",
        "latest",
        "--quiet",
        "--target",
        restored.to_str().expect("UTF-8"),
    ]);
    assert_same(source_tree(), &restored);
}

/// Fills the drive with one file.
#[track_caller]
fn fill_up(machine: &Machine) {
    let file = File::create(machine.dir().join("filler")).expect("create");
    fill(&file, 5, 0);
}

#[test]
fn a_restic_backup_on_a_full_token_can_be_restored_and_pruned() {
    let mut machine = Machine::demo();
    let scratch = machine.scratch();
    let original = scratch.join("original");
    plain_tree(&original);
    let repository = machine.dir().join("backup");
    let restic = restic_with(&repository, &scratch, &original);
    restic(&["init"]);
    // In packs of its own, which a prune only has to remove.
    let once = scratch.join("once");
    fs::write(&once, pattern(8, 0, 3_000_000)).expect("write");
    let once = once.to_str().expect("UTF-8");
    restic(&["backup", "--quiet", "--host", "other", once]);
    restic(&["backup", "--quiet", "."]);
    fill_up(&machine);
    restic(&["check", "--read-data"]);
    let restored = scratch.join("restored");
    let target = restored.to_str().expect("UTF-8");
    restic(&["restore", "latest", "--quiet", "--target", target]);
    assert_same(&original, &restored);
    restic(&["unlock"]);
    let free = machine.number("1", "free_bytes");
    let mut old = restic(&["snapshots", "--host", "other", "--json"]).json();
    let old = old[0]["short_id"].take();
    restic(&["forget", old.as_str().expect("an id")]);
    restic(&["prune", "--max-repack-size", "0"]);
    let freed = machine.number("1", "free_bytes") - free;
    assert!(freed > 2_500_000, "{freed}");
    start_anew(&mut machine);
    restic(&["check", "--read-data"]);
}

/// Runs borg in a folder, with this repository and its own files in `scratch`.
fn borg_with(repository: &Path, scratch: &Path) -> impl Fn(&Path, &[&str]) {
    move |folder, args| {
        let mut command = Command::new("borg");
        command
            .env("BORG_REPO", repository)
            .env("BORG_PASSPHRASE", "x")
            .env("BORG_BASE_DIR", scratch.join("borg-base"))
            .current_dir(folder)
            .args(args);
        run(command, TOOL).ok();
    }
}

#[test]
fn a_full_token_gives_its_borg_backup_back() {
    let machine = Machine::demo();
    let scratch = machine.scratch();
    let (original, restored) = (scratch.join("original"), scratch.join("restored"));
    odd_tree(&original);
    fs::create_dir(&restored).expect("mkdir");
    let repository = machine.dir().join("borg");
    let borg = borg_with(&repository, &scratch);
    borg(&original, &["init", "--encryption=repokey-blake2"]);
    // Its own reserve is half a gigabyte.
    borg(
        &original,
        &[
            "config",
            &repository.to_string_lossy(),
            "additional_free_space",
            "1M",
        ],
    );
    borg(&original, &["create", "::first", "."]);
    fill_up(&machine);
    borg(&original, &["list"]);
    borg(&original, &["check", "--archives-only"]);
    borg(&restored, &["extract", "--sparse", "::first"]);
    assert_same(&original, &restored);
}

#[test]
fn a_borg_backup_can_be_verified_pruned_and_extracted() {
    // It wants half a gigabyte free before it changes anything.
    let mut machine = Machine::demo_with(&["--package", "1"]);
    let repository = machine.dir().join("borg");
    let scratch = machine.scratch();
    let (original, restored) = (scratch.join("original"), scratch.join("restored"));
    odd_tree(&original);
    fs::create_dir(&restored).expect("mkdir");
    let borg = borg_with(&repository, &scratch);
    borg(&original, &["init", "--encryption=repokey-blake2"]);
    borg(&original, &["create", "::first", "."]);
    fs::write(original.join("changed"), pattern(9, 0, 300_000)).expect("write");
    borg(&original, &["create", "::second", "."]);
    borg(&original, &["delete", "::first"]);
    borg(&original, &["compact"]);
    borg(&original, &["check", "--verify-data"]);
    start_anew(&mut machine);
    borg(&original, &["check", "--verify-data"]);
    borg(&restored, &["extract", "--sparse", "::second"]);
    assert_same(&original, &restored);
}

/// `rsync -aHX` of what is in `from`, with what it says of its work.
#[track_caller]
fn rsync(from: &Path, to: &Path) -> Answer {
    let mut inside = OsString::from(from);
    inside.push("/");
    let options = ["-aHX", "--stats", "--delete"].map(OsString::from);
    let [a, b, c] = options;
    tool("rsync", &[a, b, c, inside, to.into()])
}

/// A number in what rsync says.
#[track_caller]
fn told(answer: &Answer, what: &str) -> u64 {
    let line = answer
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix(what));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    let digits = number.map(|number| number.replace(',', ""));
    digits
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("no `{what}` in\n{}", answer.stdout))
}

#[test]
fn rsync_transfers_nothing_the_second_time_nor_after_a_remount() {
    let mut machine = Machine::demo();
    let scratch = machine.scratch();
    let (original, copy) = (scratch.join("original"), machine.dir().join("copy"));
    odd_tree(&original);
    let transferred = |answer: &Answer| {
        (
            told(answer, "Number of regular files transferred:"),
            told(answer, "Number of created files:"),
            told(answer, "Total transferred file size:"),
        )
    };
    let first = rsync(&original, &copy);
    assert!(told(&first, "Number of regular files transferred:") > 10);
    assert_eq!(transferred(&rsync(&original, &copy)), (0, 0, 0));
    start_anew(&mut machine);
    assert_eq!(transferred(&rsync(&original, &copy)), (0, 0, 0));
    assert_same(&original, &copy);
    let back = scratch.join("back");
    rsync(&copy, &back);
    assert_same(&original, &back);
}

#[test]
fn rclone_copies_checks_and_syncs() {
    let mut machine = Machine::demo();
    let scratch = machine.scratch();
    let (original, copy) = (scratch.join("original"), machine.dir().join("copy"));
    plain_tree(&original);
    let rclone = |args: &[&str], from: &Path, to: &Path| {
        let mut command = Command::new("rclone");
        command
            .env("RCLONE_CONFIG", scratch.join("rclone.conf"))
            .args(args)
            .args([from, to]);
        run(command, TOOL).ok()
    };
    rclone(&["copy"], &original, &copy);
    rclone(&["check"], &original, &copy);
    fs::remove_dir_all(original.join("3")).expect("rm -r");
    fs::rename(original.join("4"), original.join("moved")).expect("rename");
    fs::write(original.join("large"), pattern(8, 0, 5_000_000)).expect("write");
    rclone(&["sync"], &original, &copy);
    rclone(&["check"], &original, &copy);
    start_anew(&mut machine);
    rclone(&["check", "--download"], &original, &copy);
    let again = rclone(&["sync", "-v", "--stats-one-line"], &original, &copy);
    assert!(
        again.stderr.contains("There was nothing to transfer"),
        "{}",
        again.stderr
    );
    let back = scratch.join("back");
    rclone(&["copy"], &copy, &back);
    tool("diff", &[Path::new("-r"), &original, &back]);
}
