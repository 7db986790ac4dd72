//! Room that is kept behind a file's end: nobody else gets it, and it ends with who asked for it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use super::rig::{CALLER, READ_WRITE, Rig, allowance, open};
use crate::cache::Cache;
use crate::clock::ManualClock;
use crate::fs::{Allowance, FsError, SetAttr};
use crate::journal::Without;
use crate::journal::simulated::{Call, Left, Power};
use crate::pack::chunk::CHUNK_SIZE;
use crate::types::{Fh, Ino};

const QUOTA: u64 = 32 << 20;
const KEEP: i32 = 1;
const PUNCH: i32 = 3;
const ZERO_KEEP: i32 = 0x11;

/// A file of `len` bytes that is open, and what is free.
fn opened(rig: &Rig, name: &str, len: usize) -> (Ino, Fh) {
    let (attr, opened) = rig.create(name);
    let written = rig
        .drive
        .write(attr.ino, opened.fh, 0, &vec![1; len], false);
    assert!(len == 0 || written == Ok(len as u32));
    (attr.ino, opened.fh)
}

fn keep(rig: &Rig, (ino, fh): (Ino, Fh), offset: u64, len: u64) -> Result<(), FsError> {
    rig.drive.fallocate(ino, fh, offset, len, KEEP, false)
}

fn free(rig: &Rig) -> u64 {
    rig.volume.with_quota(|quota| quota.room_bytes())
}

/// Writes to another file until nothing fits any more.
fn fill(rig: &Rig) {
    let (attr, opened) = rig.create("filler");
    let (mut at, piece) = (0, vec![9; 1 << 20]);
    while let Ok(written) = rig.drive.write(attr.ino, opened.fh, at, &piece, false) {
        at += u64::from(written);
    }
    rig.drive.release(attr.ino, opened.fh);
    assert!(free(rig) < 100, "{} bytes are left", free(rig));
}

fn resize(rig: &Rig, ino: Ino, size: u64) -> Result<(), FsError> {
    let set = SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    rig.drive.setattr(ino, None, &set).map(drop)
}

fn zero(rig: &Rig, (ino, fh): (Ino, Fh), offset: u64, len: u64) -> Result<(), FsError> {
    rig.drive.fallocate(ino, fh, offset, len, ZERO_KEEP, false)
}

