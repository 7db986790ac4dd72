//! The threads that make everything durable though nobody asks: what becomes of it when one cannot be made, ends in
//! a panic, or waits for a slow disk.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::refuse_threads;
use super::rig::{CALLER, READ_WRITE, build, open};
use crate::cache::Cache;
use crate::clock::ManualClock;
use crate::fs::{Drive, FsError, Volume};
use crate::journal::Without;
use crate::journal::simulated::{Event, Image, Kept, Left, Power};
use crate::types::Ino;

/// What has not come by then never comes.
const PATIENCE: Duration = Duration::from_secs(60);

const O_TRUNC: i32 = 0o1000;

/// More than a record has room for.
const LEN: usize = 200_000;

struct Scene {
    power: Arc<Power>,
    clock: Arc<ManualClock>,
    drive: Drive,
    volume: Arc<Volume>,
    root: Ino,
}

impl Scene {
    fn new() -> Self {
        Self::on(Power::on(Left::default()))
    }

    fn on(power: Arc<Power>) -> Self {
        let clock = Arc::new(ManualClock::at(1_700_000_000_000_000_000));
        let cache = Arc::new(Cache::in_memory());
        let (home, stage) = (power.disk(0), power.disk(1));
        let (drive, volume, root) = open(home, stage, &clock, &cache, Without::default()).unwrap();
        let allowance = super::rig::allowance(&clock, super::rig::QUOTA);
        volume.set_allowance(&allowance).unwrap();
        Self {
            power,
            clock,
            drive,
            volume,
            root,
        }
    }

    /// A new file, that no `fsync` covers.
    fn put(&self, name: &str) -> Result<(), FsError> {
        self.put_bytes(name, LEN)
    }

    fn put_bytes(&self, name: &str, len: usize) -> Result<(), FsError> {
        let made = (self.drive).create(CALLER, self.root, name.as_bytes(), 0o644, READ_WRITE)?;
        let (ino, fh) = (made.0.ino, made.1.fh);
        let written = self.drive.write(ino, fh, 0, &vec![7; len], false);
        self.drive.release(ino, fh);
        written.map(drop)
    }

    /// What is there after a cut of the power that leaves nothing but what is durable.
    fn after(image: &Image) -> Self {
        Self::on(Power::on(image.cut(Kept::None, 512, &mut |_| 0)))
    }

    /// The same after a cut of the power now.
    fn after_power_cut(&self) -> Self {
        let mut image = Image::of(&Left::default());
        let events = self.power.events();
        events.iter().for_each(|event| image.play(event));
        Self::after(&image)
    }

    /// Whether the file would be there then, and whole.
    fn is_durable(&self, name: &str) -> bool {
        let after = self.after_power_cut();
        let Ok(attr) = after.drive.lookup(after.root, name.as_bytes()) else {
            return false;
        };
        let opened = after.drive.open(attr.ino, 0).unwrap();
        let read = after.drive.read(attr.ino, opened.fh, 0, LEN as u32);
        read.is_ok_and(|bytes| bytes == vec![7; LEN])
    }

    /// Lets time go by until `is_so`; false where it never is.
    fn comes(&self, is_so: impl Fn() -> bool) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if is_so() {
                return true;
            }
            self.clock.advance(Duration::from_secs(1));
            thread::sleep(Duration::from_millis(20));
        }
        is_so()
    }
}

/// Ends what keeps a volume durable also where a test fails.
struct Ending<'a>(&'a Volume);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[test]
fn everything_becomes_durable_even_if_no_thread_can_be_spawned() {
    let scene = Scene::new();
    thread::scope(|scope| {
        let _ending = Ending(&scene.volume);
        scope.spawn(|| {
            refuse_threads();
            super::keep_durable(&scene.volume);
        });
        for round in 0..2 {
            let names = [0, 1, 2].map(|n| format!("f{round}{n}"));
            names.iter().for_each(|name| scene.put(name).unwrap());
            let is_durable = || names.iter().all(|name| scene.is_durable(name));
            assert!(scene.comes(is_durable), "round {round}");
        }
        assert_eq!(scene.volume.poisoned(), None);
    });
}

