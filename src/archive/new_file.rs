//! A file that a command writes for its user.
//!
//! Invariant: it gets its name only once whole and durable, and never replaces another. Until then
//! it is anonymous, so that an abort leaves nothing behind, or a draft on file systems without
//! anonymous files.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{AtFlags, CWD, RenameFlags, linkat, renameat_with};

use crate::durable;
use crate::exit::fail;

/// A file that is invisible until finished.
pub(super) struct NewFile<'a> {
    path: &'a Path,
    file: File,
    /// The draft's path, if it needs one.
    draft: Option<PathBuf>,
}

impl<'a> NewFile<'a> {
    pub(super) fn create(path: &'a Path) -> anyhow::Result<Self> {
        let refused = |fault: &io::Error| {
            let shown = path.display();
            fail!(Usage, "{shown}: {fault}: name a file that is not there yet")
        };
        if path.symlink_metadata().is_ok() {
            return refused(&io::ErrorKind::AlreadyExists.into());
        }
        let nameless = File::options()
            .write(true)
            .mode(0o666)
            .custom_flags(libc::O_TMPFILE)
            .open(folder(path));
        if let Ok(file) = nameless {
            return Ok(Self {
                path,
                file,
                draft: None,
            });
        }
        Self::draft(path).or_else(|fault| refused(&fault))
    }

    /// With a draft.
    fn draft(path: &'a Path) -> io::Result<Self> {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}.part", std::process::id()));
        let draft = folder(path).join(name);
        let file = File::create_new(&draft)?;
        Ok(Self {
            path,
            file,
            draft: Some(draft),
        })
    }

    /// Refuses what does not fit on the disk, before writing.
    pub(super) fn expect(&self, bytes: u64) -> anyhow::Result<()> {
        let disk = rustix::fs::fstatvfs(&self.file)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if bytes > free {
            let shown = self.path.display();
            fail!(
                Failure,
                "{shown}: {bytes} bytes are needed and {free} are free: make room, or name another disk"
            );
        }
        Ok(())
    }

    /// Writes on a blocking thread.
    pub(super) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        tokio::task::block_in_place(|| self.file.write_all(bytes))
            .with_context(|| self.path.display().to_string())
    }

    /// Makes it durable, then names it, and makes the name durable.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let named = tokio::task::block_in_place(|| {
            self.file.sync_all()?;
            self.name()?;
            durable::sync_folder(folder(self.path))
        });
        named.with_context(|| self.path.display().to_string())
    }

    fn name(&mut self) -> io::Result<()> {
        let Some(draft) = &self.draft else {
            let open = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            return Ok(linkat(CWD, open, CWD, self.path, AtFlags::SYMLINK_FOLLOW)?);
        };
        match renameat_with(CWD, draft, CWD, self.path, RenameFlags::NOREPLACE) {
            // Not every file system supports it.
            Err(rustix::io::Errno::INVAL) if self.path.symlink_metadata().is_err() => {
                std::fs::rename(draft, self.path)?;
            }
            renamed => renamed?,
        }
        self.draft = None;
        Ok(())
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if let Some(draft) = &self.draft {
            // An incomplete draft is useless, but harmless if it stays.
            let _ = std::fs::remove_file(draft);
        }
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<std::ffi::OsString> {
        let all = std::fs::read_dir(folder).unwrap();
        all.map(|entry| entry.unwrap().file_name()).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_has_its_name_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for make in [
            |path| NewFile::create(path).unwrap(),
            |path| NewFile::draft(path).unwrap(),
        ] {
            let mut new = make(&path);
            new.write(b"half").unwrap();
            assert!(!path.exists(), "half a file has its name");
            drop(new);
            assert_eq!(names(folder.path()).len(), 0, "half a file stays");
            let mut new = make(&path);
            new.write(b"whole").unwrap();
            new.finish().unwrap();
            assert_eq!(names(folder.path()), ["file"]);
            assert_eq!(std::fs::read(&path).unwrap(), b"whole");
            assert!(NewFile::create(&path).is_err());
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_came_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for make in [
            |path| NewFile::create(path).unwrap(),
            |path| NewFile::draft(path).unwrap(),
        ] {
            let new = make(&path);
            std::fs::write(&path, b"theirs").unwrap();
            assert!(new.finish().is_err());
            assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
            assert_eq!(names(folder.path()), ["file"]);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_the_disk_has_no_room_for_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(NewFile::create(&path).unwrap().expect(u64::MAX).is_err());
    }
}
