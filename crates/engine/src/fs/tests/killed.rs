//! What a daemon that was killed had written, and the kernel still has.

use std::io::ErrorKind;
use std::sync::Arc;

use super::rig::{CALLER, QUOTA, READ_WRITE, allowance, open};
use crate::cache::Cache;
use crate::clock::ManualClock;
use crate::fs::{Drive, Volume};
use crate::journal::simulated::{Call, Image, Kept, Left, Power};
use crate::journal::{Barrier, Without};
use crate::types::Ino;

fn start(power: &Arc<Power>) -> (Drive, Arc<Volume>, Ino) {
    start_without(power, Without::default())
}

fn start_without(power: &Arc<Power>, without: Without) -> (Drive, Arc<Volume>, Ino) {
    let clock = Arc::new(ManualClock::at(1_700_000_000_000_000_000));
    let cache = Arc::new(Cache::in_memory());
    let (home, stage) = (power.disk(0), power.disk(1));
    let (drive, volume, root) = open(home, stage, &clock, &cache, without).unwrap();
    volume.set_allowance(&allowance(&clock, QUOTA)).unwrap();
    (drive, volume, root)
}

fn content(drive: &Drive, root: Ino) -> Vec<u8> {
    let attr = drive.lookup(root, b"f").unwrap();
    let opened = drive.open(attr.ino, 0).unwrap();
    let bytes = drive.read(attr.ino, opened.fh, 0, attr.size as u32);
    drive.release(attr.ino, opened.fh);
    bytes.unwrap()
}

/// Whether an `fsync` after a kill covers what is seen then, beside so many other staged files.
fn is_covered(others: usize, without: Without) -> bool {
    let left = Left::default();
    let power = Power::on(left.clone());
    let (drive, volume, root) = start(&power);
    let (attr, opened) = drive.create(CALLER, root, b"f", 0o644, READ_WRITE).unwrap();
    let write = |bytes: &[u8]| drive.write(attr.ino, opened.fh, 0, bytes, false).unwrap();
    write(&[1; 1 << 20]);
    for other in 0..others {
        let name = format!("other{other}");
        let name = name.as_bytes();
        let (attr, opened) = drive.create(CALLER, root, name, 0o644, READ_WRITE).unwrap();
        let written = drive.write(attr.ino, opened.fh, 0, &[3; 100_000], false);
        written.unwrap();
    }
    drive.sync().unwrap();
    write(&[2; 500_000]);
    drop((drive, volume)); // as a kill -9 does: nothing is saved

    let (drive, _volume, root) = start_without(&power, without);
    let seen = content(&drive, root);
    let ino = drive.lookup(root, b"f").unwrap().ino;
    drive.fsync(ino, false).unwrap();
    let mut image = Image::of(&left);
    for event in power.events() {
        image.play(&event);
    }
    let cut = Power::on(image.cut(Kept::None, 512, &mut |_| 0));
    let (drive, _volume, root) = start(&cut);
    content(&drive, root) == seen
}

#[test]
fn an_fsync_after_a_kill_covers_what_was_written_before_it() {
    // Beside few staged files, and beside many, which are synced at once.
    for others in [0, 70] {
        assert!(
            is_covered(others, Without::default()),
            "what was seen and synced is not there, beside {others}"
        );
        let without = Without::the(Barrier::RecoveryBytes);
        assert!(!is_covered(others, without), "nobody notices that");
    }
}

#[test]
fn a_sync_that_failed_before_anybody_asked_is_told_to_whoever_asks() {
    let power = Power::on(Left::default());
    let (drive, volume, root) = start(&power);
    let (attr, opened) = drive.create(CALLER, root, b"f", 0o644, READ_WRITE).unwrap();
    drive.sync().unwrap();
    for part in 0..40 {
        let written = drive.write(attr.ino, opened.fh, part << 20, &[1; 1 << 20], false);
        written.unwrap();
    }
    // The system tells it once.
    power.set_fault(Some(Box::new(|folder, _, call| {
        (folder == 1 && call == Call::SyncData).then_some(ErrorKind::Other)
    })));
    assert!(volume.stage.sync_ahead().is_err());
    power.set_fault(None);
    assert!(drive.fsync(attr.ino, false).is_err());
    assert!(volume.save_changed().is_err());
    assert!(volume.sync().is_err());
}
