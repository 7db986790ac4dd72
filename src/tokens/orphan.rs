//! A volume with unpublished data whose token the wallet lost: shown read-only under its own name
//! until saved or given up.
//!
//! Invariant: it never changes and is never published; its state folder stays until
//! [`OrphanedVolume::drop_state`].

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::pending::{is_pending, pending};
use crate::chain::dialect::Dialect;
use crate::context::MountContext;
use crate::context::{self, Flusher, JOURNAL_CACHE_MIN_BYTES};
use crate::fs::{Access, Labels, Volume};
use crate::status::{LocalStatus, State, TokenStatus};
use crate::types::{Ino, VolumeKey};

pub(crate) struct OrphanedVolume {
    pub(crate) key: VolumeKey,
    /// `TOKEN.detached`, or `TOKEN.detached-EPOCH` if that is taken.
    pub(crate) directory: String,
    slot: u16,
    volume: Arc<Volume>,
    keeper: Arc<Flusher>,
    reason: String,
}

/// Opens the volume left of `key`.
///
/// # Errors
/// Its local state is damaged.
pub(crate) async fn open(ground: &MountContext, key: VolumeKey) -> anyhow::Result<Arc<Volume>> {
    let volume = context::open_volume(ground, key, JOURNAL_CACHE_MIN_BYTES).await?;
    volume.set_access(Access::ReadOnly("no longer this wallet's".to_owned()));
    Ok(volume)
}

impl OrphanedVolume {
    /// Shows an opened volume.
    ///
    /// # Errors
    /// There is no room for another directory.
    pub(crate) fn show(
        ground: &MountContext,
        volume: Arc<Volume>,
        directory: String,
        why: &str,
    ) -> anyhow::Result<Self> {
        let key = volume.key();
        let slot = ground
            .drive
            .attach(&directory, preferred_slot(&key), Arc::clone(&volume))?;
        ground.drive.set_aside(slot, &directory)?;
        let keeper = Flusher::start(&ground.keepers, &volume);
        let called = ground.parts.chain.called.token(key.token.token);
        Ok(Self::of(key, called, directory, slot, volume, keeper, why))
    }

    /// Shows a token's directory as an orphan; open files stay readable.
    ///
    /// # Errors
    /// The name is taken.
    pub(crate) fn take(
        ground: &MountContext,
        (volume, keeper): (Arc<Volume>, Arc<Flusher>),
        (slot, called): (u16, &str),
        directory: String,
        why: &str,
    ) -> anyhow::Result<Self> {
        ground.drive.set_aside(slot, &directory)?;
        let (key, called) = (volume.key(), called.to_owned());
        Ok(Self::of(key, called, directory, slot, volume, keeper, why))
    }

    fn of(
        key: VolumeKey,
        called: String,
        directory: String,
        slot: u16,
        volume: Arc<Volume>,
        keeper: Arc<Flusher>,
        why: &str,
    ) -> Self {
        let reason = format!(
            "{why}; what was not published stands in {directory}: {}",
            remedy(&directory)
        );
        volume.set_access(Access::ReadOnly(reason.clone()));
        volume.set_labels(move || Labels {
            token: called.clone(),
            state: State::Detached.as_str().to_owned(),
            ..Labels::default()
        });
        Self {
            key,
            directory,
            slot,
            volume,
            keeper,
            reason,
        }
    }

    pub(crate) fn volume(&self) -> (Arc<Volume>, Arc<Flusher>) {
        (Arc::clone(&self.volume), Arc::clone(&self.keeper))
    }

    pub(crate) fn slot(&self) -> u16 {
        self.slot
    }

    /// Its root directory, as the mount numbers it.
    pub(crate) fn root(&self, ground: &MountContext) -> Option<Ino> {
        let found = ground.drive.lookup(Ino::ROOT, self.directory.as_bytes());
        found.ok().map(|attr| attr.ino)
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.volume.with_quota(|quota| quota.used_bytes())
    }

    pub(crate) fn is_pending(&self) -> bool {
        is_pending(&self.volume)
    }

    pub(crate) fn describe(&self, dialect: Dialect, mountpoint: &str) -> TokenStatus {
        let pending = pending(&self.volume);
        TokenStatus {
            path: Some(format!(
                "{}/{}",
                mountpoint.trim_end_matches('/'),
                self.directory
            )),
            volume: Some("plain".to_owned()),
            quota_bytes: self.volume.with_quota(|quota| quota.size_bytes()),
            local: Some(LocalStatus {
                used_bytes: self.used_bytes(),
                pending_bytes: pending.bytes,
                pending_files: pending.files,
                pending: pending.any,
                ..LocalStatus::default()
            }),
            ..bare_status(&self.key, dialect, &self.directory, self.reason.clone())
        }
    }

    /// Ends it; it is shown again by the next mount. Blocks on the disk.
    pub(crate) fn stop(&self) {
        self.keeper.stop();
    }

    /// Ends it for good and removes its state folder. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's: it is still there, and still shown.
    pub(crate) fn drop_state(&self, ground: &MountContext) -> std::io::Result<()> {
        ground.state_dir.drop_volume(&self.key)?;
        ground.drive.detach(self.slot);
        self.keeper.abandon();
        Ok(())
    }
}

/// How to end such a directory.
pub(crate) fn remedy(directory: &str) -> String {
    let named = directory.strip_suffix(".detached").unwrap_or(directory);
    format!("`pxfs detach {named} --save DIR | --discard`")
}

/// The status of one that cannot be opened.
pub(crate) fn bare_status(
    key: &VolumeKey,
    dialect: Dialect,
    directory: &str,
    reason: String,
) -> TokenStatus {
    TokenStatus {
        id: key.token.token,
        directory: directory.to_owned(),
        chain_id: key.token.chain_id,
        contract: format!("{:#x}", key.token.contract),
        dialect: dialect.name().to_owned(),
        path: None,
        volume: None,
        state: State::Detached,
        reason: Some(reason),
        quota_bytes: 0,
        local: None,
        uploads_left: None,
        last_sync: None,
        sync_deadline: None,
        usage_on_chain_bytes: 0,
        name: None,
        epoch: key.epoch,
        sequence: None,
        root: None,
    }
}

/// Far from the slots of small token ids, and the same at every mount.
pub(crate) fn preferred_slot(key: &VolumeKey) -> u16 {
    let mut hash = Sha256::new();
    hash.update(key.token.token.0.to_be_bytes::<32>());
    hash.update(key.epoch.to_be_bytes());
    match hash.finalize().as_slice() {
        [a, b, ..] => u16::from_be_bytes([*a, *b]) | 0x8000,
        _ => u16::MAX,
    }
}
