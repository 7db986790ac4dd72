//! One content on disk: which of its chunks are here, and which of those are trusted.
//!
//! Invariant: a chunk goes Absent → Busy → Verified (or Unverified, found at the first look) and
//! back over Busy, so nobody fills what is being punched nor punches what is being filled; `turn`
//! grows before a verified chunk is given up, so a reader that sees the same turn after its read
//! as before it has read no hole. Called by [`super::files`].

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use pxfs_base::lock;

use super::{CHUNK_BYTES, Presence};

/// Two bits a chunk, 32 chunks a word.
const CHUNKS_PER_WORD: u64 = 32;

/// What the two bits say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    Absent = 0,
    Busy = 1,
    Unverified = 2,
    Verified = 3,
}

/// Which file it is: inode number (which is reused) and time of birth, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    ino: u64,
    birth: Option<SystemTime>,
}

impl Identity {
    /// Of an open or listed file.
    pub(super) fn of(data: &Metadata) -> Self {
        Self {
            ino: data.ino(),
            birth: data.created().ok(),
        }
    }
}

/// One content of more than 64 KiB.
pub(super) struct Content {
    /// Length of the content in bytes.
    pub(super) size: u64,
    identity: Identity,
    held: Mutex<Held>,
}

struct Held {
    /// (word number, word), by number; absent words hold absent chunks.
    words: Vec<(u64, u64)>,
    /// Grows whenever a chunk that was verified is given up.
    turn: u64,
    disk_bytes: u64,
    /// Whether the chunks that an earlier run left were looked for.
    looked: bool,
    /// Whether the file was evicted.
    gone: bool,
}

impl Content {
    /// A content whose file exists from an earlier run.
    pub(super) fn found(size: u64, identity: Identity, disk_bytes: u64) -> Self {
        Self::new(size, identity, disk_bytes, false)
    }

    /// A content whose file was just created, empty.
    pub(super) fn created(size: u64, identity: Identity) -> Self {
        Self::new(size, identity, 0, true)
    }

    /// A content whose file holds verified bytes wherever it holds any.
    pub(super) fn adopted(
        size: u64,
        identity: Identity,
        disk_bytes: u64,
        data: &[(u64, u64)],
    ) -> Self {
        let content = Self::new(size, identity, disk_bytes, true);
        content.lock().mark(data, State::Verified);
        content
    }

    fn new(size: u64, identity: Identity, disk_bytes: u64, looked: bool) -> Self {
        Self {
            size,
            identity,
            held: Mutex::new(Held {
                words: Vec::new(),
                turn: 0,
                disk_bytes,
                looked,
                gone: false,
            }),
        }
    }

    /// Whether a file that is this and has `len` bytes is the one of this content.
    pub(super) fn is_file(&self, identity: Identity, len: u64) -> bool {
        self.identity == identity && self.size == len
    }

    /// Whether [`Content::looked`] is still to be called.
    pub(super) fn is_unseen(&self) -> bool {
        !self.lock().looked
    }

    /// Takes the data ranges (offset, end) of the file as chunks that an earlier run left.
    pub(super) fn looked(&self, data: &[(u64, u64)]) {
        let mut held = self.lock();
        if !held.looked {
            held.looked = true;
            held.mark(data, State::Unverified);
        }
    }

    /// What is known of `chunk`.
    pub(super) fn presence(&self, chunk: u64) -> Presence {
        match self.lock().get(chunk) {
            State::Absent | State::Busy => Presence::Absent,
            State::Unverified => Presence::Unverified,
            State::Verified => Presence::Verified,
        }
    }

    /// The turn, when `chunk` is verified.
    pub(super) fn verified(&self, chunk: u64) -> Option<u64> {
        let held = self.lock();
        (held.get(chunk) == State::Verified).then_some(held.turn)
    }

    /// Whether no verified chunk was given up since [`Content::verified`] answered `turn`.
    pub(super) fn is_turn(&self, turn: u64) -> bool {
        self.lock().turn == turn
    }

    /// Trusts `chunk`, when it is here and not yet trusted.
    pub(super) fn trust(&self, chunk: u64) {
        let mut held = self.lock();
        if held.get(chunk) == State::Unverified {
            held.set(chunk, State::Verified);
        }
    }

