//! When a volume is published: some time after the last change, a bounded time after the first, at once on demand; and again,
//! with patience, after it failed.
//!
//! Invariant: one thing at a time; nothing looks again and again: whatever there is to do calls, or has its moment, by a clock
//! that goes on while the machine sleeps. Begun by `queue`; what one try does is in `attempt`.

use std::future::pending;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pxfs_base::backoff::{Backoff, jittered};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::PublishError;
use super::ahead::Turn;
use super::commit::Context;
use super::naming::{is_named, renew};
use super::pending::PENDING;
use super::queue::{Demand, PublishStatus, Reply, Timing, lock, next_commit_s};
use super::receipt::Receipts;
use super::sample::task::Signs;
use super::state;
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
    /// Who waits for everything to be published, and whether somebody has come since the last try.
    waiting: Vec<Reply>,
    is_asked: bool,
    /// Who waits for another machine's commits to be taken over.
    followers: Vec<oneshot::Sender<()>>,
    /// Until when nobody is followed, and nothing tried that nobody has just asked for.
    follow_not_before: Instant,
    not_before: Instant,
    /// When the name was put last, and when the last commit is looked at again, by a clock that goes on while the machine
    /// sleeps: nodes forget a name meanwhile.
    renewed: Option<Duration>,
    renew_not_before: Duration,
    second_look: Option<Duration>,
    /// The same where another commit may have met ours.
    pub(super) early_look: Option<Duration>,
    /// Who is told that all is published when that was found to be so.
    pub(super) looking: Vec<Reply>,
    /// Why the name could not be put again, if so.
    pub(super) unrenewed: Option<PublishError>,
}

