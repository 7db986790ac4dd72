//! When a volume is published: some time after the last change, a bounded time after the first, at once on demand; and again,
//! with patience, after it failed.
//!
//! Invariant: one thing at a time; nothing looks again and again: whatever there is to do calls, or has its moment, by a clock
//! that goes on while the machine sleeps. Begun by `queue`; what one try does is in `attempt`.

use std::future::pending;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::PublishError;
use super::ahead::Turn;
use super::commit::Context;
use super::head;
use super::naming::{is_named, renew};
use super::pending::PENDING;
use super::queue::{Demand, PublishStatus, Reply, Timing, lock, next_commit_s};
use super::receipt::Receipts;
use super::sample::task::Signs;
use super::writers;
use crate::clock::Clock;
use crate::fs::FsError;

/// Between two tries that nobody asks for.
const LEAST_PAUSE: Duration = Duration::from_millis(250);

/// A commit that takes longer than this is given up and begun anew: what the node has is not sent
/// again.
pub(super) const STALL: Duration = Duration::from_secs(600);

/// The pause after a failure: from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest while somebody waits for the end, or the local disk is full.
const AWAITED_PAUSE: Duration = Duration::from_secs(5);

/// After a commit the name is read once more, so much later: a node may take a record and lose it, or
/// another machine's commit may have met ours.
const SECOND_LOOK: Duration = Duration::from_secs(60);
/// So much later where another machine was seen lately, and whoever waits for everything to be published waits for that: what
/// another machine was about to name when ours was named is named by then.
pub(super) const EARLY_LOOK: Duration = Duration::from_secs(2);

/// How often the name record is put again.
const RENEW: Duration = Duration::from_secs(12 * 3600);

/// What publishes one volume.
pub(super) struct Worker {
    pub(super) context: Context,
    pub(super) turn: Arc<Turn>,
    pub(super) signs: Arc<Signs>,
    pub(super) timing: Timing,
    pub(super) receipts: Receipts,
    pub(super) status: Arc<Mutex<PublishStatus>>,
    pub(super) failures: u32,
    /// When a commit of ours is looked at again, by the boot clock, where another one may have met it.
    pub(super) early_look: Option<Duration>,
    /// Who is told that all is published when that was found to be so.
    pub(super) looking: Vec<Reply>,
    /// Why the name could not be put again, if so.
    pub(super) unrenewed: Option<PublishError>,
}

impl Worker {
    pub(super) fn new(
        context: Context,
        (timing, turn): (Timing, Arc<Turn>),
        signs: Arc<Signs>,
        receipts: Receipts,
        status: Arc<Mutex<PublishStatus>>,
    ) -> Self {
        Self {
            context,
            turn,
            signs,
            timing,
            receipts,
            status,
            failures: 0,
            early_look: None,
            looking: Vec::new(),
            unrenewed: None,
        }
    }

    /// Publishes until it is stopped, or nobody can ask for anything any more.
    pub(super) async fn run(
        mut self,
        mut demands: mpsc::UnboundedReceiver<Demand>,
        mut stopped: watch::Receiver<bool>,
    ) {
        // By a clock that goes on while the machine sleeps: nodes forget a name meanwhile.
        let clock = Arc::clone(&self.context.clock);
        let mut renewed: Option<Duration> = None;
        let mut second_look: Option<Duration> = None;
        let mut renew_not_before = clock.boottime();
        let mut not_before = Instant::now();
        let mut waiting: Vec<Reply> = Vec::new();
        let mut follow_not_before = Instant::now();
        let signs = Arc::clone(&self.signs);
        loop {
            let is_lost = signs.lost.load(Ordering::Acquire);
            let wants = is_lost || !waiting.is_empty() || self.has_to_try() || self.is_due();
            let pause = wants.then_some(not_before);
            let moments = [
                self.early_look,
                second_look,
                self.due().filter(|_| !wants),
                // The record of a commit under way is to end later than any that the node has.
                (!self.has(PENDING)).then(|| next_renewal(renewed, renew_not_before)),
            ];
            let moment = moments.into_iter().flatten().min();
            let known = waiting.len();
            let mut first = None;
            tokio::select! {
                _ = stopped.changed() => return,
                demand = demands.recv() => match demand {
                    Some(demand) => first = Some(demand),
                    None => return,
                },
                () = signs.work.notified() => {}
                () = rest(pause, moment, clock.as_ref()) => {}
            }
            let mut followers = Vec::new();
            let more = std::iter::from_fn(|| demands.try_recv().ok());
            for demand in first.into_iter().chain(more) {
                match demand {
                    Demand::Flush(reply) => waiting.push(reply),
                    Demand::Follow(reply) => followers.push(reply),
                }
            }
            if !followers.is_empty() && Instant::now() >= follow_not_before {
                tokio::select! {
                    _ = stopped.changed() => return,
                    () = self.follow_idle() => {}
                }
                if lock(&self.status).is_behind {
                    follow_not_before = Instant::now() + LONGEST_PAUSE;
                }
            }
            drop(followers);
            // A new demand is tried at once, one that waits by the pauses below.
            let asked = waiting.len() > known;
            waiting.retain(|reply| !reply.is_closed());
            if (self.early_look).is_some_and(|at| clock.boottime() >= at) {
                tokio::select! {
                    _ = stopped.changed() => return,
                    () = self.look_early() => {}
                }
            }
            let is_rested = Instant::now() >= not_before;
            let due = is_rested
                && (!waiting.is_empty()
                    || self.is_due()
                    || self.has_to_try()
                    || signs.lost.swap(false, Ordering::AcqRel));
            if due || asked {
                let before = lock(&self.status).progress.commits;
                let result = tokio::select! {
                    _ = stopped.changed() => Err(PublishError::Stopped),
                    result = self.try_once() => result,
                };
                if lock(&self.status).progress.commits > before {
                    second_look = Some(clock.boottime() + SECOND_LOOK);
                    let are_others = writers::were_seen_lately(&self.context);
                    self.early_look = are_others.then(|| clock.boottime() + EARLY_LOOK);
                }
                if *stopped.borrow() {
                    return;
                }
                match &result {
                    Ok(()) if self.early_look.is_some() => self.looking.append(&mut waiting),
                    Err(error) if error.may_pass() => {}
                    _ => tell(&mut waiting, &result),
                }
                not_before = Instant::now() + self.pause(!waiting.is_empty()).max(LEAST_PAUSE);
            } else if self.signs.nameless.swap(false, Ordering::AcqRel) {
                renewed = None;
            } else if second_look.is_some_and(|at| clock.boottime() >= at) {
                let named = tokio::select! {
                    _ = stopped.changed() => return,
                    named = timeout(STALL, is_named(&self.context)) => named,
                };
                second_look = match named {
                    Ok(Ok(named)) => {
                        if !named {
                            tracing::warn!(
                                "the name does not say what it was told: it is told again"
                            );
                            renewed = None;
                        }
                        None
                    }
                    _ => Some(clock.boottime() + SECOND_LOOK),
                };
            } else if clock.boottime() >= next_renewal(renewed, renew_not_before)
                && !self.has(PENDING)
            {
                let result = tokio::select! {
                    _ = stopped.changed() => return,
                    result = timeout(STALL, renew(&self.context)) => result,
                };
                match result {
                    Ok(Ok(())) => {
                        renewed = Some(clock.boottime());
                        self.note_renewed();
                    }
                    Ok(Err(error)) => {
                        self.unrenewed = Some(error.clone());
                        self.note_failure(error);
                        renew_not_before = clock.boottime() + self.pause(false);
                    }
                    Err(_) => renew_not_before = clock.boottime() + LONGEST_PAUSE,
                }
            }
        }
    }

