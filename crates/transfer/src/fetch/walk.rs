//! Who reads a tree file by file, in the order of a listing: what stands behind is fetched before it is
//! asked for, many files in one call of the store.
//!
//! Invariant: nothing is fetched ahead of one who jumps. Ahead of one who goes on there are at most twice
//! [`MOST_FILES`] files, of [`MOST_BYTES`] in one step; directories that he has not come to are loaded only once
//! he has gone from one to the next. A wanted file waits for others beside it for [`PATIENCE`] at most.
//! Called by [`super::Fetcher`].

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::cid::Cid;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::directory::{self, DirectorySink};
use super::flight::Flights;
use super::source::{Source, blocking};
use crate::cache::Presence;
use crate::fs::{Behind, FsError, Place, What};
use crate::pack::cid;
use crate::types::Ino;

/// Files of one step ahead: at first, and at most.
const FIRST_FILES: usize = 8;
const MOST_FILES: usize = 512;
/// Their bytes.
const MOST_BYTES: u64 = 16 << 20;
/// Files and bytes of one call: at most, and at first.
const BATCH_FILES: usize = 64;
const FIRST_BATCH: usize = 16;
const BATCH_BYTES: u64 = 2 << 20;
/// Calls at one time.
const BATCHES_AT_ONCE: usize = 3;
/// A call that took less may be followed by a greater one, one that took more by a smaller one.
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(1);
/// A call that takes longer than this is given up.
const LONGEST: Duration = Duration::from_secs(5);
/// How long one who wants a file waits for the call that brings it with others.
const PATIENCE: Duration = Duration::from_millis(500);

/// Who goes on within so many entries has passed over the others.
const NEAR: usize = 8;
/// Who has gone on so often goes on in the next directory, too.
const STEADY: u32 = 3;
/// Walks that are remembered.
const WALKS: usize = 8;
/// Entries that are looked at in one go, and in one step; directories that are entered or left in it.
const LOOK: usize = 64;
const MOST_LOOKS: usize = 64;

/// One reader, as it looks from what he has missed.
struct Walk {
    id: u64,
    slot: u16,
    /// What was wanted last.
    last: Place,
    /// As far as was fetched ahead.
    end: Place,
    /// How often he went on.
    steps: u32,
    /// Files of the last step ahead.
    window: usize,
    /// Whether he has gone from one directory to the next.
    crosses: bool,
    /// What was fetched ahead in the last step, and in the one before.
    ahead: HashSet<(Ino, u64)>,
    before: HashSet<(Ino, u64)>,
    /// Left out in the middle of a step: who wants it has come so far, and the next step begins.
    mark: Option<Place>,
    is_planning: bool,
}

/// A step ahead.
struct Step {
    id: u64,
    from: Place,
    files: usize,
    crosses: bool,
}

/// All readers of a mount.
pub(super) struct Walks {
    source: Arc<Source>,
    directories: Arc<Flights<(u16, Ino), ()>>,
    /// The most recent one first.
    walks: Mutex<VecDeque<Walk>>,
    next_id: AtomicUsize,
    steps: Flights<u64, ()>,
    /// Files on their way with others.
    leaves: Flights<Cid, ()>,
    room: Arc<Semaphore>,
    /// Files of the next call.
    batch: AtomicUsize,
    /// How long one block of a directory may take.
    patience: Duration,
    /// Wants that are being looked at.
    #[cfg(test)]
    following: AtomicUsize,
}

impl Walks {
    pub(super) fn new(
        source: Arc<Source>,
        directories: Arc<Flights<(u16, Ino), ()>>,
        patience: Duration,
    ) -> Self {
        Self {
            source,
            directories,
            walks: Mutex::default(),
            next_id: AtomicUsize::new(0),
            steps: Flights::new(),
            leaves: Flights::new(),
            room: Arc::new(Semaphore::new(BATCHES_AT_ONCE)),
            batch: AtomicUsize::new(FIRST_BATCH),
            patience,
            #[cfg(test)]
            following: AtomicUsize::new(0),
        }
    }

    /// Whether the file whose only leaf is `leaf` was on its way with others, and has come.
    pub(super) async fn has_brought(&self, leaf: &Cid) -> bool {
        match self.leaves.find(leaf) {
            Some(answer) => matches!(timeout(PATIENCE, answer).await, Ok(Ok(()))),
            None => false,
        }
    }

    /// Notes that the file `ino` of one leaf was wanted and is not here. Waits for nothing.
    pub(super) fn note(self: &Arc<Self>, slot: u16, ino: Ino, sink: Arc<dyn DirectorySink>) {
        let me = Arc::clone(self);
        #[cfg(test)]
        me.following.fetch_add(1, Ordering::AcqRel);
        tokio::spawn(async move {
            let (looks, seen) = (Arc::clone(&me), Arc::clone(&sink));
            let step = blocking(move || looks.follow(slot, ino, seen.as_ref())).await;
            #[cfg(test)]
            me.following.fetch_sub(1, Ordering::AcqRel);
            let Ok(Ok(Some(step))) = step else { return };
            let id = step.id;
            let goes = Arc::clone(&me);
            let work = async move {
                let gone = timeout(goes.patience, goes.go_ahead(slot, step, sink)).await;
                goes.end_step(id);
                gone.unwrap_or(Err(FsError::TimedOut))
            };
            drop(me.steps.join(id, work));
        });
    }