/// What there is to do.
#[derive(Clone, Copy)]
enum Task {
    /// Take over what another machine has published.
    Follow,
    /// Look whether another commit has met ours, which somebody waits for.
    LookEarly,
    Publish,
    /// Look whether the name says what it was told.
    LookAgain,
    /// Put the name again.
    Renew,
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
            renew_not_before: context.clock.boottime(),
            context,
            turn,
            signs,
            timing,
            receipts,
            status,
            failures: 0,
            waiting: Vec::new(),
            is_asked: false,
            followers: Vec::new(),
            follow_not_before: Instant::now(),
            not_before: Instant::now(),
            renewed: None,
            second_look: None,
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
        let signs = Arc::clone(&self.signs);
        loop {
            tokio::select! {
                _ = stopped.changed() => return,
                demand = demands.recv() => match demand {
                    Some(demand) => self.hear(demand),
                    None => return,
                },
                () = signs.work.notified() => {}
                () = self.rest() => {}
            }
            while let Ok(demand) = demands.try_recv() {
                self.hear(demand);
            }
            self.waiting.retain(|reply| !reply.is_closed());
            if let Some(task) = self.due_task() {
                tokio::select! {
                    _ = stopped.changed() => return,
                    () = self.work(task) => {}
                }
            }
        }
    }

    fn hear(&mut self, demand: Demand) {
        match demand {
            Demand::Flush(reply) => {
                self.waiting.push(reply);
                self.is_asked = true;
            }
            Demand::Follow(reply) if Instant::now() >= self.follow_not_before => {
                self.followers.push(reply);
            }
            // Not now.
            Demand::Follow(_) => {}
        }
    }

    /// Returns when there may be something to do that nobody calls for.
    async fn rest(&self) {
        let wants = self.signs.lost.load(Ordering::Acquire) || self.wants_try();
        let pause = match self.is_asked {
            true => Some(Instant::now()),
            false => wants.then_some(self.not_before),
        };
        let moments = [
            self.early_look,
            self.second_look,
            self.due().filter(|_| !wants),
            // The record of a commit under way is to end later than any that the node has.
            (!self.has(PENDING)).then(|| self.next_renewal()),
        ];
        let moment = moments.into_iter().flatten().min();
        rest(pause, moment, self.context.clock.as_ref()).await;
    }

    /// What is to be done now, first of all.
    fn due_task(&mut self) -> Option<Task> {
        let now = self.context.clock.boottime();
        let is_past = |at: Option<Duration>| at.is_some_and(|at| now >= at);
        if !self.followers.is_empty() {
            return Some(Task::Follow);
        }
        if is_past(self.early_look) {
            return Some(Task::LookEarly);
        }
        let is_rested = Instant::now() >= self.not_before;
        let is_due =
            is_rested && (self.wants_try() || self.signs.lost.swap(false, Ordering::AcqRel));
        // A new demand is tried at once, one that waits by the pauses.
        if is_due || self.is_asked {
            return Some(Task::Publish);
        }
        if self.signs.nameless.swap(false, Ordering::AcqRel) {
            self.renewed = None;
        }
        if is_past(self.second_look) {
            return Some(Task::LookAgain);
        }
        let is_to_renew = now >= self.next_renewal() && !self.has(PENDING);
        is_to_renew.then_some(Task::Renew)
    }

    async fn work(&mut self, task: Task) {
        match task {
            Task::Follow => {
                self.follow_idle().await;
                if lock(&self.status).is_behind {
                    self.follow_not_before = Instant::now() + LONGEST_PAUSE;
                }
                self.followers.clear();
            }
            Task::LookEarly => self.look_early().await,
            Task::Publish => self.publish().await,
            Task::LookAgain => self.look_at_name().await,
            Task::Renew => self.renew_name().await,
        }
    }

    async fn publish(&mut self) {
        self.is_asked = false;
        let before = lock(&self.status).progress.commits;
        let result = self.try_once().await;
        if lock(&self.status).progress.commits > before {
            let now = self.context.clock.boottime();
            self.second_look = Some(now + SECOND_LOOK);
            let are_others = writers::were_seen_lately(&self.context);
            self.early_look = are_others.then(|| now + EARLY_LOOK);
        }
        match &result {
            Ok(()) if self.early_look.is_some() => self.looking.append(&mut self.waiting),
            Err(error) if error.may_pass() => {}
            _ => tell(&mut self.waiting, &result),
        }
        let pause = self.pause(!self.waiting.is_empty());
        self.not_before = Instant::now() + pause.max(LEAST_PAUSE);
    }

    async fn look_at_name(&mut self) {
        self.second_look = match timeout(STALL, is_named(&self.context)).await {
            Ok(Ok(is_named)) => {
                if !is_named {
                    tracing::warn!("the name does not say what it was told: it is told again");
                    self.renewed = None;
                }
                None
            }
            _ => Some(self.context.clock.boottime() + SECOND_LOOK),
        };
    }

    async fn renew_name(&mut self) {
        let result = timeout(STALL, renew(&self.context)).await;
        let now = self.context.clock.boottime();
        match result {
            Ok(Ok(())) => {
                self.renewed = Some(now);
                self.note_renewed();
            }
            Ok(Err(error)) => {
                self.unrenewed = Some(error.clone());
                self.note_failure(error);
                self.renew_not_before = now + self.pause(false);
            }
            Err(_) => self.renew_not_before = now + LONGEST_PAUSE,
        }
    }

    /// When the name record is to be put again, by the boot clock: `RENEW` after the last time, and not before a moment.
    fn next_renewal(&self) -> Duration {
        let at = self.renewed.map_or(Duration::ZERO, |at| at + RENEW);
        at.max(self.renew_not_before)
    }

    /// Whether a commit is to be tried, once the pause is over.
    fn wants_try(&self) -> bool {
        !self.waiting.is_empty() || self.has_to_try() || self.is_due()
    }

    /// Whether something else than a change is to be dealt with.
    fn has_to_try(&self) -> bool {
        self.has(PENDING)
            || self.receipts.whole().is_some()
            || self.has(state::TAKEN_OVER)
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
        jittered(Backoff::new(FIRST_PAUSE, longest).after(self.failures))
    }
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
