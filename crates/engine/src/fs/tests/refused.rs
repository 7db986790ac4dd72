//! What a call that fails leaves behind: nothing, also of what it had taken from the quota.

use std::io::ErrorKind;
use std::sync::Arc;

use super::rig::{CALLER, QUOTA, READ_WRITE, allowance, open_with, options};
use crate::cache::Cache;
use crate::clock::ManualClock;
use crate::fs::{Allowance, Drive, FsError, SetAttr, Volume, VolumeOptions};
use crate::journal::simulated::{Call, Left, Power};
use crate::journal::{Batch, JournalError, Without, key};
use crate::types::{Fh, Ino};

/// Length of a file that has a stage file.
const LARGE: usize = 100_000;

/// A call on two directories.
type Removal = fn(&Drive, Ino, Ino) -> Result<(), FsError>;

fn mount(power: &Arc<Power>, clock: &Arc<ManualClock>) -> (Drive, Arc<Volume>, Ino) {
    try_mount(power, clock).unwrap()
}

fn try_mount(
    power: &Arc<Power>,
    clock: &Arc<ManualClock>,
) -> Result<(Drive, Arc<Volume>, Ino), JournalError> {
    let cache = Arc::new(Cache::in_memory());
    let (home, stage) = (power.disk(0), power.disk(1));
    // So little memory that nearly each record is read from the disk.
    let options = VolumeOptions {
        journal_cache_bytes: 1 << 14,
        ..options(Without::default())
    };
    open_with(home, stage, clock, &cache, &options)
}

fn put(drive: &Drive, dir: Ino, name: &str, len: usize) {
    let (attr, opened) = drive
        .create(CALLER, dir, name.as_bytes(), 0o644, READ_WRITE)
        .unwrap();
    let written = drive.write(attr.ino, opened.fh, 0, &vec![7; len], false);
    assert_eq!(written, Ok(len as u32));
    drive.release(attr.ino, opened.fh);
}

fn used(volume: &Volume) -> u64 {
    volume.with_quota(|quota| quota.used_bytes())
}

fn free(volume: &Volume) -> u64 {
    volume.with_quota(|quota| quota.free_bytes())
}

#[test]
fn a_failed_unlink_or_rename_frees_no_quota() {
    let power = Power::on(Left::default());
    let clock = Arc::new(ManualClock::at(1_700_000_000_000_000_000));
    {
        let (drive, volume, root) = mount(&power, &clock);
        volume.set_allowance(&allowance(&clock, QUOTA)).unwrap();
        for dir in ["from", "to"] {
            drive.mkdir(CALLER, root, dir.as_bytes(), 0o755).unwrap();
        }
        for (dir, name) in [("from", "new"), ("from", "gone"), ("to", "old")] {
            let dir = drive.lookup(root, dir.as_bytes()).unwrap().ino;
            put(&drive, dir, name, LARGE);
        }
        for i in 0..200 {
            put(&drive, root, &format!("{i:0>200}"), 10);
        }
        drive.sync().unwrap();
    }
    let unlink: Removal = |drive, from, _| drive.unlink(from, b"gone");
    let rename: Removal = |drive, from, to| drive.rename(from, b"new", to, b"old", 0);
    let calls: [Removal; 2] = [unlink, rename];
    for call in calls {
        let mut failed = 0;
        for nth in 0.. {
            let (drive, volume, root) = mount(&power, &clock);
            let dir = |name: &[u8]| drive.lookup(root, name).unwrap().ino;
            let (from, to) = (dir(b"from"), dir(b"to"));
            let before = used(&volume);
            let mut reads = 0;
            power.set_fault(Some(Box::new(move |_, _, call| {
                reads += usize::from(call == Call::Read);
                (call == Call::Read && reads > nth).then_some(ErrorKind::Other)
            })));
            let result = call(&drive, from, to);
            power.set_fault(None);
            if result.is_ok() {
                break;
            }
            assert_eq!(used(&volume), before, "read {nth} failed");
            failed += 1;
        }
        assert!(failed > 2, "the disk failed {failed} times");
    }
}

#[test]
fn a_refused_write_leaves_no_reservation_on_an_additive_contract() {
    let power = Power::on(Left::default());
    let clock = Arc::new(ManualClock::at(1_700_000_000_000_000_000));
    let (drive, volume, root) = mount(&power, &clock);
    let additive = |size_bytes| Allowance {
        additive: true,
        uploads_left: Some(9),
        ..allowance(&clock, size_bytes)
    };
    volume.set_allowance(&additive(QUOTA)).unwrap();
    put(&drive, root, "f", 1000);
    drive.sync().unwrap();
    volume.with_quota(|quota| {
        quota.begin_cut();
        quota.end_cut(Vec::new());
    });
    let ino = drive.lookup(root, b"f").unwrap().ino;
    let fh = drive.open(ino, READ_WRITE).unwrap().fh;

    let before = free(&volume);
    power.set_fault(Some(Box::new(|folder, _, call| {
        (folder == 1 && call == Call::Create).then_some(ErrorKind::Other)
    })));
    let refused = drive.write(ino, fh, LARGE as u64, b"x", false);
    assert!(matches!(refused, Err(FsError::Disk(_))), "{refused:?}");
    assert_eq!(free(&volume), before);
    power.set_fault(None);

    // Room for what is there already, sent once more, and for no byte beside it.
    let reserve = volume.with_quota(|quota| quota.reserve_bytes());
    let reserve = reserve.min(64 << 10);
    volume.set_allowance(&additive(reserve + 1000)).unwrap();
    let refused = drive.write(ino, fh, 1000, b"x", false);
    assert_eq!(refused, Err(FsError::Quota));
    assert_eq!(free(&volume), reserve + 1000);
    assert_eq!(drive.write(ino, fh, 0, b"x", false), Ok(1));
    assert_eq!(free(&volume), reserve);
    drive.release(ino, fh);
}

