//! `pxfs mount`: in the foreground, or in a background process.
//!
//! Invariant: the background process is a new one (`exec`, never a `fork` of threads); the command
//! returns 0 only once the drive is mounted.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};

use super::log;
use super::progress::Progress;
use super::setup::Setup;
use crate::config::{Config, VolumeKind};
use crate::context::StateDir;
use crate::contracts::Parts;
use crate::control::{Amount, private_folder};
use crate::exit::of_mount;
use crate::exit::{Exit, Failure, fail};
use crate::mount::{self, CALL_THREADS};
use crate::run::daemon::{Daemon, Place};

/// How long running tasks may delay the end of the process.
const LAST_TASKS: Duration = Duration::from_secs(2);

/// The one line from a background process to its parent.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Word {
    /// Mounting failed.
    Failed { error: String, exit: Exit },
    /// The drive is mounted.
    Ready { ready: bool },
}

pub(super) fn run(
    setup: &Setup,
    mountpoint: &Path,
    foreground: bool,
    ready: bool,
) -> anyhow::Result<Exit> {
    if ready {
        return background(setup, mountpoint);
    }
    let config = setup.config()?;
    let place = place(setup, &config, mountpoint)?;
    if config.volume_is_default && config.watched().is_none() && !setup.quiet {
        // Without stderr there is nobody to tell.
        let _ = writeln!(
            std::io::stderr(),
            "pxfs: what you store is NOT encrypted: sealed volumes are not available yet (--volume plain hides this line)"
        );
    }
    if foreground {
        return front(setup, config, place);
    }
    spawn(&config.state_dir, &place.mountpoint)
}

/// Checks before anything slow.
fn place(setup: &Setup, config: &Config, mountpoint: &Path) -> anyhow::Result<Place> {
    refuse_writing(config)?;
    refuse_many_anew(config)?;
    if config.volume == VolumeKind::Sealed && config.watched().is_none() {
        fail!(
            Usage,
            "mount: sealed volumes are not available yet: use --volume plain (files are not encrypted)"
        );
    }
    let options = mount_options(config)?;
    let mountpoint = mount::check_mountpoint(mountpoint).map_err(of_mount)?;
    Ok(Place {
        mountpoint,
        options,
        runtime_dir: runtime_dir(setup)?,
    })
}

/// With only an address, writing and signing are impossible.
fn refuse_writing(config: &Config) -> anyhow::Result<()> {
    let Some(owner) = config.watched() else {
        return Ok(());
    };
    let reads = config.name_keys.is_empty();
    let asked = [
        ("auto-sync", config.auto_sync.is_some()),
        ("operate", config.operate),
        ("take-over", config.take_over && reads),
        ("begin-anew", config.begin_anew && reads),
        ("give-way", config.give_way && reads),
    ];
    match asked.iter().find(|(_, is_asked)| *is_asked) {
        None => Ok(()),
        Some((option, _)) => fail!(
            Usage,
            "--{option} writes or signs, but --address {owner} only reads: leave out --{option}, or use --wallet instead of --address"
        ),
    }
}

fn refuse_many_anew(config: &Config) -> anyhow::Result<()> {
    match (config.begin_anew, config.tokens.len()) {
        (false, _) | (true, 1) => Ok(()),
        (true, _) => fail!(
            Usage,
            "--begin-anew gives up a token's published files: name the one token with --token ID"
        ),
    }
}

/// The mount options from `-o` and elsewhere.
pub(super) fn mount_options(config: &Config) -> Result<mount::Options, Failure> {
    let mut options = mount::Options::default();
    for word in &config.options {
        options.apply(word).map_err(of_mount)?;
    }
    options.read_timeout = config.read_timeout;
    Ok(options)
}

/// The first runtime folder that can be ours.
pub(super) fn runtime_dir(setup: &Setup) -> Result<PathBuf, Failure> {
    let mut why = String::new();
    for folder in &setup.folders.runtime {
        match private_folder(folder) {
            Ok(()) => return Ok(folder.clone()),
            Err(fault) => why = fault.to_string(),
        }
    }
    Err(Failure::new(
        Exit::Failure,
        format!("no folder for the daemon's socket: {why}: set XDG_RUNTIME_DIR"),
    ))
}

fn front(setup: &Setup, config: Config, place: Place) -> anyhow::Result<Exit> {
    setup.start_log("info")?;
    let state_dir = StateDir::open(&config.state_dir)?;
    runtime()?.hold(async {
        let parts = Parts::mounted(&config).await?;
        hold(setup, place, state_dir, parts, || Ok(())).await
    })
}

