//! The state folder: created, checked, and owned by one process.
//!
//! ```text
//! DIR/lock               held (flock) by the process that owns the folder; its process id
//! DIR/config.toml        written by `pxfs demo`; below all other layers
//! DIR/wallet             the wallet, unless another is named
//! DIR/address            the wallet that everything here belongs to, one line: 0x and 40 hex digits
//! DIR/volumes/KEY/       one volume: chain id, contract, token, epoch
//! DIR/set-aside/KEY-N/   one that gave way to another machine's; N: unix time
//! DIR/owed-KEY           unpaid charges of a removed volume folder, until the next one takes them
//! DIR/outbox/            signed transactions that are not final, a folder per account and chain
//! DIR/owned/, DIR/known/   tokens found for a wallet, and what the chain last said of them
//! DIR/oracle-CHAIN-CONTRACT   the next block of an oracle's operator
//! DIR/trash/             volumes being removed; emptied at the next start
//! DIR/log                a background daemon's log
//! ```
//!
//! Invariant: 0700, ours, and locked while [`StateDir`] lives.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use alloy::primitives::Address;

use crate::control::private_folder;
use crate::durable::{Unnamed, create_folder, sweep_unfinished, sync_folder};
use crate::exit::{Exit, Failure};
use crate::types::{TokenKey, VolumeKey};

/// A state folder owned by this process.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Releases the lock on drop.
    _lock: File,
}

