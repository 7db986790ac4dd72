//! A real tree goes in by every usual way, and comes out the same: at once, after a remount, and on
//! a second machine that has only the wallet.

use std::path::Path;

use crate::command::{git, tool};
use crate::harness::Machine;
use crate::samples::{assert_same, source_tree};

/// Checks every copy: at once, after flush and remount, and on a second machine.
#[track_caller]
fn survives(mut machine: Machine, check: impl Fn(&Path)) {
    check(&machine.dir());
    machine.flush();
    machine.restart();
    check(&machine.dir());
    machine.stop();
    let mut second = Machine::second(&machine);
    check(&second.dir());
    second.stop();
}

#[test]
fn a_tree_copied_by_cp_and_rsync_comes_out_the_same() {
    let machine = Machine::demo_with(&["--package", "1"]);
    let tree = source_tree();
    let dir = machine.dir();
    tool("cp", &[Path::new("-a"), tree, &dir.join("cp")]);
    let mut from = tree.as_os_str().to_owned();
    from.push("/");
    tool(
        "rsync",
        &[
            "-aHX".as_ref(),
            from.as_os_str(),
            dir.join("rsync").as_os_str(),
        ],
    );
    survives(machine, |dir| {
        assert_same(tree, &dir.join("cp"));
        assert_same(tree, &dir.join("rsync"));
    });
}

#[test]
fn a_tree_from_tar_and_git_comes_out_the_same() {
    let machine = Machine::demo_with(&["--package", "1"]);
    let tree = source_tree();
    let dir = machine.dir();
    let archive = machine.scratch().join("tree.tar");
    let archive = archive.to_str().expect("our folders are UTF-8");
    let tree_name = tree.to_str().expect("our folders are UTF-8");
    tool("tar", &["--xattrs", "-C", tree_name, "-cf", archive, "."]);
    let into = dir.join("tar");
    std::fs::create_dir(&into).expect("a folder on the drive");
    let into = into.to_str().expect("our folders are UTF-8");
    tool(
        "tar",
        &[
            "--xattrs",
            "--xattrs-include=user.*",
            "-C",
            into,
            "-xpf",
            archive,
        ],
    );

    let origin = machine.scratch().join("origin");
    tool("cp", &[Path::new("-a"), tree, &origin]);
    git(&origin, &["init", "-q", "-b", "main"]);
    git(&origin, &["add", "-A"]);
    git(&origin, &["commit", "-q", "-m", "all"]);
    let url = format!("file://{}", origin.display());
    git(&dir, &["clone", "-q", &url, "git"]);

    survives(machine, |dir| {
        assert_same(tree, &dir.join("tar"));
        git(&dir.join("git"), &["fsck", "--strict"]);
        // Compares every file of the work tree with what was committed.
        git(&dir.join("git"), &["update-index", "--really-refresh"]);
        git(&dir.join("git"), &["diff", "--exit-code", "HEAD"]);
    });
}