    /// Ends everything that is on its way.
    pub(super) fn end(&self) {
        self.steps.end();
        self.leaves.end();
    }

    /// Which walk the want belongs to, and the step that is due for it.
    fn follow(
        &self,
        slot: u16,
        ino: Ino,
        sink: &dyn DirectorySink,
    ) -> Result<Option<Step>, FsError> {
        let Some(place) = sink.place_of(ino)? else {
            return Ok(None);
        };
        let known: Vec<(u64, Place, Place, u32)> = {
            let mut walks = self.lock();
            if let Some(at) = walks.iter().position(|walk| walk.expects(slot, place)) {
                return Ok(to_front(&mut walks, at).and_then(|walk| walk.go_on(place)));
            }
            let of_slot = walks.iter().filter(|walk| walk.slot == slot);
            of_slot
                .map(|walk| (walk.id, walk.last, walk.end, walk.steps))
                .collect()
        };
        let mut found = None;
        for (id, last, end, steps) in known {
            let begins = Place {
                dir: place.dir,
                at: 0,
            };
            let crosses = steps >= STEADY && place.dir != last.dir;
            if is_near(sink, last, place)?
                || is_near(sink, end, place)?
                || (crosses && is_near(sink, begins, place)?)
            {
                found = Some(id);
                break;
            }
        }
        let mut walks = self.lock();
        let at = found.and_then(|id| walks.iter().position(|walk| walk.id == id));
        if let Some(at) = at {
            return Ok(to_front(&mut walks, at).and_then(|walk| walk.begin_step(place)));
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) as u64;
        walks.push_front(Walk::new(id, slot, place));
        walks.truncate(WALKS);
        Ok(None)
    }

    /// Fetches what a step is due to bring.
    async fn go_ahead(
        self: &Arc<Self>,
        slot: u16,
        step: Step,
        sink: Arc<dyn DirectorySink>,
    ) -> Result<(), FsError> {
        let (mut files, mut bytes) = (step.files, MOST_BYTES);
        let marked = (step.files > FIRST_FILES).then_some(step.files / 2);
        let mut batch = Vec::new();
        let mut place = step.from;
        for _ in 0..MOST_LOOKS {
            let entries = self.look(&sink, place).await?;
            if entries.is_empty() {
                let (above, dir) = (Arc::clone(&sink), place.dir);
                match blocking(move || above.place_of(dir)).await?? {
                    Some(above) if step.crosses => place = above,
                    _ => break,
                }
                continue;
            }
            for (entry, is_here) in entries {
                place = entry.place;
                match entry.what {
                    What::Directory(dir) if step.crosses => {
                        self.load(slot, dir, &sink).await?;
                        place = Place { dir, at: 0 };
                        break;
                    }
                    What::Leaf(leaf, size) if !is_here => {
                        if marked == Some(files) {
                            self.note_ahead(step.id, &[], place, Some(place));
                        } else {
                            bytes = bytes.saturating_sub(size);
                            batch.push((place, leaf, size));
                        }
                        files -= 1;
                    }
                    _ => {}
                }
                if self.is_full(&batch) {
                    self.launch(step.id, std::mem::take(&mut batch)).await;
                }
                if files == 0 || bytes == 0 {
                    self.launch(step.id, batch).await;
                    return Ok(());
                }
            }
        }
        self.launch(step.id, batch).await;
        Ok(())
    }

    /// Some entries behind a place, and whether they are files that are here.
    async fn look(
        &self,
        sink: &Arc<dyn DirectorySink>,
        place: Place,
    ) -> Result<Vec<(Behind, bool)>, FsError> {
        let (sink, cache) = (Arc::clone(sink), Arc::clone(&self.source.cache));
        let look = move || {
            let entries = sink.behind(place, LOOK)?.into_iter();
            let looked = entries.map(|entry| match entry.what {
                What::Leaf(leaf, size) => {
                    (entry, cache.presence(&leaf, size, 0) != Presence::Absent)
                }
                _ => (entry, false),
            });
            Ok(looked.collect())
        };
        blocking(look).await?
    }

    async fn load(
        &self,
        slot: u16,
        dir: Ino,
        sink: &Arc<dyn DirectorySink>,
    ) -> Result<(), FsError> {
        let (source, sink, patience) = (Arc::clone(&self.source), Arc::clone(sink), self.patience);
        let work = async move { directory::load(&source, sink, dir, patience).await };
        self.directories.join((slot, dir), work).await
    }

    fn is_full(&self, batch: &[(Place, Cid, u64)]) -> bool {
        let bytes: u64 = batch.iter().map(|(_, _, size)| size).sum();
        batch.len() >= self.batch.load(Ordering::Relaxed) || bytes >= BATCH_BYTES
    }

