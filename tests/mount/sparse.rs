//! Holes: punched, zeroed, kept by every commit, and of any size.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

use crate::harness::Machine;
use crate::samples::pattern;

const MIB: u64 = 1 << 20;

fn rw(path: &Path) -> File {
    let opened = File::options().read(true).write(true).open(path);
    opened.expect("open")
}

fn allocated(path: &Path) -> u64 {
    fs::metadata(path).expect("stat").blocks() * 512
}

#[test]
fn what_is_punched_and_zeroed_stays_so_and_punching_gives_room_back() {
    let mut machine = Machine::demo();
    let path = machine.dir().join("image");
    let mut expected = pattern(1, 0, 20_000_000);
    fs::write(&path, &expected).expect("write");
    machine.flush();
    // From here on neither the kernel nor this machine has a byte of it.
    machine.stop();
    drop(fs::remove_dir_all(machine.cache()));
    machine.start();
    let file = rw(&path);
    machine.fault("get hang");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let free = || rustix::fs::statvfs(&path).expect("statfs").f_bavail * 4096;
    let before = free();
    fallocate(&file, punch, 5 * MIB - 100, 8 * MIB + 200).expect("punch without the node");
    assert!(free() >= before + 7 * MIB - 4096, "room is back at once");
    fallocate(&file, punch, 19 * MIB, 1 << 40).expect("punch up to the end and beyond");
    let zero = FallocateFlags::ZERO_RANGE;
    fallocate(
        &file,
        zero | FallocateFlags::KEEP_SIZE,
        19 * MIB + 7,
        4 * MIB,
    )
    .expect("zero");
    fallocate(&file, zero, 6 * MIB, 2 * MIB).expect("zero over a hole");
    fallocate(&file, zero, 15 * MIB + 1, 2 * MIB).expect("zero over data");
    fallocate(&file, zero, 20_000_000 - 5, 1005).expect("zero beyond the end");
    machine.fault("");
    expected[5 * MIB as usize - 100..13 * MIB as usize + 100].fill(0);
    expected[15 * MIB as usize + 1..17 * MIB as usize + 1].fill(0);
    expected[19 * MIB as usize..].fill(0);
    expected.resize(20_001_000, 0);

    let check = |when: &str| {
        assert!(fs::read(&path).expect("read") == expected, "{when}");
        // Holes are 5, 8 to 12 MiB; what was zeroed counts as data.
        assert_eq!(
            allocated(&path),
            (20_001_000 - 6 * MIB).next_multiple_of(512),
            "{when}"
        );
        let file = File::open(&path).expect("open");
        for (from, data, hole) in [(0, 0, 5), (5, 6, 5), (6, 6, 8), (9, 13, 9)] {
            assert_eq!(
                seek(&file, SeekFrom::Data(from * MIB)),
                Ok(data * MIB),
                "{when}"
            );
            assert_eq!(
                seek(&file, SeekFrom::Hole(from * MIB)),
                Ok(hole * MIB),
                "{when}"
            );
        }
        assert_eq!(
            seek(&file, SeekFrom::Hole(13 * MIB)),
            Ok(20_001_000),
            "{when}"
        );
    };
    check("at once");
    drop(file);
    machine.flush();
    machine.restart();
    check("published");
    // A byte into a hole: the rest of its chunk is zeros, not what was there.
    rw(&path).write_all_at(b"x", 9 * MIB + 77).expect("write");
    machine.flush();
    machine.stop();
    drop(fs::remove_dir_all(machine.cache()));
    machine.start();
    expected[9 * MIB as usize + 77] = b'x';
    assert!(fs::read(&path).expect("read") == expected);
}
