//! What the flusher has still to write: files that differ from the journal, and unlinked files whose records remain.
//!
//! Invariant: a file is here from before its change is acknowledged until the journal has it. Each note gets a new stamp, so
//! whoever finds a file closed removes only the note that was there when he looked.

use std::collections::HashMap;
use std::time::Duration;

use super::locks::{Memory, Ordered};
use crate::types::Ino;

/// When a file was emptied that was not saved since, by [`crate::clock::Clock::boottime`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Emptied {
    pub(super) first: Duration,
    pub(super) last: Duration,
}

#[derive(Default)]
pub(super) struct Unsaved {
    state: Ordered<State, Memory>,
}

#[derive(Default)]
struct State {
    /// Stamp of the last note of each file.
    files: HashMap<Ino, u64>,
    stamp: u64,
    emptied: HashMap<Ino, Emptied>,
    /// Unlinked files whose records could not be removed yet, and their stage files.
    unlinked: Vec<(Ino, Vec<u64>)>,
}

impl State {
    fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }
}

impl Unsaved {
    /// The file differs from the journal.
    pub(super) fn note(&self, ino: Ino) {
        let mut state = self.state.lock();
        let stamp = state.next_stamp();
        state.files.insert(ino, stamp);
    }

    /// The journal has the file.
    pub(super) fn remove(&self, ino: Ino) {
        self.state.lock().files.remove(&ino);
    }

    /// The file was unlinked, and is not saved any more.
    pub(super) fn forget(&self, ino: Ino) {
        let mut state = self.state.lock();
        state.files.remove(&ino);
        state.emptied.remove(&ino);
    }

    /// The stamp of the file's last note.
    pub(super) fn stamp(&self, ino: Ino) -> Option<u64> {
        self.state.lock().files.get(&ino).copied()
    }

    /// Nobody had the file open after its note had this stamp, so all of it was saved: unless it was noted anew.
    pub(super) fn note_closed(&self, ino: Ino, stamp: Option<u64>) {
        let mut state = self.state.lock();
        if state.files.get(&ino).copied() == stamp && stamp.is_some() {
            state.files.remove(&ino);
            state.emptied.remove(&ino);
        }
    }

    pub(super) fn contains(&self, ino: Ino) -> bool {
        self.state.lock().files.contains_key(&ino)
    }

    pub(super) fn files(&self) -> Vec<Ino> {
        self.state.lock().files.keys().copied().collect()
    }

    pub(super) fn has_files(&self) -> bool {
        !self.state.lock().files.is_empty()
    }

    /// Whether anything is left to write or to remove.
    pub(super) fn has_any(&self) -> bool {
        let state = self.state.lock();
        !state.files.is_empty() || !state.unlinked.is_empty()
    }

    /// The file was emptied at `now`.
    pub(super) fn note_emptied(&self, ino: Ino, now: Duration) {
        let mut state = self.state.lock();
        let new = Emptied {
            first: now,
            last: now,
        };
        state.emptied.entry(ino).or_insert(new).last = now;
        let stamp = state.next_stamp();
        if let Some(noted) = state.files.get_mut(&ino) {
            *noted = stamp;
        }
    }

    /// When the file was emptied, unless it was saved since.
    pub(super) fn emptied(&self, ino: Ino) -> Option<Emptied> {
        self.state.lock().emptied.get(&ino).copied()
    }

    /// The file is being saved: its rewrite is over.
    pub(super) fn end_rewrite(&self, ino: Ino) {
        self.state.lock().emptied.remove(&ino);
    }

    /// The records of an unlinked file could not be removed yet.
    pub(super) fn note_unlinked(&self, ino: Ino, stages: Vec<u64>) {
        self.state.lock().unlinked.push((ino, stages));
    }

    pub(super) fn take_unlinked(&self) -> Vec<(Ino, Vec<u64>)> {
        std::mem::take(&mut self.state.lock().unlinked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_changed_since_it_was_found_closed_stays_noted() {
        let (unsaved, ino) = (Unsaved::default(), Ino(7));
        unsaved.note(ino);
        let stamp = unsaved.stamp(ino);
        unsaved.note_emptied(ino, Duration::ZERO);
        unsaved.note_closed(ino, stamp);
        assert!(unsaved.contains(ino) && unsaved.emptied(ino).is_some());
        let stamp = unsaved.stamp(ino);
        unsaved.note(ino);
        unsaved.note_closed(ino, stamp);
        assert!(unsaved.contains(ino));
        unsaved.note_closed(ino, unsaved.stamp(ino));
        assert!(!unsaved.has_any());
    }
}
