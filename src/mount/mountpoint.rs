//! The directory below the mount: checks that it can be mounted on, and keeps others from writing
//! into it.
//!
//! Invariant: no call waits for a file system that does not answer.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};

use super::{MountError, device, mountinfo};

/// Dead mounts of earlier runs, stacked.
const STALE_MAX: usize = 16;

/// How long a mounted file system has to show that it lives.
const LIFE_SIGN: Duration = Duration::from_secs(5);

/// Checks that `path` is an empty directory without a FUSE mount; returns its canonical form. Removes
/// the mount of a dead pxfs first.
///
/// # Errors
/// [`MountError`] by meaning: missing, not a directory, not empty, already mounted.
pub fn check_mountpoint(path: &Path) -> Result<PathBuf, MountError> {
    let canonical = path
        .canonicalize()
        .map_err(|error| refusal("use the mountpoint", path, error))?;
    remove_stale(&canonical)?;
    let about = canonical
        .metadata()
        .map_err(|error| refusal("look at the mountpoint", path, error))?;
    if !about.is_dir() {
        return Err(MountError::NotDirectory(path.to_owned()));
    }
    let mut entries = std::fs::read_dir(&canonical)
        .map_err(|error| refusal("list the mountpoint", path, error))?;
    match entries.next() {
        None => Ok(canonical),
        Some(_) => Err(MountError::NotEmpty(path.to_owned())),
    }
}

fn refusal(doing: &'static str, path: &Path, error: io::Error) -> MountError {
    match error.kind() {
        io::ErrorKind::NotFound => MountError::NotFound(path.to_owned()),
        io::ErrorKind::NotADirectory => MountError::NotDirectory(path.to_owned()),
        _ => MountError::io(doing, path, error),
    }
}

/// Removes the mount of a dead pxfs at `path`, and nothing else.
///
/// # Errors
/// [`MountError`]: the path is missing, or the kernel refuses.
pub fn unmount_dead(path: &Path) -> Result<(), MountError> {
    let canonical = path
        .canonicalize()
        .map_err(|error| refusal("use the mountpoint", path, error))?;
    remove_dead(&canonical).map(drop)
}

/// Also refuses a live FUSE file system there.
fn remove_stale(path: &Path) -> Result<(), MountError> {
    match remove_dead(path)? {
        Some(kind) if kind.starts_with("fuse") => Err(MountError::AlreadyMounted {
            path: path.to_owned(),
            kind,
        }),
        // A disk or bind mount is fine (containers share them).
        Some(_) | None => Ok(()),
    }
}

/// A killed daemon leaves a mount on which every call fails with "transport endpoint is not
/// connected". Removes only pxfs's own; returns the type of what is mounted there then.
fn remove_dead(path: &Path) -> Result<Option<String>, MountError> {
    for _ in 0..STALE_MAX {
        let top = mountinfo::top(path)
            .map_err(|error| MountError::io("read what is mounted on", path, error))?;
        match top {
            Some(entry) if entry.kind == device::KIND && is_gone(path) => {
                tracing::info!(path = %path.display(), "taking away the mount of a pxfs that has died");
                device::unmount(path, device::How::Lazily)?;
            }
            top => return Ok(top.map(|entry| entry.kind)),
        }
    }
    Err(MountError::AlreadyMounted {
        path: path.to_owned(),
        kind: format!("{STALE_MAX} dead mounts"),
    })
}

/// Whether a dead pxfs mount lies at the canonical `path`.
#[must_use]
pub fn is_dead(path: &Path) -> bool {
    mountinfo::is_mounted(path) && is_gone(path)
}

/// Whether the daemon behind the mount has died. One that does not answer is not dead.
fn is_gone(path: &Path) -> bool {
    let (answer, answered) = mpsc::channel();
    let path = path.to_owned();
    std::thread::spawn(move || {
        // The kernel answers `stat` from its cache for an hour, but asks for each `statfs`.
        let dead = rustix::fs::statfs(&path)
            .is_err_and(|error| io::Error::from(error).kind() == io::ErrorKind::NotConnected);
        // Too late: nobody listens any more.
        let _ = answer.send(dead);
    });
    answered.recv_timeout(LIFE_SIGN).unwrap_or(false)
}

/// The directory below the mount, opened before mounting.
///
/// While mounted, its owner cannot write to it: if the mount vanishes (`umount -l`, a restart after
/// a crash), a running backup fails instead of filling the disk below. Modes do not stop root; but
/// pxfs never unmounts when it dies, so calls fail with "not connected" until the next start.
/// `chattr +i` would stop root too, but would survive a crash as a directory that cannot be
/// removed, so that is left to the operator.
pub(super) struct BareDirectory {
    dir: File,
    mode: u32,
    ours: bool,
}

/// Stores a sealed directory's mode, so that the next pxfs can restore it after a kill.
const MODE: &str = "user.pxfs.mode";

