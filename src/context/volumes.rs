//! Opens the state folder's volumes.
//!
//! Invariant: a volume's folder is opened once at a time, with its earlier folder's unpaid charges.

use std::sync::Arc;

use anyhow::Context;

use super::mount_context::MountContext;
use super::unpaid;
use crate::fs::{Limits, Volume, VolumeOptions};
use crate::journal::{Barrier, FolderDisk, Without};
use crate::types::VolumeKey;

/// The smallest page cache of a journal, bytes.
pub(crate) const JOURNAL_CACHE_MIN_BYTES: usize = 2 << 20;

/// Opens the volume `key` of the state folder, or starts an empty one.
///
/// # Errors
/// Its local state is damaged, or the disk fails.
pub(crate) async fn open_volume(
    ground: &MountContext,
    key: VolumeKey,
    journal_cache_bytes: usize,
) -> anyhow::Result<Arc<Volume>> {
    let folder = ground.state_dir.volume(&key);
    let what = format!(
        "token {}: local state {}",
        key.token.token,
        folder.display()
    );
    let options = volume_options(key, journal_cache_bytes)?;
    let (cache, clock) = (Arc::clone(&ground.cache), Arc::clone(&ground.parts.clock));
    let state_dir = Arc::clone(&ground.state_dir);
    let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let home = Arc::new(FolderDisk::open(&folder)?);
        let stage = Arc::new(FolderDisk::open(&folder.join("stage"))?);
        let volume = Volume::open(home, stage, cache, clock, &options)?;
        unpaid::take(&state_dir, &volume)?;
        Ok(volume)
    });
    opened.await?.context(what)
}

/// This user's options for opening the volume `key`.
///
/// # Errors
/// An unknown test omission.
pub(crate) fn volume_options(
    key: VolumeKey,
    journal_cache_bytes: usize,
) -> anyhow::Result<VolumeOptions> {
    Ok(VolumeOptions {
        key,
        journal_cache_bytes,
        owner: (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        ),
        without: without()?,
        limits: Limits::default(),
    })
}

/// The durability step to omit: in debug builds the [`Barrier`] named by `PXFS_TEST_WITHOUT`.
fn without() -> anyhow::Result<Without> {
    let named = std::env::var("PXFS_TEST_WITHOUT").ok();
    let named = named.filter(|_| cfg!(debug_assertions));
    let barrier: Option<Barrier> = named
        .map(|name| name.parse().map_err(anyhow::Error::msg))
        .transpose()?;
    Ok(barrier.map_or_else(Without::default, Without::the))
}

/// The latest chain block that `volume` stores.
pub(crate) fn seen_block(volume: &Volume) -> u64 {
    volume.with_quota(|quota| quota.allowance().map_or(0, |seen| seen.seen.block))
}
