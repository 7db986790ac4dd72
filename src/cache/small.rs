//! Small contents and nodes on disk: two append-only generations, each a log and a hashed index.
//!
//! Invariant: nothing is handed out whose SHA-256 is not the key, so torn, stale or changed files
//! cost a miss and nothing else; memory does not grow with the number of contents. Bytes go to the
//! young generation; when it is full the old one is deleted and the young one takes its place; what
//! is read from the old one is copied into the young one, which makes this an LRU in two steps.
//! Called by [`super::Cache`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::key::Key;
use crate::pack::cid;

/// One page of an index: 256 slots.
const PAGE_BYTES: usize = 4096;
/// One slot of an index.
const SLOT_BYTES: usize = 16;
/// Average content that an index has slots for, in bytes.
const AVERAGE_BYTES: u64 = 1024;
/// How many slots of a page are in use when the log is full of average contents.
const FULL_SLOTS: u64 = 180;
/// The greatest block of the format, the greatest thing kept here.
const LARGEST_BYTES: usize = 1 << 20;
/// Every so many calls it is looked at whether somebody deleted the files.
const LOOK_EVERY: u64 = 64;

/// Small contents and nodes on disk.
pub(super) struct Small {
    dir: PathBuf,
    /// Bytes that one generation may take, log and index together.
    generation_bytes: u64,
    calls: AtomicU64,
    generations: Mutex<Generations>,
}

struct Generations {
    young: Option<Arc<Generation>>,
    old: Option<Arc<Generation>>,
    next: u64,
}

