//! Name key files, which `--name-key` names: 64 hex digits of the seed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::names::key::NameKey;

const MAX_BYTES: u64 = 128;

/// Why a name key file was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyFileError {
    #[error("name key {0}: {1}")]
    Io(PathBuf, io::Error),
    #[error("name key {0} has mode {1:03o}: others can read it; chmod 600 it")]
    Readable(PathBuf, u32),
    #[error("name key {0} is not 64 lower-case hex digits")]
    Form(PathBuf),
}

/// Reads a name key; refuses a file that others than its owner can read.
pub(super) fn load(path: &Path) -> Result<NameKey, KeyFileError> {
    let failed = |e| KeyFileError::Io(path.to_owned(), e);
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Readable(path.to_owned(), mode));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(128));
    file.take(MAX_BYTES)
        .read_to_end(&mut text)
        .map_err(failed)?;
    NameKey::from_hex(text.trim_ascii_end()).ok_or_else(|| KeyFileError::Form(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_file_gives_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.key");
        write(&path, &("ab".repeat(32) + "\n"), 0o600);
        let name = NameKey::from_seed(&[0xab; 32]).name();
        assert_eq!(load(&path).unwrap().name(), name);
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.key");
        write(&path, &"ab".repeat(32), 0o640);
        assert!(matches!(load(&path), Err(KeyFileError::Readable(_, 0o640))));
    }

    #[test]
    fn a_damaged_key_file_is_refused_whatever_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.key");
        let long = "ab".repeat(1_000);
        for bad in [
            "",
            "abc",
            &"g".repeat(64),
            &"ab".repeat(31),
            &long,
            "\u{ff}",
        ] {
            write(&path, bad, 0o600);
            assert!(matches!(load(&path), Err(KeyFileError::Form(_))), "{bad}");
        }
        let absent = dir.path().join("2.key");
        assert!(matches!(load(&absent), Err(KeyFileError::Io(..))));
    }
}
