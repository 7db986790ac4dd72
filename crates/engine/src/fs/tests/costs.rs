//! What calls cost the local disk, counted: a sync more is a call that waits twice as long.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::meter::Meter;
use super::rig::build;
use crate::journal::key;
use crate::journal::record::Content;
use crate::pack::chunk::CHUNK_SIZE;
use crate::pack::{Child, cid};
use crate::types::{Fh, Ino};

#[test]
fn nothing_but_fsync_waits_for_the_disk() {
    let meter = Meter::new();
    let before = meter.journal.written_bytes();
    let taken = meter.syncs(|| {
        for n in 0..500 {
            let name = format!("file-{n}");
            let file = meter.create(&name);
            meter.write(file, 0, &[7; 4096]);
            meter.drive.flush(file.0, file.1).unwrap();
            meter.drive.release(file.0, file.1);
            meter.drive.lookup(meter.root, name.as_bytes()).unwrap();
            meter.drive.getattr(file.0).unwrap();
            if n % 2 == 0 {
                meter.drive.unlink(meter.root, name.as_bytes()).unwrap();
            }
        }
    });
    assert_eq!(taken, (0, 0));
    assert_eq!(meter.journal.written_bytes(), before);
}

#[test]
fn fsync_costs_one_journal_sync_and_one_of_its_own_data() {
    let meter = Meter::new();
    let (small, large, other) = (
        meter.create("small"),
        meter.create("large"),
        meter.create("other"),
    );
    meter.drive.sync().unwrap();
    let fsync = |file: (Ino, Fh)| meter.drive.fsync(file.0, false).unwrap();

    meter.write(small, 0, &[1; 4096]);
    assert_eq!(meter.syncs(|| fsync(small)), (1, 0));
    // The `fsync` of the directory behind it finds everything durable.
    let of_root = meter.syncs(|| meter.drive.fsync(meter.root, false).unwrap());
    assert_eq!(of_root, (0, 0));

    // A new stage file: its bytes, its name, its record. What another file has is not waited for.
    meter.write(large, 0, &vec![2; 1 << 20]);
    meter.write(other, 0, &vec![3; 1 << 20]);
    assert_eq!(meter.syncs(|| fsync(large)), (1, 2));
    meter.write(large, 1 << 20, &vec![2; 1 << 20]);
    assert_eq!(meter.syncs(|| fsync(large)), (1, 1));
    assert_eq!(meter.syncs(|| fsync(large)), (0, 0));
    // A few bytes go into the journal, beside the record.
    meter.write(large, 77, &[4; 4096]);
    assert_eq!(meter.syncs(|| fsync(large)), (1, 0));
}

#[test]
fn an_fsync_waits_for_no_removal_of_what_another_has_deleted() {
    let meter = Meter::new();
    let small = meter.create("small");
    let delete = |name: &str| {
        let file = meter.create(name);
        meter.write(file, 0, &vec![1; 1 << 20]);
        meter.drive.release(file.0, file.1);
        meter.drive.sync().unwrap();
        meter.drive.unlink(meter.root, name.as_bytes()).unwrap();
        meter.drive.forget(file.0, || false);
        meter.write(small, 0, name.as_bytes());
        let before = meter.stage.removes();
        meter.drive.fsync(small.0, false).unwrap();
        assert_eq!(meter.stage.removes(), before, "{name}");
        before
    };
    // The background does it, and does what is left when it ends.
    let before = delete("first");
    meter.volume.save_changed().unwrap();
    assert_eq!(meter.stage.removes(), before + 1);
    let before = delete("second");
    meter.volume.stop();
    meter.volume.end_keeping();
    assert_eq!(meter.stage.removes(), before + 1);
}

#[test]
fn a_write_during_a_commit_copies_only_the_blocks_it_touches_once() {
    const BLOCK: u64 = 64 << 10;
    let meter = Meter::new();
    let file = meter.create("image");
    for index in 0..8 {
        meter.write(file, index * CHUNK_SIZE, &vec![1; CHUNK_SIZE as usize]);
    }
    let cut = meter.volume.cut().unwrap();
    let written = |offset: u64, len: usize| {
        let before = meter.stage.written_bytes();
        meter.write(file, offset, &vec![2; len]);
        meter.stage.written_bytes() - before
    };
    assert_eq!(written(3 * CHUNK_SIZE + 8192, 4096), BLOCK + 4096);
    assert_eq!(written(3 * CHUNK_SIZE + 16_384, 4096), 4096);
    // Over a border: the two blocks that it meets.
    assert_eq!(written(6 * CHUNK_SIZE - 2048, 4096), 2 * BLOCK + 4096);
    // What is kept already.
    assert_eq!(
        written(6 * CHUNK_SIZE - BLOCK, 2 * BLOCK as usize),
        2 * BLOCK
    );
    // Behind the end nothing was published.
    assert_eq!(written(8 * CHUNK_SIZE, 4096), 4096);
    drop(cut);
    assert_eq!(written(CHUNK_SIZE, 4096), 4096);
}

