//! What each block of the journal's file holds, as a sum, so that a changed byte is found when it is read.
//!
//! Invariant: a block's sum is that of what was written there last, or read in a check of the whole file;
//! a block that neither happened to has none. Between two runs the sums lie in a file of their own, the
//! mark, which counts for one state of the journal alone: the one whose newest commit it names, also while
//! the one after it is being written, since that touches no block of it. An old, torn or lost mark
//! costs a check of the whole file, and never a record. Called by [`super::file`].
//!
//! ```text
//! offset  bytes  field, big-endian
//! 0       1      version: 1
//! 1       8      length of the journal in bytes
//! 9       8      XXH64 (seed 0) of its first block, without what the commit that comes changes ([`identity`])
//! 17      8 n    sum of each block: XXH64 of it, the block's number as the seed; 0: none is known
//! 17+8n   8      XXH64 (seed 0) of all before
//! ```

use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use twox_hash::XxHash64;

/// Length of a block in bytes: redb's pages are whole ones.
pub(super) const BLOCK: u64 = 4096;

const VERSION: u8 = 1;
/// Bytes of a mark before the sums.
const HEAD: usize = 17;

/// Where redb's header has what changes before the next commit counts (redb's design document, "super-header"):
/// in this byte, whether the file is open; the layout; and of two slots the one that the byte's lowest bit does
/// not choose.
const CHOICE: usize = 9;
const OPENED: u8 = 2;
const LAYOUT: Range<usize> = 24..32;
const SLOTS: [Range<usize>; 2] = [64..192, 192..320];

/// What of a journal's first block stays as it is until the next commit counts.
fn identity(first: &[u8]) -> u64 {
    let mut first = first.to_vec();
    let [even, odd] = SLOTS;
    let other = match first.get(CHOICE) {
        Some(choice) if choice & 1 == 1 => even,
        _ => odd,
    };
    if let Some(choice) = first.get_mut(CHOICE) {
        *choice &= !OPENED;
    }
    for part in [LAYOUT, other] {
        first.get_mut(part).unwrap_or_default().fill(0);
    }
    XxHash64::oneshot(0, &first)
}

/// The sums of a file's blocks; 0 where none is known.
#[derive(Debug, Default)]
pub(super) struct Sums(RwLock<Vec<u64>>);

fn sum(block: u64, bytes: &[u8]) -> u64 {
    XxHash64::oneshot(block, bytes).max(1)
}

/// The whole blocks among `len` bytes at `offset`, each with its part of the bytes.
fn whole(offset: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let end = offset.saturating_add(len as u64);
    (offset.div_ceil(BLOCK)..end / BLOCK).map(move |block| {
        let from = (block * BLOCK - offset) as usize;
        (block, from..from + BLOCK as usize)
    })
}

fn index(block: u64) -> usize {
    usize::try_from(block).unwrap_or(usize::MAX)
}

impl Sums {
    /// `bytes` are what the file holds at `offset`.
    pub(super) fn note(&self, offset: u64, bytes: &[u8]) {
        let mut sums = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let touched = index(offset / BLOCK)..index((offset + bytes.len() as u64).div_ceil(BLOCK));
        if sums.len() < touched.end {
            sums.resize(touched.end, 0);
        }
        // Of a block that was written in part nothing is known.
        sums.get_mut(touched).unwrap_or_default().fill(0);
        for (block, part) in whole(offset, bytes.len()) {
            if let (Some(known), Some(bytes)) = (sums.get_mut(index(block)), bytes.get(part)) {
                *known = sum(block, bytes);
            }
        }
    }

    /// `bytes` were read at `offset`, and are to be believed: blocks whose sum is not known get it.
    pub(super) fn learn(&self, offset: u64, bytes: &[u8]) {
        let mut sums = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (block, part) in whole(offset, bytes.len()) {
            if sums.len() <= index(block) {
                sums.resize(index(block) + 1, 0);
            }
            if let (Some(known @ 0), Some(bytes)) = (sums.get_mut(index(block)), bytes.get(part)) {
                *known = sum(block, bytes);
            }
        }
    }

