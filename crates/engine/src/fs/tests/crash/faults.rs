//! Disks that fail under a volume: whatever was acknowledged as durable is there when it is opened
//! again, and nothing is called durable that is not.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::dice::Dice;
use super::text::pattern;
use super::world::World;
use crate::cache::Cache;
use crate::clock::ManualClock;
use crate::fs::tests::rig::{self, CALLER, QUOTA, READ_WRITE};
use crate::fs::{FsError, Limits, SetAttr, VolumeOptions};
use crate::journal::Without;
use crate::journal::simulated::{Call, Image, Kept, Left, Power};
use crate::types::{Fh, Ino};

/// The folder of the journal, and that of the stage files.
const HOME: usize = 0;
const STAGE: usize = 1;

fn open(left: Left) -> World {
    let clock = Arc::new(ManualClock::at(super::BEGIN_NS));
    let cache = Arc::new(Cache::in_memory());
    let how = (Without::default(), Limits::default());
    World::open(left, cache, &clock, how, QUOTA).expect("it opens")
}

/// Writes a new file of `len` bytes and syncs it.
fn put(world: &World, number: u64, len: usize) -> Result<(), FsError> {
    let (drive, name) = (&world.drive, format!("f{number}"));
    let (attr, opened) = drive.create(CALLER, world.root, name.as_bytes(), 0o644, READ_WRITE)?;
    let bytes = pattern(number, 0, len);
    let done = drive
        .write(attr.ino, opened.fh, 0, &bytes, false)
        .and_then(|_| drive.fsync(attr.ino, false));
    drive.release(attr.ino, opened.fh);
    done
}

/// Whether the file is there, whole.
fn has(world: &World, number: u64, len: usize) -> bool {
    let attr = world
        .drive
        .lookup(world.root, format!("f{number}").as_bytes());
    let read = attr.map(|attr| world.read(attr.ino, attr.size, &|_| None));
    read.is_ok_and(|bytes| bytes == Ok(pattern(number, 0, len)))
}

/// What is found after the power was cut now, with any luck.
fn cut_power(world: &World, luck: u64) -> World {
    let mut image = Image::of(&Left::default());
    world
        .power
        .events()
        .iter()
        .for_each(|event| image.play(event));
    let mut dice = Dice(luck);
    open(image.cut(Kept::Some, 512, &mut |bound| dice.below(bound)))
}

#[test]
fn a_failed_sync_is_reported_forever_and_loses_no_synced_data() {
    for (folder, call, kind) in [
        (STAGE, Call::SyncData, ErrorKind::Other),
        (STAGE, Call::SyncFolder, ErrorKind::Other),
        (HOME, Call::SyncData, ErrorKind::Other),
        // What was written may be gone then too, whatever room there is later.
        (STAGE, Call::SyncData, ErrorKind::StorageFull),
        (HOME, Call::SyncData, ErrorKind::StorageFull),
    ] {
        let world = open(Left::default());
        put(&world, 1, 200_000).unwrap();
        let strikes = move |at, met| at == folder && met == call;
        world.power.set_fault(Some(Box::new(move |at, _, met| {
            strikes(at, met).then_some(kind)
        })));
        let failed = put(&world, 2, 200_000);
        assert!(matches!(failed, Err(FsError::Disk(_))), "{failed:?}");
        // The disk works again; nobody knows what of it is there.
        world.power.set_fault(None);
        assert!(world.volume.poisoned().is_some(), "{folder} {call:?}");
        let root = world.drive.fsync(world.root, false);
        assert!(matches!(root, Err(FsError::Disk(_))), "{root:?}");
        let refused = put(&world, 3, 10);
        assert!(matches!(refused, Err(FsError::ReadOnly(_))), "{refused:?}");
        assert!(has(&world, 1, 200_000), "reading goes on");
        for luck in 0..20 {
            let world = cut_power(&world, luck);
            world.audit().unwrap();
            assert!(has(&world, 1, 200_000), "{folder} {call:?} {luck}");
            put(&world, 4, 100_000).unwrap();
        }
    }
}

