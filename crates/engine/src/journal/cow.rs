//! A folder as it is, with changes that stay in memory: what is damaged is read without being touched.
//!
//! Invariant: nothing reaches the folder below. Used by `fs` where a damaged journal is read.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::draft::Draft;
use super::{Disk, DiskFile};
use pxfs_base::lock;

/// A folder whose changes are in memory alone.
pub(crate) struct CowDisk {
    below: Arc<dyn Disk>,
    /// Files that were opened or made; `None`: one that was removed.
    files: Mutex<HashMap<String, Option<Known>>>,
}

/// A file that was opened or made. It holds no descriptor: there may be many.
#[derive(Clone)]
struct Known {
    /// What it is called in the folder below, where it is there.
    below: Option<String>,
    draft: Arc<Mutex<Draft>>,
}

impl Known {
    fn new(below: Option<String>, len: u64) -> Self {
        Self {
            below,
            draft: Arc::new(Mutex::new(Draft::of(len))),
        }
    }
}

impl CowDisk {
    /// What `below` has.
    pub(crate) fn over(below: Arc<dyn Disk>) -> Self {
        Self {
            below,
            files: Mutex::default(),
        }
    }

    fn files(&self) -> MutexGuard<'_, HashMap<String, Option<Known>>> {
        lock(&self.files)
    }

    fn known(&self, name: &str) -> io::Result<Known> {
        if let Some(known) = self.files().get(name) {
            return known.clone().ok_or_else(|| io::ErrorKind::NotFound.into());
        }
        let len = self.below.open_to_read(name)?.len()?;
        let new = || Some(Known::new(Some(name.to_owned()), len));
        let known = self
            .files()
            .entry(name.to_owned())
            .or_insert_with(new)
            .clone();
        known.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for CowDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.files()
            .insert(name.to_owned(), Some(Known::new(None, 0)));
        self.open(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let known = self.known(name)?;
        let below = match &known.below {
            Some(name) => self.below.open_to_read(name)?,
            None => Arc::new(Nothing),
        };
        Ok(Arc::new(CowFile {
            below,
            draft: known.draft,
        }))
    }

    fn rename(&self, name: &str, to: &str) -> io::Result<()> {
        let known = self.known(name)?;
        let mut files = self.files();
        files.insert(name.to_owned(), None);
        files.insert(to.to_owned(), Some(known));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files().insert(name.to_owned(), None);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = self.below.list()?;
        let files = self.files();
        names.retain(|name| !files.contains_key(name));
        let kept = files.iter().filter(|(_, known)| known.is_some());
        names.extend(kept.map(|(name, _)| name.clone()));
        Ok(names)
    }

    fn sync_folder(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.below.path(name)
    }
}

/// One file with its changes.
struct CowFile {
    below: Arc<dyn DiskFile>,
    draft: Arc<Mutex<Draft>>,
}

impl CowFile {
    fn draft(&self) -> MutexGuard<'_, Draft> {
        lock(&self.draft)
    }
}

impl fmt::Debug for CowFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.below.fmt(f)
    }
}

impl DiskFile for CowFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.draft().read(self.below.as_ref(), offset, buf)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.draft().write(self.below.as_ref(), offset, data)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.draft().len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.draft().set_len(len);
        Ok(())
    }
}

/// What lies below a file that was made in memory.
#[derive(Debug)]
struct Nothing;

impl DiskFile for Nothing {
    fn read_at(&self, buf: &mut [u8], _: u64) -> io::Result<()> {
        match buf.is_empty() {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::MemoryDisk;

    #[test]
    fn what_is_changed_over_a_folder_leaves_the_folder_as_it_is() {
        let below = Arc::new(MemoryDisk::default());
        for name in ["a", "b", "c"] {
            below.create(name).unwrap().write_at(b"below", 0).unwrap();
        }
        let over = CowDisk::over(Arc::clone(&below) as Arc<dyn Disk>);
        over.open("a").unwrap().write_at(b"changed", 3).unwrap();
        over.remove("b").unwrap();
        over.rename("c", "d").unwrap();
        over.create("e").unwrap().write_at(b"new", 0).unwrap();
        let read = |disk: &dyn Disk, name: &str| {
            let file = disk.open(name).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_at(&mut bytes, 0).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let mut names = over.list().unwrap();
        names.sort();
        assert_eq!(names, ["a", "d", "e"]);
        let found: Vec<_> = names.iter().map(|name| read(&over, name)).collect();
        assert_eq!(found, ["belchanged", "below", "new"]);
        assert!(over.open("b").is_err() && over.open("c").is_err());
        assert_eq!(below.list().unwrap().len(), 3);
        for name in ["a", "b", "c"] {
            assert_eq!(read(below.as_ref(), name), "below");
        }
    }
}
