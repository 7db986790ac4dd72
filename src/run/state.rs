//! The state folder: made, checked, and owned by one process.
//!
//! ```text
//! DIR/lock               held (flock) by the process that owns the folder; its process id
//! DIR/config.toml        written by `pxfs demo`; below all other layers
//! DIR/wallet             the wallet, unless another is named
//! DIR/volumes/KEY/       one volume: chain id, contract, token, epoch
//! DIR/set-aside/KEY-N/   one that gave way to another machine's; N: unix time
//! DIR/log                what a daemon in the background says
//! ```
//!
//! Invariant: 0700, ours, and locked as long as [`StateDir`] lives. Called by `run` and `doctor`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::cli::exit::{Exit, Failure};
use crate::control::private_folder;
use crate::types::VolumeKey;

/// A state folder that this process owns.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// The lock goes with it.
    _lock: File,
}

impl StateDir {
    /// Makes the folder where it is missing, and takes it.
    ///
    /// # Errors
    /// [`Exit::Locked`] when another process owns it; [`Exit::Usage`] when it cannot be used.
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
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(unusable)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is, in canonical form.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of a volume.
    #[must_use]
    pub fn volume(&self, key: &VolumeKey) -> PathBuf {
        self.path.join("volumes").join(name_of(key))
    }

    /// Moves the folder of a volume that nobody has open out of the way, whole; where it is then.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_aside(&self, key: &VolumeKey, now_s: u64) -> io::Result<PathBuf> {
        let aside = self.path.join("set-aside");
        crate::durable::create_folder(&aside)?;
        let place = aside.join(format!("{}-{now_s}", name_of(key)));
        std::fs::rename(self.volume(key), &place)?;
        crate::durable::sync_folder(&aside)?;
        Ok(place)
    }
}

fn name_of(key: &VolumeKey) -> String {
    format!(
        "{}-{:#x}-{}-{}",
        key.token.chain_id, key.token.contract, key.token.token, key.epoch
    )
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