    /// Claims an absent chunk for filling; answer with [`Content::filled`].
    pub(super) fn claim_absent(&self, chunk: u64) -> bool {
        self.claim(chunk, State::Absent)
    }

    /// Claims an unverified chunk for punching; answer with [`Content::punched`].
    pub(super) fn claim_unverified(&self, chunk: u64) -> bool {
        self.claim(chunk, State::Unverified)
    }

    /// Claims the first chunk behind `chunk`, from the beginning again at the end, for punching:
    /// for one who reads straight on that is the one read longest ago.
    pub(super) fn claim_behind(&self, chunk: u64) -> Option<u64> {
        let mut held = self.lock();
        let here = |state: State| matches!(state, State::Unverified | State::Verified);
        let mut first = None;
        let mut behind = None;
        'words: for (number, word) in &held.words {
            for at in 0..CHUNKS_PER_WORD {
                let candidate = number * CHUNKS_PER_WORD + at;
                if candidate == chunk || !here(state_in(*word, at)) {
                    continue;
                }
                first = first.or(Some(candidate));
                if candidate > chunk {
                    behind = Some(candidate);
                    break 'words;
                }
            }
        }
        let victim = behind.or(first)?;
        if held.get(victim) == State::Verified {
            held.turn += 1;
        }
        held.set(victim, State::Busy);
        Some(victim)
    }

    /// Ends a claim for filling; `Err(bytes)` are bytes of the cap that must be given back because
    /// the chunk did not come or the file was evicted meanwhile.
    pub(super) fn filled(&self, chunk: u64, bytes: u64, written: bool) -> Result<(), u64> {
        let mut held = self.lock();
        let kept = written && !held.gone;
        held.set(
            chunk,
            if written {
                State::Verified
            } else {
                State::Absent
            },
        );
        if kept {
            held.disk_bytes += bytes;
            Ok(())
        } else {
            Err(bytes)
        }
    }

    /// Ends a claim for punching; answers the bytes of the cap that became free.
    pub(super) fn punched(&self, chunk: u64, bytes: u64) -> u64 {
        let mut held = self.lock();
        held.set(chunk, State::Absent);
        let freed = bytes.min(held.disk_bytes);
        held.disk_bytes -= freed;
        freed
    }

    /// Ends the content: its file is evicted. Answers the bytes of the cap that it held.
    pub(super) fn end(&self) -> u64 {
        let mut held = self.lock();
        held.gone = true;
        std::mem::take(&mut held.disk_bytes)
    }

    fn claim(&self, chunk: u64, from: State) -> bool {
        let mut held = self.lock();
        let free = held.get(chunk) == from && !held.gone;
        if free {
            held.set(chunk, State::Busy);
        }
        free
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }
}

impl Held {
    fn get(&self, chunk: u64) -> State {
        let (number, at) = (chunk / CHUNKS_PER_WORD, chunk % CHUNKS_PER_WORD);
        self.words
            .binary_search_by_key(&number, |(number, _)| *number)
            .ok()
            .and_then(|index| self.words.get(index))
            .map_or(State::Absent, |(_, word)| state_in(*word, at))
    }

    fn set(&mut self, chunk: u64, state: State) {
        let (number, at) = (chunk / CHUNKS_PER_WORD, chunk % CHUNKS_PER_WORD);
        let index = self
            .words
            .binary_search_by_key(&number, |(number, _)| *number)
            .unwrap_or_else(|index| {
                self.words.insert(index, (number, 0));
                index
            });
        if let Some((_, word)) = self.words.get_mut(index) {
            *word = (*word & !(3 << (2 * at))) | (state as u64) << (2 * at);
        }
    }

    /// Marks every chunk that holds a byte of the ranges (offset, end).
    fn mark(&mut self, data: &[(u64, u64)], state: State) {
        for (start, end) in data {
            for chunk in start / CHUNK_BYTES..end.div_ceil(CHUNK_BYTES) {
                if self.get(chunk) == State::Absent {
                    self.set(chunk, state);
                }
            }
        }
    }
}

/// The state of the chunk at place `at` of a word.
fn state_in(word: u64, at: u64) -> State {
    match word >> (2 * at) & 3 {
        0 => State::Absent,
        1 => State::Busy,
        2 => State::Unverified,
        _ => State::Verified,
    }
}
