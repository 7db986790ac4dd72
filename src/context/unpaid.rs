//! Moves unpaid charges from a replaced volume folder to its successor, crash-safe.
//!
//! Invariant: exactly one durable place is charged from: the folder, or a file beside it that the
//! volume's next folder takes in when opened, before anybody asks for its charges.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::Context;

use super::state_dir::{StateDir, name_of};
use crate::durable::{Unnamed, sync_folder};
use crate::fs::Volume;
use crate::types::VolumeKey;

/// Commits to charge: sequence and bytes.
type Owed = Vec<(u64, u64)>;

/// Moves unpaid charges out of the folder of `volume`, which is about to be removed or set aside. Blocks
/// on the disk.
///
/// # Errors
/// The disk's; nothing is lost, or charged twice.
pub(crate) fn leave(state: &StateDir, volume: &Volume) -> anyhow::Result<()> {
    let owed = volume.charges();
    if owed.is_empty() {
        return Ok(());
    }
    let place = place(state, &volume.key());
    let text = serde_json::to_vec(&owed)?;
    Unnamed::write(state.path(), &text, None)?.rename(&place)?;
    sync_folder(state.path())?;
    // After a crash before this both have them, and opening the folder merges the lists.
    Ok(volume.disown_charges()?)
}

/// Takes an earlier folder's unpaid charges into `volume`. Blocks on the disk.
///
/// # Errors
/// The disk's; then nothing may be charged yet.
pub(crate) fn take(state: &StateDir, volume: &Volume) -> anyhow::Result<()> {
    let place = place(state, &volume.key());
    match fs::read(&place) {
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => {}
        text => {
            let told = || place.display().to_string();
            let owed: Owed =
                serde_json::from_slice(&text.with_context(told)?).with_context(told)?;
            volume.owe(&owed)?;
            fs::remove_file(&place)?;
        }
    }
    // Even if it was gone: else a power cut could bring it back after its charges were settled and
    // forgotten.
    Ok(sync_folder(state.path())?)
}

/// Whether an earlier folder of the volume `key` left any.
pub(crate) fn is_left(state: &StateDir, key: &VolumeKey) -> bool {
    place(state, key).exists()
}

fn place(state: &StateDir, key: &VolumeKey) -> PathBuf {
    state.path().join(format!("owed-{}", name_of(key)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cache::Cache;
    use crate::clock::{Clock, ManualClock};
    use crate::fs::{Limits, VolumeOptions};
    use crate::journal::{FolderDisk, Without};
    use crate::types::{TokenId, TokenKey};

    fn open(state: &StateDir) -> Arc<Volume> {
        let key = VolumeKey {
            token: TokenKey {
                chain_id: 31337,
                contract: Default::default(),
                token: TokenId::from(1),
            },
            epoch: 1,
        };
        let folder = state.volume(&key);
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(1_800_000_000_000_000_000));
        let options = VolumeOptions {
            key,
            journal_cache_bytes: 1 << 20,
            owner: (0, 0),
            without: Without::default(),
            limits: Limits::default(),
        };
        let home = Arc::new(FolderDisk::open(&folder).unwrap());
        let stage = Arc::new(FolderDisk::open(&folder.join("stage")).unwrap());
        Volume::open(home, stage, Arc::new(Cache::in_memory()), clock, &options).unwrap()
    }

    /// Otherwise a published commit is never paid, or paid twice.
    #[test]
    fn unpaid_charges_move_to_the_new_folder_exactly_once_despite_crashes() {
        let place = tempfile::tempdir().unwrap();
        let state = StateDir::open(place.path()).unwrap();
        let owed = [(3, 100), (4, 7)];
        let old = open(&state);
        old.owe(&owed).unwrap();
        leave(&state, &old).unwrap();
        drop(old);
        // A crash before the old folder is gone: it still has them, and leaves them again.
        let old = open(&state);
        take(&state, &old).unwrap();
        assert_eq!(old.charges(), owed);
        leave(&state, &old).unwrap();
        let key = old.key();
        drop(old);
        state.drop_volume(&key).unwrap();

        let new = open(&state);
        new.owe(&[(9, 1)]).unwrap();
        take(&state, &new).unwrap();
        assert_eq!(new.charges(), [(3, 100), (4, 7), (9, 1)]);
        drop(new);
        // Later starts add and lose nothing.
        let new = open(&state);
        take(&state, &new).unwrap();
        assert_eq!(new.charges(), [(3, 100), (4, 7), (9, 1)]);
        assert!(!super::place(&state, &key).exists());
    }
}
