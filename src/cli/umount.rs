//! `pxfs umount`, `pxfs flush`, and the hidden `pxfs syncfs`.
//!
//! Invariant: this process collects mapped pages by syncfs(2) before it asks the daemon.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::locate;
use super::progress::Progress;
use super::setup::Setup;
use crate::control::{Amount, Entry, Request, Step};
use crate::exit::{Exit, fail};
use crate::mount::{self, MountError};
use crate::status::UmountAnswer;

/// The limit of syncfs(2), which never reaches the network.
const SYNCFS_LIMIT: Duration = Duration::from_secs(60);
/// How long an unmounted daemon may take to end.
const END_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn umount(setup: &Setup, mountpoint: &Path, now: bool) -> anyhow::Result<Exit> {
    let entry = match locate::find(setup, Some(mountpoint))? {
        Some(entry) if is_mountpoint(&entry, mountpoint) => entry,
        Some(_) | None => return without_daemon(mountpoint),
    };
    let progress = Progress::new(setup.progress);
    if !now {
        collect(&entry, &progress)?;
    }
    let request = Request::Umount { flush: !now };
    let asked = locate::connect(&entry)?.ask::<UmountAnswer>(&request, |step| {
        show(&progress, step);
    });
    let refused = asked
        .as_ref()
        .is_err_and(|failure| failure.exit != Exit::Unpublished);
    if !refused {
        progress.set("ending", Amount::default());
        let ended = wait_for_end(&entry.state_dir, END_LIMIT);
        for line in asked?.uncharged {
            eprintln!("pxfs: {line}");
        }
        if !ended {
            fail!(
                Failure,
                "{}: unmounted, but its pxfs still runs after {} s and holds {}: see its log, and mount again \
                 when it has ended",
                mountpoint.display(),
                END_LIMIT.as_secs(),
                entry.state_dir.display()
            );
        }
        return Ok(Exit::Ok);
    }
    asked?;
    Ok(Exit::Ok)
}

/// Without a daemon: removes a dead pxfs mount.
fn without_daemon(mountpoint: &Path) -> anyhow::Result<Exit> {
    let shown = mountpoint.display();
    if !locate::is_mounted(mountpoint) {
        fail!(Mounted, "{shown} is not a pxfs mount: nothing to unmount");
    }
    match mount::check_mountpoint(mountpoint) {
        Err(MountError::AlreadyMounted { .. }) => fail!(
            Mounted,
            "{shown}: its pxfs cannot be found: unmount as the user who mounted it"
        ),
        // What lies below is not ours.
        _ => Ok(Exit::Ok),
    }
}

/// `pxfs umount --dead`: after a service's end, so that the next start finds nothing in its way.
pub(super) fn dead(mountpoint: &Path) -> anyhow::Result<Exit> {
    mount::unmount_dead(mountpoint)?;
    Ok(Exit::Ok)
}

pub(super) fn flush(setup: &Setup, path: Option<&Path>) -> anyhow::Result<Exit> {
    let entry = locate::require(setup, path)?;
    let progress = Progress::new(setup.progress);
    collect(&entry, &progress)?;
    let token = path.and_then(|path| directory(&entry.mountpoint, path));
    let request = Request::Flush { token };
    let told: Option<UmountAnswer> =
        locate::connect(&entry)?.ask(&request, |step| show(&progress, step))?;
    // Everything is on the node, but not known to the contract yet.
    for line in told.into_iter().flat_map(|told| told.uncharged) {
        eprintln!("pxfs: {line}");
    }
    Ok(Exit::Ok)
}

/// `pxfs syncfs`: for the daemon, whose threads must not wait for its mount.
pub(super) fn syncfs(path: &Path) -> anyhow::Result<Exit> {
    rustix::fs::syncfs(File::open(path)?)?;
    Ok(Exit::Ok)
}

fn is_mountpoint(entry: &Entry, path: &Path) -> bool {
    directory(&entry.mountpoint, path).is_none()
}

/// The first component of `path` below the mountpoint.
fn directory(mountpoint: &Path, path: &Path) -> Option<String> {
    let path = std::path::absolute(path).ok()?;
    let below = match path.strip_prefix(mountpoint) {
        Ok(below) => below.to_owned(),
        // Through a symlink.
        Err(_) => {
            let parent = path.parent()?.canonicalize().ok()?;
            let whole = parent.join(path.file_name()?);
            whole.strip_prefix(mountpoint).ok()?.to_owned()
        }
    };
    let first = below.components().next()?;
    Some(first.as_os_str().to_string_lossy().into_owned())
}

fn show(progress: &Progress, step: &Step) {
    progress.set(&step.what, step.amount);
}

/// Has the kernel write mapped pages back.
fn collect(entry: &Entry, progress: &Progress) -> anyhow::Result<()> {
    progress.set("writing mapped pages back", Amount::default());
    let (done, is_done) = mpsc::channel();
    let mountpoint: PathBuf = entry.mountpoint.clone();
    // On a thread that may be abandoned, because the call cannot be interrupted.
    std::thread::spawn(move || {
        let synced = File::open(mountpoint).and_then(|root| Ok(rustix::fs::syncfs(root)?));
        // Too late: nobody listens.
        let _ = done.send(synced);
    });
    match is_done.recv_timeout(SYNCFS_LIMIT) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(fault)) => fail!(
            Failure,
            "{}: cannot write mapped files back: {fault}",
            entry.mountpoint.display()
        ),
        Err(_) => fail!(
            Failure,
            "{}: writing mapped files back takes more than {} s: see the daemon's log",
            entry.mountpoint.display(),
            SYNCFS_LIMIT.as_secs()
        ),
    }
}

/// Waits until the daemon has released the state folder for the next mount; false after `limit`.
fn wait_for_end(state_dir: &Path, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    let Ok(lock) = OpenOptions::new().read(true).open(state_dir.join("lock")) else {
        return true;
    };
    while lock.try_lock_shared().is_err() {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn umount_reports_a_daemon_that_does_not_exit() {
        let folder = tempfile::tempdir().unwrap();
        let brief = Duration::from_millis(1);
        assert!(wait_for_end(folder.path(), brief), "there is no lock");
        let held = File::create(folder.path().join("lock")).unwrap();
        held.lock().unwrap();
        assert!(!wait_for_end(folder.path(), brief));
        drop(held);
        assert!(wait_for_end(folder.path(), brief));
    }

    #[test]
    fn flush_of_a_path_means_its_token() {
        let directory = |path: &str| directory(Path::new("/m"), Path::new(path));
        assert_eq!(directory("/m/7/a/b"), Some("7".into()));
        assert_eq!(directory("/m/7"), Some("7".into()));
        assert_eq!(directory("/m"), None);
        assert_eq!(directory("/m/"), None);
        assert_eq!(directory("/other"), None);
    }
}
