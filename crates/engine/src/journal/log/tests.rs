//! What the journal does when its disk is full, when its power is cut, or when somebody changed its file.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;

use super::{DUE_OPS, Journal, MAX_LOG, STEP};
use crate::journal::key::Key;
use crate::journal::simulated::{Call, Image, Kept, Left, Power};
use crate::journal::{Batch, Disk, DiskFile, FolderDisk, JournalError, MemoryDisk, Without, key};
use crate::types::Ino;

const CACHE: usize = 1 << 20;

impl Journal {
    /// Writes the overlay into the table, as the background does when it is full.
    pub(crate) fn write_table(&self) -> Result<(), JournalError> {
        self.commit(None)
    }
}

fn record(number: u64) -> Bytes {
    Bytes::from(number.to_be_bytes().repeat(1 + (number % 40) as usize))
}

fn put(journal: &Journal, number: u64) {
    let mut batch = Batch::default();
    batch.put_bytes(key::inode(Ino(number)), record(number));
    journal.apply(batch).unwrap();
}

/// A disk that is slow to say how much room it has.
#[derive(Default)]
struct Asked {
    disk: MemoryDisk,
    journal: OnceLock<Weak<Journal>>,
    times: AtomicUsize,
    locked: AtomicUsize,
}

impl Disk for Asked {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(name)
    }

    fn rename(&self, name: &str, to: &str) -> io::Result<()> {
        self.disk.rename(name, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.disk.sync_folder()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        if let Some(journal) = self.journal.get().and_then(Weak::upgrade) {
            self.times.fetch_add(1, Ordering::Relaxed);
            let is_locked = journal.state.try_lock().is_err();
            self.locked
                .fetch_add(usize::from(is_locked), Ordering::Relaxed);
        }
        self.disk.free_bytes()
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.disk.path(name)
    }
}

#[test]
fn a_batch_of_many_records_counts_as_many_changes_in_memory() {
    let disk: Arc<dyn Disk> = Arc::<MemoryDisk>::default();
    let journal = Journal::open(disk, "journal", 1 << 20, Without::default()).unwrap();
    let remove = |count: u64| {
        let mut batch = Batch::default();
        (0..count).for_each(|n| batch.remove(n.to_be_bytes().to_vec()));
        journal.apply(batch).unwrap();
    };
    remove(60_000);
    assert!(!journal.lock().active.is_due());
    remove(6_000);
    assert!(journal.lock().active.is_due());
    remove(250_000);
    assert!(!journal.lock().active.is_full());
    remove(10_000);
    assert!(journal.lock().active.is_full());
}

#[test]
fn nobody_waits_while_the_disk_is_asked_for_its_room() {
    let disk = Arc::new(Asked::default());
    let journal = Journal::open(disk.clone(), "journal", CACHE, Without::default()).unwrap();
    let journal = Arc::new(journal);
    disk.journal.set(Arc::downgrade(&journal)).unwrap();
    put(&journal, 1);
    journal.sync().unwrap();
    assert!(disk.times.load(Ordering::Relaxed) > 0);
    assert_eq!(disk.locked.load(Ordering::Relaxed), 0);
}

#[test]
fn a_sync_without_space_ends_even_if_others_wait_too() {
    let disk = Arc::new(MemoryDisk::default());
    let mut journal = Journal::open(disk.clone(), "journal", CACHE, Without::default()).unwrap();
    disk.set_free_bytes(0);
    journal.patience = Duration::from_millis(300);
    put(&journal, 1);
    assert_eq!(
        journal.sync(),
        Err(JournalError::NoRoom),
        "nobody to wait for"
    );
    journal.drain(Duration::ZERO, || ()).unwrap();
    let journal = Arc::new(journal);
    let (answer, answers) = channel();
    for _ in 0..3 {
        let (journal, answer) = (Arc::clone(&journal), answer.clone());
        std::thread::spawn(move || answer.send(journal.sync()));
    }
    for _ in 0..3 {
        let ended = answers.recv_timeout(Duration::from_secs(60));
        assert_eq!(ended, Ok(Err(JournalError::NoRoom)));
    }
    // The background has all the patience that is asked for, and then all goes on.
    journal.drain(Duration::ZERO, || ()).unwrap();
    assert_eq!(journal.sync(), Ok(()));
}

