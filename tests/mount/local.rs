//! Calls that answer as on a local disk: the same program runs on a drive and on a plain folder beside it (in CI on
//! ext4), and must tell the same.

use std::fs;
use std::path::Path;

use crate::command::tool;
use crate::harness::Machine;

#[track_caller]
fn tells_the_same(program: &str) {
    let program = [include_str!("local/begin.py"), program].concat();
    let machine = Machine::demo();
    let [here, there] = [machine.scratch(), machine.dir()].map(|folder| {
        let folder = folder.join("folder");
        fs::create_dir(&folder).expect("mkdir");
        let told = tool("python3", &[Path::new("-c"), Path::new(&program), &folder]);
        told.stdout
    });
    assert!(here.lines().count() > 50, "{here}");
    for (local, drive) in here.lines().zip(there.lines()) {
        assert_eq!(local, drive, "local disk, drive\n{there}");
    }
    assert_eq!(here.lines().count(), there.lines().count(), "{there}");
}

#[test]
fn unlinked_but_open_files_and_directories_answer_like_a_local_disk() {
    tells_the_same(include_str!("local/removed.py"));
}

#[test]
fn odd_calls_are_answered_as_on_a_local_disk() {
    tells_the_same(include_str!("local/calls.py"));
}

#[test]
fn locks_handles_limits_and_descriptors_behave_as_on_a_local_disk() {
    tells_the_same(include_str!("local/descriptors.py"));
}

#[test]
fn programs_run_and_asynchronous_calls_are_answered_as_on_a_local_disk() {
    tells_the_same(include_str!("local/kernel.py"));
}

#[test]
fn excessive_or_invalid_xattrs_are_refused_as_on_a_local_disk() {
    tells_the_same(include_str!("local/attributes.py"));
}
