//! Holes that are punched, and ranges that are zeroed.

use std::time::Duration;

use super::rig::{READ_WRITE, Rig};
use crate::fs::{FsError, SetAttr};
use crate::pack::chunk::CHUNK_SIZE;
use crate::pack::holes::MAX_RUNS;

const PUNCH: i32 = 3;
const ZERO: i32 = 16;

const LEN: usize = 5 * CHUNK_SIZE as usize + 1000;

/// A file of five chunks and a bit.
fn content() -> Vec<u8> {
    (0..LEN).map(|at| (at / 1000) as u8 | 1).collect()
}

fn fallocate(rig: &Rig, name: &str, offset: u64, len: u64, mode: i32) -> Result<(), FsError> {
    let ino = rig.ino(name);
    let opened = rig.drive.open(ino, READ_WRITE)?;
    let done = rig
        .drive
        .fallocate(ino, opened.fh, offset, len, mode, false);
    rig.drive.release(ino, opened.fh);
    done
}

fn publish(rig: &mut Rig) {
    let cut = rig.volume.cut().unwrap();
    let changes = cut.changes().unwrap();
    let (built, _) = rig.build(&cut, &changes);
    cut.settle(&changes, &built).unwrap();
}

#[test]
fn punching_holes_frees_space_even_if_overdue_or_quota_is_full() {
    let rig = Rig::with_quota(8 << 20);
    rig.put("f", &content()).unwrap();
    let free = rig.volume.with_quota(|quota| quota.room_bytes());
    rig.volume.with_quota(|quota| quota.grow(free)).unwrap();
    rig.clock.advance(Duration::from_secs(31 * 86_400));
    assert_eq!(fallocate(&rig, "f", 0, 100, ZERO), Err(FsError::Overdue));
    let before = rig.used();
    // The first hole of a file is stored as one chunk of zeros; its run takes some bytes.
    fallocate(&rig, "f", 0, CHUNK_SIZE, PUNCH).unwrap();
    assert_eq!(rig.used(), before + 24);
    fallocate(&rig, "f", CHUNK_SIZE - 7, 3 * CHUNK_SIZE + 9, PUNCH).unwrap();
    assert!(rig.used() <= before - 3 * CHUNK_SIZE + 100);
    let attr = rig.drive.getattr(rig.ino("f")).unwrap();
    assert_eq!(
        (attr.size, attr.blocks),
        (LEN as u64, (CHUNK_SIZE + 1000).div_ceil(512))
    );
}

#[test]
fn punching_needs_nothing_of_what_is_published() {
    let mut rig = Rig::new();
    rig.put("f", &content()).unwrap();
    publish(&mut rig);
    rig.forget_cache();
    fallocate(&rig, "f", 100, 3 * CHUNK_SIZE, PUNCH).unwrap();
    // The short last chunk up to the end, and what lies behind, which is nothing.
    fallocate(&rig, "f", 5 * CHUNK_SIZE, CHUNK_SIZE, PUNCH).unwrap();
    fallocate(&rig, "f", LEN as u64, 1, PUNCH).unwrap();
    let mut expected = content();
    expected[100..100 + 3 * CHUNK_SIZE as usize].fill(0);
    expected[5 * CHUNK_SIZE as usize..].fill(0);
    assert!(rig.read("f") == expected);
    rig.drive.sync().unwrap();
    rig = rig.crash();
    assert!(rig.read("f") == expected, "a hole did not survive");
    publish(&mut rig);
    assert!(rig.read("f") == expected, "a hole was not published");
}