#[test]
fn forgetting_a_deleted_file_needs_no_further_sync() {
    let meter = Meter::new();
    let file = meter.create("gone");
    meter.write(file, 0, b"small");
    meter.drive.release(file.0, file.1);
    meter.drive.sync().unwrap();
    meter.drive.unlink(meter.root, b"gone").unwrap();
    meter.drive.fsync(meter.root, false).unwrap();
    let forgotten = meter.syncs(|| {
        meter.drive.forget(file.0, || false);
        meter.drive.fsync(meter.root, false).unwrap();
    });
    assert_eq!(forgotten, (0, 0));
}

#[test]
fn large_writes_are_flushed_early_before_anyone_calls_fsync() {
    let meter = Meter::new();
    let file = meter.create("large");
    meter.write(file, 0, &vec![1; 1 << 20]);
    let ahead = || meter.volume.stage.sync_ahead().unwrap();
    assert_eq!(meter.syncs(ahead), (0, 0), "a little");
    for part in 1..40 {
        meter.write(file, part << 20, &vec![1; 1 << 20]);
    }
    assert_eq!(meter.syncs(ahead), (0, 1));
    assert_eq!(meter.syncs(ahead), (0, 0), "once");
    // Nothing is promised by that.
    let synced = meter.syncs(|| meter.drive.fsync(file.0, false).unwrap());
    assert!(synced.1 > 0, "taken for durable");
}

#[test]
fn a_commit_of_a_closed_file_takes_few_batches_and_syncs() {
    // Batches of the journal, syncs of it, syncs of the stage: to cut, and to settle. A cut appends to the log what
    // is new, and then commits the table, which it reads: in two phases, each with a sync.
    for (name, len, to_cut, to_settle) in [
        ("small", 100, (0, 3, 0), (4, 1, 0)),
        ("large", 200_000, (1, 3, 2), (4, 1, 0)),
    ] {
        let meter = Meter::new();
        let taken = |call: &mut dyn FnMut()| {
            let before = meter.volume.journal.applied();
            let (journal, stage) = meter.syncs(call);
            (meter.volume.journal.applied() - before, journal, stage)
        };
        let file = meter.create(name);
        meter.write(file, 0, &vec![1; len]);
        meter.drive.flush(file.0, file.1).unwrap();
        meter.drive.release(file.0, file.1);
        let mut cut = None;
        let cutting = taken(&mut || cut = Some(meter.volume.cut().unwrap()));
        let cut = cut.unwrap();
        let changes = cut.changes().unwrap();
        let built = build(&mut HashMap::new(), &cut, &changes).0;
        let settling = taken(&mut || cut.settle(&changes, &built).unwrap());
        assert_eq!((cutting, settling), (to_cut, to_settle), "{name}");
    }
}

#[test]
fn settling_a_large_file_uses_small_batches_that_do_not_block_names() {
    let meter = Meter::new();
    let (file, fh) = meter.create("image");
    let len = 5_000 * CHUNK_SIZE;
    meter.drive.fallocate(file, fh, 0, len, 0, false).unwrap();
    meter.drive.release(file, fh);
    let cut = meter.volume.cut().unwrap();
    let changes = cut.changes().unwrap();
    let ino = Ino(file.0 & Ino::MAX.0);
    let mut built = build(&mut HashMap::new(), &cut, &Default::default()).0;
    let child = Child::new(cid::node_cid(b"image"), len);
    built.files.insert(ino, child).unwrap();
    let journal = &meter.volume.journal;
    journal.longest_batch.store(0, Ordering::Relaxed);
    cut.settle(&changes, &built).unwrap();
    let longest = journal.longest_batch.load(Ordering::Relaxed);
    assert!(longest <= 1_100, "{longest} records at once");
    let content: Content = journal.record(&key::content(ino)).unwrap().unwrap();
    assert_eq!(
        (content.staged, content.version),
        (false, content.published)
    );
    let left = |prefix: &[u8]| journal.scan(prefix, None, 10).unwrap().len();
    assert_eq!(left(&key::chunks(ino)), 0);
    assert_eq!(
        journal.get(&key::dirty_inode(ino)),
        Ok(None),
        "published once more"
    );
}
