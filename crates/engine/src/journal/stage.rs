//! Stage files: bytes beyond the small that are not uploaded yet, at their own offsets.
//!
//! Invariant: a stage file is removed only after the journal commit that dropped the last
//! reference to it is durable ([`Stage::retire`] keeps it until then, [`Stage::note_gone`] until
//! somebody has time for [`Stage::sweep`]), and is never
//! used again for another inode. What it holds is known from the journal alone.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::disk::{Disk, DiskFile};
use super::record::Patch;
use super::unsynced::{Patches, Unsynced};
use super::{Barrier, JournalError, Without};
use pxfs_base::lock;

/// Files that are synced one by one at a start; more of them all at once, which syncs what others have written
/// to the same file system too, but waits for the disk's own cache once.
const FEW: usize = 64;

/// Files with patches that are held open at most; more of them are synced themselves.
const PATCHED: usize = 256;

/// Unsynced bytes of a file beyond which the background syncs it though nobody asks.
const MUCH: u64 = 32 << 20;

/// One stage file.
pub(crate) struct StageFile {
    number: u64,
    file: Arc<dyn DiskFile>,
    /// Whether its name in the folder is durable.
    linked: AtomicBool,
    unsynced: Mutex<Unsynced>,
    /// Bytes that were written since the last sync began.
    unsynced_bytes: AtomicU64,
    /// Held while it is synced: the system tells a failure once.
    syncing: Mutex<()>,
}

