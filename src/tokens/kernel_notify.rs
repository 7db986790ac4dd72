//! Notifies the kernel of directories and files that change without it.
//!
//! Invariant: a call in progress may delay a notification; nobody waits long for that.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::fs::Volume;
use crate::mount::Notifier;
use crate::types::Ino;
use pxfs_base::lock;

/// Within this time a program has surely read the kernel's answer.
const ANSWERED: Duration = Duration::from_secs(5);

/// How long a command waits for its notifications.
const TOLD: Duration = Duration::from_secs(1);

/// Notifies the kernel once there is a mount. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct KernelNotifier {
    notifier: Arc<Mutex<Option<Notifier>>>,
    /// Notifications in progress.
    telling: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl KernelNotifier {
    pub(crate) fn set(&self, notifier: Notifier) {
        *lock(&self.notifier) = Some(notifier);
    }

    /// Directories of these names came, went or changed.
    pub(crate) fn changed(&self, names: impl IntoIterator<Item = String>) {
        let names: Vec<String> = names.into_iter().collect();
        let Some(notifier) = lock(&self.notifier).clone().filter(|_| !names.is_empty()) else {
            return;
        };
        let told = tokio::task::spawn_blocking(move || {
            for name in names {
                notifier.inval_entry(Ino::ROOT, name.as_bytes());
            }
            notifier.inval_inode(Ino::ROOT);
        });
        self.note(told);
    }

    fn note(&self, told: JoinHandle<()>) {
        let mut telling = lock(&self.telling);
        telling.retain(|told| !told.is_finished());
        telling.push(told);
    }

    /// Returns once the kernel was notified of everything so far, or after a timeout.
    pub(crate) async fn told(&self) {
        let telling = std::mem::take(&mut *lock(&self.telling));
        if timeout(TOLD, join_all(telling)).await.is_err() {
            tracing::debug!("the kernel has not been told yet");
        }
    }

    /// Another tree may have replaced the one the kernel knows.
    pub(crate) fn followed(&self, volume: &Volume, directory: &str, slot: u16) {
        let Some(inodes) = volume.take_followed() else {
            return;
        };
        self.changed([directory.to_owned()]);
        let Some(notifier) = lock(&self.notifier).clone() else {
            return;
        };
        // Again once earlier answers have surely been read, so that none stays cached.
        let (again, name) = (notifier.clone(), directory.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(ANSWERED).await;
            let tell = move || again.inval_entry(Ino::ROOT, name.as_bytes());
            drop(tokio::task::spawn_blocking(tell));
        });
        let slot = u64::from(slot) << 48;
        let told = tokio::task::spawn_blocking(move || {
            for ino in inodes {
                notifier.inval_inode(Ino(slot | ino.0));
            }
        });
        self.note(told);
    }
}
