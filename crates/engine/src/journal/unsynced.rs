//! What a stage file holds beyond what is durable of it, and what of that the journal keeps.
//!
//! An `fsync` of a few bytes puts them into the journal beside the record that names them (a *patch*), so
//! that it waits for one sync and not for two. Invariant: a byte of a stage file that a durable record
//! names is durable in the file, or in a patch; of two patches the one with the greater number is the newer. A
//! start writes all patches into their files again, which changes nothing that is as it was. They go with the
//! record that follows a sync of the file, or that lets go of it. Called by [`super::stage`].

use std::collections::HashMap;
use std::ops::Range;

/// Bytes, and ranges of them, that one `fsync` puts into the journal at most.
const BYTES: u64 = 64 << 10;
const RANGES: usize = 16;

/// Bytes, and patches, of a file beyond which it is synced itself.
const FILE_BYTES: u64 = 1 << 20;
const FILE_PATCHES: usize = 256;

/// Bytes in patches of all files beyond which a file is synced itself.
const ALL_BYTES: u64 = 16 << 20;

/// What was written to one file since it was durable as a whole.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    ranges: Vec<Range<u64>>,
    /// More than it pays to put into the journal, or nobody knows what.
    much: bool,
}

impl Unsynced {
    /// `len` bytes at `offset` were written.
    pub(super) fn note(&mut self, offset: u64, len: u64) {
        let mut new = offset..offset.saturating_add(len);
        if self.much || new.is_empty() {
            return;
        }
        self.ranges.retain(|old| {
            let apart = old.end < new.start || new.end < old.start;
            if !apart {
                new = old.start.min(new.start)..old.end.max(new.end);
            }
            apart
        });
        self.ranges.push(new);
        let bytes: u64 = self
            .ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum();
        if bytes > BYTES || self.ranges.len() > RANGES {
            *self = Self::much();
        }
    }

    /// More than it pays to put into the journal.
    pub(super) fn much() -> Self {
        Self {
            ranges: Vec::new(),
            much: true,
        }
    }

    /// What a patch has to hold; `None` where the file is to be synced. From here on nothing counts as
    /// written.
    pub(super) fn take(&mut self) -> Option<Vec<Range<u64>>> {
        let taken = std::mem::take(self);
        (!taken.much).then_some(taken.ranges)
    }
}

/// The patches that the journal has.
#[derive(Debug, Default)]
pub(super) struct Patches {
    files: HashMap<u64, Patched>,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Patched {
    numbers: Vec<u64>,
    bytes: u64,
    /// The file was not synced since it was patched.
    unsynced: bool,
}

impl Patches {
    /// Whether the journal is to take more of that file.
    pub(super) fn has_room(&self, stage: u64) -> bool {
        let file = self.files.get(&stage);
        self.bytes < ALL_BYTES
            && file.is_none_or(|f| f.bytes < FILE_BYTES && f.numbers.len() < FILE_PATCHES)
    }

    /// The journal has a patch of `bytes` bytes more.
    pub(super) fn add(&mut self, stage: u64, number: u64, bytes: u64) {
        let file = self.files.entry(stage).or_default();
        file.numbers.push(number);
        file.bytes += bytes;
        file.unsynced = true;
        self.bytes += bytes;
    }

    /// The numbers of a file's patches, which the caller removes from the journal.
    pub(super) fn take(&mut self, stage: u64) -> Vec<u64> {
        let Some(file) = self.files.get_mut(&stage) else {
            return Vec::new();
        };
        self.bytes -= std::mem::take(&mut file.bytes);
        std::mem::take(&mut file.numbers)
    }

    /// Whether the file itself does not have durably what it holds.
    pub(super) fn is_unsynced(&self, stage: u64) -> bool {
        self.files.get(&stage).is_some_and(|file| file.unsynced)
    }

    /// The file was synced: what it holds is durable without its patches.
    pub(super) fn synced(&mut self, stage: u64) {
        if let Some(file) = self.files.get_mut(&stage) {
            file.unsynced = false;
        }
    }

    /// The file is gone.
    pub(super) fn forget(&mut self, stage: u64) {
        self.take(stage);
        self.files.remove(&stage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsynced_ranges_are_taken_once_and_dropped_if_too_many() {
        let mut unsynced = Unsynced::default();
        assert_eq!(unsynced.take(), Some(vec![]));
        unsynced.note(10, 5);
        unsynced.note(100, 1);
        unsynced.note(12, 20);
        unsynced.note(0, 10);
        assert_eq!(unsynced.take(), Some(vec![100..101, 0..32]));
        assert_eq!(unsynced.take(), Some(vec![]));
        unsynced.note(0, BYTES);
        let all = unsynced.take().unwrap();
        assert_eq!((all.len(), all[0].clone()), (1, 0..BYTES));
        unsynced.note(0, BYTES);
        unsynced.note(BYTES + 1, 1);
        unsynced.note(0, 1);
        assert_eq!(unsynced.take(), None);
        for n in 0..=RANGES as u64 {
            unsynced.note(2 * n, 1);
        }
        assert_eq!(unsynced.take(), None);
        assert_eq!(unsynced.take(), Some(vec![]), "synced");
    }

    #[test]
    fn the_journal_keeps_a_bounded_part_of_each_file_and_of_all() {
        let mut patches = Patches::default();
        for number in 0..16 {
            assert!(patches.has_room(1), "{number}");
            patches.add(1, number, BYTES);
        }
        assert!(!patches.has_room(1));
        assert!(patches.has_room(2));
        assert_eq!(patches.take(1).len(), 16);
        assert!(patches.has_room(1) && patches.is_unsynced(1));
        patches.synced(1);
        assert!(!patches.is_unsynced(1));
        for stage in 0..ALL_BYTES / FILE_BYTES {
            patches.add(stage, stage, FILE_BYTES);
        }
        assert!(!patches.has_room(77));
        patches.forget(3);
        assert!(patches.has_room(77) && !patches.is_unsynced(3));
        for number in 0..FILE_PATCHES as u64 {
            patches.add(77, number, 1);
        }
        assert!(!patches.has_room(77));
    }
}
