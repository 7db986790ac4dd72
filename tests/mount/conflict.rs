//! Two machines write one token: neither loses anything, and the owner says which one goes on.

use std::fs;
use std::time::Duration;

use rustix::io::Errno;

use crate::command::wait_until;
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};
use crate::watch::{QUIET, owned};

/// `CLI.md`: not everything is published.
const UNPUBLISHED: i32 = 7;
const LEN: u64 = 200_000;
/// A look at the chain each second, and one at the name with it; a machine under load is slow.
const SOON: Duration = Duration::from_secs(120);

fn write(machine: &Machine, name: &str, id: u64) {
    let bytes = pattern(id, 0, usize::try_from(LEN).expect("small"));
    fs::write(machine.dir().join(name), bytes).expect("writable");
}

/// Two machines that both went on from `base`: the first has `mine` unpublished, the second has
/// published `theirs`. Both are stopped.
fn parted() -> (Machine, Machine) {
    let mut first = Machine::prepared("demo");
    first.start();
    write(&first, "base", 1);
    first.stop();
    let mut second = Machine::prepared_second(&first);
    second.set_env("PXFS_TAKE_OVER", "1");
    second.start();
    second.stop();
    // How long leaving waits for a node that does not answer.
    first.set_env("PXFS_READ_TIMEOUT", "3s");
    first.start();
    first.fault("all fail");
    write(&first, "mine", 2);
    assert_eq!(
        first.terminate().code(),
        Some(UNPUBLISHED),
        "{}",
        first.log()
    );
    first.clear_fault();
    first.set_env("PXFS_READ_TIMEOUT", "");
    second.start();
    write(&second, "theirs", 3);
    second.stop();
    (first, second)
}

#[test]
fn a_conflicting_drive_stays_usable_and_status_names_the_remedies() {
    let (mut first, _second) = parted();
    first.start();
    first.wait_for("1", "state", "conflict");
    let reason = first.token("1")["reason"]
        .as_str()
        .expect("a reason")
        .to_owned();
    for word in ["--take-over", "--give-way", "Qm"] {
        assert!(reason.contains(word), "{word}: {reason}");
    }
    assert_pattern(&first.dir().join("mine"), 2, LEN);
    write(&first, "more", 4);
    fs::File::open(first.dir().join("more"))
        .and_then(|file| file.sync_all())
        .expect("durable on this machine all the same");
    let flushed = first.ask(&["flush"]);
    assert_eq!(flushed.code, Some(UNPUBLISHED), "{flushed:?}");
    assert!(flushed.stderr.contains("conflict") || flushed.stderr.contains("another machine"));
    assert_eq!(first.terminate().code(), Some(UNPUBLISHED));
}

#[test]
fn taking_over_puts_this_machines_tree_in_place_on_both() {
    let (mut first, mut second) = parted();
    first.set_env("PXFS_TAKE_OVER", "1");
    first.start();
    first.flush();
    first.wait_for("1", "state", "ok");
    assert_pattern(&first.dir().join("mine"), 2, LEN);
    assert!(!first.dir().join("theirs").exists());
    first.stop();
    second.start();
    assert_pattern(&second.dir().join("base"), 1, LEN);
    assert_pattern(&second.dir().join("mine"), 2, LEN);
    second.stop();
}

#[test]
fn giving_way_shows_the_other_tree_and_sets_this_one_aside() {
    let (mut first, _second) = parted();
    first.set_env("PXFS_GIVE_WAY", "1");
    first.start();
    assert_pattern(&first.dir().join("theirs"), 3, LEN);
    assert!(!first.dir().join("mine").exists());
    first.stop();
    // What was here can be taken out again: put back, it is shown as it was.
    first.bring_back_what_gave_way();
    first.set_env("PXFS_GIVE_WAY", "");
    first.start();
    first.wait_for("1", "state", "conflict");
    assert_pattern(&first.dir().join("mine"), 2, LEN);
    first.terminate();
}

#[test]
fn a_second_machine_mounts_read_only_until_someone_takes_over() {
    let mut first = Machine::prepared("demo");
    first.start();
    write(&first, "base", 1);
    first.stop();
    let mut second = Machine::prepared_second(&first);
    for _ in 0..2 {
        second.start();
        second.wait_for("1", "state", "read-only");
        let token = second.token("1");
        let reason = token["reason"].as_str().expect("a reason");
        assert!(reason.contains("--take-over"), "{reason}");
        assert!(token["root"].is_string(), "{token}");
        let refused = fs::write(second.dir().join("mine"), "mine").expect_err("read-only");
        assert_eq!(refused.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
        assert_pattern(&second.dir().join("base"), 1, LEN);
        second.stop();
    }
    second.set_env("PXFS_TAKE_OVER", "1");
    second.start();
    second.wait_for("1", "state", "ok");
    write(&second, "mine", 2);
    second.stop();
    first.start();
    assert_pattern(&first.dir().join("mine"), 2, LEN);
    first.stop();
}

/// Whoever has nothing unpublished goes on from what the other one has published, and shows it.
#[test]
fn two_mounted_drives_that_write_in_turn_see_each_others_files() {
    let (chain, _kubo, node, first) = owned();
    write(&first, "first", 1);
    first.flush();
    let mut second = chain.machine_with(None, &QUIET).with_node(&node);
    second = second.with_args(&["--take-over"]);
    second.start();
    second.wait_for("1", "state", "ok");
    for round in 1..4 {
        let turns = [
            (&second, &first, "second", 2 * round),
            (&first, &second, "first", 2 * round + 1),
        ];
        for (writer, reader, name, id) in turns {
            let bytes = pattern(id, 0, usize::try_from(LEN).expect("small"));
            fs::write(writer.dir().join(name), &bytes).expect("writable");
            writer.flush();
            wait_until("the other drive shows it", SOON, || {
                fs::read(reader.dir().join(name)).is_ok_and(|shown| shown == bytes)
            });
            let row = reader.token("1");
            assert_eq!(row["state"], "ok", "{row:#}");
            assert_eq!(row["root"], writer.token("1")["root"]);
            let reason = row["reason"].as_str().expect("it says whose tree it shows");
            assert!(reason.contains("another machine published"), "{reason}");
        }
    }
}
