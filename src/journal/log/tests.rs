//! What the journal does when its disk is full, when its power is cut, or when somebody changed its file.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;

use super::{Journal, MAX_LOG};
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
fn a_call_that_finds_no_room_ends_also_when_others_wait_beside_it() {
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
    journal.drain(Duration::ZERO).unwrap();
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
    journal.drain(Duration::ZERO).unwrap();
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
fn a_new_journal_that_lost_its_power_is_begun_anew_and_not_taken_for_a_damaged_one() {
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
fn a_changed_byte_of_the_journal_is_told_and_never_taken_for_a_record() {
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
fn a_changed_byte_of_a_marked_journal_is_told_when_it_is_read_and_never_taken_for_a_record() {
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
fn a_large_journal_that_was_closed_or_killed_is_opened_without_reading_all_of_it() {
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
fn a_power_cut_beside_a_mark_leaves_every_record_that_was_synced_and_none_that_was_not_written() {
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
}

#[derive(Debug, Default)]
struct Gate {
    is_shut: Mutex<bool>,
    met: AtomicUsize,
    opened: Condvar,
}

#[derive(Debug)]
struct StuckFile(Arc<dyn DiskFile>, Arc<Gate>);

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
            "journal.new" => Arc::new(StuckFile(file, Arc::clone(&self.gate))),
            _ => file,
        })
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
        self.disk.free_bytes()
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.disk.path(name)
    }
}

#[test]
fn who_syncs_waits_for_no_commit_of_the_table_and_a_start_finds_both() {
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
fn a_frame_that_was_changed_is_told_and_the_last_one_alone_may_be_torn() {
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
                    for number in 0..4 {
                        let found = journal.get(&key::inode(Ino(number))).unwrap();
                        let kept = (number < 3).then(|| record(number));
                        assert_eq!(found, kept, "byte {at}");
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    assert!(frame < 3 && error.contains("journal.wal0"), "{error}");
                }
            }
        }
    }
}

#[test]
fn a_log_that_is_gone_is_told() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    std::fs::remove_file(dir.path().join("journal.wal1")).unwrap();
    let why = open(dir.path()).err().unwrap().to_string();
    assert!(why.contains("journal.wal1"), "{why}");
}
