//! Recovers files from a volume whose local state is damaged.
//!
//! Invariant: the local state is not changed; files that may be incomplete are listed.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use crate::context;
use crate::context::JOURNAL_CACHE_MIN_BYTES;
use crate::context::MountContext;
use crate::control::Report;
use crate::durable::Unnamed;
use crate::exit::fail;
use crate::fs::{Access, Volume};
use crate::journal::{Doubts, FolderDisk};
use crate::status::Unsure;
use crate::text;
use crate::tokens::copy::{Copier, Saved};
use crate::tokens::orphan::preferred_slot;
use crate::tokens::save;
use crate::types::{Ino, VolumeKey};

/// Where files without a directory go.
const STRAYS: &str = "lost+found";

/// Whether the volume `key`, which nobody has open, is too damaged to open.
pub(crate) async fn is_damaged(ground: &MountContext, key: VolumeKey) -> anyhow::Result<bool> {
    let folder = ground.state_dir.volume(&key);
    let options = context::volume_options(key, JOURNAL_CACHE_MIN_BYTES)?;
    let look = move || {
        let home = Arc::new(FolderDisk::open(&folder)?);
        Ok(Volume::is_damaged(home, &options))
    };
    tokio::task::spawn_blocking(look).await?
}

/// Copies what is readable of `key` into `folder` (missing or empty), and lists doubtful files in a file
/// beside it.
///
/// # Errors
/// The folder or the list cannot be used; nothing is readable.
pub(crate) async fn save(
    ground: &Arc<MountContext>,
    key: VolumeKey,
    directory: &str,
    folder: &Path,
    tell: Report<'_>,
) -> anyhow::Result<(Saved, Unsure)> {
    save::refuse_own(ground, folder)?;
    let list = list_beside(folder)?;
    let state = ground.state_dir.volume(&key);
    let (volume, doubts) = open(ground, key).await?;
    volume.set_access(Access::ReadOnly("its local state is damaged".to_owned()));
    let slot = ground
        .drive
        .attach(directory, preferred_slot(&key), Arc::clone(&volume))?;
    let of_drive = move |ino: Ino| Ino(u64::from(slot) << 48 | ino.0);
    let all = volume.with_quota(|quota| quota.used_bytes());
    let copying = move |copier: &mut Copier, target: &Path| {
        copier.seen = Some(std::collections::BTreeMap::new());
        copier.tree(of_drive(Ino::ROOT), target);
        strays(copier, &volume, &of_drive, target);
        let named = name_all(copier, &volume, &doubts, &of_drive, target);
        volume.stop();
        copier.failed = named;
    };
    let copied = save::copy(ground, folder, all, tell, copying).await;
    ground.drive.detach(slot);
    let copier = copied?;
    let mut lines = String::new();
    for (path, why) in &copier.failed {
        writeln!(lines, "{}\t{}", save::shown(path), text::message(why))?;
    }
    let parent = folder.parent().unwrap_or(folder);
    Unnamed::write(parent, lines.as_bytes(), None)
        .and_then(|file| file.rename(&list))
        .and_then(|()| crate::durable::sync_folder(parent))
        .with_context(|| list.display().to_string())?;
    let unsure = Unsure {
        paths: copier.failed.len() as u64,
        list: list.display().to_string(),
        state: state.display().to_string(),
    };
    Ok((copier.saved, unsure))
}

/// An unused name for the list.
fn list_beside(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut name = folder.as_os_str().to_owned();
    name.push(".not-sure");
    let list = PathBuf::from(name);
    if list.symlink_metadata().is_ok() {
        fail!(
            Usage,
            "--save {}: {} is there already: name another folder",
            folder.display(),
            list.display()
        );
    }
    Ok(list)
}

async fn open(ground: &MountContext, key: VolumeKey) -> anyhow::Result<(Arc<Volume>, Doubts)> {
    let folder = ground.state_dir.volume(&key);
    let what = format!("local state {}", folder.display());
    let options = context::volume_options(key, JOURNAL_CACHE_MIN_BYTES)?;
    let (cache, clock) = (Arc::clone(&ground.cache), Arc::clone(&ground.parts.clock));
    let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let home = Arc::new(FolderDisk::open(&folder)?);
        let stage = Arc::new(FolderDisk::open(&folder.join("stage"))?);
        Ok(Volume::open_damaged(home, stage, cache, clock, &options)?)
    });
    opened.await?.context(what)
}

fn strays(copier: &mut Copier, volume: &Volume, of_drive: &impl Fn(Ino) -> Ino, target: &Path) {
    let mut strays = BTreeSet::new();
    let seen = copier.seen.take().unwrap_or_default();
    let listed = volume.each_file(|ino| {
        if !seen.contains_key(&of_drive(ino)) {
            strays.insert(ino);
        }
    });
    copier.seen = Some(seen);
    if let Err(error) = listed {
        copier.failed.push((target.to_owned(), error.to_string()));
    }
    if strays.is_empty() {
        return;
    }
    let folders = (0_u32..).map(|n| match n {
        0 => target.join(STRAYS),
        n => target.join(format!("{STRAYS}-{n}")),
    });
    let Some(folder) = folders.into_iter().find(|folder| !folder.exists()) else {
        return;
    };
    if let Err(fault) = std::fs::create_dir(&folder) {
        copier.failed.push((folder, fault.to_string()));
        return;
    }
    for ino in strays {
        let path = folder.join(format!("inode-{}", ino.0));
        copier.stray(of_drive(ino), &path);
        let was = volume.path_of(ino);
        let why = format!("no directory names it; it was {was}");
        copier.failed.push((path, why));
    }
    if let Err(fault) = crate::durable::sync_folder(&folder) {
        copier.failed.push((folder, fault.to_string()));
    }
}

/// Every doubtful path below `target`, and why.
fn name_all(
    copier: &mut Copier,
    volume: &Volume,
    doubts: &Doubts,
    of_drive: &impl Fn(Ino) -> Ino,
    target: &Path,
) -> Vec<(PathBuf, String)> {
    let below = |path: &Path| path.strip_prefix(target).unwrap_or(path).to_owned();
    let failed = std::mem::take(&mut copier.failed);
    let mut named: Vec<_> = failed
        .into_iter()
        .map(|(path, why)| (below(&path), format!("not saved whole: {why}")))
        .collect();
    let mut seen = copier.seen.take().unwrap_or_default();
    seen.insert(of_drive(Ino::ROOT), target.join("."));
    for (ino, path) in &seen {
        if volume.is_doubted(doubts, Ino(ino.0 & Ino::MAX.0)) {
            let why = match doubts.everything {
                true => "may be older: nobody knows of what a damaged part of the log told",
                false => "not sure: a damaged part of the log told of it",
            };
            named.push((below(path), why.to_owned()));
        }
    }
    for ino in doubts
        .inodes()
        .filter(|ino| !seen.contains_key(&of_drive(*ino)))
    {
        let path = PathBuf::from(volume.path_of(ino));
        let why = "a damaged part of the log told of it, and nothing of it is left".to_owned();
        named.push((path, why));
    }
    for place in &doubts.places {
        tracing::warn!("{place}: an entry of the log is damaged");
    }
    named
}