#[test]
fn a_file_that_cannot_be_saved_keeps_no_other_from_it() {
    let world = open(Left::default());
    let mut left = 1;
    world.power.set_fault(Some(Box::new(move |at, _, call| {
        let strikes = at == STAGE && call == Call::SyncData && left > 0;
        left -= u32::from(strikes);
        strikes.then_some(ErrorKind::Other)
    })));
    for number in 0..5 {
        let name = format!("f{number}");
        let made = world
            .drive
            .create(CALLER, world.root, name.as_bytes(), 0o644, READ_WRITE);
        let (attr, opened) = made.unwrap();
        let bytes = pattern(number, 0, 100_000);
        let written = world.drive.write(attr.ino, opened.fh, 0, &bytes, false);
        assert_eq!(written, Ok(100_000));
        world.drive.release(attr.ino, opened.fh);
    }
    let failed = world.volume.save_changed();
    assert!(matches!(failed, Err(FsError::Disk(_))), "{failed:?}");
    assert!(world.volume.poisoned().is_some());
    let world = cut_power(&world, 1);
    let whole = (0..5).filter(|number| has(&world, *number, 100_000));
    assert_eq!(whole.count(), 4);
}

/// Files that are there before a disk fails, and how long they are.
const OLD: std::ops::Range<u64> = 100..300;
const OLD_LEN: usize = 40;

/// What a volume with [`OLD`] leaves, all of it in the journal's table.
fn old() -> Left {
    let world = open(Left::default());
    for number in OLD {
        put(&world, number, OLD_LEN).unwrap();
    }
    assert_eq!(world.volume.journal.rest(), Ok(true));
    let mut image = Image::of(&Left::default());
    let events = world.power.events();
    events.iter().for_each(|event| image.play(event));
    image.cut(Kept::All, 512, &mut |_| 0)
}

/// The volume in `left`, whose journal is read from the disk each time.
fn open_frugally(left: &Left) -> World {
    let (clock, cache) = (
        Arc::new(ManualClock::at(super::BEGIN_NS)),
        Arc::new(Cache::in_memory()),
    );
    let power = Power::on(left.clone());
    let disks = (power.disk(HOME), power.disk(STAGE));
    let options = VolumeOptions {
        journal_cache_bytes: 0,
        ..rig::options(Without::default())
    };
    let opened = rig::open_with(disks.0, disks.1, &clock, &cache, &options);
    let (drive, volume, root) = opened.expect("it opens");
    volume
        .set_allowance(&rig::allowance(&clock, QUOTA))
        .expect("an allowance");
    World {
        power,
        clock,
        cache,
        volume,
        drive,
        root,
        is_tight: false,
        is_shared: false,
    }
}

/// As [`cut_power`], of a machine that found `left`.
fn cut_power_after(left: &Left, world: &World, luck: u64) -> World {
    let mut image = Image::of(left);
    let events = world.power.events();
    events.iter().for_each(|event| image.play(event));
    let mut dice = Dice(luck);
    open(image.cut(Kept::Some, 512, &mut |bound| dice.below(bound)))
}

#[test]
fn one_disk_error_at_any_call_loses_no_acknowledged_data() {
    let lens = [200_000, 100, 70_000, 30_000, 1_100_000];
    let left = old();
    for kind in [
        ErrorKind::Other,
        ErrorKind::ReadOnlyFilesystem,
        ErrorKind::UnexpectedEof,
    ] {
        let mut reads = 0;
        for strike in 0.. {
            let world = open_frugally(&left);
            let (mut met, struck) = (0, Arc::new(Mutex::new(None)));
            let noted = Arc::clone(&struck);
            world.power.set_fault(Some(Box::new(move |at, _, call| {
                let counts = !matches!(call, Call::Len | Call::Open);
                met += u32::from(counts);
                let strikes = counts && met == strike + 1;
                if strikes {
                    *noted.lock().unwrap() = Some((at, call));
                }
                strikes.then_some(kind)
            })));
            let numbers = 0..lens.len() as u64;
            let kept: Vec<(u64, usize)> = numbers
                .zip(lens)
                .filter(|(number, len)| put(&world, *number, *len).is_ok())
                .collect();
            let Some((at, call)) = struck.lock().unwrap().take() else {
                assert!(strike > 30 && reads > 5, "{strike} calls, {reads} reads");
                break;
            };
            let what = format!("{kind:?} at call {strike}, {call:?} in {at}");
            // All goes on, or it is told that nothing does.
            let is_told = world.volume.poisoned().is_some();
            let after = put(&world, 9, 50_000);
            assert!(after.is_ok() != is_told, "{what}: {after:?}");
            if (at, call) == (HOME, Call::Read) {
                reads += 1;
                assert!(!is_told && kept.len() == lens.len(), "{what}");
            }
            for (number, len) in kept.iter().copied().chain([(OLD.start, OLD_LEN)]) {
                assert!(has(&world, number, len), "{what}: reading f{number}");
            }
            let world = cut_power_after(&left, &world, u64::from(strike));
            world.audit().unwrap();
            for (number, len) in kept {
                assert!(has(&world, number, len), "{what}: f{number}");
            }
        }
    }
}

