//! Files that are emptied and written anew: the old one or the new one, whenever it ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::rig::{READ_WRITE, Rig};
use crate::fs::SetAttr;
use crate::types::{Fh, Ino};

/// For how long a file counts as being written anew.
const REWRITE: Duration = Duration::from_secs(2);

/// A machine that is too slow so often shows nothing.
const TRIES: usize = 30;

/// A file `f` that was synced with `old`; opened anew, emptied, and begun with `new`.
fn rewriting(rig: &Rig, old: &[u8], new: &[u8]) -> (Ino, Fh) {
    rig.put("f", old).unwrap();
    let ino = rig.ino("f");
    rig.drive.fsync(ino, false).unwrap();
    let opened = rig.drive.open(ino, READ_WRITE | 0o1000).unwrap();
    // A shell closes its own descriptor before the program writes.
    rig.drive.flush(ino, opened.fh).unwrap();
    rig.drive.write(ino, opened.fh, 0, new, false).unwrap();
    // Another thread starts a child, whose copy of the descriptor is closed.
    rig.drive.flush(ino, opened.fh).unwrap();
    (ino, opened.fh)
}

#[test]
fn a_rewritten_file_is_wholly_old_or_new_after_a_crash() {
    for len in [1_000, 300_000] {
        let (old, new) = (vec![1; len], vec![2; len]);
        // Emptied just before the flusher comes, which takes all else.
        let rig = Rig::new();
        rewriting(&rig, &old, &new[..len / 2]);
        rig.put("other", &old).unwrap();
        rig.clock.advance(Duration::from_millis(200));
        rig.volume.save_changed().unwrap();
        let mut rig = rig.crash();
        assert!(rig.read("other") == old, "{len}");
        assert!(rig.read("f") == old, "half of the new one, {len}");

        // A commit waits for its end. It has an end itself, which a machine under load may meet: then that shows
        // nothing.
        let waits = (0..TRIES).any(|_| {
            let (waited, found) = committed_meanwhile(&old, &new);
            assert!(!waited || found == new, "not all of the new one, {len}");
            waited
        });
        assert!(waits, "{len}");
    }
}

/// Whether a commit that began amid a rewrite ended behind it, and what a crash after it leaves.
fn committed_meanwhile(old: &[u8], new: &[u8]) -> (bool, Vec<u8>) {
    let rig = Rig::new();
    let (half, rest) = new.split_at(new.len() / 2);
    let (ino, fh) = rewriting(&rig, old, half);
    let is_over = AtomicBool::new(false);
    let waited = std::thread::scope(|scope| {
        let synced = scope.spawn(|| {
            rig.volume.sync().unwrap();
            is_over.load(Ordering::SeqCst)
        });
        let begun = Instant::now();
        std::thread::sleep(Duration::from_millis(100));
        let offset = half.len() as u64;
        rig.drive.write(ino, fh, offset, rest, false).unwrap();
        is_over.store(begun.elapsed() < REWRITE * 3 / 4, Ordering::SeqCst);
        rig.drive.release(ino, fh);
        synced.join().unwrap()
    });
    (waited, rig.crash().read("f"))
}

#[test]
fn a_long_rewrite_becomes_durable_all_the_same() {
    let rig = Rig::new();
    rewriting(&rig, &[1; 1_000], &[2; 500]);
    rig.clock.advance(REWRITE);
    rig.volume.save_changed().unwrap();
    assert_eq!(rig.crash().read("f"), [2; 500]);
    // Nor does it hold up for ever who wants everything durable.
    let rig = Rig::new();
    rewriting(&rig, &[1; 1_000], &[2; 500]);
    rig.volume.sync().unwrap();
    assert_eq!(rig.crash().read("f"), [2; 500]);
    // And an `fsync` is what it always was.
    let rig = Rig::new();
    rewriting(&rig, &[1; 1_000], &[2; 500]);
    rig.drive.fsync(rig.ino("f"), false).unwrap();
    assert_eq!(rig.crash().read("f"), [2; 500]);
}

#[test]
fn a_file_rewritten_every_second_becomes_durable_within_seconds() {
    let rig = Rig::new();
    let (ino, fh) = rewriting(&rig, &[1; 1_000], &[2; 500]);
    let emptied = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    for second in 3..9 {
        rig.clock.advance(Duration::from_secs(1));
        rig.volume.save_changed().unwrap();
        rig.drive.setattr(ino, Some(fh), &emptied).unwrap();
        rig.drive.write(ino, fh, 0, &[second; 500], false).unwrap();
    }
    let found = rig.crash().read("f");
    assert!(found[0] > 4, "older than 5 s: {}", found[0]);
}

#[test]
fn a_file_rewritten_every_other_second_is_never_found_empty() {
    for len in [100, 300_000] {
        let (old, new) = (vec![1; len], vec![2; len]);
        let rig = Rig::new();
        let (ino, fh) = rewriting(&rig, &old, &new);
        rig.drive.release(ino, fh);
        // The flusher has not come since; a shell opens it once more, and closes its own descriptor.
        rig.clock.advance(REWRITE + Duration::from_millis(200));
        let opened = rig.drive.open(ino, READ_WRITE | 0o1000).unwrap();
        rig.drive.flush(ino, opened.fh).unwrap();
        rig.volume.save_changed().unwrap();
        let found = rig.crash().read("f");
        assert!(found == new, "{len}: {} bytes", found.len());
    }
}

#[test]
fn a_second_truncate_and_rewrite_is_not_saved_halfway() {
    let rig = Rig::new();
    let (ino, fh) = rewriting(&rig, &[1; 1_000], &[2; 1_000]);
    let emptied = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    rig.clock.advance(REWRITE - Duration::from_millis(100));
    rig.drive.setattr(ino, Some(fh), &emptied).unwrap();
    rig.drive.write(ino, fh, 0, &[3; 500], false).unwrap();
    rig.clock.advance(Duration::from_millis(200));
    rig.volume.save_changed().unwrap();
    assert_eq!(rig.crash().read("f"), [1; 1_000]);
}

#[test]
fn the_first_content_of_an_empty_file_is_not_saved_halfway() {
    let rig = Rig::new();
    rewriting(&rig, &[], &[2; 500]);
    rig.clock.advance(REWRITE - Duration::from_millis(100));
    rig.volume.save_changed().unwrap();
    assert!(rig.crash().read("f").is_empty());
}

#[test]
fn a_file_that_is_emptied_again_and_again_comes_back_empty() {
    let rig = Rig::new();
    let (ino, fh) = rewriting(&rig, &[1; 1_000], &[]);
    let emptied = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    for _ in 0..6 {
        rig.clock.advance(Duration::from_secs(1));
        rig.volume.save_changed().unwrap();
        rig.drive.setattr(ino, Some(fh), &emptied).unwrap();
    }
    assert!(rig.crash().read("f").is_empty());
}

#[test]
fn a_deleted_open_file_does_not_make_syncs_wait_for_a_rewrite() {
    let mut rig = Rig::with_quota(1_000_000);
    rig.put("gone", &[1; 600_000]).unwrap();
    rig.volume.save_changed().unwrap();
    let ino = rig.ino("gone");
    let opened = rig.drive.open(ino, READ_WRITE).unwrap();
    rig.drive.unlink(rig.root, b"gone").unwrap();
    rig.put("new", &[2; 600_000]).unwrap();
    rig.volume.save_changed().unwrap();
    assert_eq!(rig.volume.owes_room(), Ok(false));
    rig.drive.release(ino, opened.fh);
    assert!(rig.read("new") == vec![2; 600_000]);
}
