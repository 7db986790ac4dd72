//! A volume that is open, with the thread that keeps its local state durable.
//!
//! Invariant: a volume's folder is opened once at a time. Called by `live` and `detached`.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context;

use super::ground::Ground;
use super::owed;
use crate::fs::{Limits, Volume, VolumeOptions};
use crate::journal::FolderDisk;
use crate::types::VolumeKey;

/// The thread of one volume.
pub(super) struct Keeper {
    volume: Arc<Volume>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Whoever asks for charges: what is to be charged is read, asked for, settled and forgotten by one at a time, since
    /// what another has settled meanwhile would be asked for as if it had never been.
    pub(super) charging: Arc<tokio::sync::Mutex<()>>,
}

impl Keeper {
    /// Keeps `volume` durable from now on.
    pub(super) fn start(volume: &Arc<Volume>) -> std::io::Result<Arc<Self>> {
        let kept = Arc::clone(volume);
        let thread = std::thread::Builder::new()
            .name(format!("durable-{}", volume.key().token.token))
            .spawn(move || kept.keep_durable())?;
        Ok(Arc::new(Self {
            volume: Arc::clone(volume),
            thread: Mutex::new(Some(thread)),
            charging: Arc::default(),
        }))
    }

    /// Ends it; everything acknowledged is durable afterwards. Blocks on the disk.
    pub(super) fn stop(&self) {
        if let Err(error) = self.volume.sync() {
            let token = self.volume.key().token.token;
            tracing::error!(%error, %token, "local state is not durable");
        }
        self.abandon();
    }

    /// Ends it as it is.
    pub(super) fn abandon(&self) {
        self.volume.stop();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            let token = self.volume.key().token.token;
            tracing::error!(%token, "the thread that keeps local state durable ended in a panic");
        }
    }
}

/// The latest block that the chain was seen with, as far as `volume` keeps it.
pub(super) fn seen_block(volume: &Volume) -> u64 {
    volume.with_quota(|quota| quota.allowance().map_or(0, |seen| seen.seen.block))
}

/// Opens the volume `key` of the state folder, or begins an empty one.
///
/// # Errors
/// Its local state is damaged, or the disk fails.
pub(super) async fn open(
    ground: &Ground,
    key: VolumeKey,
    journal_cache_bytes: usize,
) -> anyhow::Result<Arc<Volume>> {
    let folder = ground.state_dir.volume(&key);
    let what = format!(
        "token {}: local state {}",
        key.token.token,
        folder.display()
    );
    let options = VolumeOptions {
        key,
        journal_cache_bytes,
        owner: (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        ),
        without: super::fault::without()?,
        limits: Limits::default(),
    };
    let (cache, clock) = (Arc::clone(&ground.cache), Arc::clone(&ground.parts.clock));
    let state_dir = Arc::clone(&ground.state_dir);
    let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let home = Arc::new(FolderDisk::open(&folder)?);
        let stage = Arc::new(FolderDisk::open(&folder.join("stage"))?);
        let volume = Volume::open(home, stage, cache, clock, &options)?;
        owed::take(&state_dir, &volume)?;
        Ok(volume)
    });
    opened.await?.context(what)
}
