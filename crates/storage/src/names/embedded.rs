//! The embedded name store: a folder of signed records.
//!
//! Invariant: a file under a name is whole and durable; each read verifies it, and only a newer record
//! replaces it. One process at a time owns the folder.
//!
//! ```text
//! DIR/lock, DIR/format     one owner; `pxfs names 1`
//! DIR/records/NAME         the newest record of NAME, as it was published
//! DIR/new/                 files that have no name yet; emptied at open
//! ```

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::spawn_blocking;

use super::key::public_key;
use super::record::MAX_RECORD_BYTES;
use super::{Admission, NameError, NameStore, admit, verify};
use pxfs_base::clock::Clock;
use pxfs_base::durable::{self, Unnamed};

const WORKERS: usize = 4;
const FORMAT: &str = "pxfs names 1";

/// A name store in a folder. Clones are cheap and share it.
#[derive(Clone)]
pub struct EmbeddedNames {
    folder: Arc<Folder>,
    workers: Arc<Semaphore>,
    /// Serialises publishing, which compares, then replaces. Held only while waiting for the local
    /// disk.
    turn: Arc<Mutex<()>>,
}

impl EmbeddedNames {
    /// Opens or creates the folder `dir`, and removes what a crash left unfinished; `clock` decides
    /// whether an offered record has expired. Blocks on the disk. [`NameError::Permanent`] if
    /// another process has it open.
    pub fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, NameError> {
        Ok(Self {
            folder: Arc::new(Folder::open(dir, clock)?),
            workers: Arc::new(Semaphore::new(WORKERS)),
            turn: Arc::default(),
        })
    }

    /// Runs `work` on a blocking thread, to its end even if nobody waits for it.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> Result<T, NameError> + Send + 'static,
    ) -> Result<T, NameError> {
        let ended = |why: String| NameError::Transient(format!("disk worker: {why}"));
        let permit = self.workers.clone().acquire_owned().await;
        let permit = permit.map_err(|e| ended(e.to_string()))?;
        let folder = self.folder.clone();
        spawn_blocking(move || {
            let _permit = permit;
            work(&folder)
        })
        .await
        .map_err(|e| ended(e.to_string()))?
    }
}

#[async_trait]
impl NameStore for EmbeddedNames {
    async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError> {
        let (name, record) = (name.to_owned(), record.to_vec());
        let turn = self.turn.clone().lock_owned().await;
        self.work(move |folder| {
            let _turn = turn;
            folder.publish(&name, &record)
        })
        .await
    }

    async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError> {
        let name = name.to_owned();
        self.work(move |folder| {
            let held = folder.read(&name)?;
            let bytes = held.ok_or_else(|| NameError::Missing(name.clone()))?;
            verify(&name, &bytes)?;
            Ok(bytes)
        })
        .await
    }
}

/// An open folder: every call blocks on the disk.
struct Folder {
    records: PathBuf,
    new: PathBuf,
    clock: Arc<dyn Clock>,
    /// Held while the folder is open.
    _lock: File,
}

impl Folder {
    fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, NameError> {
        let lock = durable::open_store(dir, FORMAT, &["records"]).map_err(|e| trouble(dir, &e))?;
        Ok(Self {
            records: dir.join("records"),
            new: dir.join("new"),
            clock,
            _lock: lock,
        })
    }

    /// Returns the stored record.
    fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError> {
        let held = self.read(name)?;
        let admission = admit(name, record, held.as_deref(), self.clock.wall_ns())?;
        let kept = match (admission, held) {
            (Admission::Held, Some(held)) => held,
            _ => {
                let path = self.records.join(name);
                Unnamed::write(&self.new, record, None)
                    .and_then(|new| new.rename(&path))
                    .map_err(|e| trouble(&path, &e))?;
                record.to_vec()
            }
        };
        // Even if it was stored already: its writer may not have synced it.
        durable::sync_folder(&self.records).map_err(|e| trouble(&self.records, &e))?;
        Ok(kept)
    }