fn open(folder: &Path) -> Result<Journal, JournalError> {
    let disk: Arc<dyn Disk> = Arc::new(FolderDisk::open(folder).unwrap());
    Journal::open(disk, "journal", CACHE, Without::default())
}

/// What cuts of the power in this moment may leave, one of each kind.
fn lefts(image: &Image, moment: usize) -> [(Kept, Left); 4] {
    let kinds = [
        (Kept::None, 512),
        (Kept::All, 512),
        (Kept::Some, 512),
        (Kept::Some, 4096),
    ];
    kinds.map(|(kept, sector)| {
        let mut luck = moment as u64;
        let left = image.cut(kept, sector, &mut |bound| {
            luck = luck
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            (luck >> 33) % bound
        });
        (kept, left)
    })
}

#[test]
fn a_journal_cut_off_while_created_is_recreated_not_called_corrupt() {
    let power = Power::on(Left::default());
    let begin =
        |power: &Arc<Power>| Journal::open(power.disk(0), "journal", CACHE, Without::default());
    begin(&power).unwrap();
    let events = power.events();
    let mut image = Image::of(&Left::default());
    for (moment, event) in events.iter().enumerate() {
        image.play(event);
        for (kept, left) in lefts(&image, moment) {
            let opened = begin(&Power::on(left));
            assert!(
                opened.is_ok(),
                "{kept:?} after {moment}: {:?}",
                opened.err()
            );
        }
    }
    assert!(events.len() > 8, "{events:?}");
}

#[test]
fn a_journal_that_cannot_be_looked_at_is_not_begun_anew() {
    let power = Power::on(Left::default());
    let open = || Journal::open(power.disk(0), "journal", CACHE, Without::default());
    let journal = open().unwrap();
    put(&journal, 1);
    journal.sync().unwrap();
    drop(journal);
    for call in [Call::Open, Call::Len, Call::Read] {
        power.set_fault(Some(Box::new(move |_, _, met| {
            (met == call).then_some(ErrorKind::PermissionDenied)
        })));
        assert!(open().is_err(), "{call:?}");
        power.set_fault(None);
        let found = open().unwrap().get(&key::inode(Ino(1))).unwrap();
        assert_eq!(found, Some(record(1)), "{call:?}");
    }
}

/// A journal that was closed cleanly, with records 0 to 299 in it.
fn closed(dir: &tempfile::TempDir) -> PathBuf {
    let journal = open(dir.path()).unwrap();
    for number in 0..300 {
        put(&journal, number);
    }
    journal.rest().unwrap();
    dir.path().join("journal")
}

#[test]
fn a_changed_byte_in_the_journal_is_reported_never_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = closed(&dir);
    let good = std::fs::read(&path).unwrap();
    // redb fills what it does not use, in a debug build.
    let used = (0..good.len()).filter(|at| ![0, 0xff].contains(&good[*at]));
    let used: Vec<usize> = used.collect();
    let mut told = 0;
    for at in used.iter().step_by(used.len() / 150) {
        let mut bad = good.clone();
        bad[*at] ^= 1 << (at % 8);
        std::fs::write(&path, &bad).unwrap();
        match open(dir.path()) {
            Err(JournalError::Corrupt(_)) => {
                told += 1;
                let left = std::fs::read(&path).unwrap();
                assert!(left == bad, "byte {at}: a damaged file was written to");
            }
            Err(other) => panic!("byte {at}: {other}"),
            // A byte that means nothing any more.
            Ok(journal) => {
                for number in 0..300 {
                    let found = journal.get(&key::inode(Ino(number))).unwrap();
                    assert_eq!(found, Some(record(number)), "byte {at}");
                }
            }
        }
    }
    assert!(told > 50, "only {told} of 150 changes were told");
}