/// A change of an open file.
type Change = fn(&Drive, Ino, Fh) -> Result<(), FsError>;

#[test]
fn what_a_commit_sends_once_more_is_reserved_whatever_has_changed_it() {
    const MIB: u64 = 1 << 20;
    let power = Power::on(Left::default());
    let clock = Arc::new(ManualClock::at(1_700_000_000_000_000_000));
    let (drive, volume, root) = mount(&power, &clock);
    let additive = |size_bytes| Allowance {
        additive: true,
        uploads_left: Some(9),
        ..allowance(&clock, size_bytes)
    };
    volume.set_allowance(&additive(QUOTA)).unwrap();
    put(&drive, root, "f", 3 << 20);
    let ino = drive.lookup(root, b"f").unwrap().ino;
    let fh = drive.open(ino, READ_WRITE).unwrap().fh;
    let publish = || {
        drive.sync().unwrap();
        volume.with_quota(|quota| {
            quota.begin_cut();
            quota.end_cut(Vec::new());
        });
    };
    let write: Change = |drive, ino, fh| drive.write(ino, fh, MIB - 5, &[1; 10], false).map(drop);
    let mapped: Change = |drive, ino, fh| drive.write_mapped(ino, fh, 4096, &[1; 4096]).map(drop);
    let zeroed: Change = |drive, ino, fh| drive.fallocate(ino, fh, 5, 2 << 20, 0x11, false);
    let punched: Change = |drive, ino, fh| drive.fallocate(ino, fh, 5, 100, 3, false);
    let resized = |drive: &Drive, ino, size| {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        drive.setattr(ino, None, &set).map(drop)
    };
    for (what, change, sent) in [
        ("write", write, 2 * MIB),
        ("mapping", mapped, MIB),
        ("zeroed range", zeroed, 3 * MIB),
        ("punched edge", punched, MIB),
    ] {
        publish();
        let before = free(&volume);
        for _ in 0..3 {
            change(&drive, ino, fh).unwrap();
            assert_eq!(before - free(&volume), sent, "{what}");
        }
    }
    publish();
    let before = free(&volume);
    resized(&drive, ino, 2 * MIB + 77).unwrap();
    assert_eq!(before - free(&volume), 77, "shorter");
    publish();
    let (before, used_before) = (free(&volume), used(&volume));
    resized(&drive, ino, 2 * MIB + 100).unwrap();
    let growth = used(&volume) - used_before;
    assert_eq!(before - free(&volume), 77 + growth, "longer");

    // Without room a call is refused, and what nobody can refuse is kept and told.
    publish();
    let reserve = volume
        .with_quota(|quota| quota.reserve_bytes())
        .min(64 << 10);
    volume.set_allowance(&additive(reserve + 100)).unwrap();
    assert_eq!(zeroed(&drive, ino, fh), Err(FsError::Quota));
    assert_eq!(write(&drive, ino, fh), Err(FsError::Quota));
    assert_eq!(free(&volume), reserve + 100, "nothing of it stays reserved");
    mapped(&drive, ino, fh).unwrap();
    assert_eq!(drive.flush(ino, fh), Err(FsError::Quota));
    assert_eq!(punched(&drive, ino, fh), Ok(()));
    // Without a name nothing is sent.
    volume.set_allowance(&additive(QUOTA)).unwrap();
    publish();
    drive.unlink(root, b"f").unwrap();
    let before = free(&volume);
    for change in [write, mapped, zeroed, punched] {
        change(&drive, ino, fh).unwrap();
    }
    assert_eq!(free(&volume), before);
    drive.release(ino, fh);
}

#[test]
fn directories_that_lie_in_one_another_are_told_and_nothing_hangs() {
    let power = Power::on(Left::default());
    let clock = Arc::new(ManualClock::at(1_700_000_000_000_000_000));
    let (drive, volume, root) = mount(&power, &clock);
    volume.set_allowance(&allowance(&clock, QUOTA)).unwrap();
    let outer = drive.mkdir(CALLER, root, b"outer", 0o755).unwrap().ino;
    let inner = drive.mkdir(CALLER, outer, b"inner", 0o755).unwrap().ino;
    drive.mkdir(CALLER, root, b"other", 0o755).unwrap();
    put(&drive, inner, "f", 1);
    // What no call can do, and a damaged file may say.
    let local = |ino: Ino| Ino(ino.0 & Ino::MAX.0);
    let mut batch = Batch::default();
    batch.remove(key::link(local(outer), Ino::ROOT, b"outer"));
    batch.set(key::link(local(outer), local(inner), b"outer"));
    volume.journal.apply(batch).unwrap();

    let told = |error: &str| error.contains("lies in itself");
    let refused = drive.rename(root, b"other", inner, b"other", 0);
    assert!(
        matches!(&refused, Err(FsError::Damaged(why)) if told(why)),
        "{refused:?}"
    );
    {
        let cut = volume.cut().unwrap();
        let refused = cut.changes();
        assert!(
            matches!(&refused, Err(FsError::Damaged(why)) if told(why)),
            "{refused:?}"
        );
    }
    drop((drive, volume));
    match try_mount(&power, &clock) {
        Err(JournalError::Corrupt(why)) => assert!(told(&why), "{why}"),
        other => panic!("mounted: {}", other.is_ok()),
    }
}
