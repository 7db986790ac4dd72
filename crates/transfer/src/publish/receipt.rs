//! Receipts: which blocks the node has acknowledged, so that a commit taken up again sends nothing
//! twice, also after a restart.
//!
//! Invariant: a receipt is a hint. What the node has lost since is found when the root is pinned, or
//! when some of a commit is read back; then none counts any more. They are kept in the volume's journal, without
//! waiting for its disk: one that a power cut takes is a block sent twice. Called by `upload`, `commit`,
//! `sample` and `heal`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cid::Cid;

use crate::fs::{ChunkVersion, Volume};
use crate::journal::record::CidBytes;

/// How many acknowledged blocks are remembered at least; at most twice as many.
const RECEIPTS: usize = 250_000;

/// How many notes of acknowledged blocks are kept in the journal, each of one request.
const NOTES: u64 = 16_384;

/// A note that is older than this, seconds, is not taken up: what an old root held alone may be
/// collected since.
const NOTE_S: u64 = 12 * 3600;

/// After so many commits of which nothing was lost the next one's blocks are held by its own pin alone again.
const STEADY: u32 = 16;

/// How many chunks are remembered that were sent before their commit.
const CHUNKS: usize = 65_536;

/// The blocks that the node has acknowledged; a handle.
#[derive(Clone)]
pub(super) struct Receipts {
    known: Arc<Mutex<Known>>,
    /// The chunks that left since the last commit and before the next.
    chunks: Arc<Mutex<Chunks>>,
    /// Where they are kept.
    volume: Option<Arc<Volume>>,
    /// Moves with every block that is built or acknowledged: a commit that stands still is stuck.
    pulse: Arc<AtomicU64>,
    /// See [`Receipts::moved`].
    moved: Arc<AtomicU64>,
    /// Whether no try has failed since the last commit: then building is coming on.
    fresh: Arc<AtomicBool>,
    /// Commits in a row of which all came back that was asked for.
    verified: Arc<AtomicU32>,
    /// Whether blocks were lost that no pin held yet.
    losing: Arc<AtomicBool>,
    /// See [`Receipts::whole`].
    whole: Arc<Mutex<Option<CidBytes>>>,
    /// Whether another node was written to before, and this one has not been seen to hold what was published then.
    pub(super) is_of_new_node: bool,
}

/// Chunks by stage file and index: the version that left, and the block that it is once the node has
/// acknowledged it.
type Chunks = HashMap<(u64, u64), (u64, Option<Cid>)>;

#[derive(Default)]
struct Known {
    /// By the beginning of the digest: what is taken for a block that it is not is missed at the pin.
    blocks: HashMap<u128, Receipt>,
    /// Those before: forgotten when the others are [`RECEIPTS`].
    older: HashMap<u128, Receipt>,
    /// Receipts of an earlier age count no more.
    age: u32,
    /// The numbers of the notes in the journal.
    first_note: u64,
    next_note: u64,
}

#[derive(Clone, Copy)]
struct Receipt {
    age: u32,
    /// How often the block was acknowledged.
    times: u32,
}

impl Receipts {
    /// None yet, and nothing is kept.
    #[cfg(test)]
    pub(super) fn new() -> Self {
        Self::with(Known::default(), None)
    }

    /// Those that `volume` keeps of the node that is called `node`; those of another go.
    pub(super) fn of(volume: &Arc<Volume>, node: &str) -> Self {
        let (notes, is_of_new_node) = volume.notes().begin_receipts(node).unwrap_or_else(|error| {
            tracing::warn!(%error, "what the node has acknowledged is not known: it is sent again");
            (Vec::new(), false)
        });
        let mut known = Known::default();
        let oldest_s = volume.now_s().saturating_sub(NOTE_S);
        if let (Some((first, _)), Some((last, _))) = (notes.first(), notes.last()) {
            (known.first_note, known.next_note) = (*first, last + 1);
        }
        for (_, note) in &notes {
            let Some((time_s, blocks)) = note.split_first_chunk::<8>() else {
                continue;
            };
            if u64::from_be_bytes(*time_s) < oldest_s {
                continue;
            }
            for key in blocks.as_chunks::<16>().0 {
                known.remember(u128::from_be_bytes(*key), Receipt { age: 0, times: 1 });
            }
        }
        Self {
            is_of_new_node,
            ..Self::with(known, Some(Arc::clone(volume)))
        }
    }

