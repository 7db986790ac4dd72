//! What a commit has not read yet, and is written over meanwhile.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::dice::Dice;
use super::meter::Meter;
use super::rig::{CALLER, READ_WRITE, Rig, build};
use crate::fs::Cut;
use crate::pack::chunk::CHUNK_SIZE;
use crate::types::{Fh, Ino};

/// More than a spool once was allowed to have.
const CHUNKS: u64 = 300;

#[test]
fn a_commit_ends_however_much_is_written_over_beside_it() {
    let rig = Rig::with_quota(1 << 30);
    let (attr, opened) = rig
        .drive
        .create(CALLER, rig.root, b"image", 0o644, READ_WRITE)
        .unwrap();
    let write_all = |byte: u8| {
        for index in 0..CHUNKS {
            let at = index * CHUNK_SIZE + 5;
            let written = rig.drive.write(attr.ino, opened.fh, at, &[byte], false);
            assert_eq!(written, Ok(1), "chunk {index}");
        }
    };
    write_all(1);
    let cut = rig.volume.cut().unwrap();
    let file = cut.file(Ino(attr.ino.0 & Ino::MAX.0)).unwrap();
    write_all(2);
    for index in 0..CHUNKS {
        let bytes = cut.read_chunk(&file, index, None).unwrap();
        assert_eq!(bytes.get(5), Some(&1), "chunk {index}");
        cut.release_chunk(&file, index);
    }
    rig.drive.release(attr.ino, opened.fh);
}

#[test]
fn a_snapshot_stays_unchanged_wherever_its_file_is_overwritten() {
    const LEN: usize = 2 * CHUNK_SIZE as usize + 100_001;
    let mut dice = Dice(1);
    let rig = Rig::new();
    let before: Vec<u8> = (0..LEN).map(|at| (at / 251) as u8).collect();
    rig.put("image", &before).unwrap();
    let ino = rig.ino("image");
    let opened = rig.drive.open(ino, READ_WRITE).unwrap();
    for round in 0..8 {
        let before = rig.drive.read(ino, opened.fh, 0, LEN as u32).unwrap();
        let cut = rig.volume.cut().unwrap();
        let file = cut.file(Ino(ino.0 & Ino::MAX.0)).unwrap();
        for (index, chunk) in before.chunks(CHUNK_SIZE as usize).enumerate() {
            for _ in 0..12 {
                let offset = dice.below(LEN as u64);
                let most = dice.pick(&[1, 5_000, 70_000, 400_000]).unwrap();
                let len = 1 + dice.below(most);
                let bytes = vec![100 + round; len.min(LEN as u64 - offset) as usize];
                let written = rig.drive.write(ino, opened.fh, offset, &bytes, false);
                assert_eq!(written.unwrap() as usize, bytes.len());
            }
            let read = cut.read_chunk(&file, index as u64, None).unwrap();
            assert!(read == chunk, "round {round}, chunk {index}");
            cut.release_chunk(&file, index as u64);
        }
    }
    rig.drive.release(ino, opened.fh);
}

#[test]
fn a_write_does_not_wait_for_a_snapshot_reading_its_file() {
    let meter = Arc::new(Meter::new());
    let file = meter.create("f");
    meter.write(file, 0, &vec![1; CHUNK_SIZE as usize]);
    let cut = meter.volume.cut().unwrap();
    let found = cut.file(Ino(file.0.0 & Ino::MAX.0)).unwrap();
    let came = Arc::new(AtomicUsize::new(0));
    let (writer, told) = (Arc::downgrade(&meter), Arc::clone(&came));
    // The disk does not answer before somebody else has written there.
    meter.stage.set_read_pause(Some(Arc::new(move || {
        if told.fetch_add(1, Ordering::SeqCst) == 0 {
            let meter = writer.upgrade().unwrap();
            let (ended, written) = mpsc::channel();
            std::thread::spawn(move || {
                meter.write(file, 4096, &[2; 4096]);
                let _ = ended.send(());
            });
            let written = written.recv_timeout(Duration::from_secs(60));
            assert_eq!(written, Ok(()), "it waits for the disk");
        }
    })));
    let read = cut.read_chunk(&found, 0, None).unwrap();
    assert!(came.load(Ordering::SeqCst) > 0);
    assert!(read == vec![1; CHUNK_SIZE as usize]);
}

#[test]
fn what_a_late_writer_keeps_for_an_ended_commit_meets_no_other() {
    let rig = Rig::new();
    let ended = rig.volume.stage.create_scratch().unwrap();
    let next = rig.volume.stage.create_scratch().unwrap();
    next.write_at(b"next", 0).unwrap();
    ended.write_at(b"late", 0).unwrap();
    let mut found = [0; 4];
    next.read_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"next");
    drop((ended, next));
    assert_eq!(rig.stage_files(), 0);
}

#[test]
fn short_lived_files_take_no_disk_space_during_a_commit() {
    let rig = Rig::new();
    let large = vec![7; 100_000];
    rig.put("old", &large).unwrap();
    let cut = rig.volume.cut().unwrap();
    let changes = cut.changes().unwrap();
    let remove = |name: &str| {
        let file = rig.ino(name);
        rig.drive.unlink(rig.root, name.as_bytes()).unwrap();
        rig.drive.forget(file, || false);
    };
    remove("old");
    for _ in 0..50 {
        rig.put("new", &large).unwrap();
        rig.drive.sync().unwrap();
        remove("new");
        rig.drive.sync().unwrap();
    }
    // The one that the commit has still to read.
    assert_eq!(rig.stage_files(), 1);
    let old = cut.file(changes.files[0]).unwrap();
    assert_eq!(cut.read_chunk(&old, 0, None).unwrap(), large);
    drop(cut);
    rig.put("last", b"x").unwrap();
    rig.drive.sync().unwrap();
    assert_eq!(rig.stage_files(), 0);
}