    /// The first block among `bytes`, read at `offset`, that is not what it should be.
    pub(super) fn differing(&self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let sums = self.0.read().unwrap_or_else(PoisonError::into_inner);
        whole(offset, bytes.len())
            .find(
                |(block, part)| match (sums.get(index(*block)), bytes.get(part.clone())) {
                    (Some(&known), Some(bytes)) if known != 0 => known != sum(*block, bytes),
                    _ => false,
                },
            )
            .map(|(block, _)| block)
    }

    /// The file ends at `len` bytes.
    pub(super) fn cut(&self, len: u64) {
        let mut sums = self.0.write().unwrap_or_else(PoisonError::into_inner);
        sums.truncate(index(len / BLOCK));
    }

    /// The mark of a journal that is `len` bytes long and begins with `first`.
    pub(super) fn to_mark(&self, len: u64, first: &[u8]) -> Vec<u8> {
        let sums = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut mark = Vec::with_capacity(HEAD + 8 * sums.len() + 8);
        mark.push(VERSION);
        mark.extend_from_slice(&len.to_be_bytes());
        mark.extend_from_slice(&identity(first).to_be_bytes());
        for sum in sums.iter() {
            mark.extend_from_slice(&sum.to_be_bytes());
        }
        let all = XxHash64::oneshot(0, &mark);
        mark.extend_from_slice(&all.to_be_bytes());
        mark
    }