impl StageFile {
    /// Fills `buf` from `offset`.
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), JournalError> {
        self.file.read_at(buf, offset).map_err(Into::into)
    }

    /// Writes all of `data` at `offset`.
    pub(crate) fn write_at(&self, data: &[u8], offset: u64) -> Result<(), JournalError> {
        let written = self.file.write_at(data, offset);
        let len = data.len() as u64;
        match written {
            Ok(()) => lock(&self.unsynced).note(offset, len),
            // A part of it may be there, and the file may end before the rest: it is synced, not read back.
            Err(_) => *lock(&self.unsynced) = Unsynced::much(),
        }
        self.unsynced_bytes.fetch_add(len, Ordering::Relaxed);
        written.map_err(Into::into)
    }

    /// Reads what there is of `len` bytes from `offset`: less where the file ends before.
    pub(crate) fn read_some(&self, offset: u64, len: u64) -> Result<Vec<u8>, JournalError> {
        let end = self.file.len()?.min(offset.saturating_add(len));
        let mut bytes = vec![0; end.saturating_sub(offset) as usize];
        self.file.read_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Cuts the file to `len`.
    pub(crate) fn set_len(&self, len: u64) -> Result<(), JournalError> {
        self.file.set_len(len).map_err(Into::into)
    }

    /// The number that the journal knows it by.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

/// The stage of one volume.
pub struct Stage {
    disk: Arc<dyn Disk>,
    without: Without,
    /// Files that somebody holds; the others are closed.
    open: Mutex<HashMap<u64, Weak<StageFile>>>,
    /// How many were held when the closed ones were last forgotten.
    swept_at: AtomicUsize,
    /// Held while a file without a name has one.
    scratch: Mutex<()>,
    retired: Mutex<Vec<u64>>,
    gone: Mutex<Gone>,
    patches: Mutex<Patches>,
    /// Files that were patched and not synced since, open until they are: where the disk fails to take what was
    /// written to one, the system tells who has it open, and forgets it with the last of them.
    patched: Mutex<HashMap<u64, Arc<StageFile>>>,
    /// Files of which a sync failed: they become durable no more, whatever later ones say.
    broken: Mutex<HashMap<u64, JournalError>>,
}

/// Files whose last reference is durably gone.
#[derive(Default)]
struct Gone {
    new: Vec<u64>,
    /// Those that somebody may still read.
    held: Vec<u64>,
}

impl Stage {
    /// The stage in `disk`.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, without: Without) -> Self {
        Self {
            disk,
            without,
            open: Mutex::default(),
            swept_at: AtomicUsize::new(0),
            scratch: Mutex::default(),
            retired: Mutex::default(),
            gone: Mutex::default(),
            patches: Mutex::default(),
            patched: Mutex::default(),
            broken: Mutex::default(),
        }
    }

    /// A new, empty stage file.
    pub(crate) fn create(&self, number: u64) -> Result<Arc<StageFile>, JournalError> {
        let file = Arc::new(StageFile {
            number,
            file: self.disk.create(&name(number))?,
            linked: AtomicBool::new(false),
            unsynced: Mutex::default(),
            unsynced_bytes: AtomicU64::new(0),
            syncing: Mutex::default(),
        });
        self.remember(&file);
        Ok(file)
    }

    /// The stage file of that number, if there is one.
    pub(crate) fn find(&self, number: u64) -> Result<Option<Arc<StageFile>>, JournalError> {
        match self.open(number) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The stage file of that number.
    pub(crate) fn get(&self, number: u64) -> Result<Arc<StageFile>, JournalError> {
        self.open(number).map_err(Into::into)
    }

    fn open(&self, number: u64) -> std::io::Result<Arc<StageFile>> {
        if let Some(file) = self.held(number) {
            return Ok(file);
        }
        let file = Arc::new(StageFile {
            number,
            file: self.disk.open_to_read(&name(number))?,
            linked: AtomicBool::new(true),
            unsynced: Mutex::default(),
            unsynced_bytes: AtomicU64::new(0),
            syncing: Mutex::default(),
        });
        let mut open = lock(&self.open);
        // Somebody may have opened it meanwhile: there is one of it, which knows if it is linked.
        if let Some(first) = open.get(&number).and_then(Weak::upgrade) {
            return Ok(first);
        }
        open.insert(number, Arc::downgrade(&file));
        Ok(file)
    }

    fn held(&self, number: u64) -> Option<Arc<StageFile>> {
        lock(&self.open).get(&number).and_then(Weak::upgrade)
    }

    fn remember(&self, file: &Arc<StageFile>) {
        let mut open = lock(&self.open);
        open.insert(file.number, Arc::downgrade(file));
        if open.len() > 2 * self.swept_at.load(Ordering::Relaxed) + 1024 {
            open.retain(|_, file| file.strong_count() > 0);
            self.swept_at.store(open.len(), Ordering::Relaxed);
        }
    }

    /// What was written to `file` since it was durable, where it is little enough to become so in the
    /// journal, and can be read back; `None` where the file is to be synced ([`Stage::sync`]).
    pub(crate) fn patches_of(&self, file: &StageFile) -> Option<Vec<Patch>> {
        let has_room = || {
            let patched = lock(&self.patched);
            (patched.len() < PATCHED || patched.contains_key(&file.number))
                && lock(&self.patches).has_room(file.number)
        };
        if !file.linked.load(Ordering::Acquire) || !has_room() {
            return None;
        }
        let ranges = lock(&file.unsynced).take();
        let read = |range: Range<u64>| {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            file.read_at(&mut bytes, range.start).ok()?;
            Some(Patch {
                offset: range.start,
                bytes: bytes.into(),
            })
        };
        let patches = ranges.and_then(|ranges| ranges.into_iter().map(read).collect());
        if patches.is_none() {
            *lock(&file.unsynced) = Unsynced::much();
        }
        patches
    }

    /// The journal has a patch of `len` bytes of `file`.
    pub(crate) fn note_patch(&self, file: &Arc<StageFile>, number: u64, len: u64) {
        lock(&self.patched).insert(file.number, Arc::clone(file));
        lock(&self.patches).add(file.number, number, len);
    }

    /// At a start: writes `patch`, which the journal has by `number`, into its file again; false where that is gone.
    pub(crate) fn patch_again(
        &self,
        stage: u64,
        number: u64,
        patch: &Patch,
    ) -> Result<bool, JournalError> {
        let Some(file) = self.find(stage)? else {
            return Ok(false);
        };
        // It is in the journal already, so it does not count as unsynced; and all files are synced before anybody
        // else comes, so it is not held.
        file.file.write_at(&patch.bytes, patch.offset)?;
        lock(&self.patches).add(stage, number, patch.bytes.len() as u64);
        Ok(true)
    }

    /// The numbers of that file's patches, which the caller removes from the journal.
    pub(crate) fn take_patches(&self, stage: u64) -> Vec<u64> {
        lock(&self.patches).take(stage)
    }

    /// Makes the bytes of `file`, and its name, durable.
    pub(crate) fn sync(&self, file: &StageFile) -> Result<(), JournalError> {
        // After a failed sync nobody knows what of it is on the disk, whatever the error was.
        let failed = |error: std::io::Error| {
            *lock(&file.unsynced) = Unsynced::much();
            self.note_broken(file, &error)
        };
        let _one = lock(&file.syncing);
        self.refuse_broken(file)?;
        // What is written from here on may be too late for this sync.
        lock(&file.unsynced).take();
        file.unsynced_bytes.store(0, Ordering::Relaxed);
        if !self.without.lacks(Barrier::StageBytes) {
            file.file.sync_data().map_err(failed)?;
        }
        if !file.linked.load(Ordering::Acquire) && !self.without.lacks(Barrier::StageName) {
            self.disk.sync_folder().map_err(failed)?;
            file.linked.store(true, Ordering::Release);
        }
        lock(&self.patches).synced(file.number);
        lock(&self.patched).remove(&file.number);
        Ok(())
    }

    /// Syncs the files that have much to sync: who wants one of them durable later waits for the rest alone, and
    /// nobody for what a disk has gathered in a minute. They count as unsynced all the same: a record that names
    /// their bytes may be written beside this.
    pub(crate) fn sync_ahead(&self) -> Result<(), JournalError> {
        let open: Vec<_> = lock(&self.open)
            .values()
            .filter_map(Weak::upgrade)
            .collect();
        for file in open {
            if file.unsynced_bytes.load(Ordering::Relaxed) >= MUCH {
                let _one = lock(&file.syncing);
                self.refuse_broken(&file)?;
                file.unsynced_bytes.store(0, Ordering::Relaxed);
                let synced = file.file.sync_data();
                synced.map_err(|error| self.note_broken(&file, &error))?;
            }
        }
        Ok(())
    }

    fn refuse_broken(&self, file: &StageFile) -> Result<(), JournalError> {
        match lock(&self.broken).get(&file.number) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn note_broken(&self, file: &StageFile, error: &std::io::Error) -> JournalError {
        let error = JournalError::Disk(error.to_string());
        lock(&self.broken).insert(file.number, error.clone());
        error
    }

    /// As [`Stage::sync`], where that file was not synced since a patch took its place.
    pub(crate) fn sync_patched(&self, file: &StageFile) -> Result<(), JournalError> {
        let unsynced = lock(&self.patches).is_unsynced(file.number);
        if unsynced { self.sync(file) } else { Ok(()) }
    }

    /// The records in the overlay no longer name these files.
    pub(crate) fn retire(&self, numbers: impl IntoIterator<Item = u64>) {
        lock(&self.retired).extend(numbers);
    }

    /// Takes the list of retired files: call before the commit that makes their retirement durable,
    /// and pass it to [`Stage::note_gone`] after it.
    pub(crate) fn take_retired(&self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.retired))
    }

    /// No durable record names these files any more. Gives how many were noted since the last
    /// [`Stage::take_gone`].
    pub(crate) fn note_gone(&self, numbers: Vec<u64>) -> usize {
        let new = &mut lock(&self.gone).new;
        new.extend(numbers);
        new.len()
    }

    /// Whether files were let go of that are there still.
    pub(crate) fn has_gone(&self) -> bool {
        let has_gone = {
            let gone = lock(&self.gone);
            !gone.new.is_empty() || !gone.held.is_empty()
        };
        has_gone || !lock(&self.retired).is_empty()
    }

    /// Of those that were taken, these must stay for now.
    pub(crate) fn hold_gone(&self, numbers: impl Iterator<Item = u64>) {
        lock(&self.gone).held.extend(numbers);
    }

    /// Takes the list of files that are durably gone, to be passed to [`Stage::sweep`] or
    /// [`Stage::hold_gone`].
    pub(crate) fn take_gone(&self) -> Vec<u64> {
        let Gone { mut new, held } = std::mem::take(&mut *lock(&self.gone));
        new.extend(held);
        new
    }

    /// Removes files whose last reference is durably gone.
    pub(crate) fn sweep(&self, numbers: &[u64]) {
        for number in numbers {
            lock(&self.open).remove(number);
            lock(&self.patches).forget(*number);
            lock(&self.patched).remove(number);
            if let Err(error) = self.disk.remove(&name(*number)) {
                tracing::warn!(number, %error, "a stage file could not be removed; the next start will");
            }
        }
    }

    /// Whether there are files with bytes of the journal's.
    pub(crate) fn has_files(&self) -> Result<bool, JournalError> {
        let mut any = false;
        self.disk.each(&mut |name| {
            any |= name.parse::<u64>().is_ok();
            Ok(())
        })?;
        Ok(any)
    }

    /// At start: of the files with a number in `numbers`, removes those that `mapped` does not have, and
    /// cuts the others to the length that it maps. What has no number goes. What a daemon that was killed wrote is
    /// seen, and may be on no disk yet: since nobody else will sync it, the bytes of all are made durable.
    pub(crate) fn recover(
        &self,
        numbers: Range<u64>,
        mapped: &BTreeMap<u64, u64>,
    ) -> Result<(), JournalError> {
        let mut left = Vec::new();
        self.disk.each(&mut |found| {
            let Ok(number) = found.parse::<u64>() else {
                return self.disk.remove(found);
            };
            if !numbers.contains(&number) {
                return Ok(());
            }
            let Some(len) = mapped.get(&number) else {
                return self.disk.remove(found);
            };
            let file = self.disk.open(found)?;
            if file.len()? > *len && !self.without.lacks(Barrier::RecoveryCut) {
                file.set_len(*len)?;
            }
            if left.len() <= FEW {
                left.push(file);
            }
            Ok(())
        })?;
        if self.without.lacks(Barrier::RecoveryBytes) {
            return Ok(());
        }
        if left.len() > FEW {
            self.disk.sync_all()?;
        } else {
            left.iter().try_for_each(|file| file.sync_data())?;
        }
        // After a failed sync the system shows what it has in memory, which is on no disk, and says no more of it.
        for number in mapped.keys() {
            match self.disk.open(&name(*number)) {
                Ok(file) => file.read_anew(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Bytes that the disk below can still take.
    pub(crate) fn free_bytes(&self) -> Result<u64, JournalError> {
        self.disk.free_bytes().map_err(Into::into)
    }

    /// An empty file for what need not survive a crash. It has no name: nobody else meets its bytes, and
    /// its room is free again when the last who holds it lets it go.
    pub(crate) fn create_scratch(&self) -> Result<Arc<dyn DiskFile>, JournalError> {
        let _one = lock(&self.scratch);
        let file = self.disk.create("scratch")?;
        self.disk.remove("scratch")?;
        Ok(file)
    }

    /// Where a stage file lies, if it is a real one.
    pub(crate) fn path(&self, number: u64) -> Option<PathBuf> {
        self.disk.path(&name(number))
    }

    /// The folder that they lie in, where it is a real one.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        self.disk.path("")
    }
}

fn name(number: u64) -> String {
    number.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::MemoryDisk;

    #[test]
    fn a_patched_file_is_held_open_until_it_is_synced() {
        let disk: Arc<dyn Disk> = Arc::<MemoryDisk>::default();
        let stage = Stage::new(disk, Without::default());
        let file = stage.create(7).unwrap();
        stage.sync(&file).unwrap();
        file.write_at(b"patched", 0).unwrap();
        let patches = stage.patches_of(&file).unwrap();
        stage.note_patch(&file, 1, patches[0].bytes.len() as u64);
        drop(file);
        let file = stage.held(7).expect("held");
        stage.sync(&file).unwrap();
        drop(file);
        assert!(stage.held(7).is_none());
    }

    #[test]
    fn files_held_open_for_patches_are_limited() {
        let disk: Arc<dyn Disk> = Arc::<MemoryDisk>::default();
        let stage = Stage::new(disk, Without::default());
        let mut patched = 0;
        for number in 0..PATCHED as u64 + 10 {
            let file = stage.create(number).unwrap();
            stage.sync(&file).unwrap();
            file.write_at(b"x", 0).unwrap();
            if let Some(patches) = stage.patches_of(&file) {
                patched += patches.len();
                stage.note_patch(&file, number, 1);
            }
        }
        assert_eq!(patched, PATCHED);
    }
}
