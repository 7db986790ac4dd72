//! Small contents and nodes on disk: two append-only generations, each a log and a hashed index.
//!
//! Invariant: nothing is handed out whose SHA-256 is not the key, so torn, stale or changed files
//! cost a miss and nothing else; memory does not grow with the number of contents. Bytes go to the
//! young generation; when it is full the old one is deleted and the young one takes its place; what
//! is read from the old one is copied into the young one, which makes this an LRU in two steps.
//! Called by [`super::Cache`].

mod generation;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use pxfs_base::lock;

use super::key::Key;
use generation::{Generation, PAGE_BYTES, largest_bytes, pages};

/// Every so many calls it is looked at whether somebody deleted the files.
const LOOK_EVERY: u64 = 64;

/// Small contents and nodes on disk.
pub(super) struct Small {
    dir: PathBuf,
    /// Bytes that one generation may take, log and index together.
    generation_bytes: u64,
    calls: AtomicU64,
    generations: Mutex<Generations>,
    /// Held while a generation takes the place of another. Taken before [`Small::generations`].
    rotating: Mutex<()>,
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
            rotating: Mutex::default(),
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
        // A second thread would delete the generation that the first has just put aside.
        let _one = lock(&self.rotating);
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
        let mut held = self.lock();
        held.old = held.young.replace(Arc::clone(&fresh));
        Some(fresh)
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        lock(&self.generations)
    }
}

/// Whether `gone` is what `held` is now.
fn same(held: &Option<Arc<Generation>>, gone: &Option<Arc<Generation>>) -> bool {
    matches!((held, gone), (Some(held), Some(gone)) if Arc::ptr_eq(held, gone))
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