#[test]
fn a_journal_that_lost_its_end_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = closed(&dir);
    let good = std::fs::read(&path).unwrap();
    for kept in [1, 100, 4096, good.len() / 2, good.len() - 4096] {
        std::fs::write(&path, &good[..kept]).unwrap();
        let opened = open(dir.path());
        assert!(
            matches!(opened, Err(JournalError::Corrupt(_))),
            "{kept} bytes"
        );
    }
}

/// As [`open`], with a mark from the first byte on.
fn open_marked(folder: &Path) -> Result<Journal, JournalError> {
    let disk: Arc<dyn Disk> = Arc::new(FolderDisk::open(folder).unwrap());
    Journal::open_marked(disk, "journal", CACHE, Without::default(), 0)
}

#[test]
fn a_changed_byte_in_a_marked_journal_is_reported_on_reading() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open_marked(dir.path()).unwrap();
    for number in 0..300 {
        put(&journal, number);
    }
    journal.rest().unwrap();
    drop(journal);
    let path = dir.path().join("journal");
    let (good, mark) = (
        std::fs::read(&path).unwrap(),
        std::fs::read(dir.path().join("journal.sums")).unwrap(),
    );
    // redb fills what it does not use, in a debug build.
    let used = (0..good.len()).filter(|at| ![0, 0xff].contains(&good[*at]));
    let used: Vec<usize> = used.collect();
    let mut told = 0;
    for at in used.iter().step_by(used.len() / 150) {
        let mut bad = good.clone();
        bad[*at] ^= 1 << (at % 8);
        std::fs::write(&path, &bad).unwrap();
        std::fs::write(dir.path().join("journal.sums"), &mark).unwrap();
        let read = open_marked(dir.path()).and_then(|journal| {
            for number in 0..300 {
                let found = journal.get(&key::inode(Ino(number)))?;
                assert_eq!(found, Some(record(number)), "byte {at}");
            }
            Ok(())
        });
        match read {
            Ok(()) => {} // a byte that means nothing any more
            Err(JournalError::Corrupt(_)) => told += 1,
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
    assert!(told > 50, "only {told} of 150 changes were told");
}

fn on(power: &Arc<Power>) -> Journal {
    Journal::open_marked(power.disk(0), "journal", CACHE, Without::default(), 0).unwrap()
}

fn fill(journal: &Journal, numbers: std::ops::Range<u64>) {
    for number in numbers {
        put(journal, number);
    }
    journal.sync().unwrap();
}

/// How a journal comes to its end.
type End = fn(Journal);

#[test]
fn a_large_journal_reopens_without_being_read_in_full() {
    for end in [drop as End, std::mem::forget as End] {
        let power = Power::on(Left::default());
        let journal = on(&power);
        fill(&journal, 0..500);
        assert!(journal.rest().unwrap());
        assert!(!journal.rest().unwrap(), "nothing has changed");
        end(journal);
        // As often as it is opened: that alone changes the file. At rest, amid work, and behind a commit.
        for round in 0..6 {
            let journal = on(&power);
            assert!(journal.file.is_trusted(), "{round}");
            let last = journal.get(&key::inode(Ino(499 + round))).unwrap();
            assert_eq!(last, Some(record(499 + round)));
            fill(&journal, 500 + round..501 + round);
            match round % 3 {
                0 => {}
                1 => assert!(journal.rest().unwrap()),
                _ => journal.write_table().unwrap(),
            }
            end(journal);
        }
    }
}

#[test]
fn power_loss_around_a_mark_keeps_exactly_the_synced_records() {
    let power = Power::on(Left::default());
    let mut synced = Vec::new();
    let journal = on(&power);
    for round in 0..12_u64 {
        fill(&journal, round * 10..round * 10 + 10);
        synced.push((power.now(), round * 10 + 10));
        if round % 3 == 1 {
            assert!(journal.rest().unwrap());
        }
        if round % 4 == 2 {
            put(&journal, round * 10 + 10);
            journal.write_table().unwrap();
        }
    }
    drop(journal);
    fill(&on(&power), 120..130);
    let events = power.events();
    let mut image = Image::of(&Left::default());
    let (mut durable, mut trusted, mut killed) = (0, 0, 0);
    for (moment, event) in events.iter().enumerate() {
        image.play(event);
        while synced.get(durable).is_some_and(|(at, _)| *at <= moment + 1) {
            durable += 1;
        }
        if moment % 3 != 0 {
            continue;
        }
        let count = durable.checked_sub(1).map_or(0, |last| synced[last].1);
        for (kept, left) in lefts(&image, moment) {
            let power = Power::on(left);
            let journal = on(&power);
            if kept == Kept::All {
                killed += 1;
                trusted += usize::from(journal.file.is_trusted());
            }
            for number in 0..130 {
                let found = journal.get(&key::inode(Ino(number))).unwrap();
                match found {
                    Some(found) => assert_eq!(found, record(number), "{kept:?} after {moment}"),
                    None => assert!(number >= count, "{number}: {kept:?} after {moment}"),
                }
            }
            // It goes on from there.
            fill(&journal, 1000..1010);
        }
    }
    // But for the moment in which a commit begins to count.
    assert!(
        2 * trusted > killed,
        "a mark counted {trusted} times of {killed}"
    );
}

/// A folder in which one file's sync waits until somebody lets it go on.
#[derive(Default)]
struct Stuck {
    disk: MemoryDisk,
    gate: Arc<Gate>,
    /// The log finds no room.
    is_full: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Gate {
    is_shut: Mutex<bool>,
    met: AtomicUsize,
    opened: Condvar,
}

#[derive(Debug)]
struct StuckFile(Arc<dyn DiskFile>, Arc<Gate>, Arc<AtomicBool>);

impl Gate {
    fn set(&self, is_shut: bool) {
        *self.is_shut.lock().unwrap() = is_shut;
        self.opened.notify_all();
    }
}

impl DiskFile for StuckFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if self.2.load(Ordering::Relaxed) {
            return Err(ErrorKind::QuotaExceeded.into());
        }
        self.0.write_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.met.fetch_add(1, Ordering::Relaxed);
        let is_shut = self.1.is_shut.lock().unwrap();
        drop(
            self.1
                .opened
                .wait_while(is_shut, |is_shut| *is_shut)
                .unwrap(),
        );
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

impl Disk for Stuck {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.create(name)?;
        Ok(match name {
            "journal.new" => Arc::new(StuckFile(file, Arc::clone(&self.gate), Arc::default())),
            _ => file,
        })
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(name)?;
        Ok(match name.contains("wal") {
            true => Arc::new(StuckFile(file, Arc::default(), Arc::clone(&self.is_full))),
            false => file,
        })
    }

    fn rename(&self, name: &str, to: &str) -> io::Result<()> {
        self.disk.rename(name, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.disk.sync_folder()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.disk.path(name)
    }
}

#[test]
fn a_sync_does_not_wait_for_a_table_commit_and_both_survive() {
    let disk = Arc::new(Stuck::default());
    let open = |disk| Journal::open(disk, "journal", CACHE, Without::default()).unwrap();
    let journal = Arc::new(open(Arc::<Stuck>::clone(&disk)));
    (0..50).for_each(|number| put(&journal, number));
    disk.gate.met.store(0, Ordering::Relaxed);
    disk.gate.set(true);
    let table = {
        let journal = Arc::clone(&journal);
        std::thread::spawn(move || journal.write_table())
    };
    while disk.gate.met.load(Ordering::Relaxed) == 0 {
        std::thread::yield_now();
    }
    // What is being committed was in no frame yet, and is in this one.
    (50..60).for_each(|number| put(&journal, number));
    let (answer, answers) = channel();
    let syncing = {
        let journal = Arc::clone(&journal);
        std::thread::spawn(move || answer.send(journal.sync()))
    };
    let answer = answers.recv_timeout(Duration::from_secs(60));
    let left = MemoryDisk::default();
    for name in disk.list().unwrap() {
        let file = disk.open(&name).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        left.create(&name).unwrap().write_at(&bytes, 0).unwrap();
    }
    let crashed = open(Arc::new(left));
    disk.gate.set(false);
    assert_eq!(answer, Ok(Ok(())));
    for number in 0..60 {
        let found = crashed.get(&key::inode(Ino(number))).unwrap();
        assert_eq!(found, Some(record(number)), "{number}");
    }
    syncing.join().unwrap().unwrap();
    table.join().unwrap().unwrap();
}

#[test]
fn a_log_that_nobody_empties_does_not_fill_the_disk() {
    let disk = Arc::new(MemoryDisk::default());
    let journal = Journal::open(disk.clone(), "journal", CACHE, Without::default()).unwrap();
    for number in 0..10_000 {
        put(&journal, number % 10);
        journal.sync().unwrap();
    }
    for name in ["journal.wal0", "journal.wal1"] {
        let len = disk.open(name).unwrap().len().unwrap();
        assert!(len <= MAX_LOG + (2 << 20), "{name}: {len} bytes");
    }
}

#[test]
fn a_changed_log_frame_is_reported_and_only_the_last_may_tear() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path()).unwrap();
    for number in 0..4 {
        put(&journal, number);
        journal.sync().unwrap();
    }
    drop(journal);
    let journal_bytes = std::fs::read(dir.path().join("journal")).unwrap();
    let path = dir.path().join("journal.wal0");
    let good = std::fs::read(&path).unwrap();
    for frame in 0..4_u64 {
        for at in [0, 9, 17, 25, 30, 40] {
            let mut bad = good.clone();
            bad[frame as usize * 4096 + at] ^= 4;
            std::fs::write(&path, &bad).unwrap();
            std::fs::write(dir.path().join("journal"), &journal_bytes).unwrap();
            match open(dir.path()) {
                Ok(journal) => {
                    assert_eq!(frame, 3, "byte {at}");
                    let told = journal.unused().expect("it is told");
                    assert!(told.ends_with("journal.wal0, byte 12288"), "{told}");
                    for number in 0..4 {
                        let found = journal.get(&key::inode(Ino(number))).unwrap();
                        let kept = (number < 3).then(|| record(number));
                        assert_eq!(found, kept, "byte {at}");
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    assert!(frame < 3 && error.contains("journal.wal0"), "{error}");
                    assert!(error.contains("put the file back"), "{error}");
                }
            }
        }
    }
    std::fs::write(&path, &good).unwrap();
    std::fs::write(dir.path().join("journal"), &journal_bytes).unwrap();
    // What a crash leaves of a log that is whole, and of the one that is begun anew over it, is no damage.
    for _ in 0..3 {
        let journal = open(dir.path()).unwrap();
        assert_eq!(journal.unused(), None);
        put(&journal, 9);
        journal.sync().unwrap();
    }
}

#[test]
fn listing_during_a_mass_removal_copies_little_of_the_removed() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path()).unwrap();
    let of = |number| key::inode(Ino(number));
    let all = 0..12_000_u64;
    all.clone().for_each(|number| put(&journal, number));
    journal.write_table().unwrap();
    let is_gone = |number: &u64| !number.is_multiple_of(4);
    let mut batch = Batch::default();
    all.clone()
        .filter(is_gone)
        .for_each(|number| batch.remove(of(number)));
    journal.apply(batch).unwrap();
    put(&journal, 1);
    journal.longest_step.store(0, Ordering::Relaxed);
    let prefix = &of(0)[..1];
    let (mut listed, mut after) = (Vec::new(), None::<Key>);
    loop {
        let some = journal.scan(prefix, after.as_deref(), 25).unwrap();
        after = match some.last() {
            Some((last, _)) => Some(last.clone()),
            None => break,
        };
        listed.extend(some.into_iter().map(|(key, _)| key));
    }
    let left = all.filter(|number| *number == 1 || !is_gone(number));
    assert!(
        listed == left.map(of).collect::<Vec<_>>(),
        "{}",
        listed.len()
    );
    let longest = journal.longest_step.load(Ordering::Relaxed);
    assert!(longest <= STEP, "{longest} records for 25 names");
}

