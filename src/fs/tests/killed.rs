//! What a daemon that was killed had written, and the kernel still has.

use std::sync::Arc;

use super::rig::{CALLER, QUOTA, READ_WRITE, allowance, open};
use crate::cache::Cache;
use crate::clock::ManualClock;
use crate::fs::{Drive, Volume};
use crate::journal::Without;
use crate::journal::simulated::{Image, Kept, Left, Power};
use crate::types::Ino;

fn start(power: &Arc<Power>) -> (Drive, Arc<Volume>, Ino) {
    let clock = Arc::new(ManualClock::at(1_700_000_000_000_000_000));
    let cache = Arc::new(Cache::in_memory());
    let (home, stage) = (power.disk(0), power.disk(1));
    let (drive, volume, root) = open(home, stage, &clock, &cache, Without::default()).unwrap();
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

#[test]
fn an_fsync_after_a_kill_covers_what_was_written_before_it() {
    let left = Left::default();
    let power = Power::on(left.clone());
    let (drive, volume, root) = start(&power);
    let (attr, opened) = drive.create(CALLER, root, b"f", 0o644, READ_WRITE).unwrap();
    let write = |bytes: &[u8]| drive.write(attr.ino, opened.fh, 0, bytes, false).unwrap();
    write(&[1; 1 << 20]);
    drive.fsync(attr.ino, false).unwrap();
    write(&[2; 500_000]);
    drop((drive, volume)); // as a kill -9 does: nothing is saved

    let (drive, _volume, root) = start(&power);
    let seen = content(&drive, root);
    let ino = drive.lookup(root, b"f").unwrap().ino;
    drive.fsync(ino, false).unwrap();
    let mut image = Image::of(&left);
    for event in power.events() {
        image.play(&event);
    }
    let cut = Power::on(image.cut(Kept::None, 512, &mut |_| 0));
    let (drive, _volume, root) = start(&cut);
    assert!(
        content(&drive, root) == seen,
        "what was seen and synced is not there"
    );
}
