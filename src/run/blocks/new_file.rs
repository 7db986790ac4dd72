//! A file that a command writes: it has its name once it is whole, or never.
//!
//! Invariant: until it is finished the file has no name at all, so whatever ends the process leaves
//! nothing behind. Where the file system has no such files, it has a hidden name beside its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, openat, renameat_with};
use rustix::io::Errno;

use crate::cli::exit::{Exit, Failure};
use crate::durable;

/// A new file, and the name that it gets.
pub(super) struct NewFile<'a> {
    path: &'a Path,
    file: File,
    /// Its name until it is finished, where it cannot be without one.
    hidden: Option<PathBuf>,
}

impl<'a> NewFile<'a> {
    /// Creates a file that will be called `path`, where nothing is yet.
    ///
    /// # Errors
    /// Something has that name, or the folder cannot be written to: a line for the user.
    pub(super) fn create(path: &'a Path) -> anyhow::Result<Self> {
        let opened = match path.symlink_metadata() {
            Ok(_) => Err(io::Error::from(Errno::EXIST)),
            Err(_) => unnamed(folder(path)),
        };
        match opened {
            Ok((file, hidden)) => Ok(Self { path, file, hidden }),
            Err(fault) => Err(refused(path, &fault)),
        }
    }

    /// Appends, beside the runtime.
    pub(super) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        tokio::task::block_in_place(|| self.file.write_all(bytes))
            .with_context(|| self.path.display().to_string())
    }

    /// Makes it durable and gives it its name, durably too.
    ///
    /// # Errors
    /// As `create`, and what the disk says.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let named = tokio::task::block_in_place(|| {
            self.file.sync_all()?;
            self.name()
        });
        match named {
            Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists => {
                return Err(refused(self.path, &fault));
            }
            named => named.with_context(|| self.path.display().to_string())?,
        }
        self.hidden = None;
        tokio::task::block_in_place(|| durable::sync_folder(folder(self.path)))
            .with_context(|| self.path.display().to_string())
    }

    /// Takes the name, unless something has it.
    fn name(&self) -> io::Result<()> {
        match &self.hidden {
            None => {
                let open = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                linkat(CWD, open, CWD, self.path, AtFlags::SYMLINK_FOLLOW)?;
            }
            Some(hidden) => {
                match renameat_with(CWD, hidden, CWD, self.path, RenameFlags::NOREPLACE) {
                    // A file system without RENAME_NOREPLACE.
                    Err(Errno::INVAL | Errno::NOSYS) if self.path.symlink_metadata().is_err() => {
                        std::fs::rename(hidden, self.path)?;
                    }
                    renamed => renamed?,
                }
            }
        }
        Ok(())
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            // What is half there is of no use; that it stays is no more than untidy.
            let _ = std::fs::remove_file(hidden);
        }
    }
}

/// A new file in `folder`, and its name if it has to have one.
fn unnamed(folder: &Path) -> io::Result<(File, Option<PathBuf>)> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match openat(CWD, folder, flags, Mode::from(0o666)) {
        Ok(file) => Ok((File::from(file), None)),
        // FUSE, NFS and others have no files without a name.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {
            let chance = getrandom::u64().map_err(|fault| io::Error::other(fault.to_string()))?;
            let hidden = folder.join(format!(".pxfs-{chance:016x}.part"));
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&hidden)?;
            Ok((file, Some(hidden)))
        }
        Err(fault) => Err(fault.into()),
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn refused(path: &Path, fault: &io::Error) -> anyhow::Error {
    let line = format!(
        "{}: {fault}: name a file that is not there yet, in a folder that can be written to",
        path.display()
    );
    Failure::new(Exit::Usage, line).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_has_its_name_when_it_is_whole_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("photo.jpg");
        let mut new = NewFile::create(&path).unwrap();
        new.write(b"half").unwrap();
        assert!(!path.exists());
        drop(new);
        assert!(names(dir.path()).is_empty());

        let mut new = NewFile::create(&path).unwrap();
        new.write(b"all of it").unwrap();
        new.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"all of it");
        assert_eq!(names(dir.path()), ["photo.jpg"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_that_has_the_name_already_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("photo.jpg");
        let mut late = NewFile::create(&path).unwrap();
        late.write(b"new").unwrap();
        std::fs::write(&path, b"somebody's own").unwrap();
        assert!(NewFile::create(&path).is_err());
        assert!(late.finish().is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody's own");
        // A link that leads nowhere has the name too.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(NewFile::create(&link).is_err());
    }

    /// FUSE and NFS have no files without a name.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_hidden_file_is_renamed_when_it_is_whole_and_removed_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("photo.jpg");
        let with_name = |name: &str| {
            let hidden = dir.path().join(name);
            NewFile {
                path: &path,
                file: File::create(&hidden).unwrap(),
                hidden: Some(hidden),
            }
        };
        drop(with_name(".a.part"));
        assert!(names(dir.path()).is_empty());
        let mut new = with_name(".b.part");
        new.write(b"all of it").unwrap();
        new.finish().unwrap();
        assert_eq!(names(dir.path()), ["photo.jpg"]);
        assert!(with_name(".c.part").finish().is_err());
        assert_eq!(names(dir.path()), ["photo.jpg"]);
        assert_eq!(std::fs::read(&path).unwrap(), b"all of it");
    }
}
