//! Files that are emptied and written anew: the old one or the new one, whenever it ends.

use std::time::Duration;

use super::rig::{READ_WRITE, Rig};
use crate::clock::Clock;
use crate::fs::SetAttr;
use crate::types::{Fh, Ino};

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

/// What the 3 s of the flusher make durable in this moment.
fn flush_now(rig: &Rig) {
    std::thread::scope(|scope| {
        let volume = &rig.volume;
        let flusher = scope.spawn(|| volume.keep_durable());
        std::thread::sleep(Duration::from_millis(100));
        rig.clock.advance(Duration::from_secs(3));
        std::thread::sleep(Duration::from_millis(600));
        volume.stop();
        flusher.join().unwrap();
    });
}

#[test]
fn a_file_that_is_emptied_and_written_anew_is_the_old_or_the_new_one_after_a_crash() {
    for len in [1_000, 300_000] {
        let (old, new) = (vec![1; len], vec![2; len]);
        // Emptied just before the flusher comes: 3 s is its step.
        let rig = Rig::new();
        let before = rig.clock.boottime();
        std::thread::scope(|scope| {
            let volume = &rig.volume;
            let flusher = scope.spawn(|| volume.keep_durable());
            std::thread::sleep(Duration::from_millis(100));
            rig.clock.advance(Duration::from_millis(2_900));
            rewriting(&rig, &old, &new[..len / 2]);
            rig.clock.advance(Duration::from_millis(200));
            std::thread::sleep(Duration::from_millis(600));
            volume.stop();
            flusher.join().unwrap();
        });
        assert_eq!(rig.clock.boottime() - before, Duration::from_millis(3_100));
        assert!(rig.crash().read("f") == old, "half of the new one, {len}");

        // A commit waits for its end.
        let rig = Rig::new();
        let (ino, fh) = rewriting(&rig, &old, &new[..len / 2]);
        let (half, rest) = (len as u64 / 2, &new[len / 2..]);
        std::thread::scope(|scope| {
            let synced = scope.spawn(|| rig.volume.sync());
            std::thread::sleep(Duration::from_millis(100));
            rig.drive.write(ino, fh, half, rest, false).unwrap();
            rig.drive.release(ino, fh);
            synced.join().unwrap().unwrap();
        });
        assert!(
            rig.crash().read("f") == new,
            "not all of the new one, {len}"
        );
    }
}

#[test]
fn a_file_that_is_written_anew_for_long_is_durable_all_the_same() {
    let rig = Rig::new();
    rewriting(&rig, &[1; 1_000], &[2; 500]);
    rig.clock.advance(Duration::from_secs(2));
    flush_now(&rig);
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
fn a_file_that_is_written_anew_each_second_is_durable_all_the_same() {
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
