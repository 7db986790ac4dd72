//! Files that are whole and durable under their name, or not there at all.
//!
//! Invariant: bytes reach a name only by `rename`, after `fdatasync`; a crash leaves at most unfinished files, which
//! are in nobody's way: [`sweep`] empties a folder that is for them alone, [`sweep_unfinished`] takes them out of
//! any other. All of it blocks on the disk. Called by whoever keeps a file outside of a volume.

#[cfg(any(test, feature = "testing"))]
pub mod simulated;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Numbers unfinished files.
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// How the name of an unfinished file ends.
const UNFINISHED: &str = ".new";

/// An unfinished file that is older is nobody's any more.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A file whose bytes are durable and that has no name yet; removed when it is dropped so.
#[derive(Debug)]
pub struct Unnamed {
    path: PathBuf,
}

impl Unnamed {
    /// Writes `bytes` into a new file in `folder` (on the file system of the later name), sets its
    /// time of change when one is given, and syncs it.
    pub fn write(folder: &Path, bytes: &[u8], modified: Option<SystemTime>) -> io::Result<Self> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        // In a container every start has the same number as the one before.
        let chance = getrandom::u64().map_err(|e| io::Error::other(e.to_string()))?;
        let name = format!("{}-{serial}-{chance:016x}{UNFINISHED}", std::process::id());
        let path = folder.join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        // From here on the file goes when anything fails.
        let unnamed = Self { path };
        file.write_all(bytes)?;
        if let Some(time) = modified {
            file.set_modified(time)?;
        }
        file.sync_data()?;
        #[cfg(any(test, feature = "testing"))]
        simulated::bytes_synced(&unnamed.path);
        Ok(unnamed)
    }

    /// Gives the file its name, in place of any file there. Durable after [`sync_folder`] of the
    /// folder of `name`.
    pub fn rename(self, name: &Path) -> io::Result<()> {
        // On success the drop finds nothing to remove.
        fs::rename(&self.path, name)
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        // What cannot be removed here is swept at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the names in `folder` durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()?;
    #[cfg(any(test, feature = "testing"))]
    simulated::names_synced(folder);
    Ok(())
}

/// Creates `folder` where it is missing, its parents too, each durable and for its owner alone.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    let create = || fs::DirBuilder::new().mode(0o700).create(folder);
    match create() {
        // Whoever made it may have ended before its name was durable.
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let parent = folder.parent().ok_or(e)?;
            create_folder(parent)?;
            create()?;
        }
        Err(e) => return Err(e),
    }
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => sync_folder(Path::new(".")),
    }
}

/// Opens the file at `path` for reading and writing, or, where its disk has turned read-only, for reading: writes to it
/// fail then.
pub fn open_at_least_to_read(path: &Path) -> io::Result<File> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => File::open(path),
        other => other,
    }
}