impl Small {
    /// Opens what is in `dir` (created when missing), to hold at most `share_bytes`.
    pub(super) fn open(dir: &Path, share_bytes: u64) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let generation_bytes = share_bytes / 2;
        let mut numbers = numbers(dir)?;
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        let mut kept = Vec::new();
        for number in &numbers {
            let found = Generation::open(dir, *number)
                .ok()
                .filter(|found| kept.len() < 2 && found.bytes() <= generation_bytes);
            match found {
                Some(found) => kept.push(Arc::new(found)),
                None => Generation::delete(dir, *number),
            }
        }
        let mut kept = kept.into_iter();
        Ok(Self {
            dir: dir.to_owned(),
            generation_bytes,
            calls: AtomicU64::new(0),
            generations: Mutex::new(Generations {
                young: kept.next(),
                old: kept.next(),
                next: numbers.first().map_or(1, |newest| newest.saturating_add(1)),
            }),
        })
    }

    /// The bytes that `key` names, hashed on the way.
    pub(super) fn get(&self, key: Key) -> Option<Bytes> {
        self.look();
        let (young, old) = {
            let held = self.lock();
            (held.young.clone(), held.old.clone())
        };
        if let Some(bytes) = young.and_then(|young| young.get(key)) {
            return Some(bytes);
        }
        let bytes = old?.get(key)?;
        self.put(key, &bytes);
        Some(bytes)
    }

    /// Adds bytes that `key` names; false when they were not taken.
    pub(super) fn put(&self, key: Key, bytes: &[u8]) -> bool {
        self.look();
        if bytes.len() as u64 > largest_bytes(self.generation_bytes) {
            return false;
        }
        // A full generation makes room once; when that does not help the disk does not either.
        let mut full = self.lock().young.clone();
        for _ in 0..2 {
            if let Some(young) = &full
                && let Ok(taken) = young.put(key, bytes, self.generation_bytes)
            {
                return taken;
            }
            match self.rotate(full.as_ref()) {
                Some(fresh) => full = Some(fresh),
                None => return false,
            }
        }
        false
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        let held = self.lock();
        [&held.young, &held.old]
            .into_iter()
            .flatten()
            .map(|generation| generation.bytes())
            .sum()
    }

    /// The most by which one call of [`Small::put`] lets [`Small::bytes`] grow.
    pub(super) fn step_bytes(&self) -> u64 {
        largest_bytes(self.generation_bytes) + pages(self.generation_bytes) * PAGE_BYTES as u64
    }

    /// Forgets files that somebody deleted, so that their room becomes free.
    pub(super) fn look(&self) {
        if !self
            .calls
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(LOOK_EVERY)
        {
            return;
        }
        self.look_now();
    }

    /// As [`Small::look`], now.
    pub(super) fn look_now(&self) {
        let (young, old) = {
            let held = self.lock();
            (held.young.clone(), held.old.clone())
        };
        let gone = |generation: Option<Arc<Generation>>| generation.filter(|it| it.is_deleted());
        let (young, old) = (gone(young), gone(old));
        let mut held = self.lock();
        if same(&held.young, &young) {
            held.young = None;
        }
        if same(&held.old, &old) {
            held.old = None;
        }
    }

    /// Puts a new young generation in place of `full`, and deletes the old one. `None` when the
    /// disk does not allow it.
    fn rotate(&self, full: Option<&Arc<Generation>>) -> Option<Arc<Generation>> {
        let number = {
            let mut held = self.lock();
            if let Some(young) = &held.young
                && !full.is_some_and(|full| Arc::ptr_eq(full, young))
            {
                return Some(Arc::clone(young));
            }
            held.next += 1;
            held.next - 1
        };
        // The old one goes before the new one comes: the sum stays below the cap.
        let old = self.lock().old.take();
        if let Some(old) = old {
            Generation::delete(&self.dir, old.number);
        }
        let fresh = Generation::create(&self.dir, number, self.generation_bytes).ok()?;
        let fresh = Arc::new(fresh);
        let loser = {
            let mut held = self.lock();
            match &held.young {
                Some(young) if !full.is_some_and(|full| Arc::ptr_eq(full, young)) => {
                    Some(Arc::clone(young))
                }
                _ => {
                    held.old = held.young.replace(Arc::clone(&fresh));
                    None
                }
            }
        };
        if let Some(young) = loser {
            Generation::delete(&self.dir, fresh.number);
            return Some(young);
        }
        Some(fresh)
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `gone` is what `held` is now.
fn same(held: &Option<Arc<Generation>>, gone: &Option<Arc<Generation>>) -> bool {
    matches!((held, gone), (Some(held), Some(gone)) if Arc::ptr_eq(held, gone))
}

/// The greatest thing that a generation of `bound_bytes` takes.
fn largest_bytes(bound_bytes: u64) -> u64 {
    (bound_bytes / 4).min(LARGEST_BYTES as u64)
}

/// The number of index pages of a generation of `bound_bytes`.
fn pages(bound_bytes: u64) -> u64 {
    (bound_bytes / AVERAGE_BYTES / FULL_SLOTS).max(1)
}

/// The numbers of the generations in `dir`.
fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_suffix(".log").or(name.strip_suffix(".index")))
            .and_then(|number| number.parse().ok());
        if let Some(number) = number
            && !found.contains(&number)
        {
            found.push(number);
        }
    }
    Ok(found)
}

/// The page is full of other keys, or the log of other bytes.
struct Full;

/// One log with its index.
struct Generation {
    number: u64,
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

