//! Who waits for a lock of a file: gets it when it is given back, and is told so; a signal or a death in the queue
//! holds up nobody behind it.

use std::fs;
use std::path::Path;

use crate::command::tool;
use crate::harness::Machine;

#[track_caller]
fn queue_is_served(kind: &str) -> String {
    let machine = Machine::demo();
    let path = machine.dir().join("file");
    fs::write(&path, "0123456789").expect("write");
    let program = include_str!("locks/waiting.py");
    let args = [Path::new("-c"), Path::new(program), &path, Path::new(kind)];
    tool("python3", &args).stdout
}

const SERVED: &str = "\
unlock: ok waits ok ok
signal: waits waits EINTR True ok ok
death: waits waits True ok ok
";

#[test]
fn blocked_byte_locks_are_granted_later_and_deadlocks_are_reported() {
    // Python's name of EDEADLK.
    let ring = "ring: ok ok waits EDEADLOCK ok ok\n";
    assert_eq!(queue_is_served("posix"), format!("{SERVED}{ring}"));
}

#[test]
fn who_waits_for_bytes_that_another_open_file_has_locked_gets_them() {
    assert_eq!(queue_is_served("ofd"), SERVED);
}

#[test]
fn who_waits_for_a_file_that_another_has_locked_gets_it() {
    assert_eq!(queue_is_served("flock"), SERVED);
}