#[test]
fn a_log_that_is_gone_is_told() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    std::fs::remove_file(dir.path().join("journal.wal1")).unwrap();
    let why = open(dir.path()).err().unwrap().to_string();
    assert!(why.contains("journal.wal1"), "{why}");
}

#[test]
fn recovery_on_a_full_disk_fails_clearly_and_loses_nothing() {
    let power = Power::on(Left::default());
    let open = || Journal::open(power.disk(0), "journal", CACHE, Without::default());
    let journal = open().unwrap();
    put(&journal, 1);
    journal.sync().unwrap();
    std::mem::forget(journal);
    // Nobody could end a wait.
    for call in [Call::Write, Call::SetLen] {
        power.set_fault(Some(Box::new(move |_, _, met| {
            (met == call).then_some(ErrorKind::StorageFull)
        })));
        let opened = open();
        assert!(opened.is_err() || call == Call::SetLen);
        drop(opened);
        power.set_fault(None);
    }
    let journal = open().unwrap();
    assert_eq!(journal.get(&key::inode(Ino(1))), Ok(Some(record(1))));
    // It waits again once it is open.
    assert!(!journal.ended.load(Ordering::Relaxed));
}

#[test]
fn a_start_asks_for_room_before_it_writes() {
    let disk = Arc::new(MemoryDisk::default());
    let open = || Journal::open(disk.clone(), "journal", CACHE, Without::default());
    let journal = open().unwrap();
    put(&journal, 1);
    journal.sync().unwrap();
    std::mem::forget(journal);
    disk.set_free_bytes(1 << 20);
    assert_eq!(open().err(), Some(JournalError::NoRoom));
    disk.set_free_bytes(u64::MAX);
    let found = open().unwrap().get(&key::inode(Ino(1)));
    assert_eq!(found, Ok(Some(record(1))));
}

