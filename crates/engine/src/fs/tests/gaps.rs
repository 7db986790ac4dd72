//! Programs that write a few bytes here and there: what is known of where costs little, and all reads as written.

use std::io::ErrorKind;
use std::sync::Arc;

use super::rig::{READ_WRITE, Rig, allowance, open};
use crate::cache::Cache;
use crate::clock::ManualClock;
use crate::fs::volume::Volume;
use crate::fs::{Drive, SetAttr};
use crate::journal::Without;
use crate::journal::simulated::{Call, Left, Power};
use crate::pack::chunk::CHUNK_SIZE;
use crate::types::{Fh, Ino};

const WRITES: usize = 4096;
const MOST: usize = 256;
const LEN: usize = CHUNK_SIZE as usize + 5_000;

/// In how many ranges what is staged of the first chunk is known.
fn ranges(volume: &Volume, ino: Ino) -> usize {
    let file = volume.files.peek(Ino(ino.0 & Ino::MAX.0)).unwrap();
    let body = file.body();
    body.staged_chunk(0).map_or(0, |(ranges, _)| ranges.len())
}

/// Writes byte `n` of each two, also into what is known to be there.
fn write_one(drive: &Drive, (ino, fh): (Ino, Fh), n: usize, known: &mut [u8]) {
    let (at, byte) = (2 * n + 3, (n % 200) as u8 + 1);
    assert_eq!(drive.write(ino, fh, at as u64, &[byte], false), Ok(1));
    known[at] = byte;
}

fn resize(rig: &Rig, ino: Ino, size: usize) {
    let size = SetAttr {
        size: Some(size as u64),
        ..SetAttr::default()
    };
    rig.drive.setattr(ino, None, &size).unwrap();
}

#[test]
fn scattered_one_byte_writes_use_bounded_memory_and_read_back() {
    for fresh in [true, false] {
        let mut rig = Rig::new();
        let (attr, opened) = rig.create("f");
        let file = (attr.ino, opened.fh);
        if !fresh {
            // What was cut off is in the stage file still, and is not to be seen again.
            let cut_off = vec![0xee; LEN];
            rig.drive.write(file.0, file.1, 0, &cut_off, false).unwrap();
            resize(&rig, file.0, 1);
        }
        resize(&rig, file.0, LEN);
        let mut known = vec![0; LEN];
        known[0] = if fresh { 0 } else { 0xee };
        write_one(&rig.drive, file, 0, &mut known);
        let used = rig.used();
        let (mut most, mut cut) = (0, None);
        for n in 1..WRITES {
            write_one(&rig.drive, file, n, &mut known);
            most = most.max(ranges(&rig.volume, file.0));
            if n == 1000 {
                cut = Some((rig.volume.cut().unwrap(), known.clone()));
            }
        }
        assert!(most > 1 && most <= MOST, "{most} ranges");
        assert_eq!(rig.used(), used, "filling is no growth");
        let (cut, then) = cut.unwrap();
        let found = cut.file(Ino(file.0.0 & Ino::MAX.0)).unwrap();
        let chunk = cut.read_chunk(&found, 0, None).unwrap();
        assert!(chunk == then[..CHUNK_SIZE as usize], "in the commit");
        drop(cut);
        assert!(rig.read("f") == known, "as it was written");
        rig.drive.release(file.0, file.1);
        rig.drive.sync().unwrap();
        let mut rig = rig.crash();
        assert!(rig.read("f") == known, "after a crash");
    }
}

#[test]
fn scattered_writes_to_a_published_file_merge_using_local_data_only() {
    for is_here in [true, false] {
        let mut rig = Rig::new();
        let mut known: Vec<u8> = (0..LEN).map(|at| (at / 7) as u8).collect();
        rig.put("f", &known).unwrap();
        let cut = rig.volume.cut().unwrap();
        let changes = cut.changes().unwrap();
        let (built, _) = rig.build(&cut, &changes);
        cut.settle(&changes, &built).unwrap();
        drop(cut);
        rig.forget_cache();
        if is_here {
            rig.read("f");
        }
        let ino = rig.ino("f");
        let opened = rig.drive.open(ino, READ_WRITE).unwrap();
        let (mut most, mut cut) = (0, None);
        for n in 0..WRITES {
            write_one(&rig.drive, (ino, opened.fh), n, &mut known);
            most = most.max(ranges(&rig.volume, ino));
            if n == 1000 {
                cut = Some((rig.volume.cut().unwrap(), known.clone()));
            }
        }
        assert_eq!(most <= MOST, is_here, "{most} ranges");
        let (cut, then) = cut.unwrap();
        let changes = cut.changes().unwrap();
        let contents = rig.build(&cut, &changes).1;
        assert!(contents[&Ino(ino.0 & Ino::MAX.0)] == then, "in the commit");
        drop(cut);
        rig.drive.release(ino, opened.fh);
        rig.forget_cache();
        assert!(rig.read("f") == known);
    }
}

#[test]
fn a_disk_error_while_merging_ranges_loses_no_written_data() {
    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        let clock = Arc::new(ManualClock::at(1_700_000_000_000_000_000));
        let power = Power::on(Left::default());
        let cache = Arc::new(Cache::in_memory());
        let disks = (power.disk(0), power.disk(1));
        let (drive, volume, root) =
            open(disks.0, disks.1, &clock, &cache, Without::default()).unwrap();
        volume.set_allowance(&allowance(&clock, 1 << 30)).unwrap();
        let (attr, opened) = drive
            .create(super::rig::CALLER, root, b"f", 0o644, READ_WRITE)
            .unwrap();
        let file = (attr.ino, opened.fh);
        let mut known = vec![0; LEN];
        drive
            .write(file.0, file.1, 0, &known[..100_000], false)
            .unwrap();
        drive
            .setattr(
                file.0,
                None,
                &SetAttr {
                    size: Some(0),
                    ..SetAttr::default()
                },
            )
            .unwrap();
        let size = Some(LEN as u64);
        drive
            .setattr(
                file.0,
                None,
                &SetAttr {
                    size,
                    ..SetAttr::default()
                },
            )
            .unwrap();
        for n in 0..MOST {
            write_one(&drive, file, n, &mut known);
        }
        assert_eq!(ranges(&volume, file.0), MOST);
        let mut writes = 0;
        power.set_fault(Some(Box::new(move |at, _, call| {
            writes += u32::from(at == 1 && matches!(call, Call::Write));
            // The byte itself, and then what fills.
            (at == 1 && matches!(call, Call::Write) && writes == 2).then_some(kind)
        })));
        write_one(&drive, file, MOST, &mut known);
        power.set_fault(None);
        assert!(ranges(&volume, file.0) > MOST, "it was filled");
        for n in MOST + 1..=2 * MOST {
            write_one(&drive, file, n, &mut known);
        }
        assert_eq!(ranges(&volume, file.0), 1, "when there are as many more");
        assert!(drive.read(file.0, file.1, 0, LEN as u32).unwrap() == known);
        drive.fsync(file.0, false).unwrap();
    }
}
