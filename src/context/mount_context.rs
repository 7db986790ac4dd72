//! What the tokens of one contract stand on: its parts, and the state folder, the cache, the drive, which it
//! shares with the other contracts of the mount.
//!
//! Invariant: one state folder, cache and drive a process. Built by `daemon`, `detach` and `blocks`.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::Context;
use futures::future::BoxFuture;

use super::commit_threads::Commits;
use super::flusher::Flushers;
use super::state_dir::StateDir;
use crate::cache::Cache;
use crate::contracts::Parts;
use crate::control::private_folder;
use crate::exit::fail;
use crate::fetch::{DirectorySink, Fetcher, Volumes};
use crate::fs::{Drive, FsError, Volume};
use crate::types::VolumeKey;

/// What the tokens of one contract stand on.
pub(crate) struct MountContext {
    pub(crate) parts: Arc<Parts>,
    pub(crate) state_dir: Arc<StateDir>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) drive: Arc<Drive>,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) commits: Arc<Commits>,
    pub(crate) keepers: Arc<Flushers>,
    shown: Arc<Shown>,
}

impl MountContext {
    /// A drive without tokens yet.
    ///
    /// # Errors
    /// The cache folder cannot be used.
    pub(crate) async fn build(
        parts: Arc<Parts>,
        state_dir: Arc<StateDir>,
    ) -> anyhow::Result<Arc<Self>> {
        let config = &parts.config;
        let (folder, cap) = (config.cache_dir.clone(), config.cache_bytes);
        let what = format!("cache folder {}", folder.display());
        if let Err(fault) = private_folder(&folder) {
            fail!(Usage, "{what}: {fault}: give another --cache-dir");
        }
        let cache = tokio::task::spawn_blocking(move || Cache::open(&folder, cap)).await?;
        let cache = Arc::new(cache.context(what)?);
        let owner = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let drive = Arc::new(Drive::new(owner, parts.clock.wall_ns()));
        let shown = Arc::new(Shown {
            drive: Arc::clone(&drive),
            tokens: Mutex::default(),
        });
        let volumes: Arc<dyn Volumes> = Arc::<Shown>::clone(&shown);
        let fetcher = Arc::new(Fetcher::new(
            Arc::clone(&parts.node.reads),
            parts.node.own_nodes.clone(),
            Arc::clone(&cache),
            volumes,
            config.read_timeout,
        ));
        Ok(Arc::new(Self {
            parts,
            state_dir,
            cache,
            drive,
            fetcher,
            commits: Arc::new(Commits::begin()?),
            keepers: Arc::new(Flushers::begin()?),
            shown,
        }))
    }

    /// The same for another contract.
    fn beside(&self, parts: Arc<Parts>) -> Arc<Self> {
        Arc::new(Self {
            parts,
            state_dir: Arc::clone(&self.state_dir),
            cache: Arc::clone(&self.cache),
            drive: Arc::clone(&self.drive),
            fetcher: Arc::clone(&self.fetcher),
            commits: Arc::clone(&self.commits),
            keepers: Arc::clone(&self.keepers),
            shown: Arc::clone(&self.shown),
        })
    }

    /// This one, and one beside it for each of `all` but the first, whose it is.
    pub(crate) fn with_others(self: Arc<Self>, all: &[Arc<Parts>]) -> Vec<Arc<Self>> {
        let others = all
            .iter()
            .skip(1)
            .map(|parts| self.beside(Arc::clone(parts)));
        let others: Vec<_> = others.collect();
        std::iter::once(self).chain(others).collect()
    }

    /// From now on `tokens` are asked for newer trees, too.
    pub(crate) fn renew_by(&self, tokens: Weak<dyn ShownVolumes>) {
        self.shown.all().push(tokens);
    }

    /// The volume `key`, where it is shown.
    pub(crate) fn shown_volume(&self, key: &VolumeKey) -> Option<Arc<Volume>> {
        let shown = self.shown_by();
        shown.iter().find_map(|tokens| tokens.volume(key))
    }

    /// Whether anything is shown, or about to be.
    pub(crate) fn shows_any(&self) -> bool {
        !self.shown_by().is_empty()
    }

    /// The tokens of each contract, where anything is shown.
    fn shown_by(&self) -> Vec<Arc<dyn ShownVolumes>> {
        let shown = self.shown.all();
        shown.iter().filter_map(Weak::upgrade).collect()
    }
}

/// The volumes that the tokens of one contract show in the drive.
pub(crate) trait ShownVolumes: Send + Sync {
    /// The volume `key`, where it is shown.
    fn volume(&self, key: &VolumeKey) -> Option<Arc<Volume>>;
    /// Whether a volume is shown in `slot`.
    fn has_slot(&self, slot: u16) -> bool;
    /// Whether the token in `slot` is shown, and its volume not opened yet.
    fn is_unopened(&self, slot: u16) -> bool;
    /// The volume in `slot` misses a block: whether a newer tree has just taken its place.
    fn renew(&self, slot: u16) -> BoxFuture<'_, bool>;
    /// Opens the volume of the token in `slot`.
    fn open_slot(self: Arc<Self>, slot: u16) -> BoxFuture<'static, Result<(), FsError>>;
}

/// The fetcher's view of the drive.
struct Shown {
    drive: Arc<Drive>,
    /// Of each contract.
    tokens: Mutex<Vec<Weak<dyn ShownVolumes>>>,
}

impl Shown {
    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Weak<dyn ShownVolumes>>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volumes for Shown {
    fn volume(&self, slot: u16) -> Option<Arc<dyn DirectorySink>> {
        let volume = self.drive.volume(slot)?;
        Some(volume)
    }

    fn renew(&self, slot: u16) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let all = self.all().clone();
            let owner = all
                .iter()
                .filter_map(Weak::upgrade)
                .find(|tokens| tokens.has_slot(slot));
            match owner {
                Some(tokens) => tokens.renew(slot).await,
                None => false,
            }
        })
    }

    fn open(&self, slot: u16) -> BoxFuture<'_, Result<(), FsError>> {
        Box::pin(async move {
            let all = self.all().clone();
            let mut all = all.iter().filter_map(Weak::upgrade);
            match all.find(|tokens| tokens.is_unopened(slot)) {
                Some(tokens) => tokens.open_slot(slot).await,
                // It has just been opened, or has gone: the call is made again, and sees.
                None => Ok(()),
            }
        })
    }
}
