//! Starts, watches and ends one mount.
//!
//! Invariants: it never unmounts by itself, so that calls to a dead daemon fail with "not
//! connected" instead of writing into the directory below; it never unmounts what it has not
//! mounted.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{Config, Session, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::adapter::Adapter;
use super::caching::Caching;
use super::convert::Presentation;
use super::device::{self, How};
use super::miss::Pool;
use super::mountpoint::{self, BareDirectory};
use super::{Fetcher, MountError, Notifier, Options, mountinfo};
use crate::clock::{Clock, SystemClock};
use crate::fs::Drive;

/// Threads that read calls. One would wait for the slowest call; more than eight gain nothing,
/// because slow calls leave their thread (`miss`).
const THREADS_MIN: usize = 4;
const THREADS_MAX: usize = 8;

/// How a mount ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Unmounted, by us or by somebody else.
    Unmounted,
    /// The kernel's connection broke; the message.
    Failed(String),
}

/// A running mount. Dropping it detaches it lazily.
pub struct Mounted {
    path: PathBuf,
    /// Identifies our file system among stacked mounts while it lives.
    device: String,
    bare: Arc<BareDirectory>,
    notifier: Notifier,
    ended: watch::Receiver<Option<Ended>>,
}

/// Mounts `drive` on `mountpoint` and answers calls until it is unmounted. Blocks for milliseconds, or
/// for seconds with `fusermount3` or a dead mount; on return the mount answers. Tasks of `runtime`
/// fetch what a call lacks.
///
/// # Errors
/// [`MountError`] by meaning; nothing stays mounted.
pub fn start(
    drive: Arc<Drive>,
    fetcher: Arc<dyn Fetcher>,
    runtime: Handle,
    mountpoint: &Path,
    options: &Options,
) -> Result<Mounted, MountError> {
    let path = mountpoint::check_mountpoint(mountpoint)?;
    let bare = BareDirectory::open(&path)
        .map_err(|error| MountError::io("open the mountpoint", &path, error))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.saturating_mul(2).clamp(THREADS_MIN, THREADS_MAX);
    drive.keep_access_times(options.access_times, options.folder_access_times);
    let pool = Pool::new(drive, fetcher, runtime, threads, options.read_timeout);
    let pool = pool.saying(options.full);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let caching = Arc::new(Caching::default());
    let show = Presentation::of(options);
    let acls = device::compares_acls(options);
    let adapter = Adapter::new(pool, show, clock, Arc::clone(&caching), acls);

    let connection = device::mount(&path, options)?;
    serve(adapter, &caching, connection, path.clone(), bare, threads).inspect_err(|_| {
        if let Err(error) = device::unmount(&path, How::Lazily) {
            tracing::warn!(%error, "a mount that did not start stays");
        }
    })
}

/// Negotiates over `connection` and starts the threads.
fn serve(
    adapter: Adapter,
    caching: &Caching,
    connection: OwnedFd,
    path: PathBuf,
    bare: BareDirectory,
    threads: usize,
) -> Result<Mounted, MountError> {
    let failed = |error| MountError::io("start the mount on", &path, error);
    let mut config = Config::default();
    config.n_threads = Some(threads);
    config.clone_fd = device::can_clone();
    // The kernel keeps other users out unless `allow_other` is set. fuser's own check would repeat
    // that, but fail the `close` of a program that has changed its user.
    let acl = SessionACL::All;
    let session = Session::from_fd(adapter, connection, acl, config).map_err(failed)?;
    let notifier = Notifier::new(session.notifier());
    caching.tell_through(notifier.clone());
    let device = mountinfo::top(&path)
        .map_err(failed)?
        .filter(|entry| entry.kind == device::KIND)
        .map(|entry| entry.device)
        .ok_or_else(|| failed(std::io::Error::other("it is gone already")))?;
    bare.seal();
    let bare = Arc::new(bare);
    let (end, ended) = watch::channel(None);
    let watched = Watch {
        end,
        path: path.clone(),
        bare: Arc::clone(&bare),
    };
    std::thread::Builder::new()
        .name("fuse-session".to_owned())
        .spawn(move || watched.run(session))
        .map_err(failed)?;
    Ok(Mounted {
        path,
        device,
        bare,
        notifier,
        ended,
    })
}

/// Joins the session's threads.
struct Watch {
    end: watch::Sender<Option<Ended>>,
    path: PathBuf,
    bare: Arc<BareDirectory>,
}

impl Watch {
    fn run(self, session: Session<Adapter>) {
        let ended = match session.run() {
            Ok(()) => Ended::Unmounted,
            Err(error) => Ended::Failed(error.to_string()),
        };
        match &ended {
            Ended::Unmounted => {
                tracing::info!(path = %self.path.display(), "unmounted");
                self.bare.restore();
            }
            Ended::Failed(error) => {
                tracing::error!(path = %self.path.display(), error, "the mount broke");
            }
        }
        self.end.send_replace(Some(ended));
    }
}

impl Mounted {
    /// Where, in canonical form.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A handle to tell the kernel of changes.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// `None` while it runs.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.ended.borrow().clone()
    }

    /// Returns once the mount has ended, whoever ended it. After [`Mounted::unmount`] that is when
    /// its last copy in any mount namespace is gone, so bound the wait.
    pub async fn wait(&self) -> Ended {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(ended)) => ended.clone(),
            Ok(None) | Err(_) => Ended::Failed("the session's thread is gone".to_owned()),
        }
    }

    /// Unmounts; does nothing if somebody else has. Blocks while the kernel writes mapped pages back to us:
    /// call it from a blocking task, while everything that answers calls still runs.
    ///
    /// # Errors
    /// [`MountError::Busy`] if files are open; the mount goes on.
    pub fn unmount(&self) -> Result<(), MountError> {
        self.take_away(How::Cleanly)
    }

    /// Detaches the mount; open files work until closed or until the daemon ends. Does nothing if it is
    /// not mounted.
    ///
    /// # Errors
    /// The system's refusal.
    pub fn detach(&self) -> Result<(), MountError> {
        self.take_away(How::Lazily)
    }

    fn take_away(&self, how: How) -> Result<(), MountError> {
        // From then on another mount may have our device number.
        if self.ended() == Some(Ended::Unmounted) {
            return Ok(());
        }
        let top = mountinfo::top(&self.path)
            .map_err(|error| MountError::io("read what is mounted on", &self.path, error))?;
        match top {
            Some(entry) if entry.device == self.device => {
                device::unmount(&self.path, how)?;
                self.bare.restore();
                Ok(())
            }
            // Another mount covers ours.
            Some(_) if how == How::Cleanly => Err(MountError::Busy(self.path.clone())),
            Some(_) | None => Ok(()),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::warn!(%error, "the mount stays behind");
        }
    }
}

#[cfg(test)]
#[path = "session/tests.rs"]
mod tests;