    /// Whether something else than a change is to be dealt with.
    fn has_to_try(&self) -> bool {
        self.has(PENDING)
            || self.receipts.whole().is_some()
            || self.has(head::TAKEN_OVER)
            || self.context.volume.is_half_followed()
    }

    fn is_due(&self) -> bool {
        let now = self.context.clock.boottime();
        self.due().is_some_and(|at| now >= at)
    }

    /// When what is unpublished is to be published, by the boot clock.
    fn due(&self) -> Option<Duration> {
        let activity = self.context.volume.activity()?;
        let idle = activity.last.saturating_add(self.timing.idle);
        let at = idle.min(activity.first.saturating_add(self.timing.most));
        let last_commit_s = lock(&self.status).last_commit_s;
        let left_s = seconds_to_commit(&self.context, last_commit_s);
        let waits = self.context.clock.boottime() + Duration::from_secs(left_s);
        Some(if left_s == 0 { at } else { at.max(waits) })
    }

    pub(super) fn has(&self, value: &str) -> bool {
        let value = self.context.volume.raw_meta(value);
        value.is_ok_and(|value| value.is_some())
    }

    /// Longer after each failure, and never the same for two machines.
    fn pause(&self, is_awaited: bool) -> Duration {
        if self.failures == 0 {
            return Duration::ZERO;
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << (self.failures - 1).min(10));
        let mut noise = [0; 1];
        let _ = getrandom::fill(&mut noise);
        // Room on the local disk may be there at any moment, and costs no node a call to find out.
        let wants_room = matches!(
            lock(&self.status).last_error,
            Some(PublishError::Local(FsError::NoRoom))
        );
        let longest = if is_awaited || wants_room {
            AWAITED_PAUSE
        } else {
            LONGEST_PAUSE
        };
        doubled
            .min(longest)
            .mul_f64(0.5 + f64::from(noise[0]) / 512.0)
    }
}

/// When the name record is to be put again, by the boot clock: `RENEW` after the last time, and not before a moment.
fn next_renewal(renewed: Option<Duration>, not_before: Duration) -> Duration {
    let at = renewed.map_or(Duration::ZERO, |at| at + RENEW);
    at.max(not_before)
}

/// Seconds until uploads that are counted allow a commit; 0 where they do, or are not counted.
fn seconds_to_commit(context: &Context, last_commit_s: u64) -> u64 {
    let (volume, now_s) = (&context.volume, context.now_s());
    let left_s = next_commit_s(volume, last_commit_s).map_or(0, |at| at.saturating_sub(now_s));
    let units = volume.with_quota(|quota| quota.units_left()).unwrap_or(0);
    // The time comes nearer while it is waited for: with one unit left by as much.
    match left_s {
        0 => 0,
        left_s => left_s - left_s / units.saturating_add(1) + 1,
    }
}

/// Returns at the end of `pause`, or when `clock` comes to `moment`, whichever is first.
async fn rest(pause: Option<Instant>, moment: Option<Duration>, clock: &dyn Clock) {
    let paused = async {
        match pause {
            Some(at) => sleep_until(at).await,
            None => pending().await,
        }
    };
    let timed = async {
        match moment {
            Some(at) => clock.until(at).await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = paused => {}
        () = timed => {}
    }
}

pub(super) fn tell(replies: &mut Vec<Reply>, result: &Result<(), PublishError>) {
    for reply in replies.drain(..) {
        let _ = reply.send(result.clone());
    }
}
