//! What must be true of a folder after a crash, given what was acknowledged before it.
//!
//! One [`Worker`] is one thread's folder and what it did there, in order. After the crash
//! [`Worker::recover`] looks for a prefix of its operations that explains what is found (P2) and
//! that covers every `fsync` (P1), and compares each file's bytes with what may be there.
//! [`together`] then holds the threads against each other: the namespace of all of them is one
//! prefix, so nothing may be missing that was acknowledged before something found was begun.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use super::content::{File, Seen};

/// The entries of a folder: path below it, and the file's number, or `None` for a directory.
pub(crate) type Entries = BTreeMap<String, Option<usize>>;

/// What is found in the folder: path, and the file, or `None` for a directory.
pub(crate) type Found = BTreeMap<String, Option<Seen>>;

/// How much of a file an operation promises: so many changes of its content number `content`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Covered {
    /// The file's number.
    pub file: usize,
    /// Which of its contents.
    pub content: usize,
    /// How many.
    pub changes: usize,
}

/// One operation on names or attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A new file with this number.
    Create(String, usize),
    /// A new directory.
    Mkdir(String),
    /// `unlink` or `rmdir`.
    Remove(String),
    /// `rename`, of a file or a whole directory.
    Rename(String, String),
    /// `rename` over a file: what had been written by then must be there with it.
    Replace(String, String, Covered),
    /// `link`: another name, the second, of a file.
    Link(String, String),
    /// Two files change their names: both must be there as they were by then.
    Exchange(String, String, [Covered; 2]),
    /// `chmod` of a file.
    Mode(usize, u32),
    /// `setxattr` of a file, or `removexattr`.
    Colour(usize, Option<u64>),
    /// An acknowledged `fsync`: all before it is durable.
    Sync,
}

/// An operation with its place in time, counted over all threads.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// What was done.
    pub step: Step,
    /// When it was begun.
    pub begun: u64,
    /// When it was acknowledged; `None` if the crash came first.
    pub acked: Option<u64>,
}

/// One thread: what its folder held for certain, and what it has done since.
#[derive(Clone, Debug, Default)]
pub(crate) struct Worker {
    /// The entries before the first of `operations`.
    pub base: Entries,
    /// All files that `base` and `operations` speak of, by number.
    pub files: Vec<File>,
    /// In order; only the last may be unacknowledged.
    pub operations: Vec<Operation>,
}

/// A prefix that explains what was found: its length, and the entries it gives.
#[derive(Clone, Debug)]
pub(crate) struct Prefix {
    /// How many operations it holds.
    pub len: usize,
    /// What they lead to.
    pub entries: Entries,
}

impl Step {
    /// Applies the operation to `entries`.
    pub(crate) fn apply(&self, entries: &mut Entries) {
        match self {
            Self::Create(path, file) => drop(entries.insert(path.clone(), Some(*file))),
            Self::Mkdir(path) => drop(entries.insert(path.clone(), None)),
            Self::Remove(path) => drop(entries.remove(path)),
            Self::Rename(from, to) | Self::Replace(from, to, _) => {
                let below = format!("{from}/");
                let moved: Vec<String> = entries
                    .keys()
                    .filter(|path| *path == from || path.starts_with(&below))
                    .cloned()
                    .collect();
                for path in moved {
                    if let Some(entry) = entries.remove(&path) {
                        entries.insert(format!("{to}{}", &path[from.len()..]), entry);
                    }
                }
            }
            Self::Link(path, more) => {
                if let Some(file) = entries.get(path).copied() {
                    entries.insert(more.clone(), file);
                }
            }
            Self::Exchange(one, other, _) => {
                let (first, second) = (entries.remove(one), entries.remove(other));
                entries.extend(first.map(|entry| (other.clone(), entry)));
                entries.extend(second.map(|entry| (one.clone(), entry)));
            }
            Self::Mode(..) | Self::Colour(..) | Self::Sync => {}
        }
    }

    /// Applies to `files` what the operation changes of them, and raises what must be in them once it is there.
    fn apply_to(&self, files: &mut [File]) {
        match self {
            Self::Replace(_, _, covered) => covered.apply_to(files),
            Self::Exchange(_, _, both) => both.iter().for_each(|covered| covered.apply_to(files)),
            Self::Mode(file, mode) => files[*file].attributes.mode = *mode,
            Self::Colour(file, colour) => files[*file].attributes.colour = *colour,
            _ => {}
        }
    }
}

impl Covered {
    fn apply_to(&self, files: &mut [File]) {
        if let Some(file) = files.get_mut(self.file)
            && let Some(content) = file.contents.get_mut(self.content)
        {
            content.cover(self.changes);
            // What it held before it was emptied is gone.
            content.sync_acked = true;
        }
    }
}

impl Worker {
    /// The entries as acknowledged.
    pub(crate) fn entries(&self) -> Entries {
        let mut entries = self.base.clone();
        for operation in self
            .operations
            .iter()
            .filter(|operation| operation.acked.is_some())
        {
            operation.step.apply(&mut entries);
        }
        entries
    }

