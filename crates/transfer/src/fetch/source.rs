//! Verified blocks, from the cache or the store, within a deadline; and the loop that serves `pack`.
//!
//! Invariant: a block that leaves here hashes to its CID, whatever the store gave; no call passes
//! its deadline. Called by `content`, `directory` and `root`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use futures::{StreamExt, TryStreamExt};
use pxfs_base::backoff::Backoff;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::flight::Flights;
use super::silence::Silence;
use crate::cache::Cache;
use crate::fs::{FsError, LostBlock};
use crate::pack::cid::Kind;
use crate::pack::{self, PackError};
use crate::store::{BlockStore, BlockStoreExt, Lookup, StoreError};

/// Blocks that are fetched at one time, by all together; each is 1 MiB at most.
const BLOCKS_AT_ONCE: usize = 16;
/// Rounds of the loop that serves `pack`: more than any tree has levels.
const MOST_ROUNDS: usize = 64;
/// The pause before the second try of what failed for the moment; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// How long the nodes may take to say that none has a block which a gateway does not give.
const SAY: Duration = Duration::from_secs(5);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Blocks at hand for one call of `pack`, or for several that follow one another.
pub type Held = HashMap<Cid, Bytes>;

/// Where blocks come from; a handle.
#[derive(Clone)]
pub struct Source {
    store: Arc<dyn BlockStore>,
    pub(crate) cache: Arc<Cache>,
    /// How long one try may take at first; twice as long after each that took too long.
    attempt: Duration,
    room: Arc<Semaphore>,
    nodes: Arc<Flights<Cid, Bytes>>,
    /// The nodes alone, if gateways are asked too: a block that no node has is lost, whatever a gateway fails to say.
    own_nodes: Option<Arc<dyn BlockStore>>,
    /// What fails calls at once; `None` for who has time.
    pub(super) silence: Option<Arc<Silence>>,
}

impl Source {
    pub(crate) fn new(store: Arc<dyn BlockStore>, cache: Arc<Cache>, attempt: Duration) -> Self {
        Self {
            store,
            cache,
            attempt,
            room: Arc::new(Semaphore::new(BLOCKS_AT_ONCE)),
            nodes: Arc::new(Flights::new()),
            own_nodes: None,
            silence: None,
        }
    }

    /// The same for calls of a mount, which want to know whether what they wait for is lost: what every node says that
    /// it has not got is, once the gateways have had the time of a try. Who acts on a loss does not take it from there: a
    /// gateway may have the block all the same.
    pub(super) fn for_calls(&self, own_nodes: Option<Arc<dyn BlockStore>>) -> Self {
        Self {
            nodes: Arc::new(Flights::new()),
            own_nodes,
            silence: Some(Arc::default()),
            ..self.clone()
        }
    }

    /// Where blocks come from that are not here.
    pub(crate) fn store(&self) -> &Arc<dyn BlockStore> {
        &self.store
    }

    /// The block `cid` from the store. What is transient is tried again until the deadline; where every node refuses,
    /// a call of a mount tries once more and no longer.
    pub(crate) async fn block(&self, cid: &Cid, deadline: Instant) -> Result<Bytes, FsError> {
        let mut attempt = self.attempt;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let (mut was_wrong, mut was_refused, mut begin) = (false, false, None);
        loop {
            if let Some(silence) = &self.silence {
                if silence.lasts() {
                    return Err(FsError::TimedOut);
                }
                silence.asked();
            }
            let Ok(room) = timeout_at(deadline, self.room.acquire()).await else {
                return Err(FsError::TimedOut);
            };
            let begin = *begin.get_or_insert_with(Instant::now);
            let end = deadline.min(Instant::now() + attempt);
            let how = if was_wrong {
                Lookup::Network
            } else {
                Lookup::Unverified
            };
            let answer = timeout_at(end, self.store.lookup(cid, how)).await;
            drop(room);
            if let (Ok(heard), Some(silence)) = (&answer, &self.silence) {
                match heard {
                    Err(StoreError::Away(_)) if was_refused => silence.refused(),
                    Err(StoreError::Away(_)) => was_refused = true,
                    _ => silence.heard(),
                }
            }
            match answer {
                Ok(Ok(bytes)) => match verified(cid, bytes).await {
                    Err(FsError::Lost(_)) if !was_wrong => {
                        was_wrong = true;
                        continue;
                    }
                    answer => return answer,
                },
                Ok(Err(StoreError::Transient(why) | StoreError::Away(why))) => {
                    tracing::debug!(%cid, why, "a block is tried again");
                }
                Ok(Err(error @ (StoreError::Missing(_) | StoreError::Corrupt(..)))) => {
                    return Err(lost(cid, error.to_string()));
                }
                Ok(Err(error)) => return Err(FsError::Damaged(error.to_string())),
                Err(_) => attempt = attempt.saturating_mul(2),
            }
            if begin.elapsed() >= self.attempt && self.is_on_no_node(cid, deadline).await {
                return Err(lost(
                    cid,
                    format!("block {cid} is on no node, and no gateway gives it"),
                ));
            }
            let next = Instant::now() + backoff.pause();
            if next >= deadline {
                return Err(FsError::TimedOut);
            }
            sleep_until(next).await;
        }
    }

    /// Whether each node says so, and whoever asks wants to know.
    async fn is_on_no_node(&self, cid: &Cid, deadline: Instant) -> bool {
        let Some(own_nodes) = &self.own_nodes else {
            return false;
        };
        let end = deadline.min(Instant::now() + SAY);
        let answer = timeout_at(end, own_nodes.get_local(cid)).await;
        matches!(answer, Ok(Err(StoreError::Missing(_))))
    }