/// Which calls a disk refuses for good.
#[derive(Clone, Copy, Debug)]
enum Refuses {
    /// All that changes something.
    Changes,
    /// Syncs alone.
    Syncs,
}

impl Refuses {
    fn holds(self, call: Call) -> bool {
        let is_sync = matches!(call, Call::SyncData | Call::SyncFolder);
        match self {
            Self::Syncs => is_sync,
            Self::Changes => is_sync || !matches!(call, Call::Len | Call::Open | Call::Read),
        }
    }
}

#[test]
fn a_disk_that_fails_for_good_loses_no_acknowledged_data() {
    let lens = [200_000, 100, 70_000, 30_000, 1_100_000];
    let left = old();
    for (refuses, kind) in [
        (Refuses::Changes, ErrorKind::Other),
        (Refuses::Changes, ErrorKind::ReadOnlyFilesystem),
        (Refuses::Syncs, ErrorKind::Other),
        // Room for what was written is wanting when it is synced.
        (Refuses::Syncs, ErrorKind::StorageFull),
    ] {
        for strike in 0.. {
            let world = open_frugally(&left);
            let (mut met, struck) = (0, Arc::new(Mutex::new(None)));
            let noted = Arc::clone(&struck);
            world.power.set_fault(Some(Box::new(move |at, _, call| {
                met += u32::from(refuses.holds(call));
                let strikes = refuses.holds(call) && met > strike;
                if strikes {
                    noted.lock().unwrap().get_or_insert((at, call));
                }
                strikes.then_some(kind)
            })));
            let kept: Vec<(u64, usize)> = (0..lens.len() as u64)
                .zip(lens)
                .filter(|(number, len)| put(&world, *number, *len).is_ok())
                .collect();
            let Some((at, call)) = *struck.lock().unwrap() else {
                assert!(strike > 5, "{strike} calls");
                break;
            };
            let what = format!("{refuses:?}, {kind:?} from call {strike} on, {call:?} in {at}");
            // Whoever asks is told, and each time.
            assert!(put(&world, 9, 100).is_err(), "{what}");
            assert!(world.volume.poisoned().is_some(), "{what}");
            let root = world.drive.fsync(world.root, false);
            assert!(matches!(root, Err(FsError::Disk(_))), "{what}: {root:?}");
            let refused = put(&world, 10, 100);
            assert!(
                matches!(refused, Err(FsError::ReadOnly(_))),
                "{what}: {refused:?}"
            );
            for (number, len) in kept.iter().copied().chain([(OLD.start, OLD_LEN)]) {
                assert!(has(&world, number, len), "{what}: reading f{number}");
            }
            // It ends while the disk fails, and is opened when that is well again: as it lies there, or after a cut of the
            // power.
            let power = Arc::clone(&world.power);
            drop(world);
            let mut image = Image::of(&left);
            let events = power.events();
            events.iter().for_each(|event| image.play(event));
            let parts = [Kept::All, Kept::None, Kept::Some][strike as usize % 3];
            let mut dice = Dice(u64::from(strike));
            let world = open(image.cut(parts, 512, &mut |bound| dice.below(bound)));
            world.audit().unwrap();
            for (number, len) in kept.into_iter().chain([(OLD.start, OLD_LEN)]) {
                assert!(has(&world, number, len), "{what}, {parts:?}: f{number}");
            }
            put(&world, 11, 50_000).unwrap();
        }
    }
}

