//! What can go wrong in mounting and unmounting, by what the user can do about it.
//!
//! Invariant: each variant prints as one line: what failed, on what, and the remedy.

use std::path::PathBuf;

/// Why the drive could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mountpoint does not exist.
    #[error("mountpoint {0} does not exist: create it with `mkdir -p`")]
    NotFound(PathBuf),
    /// The mountpoint is a file.
    #[error("mountpoint {0} is not a directory: name an empty directory")]
    NotDirectory(PathBuf),
    /// The mountpoint has entries that the mount would hide.
    #[error("mountpoint {0} is not empty: name an empty directory")]
    NotEmpty(PathBuf),
    /// A FUSE file system is mounted there.
    #[error("{path} is already mounted ({kind}): unmount it first, or name another directory")]
    AlreadyMounted {
        /// The mountpoint.
        path: PathBuf,
        /// As `/proc/self/mountinfo` names it.
        kind: String,
    },
    /// Not root, and no helper.
    #[error(
        "cannot mount on {0} as this user without `fusermount3`: install the package `fuse3`, or run as root"
    )]
    NoFusermount(PathBuf),
    /// The kernel offers no FUSE.
    #[error("/dev/fuse: {0}: run `modprobe fuse`, or pass the device to the container")]
    NoDevice(std::io::Error),
    /// Mounting or unmounting is not allowed.
    #[error("not allowed to mount or unmount {path}: {reason}")]
    Denied {
        /// The mountpoint.
        path: PathBuf,
        /// Who refused and why, with the remedy if known.
        reason: String,
    },
    /// Files are open below the mountpoint.
    #[error("{0} is busy: close what is open there (`fuser -vm {0}` shows it), then try again")]
    Busy(PathBuf),
    /// A word of `-o` is unknown or makes no sense.
    #[error("mount option `{word}`: {reason}")]
    Option {
        /// The word, as given.
        word: String,
        /// What is wrong and what is right.
        reason: String,
    },
    /// Any other refusal of the operating system.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// The action, as a verb.
        doing: &'static str,
        /// Its object.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl MountError {
    /// An I/O error with what was being done, on what.
    pub(super) fn io(doing: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}
