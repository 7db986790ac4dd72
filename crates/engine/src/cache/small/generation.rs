//! One generation on disk: an append-only log, and an index hashed by key.
//!
//! Invariant: bytes are in the log before their slot is in the index; whoever reads checks the hash.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::cache::key::Key;
use crate::pack::cid;

/// One page of an index: 256 slots.
pub(super) const PAGE_BYTES: usize = 4096;
/// One slot of an index.
const SLOT_BYTES: usize = 16;
/// Average content that an index has slots for, in bytes.
const AVERAGE_BYTES: u64 = 1024;
/// How many slots of a page are in use when the log is full of average contents.
const FULL_SLOTS: u64 = 180;
/// The greatest block of the format, the greatest thing kept here.
const LARGEST_BYTES: usize = 1 << 20;
/// The greatest thing that a generation of `bound_bytes` takes.
pub(super) fn largest_bytes(bound_bytes: u64) -> u64 {
    (bound_bytes / 4).min(LARGEST_BYTES as u64)
}

/// The number of index pages of a generation of `bound_bytes`.
pub(super) fn pages(bound_bytes: u64) -> u64 {
    (bound_bytes / AVERAGE_BYTES / FULL_SLOTS).max(1)
}

/// The page is full of other keys, or the log of other bytes.
pub(super) struct Full;

/// One log with its index.
pub(super) struct Generation {
    pub(super) number: u64,
    log: File,
    index: File,
    pages: u64,
    /// Where the next bytes go.
    end: AtomicU64,
}

impl Generation {
    fn paths(dir: &Path, number: u64) -> (PathBuf, PathBuf) {
        (
            dir.join(format!("{number}.log")),
            dir.join(format!("{number}.index")),
        )
    }

    pub(super) fn create(dir: &Path, number: u64, bound_bytes: u64) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let (log, index) = Self::paths(dir, number);
        let mut new = OpenOptions::new();
        new.read(true).write(true).create_new(true).mode(0o600);
        let (log, index) = (new.open(log)?, new.open(index)?);
        let pages = pages(bound_bytes);
        index.set_len(pages * PAGE_BYTES as u64)?;
        Ok(Self {
            number,
            log,
            index,
            pages,
            end: AtomicU64::new(0),
        })
    }

    pub(super) fn open(dir: &Path, number: u64) -> io::Result<Self> {
        let (log, index) = Self::paths(dir, number);
        let mut known = OpenOptions::new();
        known.read(true).write(true);
        let (log, index) = (known.open(log)?, known.open(index)?);
        let pages = index.metadata()?.len() / PAGE_BYTES as u64;
        if pages == 0 {
            return Err(io::Error::other("index without a page"));
        }
        let end = AtomicU64::new(log.metadata()?.len());
        Ok(Self {
            number,
            log,
            index,
            pages,
            end,
        })
    }

    pub(super) fn delete(dir: &Path, number: u64) {
        let (log, index) = Self::paths(dir, number);
        let _ = std::fs::remove_file(log);
        let _ = std::fs::remove_file(index);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.end.load(Ordering::Relaxed) + self.pages * PAGE_BYTES as u64
    }

    pub(super) fn is_deleted(&self) -> bool {
        [&self.log, &self.index]
            .into_iter()
            .any(|file| !file.metadata().is_ok_and(|data| data.nlink() > 0))
    }

    pub(super) fn get(&self, key: Key) -> Option<Bytes> {
        let (_, page) = self.page(key)?;
        let tag = tag(key);
        let place = page
            .chunks_exact(SLOT_BYTES)
            .filter_map(Slot::decode)
            .find(|slot| slot.tag == tag)?;
        let mut bytes = vec![0; place.len];
        self.log.read_exact_at(&mut bytes, place.offset).ok()?;
        cid::verify(&key.cid(), &bytes).ok()?;
        Some(bytes.into())
    }

    /// Adds `bytes`; false when the disk does not take them.
    pub(super) fn put(&self, key: Key, bytes: &[u8], bound_bytes: u64) -> Result<bool, Full> {
        let len = bytes.len() as u64;
        let Some((page_offset, page)) = self.page(key) else {
            return Err(Full);
        };
        let tag = tag(key);
        // Writers do not exclude each other: who takes a slot that another just took costs it a
        // miss later.
        let slot = page
            .chunks_exact(SLOT_BYTES)
            .position(|slot| Slot::decode(slot).is_none_or(|slot| slot.tag == tag))
            .ok_or(Full)?;
        let offset = self.end.fetch_add(len, Ordering::Relaxed);
        if offset + len + self.pages * PAGE_BYTES as u64 > bound_bytes {
            self.end.fetch_sub(len, Ordering::Relaxed);
            return Err(Full);
        }
        let encoded = Slot {
            tag,
            offset,
            len: bytes.len(),
        }
        .encode();
        let at = page_offset + (slot * SLOT_BYTES) as u64;
        let written = self
            .log
            .write_all_at(bytes, offset)
            .and_then(|()| self.index.write_all_at(&encoded, at));
        Ok(written.is_ok())
    }

    /// The index page of `key`: where it begins, and its bytes.
    fn page(&self, key: Key) -> Option<(u64, [u8; PAGE_BYTES])> {
        let (_, rest) = key.digest().split_first_chunk::<8>()?;
        let (number, _) = rest.split_first_chunk::<8>()?;
        let offset = u64::from_be_bytes(*number) % self.pages * PAGE_BYTES as u64;
        let mut page = [0; PAGE_BYTES];
        self.index.read_exact_at(&mut page, offset).ok()?;
        Some((offset, page))
    }
}

/// What a slot says of its key: never 0, which marks an empty slot.
fn tag(key: Key) -> u64 {
    let first = key.digest().first_chunk::<8>().copied().unwrap_or_default();
    // Nodes and leaves with one digest would take each other's slot: no harm.
    u64::from_be_bytes(first).max(1)
}

/// One slot of an index. The version stands in the name of the folder.
///
/// | bytes | content |
/// |---|---|
/// | 0..8 | first eight bytes of the SHA-256, big-endian; 0: empty |
/// | 8..16 | big-endian: offset in the log (43 bits), length (21 bits) |
///
/// Page of a key: bytes 8..16 of the SHA-256, big-endian, modulo the number of pages.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) tag: u64,
    pub(super) offset: u64,
    pub(super) len: usize,
}

impl Slot {
    const LEN_BITS: u32 = 21;

    pub(super) fn encode(&self) -> [u8; SLOT_BYTES] {
        let place = self.offset << Self::LEN_BITS | self.len as u64;
        let mut bytes = [0; SLOT_BYTES];
        let (tag, rest) = bytes.split_at_mut(8);
        tag.copy_from_slice(&self.tag.to_be_bytes());
        rest.copy_from_slice(&place.to_be_bytes());
        bytes
    }

    /// `None` for an empty slot, and for one that no writer made.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first_chunk::<8>()?;
        let place = u64::from_be_bytes(*rest.first_chunk::<8>()?);
        let len = usize::try_from(place & ((1 << Self::LEN_BITS) - 1)).ok()?;
        let slot = Self {
            tag: u64::from_be_bytes(*tag),
            offset: place >> Self::LEN_BITS,
            len,
        };
        (slot.tag != 0 && len <= LARGEST_BYTES).then_some(slot)
    }
}
