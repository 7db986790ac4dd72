//! FUSE lookup counts: how often the kernel was given each inode, less what it forgot.
//!
//! Every answer with an entry adds one; FORGET subtracts; at zero the kernel no longer holds the
//! inode. A FORGET may also return a single answer, if a replaced name led to another inode than
//! the kernel knew.
//!
//! Invariant: a count grows before its answer is sent, so its FORGET comes later. Costs four bytes
//! for each inode made or loaded beside others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard};

use pxfs_base::lock;

use crate::types::Ino;

const PAGE: usize = 64;

/// Shards of pages, so that calls seldom contend.
const PARTS: usize = 16;

#[derive(Default)]
pub(super) struct Lookups {
    parts: [Mutex<HashMap<u64, Page>>; PARTS],
}

/// Counts of consecutive inodes.
struct Page {
    counts: [u32; PAGE],
    /// Counts that are not 0.
    held: u32,
}

impl Lookups {
    /// The kernel is about to get `ino`.
    pub(super) fn give(&self, ino: Ino) {
        let (number, at) = place(ino);
        let mut part = self.part(number);
        let page = part.entry(number).or_insert_with(|| Page {
            counts: [0; PAGE],
            held: 0,
        });
        page.held += u32::from(page.counts[at] == 0);
        page.counts[at] = page.counts[at].saturating_add(1);
    }

    /// Subtracts `times`; true if the kernel no longer holds the inode. A saturated count stays.
    pub(super) fn take_back(&self, ino: Ino, times: u64) -> bool {
        let (number, at) = place(ino);
        let mut part = self.part(number);
        let Entry::Occupied(mut page) = part.entry(number) else {
            return true;
        };
        let Page { counts, held } = page.get_mut();
        let count = &mut counts[at];
        if *count == u32::MAX {
            return false;
        }
        let before = std::mem::replace(
            count,
            count.saturating_sub(u32::try_from(times).unwrap_or(u32::MAX)),
        );
        let gone = *count == 0;
        *held -= u32::from(gone && before > 0);
        if *held == 0 {
            page.remove();
        }
        gone
    }

    pub(super) fn holds(&self, ino: Ino) -> bool {
        let (number, at) = place(ino);
        self.part(number)
            .get(&number)
            .is_some_and(|page| page.counts[at] > 0)
    }

    fn part(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Page>> {
        let part = &self.parts[number as usize % PARTS];
        lock(part)
    }
}

/// The page of an inode, and its index there.
fn place(ino: Ino) -> (u64, usize) {
    (ino.0 / PAGE as u64, (ino.0 % PAGE as u64) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_twice_is_held_until_both_are_taken_back() {
        let lookups = Lookups::default();
        let (one, other) = (Ino(1 << 48 | 130), Ino(1 << 48 | 131));
        for ino in [one, other, one] {
            lookups.give(ino);
        }
        assert!(!lookups.take_back(one, 1));
        assert!(lookups.holds(one));
        assert!(lookups.take_back(one, 1));
        assert!(!lookups.holds(one));
        assert!(lookups.holds(other));
        assert!(lookups.take_back(other, 1));
    }

    #[test]
    fn nothing_is_kept_of_inodes_that_are_held_no_more() {
        let lookups = Lookups::default();
        for number in 1..=10_000 {
            lookups.give(Ino(number));
        }
        for number in 1..=10_000 {
            assert!(lookups.take_back(Ino(number), u64::MAX));
            assert!(lookups.take_back(Ino(number), 1));
        }
        assert!((0..PARTS as u64).all(|part| lookups.part(part).is_empty()));
    }
}
