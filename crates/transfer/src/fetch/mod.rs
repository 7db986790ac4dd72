//! Bringing to this machine what a call needs and what is not here: chunks of published contents
//! into the cache, entries of published directories into a volume, the root at a mount.
//!
//! Invariant: no byte and no entry arrives unverified, no call takes longer than the patience of
//! the mount, and what many want at once is fetched once. Called by `mount` (by way of `run`).

mod content;
mod directory;
mod flight;
pub mod remake;
mod root;
mod silence;
pub mod source;
mod walk;

use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::cache::Cache;
use crate::fs::{Drive, FsError, Want};
use crate::pack;
use crate::pack::cid::Kind;
use crate::pack::header::Header;
use crate::pack::root::Root;
use crate::store::BlockStore;
use crate::types::{Ino, VolumeKey};

pub use directory::DirectorySink;

use content::{Content, Contents};
use flight::Flights;
use silence::Silence;
use source::Source;
use walk::Walks;

/// A flight may take so many times what a caller waits.
const FLIGHT_PATIENCE: u32 = 2;
/// How long a call may take while no node answers: as long as it takes to find on this disk what is there.
const WITHOUT_NODES: Duration = Duration::from_secs(1);

/// Who knows the volumes of a mount.
pub trait Volumes: Send + Sync {
    /// The volume in `slot` of the mount; `None` when it has gone.
    fn volume(&self, slot: u16) -> Option<Arc<dyn DirectorySink>>;
    /// Whether another machine's newer tree has just taken the place of the volume in `slot`, which
    /// misses a block: then the call is made again.
    fn renew(&self, slot: u16) -> BoxFuture<'_, bool> {
        let _ = slot;
        Box::pin(std::future::ready(false))
    }
    /// Opens the volume in `slot`, which nobody has used yet. What was begun goes on when nobody waits for it.
    fn open(&self, slot: u16) -> BoxFuture<'_, Result<(), FsError>> {
        let _ = slot;
        Box::pin(std::future::ready(Err(FsError::NotFound)))
    }
}

impl Volumes for Drive {
    fn volume(&self, slot: u16) -> Option<Arc<dyn DirectorySink>> {
        Self::volume(self, slot).map(|volume| volume as Arc<dyn DirectorySink>)
    }
}

/// Brings what is wanted; one a mount. It must be used within a tokio runtime with time.
pub struct Fetcher {
    source: Arc<Source>,
    /// The same for the calls of the mount.
    for_calls: Arc<Source>,
    contents: Arc<Contents>,
    directories: Arc<Flights<(u16, Ino), ()>>,
    walks: Arc<Walks>,
    volumes: Arc<dyn Volumes>,
    patience: Duration,
    /// Whether the calls of the mount are given up.
    gives_up: watch::Sender<bool>,
}

impl Fetcher {
    /// Fetches from `store` into `cache` and `volumes`; one call takes `patience` at most. `store`
    /// need not verify nor try again. `own_nodes` are those of `store` that are no gateways, if it has gateways.
    #[must_use]
    pub fn new(
        store: Arc<dyn BlockStore>,
        own_nodes: Option<Arc<dyn BlockStore>>,
        cache: Arc<Cache>,
        volumes: Arc<dyn Volumes>,
        patience: Duration,
    ) -> Self {
        let source = Arc::new(Source::new(store, cache, patience / 2));
        let for_calls = Arc::new(source.for_calls(own_nodes));
        let directories = Arc::new(Flights::new());
        Self {
            walks: Arc::new(Walks::new(
                Arc::clone(&for_calls),
                Arc::clone(&directories),
                patience,
            )),
            contents: Arc::new(Contents::new(
                Arc::clone(&for_calls),
                patience * FLIGHT_PATIENCE,
            )),
            source,
            for_calls,
            directories,
            volumes,
            patience,
            gives_up: watch::Sender::new(false),
        }
    }

    /// From now on [`Fetcher::fetch`] fails at once, also where it is under way; or does not any more.
    pub fn give_up(&self, gives_up: bool) {
        self.gives_up.send_replace(gives_up);
    }

