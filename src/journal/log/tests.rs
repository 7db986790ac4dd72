//! What the journal does when its disk is full, or when somebody changed its file.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;

use super::Journal;
use crate::journal::simulated::{Call, Image, Kept, Left, Power};
use crate::journal::{Batch, Disk, DiskFile, FolderDisk, JournalError, MemoryDisk, Without, key};
use crate::types::Ino;

const CACHE: usize = 1 << 20;

impl Journal {
    /// Writes the overlay into the file, as the background does when it is full: not durably.
    pub(crate) fn write_undurably(&self) -> Result<(), JournalError> {
        self.commit(redb::Durability::None, None)
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
    journal.sync().unwrap();
    dir.path().join("journal")
}

#[test]
fn a_changed_byte_of_the_journal_is_told_and_never_taken_for_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = closed(&dir);
    let good = std::fs::read(&path).unwrap();
    let used: Vec<usize> = (0..good.len()).filter(|at| good[*at] != 0).collect();
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
    journal.sync().unwrap();
    drop(journal);
    let path = dir.path().join("journal");
    let (good, mark) = (
        std::fs::read(&path).unwrap(),
        std::fs::read(dir.path().join("journal.sums")).unwrap(),
    );
    let used: Vec<usize> = (0..good.len()).filter(|at| good[*at] != 0).collect();
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
fn a_large_journal_that_was_closed_or_killed_at_rest_is_opened_without_reading_all_of_it() {
    for end in [drop as End, std::mem::forget as End] {
        let power = Power::on(Left::default());
        let journal = on(&power);
        fill(&journal, 0..500);
        assert!(journal.rest().unwrap());
        assert!(!journal.rest().unwrap(), "nothing has changed");
        end(journal);
        // As often as it is opened: that alone changes the file.
        for _ in 0..3 {
            let journal = on(&power);
            assert!(journal.file.is_trusted());
            let last = journal.get(&key::inode(Ino(499))).unwrap();
            assert_eq!(last, Some(record(499)));
            journal.rest().unwrap();
            end(journal);
        }
        // Killed amid work it is read whole, and as good.
        let journal = on(&power);
        fill(&journal, 500..501);
        std::mem::forget(journal);
        let journal = on(&power);
        assert!(!journal.file.is_trusted());
        let last = journal.get(&key::inode(Ino(500))).unwrap();
        assert_eq!(last, Some(record(500)));
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
            journal.write_undurably().unwrap();
        }
    }
    drop(journal);
    fill(&on(&power), 120..130);
    let events = power.events();
    let mut image = Image::of(&Left::default());
    let (mut durable, mut trusted) = (0, 0);
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
            trusted += usize::from(journal.file.is_trusted());
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
    assert!(trusted > 3, "a mark counted {trusted} times");
}