/// From the first read that the disk fails for good, nobody knows what the journal holds: that is told, and what was
/// acknowledged is made durable all the same.
#[test]
fn an_unreadable_journal_closes_the_volume_without_losing_acknowledged_data() {
    let left = old();
    let world = open_frugally(&left);
    let made = world
        .drive
        .create(CALLER, world.root, b"f1", 0o644, READ_WRITE);
    let (attr, opened) = made.unwrap();
    let bytes = pattern(1, 0, 100_000);
    let written = world.drive.write(attr.ino, opened.fh, 0, &bytes, false);
    assert_eq!(written, Ok(100_000));
    world.power.set_fault(Some(Box::new(|at, name, call| {
        let strikes = at == HOME && name == "journal.redb" && call == Call::Read;
        strikes.then_some(ErrorKind::Other)
    })));
    let look = world.drive.lookup(world.root, b"f100");
    assert!(matches!(look, Err(FsError::Disk(_))), "{look:?}");
    // The disk works again, and what holds the journal's pages does not.
    world.power.set_fault(None);
    let saved = world.volume.save_changed();
    assert!(matches!(saved, Err(FsError::Disk(_))), "{saved:?}");
    let told = world.volume.poisoned().expect("it is told");
    assert!(told.contains("journal.redb cannot be read"), "{told}");
    let refused = put(&world, 3, 10);
    assert!(matches!(refused, Err(FsError::ReadOnly(_))), "{refused:?}");
    for luck in 0..20 {
        let world = cut_power_after(&left, &world, luck);
        world.audit().unwrap();
        assert!(has(&world, 1, 100_000) && has(&world, OLD.start, OLD_LEN));
    }
}

#[test]
fn a_temporarily_full_disk_is_reported_and_work_resumes_afterwards() {
    for folder in [HOME, STAGE] {
        let world = open(Left::default());
        put(&world, 1, 200_000).unwrap();
        let mut full = 3;
        world.power.set_fault(Some(Box::new(move |at, _, call| {
            let strikes = at == folder && matches!(call, Call::Write | Call::Create) && full > 0;
            full -= u32::from(strikes);
            strikes.then_some(ErrorKind::StorageFull)
        })));
        let mut number = 2;
        while let Err(error) = put(&world, number, 200_000) {
            assert_eq!(error, FsError::NoRoom);
            number += 1;
            assert!(number < 10, "there is room again");
        }
        assert_eq!(world.volume.poisoned(), None);
        let world = cut_power(&world, 1);
        world.audit().unwrap();
        assert!(has(&world, 1, 200_000) && has(&world, number, 200_000));
    }
}

#[test]
fn a_journal_that_is_gone_takes_no_staged_byte_with_it() {
    let world = open(Left::default());
    put(&world, 1, 200_000).unwrap();
    let mut image = Image::of(&Left::default());
    let events = world.power.events();
    events.iter().for_each(|event| image.play(event));
    let left = image.cut(Kept::All, 512, &mut |_| 0);
    for is_empty in [false, true] {
        let mut without = left.clone();
        let journal = without[HOME].insert("journal.redb".to_owned(), Vec::new());
        assert!(journal.is_some_and(|bytes| !bytes.is_empty()));
        if !is_empty {
            without[HOME].clear();
        }
        let (clock, cache) = (
            Arc::new(ManualClock::at(super::BEGIN_NS)),
            Arc::new(Cache::in_memory()),
        );
        let power = Power::on(without.clone());
        let how = (Without::default(), Limits::default());
        let refused = World::on(Arc::clone(&power), cache, &clock, how, QUOTA);
        let why = refused.err().expect("nothing is begun anew").to_string();
        assert!(why.contains("put the file back"), "{why}");
        assert!(power.events().is_empty(), "the disk is left as it is");
    }
    assert!(has(&open(left), 1, 200_000));
}

/// A call on a held file that needs the local disk.
type Edit = fn(&World, Ino, Fh) -> Result<(), FsError>;

