//! What is written at the very moment at which something else ends or begins: a save, a commit's cut, a want of room,
//! a start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::meter::{Counted, Meter};
use super::rig::{CALLER, READ_WRITE, Rig, allowance, open};
use crate::cache::Cache;
use crate::fs::{Allowance, FsError};
use crate::journal::Without;
use crate::pack::chunk::CHUNK_SIZE;

/// Who does not come back by then hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Until when nobody is taken to wait for something. Who is slower makes a test easier, never red.
const LOOK: Duration = Duration::from_millis(50);

const GIB: u64 = 1 << 30;

fn additive(meter: &Meter) -> Allowance {
    Allowance {
        additive: true,
        uploads_left: Some(9),
        ..allowance(&meter.clock, GIB)
    }
}

#[test]
fn a_write_racing_with_the_flushers_close_check_is_saved() {
    let mut rig = Rig::new();
    rig.put("f", b"old").unwrap();
    rig.drive.sync().unwrap();
    let ino = rig.ino("f");
    rig.volume.unsaved.note(ino);
    let stamp = rig.volume.unsaved.stamp(ino);
    let fh = rig.drive.open(ino, READ_WRITE).unwrap().fh;
    rig.drive.write(ino, fh, 0, b"new", false).unwrap();
    // The background has found that nobody has it open, just before; it says so now.
    rig.volume.unsaved.note_closed(ino, stamp);
    rig.drive.release(ino, fh);
    rig.drive.sync().unwrap();
    rig = rig.crash();
    assert_eq!(rig.read("f"), b"new");
}

#[test]
fn a_write_during_a_snapshot_stays_reserved_for_the_next_commit() {
    let meter = Arc::new(Meter::new());
    meter.volume.set_allowance(&additive(&meter)).unwrap();
    let (first, other) = (meter.create("first"), meter.create("other"));
    meter.write(first, 0, &vec![1; CHUNK_SIZE as usize]);
    meter.drive.fsync(other.0, false).unwrap();
    // As soon as the cut makes the first file durable, somebody writes into the other.
    let (writer, once) = (Arc::downgrade(&meter), AtomicBool::new(true));
    meter.stage.set_sync_pause(Some(Arc::new(move || {
        if let (Some(meter), true) = (writer.upgrade(), once.swap(false, Ordering::SeqCst)) {
            meter.write(other, 0, &vec![2; 3 * CHUNK_SIZE as usize]);
        }
    })));
    drop(meter.volume.cut().unwrap());
    meter.volume.keep_charged(Vec::new(), None).unwrap();
    let free = meter.volume.with_quota(|quota| quota.free_bytes());
    assert!(free + 3 * CHUNK_SIZE <= GIB, "{} are free", free);
    // The next commit takes it.
    meter.stage.set_sync_pause(None);
    drop(meter.volume.cut().unwrap());
    meter.volume.keep_charged(Vec::new(), None).unwrap();
    let free = meter.volume.with_quota(|quota| quota.free_bytes());
    assert!(free > GIB - CHUNK_SIZE, "{} are free", free);
}

#[test]
fn a_full_disk_prevents_a_snapshot_while_deleting_still_frees_space() {
    let meter = Meter::new();
    let file = meter.create("f");
    meter.write(file, 0, &vec![1; CHUNK_SIZE as usize]);
    meter.drive.sync().unwrap();
    meter.journal.set_free_bytes(0);
    assert!(matches!(meter.volume.cut(), Err(FsError::NoRoom)));
    meter.journal.set_free_bytes(1 << 40);
    meter.drive.release(file.0, file.1);
    meter.drive.unlink(meter.root, b"f").unwrap();
    meter.drive.forget(file.0, || false);
    let before = meter.stage.removes();
    meter.drive.sync().unwrap();
    assert_eq!(meter.stage.removes(), before + 1);
    drop(meter.volume.cut().unwrap());
}

#[test]
fn a_commit_is_charged_even_if_the_disk_is_full_then() {
    let meter = Meter::new();
    let head = || vec![("head", Some(Bytes::from_static(b"of a commit")))];
    meter.journal.set_free_bytes(0);
    let kept = meter.volume.keep_charged(head(), Some((1, 4096)));
    assert_eq!(kept, Err(FsError::NoRoom));
    assert_eq!(meter.volume.charges(), [(1, 4096)]);
    meter.journal.set_free_bytes(1 << 40);
    meter.volume.keep_charged(head(), Some((2, 8192))).unwrap();
    assert_eq!(meter.volume.charges(), [(1, 4096), (2, 8192)]);
}

