//! A write that the disk holds up holds up nobody else: no name of the token waits for a file's content.
//!
//! Each test hangs, and says so, where the order of locks is broken (`volume`).

use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::meter::Meter;
use super::rig::{CALLER, READ_WRITE};
use crate::fs::{Drive, FsError, SetAttr};
use crate::pack::chunk::CHUNK_SIZE;
use crate::types::{Fh, Ino};

/// Who does not come back by then hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Until when nobody is taken to wait for something, where nothing tells. Who is slower makes a test
/// easier, never red.
const LOOK: Duration = Duration::from_millis(30);

/// Where writes stand still until it is opened.
#[derive(Default)]
struct Gate {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Gate {
    /// Of the stage of `meter`.
    fn before(meter: &Meter) -> Arc<Self> {
        let gate = Arc::<Self>::default();
        let own = Arc::clone(&gate);
        meter.stage.set_pause(Some(Arc::new(move || own.pass())));
        gate
    }

    /// The same of its syncs, where some `pass`.
    fn before_syncs(meter: &Meter, pass: fn(&Self)) -> Arc<Self> {
        let gate = Arc::<Self>::default();
        let own = Arc::clone(&gate);
        meter
            .stage
            .set_sync_pause(Some(Arc::new(move || pass(&own))));
        gate
    }

    fn pass(&self) {
        self.stand(|_| true);
    }

    /// As [`Gate::pass`], where nobody but the first who comes stands still.
    fn pass_but_first(&self) {
        self.stand(|came| came == 1);
    }

    /// Who comes as the nth stands still where `stands` says so of that number.
    fn stand(&self, stands: impl Fn(usize) -> bool) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        if stands(state.0) {
            self.changed.notify_all();
            let opened = self.changed.wait_while(state, |state| !state.1);
            drop(opened.unwrap());
        }
    }

