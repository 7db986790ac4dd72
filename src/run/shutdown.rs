//! Flush and shutdown.
//!
//! Invariant: it gives up only after the session's patience without progress, and then reports what
//! stays here; it loses nothing.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::billing::charges;
use crate::control::{Amount, Report};
use crate::exit::{Exit, Failure};
use crate::mount::UNMOUNT_PATIENCE;
use crate::run::session::Session;
use crate::tokens::MountedToken;
use crate::tokens::Tokens;

/// How long unmounting may take: slightly longer than the unmount itself, whose answer is reported.
pub(crate) const UNMOUNT_LIMIT: Duration = Duration::from_secs(UNMOUNT_PATIENCE.as_secs() + 5);
/// By then a busy mount is refused.
pub(crate) const REFUSED: Duration = Duration::from_secs(1);
const SYNCFS_LIMIT: Duration = Duration::from_secs(60);
/// How long shutdown waits for the last charges.
pub(crate) const CHARGE_LIMIT: Duration = Duration::from_secs(10);
/// How long an unresponsive node is asked whether it has everything, if nothing is pending.
const ASKED: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);
/// Between two checks for progress and pending data.
const BEAT: Duration = Duration::from_millis(300);
/// At least so many times the duration of a pending check lies between two.
const SPARED: u32 = 10;

/// Has the kernel write mapped pages back, then publishes everything.
///
/// # Errors
/// As [`publish`].
pub(crate) async fn flush(session: &Session, tell: Report<'_>) -> Result<(), Failure> {
    tell("collecting mapped pages", Amount::default());
    syncfs(&session.mountpoint).await;
    publish(session, None, tell).await
}

/// Publishes everything written before, of all tokens or one directory.
///
/// # Errors
/// [`Exit::Unpublished`] if nothing moves for the patience, or a retry is pointless; [`Exit::Token`] for
/// an unknown directory.
pub(crate) async fn publish(
    session: &Session,
    only: Option<&str>,
    tell: Report<'_>,
) -> Result<(), Failure> {
    let all = session.tokens.all();
    let chosen: Vec<Arc<MountedToken>> = all
        .into_iter()
        .filter(|live| only.is_none_or(|name| name == live.directory))
        .collect();
    let left = left_over(session, only).await;
    if let (Some(name), true) = (only, chosen.is_empty()) {
        if session.tokens.has_leftover(name) {
            return left.map_or(Ok(()), Err);
        }
        if session.tokens.is_unused(name) {
            return Ok(());
        }
        return Err(Failure::new(
            Exit::Token,
            format!(
                "{}/{name}: no such token here",
                session.mountpoint.display()
            ),
        ));
    }
    // All: a failing one must not stop the others.
    let flushes = join_all(chosen.iter().map(|live| live.flush()));
    let work = async { flushes.await.into_iter().collect::<Result<(), Failure>>() };
    tokio::pin!(work);
    let moved = || chosen.iter().map(|live| live.moved()).sum::<u64>();
    let sent_bytes = || session.parts.node.counts.sent_bytes();
    let (mut last, sent_before) = (moved(), sent_bytes());
    let mut moved_at = Instant::now();
    let telling = async {
        let (mut pause, mut most) = (BEAT, 0);
        loop {
            sleep(pause).await;
            let begin = Instant::now();
            let (bytes, files) = pending(&chosen).await;
            // What a running commit has sent is pending until it is named.
            let left = bytes.saturating_sub(sent_bytes() - sent_before);
            most = left.max(most);
            let what = match files {
                0 => "publishing".to_owned(),
                1 => "publishing 1 file".to_owned(),
                files => format!("publishing {files} files"),
            };
            tell(&what, Amount::of(most - left, most));
            pause = BEAT.max(begin.elapsed() * SPARED);
        }
    };
    tokio::pin!(telling);
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // What cannot be published is reported last, after the rest.
            outcome = &mut work => return outcome.and(left.map_or(Ok(()), Err)),
            () = &mut telling => {}
            _ = beat.tick() => {
                if moved() != last {
                    (last, moved_at) = (moved(), Instant::now());
                }
                let stood = moved_at.elapsed();
                let is_vain = || {
                    stood > ASKED
                        && session.is_node_away()
                        && !chosen.iter().any(|live| live.is_pending())
                };
                if stood > session.patience || is_vain() {
                    let waited = stood.as_secs();
                    let why = format!("nothing has moved for {waited} s: see the daemon's log");
                    return Err(unpublished(session, &chosen, &why));
                }
            }
        }
    }
}

/// Charges the last commits; returns what failed, in lines. Brief, because nothing is lost.
pub(crate) async fn charge(session: &Session, tell: Report<'_>) -> Vec<String> {
    let owes = |tokens: &Arc<Tokens>| {
        let all = tokens.all();
        let any = all.iter().any(|live| !live.volume.charges().is_empty());
        any && tokens.parts().charges_commits()
    };
    let owing: Vec<_> = session
        .tokens
        .each()
        .iter()
        .filter(|one| owes(one))
        .collect();
    if !owing.is_empty() {
        tell("charging", Amount::default());
    }
    let looks = join_all(owing.into_iter().map(|tokens| charge_last(tokens)));
    let left: Vec<String> = looks.await.into_iter().flatten().collect();
    for line in &left {
        tracing::warn!("{line}");
    }
    left
}