    /// All prefixes that explain `found`.
    ///
    /// # Errors
    /// What is wrong, if there is none.
    pub(crate) fn recover(&self, found: &Found) -> Result<Vec<Prefix>, String> {
        let acked_sync =
            |operation: &Operation| operation.step == Step::Sync && operation.acked.is_some();
        let least = self
            .operations
            .iter()
            .rposition(acked_sync)
            .map_or(0, |last| last + 1);
        let mut entries = self.base.clone();
        let mut files = self.files.clone();
        let mut prefixes = Vec::new();
        let mut faults = Vec::new();
        for len in 0..=self.operations.len() {
            if let Some(operation) = len
                .checked_sub(1)
                .and_then(|last| self.operations.get(last))
            {
                operation.step.apply(&mut entries);
                operation.step.apply_to(&mut files);
            }
            if !same_names(&entries, found) {
                continue;
            }
            if len < least {
                faults.push(format!(
                    "the names are those after {len} operations, but {least} were synced"
                ));
                continue;
            }
            match content_fault(&files, &entries, found) {
                Some(fault) => faults.push(format!("after {len} operations: {fault}")),
                None => prefixes.push(Prefix {
                    len,
                    entries: entries.clone(),
                }),
            }
        }
        if prefixes.is_empty() {
            if faults.is_empty() {
                faults.push(self.no_prefix(found));
            }
            return Err(self.told(&faults));
        }
        Ok(prefixes)
    }

    /// The last faults, each of another prefix, and the last operations.
    fn told(&self, faults: &[String]) -> String {
        let last = self.operations.len().saturating_sub(6);
        let last: Vec<&Step> = self.operations[last..]
            .iter()
            .map(|one| &one.step)
            .collect();
        let faults = faults[faults.len().saturating_sub(6)..].join("\n or ");
        format!(
            "{faults}\n the last of {} operations are {last:?}",
            self.operations.len()
        )
    }

    /// Says how `found` differs from what was acknowledged, when no prefix explains it.
    fn no_prefix(&self, found: &Found) -> String {
        let acked = self.entries();
        let missing: Vec<&String> = acked
            .keys()
            .filter(|path| !found.contains_key(*path))
            .collect();
        let more: Vec<&String> = found
            .keys()
            .filter(|path| !acked.contains_key(*path))
            .collect();
        format!(
            "no prefix of {} operations gives these names; against all acknowledged ones, missing {missing:?}, too many {more:?}",
            self.operations.len()
        )
    }

    /// Goes on from what was found: it is the base of the next run.
    pub(crate) fn adopt(&mut self, prefix: &Prefix, found: &Found) {
        let mut next = Self::default();
        // A file may have several names.
        let mut numbers: BTreeMap<usize, usize> = BTreeMap::new();
        for (path, file) in &prefix.entries {
            let seen = found.get(path).and_then(Option::as_ref);
            let known = file.zip(seen).map(|(file, seen)| {
                *numbers.entry(file).or_insert_with(|| {
                    next.files.push(self.files[file].known(seen));
                    next.files.len() - 1
                })
            });
            next.base.insert(path.clone(), known);
        }
        *self = next;
    }
}

/// The first file that cannot be what `entries` says.
fn content_fault(files: &[File], entries: &Entries, found: &Found) -> Option<String> {
    links_fault(entries, found).or_else(|| {
        entries.iter().find_map(|(path, file)| {
            let seen = found.get(path)?.as_ref()?;
            let fault = files.get((*file)?)?.fault_in(seen)?;
            Some(format!("{path}: {fault}"))
        })
    })
}

/// The first name that is not of the file that it should be of, or whose file counts its names wrongly.
fn links_fault(entries: &Entries, found: &Found) -> Option<String> {
    let mut numbers: BTreeMap<usize, u64> = BTreeMap::new();
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for (path, file) in entries {
        let (Some(file), Some(seen)) = (file, found.get(path)?) else {
            continue;
        };
        if *numbers.entry(*file).or_insert(seen.ino) != seen.ino {
            return Some(format!("{path} is not the file of its other names"));
        }
        *counts.entry(seen.ino).or_default() += 1;
    }
    let inodes: BTreeSet<u64> = numbers.values().copied().collect();
    if inodes.len() != numbers.len() {
        return Some("two files are one".to_owned());
    }
    found.iter().find_map(|(path, seen)| {
        let seen = seen.as_ref()?;
        let count = counts.get(&seen.ino)?;
        (*count != seen.links).then(|| format!("{path} has {count} names and says {}", seen.links))
    })
}

/// Whether the paths and kinds agree.
fn same_names(entries: &Entries, found: &Found) -> bool {
    entries.len() == found.len()
        && entries
            .iter()
            .zip(found)
            .all(|((path, file), (found_path, bytes))| {
                path == found_path && file.is_some() == bytes.is_some()
            })
}

/// Holds the threads against each other: whether one prefix of all operations can explain them.
///
/// # Errors
/// Which operation is missing although a later one is there.
pub(crate) fn together(workers: &[(&Worker, &[Prefix])]) -> Result<(), String> {
    for (one, ones_prefixes) in workers {
        // The least that this thread's names prove.
        let least = ones_prefixes
            .iter()
            .map(|prefix| prefix.len)
            .min()
            .unwrap_or(0);
        let Some(present) = least
            .checked_sub(1)
            .and_then(|last| one.operations.get(last))
        else {
            continue;
        };
        for (other, others_prefixes) in workers {
            // The most that the other's names allow.
            let most = others_prefixes
                .iter()
                .map(|prefix| prefix.len)
                .max()
                .unwrap_or(0);
            if let Some(missing) = other.operations.get(most)
                && missing.acked.is_some_and(|acked| acked < present.begun)
            {
                return Err(format!(
                    "{:?} was acknowledged before {:?} was begun; the second is there, the first is not",
                    missing.step, present.step
                ));
            }
        }
    }
    Ok(())
}