/// Bytes that can still be written on the file system of `folder`.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Removes what a crash left unfinished in `folder`.
pub fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// Removes what crashes left unfinished in `folder` among what has a name there. What is younger than an hour stays:
/// another process may be at it.
pub fn sweep_unfinished(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    // What cannot be looked at or removed is left to the next time.
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(is_unfinished);
        let found = entry
            .metadata()
            .ok()
            .filter(|found| is_ours && found.is_file());
        let age = found.and_then(|found| found.modified().ok()?.elapsed().ok());
        if age.is_some_and(|age| age >= ABANDONED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether an unfinished file has such a name, or had one in earlier versions.
fn is_unfinished(name: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = name.trim_end_matches(UNFINISHED).split('-').collect();
    match parts[..] {
        [pid, serial] => is_number(pid) && is_number(serial) && !name.ends_with(UNFINISHED),
        [pid, serial, chance] => {
            let is_chance = chance.len() == 16 && chance.bytes().all(|b| b.is_ascii_hexdigit());
            is_number(pid) && is_number(serial) && is_chance && name.ends_with(UNFINISHED)
        }
        _ => false,
    }
}

/// Locks `file` against every other process. Tries for half a second: a program that another thread
/// is just starting holds our descriptors, and the locks on them, for a moment.
///
/// # Errors
/// Somebody else has it; it cannot be locked.
pub fn lock_whole(file: &File) -> Result<(), fs::TryLockError> {
    for _ in 0..10 {
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
            other => return other,
        }
    }
    file.try_lock()
}

/// Opens `folder` as one whose content has the form named by `format`, creating it where it is
/// missing, and locks it against every other process until the file is dropped.
///
/// The folder then holds the files `lock` and `format`. [`ErrorKind::WouldBlock`] when it is
/// locked, [`ErrorKind::InvalidData`] when its content has another form.
pub fn open_folder(folder: &Path, format: &str) -> io::Result<File> {
    create_folder(folder)?;
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(folder.join("lock"))?;
    lock_whole(&lock).map_err(|e| match e {
        fs::TryLockError::WouldBlock => io::Error::new(
            ErrorKind::WouldBlock,
            "the folder is in use by another pxfs",
        ),
        fs::TryLockError::Error(e) => e,
    })?;
    sweep_unfinished(folder);
    let line = format!("{format}\n");
    match fs::read(folder.join("format")) {
        Ok(found) if found == line.as_bytes() => {}
        Ok(found) => {
            let found = String::from_utf8_lossy(found.get(..64).unwrap_or(&found)).into_owned();
            let why = format!("its format is `{}`, not `{format}`", found.trim_end());
            return Err(io::Error::new(ErrorKind::InvalidData, why));
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Unnamed::write(folder, line.as_bytes(), None)?.rename(&folder.join("format"))?;
            sync_folder(folder)?;
        }
        Err(e) => return Err(e),
    }
    Ok(lock)
}

/// As [`open_folder`], with the folders `below` in it, and one called `new`, which is emptied: for
/// what has no name yet.
pub fn open_store(folder: &Path, format: &str, below: &[&str]) -> io::Result<File> {
    let lock = open_folder(folder, format)?;
    for name in below {
        create_folder(&folder.join(name))?;
    }
    let new = folder.join("new");
    create_folder(&new)?;
    sweep(&new)?;
    Ok(lock)
}

/// Whether another try may help: all but what the owner of the machine has to change, and the
/// lock of another process, which keeps it.
#[must_use]
pub fn is_transient(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidData
            | ErrorKind::InvalidFilename
            | ErrorKind::Unsupported
            | ErrorKind::WouldBlock
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_got_its_name_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(Unnamed::write(dir.path(), b"half", None).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_crash_left_unfinished_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        // A process with the number of this one has got as far as this one will.
        let serial = SERIAL.load(Ordering::Relaxed);
        for serial in 0..serial + 1000 {
            let name = format!("{}-{serial}", std::process::id());
            fs::write(dir.path().join(name), b"half").unwrap();
        }
        let name = dir.path().join("name");
        Unnamed::write(dir.path(), b"new", None)
            .and_then(|new| new.rename(&name))
            .unwrap();
        assert_eq!(fs::read(&name).unwrap(), b"new");
    }

    #[test]
    fn what_crashes_left_unfinished_does_not_gather() {
        let dir = tempfile::tempdir().unwrap();
        let long_ago = SystemTime::now() - 2 * ABANDONED;
        let left = |folder: &Path| std::mem::forget(Unnamed::write(folder, b"half", None).unwrap());
        left(dir.path());
        let before: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(before.len(), 1);
        let named = ["lock", "1-2-3", "31337-0x1c-1-1", "a.new", "7-x"];
        for name in named {
            fs::write(dir.path().join(name), b"x").unwrap();
        }
        fs::write(dir.path().join("12-0"), b"of an earlier version").unwrap();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let file = File::options().write(true).open(entry.unwrap().path());
            file.unwrap().set_modified(long_ago).unwrap();
        }
        fs::create_dir(dir.path().join("12-1")).unwrap();
        // Another process is at this one.
        left(dir.path());
        drop(open_folder(dir.path(), "pxfs test 1").unwrap());
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|name| !named.contains(&&**name));
        let (left, others): (Vec<_>, Vec<_>) =
            names.iter().partition(|name| name.ends_with(UNFINISHED));
        assert_eq!(left.len(), 1, "{names:?}");
        assert_eq!(others.len(), 2, "{names:?}");
        assert!(
            others
                .iter()
                .all(|name| ["12-1", "format"].contains(&&***name))
        );
    }

    #[test]
    fn a_name_holds_the_old_bytes_or_the_new() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("name");
        fs::write(&name, b"old").unwrap();
        let new = Unnamed::write(dir.path(), b"new", None).unwrap();
        assert_eq!(fs::read(&name).unwrap(), b"old");
        new.rename(&name).unwrap();
        assert_eq!(fs::read(&name).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn others_on_the_machine_cannot_read_what_is_stored() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        create_folder(&folder).unwrap();
        let name = folder.join("name");
        Unnamed::write(&folder, b"x", None)
            .and_then(|new| new.rename(&name))
            .unwrap();
        for path in [dir.path().join("a"), folder, name] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o077, 0);
        }
    }

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        let lock = open_folder(&folder, "pxfs test 1").unwrap();
        let error = open_folder(&folder, "pxfs test 1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        drop(lock);
        open_folder(&folder, "pxfs test 1").unwrap();
    }

    #[test]
    fn a_folder_of_another_form_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        drop(open_folder(dir.path(), "pxfs test 1").unwrap());
        let error = open_folder(dir.path(), "pxfs test 2").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("`pxfs test 1`"));
        assert!(!is_transient(&error));
    }

    #[test]
    fn a_full_disk_is_worth_another_try() {
        assert!(is_transient(&ErrorKind::StorageFull.into()));
        assert!(is_transient(&ErrorKind::QuotaExceeded.into()));
        assert!(!is_transient(&ErrorKind::PermissionDenied.into()));
    }
}
