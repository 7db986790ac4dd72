//! What the kernel is told of directories and files that change without it.
//!
//! Invariant: a call in progress may hold the telling up, and nobody waits for that. Called by `tokens`
//! and `live`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::lock;
use crate::mount::Notifier;
use crate::run::live::Live;
use crate::types::Ino;

/// Time within which a program has surely been given what the kernel was answered.
const ANSWERED: Duration = Duration::from_secs(5);

/// Tells the kernel, once there is a mount. Clones share it.
#[derive(Clone, Default)]
pub(in crate::run) struct Teller(Arc<Mutex<Option<Notifier>>>);

impl Teller {
    /// From now on the kernel is told.
    pub(in crate::run) fn set(&self, notifier: Notifier) {
        *lock(&self.0) = Some(notifier);
    }

    /// Directories of these names came, went or turned.
    pub(in crate::run) fn changed(&self, names: impl IntoIterator<Item = String>) {
        let names: Vec<String> = names.into_iter().collect();
        let Some(notifier) = lock(&self.0).clone().filter(|_| !names.is_empty()) else {
            return;
        };
        let told = tokio::task::spawn_blocking(move || {
            for name in names {
                notifier.inval_entry(Ino::ROOT, name.as_bytes());
            }
            notifier.inval_inode(Ino::ROOT);
        });
        drop(told);
    }

    /// Another tree has taken the place of the one that the kernel knows, if so.
    pub(in crate::run) fn followed(&self, live: &Live) {
        let Some(inodes) = live.volume.take_followed() else {
            return;
        };
        self.changed([live.directory.clone()]);
        let Some(notifier) = lock(&self.0).clone() else {
            return;
        };
        // Once more when whoever asked before has surely read the answer, and keeps it no longer.
        let (again, name) = (notifier.clone(), live.directory.clone());
        tokio::spawn(async move {
            tokio::time::sleep(ANSWERED).await;
            let tell = move || again.inval_entry(Ino::ROOT, name.as_bytes());
            drop(tokio::task::spawn_blocking(tell));
        });
        let slot = u64::from(live.slot) << 48;
        let told = tokio::task::spawn_blocking(move || {
            for ino in inodes {
                notifier.inval_inode(Ino(slot | ino.0));
            }
        });
        drop(told);
    }
}
