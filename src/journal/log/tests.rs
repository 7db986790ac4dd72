//! What the journal does when its disk is full, or when somebody changed its file.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Journal;
use crate::journal::simulated::{Call, Image, Kept, Left, Power};
use crate::journal::{Batch, Disk, FolderDisk, JournalError, MemoryDisk, Without, key};
use crate::types::Ino;

const CACHE: usize = 1 << 20;

impl Journal {
    /// Writes the overlay into the file, as the background does when it is full: not durably.
    pub(crate) fn write_undurably(&self) {
        self.commit(redb::Durability::None, None).unwrap();
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
    let began = Instant::now();
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..3).map(|_| scope.spawn(|| journal.sync())).collect();
        for call in calls {
            assert_eq!(call.join().unwrap(), Err(JournalError::NoRoom));
        }
    });
    assert!(began.elapsed() < Duration::from_secs(20));
    // The background has all the patience that is asked for, and then all goes on.
    journal.drain(Duration::ZERO).unwrap();
    assert_eq!(journal.sync(), Ok(()));
}

fn open(folder: &Path) -> Result<Journal, JournalError> {
    let disk: Arc<dyn Disk> = Arc::new(FolderDisk::open(folder).unwrap());
    Journal::open(disk, "journal", CACHE, Without::default())
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
        for (kept, sector) in [
            (Kept::None, 512),
            (Kept::All, 512),
            (Kept::Some, 512),
            (Kept::Some, 4096),
        ] {
            let mut luck = moment as u64;
            let left = image.cut(kept, sector, &mut |bound| {
                luck = luck
                    .wrapping_mul(0x5851_f42d_4c95_7f2d)
                    .wrapping_add(0x1405_7b7e_f767_814f);
                (luck >> 33) % bound
            });
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
