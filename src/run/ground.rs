//! What every token of a mount stands on: the parts, the state folder, the cache, the drive.
//!
//! Invariant: one a state folder. Built by `daemon` and `detach`.

use std::sync::{Arc, OnceLock, Weak};

use anyhow::Context;
use futures::future::BoxFuture;

use super::commits::Commits;
use super::parts::Parts;
use super::state::StateDir;
use super::tokens::Tokens;
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
    pub(super) commits: Commits,
    shown: Arc<Shown>,
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
        let shown = Arc::new(Shown {
            drive: Arc::clone(&drive),
            tokens: OnceLock::new(),
        });
        let volumes: Arc<dyn Volumes> = Arc::<Shown>::clone(&shown);
        let fetcher = Arc::new(Fetcher::new(
            Arc::clone(&parts.node.reads),
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
            commits: Commits::begin()?,
            shown,
        }))
    }

    /// From now on `tokens` is asked for newer trees.
    pub(super) fn renew_by(&self, tokens: &Arc<Tokens>) {
        // Once a mount.
        let _ = self.shown.tokens.set(Arc::downgrade(tokens));
    }
}

/// The fetcher's view of the drive.
struct Shown {
    drive: Arc<Drive>,
    tokens: OnceLock<Weak<Tokens>>,
}

impl Volumes for Shown {
    fn volume(&self, slot: u16) -> Option<Arc<dyn DirectorySink>> {
        let volume = self.drive.volume(slot)?;
        Some(volume)
    }

    fn renew(&self, slot: u16) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            match self.tokens.get().and_then(Weak::upgrade) {
                Some(tokens) => tokens.renew(slot).await,
                None => false,
            }
        })
    }
}