#[test]
fn a_commit_does_not_bring_back_what_was_punched_meanwhile() {
    let mut rig = Rig::new();
    let bytes = content();
    rig.put("f", &bytes).unwrap();
    let cut = rig.volume.cut().unwrap();
    let changes = cut.changes().unwrap();
    let chunk = CHUNK_SIZE as usize;
    fallocate(&rig, "f", CHUNK_SIZE, 2 * CHUNK_SIZE, PUNCH).unwrap();
    fallocate(&rig, "f", 3 * CHUNK_SIZE, CHUNK_SIZE, ZERO).unwrap();
    fallocate(&rig, "f", 10, 20, PUNCH).unwrap();
    let ino = rig.ino("f");
    let opened = rig.drive.open(ino, READ_WRITE).unwrap();
    let at = 2 * CHUNK_SIZE + 5;
    rig.drive.write(ino, opened.fh, at, b"new", false).unwrap();
    rig.drive.release(ino, opened.fh);
    let mut expected = bytes.clone();
    expected[chunk..4 * chunk].fill(0);
    expected[10..30].fill(0);
    expected[2 * chunk + 5..2 * chunk + 8].copy_from_slice(b"new");

    let (built, contents) = rig.build(&cut, &changes);
    assert!(
        contents.values().any(|then| *then == bytes),
        "the commit is of another instant"
    );
    cut.settle(&changes, &built).unwrap();
    drop(cut);
    assert!(rig.read("f") == expected, "after the commit");
    rig.drive.sync().unwrap();
    rig = rig.crash();
    assert!(rig.read("f") == expected, "after a restart");
    publish(&mut rig);
    rig.forget_cache();
    assert!(rig.read("f") == expected, "after the next commit");
}

#[test]
fn no_file_passes_the_limit_of_holes() {
    let rig = Rig::with_quota(64 << 30);
    let (attr, opened) = rig.create("f");
    let chunks = 2 * MAX_RUNS as u64 + 20;
    let whole = |mode| fallocate(&rig, "f", 0, chunks * CHUNK_SIZE, mode);
    whole(ZERO).unwrap();
    for chunk in 0..chunks / 2 {
        let at = 2 * chunk * CHUNK_SIZE;
        rig.drive
            .fallocate(attr.ino, opened.fh, at, CHUNK_SIZE, PUNCH, false)
            .unwrap();
    }
    let data = rig.drive.getattr(attr.ino).unwrap().blocks * 512 / CHUNK_SIZE;
    assert_eq!(data, chunks - MAX_RUNS as u64);
    whole(PUNCH).unwrap();
    // Never none: see `fs::lookup`.
    assert_eq!(rig.drive.getattr(attr.ino).unwrap().blocks, 1);
    fallocate(&rig, "f", 0, 1 << 40, PUNCH).unwrap();
}

#[test]
fn splitting_holes_beyond_the_limit_charges_for_the_smallest_hole() {
    const RUN: u64 = 4000;
    let rig = Rig::with_quota(64 << 30);
    let (attr, opened) = rig.create("f");
    let write = |chunk: u64| {
        let at = chunk * CHUNK_SIZE + 7;
        rig.drive.write(attr.ino, opened.fh, at, b"x", false)
    };
    let has_hole = |at: u64| {
        let found = rig.drive.lseek(attr.ino, opened.fh, at, libc::SEEK_HOLE);
        found == Ok(at)
    };
    // As many holes as there may be, each before its byte; one is smaller than the others.
    for run in 1..=MAX_RUNS as u64 {
        assert_eq!(write(run * RUN), Ok(1), "hole {run}");
    }
    let smallest = 5 * RUN + 1;
    assert_eq!(write(smallest + RUN - 2), Ok(1));
    let before = rig.used();
    assert!(has_hole(smallest * CHUNK_SIZE));
    // The next byte makes one more, and takes 4,000 times what the others took.
    let far = (MAX_RUNS as u64 + 1) * RUN;
    let room = rig.volume.with_quota(|quota| quota.room_bytes());
    let others = room - 1000 * CHUNK_SIZE;
    rig.volume.with_quota(|quota| quota.grow(others)).unwrap();
    assert_eq!(write(far), Err(FsError::Quota));
    rig.volume
        .with_quota(|quota| quota.adjust(-(others as i64)));
    assert_eq!(rig.used(), before);
    assert_eq!(write(far), Ok(1));
    let taken = rig.used() - before;
    assert!(taken > (RUN - 2) * CHUNK_SIZE, "{taken}");
    assert!(taken < (RUN + 50) * CHUNK_SIZE, "{taken}");
    assert!(!has_hole(smallest * CHUNK_SIZE), "it is data now");
}

