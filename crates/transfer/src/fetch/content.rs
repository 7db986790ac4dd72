//! Ranges of published contents: chunks that are brought into the cache, and those that a reader
//! who goes straight on will want next.
//!
//! Invariant: a chunk is fetched by one flight at a time; a chunk that an earlier run left is
//! hashed before it counts; reading ahead never makes a wanted chunk wait. Called by
//! [`super::Fetcher`].

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::cid::Cid;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lru::LruCache;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::flight::Flights;
use super::source::{Held, Source, blocking};
use crate::cache::{By, CHUNK_BYTES, Presence};
use crate::fs::FsError;
use crate::pack::{chunk, cid, file};

const _: () = assert!(CHUNK_BYTES == chunk::CHUNK_SIZE);

/// Chunks of one want that are fetched at one time.
const CHUNKS_AT_ONCE: usize = 8;
/// Chunks that are read ahead of one reader at most.
const MOST_AHEAD: u64 = 8;
/// Chunks that are read ahead at one time, of all readers.
const AHEAD_AT_ONCE: usize = 12;
/// Chunks on their way to the disk behind their readers.
const BEHIND_AT_ONCE: usize = 8;
/// Contents whose readers are remembered.
const READERS: usize = 256;

/// Stands for the plan what to read ahead, in place of a chunk's number.
const PLAN: u64 = u64::MAX;

/// What is fetched of one content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// CID of the whole content.
    pub(super) cid: Cid,
    /// Its length in bytes.
    pub(super) size: u64,
}

/// How a content was read lately.
#[derive(Clone, Copy, Debug)]
struct Reader {
    /// The chunk that the last want began with.
    last: u64,
    /// The first chunk that was neither wanted nor read ahead.
    end: u64,
    /// Chunks to read ahead.
    ahead: u64,
    /// How far the last want lay from the one before it, in chunks; 0: there was none, or he goes straight on.
    stride: i64,
    /// How many wants of this stride were read ahead of the last one.
    strides: u64,
}

impl Reader {
    /// The reader after a want, and what he will want next of `count` chunks, where he goes on in equal
    /// strides, forwards or backwards: with one that he makes for the second time, or over some that
    /// were read ahead.
    fn stride_to(self, wanted: &Range<u64>, count: u64) -> Option<(Self, Vec<Range<u64>>)> {
        let distance = wanted.start.wrapping_sub(self.last).cast_signed();
        let taken = u64::try_from(distance.checked_div(self.stride)?).ok()?;
        if distance % self.stride != 0 || !(1..=self.strides + 1).contains(&taken) {
            return None;
        }
        let ahead = (self.ahead * 2).clamp(2, MOST_AHEAD);
        let done = self.strides.saturating_sub(taken);
        let width = wanted.end - wanted.start;
        let want = |step: u64| {
            let chunks = self.stride.checked_mul(step.cast_signed())?;
            let start = wanted.start.checked_add_signed(chunks)?;
            (start < count).then(|| start..count.min(start + width))
        };
        let next = (done + 1..=ahead).filter_map(want).collect();
        let reader = Self {
            last: wanted.start,
            end: wanted.end,
            ahead,
            strides: ahead,
            ..self
        };
        Some((reader, next))
    }
}

/// Contents on their way into the cache.
pub(super) struct Contents {
    source: Arc<Source>,
    /// By content and chunk.
    flights: Flights<(Cid, u64), ()>,
    readers: Mutex<LruCache<Cid, Reader>>,
    ahead: Arc<Semaphore>,
    behind: Arc<Semaphore>,
    /// How long a flight may take: longer than a caller waits, so that a slow node is read from in
    /// the end by one who asks again.
    flight: Duration,
}

impl Contents {
    pub(super) fn new(source: Arc<Source>, flight: Duration) -> Self {
        Self {
            source,
            flights: Flights::new(),
            readers: Mutex::new(LruCache::unbounded()),
            ahead: Arc::new(Semaphore::new(AHEAD_AT_ONCE)),
            behind: Arc::new(Semaphore::new(BEHIND_AT_ONCE)),
            flight,
        }
    }

    /// Brings the bytes [offset, offset + len) of `content` into the cache.
    pub(super) async fn bring(
        self: &Arc<Self>,
        content: Content,
        offset: u64,
        len: u64,
    ) -> Result<(), FsError> {
        let end = offset.saturating_add(len).min(content.size);
        if offset >= end {
            return Ok(());
        }
        let wanted = offset / CHUNK_BYTES..end.div_ceil(CHUNK_BYTES);
        let ahead = self.follow(content, wanted.clone());
        if !ahead.is_empty() {
            self.read_ahead(content, ahead);
        }
        // A chunk under way needs no leaf looked up, and a want of many chunks not all at once.
        let mut from = wanted.start;
        while from < wanted.end {
            let to = wanted.end.min(from + CHUNKS_AT_ONCE as u64);
            self.bring_some(content, from..to).await?;
            from = to;
        }
        Ok(())
    }

    async fn bring_some(
        self: &Arc<Self>,
        content: Content,
        chunks: Range<u64>,
    ) -> Result<(), FsError> {
        let leaves = self.leaves(content, chunks).await?;
        futures::stream::iter(leaves)
            .map(|(chunk, leaf)| {
                let work = Arc::clone(self).chunk(content, chunk, leaf);
                Ok(self.flights.join((content.cid, chunk), work))
            })
            .try_buffer_unordered(CHUNKS_AT_ONCE)
            .try_collect()
            .await
    }

