//! Publishing on demand, and the way out.
//!
//! Invariant: gives up only when nothing has moved for the session's patience, and then says what
//! is kept; nothing here loses anything. Called by `desk` and `daemon`.

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

/// How long unmounting may take: as long as what does it is waited for, and a little more, so that its own
/// answer is told.
pub(crate) const UNMOUNT_LIMIT: Duration = Duration::from_secs(UNMOUNT_PATIENCE.as_secs() + 5);
/// What is in use is refused by then.
pub(crate) const REFUSED: Duration = Duration::from_secs(1);
/// How long syncfs(2) may take.
const SYNCFS_LIMIT: Duration = Duration::from_secs(60);
/// How long whoever leaves waits for the charges of the last commits.
pub(crate) const CHARGE_LIMIT: Duration = Duration::from_secs(10);
/// How long a node that does not answer is asked whether it has all, where nothing waits to be published.
const ASKED: Duration = Duration::from_secs(5);
/// Time between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(10);
/// Time between two looks whether anything has moved, and at what is pending.
const BEAT: Duration = Duration::from_millis(300);
/// So many times what the last look at what is pending took lie between two of them, at least.
const SPARED: u32 = 10;

/// Has the kernel hand over the pages of mapped files, then publishes everything.
///
/// # Errors
/// As [`publish`].
pub(crate) async fn flush(session: &Session, tell: Report<'_>) -> Result<(), Failure> {
    tell("collecting mapped pages", Amount::default());
    syncfs(&session.mountpoint).await;
    publish(session, None, tell).await
}

/// Publishes everything that was written before, of all tokens or of one directory.
///
/// # Errors
/// [`Exit::Unpublished`] when nothing moves for the patience, or no other try helps;
/// [`Exit::Token`] for a directory that is not there.
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
    // All of them: that one cannot be published keeps no other from it.
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
            // What a commit under way has sent counts as pending until it is named.
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
            // What nobody can publish is said last: the rest is published all the same.
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

/// Has what was published last charged, where each commit is: what cannot be, in lines. Nothing is lost by that, and
/// nobody waits for it for long.
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

/// The same of one contract's tokens.
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

/// What earlier epochs have left unpublished, in all or in one directory. Reads the journals,
/// beside the runtime.
async fn left_over(session: &Session, only: Option<&str>) -> Option<Failure> {
    let (tokens, only) = (Arc::clone(&session.tokens), only.map(str::to_owned));
    let look = move || tokens.unpublished(only.as_deref());
    tokio::task::spawn_blocking(look).await.unwrap_or(None)
}

/// Bytes that are not on the node yet, and files. Reads a record for each changed file, beside the runtime and the
/// commits, which do so too.
async fn pending(chosen: &[Arc<MountedToken>]) -> (u64, u64) {
    let chosen = chosen.to_vec();
    let sum = move || {
        let each = chosen.iter().map(|live| live.pending());
        each.fold((0, 0), |(bytes, files), one| (bytes + one.0, files + one.1))
    };
    tokio::task::spawn_blocking(sum).await.unwrap_or_default()
}

/// What is told of `chosen`; `else_why` where neither node nor commits say why.
fn unpublished(session: &Session, chosen: &[Arc<MountedToken>], else_why: &str) -> Failure {
    let mut waiting: Vec<&Arc<MountedToken>> =
        chosen.iter().filter(|live| live.is_pending()).collect();
    let is_asked = waiting.is_empty();
    if is_asked {
        waiting = chosen.iter().collect();
    }
    // A call without an answer is why nothing moves; what failed before may be long past.
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

/// What a second signal leaves behind; `None` when nothing is pending.
pub(crate) fn left_behind(session: &Session) -> Option<Failure> {
    let all = session.tokens.all();
    all.iter()
        .any(|live| live.is_pending())
        .then(|| unpublished(session, &all, "it was told to leave at once"))
        .or_else(|| session.tokens.unpublished(None))
}

/// Unmounts; the mount goes on when it is in use.
///
/// # Errors
/// It is busy, or does not end.
pub(crate) async fn unmount(session: &Session) -> anyhow::Result<()> {
    let mounted = Arc::clone(&session.mounted);
    let mut work = tokio::task::spawn_blocking(move || mounted.unmount());
    let mut done = timeout(REFUSED, &mut work).await;
    if done.is_err() {
        // It is out of sight: the kernel waits for pages that nobody reads any more, and they for a node.
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

/// Whether what is read of the mount and is not here fails at once.
pub(crate) fn give_up_reads(session: &Session, gives_up: bool) {
    if let Some(tokens) = session.tokens.each().first() {
        tokens.ground().fetcher.give_up(gives_up);
    }
}

/// syncfs(2) of the mount from another process: in this one, whose threads must answer the kernel
/// meanwhile, a wait that cannot be interrupted would keep it from ending.
async fn syncfs(mountpoint: &Path) {
    let child = std::process::Command::new("/proc/self/exe")
        .arg("syncfs")
        .arg(mountpoint)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C in the terminal is meant for us, not for it.
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
