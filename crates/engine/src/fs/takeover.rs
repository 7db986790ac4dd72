//! How far another machine's tree has taken this one's place.
//!
//! Invariant: a take-over that came to no end is here until the next one goes on with it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::locks::{Memory, Ordered};
use crate::journal::record::Inode;
use crate::types::Ino;

/// What is needed to end a take-over that was begun.
#[derive(Clone)]
pub(super) struct Half {
    /// Inodes that were known: the kernel may have attributes of them.
    pub(super) known: HashSet<Ino>,
    /// Directories that were loaded, and may be wanted again.
    pub(super) loaded: HashSet<Ino>,
    /// Attributes of the files that were in use.
    pub(super) used: HashMap<Ino, Inode>,
}

/// The take-overs of one volume since it was opened.
#[derive(Default)]
pub(super) struct Takeover {
    has_begun: AtomicBool,
    /// How many have ended.
    generation: AtomicUsize,
    half: Ordered<Option<Half>, Memory>,
    /// Inodes that the kernel may know as they were before, until it is notified.
    stale: Ordered<Option<Vec<Ino>>, Memory>,
}

impl Takeover {
    pub(super) fn note_begun(&self) {
        self.has_begun.store(true, Ordering::Release);
    }

    /// Whether any has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
    }

    pub(super) fn note_ended(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn generation(&self) -> usize {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn leave_half(&self, half: Half) {
        *self.half.lock() = Some(half);
    }

    pub(super) fn take_half(&self) -> Option<Half> {
        self.half.lock().take()
    }

    pub(super) fn is_half(&self) -> bool {
        self.half.lock().is_some()
    }

    pub(super) fn add_stale(&self, inos: impl IntoIterator<Item = Ino>) {
        self.stale.lock().get_or_insert_default().extend(inos);
    }

    pub(super) fn take_stale(&self) -> Option<Vec<Ino>> {
        self.stale.lock().take()
    }
}
