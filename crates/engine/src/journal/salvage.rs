//! What can be got out of a journal with a damaged log, and what of it is not sure.
//!
//! Invariant: whatever a damaged frame may have told is in doubt, also where a later frame tells it anew. A frame
//! whose records are not found one by one puts everything in doubt. Called by [`super::wal`] and `fs`.

use std::collections::BTreeSet;

use super::key::{self, Key, Subject};
use crate::types::Ino;

/// What is not sure.
#[derive(Debug, Default)]
pub struct Doubts {
    /// Of which nobody knows what they told: any record.
    pub everything: bool,
    inodes: BTreeSet<u64>,
    stages: BTreeSet<u64>,
    /// Where the damaged frames lie.
    pub places: Vec<String>,
}

impl Doubts {
    /// A damaged frame has a record of `key`.
    pub(super) fn note(&mut self, key: &Key) {
        match key::subject(key) {
            Some(Subject::Inode(ino)) => drop(self.inodes.insert(ino.0)),
            Some(Subject::Stage(stage)) => drop(self.stages.insert(stage)),
            // Nothing of the tree.
            Some(Subject::Volume) => {}
            None => self.everything = true,
        }
    }

    /// Whether the inode, whose bytes lie in this stage file, is not sure.
    pub(crate) fn concern(&self, ino: Ino, stage: Option<u64>) -> bool {
        self.everything
            || self.inodes.contains(&ino.0)
            || stage.is_some_and(|stage| self.stages.contains(&stage))
    }

    /// The inodes that damaged frames tell of, as far as that is known.
    pub fn inodes(&self) -> impl Iterator<Item = Ino> + use<'_> {
        self.inodes.iter().map(|ino| Ino(*ino))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::journal::record::{Content, Record};
    use crate::journal::{Batch, CowDisk, Disk, DiskFile, Journal, MemoryDisk, Without};

    const FILES: u64 = 12;
    const LOG: &str = "journal.wal0";

    fn content(number: u64) -> Bytes {
        let content = Content {
            size: number,
            holes: (0..number * 40).map(|n| (n, n + 1)).collect(),
            ..Content::default()
        };
        content.to_bytes()
    }

    fn bytes(file: &dyn DiskFile) -> Vec<u8> {
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// A journal with a frame for each three files, as if its process had been killed.
    fn killed() -> Arc<MemoryDisk> {
        let disk = Arc::new(MemoryDisk::default());
        let at = Arc::clone(&disk) as Arc<dyn Disk>;
        let journal = Journal::open(at, "journal", 1 << 20, Without::default()).unwrap();
        for number in 0..FILES {
            let mut batch = Batch::default();
            batch.put_bytes(key::content(Ino(number)), content(number));
            batch.mark(key::dirty_inode(Ino(number)));
            journal.apply(batch).unwrap();
            if number % 3 == 2 {
                journal.sync().unwrap();
            }
        }
        let killed = Arc::new(MemoryDisk::default());
        for name in disk.list().unwrap() {
            let file = killed.create(&name).unwrap();
            let found = bytes(disk.open(&name).unwrap().as_ref());
            file.write_at(&found, 0).unwrap();
        }
        killed
    }

    /// What is read of `disk` is true, or in doubt. Whether anything is in doubt, and everything.
    fn assert_true(disk: &Arc<MemoryDisk>, case: &str) -> (bool, bool) {
        let over = Arc::new(CowDisk::over(Arc::clone(disk) as Arc<dyn Disk>));
        let (journal, doubts) = Journal::open_damaged(over, "journal", 1 << 20).unwrap();
        for number in 0..FILES {
            let ino = Ino(number);
            let found = journal.get(&key::content(ino)).unwrap();
            let is_true = found == Some(content(number));
            assert!(is_true || doubts.concern(ino, None), "{case}: {number}");
        }
        (!doubts.places.is_empty(), doubts.everything)
    }

    #[test]
    fn no_changed_byte_of_the_log_passes_anything_off_as_whole() {
        let disk = killed();
        let log = disk.open(LOG).unwrap();
        let good = bytes(log.as_ref());
        assert_eq!(assert_true(&disk, "as it was"), (false, false));
        // The last frame may be torn.
        let head = |at: usize| u64::from_be_bytes(good[at + 16..at + 24].try_into().unwrap());
        let last = (0..good.len()).step_by(4096).rfind(|at| head(*at) == 3);
        let last = last.unwrap();
        let size = |at: usize| u32::from_be_bytes(good[at + 40..at + 44].try_into().unwrap());
        let (mut changed, mut narrow, mut at) = (0, 0, 0);
        while at < last {
            let end = at + 44 + size(at) as usize;
            for byte in (at..end).filter(|byte| byte % 7 == 0 || *byte < at + 80) {
                for bit in [1, 0x80] {
                    log.write_at(&[good[byte] ^ bit], byte as u64).unwrap();
                    let case = format!("byte {byte} by {bit}");
                    let (any, all) = assert_true(&disk, &case);
                    assert!(any, "{case}: nothing is told");
                    changed += 1;
                    narrow += u32::from(!all);
                    log.write_at(&good[byte..=byte], byte as u64).unwrap();
                }
            }
            for sector in (at..end).step_by(512) {
                log.write_at(&[0; 512], sector as u64).unwrap();
                let told = assert_true(&disk, &format!("sector at {sector}"));
                assert!(told.0, "sector at {sector}: nothing is told");
                log.write_at(&good[sector..sector + 512], sector as u64)
                    .unwrap();
            }
            at = end.next_multiple_of(4096);
        }
        assert!(
            changed > 100 && narrow > changed / 2,
            "{narrow} of {changed}"
        );
    }
}
