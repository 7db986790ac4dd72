//! What every token of a mount stands on: the parts, the state folder, the cache, the drive.
//!
//! Invariant: one a state folder. Built by `daemon` and `detach`.

use std::sync::Arc;

use anyhow::Context;

use super::parts::Parts;
use super::state::StateDir;
use crate::cache::Cache;
use crate::fetch::{DirectorySink, Fetcher, Volumes};
use crate::fs::Drive;

/// What every token of a mount stands on.
pub(super) struct Ground {
    pub(super) parts: Arc<Parts>,
    pub(super) state_dir: Arc<StateDir>,
    pub(super) cache: Arc<Cache>,
    pub(super) drive: Arc<Drive>,
    pub(super) fetcher: Arc<Fetcher>,
}

impl Ground {
    /// A drive without tokens yet.
    ///
    /// # Errors
    /// The cache folder cannot be used.
    pub(super) async fn build(
        parts: Arc<Parts>,
        state_dir: Arc<StateDir>,
    ) -> anyhow::Result<Arc<Self>> {
        let config = &parts.config;
        let (folder, cap) = (config.cache_dir.clone(), config.cache_bytes);
        let what = format!("cache folder {}", folder.display());
        let cache = tokio::task::spawn_blocking(move || Cache::open(&folder, cap)).await?;
        let cache = Arc::new(cache.context(what)?);
        let owner = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let drive = Arc::new(Drive::new(owner, parts.clock.wall_ns()));
        let fetcher = Arc::new(Fetcher::new(
            Arc::clone(&parts.node.store),
            Arc::clone(&cache),
            Arc::new(Shown(Arc::clone(&drive))),
            config.read_timeout,
        ));
        Ok(Arc::new(Self {
            parts,
            state_dir,
            cache,
            drive,
            fetcher,
        }))
    }
}

/// The fetcher's view of the drive.
struct Shown(Arc<Drive>);

impl Volumes for Shown {
    fn volume(&self, slot: u16) -> Option<Arc<dyn DirectorySink>> {
        let volume = self.0.volume(slot)?;
        Some(volume)
    }
}