    /// The node `cid`, from the cache or else from the store.
    pub(crate) async fn node(&self, cid: &Cid, deadline: Instant) -> Result<Bytes, FsError> {
        let (me, wanted) = (self.clone(), *cid);
        let flight = self.nodes.join(*cid, async move {
            let cache = Arc::clone(&me.cache);
            if let Some(bytes) = blocking(move || cache.node(&wanted)).await? {
                return Ok(bytes);
            }
            let bytes = me.block(&wanted, deadline).await?;
            let (cache, kept) = (Arc::clone(&me.cache), bytes.clone());
            blocking(move || cache.put_node(&wanted, &kept)).await?;
            Ok(bytes)
        });
        // Who began the flight may have had less time than this caller: then it is tried again.
        match timeout_at(deadline, flight).await {
            Ok(Err(FsError::TimedOut)) if Instant::now() < deadline => {
                self.block(cid, deadline).await
            }
            Ok(answer) => answer,
            Err(_) => Err(FsError::TimedOut),
        }
    }

    /// The block `cid`, verified, from the cache alone: as a node, or as chunk `chunk` (looked for
    /// where it is not known) of the content `of`, whose length is `size`.
    pub async fn cached(
        &self,
        cid: &Cid,
        of: &Cid,
        size: Option<u64>,
        chunk: Option<u64>,
    ) -> Result<Option<Bytes>, FsError> {
        let (cache, cid, of) = (Arc::clone(&self.cache), *cid, *of);
        let work = move || {
            let Some(size) = size.filter(|_| pack::cid::kind(&cid) == Ok(Kind::Leaf)) else {
                return cache.node(&cid);
            };
            let chunk =
                chunk.or_else(|| pack::file::chunk_of(&of, size, &cid, &Nodes(cache.as_ref())))?;
            let len = usize::try_from(pack::chunk::len(size, chunk)).ok()?;
            let mut bytes = vec![0; len];
            let start = chunk.checked_mul(pack::chunk::CHUNK_SIZE)?;
            if !cache.read(&of, size, start, &mut bytes) {
                // From an earlier run: it is verified below.
                bytes = cache.unverified(&of, size, chunk)?;
            }
            Some(Bytes::from(bytes))
        };
        let found = blocking(work).await?;
        Ok(found.filter(|bytes| pack::cid::verify(&cid, bytes).is_ok()))
    }

    /// Ends everything that is on its way.
    pub(super) fn end(&self) {
        self.nodes.end();
    }

    /// Calls `ask` with the blocks in `held` until it needs no more of them.
    pub(crate) async fn solve<T>(
        &self,
        held: &mut Held,
        deadline: Instant,
        mut ask: impl FnMut(&Held) -> Result<T, PackError>,
    ) -> Result<T, FsError> {
        for _ in 0..MOST_ROUNDS {
            let needed = match answer_or_needed(ask(held), held)? {
                Ok(answer) => return Ok(answer),
                Err(needed) => needed,
            };
            let fetched: Vec<(Cid, Bytes)> = futures::stream::iter(needed)
                .map(async |cid| Ok::<_, FsError>((cid, self.node(&cid, deadline).await?)))
                .buffer_unordered(BLOCKS_AT_ONCE)
                .try_collect()
                .await?;
            held.extend(fetched);
        }
        Err(endless())
    }
}

/// What was answered with the blocks in `held`, or which others that needs.
///
/// # Errors
/// [`FsError::Damaged`] where the blocks are not what they must be, or one is needed that was there.
pub(crate) fn answer_or_needed<T>(
    answer: Result<T, PackError>,
    held: &Held,
) -> Result<Result<T, Vec<Cid>>, FsError> {
    match answer {
        Ok(answer) => Ok(Ok(answer)),
        Err(PackError::Need(needed)) => {
            let is_endless = needed.is_empty() || needed.iter().any(|cid| held.contains_key(cid));
            match is_endless {
                true => Err(endless()),
                false => Ok(Err(needed)),
            }
        }
        Err(error) => Err(damaged(&error)),
    }
}

fn endless() -> FsError {
    FsError::Damaged("a tree of blocks without an end".to_owned())
}

/// The nodes that the cache has.
struct Nodes<'a>(&'a Cache);

impl pack::Blocks for Nodes<'_> {
    fn get(&self, cid: &Cid) -> Option<Bytes> {
        self.0.node(cid)
    }
}

/// What a refusal of `pack` means to a reader: what was published is not what it must be.
pub(crate) fn damaged(error: &PackError) -> FsError {
    FsError::Damaged(error.to_string())
}

/// The node does not have `cid`, or not as it was.
fn lost(cid: &Cid, why: String) -> FsError {
    FsError::Lost(Box::new(LostBlock {
        cid: *cid,
        chunk: None,
        why,
    }))
}

/// Runs what hashes, or waits for the local disk, beside the runtime.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FsError> {
    // It fails only when the work panicked or the runtime ends.
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| FsError::Disk(error.to_string()))
}

/// `bytes`, when they are what `cid` names.
async fn verified(cid: &Cid, bytes: Bytes) -> Result<Bytes, FsError> {
    let wanted = *cid;
    blocking(move || {
        pack::cid::verify(&wanted, &bytes)
            .map(|()| bytes)
            .map_err(|error| lost(&wanted, format!("block {wanted}: {error}")))
    })
    .await?
}
