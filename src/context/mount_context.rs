//! What one contract's tokens need: its parts, and state folder, cache and drive, shared with the
//! mount's other contracts.
//!
//! Invariant: one state folder, cache and drive per process.

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

    /// This context, and one for each further contract of `all`.
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

    pub(crate) fn shown_volume(&self, key: &VolumeKey) -> Option<Arc<Volume>> {
        let shown = self.shown_by();
        shown.iter().find_map(|tokens| tokens.volume(key))
    }

    /// Whether anything is shown, or about to be.
    pub(crate) fn shows_any(&self) -> bool {
        !self.shown_by().is_empty()
    }

    /// Each contract's tokens, if it shows any.
    fn shown_by(&self) -> Vec<Arc<dyn ShownVolumes>> {
        let shown = self.shown.all();
        shown.iter().filter_map(Weak::upgrade).collect()
    }
}

/// The volumes that one contract's tokens show.
pub(crate) trait ShownVolumes: Send + Sync {
    fn volume(&self, key: &VolumeKey) -> Option<Arc<Volume>>;
    /// Whether a volume is shown in `slot`.
    fn has_slot(&self, slot: u16) -> bool;
    /// Whether the token in `slot` is shown with its volume unopened.
    fn is_unopened(&self, slot: u16) -> bool;
    /// A block of the volume in `slot` is missing: whether a newer tree has just replaced it.
    fn renew(&self, slot: u16) -> BoxFuture<'_, bool>;
    /// Opens the volume of the token in `slot`.
    fn open_slot(self: Arc<Self>, slot: u16) -> BoxFuture<'static, Result<(), FsError>>;
}

/// Adapts the drive to the fetcher.
struct Shown {
    drive: Arc<Drive>,
    /// One for each contract.
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
                // It was just opened, or has gone: the repeated call sees that.
                None => Ok(()),
            }
        })
    }
}