const EDITED: u64 = 200_000;

fn edits() -> [(&'static str, Edit); 7] {
    [
        ("overwrite", |world, ino, fh| {
            let bytes = [1; 8000];
            world.drive.write(ino, fh, 70_000, &bytes, false).map(drop)
        }),
        ("append", |world, ino, fh| {
            world
                .drive
                .write(ino, fh, EDITED, &[2; 4096], false)
                .map(drop)
        }),
        ("write far behind the end", |world, ino, fh| {
            let far = EDITED + (4 << 20);
            world.drive.write(ino, fh, far, &[3; 4096], false).map(drop)
        }),
        ("mapped page", |world, ino, fh| {
            world
                .drive
                .write_mapped(ino, fh, 4096, &[4; 4096])
                .map(drop)
        }),
        ("zero range", |world, ino, fh| {
            world.drive.fallocate(ino, fh, 5, 3000, 0x10, false)
        }),
        ("punch", |world, ino, fh| {
            world.drive.fallocate(ino, fh, 5, 3000, 3, false)
        }),
        ("truncate", |world, ino, fh| {
            let set = SetAttr {
                size: Some(150_001),
                ..SetAttr::default()
            };
            world.drive.setattr(ino, Some(fh), &set).map(drop)
        }),
    ]
}

#[test]
fn a_change_the_disk_refuses_fails_alone_and_the_volume_stays_open() {
    let kinds = [
        ErrorKind::FileTooLarge,
        ErrorKind::StorageFull,
        ErrorKind::Other,
    ];
    let calls = [Call::Write, Call::Read, Call::Len, Call::Create, Call::Open];
    let (mut refused, mut struck_in_all) = (0, 0);
    for (small, (what, edit), call, kind) in [false, true]
        .into_iter()
        .flat_map(|small| edits().into_iter().map(move |edit| (small, edit)))
        .flat_map(|(small, edit)| calls.map(|call| (small, edit, call)))
        .flat_map(|(small, edit, call)| kinds.map(|kind| (small, edit, call, kind)))
    {
        let told = || format!("{what}, {call:?}, {kind:?}, small {small}");
        for nth in 0.. {
            let world = open(Left::default());
            let drive = &world.drive;
            // Small: nothing of it is in a stage file yet.
            let len = if small { 40_000 } else { EDITED as usize };
            put(&world, 1, len).unwrap();
            let ino = drive.lookup(world.root, b"f1").unwrap().ino;
            let fh = drive.open(ino, READ_WRITE).unwrap().fh;
            let met = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&met);
            world.power.set_fault(Some(Box::new(move |at, _, now| {
                let is_it = at == STAGE && now == call;
                let before = is_it.then(|| counted.fetch_add(1, Ordering::Relaxed));
                (before == Some(nth)).then_some(kind)
            })));
            let edited = edit(&world, ino, fh);
            let synced = drive.fsync(ino, false);
            world.power.set_fault(None);
            if met.load(Ordering::Relaxed) <= nth {
                drive.release(ino, fh);
                break;
            }
            struck_in_all += 1;
            refused += usize::from(edited.is_err());
            assert_eq!(synced, Ok(()), "{}: fsync", told());
            assert_eq!(world.volume.poisoned(), None, "{}", told());
            put(&world, 2, 70_000).unwrap_or_else(|e| panic!("{}: {e}", told()));
            edit(&world, ino, fh).unwrap_or_else(|e| panic!("{}: once more: {e}", told()));
            drive.fsync(ino, false).unwrap();
            drive.release(ino, fh);
            // What lies behind all that was edited is as it was, also after a power cut.
            let world = cut_power(&world, nth as u64);
            world.audit().unwrap();
            let (from, until) = (90_000.min(len), 150_000.min(len));
            let after = world.read(ino, until as u64, &|_| None).unwrap();
            assert!(
                after[from..until] == pattern(1, 0, len)[from..until],
                "{}",
                told()
            );
            assert!(has(&world, 2, 70_000), "{}", told());
        }
    }
    assert!(
        refused > 20 && struck_in_all > refused,
        "{refused} {struck_in_all}"
    );
}