    /// Returns when somebody stands before it.
    fn wait(&self) {
        let state = self.state.lock().unwrap();
        let waited = self
            .changed
            .wait_timeout_while(state, PATIENCE, |state| state.0 == 0);
        assert!(!waited.unwrap().1.timed_out(), "nobody writes");
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

/// Runs `call` in a thread of its own; whether it comes back within `patience`.
fn comes_back(patience: Duration, call: impl FnOnce() + Send + 'static) -> bool {
    let (told, tells) = channel();
    thread::spawn(move || {
        call();
        told.send(()).unwrap();
    });
    tells.recv_timeout(patience).is_ok()
}

fn times(ns: i64) -> SetAttr {
    SetAttr {
        mtime_ns: Some(ns),
        ..SetAttr::default()
    }
}

/// What everybody else does meanwhile.
fn work_elsewhere(drive: &Drive, root: Ino) {
    let (attr, opened) = drive
        .create(CALLER, root, b"new", 0o644, READ_WRITE)
        .unwrap();
    assert_eq!(drive.write(attr.ino, opened.fh, 0, b"small", false), Ok(5));
    drive.setattr(attr.ino, None, &times(5)).unwrap();
    drive.release(attr.ino, opened.fh);
    let dir = drive.mkdir(CALLER, root, b"dir", 0o755).unwrap().ino;
    drive.rename(root, b"new", dir, b"moved", 0).unwrap();
    drive.link(attr.ino, root, b"again").unwrap();
    assert_eq!(drive.getattr(attr.ino).unwrap().mtime_ns, 5);
    drive
        .setxattr(CALLER, attr.ino, b"user.a", b"1", 0)
        .unwrap();
    drive.unlink(dir, b"moved").unwrap();
    drive.unlink(root, b"again").unwrap();
    drive.rmdir(root, b"dir").unwrap();
    assert_eq!(drive.lookup(root, b"new"), Err(FsError::NotFound));
}

/// A drive with the file `big`, a write into which the disk holds up; whoever waits for its end.
struct Held {
    meter: Arc<Meter>,
    big: (Ino, Fh),
    gate: Arc<Gate>,
    /// The writer, and who waits for it.
    waiting: Mutex<Vec<thread::JoinHandle<()>>>,
}

fn held_up() -> Held {
    let meter = Arc::new(Meter::new());
    let big = meter.create("big");
    meter.write(big, 0, &vec![1; CHUNK_SIZE as usize]);
    let small = meter.create("small");
    meter.write(small, 0, b"small");
    meter.drive.release(small.0, small.1);
    meter.drive.sync().unwrap();
    let gate = Gate::before(&meter);
    let of_writer = Arc::clone(&meter);
    let writer = thread::spawn(move || of_writer.write(big, CHUNK_SIZE, &[2; 4096]));
    gate.wait();
    Held {
        meter,
        big,
        gate,
        waiting: Mutex::new(vec![writer]),
    }
}

impl Held {
    /// `call`, which is about the file itself, may wait or not; nobody else does.
    fn with(&self, what: &str, waits: bool, call: impl FnOnce(&Meter, (Ino, Fh)) + Send + 'static) {
        let (meter, big) = (Arc::clone(&self.meter), self.big);
        let own = thread::spawn(move || call(&meter, big));
        if waits {
            thread::sleep(LOOK);
            self.waiting.lock().unwrap().push(own);
        } else {
            assert!(
                comes_back(PATIENCE, move || own.join().unwrap()),
                "{what} waits for a write into the file"
            );
        }
        let meter = Arc::clone(&self.meter);
        assert!(
            comes_back(PATIENCE, move || work_elsewhere(&meter.drive, meter.root)),
            "others wait for a write while there is a {what}"
        );
    }

    fn end(self) -> Arc<Meter> {
        self.gate.open();
        for waiting in self.waiting.into_inner().unwrap() {
            assert!(comes_back(PATIENCE, move || waiting.join().unwrap()));
        }
        self.meter.stage.set_pause(None);
        self.meter.stage.set_sync_pause(None);
        self.meter
    }
}

#[test]
fn nobody_waits_for_a_touch_of_a_file_that_is_being_written() {
    let held = held_up();
    let big = held.big;
    held.with("touch", true, |meter, big| {
        meter.drive.setattr(big.0, None, &times(77)).unwrap();
    });
    let meter = held.end();
    // The one that waited, or the write's where it did not come to that.
    meter.drive.setattr(big.0, None, &times(78)).unwrap();
    assert_eq!(meter.drive.getattr(big.0).unwrap().mtime_ns, 78);
    let cut = meter.volume.cut().unwrap();
    let published = cut.file(Ino(big.0.0 & Ino::MAX.0)).unwrap();
    assert_eq!(published.size, CHUNK_SIZE + 4096);
    assert_eq!(published.content().mtime_ns, 78);
}

#[test]
fn unlink_rename_and_link_do_not_wait_for_a_file_being_written() {
    let used = |meter: &Meter| meter.volume.with_quota(|quota| quota.used_bytes());
    let before = used(&Meter::new());
    for replaced in [false, true] {
        let held = held_up();
        held.with("link", true, |meter, big| {
            meter.drive.link(big.0, meter.root, b"second").unwrap();
        });
        // It is there before the call has its answer, which waits.
        let volume = Arc::clone(&held.meter.volume);
        assert!(comes_back(PATIENCE, move || {
            while volume.entry(Ino::ROOT, b"second") == Ok(None) {
                thread::sleep(Duration::from_millis(1));
            }
        }));
        held.with("removal of one of two names", false, |meter, _| {
            meter.drive.unlink(meter.root, b"big").unwrap();
        });
        if replaced {
            held.with("rename over it", false, |meter, _| {
                let root = meter.root;
                meter
                    .drive
                    .rename(root, b"small", root, b"second", 0)
                    .unwrap();
            });
        } else {
            held.with("removal", false, |meter, _| {
                meter.drive.unlink(meter.root, b"second").unwrap();
            });
        }
        let big = held.big;
        let meter = held.end();
        let name: &[u8] = if replaced { b"second" } else { b"small" };
        let small = meter.drive.lookup(meter.root, name).unwrap().ino;
        // What was written is there for who has it open, and is charged to nobody.
        let read = meter.drive.read(big.0, big.1, CHUNK_SIZE, 4096).unwrap();
        assert_eq!(read, [2; 4096]);
        meter.write(big, 2 * CHUNK_SIZE, &[3; 100]);
        meter.drive.unlink(meter.root, name).unwrap();
        assert_eq!(used(&meter), before);
        meter.drive.release(big.0, big.1);
        meter.drive.forget(big.0, || false);
        meter.drive.forget(small, || false);
        assert_eq!(meter.drive.getattr(big.0), Err(FsError::NotFound));
        meter.drive.sync().unwrap();
        assert_eq!(used(&meter), before);
        assert_eq!(meter.volume.journal.counters().used_bytes, before);
    }
}

#[test]
fn a_closed_file_is_removed_while_a_commit_reads_it() {
    let meter = Arc::new(Meter::new());
    let before = meter.volume.with_quota(|quota| quota.used_bytes());
    let file = meter.create("f");
    meter.write(file, 0, &vec![1; CHUNK_SIZE as usize]);
    meter.drive.sync().unwrap();
    meter.write(file, 0, &[2; 10]);
    meter.drive.release(file.0, file.1);
    let ino = Ino(file.0.0 & Ino::MAX.0);
    // As a commit has it for as long as it reads a chunk.
    let in_use = meter.volume.files.peek(ino).unwrap();
    let read = in_use.body();
    let remover = Arc::clone(&meter);
    let removal = thread::spawn(move || remover.drive.unlink(remover.root, b"f").unwrap());
    thread::sleep(LOOK);
    let other = Arc::clone(&meter);
    assert!(comes_back(PATIENCE, move || work_elsewhere(
        &other.drive,
        other.root
    )));
    drop(read);
    assert!(comes_back(PATIENCE, move || removal.join().unwrap()));
    assert_eq!(meter.volume.with_quota(|quota| quota.used_bytes()), before);
    meter.drive.forget(file.0, || false);
    meter.drive.sync().unwrap();
    assert_eq!(meter.volume.with_quota(|quota| quota.used_bytes()), before);
    assert_eq!(meter.volume.journal.counters().used_bytes, before);
}

#[test]
fn a_file_that_is_being_written_is_looked_at_without_waiting() {
    let held = held_up();
    let root = held.meter.root;
    held.with("stat", false, move |meter, big| {
        // The write is not done: nothing of it is told.
        assert_eq!(meter.drive.getattr(big.0).unwrap().size, CHUNK_SIZE);
        assert_eq!(meter.drive.lookup(root, b"big").unwrap().size, CHUNK_SIZE);
        let mut sizes = Vec::new();
        let mut add = |_: &crate::fs::DirItem, attr: Option<&crate::fs::Attr>| {
            sizes.extend(attr.map(|attr| attr.size));
            true
        };
        meter.drive.readdir(root, 0, true, &mut add).unwrap();
        assert!(sizes.contains(&CHUNK_SIZE), "{sizes:?}");
    });
    held.with("look at its state", false, |meter, big| {
        let state = meter.drive.getxattr(big.0, b"user.px.state");
        assert_eq!(state, Ok(b"local".to_vec()));
        let cid = meter.drive.getxattr(big.0, b"user.px.cid");
        assert_eq!(cid, Err(FsError::NoAttribute));
    });
    let big = held.big;
    let meter = held.end();
    assert_eq!(meter.drive.getattr(big.0).unwrap().size, CHUNK_SIZE + 4096);
}

#[test]
fn creating_files_does_not_wait_while_a_large_file_syncs() {
    let meter = Arc::new(Meter::new());
    let big = meter.create("big");
    meter.write(big, 0, &vec![1; 2 * CHUNK_SIZE as usize]);
    let gate = Gate::before_syncs(&meter, Gate::pass);
    let keeper = {
        let volume = Arc::clone(&meter.volume);
        thread::spawn(move || super::keep_durable(&volume))
    };
    // It is time to save what has changed.
    while gate.state.lock().unwrap().0 == 0 {
        meter.clock.advance(Duration::from_secs(6));
        thread::sleep(Duration::from_millis(1));
    }
    // More than the journal keeps in memory, twice.
    let made = {
        let meter = Arc::clone(&meter);
        move || {
            for number in 0..1500_u32 {
                let small = meter.create(&number.to_string());
                meter.write(small, 0, &[7; 48 << 10]);
                meter.drive.flush(small.0, small.1).unwrap();
                meter.drive.release(small.0, small.1);
            }
        }
    };
    assert!(comes_back(PATIENCE, made), "names wait for a sync");
    meter.stage.set_sync_pause(None);
    gate.open();
    meter.volume.stop();
    keeper.join().unwrap();
}

/// The bytes of `big` stand still on their way to the disk, which `call` has sent them on; those of all other files get
/// there. `old` is a large file that is durable.
fn syncing(call: impl FnOnce(&Meter, (Ino, Fh)) + Send + 'static) -> (Held, (Ino, Fh)) {
    let meter = Arc::new(Meter::new());
    let old = meter.create("old");
    meter.write(old, 0, &vec![5; 200_000]);
    meter.drive.fsync(old.0, false).unwrap();
    let big = meter.create("big");
    meter.write(big, 0, &vec![1; 2 * CHUNK_SIZE as usize]);
    let gate = Gate::before_syncs(&meter, Gate::pass_but_first);
    let of_syncer = Arc::clone(&meter);
    let syncer = thread::spawn(move || call(&of_syncer, big));
    let (clock, own) = (Arc::clone(&meter.clock), Arc::clone(&gate));
    assert!(
        comes_back(PATIENCE, move || while own.state.lock().unwrap().0 == 0 {
            // What the background saves it saves when it is time to.
            clock.advance(Duration::from_secs(6));
            thread::sleep(Duration::from_millis(1));
        }),
        "nobody syncs"
    );
    let held = Held {
        meter,
        big,
        gate,
        waiting: Mutex::new(vec![syncer]),
    };
    (held, old)
}

/// Small files of every kind are written and made durable beside that.
fn others_are_made_durable(what: &str, (held, old): (Held, (Ino, Fh))) -> Held {
    // In a record; in a stage file of its own; and few bytes of such a one, which go with the record.
    let kinds: [(&str, usize, bool); 3] = [
        ("inline", 5_000, false),
        ("staged", 200_000, false),
        ("patched", 10, true),
    ];
    for (kind, len, is_old) in kinds {
        let meter = Arc::clone(&held.meter);
        let written = comes_back(PATIENCE, move || {
            let file = if is_old { old } else { meter.create(kind) };
            meter.write(file, 0, &vec![7; len]);
            meter.drive.fsync(file.0, false).unwrap();
            // Durable, not only answered: nothing of it is left to be saved.
            assert!(!meter.volume.unsaved().contains(&Ino(file.0.0 & Ino::MAX.0)));
        });
        assert!(written, "fsync of a file, {kind}, waits while {what}");
    }
    let meter = Arc::clone(&held.meter);
    let root = meter.root;
    assert!(
        comes_back(PATIENCE, move || meter.drive.fsync(root, false).unwrap()),
        "fsync of a folder waits while {what}"
    );
    let big = Ino(held.big.0.0 & Ino::MAX.0);
    assert!(held.meter.volume.unsaved().contains(&big), "{what}");
    held
}

#[test]
fn an_fsync_waits_for_no_other_file_that_is_being_synced() {
    let synced = syncing(|meter, big| meter.drive.fsync(big.0, false).unwrap());
    others_are_made_durable("another one is being synced", synced).end();
}

#[test]
fn an_fsync_waits_for_no_other_file_that_the_background_saves() {
    let kept = syncing(|meter, _| super::keep_durable(&meter.volume));
    let held = others_are_made_durable("the background saves another one", kept);
    held.meter.volume.stop();
    held.end();
}

#[test]
fn fsync_does_not_wait_for_other_files_that_a_snapshot_saves() {
    let cut = syncing(|meter, big| {
        let cut = meter.volume.cut().unwrap();
        let published = cut.file(Ino(big.0.0 & Ino::MAX.0)).unwrap();
        assert_eq!(published.size, 2 * CHUNK_SIZE);
    });
    others_are_made_durable("a commit saves another one", cut).end();
}

#[test]
fn mmap_pages_wait_for_disk_space_instead_of_being_dropped() {
    let meter = Arc::new(Meter::new());
    let big = meter.create("big");
    meter.write(big, 0, &vec![1; CHUNK_SIZE as usize]);
    meter.stage.set_free_bytes(0);
    let (told, tells) = channel();
    let writers: Vec<_> = (0..4)
        .map(|number| {
            let (meter, told) = (Arc::clone(&meter), told.clone());
            thread::spawn(move || {
                let stored = meter
                    .drive
                    .write_mapped(big.0, big.1, number * 4096, &[2; 4096]);
                told.send(stored).unwrap();
            })
        })
        .collect();
    assert!(tells.recv_timeout(LOOK).is_err(), "refused at once");
    meter.stage.set_free_bytes(1 << 40);
    for writer in writers {
        writer.join().unwrap();
        assert_eq!(tells.recv_timeout(PATIENCE), Ok(Ok(4096)));
    }
    assert_eq!(
        meter.drive.read(big.0, big.1, 0, 4 * 4096).unwrap(),
        [2; 4 * 4096]
    );
}

#[test]
fn a_file_stays_usable_while_its_extension_waits_for_space() {
    let meter = Arc::new(Meter::new());
    let file = meter.create("f");
    meter.write(file, 0, &vec![1; CHUNK_SIZE as usize]);
    let gate = Arc::<Gate>::default();
    let own = Arc::clone(&gate);
    meter
        .stage
        .set_look_pause(Some(Arc::new(move || own.pass())));
    let size = |size| SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    let of_grower = Arc::clone(&meter);
    let longer = size(2 * CHUNK_SIZE);
    let grower = thread::spawn(move || of_grower.drive.setattr(file.0, None, &longer));
    gate.wait();
    meter.stage.set_look_pause(None);
    let other = Arc::clone(&meter);
    let goes_on = comes_back(PATIENCE, move || {
        assert_eq!(other.drive.read(file.0, file.1, 0, 3).unwrap(), [1; 3]);
        other.write(file, 0, &[2; 3]);
        other.drive.setattr(file.0, None, &size(3)).unwrap();
    });
    gate.open();
    assert!(
        goes_on,
        "who reads and writes waits for room that another needs"
    );
    let grown = grower.join().unwrap().unwrap();
    assert_eq!(grown.size, 2 * CHUNK_SIZE);
    assert_eq!(
        meter.drive.read(file.0, file.1, 0, 5).unwrap(),
        [2, 2, 2, 0, 0]
    );
}

/// Who changes small values may read the journal's pages meanwhile, which a slow disk holds up.
#[test]
fn the_quota_answers_while_publishing_reads_what_it_changes() {
    let rig = super::rig::Rig::new();
    let volume = Arc::clone(&rig.volume);
    let (reading, reads) = channel();
    let (go_on, waits) = channel();
    let notes = volume.notes();
    let changing = thread::spawn(move || {
        notes.change(|_| {
            reading.send(()).unwrap();
            waits.recv_timeout(PATIENCE).unwrap();
            Ok::<_, FsError>(((), Vec::new()))
        })
    });
    reads.recv_timeout(PATIENCE).unwrap();
    let committing = Arc::clone(&volume);
    let committed = thread::spawn(move || committing.keep_charged(Vec::new(), Some((1, 4096))));
    thread::sleep(LOOK);
    assert!(comes_back(PATIENCE, move || {
        assert!(volume.with_quota(|quota| quota.room_bytes()) > 0);
    }));
    go_on.send(()).unwrap();
    assert_eq!(changing.join().unwrap(), Ok(()));
    assert_eq!(committed.join().unwrap(), Ok(()));
}