/// Mounts, calls `ready`, and serves to the end.
pub(super) async fn hold(
    setup: &Setup,
    place: Place,
    state_dir: StateDir,
    parts: Vec<Arc<Parts>>,
    ready: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Exit> {
    let shown = place.mountpoint.display().to_string();
    let daemon = Daemon::start(place, state_dir, parts).await?;
    ready()?;
    notify(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("mounted on {shown}")),
    ]);
    tracing::info!("mounted on {shown}");
    // Created on demand: an early bar would stay for days.
    let progress = std::sync::OnceLock::new();
    let tell = |what: &str, amount: Amount| {
        progress
            .get_or_init(|| Progress::new(setup.progress))
            .set(what, amount);
        notify(&[
            NotifyState::Stopping,
            NotifyState::Status(&format!(
                "{what}: {} bytes wait for upload",
                amount.pending_bytes
            )),
            NotifyState::ExtendTimeoutUsec(30_000_000),
        ]);
    };
    daemon.serve(&tell, &|| setup.reload_log()).await
}

pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "sd_notify");
    }
}

/// Starts the background process, and waits for its line.
fn spawn(state_dir: &Path, mountpoint: &Path) -> anyhow::Result<Exit> {
    private_folder(state_dir)
        .with_context(|| format!("state folder {}", state_dir.display()))
        .map_err(|error| Failure::new(Exit::Usage, crate::exit::one_line(&error)))?;
    let log_path = state_dir.join("log");
    let log = log::open(&log_path).with_context(|| log_path.display().to_string())?;
    let mut child = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .arg("--ready")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start the background process")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    match serde_json::from_str(&line) {
        Ok(Word::Ready { .. }) => Ok(Exit::Ok),
        Ok(Word::Failed { error, exit }) => {
            // It is done: reap it.
            child.wait()?;
            Err(Failure::new(exit, error).into())
        }
        Err(_) => fail!(
            Failure,
            "{}: the background process ended before it mounted: see {}",
            mountpoint.display(),
            log_path.display()
        ),
    }
}

fn background(setup: &Setup, mountpoint: &Path) -> anyhow::Result<Exit> {
    let work = || {
        setup.start_log("info")?;
        let config = setup.config()?;
        let place = place(setup, &config, mountpoint)?;
        let state_dir = StateDir::open(&config.state_dir)?;
        setup.stderr.rotate(config.state_dir.join("log"));
        // Its own session, so that closing the terminal, or Ctrl-C, does not reach it. A session
        // leader fails, which is fine.
        let _ = rustix::process::setsid();
        rustix::process::chdir("/")?;
        runtime()?.hold(async {
            let parts = Parts::mounted(&config).await?;
            hold(setup, place, state_dir, parts, || {
                say(&Word::Ready { ready: true })
            })
            .await
        })
    };
    let outcome = work();
    if let Err(error) = &outcome {
        let Failure { exit, message } = Failure::from_error(error);
        tracing::error!("{message}");
        // After the ready line nobody listens.
        let _ = say(&Word::Failed {
            error: message,
            exit,
        });
    }
    // Already reported: not again in the log.
    Ok(outcome.unwrap_or_else(|error| crate::exit::of(&error)))
}

fn say(word: &Word) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(word)?)?;
    Ok(out.flush()?)
}

/// Threads that may block on disk or hashing, beside those of kernel calls.
const OTHER_THREADS: usize = 40;

pub(super) struct Runtime(tokio::runtime::Runtime);

pub(super) fn runtime() -> anyhow::Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)))
        .max_blocking_threads(CALL_THREADS + OTHER_THREADS)
        .enable_all()
        .build()
        .context("no threads")?;
    Ok(Runtime(runtime))
}

impl Runtime {
    /// Runs `work`, then ends; abandons what hangs.
    pub(super) fn hold<T>(
        self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let outcome = self.0.block_on(work);
        self.0.shutdown_timeout(LAST_TASKS);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_background_process_is_understood_by_its_parent() {
        for word in [
            Word::Ready { ready: true },
            Word::Failed {
                error: "no".into(),
                exit: Exit::Locked,
            },
        ] {
            let line = serde_json::to_string(&word).unwrap();
            assert_eq!(serde_json::from_str::<Word>(&line).unwrap(), word);
        }
    }
}