/// The same for one contract.
async fn charge_last(tokens: &Tokens) -> Vec<String> {
    let (parts, all) = (tokens.parts(), tokens.all());
    let Some(account) = &parts.chain.account else {
        return Vec::new();
    };
    let sender = account.transactor.unasked();
    let looking = charges::look_last(parts, &sender, all.clone());
    timeout(CHARGE_LIMIT, looking).await.unwrap_or_else(|_| {
        let (at, limit) = (parts.chain.endpoint.current(), CHARGE_LIMIT.as_secs());
        let why = format!("whether it is charged, {at} does not tell within {limit} s");
        let open = all.iter().filter(|live| !live.volume.charges().is_empty());
        open.map(|live| charges::uncharged(live, &why)).collect()
    })
}

/// Orphans' unpublished data, in all or in one directory. Reads the journals on a blocking thread.
async fn left_over(session: &Session, only: Option<&str>) -> Option<Failure> {
    let (tokens, only) = (Arc::clone(&session.tokens), only.map(str::to_owned));
    let look = move || tokens.unpublished(only.as_deref());
    tokio::task::spawn_blocking(look).await.unwrap_or(None)
}

/// Bytes and files not on the node yet. Reads a record per changed file, on a blocking thread.
async fn pending(chosen: &[Arc<MountedToken>]) -> (u64, u64) {
    let chosen = chosen.to_vec();
    let sum = move || {
        let each = chosen.iter().map(|live| live.pending());
        each.fold((0, 0), |(bytes, files), one| (bytes + one.0, files + one.1))
    };
    tokio::task::spawn_blocking(sum).await.unwrap_or_default()
}

/// The failure for `chosen`; `else_why` if neither node nor commits say why.
fn unpublished(session: &Session, chosen: &[Arc<MountedToken>], else_why: &str) -> Failure {
    let mut waiting: Vec<&Arc<MountedToken>> =
        chosen.iter().filter(|live| live.is_pending()).collect();
    let is_asked = waiting.is_empty();
    if is_asked {
        waiting = chosen.iter().collect();
    }
    // A hanging call is why nothing moves; earlier errors may be stale.
    let stuck = waiting.iter().find_map(|live| live.stuck());
    let why = stuck
        .or_else(|| session.node_fault(session.patience / 2))
        .or_else(|| waiting.iter().find_map(|live| live.last_error()))
        .unwrap_or_else(|| else_why.to_owned());
    let names: Vec<&str> = waiting.iter().map(|live| &*live.directory).collect();
    if is_asked {
        return Failure::new(
            Exit::Unpublished,
            format!(
                "{}: nothing of token {} waits to be published, but whether the node still has all of it is not known: {why}",
                session.mountpoint.display(),
                names.join(", "),
            ),
        );
    }
    let kept = match waiting.iter().any(|live| live.volume.poisoned().is_some()) {
        false => "it is kept, and tried again",
        true => "what a fsync has covered is kept, and tried again; the rest may be lost",
    };
    Failure::new(
        Exit::Unpublished,
        format!(
            "{}: not everything of token {} is published: {why}; {kept}",
            session.mountpoint.display(),
            names.join(", "),
        ),
    )
}

/// What a second signal leaves unpublished, if anything.
pub(crate) fn left_behind(session: &Session) -> Option<Failure> {
    let all = session.tokens.all();
    all.iter()
        .any(|live| live.is_pending())
        .then(|| unpublished(session, &all, "it was told to leave at once"))
        .or_else(|| session.tokens.unpublished(None))
}

/// Unmounts; a busy mount goes on.
///
/// # Errors
/// It is busy, or does not end.
pub(crate) async fn unmount(session: &Session) -> anyhow::Result<()> {
    let mounted = Arc::clone(&session.mounted);
    let mut work = tokio::task::spawn_blocking(move || mounted.unmount());
    let mut done = timeout(REFUSED, &mut work).await;
    if done.is_err() {
        // It is detached: the kernel waits for pages that nobody reads, and they for a node.
        give_up_reads(session, true);
        done = timeout(UNMOUNT_LIMIT, work).await;
    }
    match done {
        Ok(Ok(Ok(()))) => Ok(()),
        failed => {
            give_up_reads(session, false);
            match failed {
                Ok(done) => Ok(done?.map_err(crate::exit::of_mount)?),
                Err(_) => anyhow::bail!(
                    "{}: unmounting does not end: close what is open there",
                    session.mountpoint.display()
                ),
            }
        }
    }
}

/// Whether reads of missing data fail at once.
pub(crate) fn give_up_reads(session: &Session, gives_up: bool) {
    if let Some(tokens) = session.tokens.each().first() {
        tokens.ground().fetcher.give_up(gives_up);
    }
}

/// syncfs(2) in another process, because its wait cannot be interrupted and this process must
/// answer the kernel.
async fn syncfs(mountpoint: &Path) {
    let child = std::process::Command::new("/proc/self/exe")
        .arg("syncfs")
        .arg(mountpoint)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // The terminal's Ctrl-C is for us.
        .process_group(0)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            tracing::warn!(%error, "syncfs cannot be run");
            return;
        }
    };
    let ended = async {
        loop {
            match child.try_wait() {
                Ok(None) => tokio::time::sleep(LOOK).await,
                Ok(Some(status)) => return Ok(status),
                Err(error) => return Err(error),
            }
        }
    };
    match timeout(SYNCFS_LIMIT, ended).await {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(status)) => tracing::warn!(%status, "syncfs failed"),
        Ok(Err(error)) => tracing::warn!(%error, "syncfs"),
        Err(_) => tracing::warn!("syncfs does not end"),
    }
}
