//! One mount: started, watched, ended.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Fetcher, MountError, Notifier, Options};
use crate::fs::Drive;

/// How a mount ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was unmounted, by us or by somebody else.
    Unmounted,
    /// The kernel's connection broke; what was said.
    Failed(String),
}

/// A mount that runs. Dropping it detaches the mount.
pub struct Mounted {
    path: PathBuf,
    notifier: Notifier,
    ended: tokio::sync::watch::Receiver<Option<Ended>>,
}

impl Mounted {
    /// Where, in canonical form.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A handle to tell the kernel of changes.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// How it ended, or `None` while it runs.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.ended.borrow().clone()
    }

    /// Returns once the mount has ended, whoever ended it (`umount /mnt` by somebody else, too).
    pub async fn wait(&self) -> Ended {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(ended)) => ended.clone(),
            Ok(None) | Err(_) => Ended::Failed("the session's thread is gone".to_owned()),
        }
    }

    /// Unmounts; blocks while the kernel writes its mapped pages back, so call it from a blocking
    /// task. The daemon must go on answering meanwhile.
    ///
    /// # Errors
    /// [`MountError::Busy`] while files are open there; the mount then goes on.
    pub fn unmount(&self) -> Result<(), MountError> {
        todo!()
    }

    /// Takes the mount out of sight at once; files still open go on until they are closed or the
    /// daemon ends.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn detach(&self) -> Result<(), MountError> {
        todo!()
    }
}

/// Mounts `drive` on `mountpoint` and answers calls until it is unmounted. Blocks for some
/// milliseconds; on return the mount answers.
///
/// # Errors
/// [`MountError`] by meaning; nothing is left mounted.
pub fn start(
    drive: Arc<Drive>,
    fetcher: Arc<dyn Fetcher>,
    runtime: tokio::runtime::Handle,
    mountpoint: &Path,
    options: &Options,
) -> Result<Mounted, MountError> {
    let _ = (drive, fetcher, runtime, mountpoint, options);
    todo!()
}
