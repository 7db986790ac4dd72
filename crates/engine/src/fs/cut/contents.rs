//! What became of the files of a commit: one content for each, by inode.
//!
//! Invariant: memory does not grow with the number of files, but for one number in every [`BLOCK`] of them: the
//! rest goes to a scratch file, in rising order of inodes, as it came. A scratch file that cannot be written
//! costs memory, and never the commit. Filled by `publish`, read when entries are made and when the
//! commit is settled.

use std::fmt;
use std::sync::{Arc, Mutex};

use cid::Cid;

use crate::fs::FsError;
use crate::journal::DiskFile;
use crate::pack::Child;
use crate::types::Ino;
use pxfs_base::lock;

/// Bytes of one content: inode, size below, whether it is damaged, length of the CID, CID.
const RECORD: usize = 8 + 8 + 1 + 1 + LONGEST_CID;
/// A CID of version 1 over SHA2-256, with room to spare.
const LONGEST_CID: usize = 38;
/// Contents that are read together.
const BLOCK: usize = 64;
/// Bytes in memory that are written together.
const TAIL: usize = 16 * BLOCK * RECORD;

/// Contents of files, by inode.
#[derive(Default)]
pub struct Contents {
    scratch: Option<Arc<dyn DiskFile>>,
    /// The first inode of each block in the scratch file.
    firsts: Vec<u64>,
    /// What is not there yet.
    tail: Vec<u8>,
    last: Option<Ino>,
    count: usize,
    /// The block that was read last, by number.
    known: Mutex<Option<(usize, Vec<u8>)>>,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} contents", self.count)
    }
}