#[test]
fn the_flusher_saves_other_files_before_anyone_waits_for_fsync() {
    const SMALL: usize = 60_000;
    let scene = Scene::new();
    thread::scope(|scope| {
        let _ending = Ending(&scene.volume);
        scope.spawn(|| super::keep_durable(&scene.volume));
        for number in 0..40 {
            let name = format!("f{number}");
            let made = scene
                .drive
                .create(CALLER, scene.root, name.as_bytes(), 0o644, READ_WRITE);
            let (attr, opened) = made.unwrap();
            (scene
                .drive
                .write(attr.ino, opened.fh, 0, &[7; SMALL], false))
            .unwrap();
            scene.drive.flush(attr.ino, opened.fh).unwrap();
            scene.drive.release(attr.ino, opened.fh);
        }
        // No time goes by, so nothing is saved for being old.
        let begun = Instant::now();
        let is_durable = || {
            let after = scene.after_power_cut();
            let found = after.drive.lookup(after.root, b"f0");
            found.is_ok_and(|attr| attr.size == SMALL as u64)
        };
        while !is_durable() {
            assert!(
                begun.elapsed() < PATIENCE,
                "an fsync has to carry all of it"
            );
            thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn a_panic_in_the_flusher_closes_the_volume_and_is_reported() {
    let scene = Scene::new();
    thread::scope(|scope| {
        let _ending = Ending(&scene.volume);
        let kept = scope.spawn(|| super::keep_durable(&scene.volume));
        scene.put("f").unwrap();
        scene.power.set_pause(Some(Arc::new(|| panic!("wanted"))));
        assert!(scene.comes(|| scene.volume.poisoned().is_some()));
        scene.power.set_pause(None);
        assert!(matches!(scene.put("g"), Err(FsError::ReadOnly(_))));
        scene.volume.stop();
        kept.join().unwrap();
    });
}

#[test]
fn truncated_data_does_not_reappear_beside_data_that_reused_its_quota() {
    let scene = Scene::new();
    let quota = 6_000_000;
    let allowance = super::rig::allowance(&scene.clock, quota);
    scene.volume.set_allowance(&allowance).unwrap();
    scene.put_bytes("large", 5_000_000).unwrap();
    scene.volume.sync().unwrap();
    thread::scope(|scope| {
        let _ending = Ending(&scene.volume);
        scope.spawn(|| super::keep_durable(&scene.volume));
        // It is being written anew, so it is not saved with the rest, which is more than the memory is to hold.
        let large = scene.drive.lookup(scene.root, b"large").unwrap().ino;
        let opened = scene.drive.open(large, READ_WRITE | O_TRUNC).unwrap();
        for number in 0..2_500 {
            scene.put_bytes(&format!("small{number}"), 1_600).unwrap();
        }
        scene.volume.save_changed().unwrap();
        scene.drive.release(large, opened.fh);
    });
    let events = scene.power.events();
    let mut image = Image::of(&Left::default());
    for event in events.iter() {
        image.play(event);
        if matches!(event, Event::SyncData(_)) {
            let after = Scene::after(&image);
            let used = after.volume.with_quota(|found| found.used_bytes());
            assert!(used <= quota, "{used} of {quota} bytes came back");
        }
    }
}

/// Where the first sync stands still until it is opened.
#[derive(Default)]
struct Gate {
    is_taken: AtomicBool,
    is_open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        if self.is_taken.swap(true, Ordering::SeqCst) {
            return;
        }
        let closed = self.is_open.lock().unwrap();
        drop(self.changed.wait_while(closed, |is_open| !*is_open));
    }

    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Opens a gate also where a test fails.
struct Opening<'a>(&'a Gate);

#[test]
fn a_slow_save_of_one_file_does_not_delay_later_ones() {
    let scene = Scene::new();
    let gate = Arc::<Gate>::default();
    let own = Arc::clone(&gate);
    scene.power.set_pause(Some(Arc::new(move || own.pass())));
    scene.put("slow").unwrap();
    thread::scope(|scope| {
        let _opening = Opening(&gate);
        let saved = scope.spawn(|| scene.volume.save_changed());
        assert!(scene.comes(|| gate.is_taken.load(Ordering::SeqCst)));
        for name in ["late", "later"] {
            scene.put(name).unwrap();
            assert!(scene.comes(|| scene.is_durable(name)), "{name}");
        }
        assert!(!scene.is_durable("slow") && !saved.is_finished());
        gate.open();
        assert_eq!(saved.join().unwrap(), Ok(()));
    });
    assert!(scene.is_durable("slow"));
}

#[test]
fn a_file_rewritten_while_its_commit_settles_is_never_found_half_written() {
    const HALF: u64 = 1_000;
    let scene = Scene::new();
    scene.put("f").unwrap();
    let ino = scene.drive.lookup(scene.root, b"f").unwrap().ino;
    let cut = scene.volume.cut().unwrap();
    let changes = cut.changes().unwrap();
    let (built, _) = build(&mut HashMap::new(), &cut, &changes);
    let opened = scene.drive.open(ino, READ_WRITE).unwrap();
    let write = |fh, bytes: &[u8]| scene.drive.write(ino, fh, 0, bytes, false).unwrap();
    write(opened.fh, &vec![8; LEN / 2]);
    let gate = Arc::<Gate>::default();
    let own = Arc::clone(&gate);
    scene.power.set_pause(Some(Arc::new(move || own.pass())));
    thread::scope(|scope| {
        let _opening = Opening(&gate);
        let saved = scope.spawn(|| scene.volume.save_changed());
        assert!(scene.comes(|| gate.is_taken.load(Ordering::SeqCst)));
        let settled = scope.spawn(|| cut.settle(&changes, &built));
        // It waits for the save, which waits for the disk.
        thread::sleep(Duration::from_millis(300));
        let anew = scene.drive.open(ino, READ_WRITE | O_TRUNC).unwrap();
        write(anew.fh, &[9; HALF as usize]);
        gate.open();
        assert_eq!(saved.join().unwrap(), Ok(()));
        assert_eq!(settled.join().unwrap(), Ok(()));
    });
    let after = scene.after_power_cut();
    let found = after.drive.lookup(after.root, b"f").unwrap();
    assert_eq!(found.size, LEN as u64, "half of what is being written");
}
