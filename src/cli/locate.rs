//! Finds the daemon for a command.
//!
//! Invariant: the named mountpoint (argument or `--drive`), else the named state folder, else the
//! drive of the current directory, else the only mounted drive; never a guess among several. It
//! never touches a mount's file system, whose daemon may hang.

use std::path::{Path, PathBuf};

use super::setup::Setup;
use crate::control::{Client, Entry, find_all, find_ended};
use crate::exit::{Exit, Failure};

/// The daemon that holds `path` (the drive, or anything in it), or that the options name; `None` if there
/// is none.
///
/// # Errors
/// Several match; none holds the drive that the options name.
pub(super) fn find(setup: &Setup, path: Option<&Path>) -> Result<Option<Entry>, Failure> {
    let entries = find_all(&setup.folders.runtime);
    let state_dir = setup.layer.state_dir.as_deref().map(canonical);
    let named = path.or(setup.drive.as_deref()).map(canonical);
    let here = match (&named, &state_dir) {
        (None, None) => current(&entries),
        _ => None,
    };
    let found = choose(
        entries,
        named.or(here).as_deref(),
        state_dir.as_deref(),
        &setup.folders.state,
    )?;
    match (&found, path, &setup.drive) {
        // A request for that drive is not served elsewhere.
        (None, None, Some(_)) => Err(missing(setup, path)),
        _ => Ok(found),
    }
}

/// The current directory, if it is in a drive, as the kernel tells without asking the drive.
fn current(entries: &[Entry]) -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    let is_inside = |entry: &Entry| here.starts_with(&entry.mountpoint);
    entries.iter().any(is_inside).then_some(here)
}

/// All drives, if none was named and the current directory is in none; else that one.
///
/// # Errors
/// As [`find`].
pub(super) fn each(setup: &Setup, path: Option<&Path>) -> Result<Vec<Entry>, Failure> {
    let is_named = path.is_some() || setup.drive.is_some() || setup.layer.state_dir.is_some();
    if !is_named {
        let entries = find_all(&setup.folders.runtime);
        if current(&entries).is_none() {
            return Ok(entries);
        }
    }
    Ok(find(setup, path)?.into_iter().collect())
}

/// Drives with a dead mount, of those that the options mean.
pub(super) fn dead(setup: &Setup) -> Vec<PathBuf> {
    let state_dir = setup.layer.state_dir.as_deref().map(canonical);
    let drive = setup.drive.as_deref().map(canonical);
    let is_meant = |entry: &Entry| match (&drive, &state_dir) {
        (Some(drive), _) => drive.starts_with(&entry.mountpoint),
        (None, Some(folder)) => entry.state_dir == *folder,
        (None, None) => true,
    };
    let left = find_ended(&setup.folders.runtime).into_iter();
    let left = left.filter(is_meant).map(|entry| entry.mountpoint);
    left.filter(|path| crate::mount::is_dead(path)).collect()
}

/// As [`find`], but required.
pub(super) fn require(setup: &Setup, path: Option<&Path>) -> Result<Entry, Failure> {
    find(setup, path)?.ok_or_else(|| missing(setup, path))
}

pub(super) fn missing(setup: &Setup, path: Option<&Path>) -> Failure {
    let line = match (path.or(setup.drive.as_deref()), &setup.layer.state_dir) {
        (Some(path), _) => format!("{} is not mounted by pxfs", path.display()),
        (None, Some(folder)) => {
            format!(
                "nothing is mounted from the state folder {}",
                folder.display()
            )
        }
        (None, None) => "nothing is mounted".to_owned(),
    };
    Failure::new(
        Exit::Mounted,
        format!("{line}: mount it with `pxfs mount MOUNTPOINT`, or try `pxfs demo MOUNTPOINT`"),
    )
}

pub(super) fn connect(entry: &Entry) -> Result<Client, Failure> {
    Client::connect(&entry.socket).map_err(|fault| {
        Failure::new(
            Exit::Mounted,
            format!(
                "pxfs (process {}) on {} does not answer: {fault}",
                entry.pid,
                entry.mountpoint.display()
            ),
        )
    })
}

/// Whether the kernel lists a pxfs mount, alive or dead, at `path`.
pub(super) fn is_mounted(path: &Path) -> bool {
    crate::mount::is_mounted(&canonical(path))
}

fn choose(
    mut entries: Vec<Entry>,
    path: Option<&Path>,
    state_dir: Option<&Path>,
    default_state: &Path,
) -> Result<Option<Entry>, Failure> {
    if let Some(path) = path {
        // The innermost, if nested.
        entries.retain(|entry| path.starts_with(&entry.mountpoint));
        return Ok(entries
            .into_iter()
            .max_by_key(|entry| entry.mountpoint.as_os_str().len()));
    }
    if let Some(folder) = state_dir {
        return Ok(entries.into_iter().find(|entry| entry.state_dir == folder));
    }
    if entries.len() > 1 {
        let usual = entries
            .iter()
            .position(|entry| entry.state_dir == default_state);
        return match usual {
            Some(index) => Ok(Some(entries.swap_remove(index))),
            None => {
                let all: Vec<String> = entries
                    .iter()
                    .map(|entry| entry.mountpoint.display().to_string())
                    .collect();
                Err(Failure::new(
                    Exit::Usage,
                    format!(
                        "several drives are mounted ({}): choose one with --drive, or run this inside one",
                        all.join(", ")
                    ),
                ))
            }
        };
    }
    Ok(entries.pop())
}

/// Canonicalises all but the last component, which may be a hung mount.
fn canonical(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => match parent.canonicalize() {
            Ok(parent) => parent.join(name),
            Err(_) => path,
        },
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(mountpoint: &str, state: &str) -> Entry {
        Entry {
            pid: 1,
            state_dir: state.into(),
            mountpoint: mountpoint.into(),
            socket: "/s".into(),
        }
    }

    fn chosen(path: Option<&str>, state: Option<&str>) -> Result<Option<PathBuf>, Failure> {
        let entries = vec![
            entry("/m/a", "/state/a"),
            entry("/m/b", "/state/b"),
            entry("/m/b/1/c", "/state/c"),
        ];
        let found = choose(
            entries,
            path.map(Path::new),
            state.map(Path::new),
            Path::new("/none"),
        );
        found.map(|entry| entry.map(|entry| entry.mountpoint))
    }

    #[test]
    fn a_path_means_the_innermost_drive_that_holds_it() {
        assert_eq!(chosen(Some("/m/b/1/x"), None), Ok(Some("/m/b".into())));
        assert_eq!(
            chosen(Some("/m/b/1/c/x"), None),
            Ok(Some("/m/b/1/c".into()))
        );
        assert_eq!(chosen(Some("/m/bb"), None), Ok(None));
    }

    #[test]
    fn a_state_folder_means_its_drive() {
        assert_eq!(chosen(None, Some("/state/a")), Ok(Some("/m/a".into())));
        assert_eq!(chosen(None, Some("/state/x")), Ok(None));
    }

    #[test]
    fn several_drives_are_never_guessed_among() {
        let refused = chosen(None, None).unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        assert!(refused.message.contains("/m/a, /m/b"), "{refused}");
    }

    #[test]
    fn the_only_drive_needs_no_name() {
        let only = vec![entry("/m/a", "/state/a")];
        let found = choose(only, None, None, Path::new("/none")).unwrap();
        assert_eq!(found.map(|entry| entry.mountpoint), Some("/m/a".into()));
    }
}