#[test]
fn mmap_pages_wait_for_space_again_after_an_earlier_wait_expired() {
    let meter = Arc::new(Meter::new());
    let big = meter.create("big");
    meter.write(big, 0, &vec![1; CHUNK_SIZE as usize]);
    let (told, tells) = channel();
    let store = || {
        let (meter, told) = (Arc::clone(&meter), told.clone());
        thread::spawn(move || {
            let stored = meter.drive.write_mapped(big.0, big.1, 0, &[2; 4096]);
            told.send(stored).unwrap();
        })
    };
    meter.stage.set_free_bytes(0);
    let first = store();
    assert!(tells.recv_timeout(LOOK).is_err(), "refused at once");
    // Its patience ends, and it is the last of that want.
    let mut refused = None;
    while refused.is_none() {
        // It looks several times meanwhile: it is the same want for it.
        meter.clock.advance(Duration::from_secs(5));
        refused = tells.recv_timeout(4 * LOOK).ok();
    }
    assert_eq!(refused, Some(Err(FsError::NoRoom)));
    first.join().unwrap();
    meter.clock.advance(Duration::from_secs(3600));
    let second = store();
    assert!(
        tells.recv_timeout(4 * LOOK).is_err(),
        "an hour later it is refused at once"
    );
    meter.stage.set_free_bytes(1 << 40);
    assert_eq!(tells.recv_timeout(PATIENCE), Ok(Ok(4096)));
    second.join().unwrap();
}

#[test]
fn a_restart_rereads_data_from_disk_instead_of_trusting_the_page_cache() {
    let meter = Meter::new();
    let file = meter.create("f");
    meter.write(file, 0, &vec![1; CHUNK_SIZE as usize]);
    meter.drive.sync().unwrap();
    let Meter {
        journal,
        stage,
        clock,
        ..
    } = meter;
    let before = stage.read_anew();
    let cache = Arc::new(Cache::in_memory());
    let (home, staged) = (Arc::<Counted>::clone(&journal), Arc::clone(&stage));
    let opened = open(home, staged, &clock, &cache, Without::default());
    assert!(opened.is_ok());
    assert_eq!(stage.read_anew(), before + 1);
}

#[test]
fn data_that_a_snapshot_saves_is_not_pending_after_its_commit() {
    let meter = Arc::new(Meter::new());
    let file = meter.create("f");
    meter.write(file, 0, &vec![1; CHUNK_SIZE as usize]);
    // It takes its time over that.
    let clock = Arc::clone(&meter.clock);
    let pause = move || clock.advance(Duration::from_secs(1));
    meter.stage.set_sync_pause(Some(Arc::new(pause)));
    let cut = meter.volume.cut().unwrap();
    meter.volume.note_published(cut.activity());
    assert!(meter.volume.activity().is_none());
    // What comes beside it does.
    meter.write(file, 0, b"more");
    meter.volume.note_published(cut.activity());
    assert!(meter.volume.activity().is_some());
}

#[test]
fn a_file_deleted_on_a_full_disk_frees_its_space_later() {
    let meter = Meter::new();
    let file = meter.create("f");
    meter.write(file, 0, &vec![1; CHUNK_SIZE as usize]);
    meter.drive.sync().unwrap();
    meter.drive.unlink(meter.root, b"f").unwrap();
    meter.drive.forget(file.0, || false);
    // The disk takes nothing, and memory no more.
    meter.journal.set_free_bytes(0);
    let full = (0..100_000).find(|number| {
        let name = number.to_string();
        let made = meter
            .drive
            .mkdir(CALLER, meter.root, name.as_bytes(), 0o755);
        made.is_err()
    });
    assert!(full.is_some());
    let before = meter.stage.removes();
    meter.drive.release(file.0, file.1);
    meter.journal.set_free_bytes(1 << 40);
    meter.drive.sync().unwrap();
    assert_eq!(meter.stage.removes(), before);
    meter.volume.purge_left();
    meter.drive.sync().unwrap();
    assert_eq!(meter.stage.removes(), before + 1);
}