/// Makes the bytes of `from` those of `to`.
fn copy(from: &MemoryDisk, to: &MemoryDisk, names: &[&str]) {
    for name in names {
        let file = from.open(name).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        to.create(name).unwrap().write_at(&bytes, 0).unwrap();
    }
}

#[test]
fn an_old_table_with_a_newer_log_is_never_mixed_up() {
    const ALL: [&str; 3] = ["journal", "journal.wal0", "journal.wal1"];
    let disk = Arc::new(MemoryDisk::default());
    let open = |disk: &Arc<MemoryDisk>| {
        let disk: Arc<dyn Disk> = Arc::<MemoryDisk>::clone(disk);
        Journal::open(disk, "journal", CACHE, Without::default())
    };
    let (mut copies, mut refused) = (Vec::new(), 0);
    let mut journal = open(&disk).unwrap();
    for step in 0..40_u64 {
        put(&journal, step);
        match step % 7 {
            2 => journal.write_table().unwrap(),
            5 => {
                journal.sync().unwrap();
                std::mem::forget(journal);
                journal = open(&disk).unwrap();
            }
            _ => journal.sync().unwrap(),
        }
        let copied = MemoryDisk::default();
        copy(&disk, &copied, &["journal"]);
        copies.push(copied);
        // Each copy so far beside the log as it is now.
        for (age, copied) in copies.iter().enumerate() {
            let mixed = Arc::new(MemoryDisk::default());
            copy(&disk, &mixed, &ALL);
            copy(copied, &mixed, &["journal"]);
            match open(&mixed) {
                Err(JournalError::Corrupt(_)) => refused += 1,
                Err(other) => panic!("{other}"),
                Ok(opened) => {
                    // It goes on, and dies.
                    put(&opened, 1000 + step);
                    opened.sync().unwrap();
                    std::mem::forget(opened);
                    let again = open(&mixed).unwrap();
                    let found = |n| again.get(&key::inode(Ino(n))).unwrap().is_some();
                    let there = (0..=step).take_while(|n| found(*n)).count() as u64;
                    assert!((there..=step).all(|n| !found(n)), "{age} at {step}: a gap");
                    assert!(found(1000 + step), "{age} at {step}: a record is missing");
                }
            }
        }
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn a_log_already_in_the_table_causes_no_busy_loop() {
    let disk = Arc::new(MemoryDisk::default());
    let journal = Journal::open(disk, "journal", CACHE, Without::default()).unwrap();
    put(&journal, 1);
    journal.sync().unwrap();
    journal.write_table().unwrap();
    // As a large frame that was appended beside a commit leaves it.
    journal.wal.set_bytes(super::DUE_LOG);
    let began = std::time::Instant::now();
    journal.drain(Duration::from_millis(50), || ()).unwrap();
    assert!(
        began.elapsed() >= Duration::from_millis(50),
        "it went round and round"
    );
}

#[test]
fn an_fsync_without_space_fails_in_time_and_later_keeps_order() {
    let power = Power::on(Left::default());
    let open = || Journal::open(power.disk(0), "journal", CACHE, Without::default()).unwrap();
    let mut journal = open();
    journal.patience = Duration::from_millis(300);
    let refuse = |refused: bool| {
        let fault = |_, name: &str, met| {
            (met == Call::Write && name.contains("wal")).then_some(ErrorKind::QuotaExceeded)
        };
        power.set_fault(refused.then(|| Box::new(fault) as _));
    };
    put(&journal, 1);
    journal.sync().unwrap();
    // The disk says that it has room: a user's quota is nothing that it knows of.
    refuse(true);
    put(&journal, 2);
    assert_eq!(journal.sync(), Err(JournalError::NoRoom));
    put(&journal, 3);
    assert_eq!(journal.sync(), Err(JournalError::NoRoom));
    // A commit of the table that comes between leaves nothing out.
    journal.write_table().unwrap();
    put(&journal, 4);
    assert_eq!(journal.sync(), Err(JournalError::NoRoom));
    refuse(false);
    journal.sync().unwrap();
    put(&journal, 5);
    journal.sync().unwrap();
    std::mem::forget(journal);
    let journal = open();
    for number in 1..=5 {
        assert_eq!(
            journal.get(&key::inode(Ino(number))),
            Ok(Some(record(number))),
            "{number}"
        );
    }
}

#[test]
fn a_start_that_the_disk_refuses_is_not_called_damage() {
    for (kind, error) in [
        (ErrorKind::StorageFull, JournalError::NoRoom),
        (ErrorKind::FileTooLarge, JournalError::TooLarge),
    ] {
        let power = Power::on(Left::default());
        let open = || Journal::open(power.disk(0), "journal", CACHE, Without::default());
        let refuse = || {
            let fault = move |_, _: &str, met| (met == Call::Write).then_some(kind);
            power.set_fault(Some(Box::new(fault)));
        };
        refuse();
        assert_eq!(open().err(), Some(error.clone()), "a new one");
        power.set_fault(None);
        std::mem::forget(open().unwrap());
        refuse();
        assert_eq!(open().err(), Some(error), "one that was left alone");
    }
}

#[test]
fn a_file_too_large_for_the_disk_ends_the_journal() {
    let power = Power::on(Left::default());
    let journal = Journal::open(power.disk(0), "journal", CACHE, Without::default()).unwrap();
    put(&journal, 1);
    power.set_fault(Some(Box::new(|_, _, met| {
        (met == Call::Write).then_some(ErrorKind::FileTooLarge)
    })));
    let ended = |error| matches!(error, Err(JournalError::Disk(_)));
    assert!(ended(journal.write_table()));
    power.set_fault(None);
    assert!(ended(journal.sync()), "said once more");
}

#[test]
fn a_journal_rests_only_if_it_need_not_wait_for_space() {
    let disk = Arc::new(MemoryDisk::default());
    let journal = Journal::open(disk.clone(), "journal", CACHE, Without::default()).unwrap();
    put(&journal, 1);
    disk.set_free_bytes(0);
    assert_eq!(journal.rest(), Ok(false));
    disk.set_free_bytes(u64::MAX);
    assert_eq!(journal.rest(), Ok(true));
}

#[test]
fn a_frame_refused_during_a_table_commit_leaves_no_log_gap() {
    let disk = Arc::new(Stuck::default());
    let open = |disk| Journal::open(disk, "journal", CACHE, Without::default()).unwrap();
    let mut journal = open(Arc::<Stuck>::clone(&disk));
    journal.patience = Duration::from_millis(300);
    let journal = Arc::new(journal);
    put(&journal, 1);
    disk.gate.met.store(0, Ordering::Relaxed);
    disk.gate.set(true);
    let table = {
        let journal = Arc::clone(&journal);
        std::thread::spawn(move || journal.write_table())
    };
    while disk.gate.met.load(Ordering::Relaxed) == 0 {
        std::thread::yield_now();
    }
    // Of what is being committed, and behind what the commit says of the log.
    disk.is_full.store(true, Ordering::Relaxed);
    assert_eq!(journal.sync(), Err(JournalError::NoRoom));
    disk.gate.set(false);
    table.join().unwrap().unwrap();
    disk.is_full.store(false, Ordering::Relaxed);
    put(&journal, 2);
    journal.sync().unwrap();
    let left = MemoryDisk::default();
    copy(
        &disk.disk,
        &left,
        &["journal", "journal.wal0", "journal.wal1"],
    );
    let crashed = open(Arc::new(left));
    for number in [1, 2] {
        assert_eq!(
            crashed.get(&key::inode(Ino(number))),
            Ok(Some(record(number)))
        );
    }
}

#[test]
fn long_work_leaves_most_of_the_memory_to_who_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path()).unwrap();
    for number in 0..DUE_OPS as u64 {
        journal.wait_for_calm().unwrap();
        put(&journal, number);
    }
    journal.wait_for_room().unwrap();
    let gathered = journal.overlay_bytes();
    assert!(gathered > 0, "those who are waited for wait for the disk");
    journal.wait_for_calm().unwrap();
    assert!(journal.overlay_bytes() < gathered / 10);
}

