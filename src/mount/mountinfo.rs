//! Mounts in `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
//!
//! Invariant: reading it touches no file system, so a hung one cannot block the reader.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    /// `major:minor`, unique while the file system lives.
    pub(super) device: String,
    pub(super) kind: String,
}

/// The topmost mount at exactly the canonical `path`.
pub(super) fn top(path: &Path) -> io::Result<Option<Entry>> {
    Ok(top_of(&std::fs::read("/proc/self/mountinfo")?, path))
}

/// Whether a pxfs mount, alive or dead, is topmost at the canonical `path`.
#[must_use]
pub fn is_mounted(path: &Path) -> bool {
    let top = top(path).ok().flatten();
    top.is_some_and(|entry| entry.kind == "fuse.pxfs")
}

/// Mounts on one path are listed in stacking order.
fn top_of(table: &[u8], path: &Path) -> Option<Entry> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .rfind(|entry| entry.path == path)
}

/// `id parent major:minor root path options [optional…] - type source options`
fn parse(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = fields.nth(2)?;
    let path = fields.nth(1)?;
    let kind = fields.skip_while(|field| field != b"-").nth(1)?;
    Some(Entry {
        path: PathBuf::from(unescape(path)),
        device: String::from_utf8_lossy(device).into_owned(),
        kind: OsString::from_vec(kind.to_vec())
            .to_string_lossy()
            .into_owned(),
    })
}

/// Space, tab, newline and backslash are octal escapes.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\');
        let code = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        let (byte, used) = code.map_or((first, 1), |byte| (byte, 4));
        plain.push(byte);
        rest = rest.get(used..).unwrap_or_default();
    }
    std::ffi::OsStr::from_bytes(&plain).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 28 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw
90 28 0:45 / /mnt/my\\040drive rw,nosuid shared:46 master:1 - fuse.pxfs pxfs rw,user_id=0
91 28 8:1 /sub /mnt/disk rw - ext4 /dev/sda1 rw
92 91 0:50 / /mnt/disk rw - fuse.pxfs pxfs rw
93 28 0:51 / /mnt/odd\\134name\\012 rw - tmpfs tmpfs rw
broken line
";

    fn kind_at(path: &str) -> Option<(String, String)> {
        top_of(TABLE, Path::new(path)).map(|entry| (entry.kind, entry.device))
    }

    fn entry(kind: &str, device: &str) -> Option<(String, String)> {
        Some((kind.to_owned(), device.to_owned()))
    }

    #[test]
    fn a_mount_is_found_whatever_its_name() {
        assert_eq!(kind_at("/mnt/my drive"), entry("fuse.pxfs", "0:45"));
        assert_eq!(kind_at("/mnt/odd\\name\n"), entry("tmpfs", "0:51"));
        assert_eq!(kind_at("/mnt"), None);
        assert_eq!(kind_at("/mnt/my"), None);
    }

    #[test]
    fn of_stacked_mounts_the_one_on_top_counts() {
        assert_eq!(kind_at("/mnt/disk"), entry("fuse.pxfs", "0:50"));
    }

    #[test]
    fn the_real_table_can_be_read() {
        assert!(top(Path::new("/proc")).unwrap().is_some());
    }
}