impl StateDir {
    /// Creates the folder if needed, and locks it.
    ///
    /// # Errors
    /// [`Exit::Locked`] if another process owns it; [`Exit::Usage`] if it cannot be used.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let unusable = |fault: io::Error| {
            Failure::new(
                Exit::Usage,
                format!(
                    "state folder {}: {fault}: give another --state-dir",
                    path.display()
                ),
            )
        };
        private_folder(path).map_err(unusable)?;
        let path = path.canonicalize().map_err(unusable)?;
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(unusable)?;
        match crate::durable::lock_whole(&lock) {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(locked(&path, &mut lock)),
            Err(std::fs::TryLockError::Error(fault)) => return Err(unusable(fault)),
        }
        sweep_unfinished(&path);
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(unusable)?;
        Ok(Self { path, _lock: lock })
    }

    /// Its canonical path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of a volume.
    #[must_use]
    pub fn volume(&self, key: &VolumeKey) -> PathBuf {
        self.path.join("volumes").join(name_of(key))
    }

    /// Moves the folder of a closed volume aside, whole; returns the new path.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_aside(&self, key: &VolumeKey, now_s: u64) -> io::Result<PathBuf> {
        let aside = self.path.join("set-aside");
        create_folder(&aside)?;
        let place = aside.join(format!("{}-{now_s}", name_of(key)));
        std::fs::rename(self.volume(key), &place)?;
        sync_folder(&aside)?;
        sync_folder(&self.path.join("volumes"))?;
        Ok(place)
    }

    /// The volumes with a folder here, in order.
    ///
    /// # Errors
    /// The disk's.
    pub fn volumes(&self) -> io::Result<Vec<VolumeKey>> {
        let entries = match std::fs::read_dir(self.path.join("volumes")) {
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries {
            // Other names are not ours.
            found.extend(entry?.file_name().to_str().and_then(key_of));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Removes a volume's folder: after a crash it is whole, or gone from [`StateDir::volumes`].
    ///
    /// # Errors
    /// The disk's: it is still there.
    pub fn drop_volume(&self, key: &VolumeKey) -> io::Result<()> {
        let trash = self.path.join("trash");
        create_folder(&trash)?;
        let folder = self.volume(key);
        let gone = (0..u32::MAX)
            .map(|serial| trash.join(format!("{}.{serial}", name_of(key))))
            .find(|name| !name.exists())
            .unwrap_or_else(|| trash.clone());
        match std::fs::rename(&folder, &gone) {
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        sync_folder(&trash)?;
        sync_folder(&self.path.join("volumes"))?;
        if let Err(error) = std::fs::remove_dir_all(&gone) {
            tracing::warn!(%error, path = %gone.display(), "not removed yet: the next start does it");
        }
        Ok(())
    }

    /// Removes what a crash left of dropped volumes.
    pub fn empty_trash(&self) {
        match std::fs::remove_dir_all(self.path.join("trash")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the trash of the state folder cannot be emptied");
            }
            _ => {}
        }
    }

    /// The wallet that this folder belongs to, once one has used it.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn owner(&self) -> Result<Option<Address>, Failure> {
        let file = self.path.join("address");
        let damaged = |why: String| {
            let line = format!(
                "{}: {why}: write the wallet's address there",
                file.display()
            );
            Failure::new(Exit::Usage, line)
        };
        match std::fs::read_to_string(&file) {
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(damaged(fault.to_string())),
            Ok(text) => match text.trim().parse() {
                Ok(address) => Ok(Some(address)),
                Err(_) => Err(damaged("no address".to_owned())),
            },
        }
    }

    /// Binds the folder to `wallet` while it holds a volume or a chain: with another wallet all tokens would
    /// look as if given away.
    ///
    /// # Errors
    /// [`Exit::Key`] if it is another's; the disk's.
    pub fn claim(&self, wallet: Address) -> Result<(), Failure> {
        let owner = self.owner()?;
        if owner == Some(wallet) {
            return Ok(());
        }
        let unusable = |fault: io::Error| {
            Failure::new(Exit::Failure, format!("{}: {fault}", self.path.display()))
        };
        if let Some(owner) = owner
            && (!self.volumes().map_err(unusable)?.is_empty() || self.path.join("chain").exists())
        {
            return Err(Failure::new(
                Exit::Key,
                format!(
                    "state folder {} belongs to wallet {owner}, and this is {wallet}: put that wallet back, or give another --state-dir",
                    self.path.display()
                ),
            ));
        }
        Unnamed::write(&self.path, format!("{wallet}\n").as_bytes(), None)
            .and_then(|file| file.rename(&self.path.join("address")))
            .and_then(|()| sync_folder(&self.path))
            .map_err(unusable)
    }
}

/// The name of a volume's folder.
pub(crate) fn name_of(key: &VolumeKey) -> String {
    format!(
        "{}-{:#x}-{}-{}",
        key.token.chain_id, key.token.contract, key.token.token, key.epoch
    )
}

fn key_of(name: &str) -> Option<VolumeKey> {
    let mut parts = name.split('-');
    let key = VolumeKey {
        token: TokenKey {
            chain_id: parts.next()?.parse().ok()?,
            contract: parts.next()?.parse().ok()?,
            token: parts.next()?.parse().ok()?,
        },
        epoch: parts.next()?.parse().ok()?,
    };
    // One name per volume: another spelling is a stranger.
    (parts.next().is_none() && name_of(&key) == name).then_some(key)
}

fn locked(path: &Path, lock: &mut File) -> Failure {
    let mut owner = String::new();
    let owner = match lock.take(20).read_to_string(&mut owner) {
        Ok(_) if !owner.trim().is_empty() => format!(" (process {})", owner.trim()),
        _ => String::new(),
    };
    Failure::new(
        Exit::Locked,
        format!(
            "another pxfs{owner} owns the state folder {}: unmount it first, or give another --state-dir",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_process_owns_a_state_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/state");
        let held = StateDir::open(&path).unwrap();
        let refused = StateDir::open(&path).unwrap_err();
        assert_eq!(refused.exit, Exit::Locked);
        let who = format!("process {}", std::process::id());
        assert!(refused.message.contains(&who), "{refused}");
        drop(held);
        assert!(StateDir::open(&path).is_ok());
    }

    #[test]
    fn nobody_else_can_look_into_a_state_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let held = StateDir::open(&path).unwrap();
        let mode = std::fs::metadata(held.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    fn key(epoch: u64) -> VolumeKey {
        VolumeKey {
            token: TokenKey {
                chain_id: 31337,
                contract: Address::repeat_byte(0x1c),
                token: crate::types::TokenId(alloy::primitives::U256::MAX),
            },
            epoch,
        }
    }

    #[test]
    fn volumes_are_found_by_folder_name_and_foreign_folders_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        assert_eq!(state.volumes().unwrap(), []);
        for epoch in [3, 1] {
            create_folder(&state.volume(&key(epoch))).unwrap();
        }
        let strange = ["notes", "1-2-3", "01-0x1c-1-1", "31337-0X1c-1-1"];
        for name in strange {
            create_folder(&dir.path().join("volumes").join(name)).unwrap();
        }
        assert_eq!(state.volumes().unwrap(), [key(1), key(3)]);
    }

    #[test]
    fn a_volume_that_was_dropped_is_gone_and_its_neighbour_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        for epoch in [1, 2] {
            create_folder(&state.volume(&key(epoch)).join("stage")).unwrap();
        }
        // A leftover of a crash is not in the way.
        create_folder(
            &dir.path()
                .join("trash")
                .join(format!("{}.0", name_of(&key(1)))),
        )
        .unwrap();
        state.drop_volume(&key(1)).unwrap();
        state.drop_volume(&key(1)).unwrap();
        assert_eq!(state.volumes().unwrap(), [key(2)]);
        state.empty_trash();
        state.empty_trash();
        assert!(!dir.path().join("trash").exists());
        assert!(state.volume(&key(2)).join("stage").exists());
    }

    #[test]
    fn another_wallet_does_not_take_what_a_state_folder_holds() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let (mine, other) = (Address::repeat_byte(1), Address::repeat_byte(2));
        state.claim(mine).unwrap();
        state.claim(other).unwrap();
        state.claim(mine).unwrap();
        create_folder(&state.volume(&key(1))).unwrap();
        state.claim(mine).unwrap();
        let refused = state.claim(other).unwrap_err();
        assert_eq!(refused.exit, Exit::Key);
        assert!(refused.message.contains(&mine.to_string()), "{refused}");
        assert_eq!(state.owner().unwrap(), Some(mine));
        std::fs::write(dir.path().join("address"), "0x12").unwrap();
        assert_eq!(state.claim(mine).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_state_folder_that_is_a_file_is_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let refused = StateDir::open(&path).unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        assert_eq!(refused.message.lines().count(), 1);
    }
}
