//! Copies within a token: what is published is shared, not copied; what is read is always right.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{copy_file_range, ioctl_ficlone};
use rustix::io::Errno;

use crate::command::tool;
use crate::harness::Machine;
use crate::samples::{assert_pattern, pattern};

const MIB: u64 = 1 << 20;

fn cp(from: &Path, to: &Path) {
    tool("cp", &[from, to]);
}

#[test]
fn copying_a_published_file_sends_few_blocks_and_needs_no_node() {
    let mut machine = Machine::demo_with(&["--package", "1"]);
    let dir = machine.dir();
    let (from, to) = (dir.join("from"), dir.join("to"));
    let len = 64 * MIB + 4321;
    fs::write(&from, pattern(1, 0, len as usize)).expect("write");
    machine.flush();
    machine.stop();
    drop(fs::remove_dir_all(machine.cache()));
    machine.start();
    let free = || rustix::fs::statvfs(&dir).expect("statfs").f_bavail * 4096;
    let (before, room) = (machine.blocks_sent(), free());
    fs::metadata(&from).expect("stat");
    machine.fault("get hang");
    cp(&from, &to);
    machine.fault("");
    assert!(
        room - free() >= len,
        "a block that two files share counts for each"
    );
    machine.flush();
    let sent = machine.blocks_sent() - before;
    assert!(
        (1..=8).contains(&sent),
        "{sent} blocks for a copy of 64 MiB"
    );
    assert_pattern(&to, 1, len);
    // One of them goes, the other changes: neither is the other.
    let file = File::options().write(true).open(&to).expect("open");
    file.write_all_at(b"changed", 10 * MIB - 3).expect("write");
    fs::remove_file(&from).expect("unlink");
    machine.flush();
    machine.stop();
    drop(fs::remove_dir_all(machine.cache()));
    machine.start();
    let mut expected = pattern(1, 0, len as usize);
    expected[10 * MIB as usize - 3..][..7].copy_from_slice(b"changed");
    assert!(fs::read(&to).expect("read") == expected);
}

#[test]
fn a_copy_is_what_its_source_is_wherever_its_bytes_are() {
    let machine = Machine::demo();
    let dir = machine.dir();
    let (from, to) = (dir.join("from"), dir.join("to"));
    let mut expected = pattern(1, 0, 12_000_000);
    fs::write(&from, &expected).expect("write");
    machine.flush();
    // Published, rewritten in the middle, with a hole and a tail that is not published.
    let file = File::options().write(true).open(&from).expect("open");
    file.write_all_at(&pattern(2, 0, 3_000_000), 4_000_000)
        .expect("write");
    file.write_all_at(b"end", 16_000_000).expect("write");
    expected[4_000_000..7_000_000].copy_from_slice(&pattern(2, 0, 3_000_000));
    expected.resize(16_000_000, 0);
    expected.extend(b"end");
    cp(&from, &to);
    assert!(fs::read(&to).expect("read") == expected, "cp");
    assert_eq!(
        fs::metadata(&to).expect("stat").blocks(),
        fs::metadata(&from).expect("stat").blocks()
    );

    // Into the middle of a file whose pages the kernel has: none of them is shown any more.
    let mut target = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(dir.join("pages"))
        .expect("create");
    target.write_all(&pattern(3, 0, 20_000_000)).expect("write");
    target.seek(SeekFrom::Start(0)).expect("seek");
    let mut all = Vec::new();
    target.read_to_end(&mut all).expect("read");
    let source = File::open(&from).expect("open");
    for (mut at, mut to, len) in [(2 * MIB, 2 * MIB, 6 * MIB), (100, 9_000_001, 1_000_000)] {
        let end = at + len;
        while at < end {
            let left = (end - at) as usize;
            let copied = copy_file_range(&source, Some(&mut at), &target, Some(&mut to), left);
            assert!(copied.expect("copy_file_range") > 0);
        }
    }
    all[2 * MIB as usize..8 * MIB as usize]
        .copy_from_slice(&expected[2 * MIB as usize..8 * MIB as usize]);
    all[9_000_001..10_000_001].copy_from_slice(&expected[100..1_000_100]);
    let mut found = vec![0; all.len()];
    target.read_exact_at(&mut found, 0).expect("read");
    assert!(found == all, "stale pages");
    machine.flush();
    assert!(fs::read(dir.join("pages")).expect("read") == all);

    // Within a file, and of a file without a name.
    fs::remove_file(&from).expect("unlink");
    let (mut a, mut b) = (0, 17_000_000);
    let copied = copy_file_range(&source, Some(&mut a), &target, Some(&mut b), 1000);
    assert_eq!(copied, Ok(1000));
    let (mut a, mut b) = (17_000_000, 18_000_000);
    assert_eq!(
        copy_file_range(&target, Some(&mut a), &target, Some(&mut b), 1000),
        Ok(1000)
    );
    let mut found = vec![0; 1000];
    target.read_exact_at(&mut found, 18_000_000).expect("read");
    assert!(found == expected[..1000]);
}

#[test]
fn reflinks_are_refused_and_copies_between_tokens_copy_the_bytes() {
    let machine = Machine::demo();
    machine.ask(&["mint", "--package", "1", "--yes"]).ok();
    let other = machine.mountpoint().join("2");
    crate::command::wait_until(
        "token 2 appears",
        std::time::Duration::from_secs(60),
        || other.is_dir(),
    );
    let from = machine.dir().join("from");
    fs::write(&from, pattern(1, 0, 3_000_000)).expect("write");
    machine.flush();
    cp(&from, &other.join("to"));
    assert_pattern(&other.join("to"), 1, 3_000_000);
    let source = File::open(&from).expect("open");
    let target = File::create(machine.dir().join("clone")).expect("create");
    assert_eq!(
        ioctl_ficlone(target.as_fd(), source.as_fd()),
        Err(Errno::OPNOTSUPP)
    );
}