#[test]
fn preallocating_beyond_the_quota_is_refused_at_once() {
    let rig = Rig::with_quota(128 << 30);
    rig.put("f", b"content").unwrap();
    let (used, attr) = (rig.used(), rig.drive.getattr(rig.ino("f")).unwrap());
    let free = rig.drive.statfs(rig.root).unwrap();
    for mode in [0, ZERO] {
        let refused = fallocate(&rig, "f", 0, 200 << 30, mode);
        assert_eq!(refused, Err(FsError::Quota), "{mode}");
        let refused = fallocate(&rig, "f", 0, 1 << 60, mode);
        assert_eq!(refused, Err(FsError::Quota), "{mode}");
        // A record for each chunk would be too many at once.
        let refused = fallocate(&rig, "f", 0, 100 << 30, mode);
        assert_eq!(refused, Err(FsError::NotSupported), "{mode}");
        assert_eq!(rig.used(), used);
        assert_eq!(rig.drive.statfs(rig.root).unwrap(), free);
        assert_eq!(rig.drive.getattr(attr.ino).unwrap(), attr);
    }
    fallocate(&rig, "f", 0, 1 << 30, 0).unwrap();
}

#[test]
fn a_fully_punched_file_leaves_no_local_data() {
    let rig = Rig::new();
    rig.put("f", &content()).unwrap();
    rig.drive.sync().unwrap();
    assert_eq!(rig.stage_files(), 1);
    fallocate(&rig, "f", 0, 1 << 30, PUNCH).unwrap();
    assert_eq!(rig.stage_files(), 1, "not before that is durable");
    rig.drive.sync().unwrap();
    assert_eq!(rig.stage_files(), 0);
}

#[test]
fn what_is_pending_of_a_sparse_file_is_its_data_alone() {
    let rig = Rig::new();
    let (attr, opened) = rig.create("sparse");
    let far = 1 << 43;
    rig.drive
        .write(attr.ino, opened.fh, far, b"here", false)
        .unwrap();
    for saved in [false, true] {
        if saved {
            rig.drive.sync().unwrap();
        }
        let pending = rig.volume.pending().unwrap();
        assert_eq!((pending.files, pending.bytes), (1, 4));
    }
    rig.drive.release(attr.ino, opened.fh);
}