    /// The unverified bytes under `name`, if any.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, NameError> {
        // Only a valid name becomes part of a path.
        public_key(name).map_err(|e| NameError::Permanent(e.to_string()))?;
        let path = self.records.join(name);
        let mut bytes = Vec::new();
        // One byte more than a record can have detects an oversized file.
        let limit = MAX_RECORD_BYTES as u64 + 1;
        let read = File::open(&path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(Some(bytes)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(trouble(&path, &e)),
        }
    }
}

fn trouble(path: &Path, error: &io::Error) -> NameError {
    let text = format!("{}: {error}", path.display());
    if durable::is_transient(error) {
        NameError::Transient(text)
    } else {
        NameError::Permanent(text)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::names::key::NameKey;
    use crate::names::suite::{self, NOW_NS, record};
    use pxfs_base::clock::ManualClock;
    use pxfs_base::durable::simulated::{Power, Sync};

    fn open(dir: &TempDir) -> EmbeddedNames {
        EmbeddedNames::open(dir.path(), Arc::new(ManualClock::at(NOW_NS))).unwrap()
    }

    #[tokio::test]
    async fn the_embedded_name_store_passes() {
        let dir = tempfile::tempdir().unwrap();
        suite::passes(Arc::new(open(&dir))).await;
    }

    #[tokio::test]
    async fn a_record_is_there_after_a_restart_and_still_bars_older_ones() {
        let dir = tempfile::tempdir().unwrap();
        let key = NameKey::random();
        let (old, new) = (record(4, 1).sign(&key), record(5, 1).sign(&key));
        open(&dir).publish(&key.name(), &new).await.unwrap();
        fs::write(dir.path().join("new/77-1"), b"half a rec").unwrap();
        let store = open(&dir);
        assert_eq!(store.resolve(&key.name()).await, Ok(new));
        assert!(matches!(
            store.publish(&key.name(), &old).await,
            Err(NameError::Stale {
                held: 5,
                offered: 4
            })
        ));
        assert_eq!(fs::read_dir(dir.path().join("new")).unwrap().count(), 0);
    }

    /// What a power cut leaves of a published record if such syncs are lost.
    async fn left_without(lost: Option<fn(Sync<'_>) -> bool>) -> (Vec<u8>, Option<Vec<u8>>) {
        let power = Power::on();
        let clock = Arc::new(ManualClock::at(NOW_NS));
        let store = EmbeddedNames::open(power.folder(), clock.clone()).unwrap();
        power.lose(lost);
        let key = NameKey::random();
        let new = record(5, 1).sign(&key);
        store.publish(&key.name(), &new).await.unwrap();
        let left = power.cut();
        let store = EmbeddedNames::open(left.path(), clock).unwrap();
        (new, store.resolve(&key.name()).await.ok())
    }

    #[tokio::test]
    async fn a_power_cut_takes_no_record_that_was_answered_as_published() {
        let (new, left) = left_without(None).await;
        assert_eq!(left, Some(new));
        let no_bytes = |sync: Sync<'_>| matches!(sync, Sync::Bytes);
        let no_names = |sync: Sync<'_>| matches!(sync, Sync::Names(_));
        for lost in [no_bytes, no_names] as [fn(Sync<'_>) -> bool; 2] {
            assert_eq!(left_without(Some(lost)).await.1, None);
        }
    }

    #[tokio::test]
    async fn a_damaged_record_is_told_and_healed_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let key = NameKey::random();
        let good = record(5, 1).sign(&key);
        let path = dir.path().join("records").join(key.name());
        let mut changed = good.clone();
        changed[100] ^= 1;
        for damage in [&changed[..], &good[..50], b"", &[0; 20 << 10]] {
            store.publish(&key.name(), &good).await.unwrap();
            fs::write(&path, damage).unwrap();
            assert!(matches!(
                store.resolve(&key.name()).await,
                Err(NameError::Corrupt(name, _)) if name == key.name()
            ));
        }
        store.publish(&key.name(), &good).await.unwrap();
        assert_eq!(store.resolve(&key.name()).await, Ok(good));
    }

    #[tokio::test]
    async fn a_folder_in_use_is_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(&dir);
        let second = EmbeddedNames::open(dir.path(), Arc::new(ManualClock::default()));
        let Err(NameError::Permanent(why)) = second.map(|_| ()) else {
            panic!("opened twice");
        };
        assert!(why.contains("in use by another pxfs") && !why.contains('\n'));
    }
}