#[test]
fn space_preallocated_for_a_file_stays_its_own_at_full_quota() {
    // Small and inline, with chunks, and with the room apart from the end.
    for (len, offset, room) in [
        (0, 0, 5 * CHUNK_SIZE),
        (1000, 1000, 3 * CHUNK_SIZE + 77),
        (1_500_000, 0, 6 * CHUNK_SIZE),
        (100, 4 * CHUNK_SIZE + 5, 3 * CHUNK_SIZE),
    ] {
        let mut rig = Rig::with_quota(QUOTA);
        let file = opened(&rig, "f", len);
        let before = free(&rig);
        let used = rig.used();
        keep(&rig, file, offset, room).unwrap();
        assert_eq!(rig.drive.getattr(file.0).unwrap().size, len as u64);
        assert_eq!(rig.used(), used, "nothing of it is published");
        let end = offset + room;
        let kept = end - (len as u64).max(offset);
        assert!(free(&rig) <= before - kept);
        // And no more than that: a gap before it costs the first hole, and chunks are whole.
        assert!(free(&rig) + kept + 3 * CHUNK_SIZE >= before);
        // It costs nothing twice.
        let now = free(&rig);
        keep(&rig, file, offset, room).unwrap();
        assert_eq!(free(&rig), now);
        fill(&rig);
        let full = free(&rig);
        // From behind, from the front, in the middle, over borders: all of it.
        let (step, start) = (300_007, (len as u64).max(offset));
        let mut places: Vec<u64> = (start..end).step_by(step).collect();
        places.sort_by_key(|at| at.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        for at in places {
            let bytes = vec![2; step.min((end - at) as usize)];
            let written = rig.drive.write(file.0, file.1, at, &bytes, false);
            assert_eq!(written, Ok(bytes.len() as u32), "at {at} of {end}");
            assert_eq!(free(&rig), full, "at {at}");
        }
        // The room was for so much, and no more.
        let more = vec![3; 200];
        let beyond = rig.drive.write(file.0, file.1, end, &more, false);
        assert_ne!(beyond, Ok(200));
        rig.drive.release(file.0, file.1);
        let used = rig.used();
        rig.drive.sync().unwrap();
        rig.reopen();
        assert_eq!(rig.used(), used);
        assert!(
            rig.read("f")[start as usize..end as usize]
                .iter()
                .all(|b| *b == 2)
        );
    }
}

#[test]
fn preallocated_space_is_freed_by_close_truncate_punch_and_unlink() {
    let rig = Rig::with_quota(QUOTA);
    let file = opened(&rig, "f", 1000);
    let free_before = free(&rig);
    let again = || keep(&rig, file, 1000, 8 * CHUNK_SIZE).unwrap();
    again();
    for size in [0, 1000, 1000, 500, 1000] {
        assert!(free(&rig) < free_before - 8 * CHUNK_SIZE);
        resize(&rig, file.0, size).unwrap();
        resize(&rig, file.0, 1000).unwrap();
        assert_eq!(free(&rig), free_before, "cut to {size}");
        again();
    }
    // A punch gives back what it covers, and no more.
    let kept = free_before - free(&rig);
    let punch = |offset, len| {
        let punched = rig
            .drive
            .fallocate(file.0, file.1, offset, len, PUNCH, false);
        punched.unwrap();
    };
    punch(4 * CHUNK_SIZE, CHUNK_SIZE + 5);
    let left = free_before - free(&rig);
    assert!(left.abs_diff(kept - CHUNK_SIZE) < 2 * CHUNK_SIZE, "{left}");
    punch(1000, 1 << 40);
    assert!(free_before - free(&rig) <= CHUNK_SIZE + 100);
    // Zeros behind the end keep room, too.
    resize(&rig, file.0, 1000).unwrap();
    let zeroed = rig
        .drive
        .fallocate(file.0, file.1, 0, 4 * CHUNK_SIZE, ZERO_KEEP, false);
    zeroed.unwrap();
    assert!(free(&rig) + 4 * CHUNK_SIZE < free_before + 1000);
    // Another descriptor goes on with it.
    let second = rig.drive.open(file.0, 0).unwrap();
    rig.drive.release(file.0, file.1);
    assert!(free(&rig) + 4 * CHUNK_SIZE < free_before + 1000);
    rig.drive.release(file.0, second.fh);
    assert_eq!(free(&rig), free_before);
    // With the name goes all of it, at once.
    let third = rig.drive.open(file.0, READ_WRITE).unwrap();
    keep(&rig, (file.0, third.fh), 0, 8 * CHUNK_SIZE).unwrap();
    rig.drive.unlink(rig.root, b"f").unwrap();
    assert!(free(&rig) > free_before + 1000);
    assert_eq!(rig.volume.with_quota(|quota| quota.kept_bytes()), 0);
    keep(&rig, (file.0, third.fh), 0, 1 << 40).unwrap();
    assert_eq!(rig.volume.with_quota(|quota| quota.kept_bytes()), 0);
    rig.drive.release(file.0, third.fh);
}

#[test]
fn a_crash_leaves_nothing_kept() {
    let rig = Rig::with_quota(QUOTA);
    let file = opened(&rig, "f", 1000);
    let before = free(&rig);
    keep(&rig, file, 1000, 8 * CHUNK_SIZE).unwrap();
    assert_eq!(
        rig.drive.write(file.0, file.1, 1000, &[2; 5000], false),
        Ok(5000)
    );
    rig.drive.fsync(file.0, false).unwrap();
    let rig = rig.crash();
    assert_eq!(free(&rig), before - 5000);
    assert_eq!(rig.drive.getattr(rig.ino("f")).unwrap().size, 6000);
}

#[test]
fn room_is_refused_where_there_is_none_of_it() {
    let rig = Rig::with_quota(QUOTA);
    let file = opened(&rig, "f", 1000);
    let before = free(&rig);
    assert_eq!(keep(&rig, file, 1000, before), Err(FsError::Quota));
    assert_eq!(keep(&rig, file, 0, 1 << 50), Err(FsError::Quota));
    assert_eq!(free(&rig), before);
    // What is there needs none.
    fill(&rig);
    assert_eq!(keep(&rig, file, 0, 1000), Ok(()));
    rig.drive.unlink(rig.root, b"filler").unwrap();
    keep(&rig, file, 1000, CHUNK_SIZE).unwrap();
    rig.clock.advance(Duration::from_secs(31 * 86_400));
    assert_eq!(keep(&rig, file, 1000, 10), Err(FsError::Overdue));

    // Where what a write costs depends on how many commits come before, none is kept.
    let additive = Allowance {
        additive: true,
        uploads_left: Some(9),
        ..allowance(&rig.clock, QUOTA)
    };
    let mut rig = Rig::with_quota(QUOTA);
    rig.volume.set_allowance(&additive).unwrap();
    let file = opened(&rig, "f", 1000);
    assert_eq!(keep(&rig, file, 1000, 10), Err(FsError::NotSupported));
    assert_eq!(keep(&rig, file, 0, 1000), Ok(()));
    assert_eq!(zero(&rig, file, 999, 2), Err(FsError::NotSupported));
    assert_eq!(rig.read_handle(file.0, file.1, 999, 5), [1]);
    assert_eq!(zero(&rig, file, 999, 1), Ok(()));
    assert_eq!(rig.read_handle(file.0, file.1, 999, 5), [0]);
}

#[test]
fn a_write_the_disk_refuses_retains_the_files_preallocation() {
    let power = Power::on(Left::default());
    let clock = Arc::new(ManualClock::at(1_700_000_000_000_000_000));
    let cache = Arc::new(Cache::in_memory());
    let (home, stage) = (power.disk(0), power.disk(1));
    let (drive, volume, root) = open(home, stage, &clock, &cache, Without::default()).unwrap();
    volume.set_allowance(&allowance(&clock, QUOTA)).unwrap();
    let (attr, opened) = drive.create(CALLER, root, b"f", 0o644, READ_WRITE).unwrap();
    let (ino, fh) = (attr.ino, opened.fh);
    drive
        .fallocate(ino, fh, 0, 4 * CHUNK_SIZE, KEEP, false)
        .unwrap();
    let held = || volume.with_quota(|quota| (quota.used_bytes(), quota.kept_bytes()));
    let before = held();
    power.set_fault(Some(Box::new(|folder, _, call| {
        (folder == 1 && call == Call::Create).then_some(ErrorKind::Other)
    })));
    let bytes = vec![1; 1 << 20];
    assert!(drive.write(ino, fh, 0, &bytes, false).is_err());
    assert_eq!(held(), before);
    power.set_fault(None);
    assert_eq!(drive.write(ino, fh, 0, &bytes, false), Ok(1 << 20));
    let (used, kept) = held();
    assert_eq!(used + kept, before.0 + before.1);
    drive.release(ino, fh);
    assert_eq!(held().1, 0);
}