    /// The sums of a mark; `None` where it is none, or not one of a journal with that beginning and at most
    /// that length: what a commit that was cut off has added is not in it.
    pub(super) fn from_mark(mark: &[u8], len: u64, first: &[u8]) -> Option<Self> {
        let (body, all) = mark.split_last_chunk::<8>()?;
        let (head, sums) = body.split_at_checked(HEAD)?;
        let (version, head) = head.split_first()?;
        let (marked, head) = head.split_first_chunk::<8>()?;
        let marked = u64::from_be_bytes(*marked);
        if *version != VERSION
            || marked > len
            || head != identity(first).to_be_bytes()
            || *all != XxHash64::oneshot(0, body).to_be_bytes()
            || sums.len() as u64 / 8 > marked / BLOCK
        {
            return None;
        }
        let (sums, []) = sums.as_chunks::<8>() else {
            return None;
        };
        let mut sums: Vec<u64> = sums.iter().copied().map(u64::from_be_bytes).collect();
        // The first block was compared already, as far as it stays.
        sums.first_mut().into_iter().for_each(|sum| *sum = 0);
        Some(Self(RwLock::new(sums)))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use pxfs_base::lock;
    use redb::{Database, StorageBackend, TableDefinition};

    use super::*;

    fn file() -> Vec<u8> {
        (0..5 * BLOCK).map(|n| (n * n % 251) as u8).collect()
    }

    #[test]
    fn a_changed_block_is_detected_and_an_unknown_one_is_trusted() {
        let sums = Sums::default();
        let file = file();
        sums.note(0, &file[..4 * BLOCK as usize]);
        assert_eq!(sums.differing(0, &file), None);
        let mut bad = file.clone();
        bad[2 * BLOCK as usize + 7] ^= 1;
        bad[4 * BLOCK as usize + 7] ^= 1;
        assert_eq!(sums.differing(0, &bad), Some(2));
        assert_eq!(
            sums.differing(3 * BLOCK, &bad[3 * BLOCK as usize..]),
            None,
            "the last is not known"
        );
        // The same bytes in another place are not the same.
        assert_eq!(
            sums.differing(BLOCK, &file[..BLOCK as usize]),
            Some(1),
            "a block in another's place"
        );
        sums.note(2 * BLOCK + 7, &bad[2 * BLOCK as usize + 7..][..1]);
        assert_eq!(sums.differing(0, &bad), None, "written in part");
        sums.cut(BLOCK);
        assert_eq!(sums.differing(BLOCK, &file[..BLOCK as usize]), None);
    }

    #[test]
    fn a_mark_counts_for_one_state_of_the_journal_and_only_whole() {
        let sums = Sums::default();
        let file = file();
        sums.note(0, &file);
        let (len, first) = (file.len() as u64, &file[..BLOCK as usize]);
        let mark = sums.to_mark(len, first);
        let back = Sums::from_mark(&mark, len, first).unwrap();
        assert_eq!(back.differing(0, &file), None);
        let mut changed = file.clone();
        changed[BLOCK as usize] ^= 1;
        assert_eq!(back.differing(0, &changed), Some(1));
        assert!(Sums::from_mark(&mark, len + BLOCK, first).is_some());
        assert!(Sums::from_mark(&mark, len - 1, first).is_none());
        // A commit that is being written changes the layout and the other slot.
        let mut opened = first.to_vec();
        opened[CHOICE] ^= OPENED;
        assert!(Sums::from_mark(&mark, len, &opened).is_some());
        for at in 0..BLOCK as usize {
            let mut first = first.to_vec();
            first[at] ^= 0x40;
            let is_same =
                LAYOUT.contains(&at) || SLOTS[usize::from(first[CHOICE] & 1 == 0)].contains(&at);
            assert_eq!(
                Sums::from_mark(&mark, len, &first).is_some(),
                is_same,
                "byte {at}"
            );
        }
        for at in 0..mark.len() {
            let mut bad = mark.clone();
            bad[at] ^= 0x20;
            assert!(Sums::from_mark(&bad, len, first).is_none(), "byte {at}");
            assert!(
                Sums::from_mark(&mark[..at], len, first).is_none(),
                "cut at {at}"
            );
        }
    }

    /// redb's file in memory.
    #[derive(Clone, Debug, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl StorageBackend for Memory {
        fn len(&self) -> io::Result<u64> {
            Ok(lock(&self.0).len() as u64)
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let at = offset as usize;
            out.copy_from_slice(&lock(&self.0)[at..at + out.len()]);
            Ok(())
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            lock(&self.0).resize(len as usize, 0);
            Ok(())
        }

        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let at = offset as usize;
            lock(&self.0)[at..at + data.len()].copy_from_slice(data);
            Ok(())
        }
    }

    #[test]
    fn the_header_of_redb_is_where_a_mark_looks_for_it() {
        let memory = Memory::default();
        let db = Database::builder().create_with_backend(memory.clone());
        let db = db.unwrap();
        let first = || lock(&memory.0)[..BLOCK as usize].to_vec();
        let mut before = first();
        assert_eq!(before[..CHOICE], *b"redb\x1a\x0a\xa9\x0d\x0a");
        assert_eq!(before[CHOICE] & OPENED, OPENED);
        let slot = |first: &[u8]| usize::from(first[CHOICE] & 1);
        let table = TableDefinition::<u64, &[u8]>::new("table");
        for round in 0..20_u64 {
            let mut write = db.begin_write().unwrap();
            write.set_two_phase_commit(true);
            let value = vec![7; 100_000];
            write
                .open_table(table)
                .unwrap()
                .insert(round, &value[..])
                .unwrap();
            write.commit().unwrap();
            let after = first();
            assert_eq!(slot(&after), 1 - slot(&before), "each commit takes turns");
            assert_ne!(identity(&after), identity(&before), "a commit counts");
            for at in 0..BLOCK as usize {
                let may_change = at == CHOICE
                    || LAYOUT.contains(&at)
                    || SLOTS[slot(&after)].contains(&at)
                    || SLOTS[slot(&before)].contains(&at);
                assert!(may_change || after[at] == before[at], "byte {at}");
            }
            before = after;
        }
        drop(db);
        assert_eq!(first()[CHOICE] & OPENED, 0, "closed");
    }

    #[test]
    fn a_mark_has_the_bytes_that_are_documented() {
        let sums = Sums::default();
        sums.note(BLOCK, &[0; BLOCK as usize]);
        let mark = sums.to_mark(2 * BLOCK, b"first");
        assert_eq!(mark.len(), 17 + 2 * 8 + 8);
        assert_eq!(mark[0], 1);
        assert_eq!(mark[1..9], 8192_u64.to_be_bytes());
        assert_eq!(mark[9..17], XxHash64::oneshot(0, b"first").to_be_bytes());
        assert_eq!(mark[17..25], [0; 8]);
        let one = XxHash64::oneshot(1, &[0; BLOCK as usize]);
        assert_eq!(mark[25..33], one.to_be_bytes());
    }
}