#[test]
fn a_sparse_file_is_charged_its_data_chunks_plus_one_hole() {
    let mut rig = Rig::new();
    let (attr, opened) = rig.create("image");
    let resize = |rig: &Rig, size| {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        rig.drive.setattr(attr.ino, None, &set).unwrap();
    };
    let write = |rig: &Rig, at| rig.drive.write(attr.ino, opened.fh, at, b"x", false);
    let empty = rig.used();
    // A hole below a chunk is charged as data is, written or not.
    resize(&rig, 300_000);
    assert_eq!(rig.used() - empty, 300_000);
    write(&rig, 299_000).unwrap();
    assert_eq!(rig.used() - empty, 300_000);
    resize(&rig, 0);
    assert_eq!(rig.used(), empty);
    // As `docs/semantics.md` has it.
    resize(&rig, 1 << 40);
    assert_eq!(rig.used() - empty, CHUNK_SIZE + 46_968);
    write(&rig, 1 << 39).unwrap();
    assert_eq!(rig.used() - empty, 2 * CHUNK_SIZE + 46_968 + 22_360);
    resize(&rig, 0);
    assert_eq!(rig.used(), empty);
    // Nothing but holes: a chunk of zeros, a run, the links to 100 chunks and the node that has them.
    resize(&rig, 100 * CHUNK_SIZE);
    let holes = CHUNK_SIZE + 24 + 100 * 64 + 32;
    assert_eq!(rig.used() - empty, holes);
    // One byte costs its chunk, and the run that it divides; the other bytes of that chunk are free.
    write(&rig, 50 * CHUNK_SIZE + 7).unwrap();
    assert_eq!(rig.used() - empty, holes + CHUNK_SIZE + 24);
    write(&rig, 51 * CHUNK_SIZE - 1).unwrap();
    assert_eq!(rig.used() - empty, holes + CHUNK_SIZE + 24);
    // The short end is data, written or not; as any chunk of data it may divide a run.
    resize(&rig, 100 * CHUNK_SIZE + 5);
    let charged = holes + CHUNK_SIZE + 24 + (5 + 64 + 24);
    assert_eq!(rig.used() - empty, charged);
    // So one byte more needs that much room, to the byte.
    let room = rig.volume.with_quota(|quota| quota.room_bytes());
    let others = room - (CHUNK_SIZE + 24 - 1);
    rig.volume.with_quota(|quota| quota.grow(others)).unwrap();
    assert_eq!(write(&rig, 9), Err(FsError::Quota));
    rig.volume
        .with_quota(|quota| quota.adjust(-(others as i64)));
    assert_eq!(rig.used() - empty, charged);
    // The same after a restart, and once it is published.
    rig.drive.release(attr.ino, opened.fh);
    rig.drive.sync().unwrap();
    rig = rig.crash();
    assert_eq!(rig.used() - empty, charged);
    publish(&mut rig);
    rig = rig.crash();
    assert_eq!(rig.used() - empty, charged);
}

#[test]
fn what_nobody_wrote_beside_what_is_new_is_told_as_a_hole() {
    let mut rig = Rig::new();
    let (attr, opened) = rig.create("f");
    let far = 3 * CHUNK_SIZE;
    for at in [far + 70_000, far + 200_000] {
        let written = rig
            .drive
            .write(attr.ino, opened.fh, at, b"0123456789", false);
        assert_eq!(written, Ok(10));
    }
    rig.drive.release(attr.ino, opened.fh);
    let (first, second, end) = (far + 17 * 4096, far + 48 * 4096, far + 200_010);
    let check = |rig: &Rig, sought: &[(u64, u64, u64)], when: &str| {
        let opened = rig.drive.open(rig.ino("f"), READ_WRITE).unwrap();
        for (from, data, hole) in sought {
            let seek = |whence| rig.drive.lseek(rig.ino("f"), opened.fh, *from, whence);
            assert_eq!(seek(libc::SEEK_DATA), Ok(*data), "from {from} {when}");
            assert_eq!(seek(libc::SEEK_HOLE), Ok(*hole), "from {from} {when}");
        }
        rig.drive.release(attr.ino, opened.fh);
    };
    let fine = [
        (5, first, 5),
        (far, first, far),
        (first - 1, first, first - 1),
        (first, first, first + 4096),
        (far + 70_005, far + 70_005, first + 4096),
        (first + 4096, second, first + 4096),
        (second, second, end),
        (end - 1, end - 1, end),
    ];
    check(&rig, &fine, "at once");
    rig.drive.sync().unwrap();
    rig = rig.crash();
    check(&rig, &fine, "after a crash");
    publish(&mut rig);
    let whole = [(5, far, 5), (far, far, end), (second - 1, second - 1, end)];
    check(&rig, &whole, "published");
    // What is zeroed or allocated as a whole is data, as it is charged.
    fallocate(&rig, "f", 0, CHUNK_SIZE, ZERO).unwrap();
    fallocate(&rig, "f", CHUNK_SIZE, 10, 0).unwrap();
    let zeroed = [
        (0, 0, 2 * CHUNK_SIZE),
        (2 * CHUNK_SIZE, far, 2 * CHUNK_SIZE),
    ];
    check(&rig, &zeroed, "zeroed");
}