impl Contents {
    /// Contents that go to `scratch`, an empty file; without one all are kept in memory.
    pub(super) fn in_file(scratch: Option<Arc<dyn DiskFile>>) -> Self {
        Self {
            scratch,
            ..Self::default()
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds the content of `ino`, which is greater than all before.
    ///
    /// # Errors
    /// [`FsError::Invalid`] where it is not; a CID that no block of a volume has.
    pub fn insert(&mut self, ino: Ino, content: Child) -> Result<(), FsError> {
        if self.last.is_some_and(|last| last >= ino) {
            return Err(FsError::Invalid);
        }
        let cid = content.cid.to_bytes();
        let Some(room) = LONGEST_CID.checked_sub(cid.len()) else {
            return Err(FsError::Damaged(format!("{} names no block", content.cid)));
        };
        self.tail.extend_from_slice(&ino.0.to_be_bytes());
        self.tail.extend_from_slice(&content.tsize.to_be_bytes());
        self.tail.push(u8::from(content.damaged));
        self.tail.push(cid.len() as u8);
        self.tail.extend_from_slice(&cid);
        self.tail.resize(self.tail.len() + room, 0);
        (self.last, self.count) = (Some(ino), self.count + 1);
        if self.tail.len() >= TAIL {
            self.write_tail();
        }
        Ok(())
    }

    fn write_tail(&mut self) {
        let Some(scratch) = &self.scratch else { return };
        let at = (self.firsts.len() * BLOCK * RECORD) as u64;
        if let Err(error) = scratch.write_at(&self.tail, at) {
            tracing::debug!(%error, "no room to note what a commit has built: it is kept in memory");
            return;
        }
        for block in self.tail.chunks(BLOCK * RECORD) {
            self.firsts.push(inode_of(block));
        }
        self.tail.clear();
    }

    /// The content of `ino`; `None` where it has none.
    ///
    /// # Errors
    /// The scratch file cannot be read.
    pub fn get(&self, ino: Ino) -> Result<Option<Child>, FsError> {
        if !self.tail.is_empty() && ino.0 >= inode_of(&self.tail) {
            return Ok(search(&self.tail, ino));
        }
        let behind = self.firsts.partition_point(|first| *first <= ino.0);
        let (Some(number), Some(scratch)) = (behind.checked_sub(1), &self.scratch) else {
            return Ok(None);
        };
        let mut known = lock(&self.known);
        if let Some((_, block)) = known.as_ref().filter(|(have, _)| *have == number) {
            return Ok(search(block, ino));
        }
        let mut block = vec![0; BLOCK * RECORD];
        scratch
            .read_at(&mut block, (number * BLOCK * RECORD) as u64)
            .map_err(|error| FsError::Disk(error.to_string()))?;
        let found = search(&block, ino);
        *known = Some((number, block));
        Ok(found)
    }
}

fn inode_of(records: &[u8]) -> u64 {
    let first = records.first_chunk::<8>();
    first.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn search(records: &[u8], ino: Ino) -> Option<Child> {
    let (records, _) = records.as_chunks::<RECORD>();
    let at = records
        .binary_search_by_key(&ino.0, |record| inode_of(record))
        .ok()?;
    let (_, rest) = records.get(at)?.split_first_chunk::<8>()?;
    let (tsize, rest) = rest.split_first_chunk::<8>()?;
    let (&[damaged, len], cid) = rest.split_first_chunk::<2>()?;
    Some(Child {
        cid: Cid::try_from(cid.get(..usize::from(len))?).ok()?,
        tsize: u64::from_be_bytes(*tsize),
        damaged: damaged != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Disk, MemoryDisk};
    use crate::pack::cid as form;

    impl Contents {
        /// All of them, in order.
        pub(crate) fn all(&self) -> Vec<(Ino, Child)> {
            let mut records = vec![0; self.firsts.len() * BLOCK * RECORD];
            if let Some(scratch) = self.scratch.as_ref().filter(|_| !records.is_empty()) {
                scratch.read_at(&mut records, 0).unwrap();
            }
            records.extend_from_slice(&self.tail);
            records
                .chunks(RECORD)
                .map(|record| {
                    let ino = Ino(inode_of(record));
                    (ino, search(record, ino).unwrap())
                })
                .collect()
        }
    }

    fn child(n: u64) -> Child {
        let name = n.to_be_bytes();
        Child {
            cid: match n % 2 {
                0 => form::leaf_cid(&name),
                _ => form::node_cid(&name),
            },
            tsize: n * 3,
            damaged: n.is_multiple_of(7),
        }
    }

    #[test]
    fn contents_built_by_a_large_commit_are_found_without_filling_memory() {
        let scratch = MemoryDisk::default().create("built").unwrap();
        let mut contents = Contents::in_file(Some(scratch));
        for n in 0..10_000 {
            contents.insert(Ino(5 * n + 3), child(n)).unwrap();
        }
        assert!(contents.tail.len() < TAIL);
        assert!(contents.firsts.len() <= 10_000 / BLOCK);
        assert_eq!(contents.len(), 10_000);
        for n in (0..10_000).rev().chain(0..10_000) {
            assert_eq!(contents.get(Ino(5 * n + 3)), Ok(Some(child(n))), "{n}");
            assert_eq!(contents.get(Ino(5 * n + 4)), Ok(None), "beside {n}");
        }
        assert_eq!(contents.get(Ino(0)), Ok(None));
        assert_eq!(contents.get(Ino(60_000)), Ok(None));
        assert_eq!(contents.insert(Ino(3), child(1)), Err(FsError::Invalid));
        assert_eq!(contents.all().len(), 10_000);
    }

    #[test]
    fn a_full_disk_for_scratch_does_not_prevent_a_commit() {
        #[derive(Debug)]
        struct Full;
        impl DiskFile for Full {
            fn read_at(&self, _: &mut [u8], _: u64) -> std::io::Result<()> {
                Err(std::io::ErrorKind::UnexpectedEof.into())
            }
            fn write_at(&self, _: &[u8], _: u64) -> std::io::Result<()> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            fn sync_data(&self) -> std::io::Result<()> {
                Ok(())
            }
            fn len(&self) -> std::io::Result<u64> {
                Ok(0)
            }
            fn set_len(&self, _: u64) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut contents = Contents::in_file(Some(Arc::new(Full)));
        for n in 0..5_000 {
            contents.insert(Ino(n), child(n)).unwrap();
        }
        for n in 0..5_000 {
            assert_eq!(contents.get(Ino(n)), Ok(Some(child(n))), "{n}");
        }
    }
}