    fn with(known: Known, volume: Option<Arc<Volume>>) -> Self {
        Self {
            known: Arc::new(Mutex::new(known)),
            chunks: Arc::default(),
            whole: Arc::default(),
            is_of_new_node: false,
            volume,
            pulse: Arc::default(),
            moved: Arc::new(AtomicU64::new(1)),
            fresh: Arc::new(AtomicBool::new(true)),
            verified: Arc::default(),
            losing: Arc::default(),
        }
    }

    /// Moves while publishing comes nearer to its end: with commits, with blocks that the node did
    /// not have, and with what a first try builds. Not with what a try that fails does again.
    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// A commit was made, or a try has failed.
    pub(super) fn note_end(&self, is_made: bool) {
        self.fresh.store(is_made, Ordering::Relaxed);
        self.moved.fetch_add(u64::from(is_made), Ordering::Relaxed);
    }

    /// Whether no try has failed since the last commit.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh.load(Ordering::Relaxed)
    }

    /// Commits in a row of which all came back that was asked for.
    pub(super) fn verified(&self) -> u32 {
        self.verified.load(Ordering::Relaxed)
    }

    /// Whether blocks of one of the last commits were lost before it was pinned: the node may be collecting what no pin
    /// holds, again and again.
    pub(super) fn is_losing(&self) -> bool {
        self.losing.load(Ordering::Relaxed) && self.verified() < STEADY
    }

    /// Blocks of a commit were lost before it was pinned.
    pub(super) fn note_losing(&self) {
        self.losing.store(true, Ordering::Relaxed);
        self.forget();
    }

    /// All that was asked for of a commit came back.
    pub(super) fn note_verified(&self) {
        self.verified.fetch_add(1, Ordering::Relaxed);
    }

    /// What moves while a commit comes on.
    pub(super) fn pulse(&self) -> u64 {
        self.pulse.load(Ordering::Relaxed)
    }

    pub(super) fn beat(&self) {
        self.pulse.fetch_add(1, Ordering::Relaxed);
    }

    /// A block is built, or a lost one looked at.
    pub(super) fn note_step(&self) {
        self.beat();
        let fresh = self.fresh.load(Ordering::Relaxed);
        self.moved.fetch_add(u64::from(fresh), Ordering::Relaxed);
    }

    /// More of what is doubted was found on the node, or more of what it has lost is told.
    pub(super) fn note_found(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// What was doubted since this root was all found on the node.
    pub(super) fn note_whole(&self, since: CidBytes) {
        *self.lock_whole() = Some(since);
    }

    /// What was noted so, until it was of use.
    pub(super) fn whole(&self) -> Option<CidBytes> {
        *self.lock_whole()
    }

    /// Forgets `since`, which was of use.
    pub(super) fn forget_whole(&self, since: CidBytes) {
        self.lock_whole().take_if(|whole| *whole == since);
    }

    fn lock_whole(&self) -> MutexGuard<'_, Option<CidBytes>> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has(&self, cid: &Cid) -> bool {
        let known = self.known();
        let receipt = known.receipt(short(cid));
        receipt.is_some_and(|receipt| receipt.age == known.age)
    }

    /// The node has acknowledged these.
    pub(super) fn note(&self, cids: impl Iterator<Item = Cid>) {
        let mut keys = Vec::new();
        let mut known = self.known();
        let age = known.age;
        for key in cids.map(|cid| short(&cid)) {
            let before = known.receipt(key).map_or(0, |receipt| receipt.times);
            let times = before.saturating_add(1);
            known.remember(key, Receipt { age, times });
            // What a node has lost comes again; one that loses it every time gets nowhere.
            let moved = u64::from(times <= 2);
            self.moved.fetch_add(moved, Ordering::Relaxed);
            keys.push(key);
        }
        let Some(volume) = self.volume.as_ref().filter(|_| !keys.is_empty()) else {
            return;
        };
        let number = known.next_note;
        known.next_note += 1;
        let oldest = known.next_note.saturating_sub(NOTES);
        let gone = known.first_note..oldest.max(known.first_note);
        known.first_note = gone.end;
        let time_s = volume.now_s().to_be_bytes();
        let keys = keys.iter().flat_map(|key| key.to_be_bytes());
        let note: Vec<u8> = time_s.into_iter().chain(keys).collect();
        // Under the lock: what is forgotten later must not come after it.
        keep(volume, Some((number, note.into())), gone);
    }

    /// The node lost blocks: no receipt counts any more.
    pub(super) fn forget(&self) {
        self.verified.store(0, Ordering::Relaxed);
        let mut known = self.known();
        known.age += 1;
        let gone = known.first_note..known.next_note;
        known.first_note = known.next_note;
        if let Some(volume) = self.volume.as_ref().filter(|_| !gone.is_empty()) {
            keep(volume, None, gone);
        }
    }

    /// The node has lost this one: it is sent again.
    pub(super) fn forget_block(&self, cid: &Cid) {
        let mut known = self.known();
        let key = short(cid);
        known.blocks.remove(&key);
        known.older.remove(&key);
    }

    /// A chunk is about to leave before its commit; false where it did already, at this version or another.
    pub(super) fn begin_chunk(&self, at: ChunkVersion) -> bool {
        let mut chunks = self.chunks();
        let key = (at.stage, at.index);
        if chunks.len() >= CHUNKS || chunks.contains_key(&key) {
            return false;
        }
        chunks.insert(key, (at.version, None));
        true
    }

    /// The node has acknowledged `cid`, which is that chunk.
    pub(super) fn note_chunk(&self, at: ChunkVersion, cid: Cid) {
        let mut chunks = self.chunks();
        if let Some(left) = chunks.get_mut(&(at.stage, at.index)) {
            *left = (at.version, Some(cid));
        }
    }

    /// The block of a chunk at this version, if it left before and the node has it as far as is known.
    pub(super) fn chunk(&self, at: &ChunkVersion) -> Option<Cid> {
        let left = self.chunks().get(&(at.stage, at.index)).copied();
        let (version, cid) = left?;
        cid.filter(|cid| version == at.version && self.has(cid))
    }

    /// A commit was made: what leaves from here on is for the next one.
    pub(super) fn forget_chunks(&self) {
        self.chunks().clear();
    }

    fn chunks(&self) -> MutexGuard<'_, Chunks> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn receipt(&self, key: u128) -> Option<Receipt> {
        let found = self.blocks.get(&key).or_else(|| self.older.get(&key));
        found.copied()
    }

    fn remember(&mut self, key: u128, receipt: Receipt) {
        if self.blocks.len() >= RECEIPTS {
            self.older = std::mem::take(&mut self.blocks);
        }
        self.blocks.insert(key, receipt);
    }
}

/// What cannot be kept is sent again one day; the journal's own failure is told elsewhere.
fn keep(volume: &Volume, note: Option<(u64, Bytes)>, gone: std::ops::Range<u64>) {
    if let Err(error) = volume.notes().store_receipt(note, gone) {
        tracing::debug!(%error, "what the node has acknowledged is not kept");
    }
}

/// Codec and beginning of the digest: the same bytes as a leaf and as a node are two blocks.
pub(super) fn short(cid: &Cid) -> u128 {
    let begin = cid.hash().digest().iter().take(16);
    let begin = begin.fold(0, |all, byte| all << 8 | u128::from(*byte));
    begin ^ u128::from(cid.codec())
}
