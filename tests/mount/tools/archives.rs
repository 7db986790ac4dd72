//! Archives and version control: tar, zip, git.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::start_anew;
use crate::command::{TOOL, git, run, tool};
use crate::harness::Machine;
use crate::samples::{assert_same, odd_tree, pattern, plain_tree};

#[track_caller]
fn in_folder(folder: &Path, program: &str, args: &[&str]) {
    let mut command = Command::new(program);
    command.current_dir(folder).args(args);
    run(command, TOOL).ok();
}

#[test]
fn a_tar_archive_on_the_drive_restores_its_tree() {
    let mut machine = Machine::demo();
    let (dir, original) = (machine.dir(), machine.scratch().join("original"));
    odd_tree(&original);
    let archive = dir.join("tree.tar");
    let archive = archive.to_str().expect("our folders are UTF-8");
    in_folder(
        &original,
        "tar",
        &["--xattrs", "--sparse", "-cf", archive, "."],
    );
    // Appended to in place.
    fs::write(original.join("late"), pattern(3, 0, 70_000)).expect("write");
    in_folder(&original, "tar", &["--xattrs", "-rf", archive, "./late"]);
    for _ in 0..2 {
        let into = dir.join("extracted");
        fs::create_dir(&into).expect("mkdir");
        let kept = ["--xattrs", "--xattrs-include=user.*", "-xpf", archive];
        in_folder(&into, "tar", &kept);
        in_folder(&into, "tar", &["-df", archive]);
        assert_same(&original, &into);
        fs::remove_dir_all(&into).expect("rm -r");
        start_anew(&mut machine);
    }
}

#[test]
fn a_zip_archive_on_the_drive_restores_its_tree() {
    let mut machine = Machine::demo();
    let (dir, original) = (machine.dir(), machine.scratch().join("original"));
    plain_tree(&original);
    let archive = dir.join("tree.zip");
    let archive = archive.to_str().expect("our folders are UTF-8");
    in_folder(&original, "zip", &["-q", "-r", "-y", archive, "."]);
    // It writes a new archive beside the old one and renames it over.
    fs::write(original.join("late"), pattern(3, 0, 70_000)).expect("write");
    in_folder(&original, "zip", &["-q", archive, "late"]);
    in_folder(&dir, "unzip", &["-q", "-t", archive]);
    start_anew(&mut machine);
    in_folder(&dir, "unzip", &["-q", "-t", archive]);
    in_folder(&dir, "unzip", &["-q", archive, "-d", "extracted"]);
    tool(
        "diff",
        &[Path::new("-r"), &original, &dir.join("extracted")],
    );
}

#[test]
fn a_git_repository_can_be_worked_in_cloned_and_packed() {
    let mut machine = Machine::demo();
    let work = machine.dir().join("work");
    plain_tree(&work);
    git(&work, &["init", "-q", "-b", "main"]);
    git(&work, &["config", "core.fsync", "all"]);
    git(&work, &["add", "-A"]);
    git(&work, &["commit", "-q", "-m", "first"]);
    for change in 0..5_u64 {
        fs::write(work.join("large"), pattern(change, 0, 200_000)).expect("write");
        git(&work, &["commit", "-q", "-a", "-m", "change"]);
    }
    git(&work, &["checkout", "-q", "-b", "side", "HEAD~3"]);
    git(&work, &["mv", "0", "renamed"]);
    git(&work, &["commit", "-q", "-m", "side"]);
    git(&work, &["rebase", "-q", "main"]);
    git(&work, &["gc", "-q", "--prune=now"]);
    let clone = machine.dir().join("clone");
    let url = format!("file://{}", work.display());
    git(&machine.dir(), &["clone", "-q", &url, "clone"]);
    start_anew(&mut machine);
    for repository in [&work, &clone] {
        git(repository, &["fsck", "--strict", "--full"]);
        git(repository, &["update-index", "--really-refresh"]);
        assert_eq!(git(repository, &["status", "--porcelain"]).stdout, "");
        assert_eq!(
            git(repository, &["rev-list", "--count", "HEAD"]).stdout,
            "7\n"
        );
    }
    git(&clone, &["gc", "-q", "--aggressive"]);
    git(&clone, &["checkout", "-q", "HEAD~6"]);
    git(&clone, &["fsck", "--strict", "--full"]);
}
