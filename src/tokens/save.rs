//! Saves a directory of the drive to a local folder.
//!
//! Invariant: it reads through the drive, not the mount, so it waits for no callback; on success
//! everything in the folder is durable.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use tokio::time::{MissedTickBehavior, interval};

use crate::context::MountContext;
use crate::control::Amount;
use crate::control::Report;
use crate::durable::sync_folder;
use crate::exit::fail;
use crate::text;
use crate::tokens::copy::{Copied, Copier, Saved};
use crate::tokens::orphan::OrphanedVolume;

/// Failed entries that are named.
const NAMED: usize = 10;
/// Pause between progress reports.
const BEAT: Duration = Duration::from_millis(300);

/// Copies all of `one` into `folder` (missing or empty).
///
/// # Errors
/// The folder cannot be used; some entries failed: they are named, and what was copied stays.
pub(crate) async fn save(
    ground: &Arc<MountContext>,
    one: &OrphanedVolume,
    folder: &Path,
    tell: Report<'_>,
) -> anyhow::Result<Saved> {
    refuse_own(ground, folder)?;
    let root = one.root(ground).context("it is shown no longer")?;
    let name = one.directory.clone();
    let all = one.used_bytes();
    let copier = copy(ground, folder, all, tell, move |copier, target| {
        copier.tree(root, target);
    })
    .await?;
    if copier.failed.is_empty() {
        return Ok(copier.saved);
    }
    for (path, why) in &copier.failed {
        tracing::warn!(path = shown(path), why, "not saved");
    }
    let count = copier.failed.len();
    let named = first_of(folder, &copier.failed);
    fail!(
        Failure,
        "{name}: {count} entries could not be saved ({named}): nothing is dropped; what was saved is in {}",
        folder.display()
    )
}

/// A path whose names another machine may have given.
pub(super) fn shown(path: &Path) -> String {
    text::path(path.as_os_str().as_encoded_bytes())
}

/// The first entries that could not be saved below `folder`, and how many more there are.
fn first_of(folder: &Path, failed: &[(PathBuf, String)]) -> String {
    let named = failed.iter().take(NAMED).map(|(path, why)| {
        let path = path.strip_prefix(folder).unwrap_or(path);
        format!("{}: {why}", shown(path))
    });
    let more = failed.len().saturating_sub(NAMED);
    let more = (more > 0).then(|| format!("and {more} more"));
    named.chain(more).collect::<Vec<_>>().join("; ")
}

/// Has `copying` fill `folder` (missing or empty), then makes its name durable; `all` is the total for
/// progress, bytes.
///
/// # Errors
/// The folder cannot be used. Entries that fail are noted in the answer.
pub(crate) async fn copy(
    ground: &Arc<MountContext>,
    folder: &Path,
    all: u64,
    tell: Report<'_>,
    copying: impl FnOnce(&mut Copier, &Path) + Send + 'static,
) -> anyhow::Result<Copier> {
    let copied = Arc::<Copied>::default();
    let mut copier = Copier::new(ground, &copied);
    let target = folder.to_owned();
    let mut work = tokio::task::spawn_blocking(move || -> anyhow::Result<Copier> {
        make_empty(&target)?;
        copying(&mut copier, &target);
        if let Some(parent) = target.parent()
            && let Err(fault) = sync_folder(parent)
        {
            copier.failed.push((target.clone(), fault.to_string()));
        }
        Ok(copier)
    });
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            done = &mut work => return done?,
            _ = beat.tick() => {
                let what = format!("saving: {} files", copied.files.load(Ordering::Relaxed));
                tell(&what, Amount::of_about(copied.bytes.load(Ordering::Relaxed), all));
            }
        }
    }
}

/// Files there may be removed at any time, or by this very command.
pub(crate) fn refuse_own(ground: &MountContext, folder: &Path) -> anyhow::Result<()> {
    let cache = &ground.parts.config.cache_dir;
    let cache = cache.canonicalize().unwrap_or_else(|_| cache.clone());
    for own in [ground.state_dir.path(), &cache] {
        if folder.starts_with(own) {
            fail!(
                Usage,
                "--save {}: lies in {}: name a folder elsewhere",
                folder.display(),
                own.display()
            );
        }
    }
    Ok(())
}

/// Makes `folder`, or accepts an empty one.
fn make_empty(folder: &Path) -> anyhow::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => return Ok(()),
        Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists => {}
        Err(fault) => fail!(
            Usage,
            "--save {}: {fault}: name a folder that can be made",
            folder.display()
        ),
    }
    let empty = || {
        let empty = std::fs::read_dir(folder)?.next().is_none();
        if std::fs::metadata(folder)?.uid() != rustix::process::geteuid().as_raw() {
            // Its owner could change it under us.
            return Err(io::Error::other("belongs to another user"));
        }
        if empty {
            std::fs::set_permissions(folder, Permissions::from_mode(0o700))?;
        }
        Ok(empty)
    };
    match empty() {
        Ok(true) => Ok(()),
        Ok(false) => fail!(
            Usage,
            "--save {}: not empty: name a new or an empty folder",
            folder.display()
        ),
        Err(fault) => fail!(Usage, "--save {}: {fault}", folder.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_not_be_saved_write_nothing_else_to_the_terminal() {
        let failed: Vec<_> = (0..NAMED + 2)
            .map(|n| {
                (
                    PathBuf::from(format!("/save/\u{1b}[2J\n{n}")),
                    "denied".to_owned(),
                )
            })
            .collect();
        let told = first_of(Path::new("/save"), &failed);
        assert!(!told.contains(char::is_control), "{told:?}");
        assert!(told.ends_with("and 2 more"), "{told}");
    }
}
