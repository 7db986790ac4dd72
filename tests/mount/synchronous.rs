//! Writes that are to be durable when they return, by a flag of the descriptor or of the one write: they survive the
//! daemon's end by `SIGKILL` right behind them, far sooner than it saves by itself.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::command::tool;
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};

#[test]
fn synchronous_writes_survive_a_crash() {
    let mut machine = Machine::demo();
    let path = machine.dir().join("log");
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .custom_flags(rustix::fs::OFlags::SYNC.bits().cast_signed())
        .open(&path)
        .expect("create");
    for n in 0..20u64 {
        file.write_all(&pattern(1, n * 10_000, 10_000))
            .expect("write");
    }
    // One that can be read as well takes another way through the kernel.
    let other = machine.dir().join("database");
    let flags = rustix::fs::OFlags::DSYNC.bits().cast_signed();
    let both = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags)
        .open(&other);
    let both = both.expect("create");
    for n in 0..20u64 {
        both.write_all_at(&pattern(2, n * 5_000, 5_000), n * 5_000)
            .expect("write");
    }
    machine.kill();
    machine.start();
    assert_pattern(&path, 1, 200_000);
    assert_pattern(&other, 2, 100_000);
}

/// Writes a file for each way through the kernel, and for each flag; a length that is no piece of a block.
const ONE_WRITE: &str = r#"
import os, sys
ways = {
    "writes": os.O_WRONLY, "both": os.O_RDWR, "appends": os.O_WRONLY | os.O_APPEND,
    "direct": os.O_WRONLY | os.O_DIRECT, "direct both": os.O_RDWR | os.O_DIRECT,
}
for way, flags in ways.items():
    for name, flag in (("dsync", os.RWF_DSYNC), ("sync", os.RWF_SYNC)):
        path = os.path.join(sys.argv[1], way + " " + name)
        fd = os.open(path, flags | os.O_CREAT)
        os.pwritev(fd, [b"1" * 100_001], 0, flag)
        print(path)
"#;

#[test]
fn one_write_that_asks_for_it_survives_a_crash() {
    let mut machine = Machine::demo();
    let told = tool(
        "python3",
        &[Path::new("-c"), Path::new(ONE_WRITE), &machine.dir()],
    );
    machine.kill();
    machine.start();
    assert_eq!(told.stdout.lines().count(), 10);
    for path in told.stdout.lines() {
        let found = std::fs::read(path).expect("a file");
        assert!(found == vec![b'1'; 100_001], "{path}: {}", found.len());
    }
}