    /// Brings `want` to this machine: the call that asked for it finds it afterwards. The future
    /// may be dropped at any await; what it began goes on for a while.
    ///
    /// # Errors
    /// [`FsError::Lost`]: a block is missing or not what it must be; the volume has noted it.
    /// [`FsError::Damaged`]: what was published is refused.
    /// [`FsError::TimedOut`]: the store did not answer within the patience, or is given up.
    /// [`FsError::NotFound`]: the volume has gone. Errors of the volume's journal.
    pub async fn fetch(&self, want: Want) -> Result<(), FsError> {
        let mut gives_up = self.gives_up.subscribe();
        tokio::select! {
            // Its sender lives as long as this.
            _ = gives_up.wait_for(|gives_up| *gives_up) => Err(FsError::TimedOut),
            fetched = self.fetch_wanted(want) => fetched,
        }
    }

    async fn fetch_wanted(&self, want: Want) -> Result<(), FsError> {
        let work = async {
            match want {
                Want::Volume { slot } => self.volumes.open(slot).await,
                Want::Content {
                    slot,
                    ino,
                    cid,
                    size,
                    offset,
                    len,
                } => {
                    let content = Content { cid, size };
                    if let (true, Some(sink)) = (is_leaf(&cid), self.volumes.volume(slot)) {
                        self.walks.note(slot, ino, sink);
                        if self.walks.has_brought(&cid).await {
                            return Ok(());
                        }
                    }
                    let brought = self.contents.bring(content, offset, len).await;
                    if matches!(brought, Err(FsError::Lost(_))) && self.volumes.renew(slot).await {
                        return Ok(());
                    }
                    if let (Err(FsError::Lost(lost)), Some(sink)) =
                        (&brought, self.volumes.volume(slot))
                    {
                        let lost = lost.clone();
                        source::blocking(move || sink.note_lost(ino, &cid, &lost)).await?;
                    }
                    brought
                }
                Want::Directory { slot, dir } => {
                    let loaded = self.directory(slot, dir).await;
                    if matches!(loaded, Err(FsError::Lost(_))) && self.volumes.renew(slot).await {
                        return Ok(());
                    }
                    loaded
                }
            }
        };
        let (Some(silence), begin) = (&self.for_calls.silence, Instant::now()) else {
            return self.within(work).await;
        };
        if silence.lasts() {
            let limit = self.patience.min(WITHOUT_NODES);
            return (timeout_at(begin + limit, work).await).unwrap_or(Err(FsError::TimedOut));
        }
        let _waiting = Waiting {
            silence,
            begin,
            patience: self.patience,
        };
        self.within(work).await
    }

    /// The root of `volume` whose CID is `cid`, and its header.
    ///
    /// # Errors
    /// [`FsError::Damaged`]: missing, malformed, or of another token or epoch.
    /// [`FsError::TimedOut`]: the store did not answer within the patience.
    pub async fn load_root(
        &self,
        cid: &Cid,
        volume: &VolumeKey,
    ) -> Result<(Root, Header), FsError> {
        let deadline = Instant::now() + self.patience;
        self.within(root::load(&self.source, cid, volume, deadline))
            .await
    }

    /// Loads a directory into a volume that is not shown, perhaps.
    pub async fn load_directory(
        &self,
        volume: Arc<dyn DirectorySink>,
        dir: Ino,
    ) -> Result<(), FsError> {
        self.within(directory::load(&self.source, volume, dir, self.patience))
            .await
    }

    /// Where its blocks come from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    async fn directory(&self, slot: u16, dir: Ino) -> Result<(), FsError> {
        let sink = self.volumes.volume(slot).ok_or(FsError::NotFound)?;
        let source = Arc::clone(&self.for_calls);
        let patience = self.patience;
        let work = async move { directory::load(&source, sink, dir, patience).await };
        self.directories.join((slot, dir), work).await
    }

    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, FsError>>,
    ) -> Result<T, FsError> {
        timeout_at(Instant::now() + self.patience, work)
            .await
            .unwrap_or(Err(FsError::TimedOut))
    }
}

/// A call that waits; whoever it is of may give it up first.
struct Waiting<'a> {
    silence: &'a Silence,
    begin: Instant,
    patience: Duration,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // A call's deadline counts from its arrival, which was a little earlier.
        if self.begin.elapsed() >= self.patience.mul_f64(0.9) {
            self.silence.waited(self.begin);
        }
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.walks.end();
        self.contents.end();
        self.directories.end();
        self.source.end();
        self.for_calls.end();
    }
}

/// Whether a content is one leaf.
fn is_leaf(cid: &Cid) -> bool {
    pack::cid::kind(cid) == Ok(Kind::Leaf)
}

#[cfg(test)]
mod tests;