    fn create(dir: &Path, number: u64, bound_bytes: u64) -> io::Result<Self> {
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

    fn open(dir: &Path, number: u64) -> io::Result<Self> {
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

    fn delete(dir: &Path, number: u64) {
        let (log, index) = Self::paths(dir, number);
        let _ = std::fs::remove_file(log);
        let _ = std::fs::remove_file(index);
    }

    fn bytes(&self) -> u64 {
        self.end.load(Ordering::Relaxed) + self.pages * PAGE_BYTES as u64
    }

    fn is_deleted(&self) -> bool {
        [&self.log, &self.index]
            .into_iter()
            .any(|file| !file.metadata().is_ok_and(|data| data.nlink() > 0))
    }

    fn get(&self, key: Key) -> Option<Bytes> {
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
    fn put(&self, key: Key, bytes: &[u8], bound_bytes: u64) -> Result<bool, Full> {
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
struct Slot {
    tag: u64,
    offset: u64,
    len: usize,
}

impl Slot {
    const LEN_BITS: u32 = 21;

    fn encode(&self) -> [u8; SLOT_BYTES] {
        let place = self.offset << Self::LEN_BITS | self.len as u64;
        let mut bytes = [0; SLOT_BYTES];
        let (tag, rest) = bytes.split_at_mut(8);
        tag.copy_from_slice(&self.tag.to_be_bytes());
        rest.copy_from_slice(&place.to_be_bytes());
        bytes
    }

    /// `None` for an empty slot, and for one that no writer made.
    fn decode(bytes: &[u8]) -> Option<Self> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::cid::leaf_cid;

    fn content(number: u64) -> (Key, Vec<u8>) {
        let bytes = number.to_be_bytes().repeat(100);
        (Key::of(&leaf_cid(&bytes)).unwrap(), bytes)
    }

    #[test]
    fn a_slot_keeps_its_bytes_on_disk() {
        let slot = Slot {
            tag: 0x0102_0304_0506_0708,
            offset: 0x0a0b_0c0d,
            len: 1 << 20,
        };
        let bytes = slot.encode();
        assert_eq!(
            bytes,
            [
                1, 2, 3, 4, 5, 6, 7, 8, 0, 0x01, 0x41, 0x61, 0x81, 0xb0, 0, 0
            ]
        );
        assert_eq!(Slot::decode(&bytes), Some(slot));
        assert_eq!(Slot::decode(&[0; 16]), None);
        assert_eq!(Slot::decode(&[0xff; 16]), None);
    }

    #[test]
    fn small_contents_are_still_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let small = Small::open(dir.path(), 64 << 20).unwrap();
        for number in 0..1000 {
            let (key, bytes) = content(number);
            assert!(small.put(key, &bytes));
        }
        drop(small);
        let small = Small::open(dir.path(), 64 << 20).unwrap();
        for number in 0..1000 {
            let (key, bytes) = content(number);
            assert_eq!(small.get(key).unwrap(), bytes, "{number}");
        }
        assert_eq!(small.get(content(1000).0), None);
    }

    #[test]
    fn the_share_of_small_contents_is_never_passed_and_recent_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let share = 1 << 20;
        let small = Small::open(dir.path(), share).unwrap();
        let (hot, hot_bytes) = content(0);
        small.put(hot, &hot_bytes);
        for number in 1..5000 {
            let (key, bytes) = content(number);
            assert!(small.put(key, &bytes));
            assert!(small.bytes() <= share, "{} at {number}", small.bytes());
            assert_eq!(small.get(hot).unwrap(), hot_bytes, "lost at {number}");
            assert_eq!(small.get(key).unwrap(), bytes);
        }
        assert_eq!(small.get(content(1).0), None);
        let on_disk: u64 = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(on_disk <= share, "{on_disk}");
    }

    #[test]
    fn changed_files_cost_a_miss_and_never_wrong_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let small = Small::open(dir.path(), 4 << 20).unwrap();
        for number in 0..200 {
            let (key, bytes) = content(number);
            small.put(key, &bytes);
        }
        drop(small);
        for (name, step) in [("1.log", 911), ("1.index", 53)] {
            let path = dir.path().join(name);
            let mut bytes = std::fs::read(&path).unwrap();
            for at in (0..bytes.len()).step_by(step) {
                bytes[at] ^= 0x55;
            }
            std::fs::write(&path, bytes).unwrap();
        }
        let small = Small::open(dir.path(), 4 << 20).unwrap();
        let mut lost = 0;
        for number in 0..200 {
            let (key, bytes) = content(number);
            match small.get(key) {
                Some(found) => assert_eq!(found, bytes),
                None => lost += 1,
            }
            // And the place can be used again.
            assert!(small.put(key, &bytes));
            assert_eq!(small.get(key).unwrap(), bytes);
        }
        assert!(lost > 0, "nothing was changed");
    }

    #[test]
    fn deleted_files_give_their_room_back_and_the_cache_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("small");
        let small = Small::open(&root, 4 << 20).unwrap();
        let (key, bytes) = content(7);
        small.put(key, &bytes);
        std::fs::remove_dir_all(&root).unwrap();
        small.look_now();
        assert_eq!(small.bytes(), 0);
        assert_eq!(small.get(key), None);
        assert!(small.put(key, &bytes));
        assert_eq!(small.get(key).unwrap(), bytes);
        assert!(root.read_dir().unwrap().count() > 0);
    }
}