    /// The leaves of some chunks of a content.
    async fn leaves(
        &self,
        content: Content,
        chunks: Range<u64>,
    ) -> Result<Vec<(u64, Cid)>, FsError> {
        let deadline = Instant::now() + self.flight;
        let mut held = Held::new();
        self.source
            .solve(&mut held, deadline, |held| {
                file::leaves(&content.cid, content.size, chunks.clone(), held)
            })
            .await
    }

    /// One flight: a chunk comes into the cache, or is found there.
    async fn chunk(
        self: Arc<Self>,
        content: Content,
        chunk: u64,
        leaf: Cid,
    ) -> Result<(), FsError> {
        let deadline = Instant::now() + self.flight;
        let cache = Arc::clone(&self.source.cache);
        if blocking(move || is_here(&cache, content, chunk, &leaf)).await? {
            return Ok(());
        }
        let bytes = match self.source.block(&leaf, deadline).await {
            Err(FsError::Lost(mut lost)) => {
                lost.chunk = Some(chunk);
                return Err(FsError::Lost(lost));
            }
            other => other?,
        };
        if bytes.len() as u64 != chunk::len(content.size, chunk) {
            let cid = content.cid;
            let text = format!("leaf {leaf} of {cid} has {} bytes", bytes.len());
            return Err(FsError::Damaged(text));
        }
        tracing::trace!(content = %content.cid, chunk, "fetched");
        self.keep(content, chunk, bytes).await
    }

    /// Takes a verified chunk into the cache: in memory at once, and on the disk, which its reader does not
    /// wait for as long as it keeps up.
    async fn keep(&self, content: Content, chunk: u64, bytes: Bytes) -> Result<(), FsError> {
        let cache = Arc::clone(&self.source.cache);
        let room = Arc::clone(&self.behind).try_acquire_owned().ok();
        let held = room.filter(|_| cache.hold(&content.cid, content.size, chunk, &bytes));
        let Some(room) = held else {
            return blocking(move || cache.fill(&content.cid, content.size, chunk, &bytes)).await;
        };
        let write = move || {
            cache.fill_by(By::Disk, &content.cid, content.size, chunk, &bytes);
            drop(room);
        };
        // It ends by itself: what comes of it only the next reader would notice.
        drop(tokio::task::spawn_blocking(write));
        Ok(())
    }

    /// Notes a want, and tells which chunks its reader will want next: none for one who jumps.
    fn follow(&self, content: Content, wanted: Range<u64>) -> Vec<Range<u64>> {
        let count = chunk::count(content.size);
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = readers.get(&content.cid).copied();
        if let Some((reader, next)) = known.and_then(|known| known.stride_to(&wanted, count)) {
            readers.put(content.cid, reader);
            return next;
        }
        let reader = match known {
            // Straight on: behind the last want, as far as was read ahead.
            Some(known) if (known.last + 1..=known.end).contains(&wanted.start) => Reader {
                last: wanted.start,
                end: known.end.max(wanted.end),
                ahead: (known.ahead * 2).clamp(2, MOST_AHEAD),
                stride: 0,
                strides: 0,
            },
            // The same chunk again: another reader beside the first, or a fetch that failed.
            Some(known) if known.last == wanted.start && wanted.end <= known.end => known,
            _ => Reader {
                last: wanted.start,
                end: wanted.end,
                ahead: 0,
                stride: known.map_or(0, |known| {
                    wanted.start.wrapping_sub(known.last).cast_signed()
                }),
                strides: 0,
            },
        };
        let end = count.min((wanted.end + reader.ahead).max(reader.end));
        let next = reader.end..end;
        readers.put(content.cid, Reader { end, ..reader });
        while readers.len() > READERS {
            readers.pop_lru();
        }
        match next.is_empty() {
            true => Vec::new(),
            false => vec![next],
        }
    }

    /// Begins flights for `chunks`, as far as there is room for them; waits for none.
    fn read_ahead(self: &Arc<Self>, content: Content, chunks: Vec<Range<u64>>) {
        if self.ahead.available_permits() == 0 {
            return;
        }
        let me = Arc::clone(self);
        let plan = self.flights.join((content.cid, PLAN), async move {
            let mut leaves = Vec::new();
            for chunks in chunks {
                leaves.extend(me.leaves(content, chunks).await?);
            }
            for (chunk, leaf) in leaves {
                let key = (content.cid, chunk);
                if me.flights.is_under_way(&key) {
                    continue;
                }
                let Ok(room) = Arc::clone(&me.ahead).try_acquire_owned() else {
                    break;
                };
                let work = Arc::clone(&me).chunk(content, chunk, leaf);
                let answer = me.flights.join(key, async move {
                    let _room = room;
                    work.await
                });
                // Who wants the chunk later hears of its failure.
                drop(answer);
            }
            Ok(())
        });
        // It runs without being waited for.
        drop(plan);
    }

    /// Ends everything that is on its way.
    pub(super) fn end(&self) {
        self.flights.end();
    }
}

/// Whether a chunk is in the cache; one that an earlier run left is hashed now.
fn is_here(cache: &crate::cache::Cache, content: Content, chunk: u64, leaf: &Cid) -> bool {
    match cache.presence(&content.cid, content.size, chunk) {
        Presence::Verified => true,
        Presence::Absent => false,
        Presence::Unverified => {
            let Some(bytes) = cache.unverified(&content.cid, content.size, chunk) else {
                return false;
            };
            let right = cid::verify(leaf, &bytes).is_ok();
            if right {
                cache.trust(&content.cid, content.size, chunk);
            } else {
                tracing::warn!(content = %content.cid, chunk, "the cache holds other bytes");
                cache.discard(&content.cid, content.size, chunk);
            }
            right
        }
    }
}
