//! A folder of files, as a border: a real one, or one in memory. All durable local state of a volume
//! lies behind it: the journal's file in one, the stage files in another.
//!
//! Invariant: nothing is durable before `sync_data` of the file and, for a file just created,
//! `sync_folder` have returned. Called by [`super::Journal`] and [`super::Stage`] alone.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One file.
#[allow(clippy::len_without_is_empty)]
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Fills `buf` from `offset`; an error when the file ends before.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `data` at `offset`.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts the file to `len`, or extends it by zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Lets go of what the system has in memory of it and the disk has too: what is read from here on is on the disk.
    fn read_anew(&self) {}
}

/// A folder of files.
pub trait Disk: Send + Sync {
    /// Creates an empty file; an existing one is emptied.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// As [`Disk::open`], also on a disk that has turned read-only: what is there can be read, and writes fail.
    fn open_to_read(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open(name)
    }
    /// Gives the file `name` the name `to`, in place of any file there: atomic, durable with
    /// [`Disk::sync_folder`].
    fn rename(&self, name: &str, to: &str) -> io::Result<()>;
    /// Removes a file; no error when there is none.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Calls `each` with the name of each file, which it may remove; at most a few are in memory.
    fn each(&self, each: &mut dyn FnMut(&str) -> io::Result<()>) -> io::Result<()> {
        self.list()?.iter().try_for_each(|name| each(name))
    }
    /// Makes creations, renames and removals durable.
    fn sync_folder(&self) -> io::Result<()>;
    /// Makes durable what was written to any of the files.
    fn sync_all(&self) -> io::Result<()> {
        self.each(&mut |name| self.open(name)?.sync_data())
    }
    /// Bytes that can still be written.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Where the file lies, if it is a real one.
    fn path(&self, name: &str) -> Option<PathBuf>;
}

/// Free bytes that nobody uses up within [`BELIEVED`].
const PLENTY: u64 = 4 << 30;

/// For how long a disk with [`PLENTY`] is not asked again.
const BELIEVED: Duration = Duration::from_millis(100);

/// A real folder.
#[derive(Debug)]
pub struct FolderDisk {
    folder: PathBuf,
    /// Open all the time: a sync needs no descriptor that may be wanting, and tells each error since.
    handle: File,
    /// The last answer to [`Disk::free_bytes`], when it was plenty: each write asks.
    plenty: Mutex<Option<(Instant, u64)>>,
}

impl FolderDisk {
    /// The folder, created with mode 0700 where missing.
    ///
    /// # Errors
    /// The folder cannot be made or opened.
    pub fn open(folder: &Path) -> io::Result<Self> {
        crate::durable::create_folder(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            handle: File::open(folder)?,
            plenty: Mutex::default(),
        })
    }
}

impl DiskFile for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn read_anew(&self) {
        if let Err(error) = rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::DontNeed) {
            tracing::debug!(%error, "the system keeps what it has in memory of a file");
        }
    }
}

impl Disk for FolderDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.folder.join(name))?;
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.folder.join(name))?;
        Ok(Arc::new(file))
    }

    fn open_to_read(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = crate::durable::open_at_least_to_read(&self.folder.join(name))?;
        Ok(Arc::new(file))
    }

    fn rename(&self, name: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.folder.join(name), self.folder.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.folder.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        std::fs::read_dir(&self.folder)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn each(&self, each: &mut dyn FnMut(&str) -> io::Result<()>) -> io::Result<()> {
        std::fs::read_dir(&self.folder)?
            .try_for_each(|entry| each(&entry?.file_name().to_string_lossy()))
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.handle)?)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let mut plenty = self.plenty.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = plenty.filter(|(seen, _)| seen.elapsed() < BELIEVED) {
            return Ok(bytes);
        }
        let bytes = crate::durable::free_bytes(&self.folder)?;
        *plenty = (bytes >= PLENTY).then(|| (Instant::now(), bytes));
        Ok(bytes)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.join(name))
    }
}

/// A folder in memory: the twin of [`FolderDisk`] for tests.
#[derive(Default)]
pub struct MemoryDisk {
    files: Mutex<HashMap<String, Arc<MemoryFile>>>,
    free_bytes: Mutex<Option<u64>>,
}

#[derive(Debug, Default)]
struct MemoryFile(Mutex<Vec<u8>>);

impl MemoryDisk {
    /// Sets what [`Disk::free_bytes`] answers; unlimited until then.
    pub fn set_free_bytes(&self, bytes: u64) {
        *self
            .free_bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }

    fn files(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<MemoryFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryFile {
    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn to_index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.bytes();
        if buf.is_empty() {
            return Ok(());
        }
        let found = to_index(offset)
            .ok()
            .and_then(|start| bytes.get(start..start + buf.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let start = to_index(offset)?;
        let mut bytes = self.bytes();
        let end = start + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(data);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes().resize(to_index(len)?, 0);
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = Arc::new(MemoryFile::default());
        self.files().insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.files().get(name).cloned();
        Ok(file.ok_or(io::ErrorKind::NotFound)?)
    }

    fn rename(&self, name: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        let file = files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files().remove(name);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    fn sync_folder(&self) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let free = *self
            .free_bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(free.unwrap_or(u64::MAX))
    }

    fn path(&self, _: &str) -> Option<PathBuf> {
        None
    }
}