#[test]
fn a_snapshot_moved_out_of_the_journal_publishes_the_same_content() {
    let mut rig = Rig::new();
    rig.put("image", &[1; 200_000]).unwrap();
    rig.put("gone", b"small").unwrap();
    let cut = rig.volume.cut().unwrap();
    let file = Ino(rig.ino("image").0 & Ino::MAX.0);
    cut.snapshot().move_at(0);
    rig.clock.advance(Duration::from_secs(1));
    let attr = rig.drive.lookup(rig.root, b"image").unwrap();
    let opened = rig.drive.open(attr.ino, READ_WRITE).unwrap();
    rig.drive
        .write(attr.ino, opened.fh, 7, &[2; 100_000], false)
        .unwrap();
    rig.drive.release(attr.ino, opened.fh);
    rig.drive.unlink(rig.root, b"gone").unwrap();
    rig.volume.sync().unwrap();
    assert!(cut.is_due_to_move());
    cut.relieve();
    assert!(!cut.is_due_to_move());
    let changes = cut.changes().unwrap();
    let (built, contents) = rig.build(&cut, &changes);
    assert_eq!(contents.get(&file), Some(&vec![1; 200_000]));
    assert!(contents.values().any(|content| content == b"small"));
    cut.settle(&changes, &built).unwrap();
    drop(cut);
    assert!(rig.volume.activity().is_some(), "what was changed since");
    let mut rig = rig.crash();
    let read = rig.read("image");
    assert_eq!(read.get(6..8), Some(&[1, 2][..]));
    assert_eq!(read.get(100_006..100_008), Some(&[2, 1][..]));
    let cut = rig.volume.cut().unwrap();
    let changes = cut.changes().unwrap();
    let (_, contents) = rig.build(&cut, &changes);
    assert_eq!(contents.get(&file), Some(&read));
}

/// Cuts while `act` runs at the `nth` moment at which the journal writes something of the cut; how many such moments
/// there were.
fn cut_beside(
    meter: &Arc<Meter>,
    nth: usize,
    act: impl Fn(&Meter) + Send + Sync + 'static,
) -> (Cut, usize) {
    let came = Arc::new(AtomicUsize::new(0));
    let (writer, told) = (Arc::downgrade(meter), Arc::clone(&came));
    meter.journal.set_pause(Some(Arc::new(move || {
        if told.fetch_add(1, Ordering::SeqCst) == nth {
            act(&writer.upgrade().unwrap());
        }
    })));
    let cut = meter.volume.cut().unwrap();
    meter.journal.set_pause(None);
    (cut, came.load(Ordering::SeqCst))
}

#[test]
fn a_snapshot_never_holds_a_write_without_the_fsynced_data_before() {
    for nth in 0.. {
        let meter = Arc::new(Meter::new());
        let (log, base) = (meter.create("log"), meter.create("base"));
        for file in [log, base] {
            meter.write(file, 0, &vec![1; CHUNK_SIZE as usize]);
            meter.drive.fsync(file.0, false).unwrap();
        }
        let (cut, moments) = cut_beside(&meter, nth, move |meter| {
            meter.write(log, CHUNK_SIZE, &[2; 4096]);
            meter.drive.fsync(log.0, false).unwrap();
            meter.write(base, 8192, &[2; 4096]);
        });
        if moments <= nth {
            assert!(nth > 0, "{moments} moments");
            return;
        }
        let file = |of: (Ino, Fh)| cut.file(Ino(of.0.0 & Ino::MAX.0)).unwrap();
        let has_logged = file(log).size > CHUNK_SIZE;
        let bytes = cut.read_chunk(&file(base), 0, None).unwrap();
        let has_changed = bytes.get(8192) == Some(&2);
        assert!(has_logged || !has_changed, "moment {nth} of {moments}");
    }
}

#[test]
fn a_write_during_a_snapshot_is_wholly_in_or_out_never_lost() {
    let part = 4000..12_192_usize;
    let of_one_kind = |content: &[u8]| {
        let found = &content[part.clone()];
        assert!(found.iter().all(|byte| *byte == found[0]), "torn");
        found[0]
    };
    for nth in 0.. {
        let meter = Arc::new(Meter::new());
        let file = meter.create("f");
        meter.write(file, 0, &vec![1; 2 * CHUNK_SIZE as usize]);
        meter.drive.fsync(file.0, false).unwrap();
        meter.write(file, 3, &[1; 5]);
        let write = move |meter: &Meter| meter.write(file, 4000, &[2; 8192]);
        let (cut, moments) = cut_beside(&meter, nth, write);
        if moments <= nth {
            assert!(nth > 2, "{moments} moments");
            return;
        }
        let ino = Ino(file.0.0 & Ino::MAX.0);
        let mut published = HashMap::new();
        // What comes after the cut is copied before it changes what the commit reads.
        meter.write(file, CHUNK_SIZE + 5, &[3; 100]);
        let changes = cut.changes().unwrap();
        let (built, contents) = build(&mut published, &cut, &changes);
        let first = of_one_kind(&contents[&ino]);
        assert_eq!(
            contents[&ino][CHUNK_SIZE as usize + 5],
            1,
            "of another instant"
        );
        cut.settle(&changes, &built).unwrap();
        drop(cut);
        let cut = meter.volume.cut().unwrap();
        let changes = cut.changes().unwrap();
        let contents = build(&mut published, &cut, &changes).1;
        let second = &contents[&ino];
        assert_eq!(
            (of_one_kind(second), second[CHUNK_SIZE as usize + 5]),
            (2, 3),
            "lost"
        );
        assert!(first == 1 || first == 2);
    }
}