impl BareDirectory {
    /// Restores the mode that a killed pxfs left, because `fusermount3` demands a writable
    /// mountpoint.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let dir = File::open(path)?;
        let about = dir.metadata()?;
        let user = rustix::process::geteuid();
        let mode = about.mode() & 0o7777;
        let bare = Self {
            mode: unsealed(&dir, mode),
            dir,
            ours: about.uid() == user.as_raw(),
        };
        if mode & 0o200 == 0 && !user.is_root() {
            bare.set_mode(mode | 0o200);
        }
        Ok(bare)
    }

    /// Removes the write permissions; call it once the mount covers it.
    pub(super) fn seal(&self) {
        if self.ours && self.mode & 0o222 != 0 {
            let mode = format!("{:o}", self.mode);
            let kept = fsetxattr(&self.dir, MODE, mode.as_bytes(), XattrFlags::empty());
            if let Err(error) = kept {
                tracing::debug!(%error, "the mode of the mountpoint is not remembered");
            }
        }
        self.set_mode(self.mode & !0o222);
    }

    pub(super) fn restore(&self) {
        self.set_mode(self.mode | 0o200);
        // Usually only our own attribute can be there.
        let _ = fremovexattr(&self.dir, MODE);
        self.set_mode(self.mode);
    }

    /// The mode below the mount.
    #[cfg(test)]
    pub(super) fn mode_now(&self) -> u32 {
        self.dir.metadata().map_or(0, |about| about.mode() & 0o7777)
    }

    /// Fails silently on somebody else's directory or a read-only disk: the mount does not need it.
    fn set_mode(&self, mode: u32) {
        if !self.ours {
            return;
        }
        if let Err(error) = self.dir.set_permissions(Permissions::from_mode(mode)) {
            tracing::debug!(%error, "the mode of the mountpoint stays as it is");
        }
    }
}

/// The mode before sealing, given the present one.
fn unsealed(dir: &File, mode: u32) -> u32 {
    let mut text = [0; 8];
    let kept = fgetxattr(dir, MODE, &mut text[..])
        .ok()
        .and_then(|len| std::str::from_utf8(text.get(..len)?).ok())
        .and_then(|text| u32::from_str_radix(text, 8).ok());
    // Unless somebody has changed it since.
    kept.filter(|kept| kept & !0o222 == mode).unwrap_or(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path) -> MountError {
        check_mountpoint(path).unwrap_err()
    }

    #[test]
    fn an_empty_directory_is_taken_in_its_canonical_form() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        std::os::unix::fs::symlink("mnt", dir.path().join("link")).unwrap();
        assert_eq!(
            check_mountpoint(&dir.path().join("mnt/../mnt")).unwrap(),
            real.join("mnt")
        );
        assert_eq!(
            check_mountpoint(&dir.path().join("link")).unwrap(),
            real.join("mnt")
        );
    }

    #[test]
    fn each_bad_mountpoint_gets_its_own_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        let errors = [
            refused(&dir.path().join("missing")),
            refused(&file),
            refused(&file.join("below")),
            refused(dir.path()),
            refused(Path::new("/")),
        ];
        assert!(matches!(&errors[0], MountError::NotFound(_)));
        assert!(matches!(&errors[1], MountError::NotDirectory(_)));
        assert!(matches!(&errors[2], MountError::NotDirectory(_)));
        assert!(matches!(&errors[3], MountError::NotEmpty(_)));
        assert!(matches!(&errors[4], MountError::NotEmpty(_)));
        for error in errors {
            assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn the_mountpoint_is_read_only_while_mounted_and_restored_after() {
        let dir = tempfile::tempdir().unwrap();
        let mode = || dir.path().metadata().unwrap().mode() & 0o7777;
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o1775)).unwrap();
        let bare = BareDirectory::open(dir.path()).unwrap();
        bare.seal();
        assert_eq!(mode(), 0o1555);
        bare.restore();
        assert_eq!(mode(), 0o1775);
    }

    #[test]
    fn the_next_mount_restores_the_mountpoints_mode_after_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let mode = || dir.path().metadata().unwrap().mode() & 0o7777;
        let set = |mode| std::fs::set_permissions(dir.path(), Permissions::from_mode(mode));
        set(0o1775).unwrap();
        for _ in 0..2 {
            // Never restored.
            BareDirectory::open(dir.path()).unwrap().seal();
            assert_eq!(mode(), 0o1555);
        }
        let bare = BareDirectory::open(dir.path()).unwrap();
        bare.seal();
        bare.restore();
        assert_eq!(mode(), 0o1775);
        // A mode that the owner set since stays, and so does one that was closed before.
        bare.seal();
        for given in [0o700, 0o500] {
            set(given).unwrap();
            let bare = BareDirectory::open(dir.path()).unwrap();
            bare.seal();
            bare.restore();
            assert_eq!(mode(), given);
        }
        let mut left = [0; 100];
        assert_eq!(rustix::fs::listxattr(dir.path(), &mut left[..]), Ok(0));
    }
}