    /// Begins a call for some files; waits while there are too many calls.
    async fn launch(self: &Arc<Self>, id: u64, batch: Vec<(Place, Cid, u64)>) {
        let Some((last, ..)) = batch.last() else {
            return;
        };
        // The semaphore is never closed.
        let Ok(room) = Arc::clone(&self.room).acquire_owned().await else {
            return;
        };
        let places: Vec<Place> = batch.iter().map(|(place, ..)| *place).collect();
        self.note_ahead(id, &places, *last, None);
        let leaves: Vec<(Cid, u64)> = batch
            .into_iter()
            .map(|(_, cid, size)| (cid, size))
            .collect();
        let cids: Vec<Cid> = leaves.iter().map(|(cid, _)| *cid).collect();
        let me = Arc::clone(self);
        self.leaves.begin_together(&cids, async move {
            let _room = room;
            timeout(LONGEST, me.bring(leaves))
                .await
                .unwrap_or(Err(FsError::TimedOut))
        });
    }

    /// Brings some files into the cache.
    async fn bring(&self, leaves: Vec<(Cid, u64)>) -> Result<(), FsError> {
        let begin = Instant::now();
        let answer = timeout(LONGEST, self.source.store().get_leaves(&leaves)).await;
        let now = self.batch.load(Ordering::Relaxed);
        let next = match (&answer, begin.elapsed()) {
            (Ok(Ok(_)), took) if took < SHORT => now * 2,
            (Ok(Ok(_)), took) if took < LONG => now,
            _ => now / 2,
        };
        self.batch
            .store(next.clamp(1, BATCH_FILES), Ordering::Relaxed);
        let found = match answer {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(%error, "files ahead of a reader do not come together");
                return Err(FsError::TimedOut);
            }
            Err(_) => return Err(FsError::TimedOut),
        };
        let cache = Arc::clone(&self.source.cache);
        let fill = move || {
            for ((leaf, size), bytes) in leaves.iter().zip(found) {
                if bytes.len() as u64 == *size && cid::verify(leaf, &bytes).is_ok() {
                    cache.fill(leaf, *size, 0, &bytes);
                }
            }
        };
        blocking(fill).await
    }

    fn note_ahead(&self, id: u64, places: &[Place], end: Place, mark: Option<Place>) {
        let mut walks = self.lock();
        if let Some(walk) = walks.iter_mut().find(|walk| walk.id == id) {
            walk.ahead
                .extend(places.iter().map(|place| (place.dir, place.at)));
            walk.end = end;
            walk.mark = mark.or(walk.mark);
        }
    }

    fn end_step(&self, id: u64) {
        let mut walks = self.lock();
        if let Some(walk) = walks.iter_mut().find(|walk| walk.id == id) {
            walk.is_planning = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Walk>> {
        self.walks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Walk {
    fn new(id: u64, slot: u16, place: Place) -> Self {
        Self {
            id,
            slot,
            last: place,
            end: place,
            steps: 0,
            window: 0,
            crosses: false,
            ahead: HashSet::new(),
            before: HashSet::new(),
            mark: None,
            is_planning: false,
        }
    }

    /// Whether `place` is what was fetched ahead, or would show how far the reader has come.
    fn expects(&self, slot: u16, place: Place) -> bool {
        let key = (place.dir, place.at);
        self.slot == slot
            && (self.mark == Some(place) || self.ahead.contains(&key) || self.before.contains(&key))
    }

    /// The reader wants what was expected.
    fn go_on(&mut self, place: Place) -> Option<Step> {
        self.note(place);
        if self.mark != Some(place) {
            return None;
        }
        self.step_from(self.end)
    }

    /// The reader has come past all that was fetched ahead.
    fn begin_step(&mut self, place: Place) -> Option<Step> {
        self.note(place);
        self.step_from(place)
    }

    fn note(&mut self, place: Place) {
        self.steps = self.steps.saturating_add(1);
        self.crosses |= place.dir != self.last.dir;
        self.last = place;
    }

    fn step_from(&mut self, from: Place) -> Option<Step> {
        if std::mem::replace(&mut self.is_planning, true) {
            return None;
        }
        self.window = (self.window * 2).clamp(FIRST_FILES, MOST_FILES);
        self.before = std::mem::take(&mut self.ahead);
        self.mark = None;
        self.end = from;
        Some(Step {
            id: self.id,
            from,
            files: self.window,
            crosses: self.crosses,
        })
    }
}

/// Whether `place` is one of the next few behind `from`.
fn is_near(sink: &dyn DirectorySink, from: Place, place: Place) -> Result<bool, FsError> {
    if from.dir != place.dir || from.at >= place.at {
        return Ok(false);
    }
    let behind = sink.behind(from, NEAR)?;
    Ok(behind.iter().any(|entry| entry.place == place))
}

fn to_front(walks: &mut VecDeque<Walk>, at: usize) -> Option<&mut Walk> {
    let walk = walks.remove(at)?;
    walks.push_front(walk);
    walks.front_mut()
}

#[cfg(test)]
mod tests;
