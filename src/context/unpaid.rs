//! Charges of a volume's folder that another one takes the place of: handed over, whatever happens in between.
//!
//! Invariant: they are in one place that is charged from, durably: the folder, or a file beside it that every folder of the volume
//! takes in when it is opened, before anybody asks for its charges. Called by `keeper`, `live` and `tokens`.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::Context;

use super::state_dir::{StateDir, name_of};
use crate::durable::{Unnamed, sync_folder};
use crate::fs::Volume;
use crate::types::VolumeKey;

/// Commits that are to be charged: sequence and bytes.
type Owed = Vec<(u64, u64)>;

/// Moves what is owed out of the folder of `volume`, which is about to go, or to be set aside. Blocks on the disk.
///
/// # Errors
/// The disk's; nothing is lost, and nothing owed twice.
pub(crate) fn leave(state: &StateDir, volume: &Volume) -> anyhow::Result<()> {
    let owed = volume.charges();
    if owed.is_empty() {
        return Ok(());
    }
    let place = place(state, &volume.key());
    let text = serde_json::to_vec(&owed)?;
    Unnamed::write(state.path(), &text, None)?.rename(&place)?;
    sync_folder(state.path())?;
    // A crash before this leaves them in both, and whoever opens the folder makes one list of it.
    Ok(volume.disown_charges()?)
}

/// Has `volume` owe what an earlier folder of it has left behind. Blocks on the disk.
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
    // Also where it was gone already: else a power cut brings it back when its charges are settled, and forgotten.
    Ok(sync_folder(state.path())?)
}

/// Whether an earlier folder of the volume `key` has left any.
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

    /// Else a commit that was published is never paid for, or paid for twice.
    #[test]
    fn unpaid_charges_move_to_the_new_folder_exactly_once_despite_crashes() {
        let place = tempfile::tempdir().unwrap();
        let state = StateDir::open(place.path()).unwrap();
        let owed = [(3, 100), (4, 7)];
        let old = open(&state);
        old.owe(&owed).unwrap();
        leave(&state, &old).unwrap();
        drop(old);
        // A crash before the old folder has gone: it has them itself, and leaves them again.
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
        // Later starts add nothing, and lose nothing.
        let new = open(&state);
        take(&state, &new).unwrap();
        assert_eq!(new.charges(), [(3, 100), (4, 7), (9, 1)]);
        assert!(!super::place(&state, &key).exists());
    }
}