#[test]
fn who_syncs_carries_little_of_what_others_have_put_before() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path()).unwrap();
    let others = |from: u64| (from..from + 9_000).for_each(|number| put(&journal, number));
    let one_more = |number: u64| {
        let before = journal.wal.bytes();
        put(&journal, number);
        journal.sync().unwrap();
        journal.wal.bytes() - before
    };
    others(0);
    assert!(one_more(1 << 20) > 1 << 20, "there is much");
    others(0);
    assert_eq!(journal.log_ahead(Duration::ZERO, 0), Ok(true));
    assert!(one_more(2 << 20) <= 8192);
    // What is charged with more than it may be waits for those who look after that.
    let mut charged = Batch::default();
    charged.used_delta = 1;
    journal.apply(charged).unwrap();
    others(0);
    assert_eq!(journal.log_ahead(Duration::ZERO, 0), Ok(false));
    assert!(one_more(3 << 20) > 1 << 20);
}

#[test]
fn writers_waiting_for_memory_resume_before_the_disk_finishes() {
    let disk = Arc::new(Stuck::default());
    let journal = Journal::open(disk.clone(), "journal", CACHE, Without::default()).unwrap();
    journal.lock().attended = true;
    (0..DUE_OPS as u64).for_each(|number| put(&journal, number));
    disk.gate.set(true);
    let (answer, answers) = channel();
    std::thread::scope(|scope| {
        let journal = &journal;
        scope.spawn(move || answer.send(journal.wait_for_calm()));
        while !journal.lock().wanted {
            std::thread::yield_now();
        }
        let table = scope.spawn(|| journal.write_table());
        // Less than the patience at whose end it would say that there is no room.
        let answer = answers.recv_timeout(Duration::from_secs(10));
        disk.gate.set(false);
        assert_eq!(answer, Ok(Ok(())));
        table.join().unwrap().unwrap();
    });
}
