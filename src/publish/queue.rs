//! When a commit is made: some time after the last change, a bounded time after the first, at once
//! on demand; and again, with patience, after it failed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::PublishError;
use super::ahead::{self, Turn};
use super::commit::{Context, Done, commit};
use super::confirm::{confirm, is_ours, lacks};
use super::follow::{self, Step, follow};
use super::head::{self, Head};
use super::naming::{is_named, look_again, refuse_foreign, renew};
use super::pending::{DOUBTED, PENDING};
use super::receipt::Receipts;
use super::sample::Sampler;
use super::sample::task::{self, Signs};
use super::writers;
use crate::fs::{Access, FsError, Volume};
use crate::store::StoreError;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(250);

/// A commit that takes longer than this is given up and begun anew: what the node has is not sent
/// again.
const STALL: Duration = Duration::from_secs(600);

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
const EARLY_LOOK: Duration = Duration::from_secs(2);

/// How often the name record is put again.
const RENEW: Duration = Duration::from_secs(12 * 3600);

/// When commits are made.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// After the last change.
    pub idle: Duration,
    /// After the first change, at most.
    pub most: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(5),
            most: Duration::from_secs(60),
        }
    }
}

/// What the publisher tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishStatus {
    /// Sequence of the last commit; 0 before the first.
    pub sequence: u64,
    /// Root of the last commit.
    pub root: Option<cid::Cid>,
    /// When it was made, unix seconds; 0 before the first.
    pub last_commit_s: u64,
    /// Where uploads are counted: the earliest time of the next commit that nobody asks for, unix seconds.
    pub next_commit_s: Option<u64>,
    /// Why the last try failed, if it did.
    pub last_error: Option<PublishError>,
    /// Whether a commit is being made.
    pub busy: bool,
    /// Whether the last commit is another machine's.
    pub is_theirs: bool,
    /// Whether another machine has gone on, and its tree cannot take this one's place while it is mounted.
    pub is_behind: bool,
    /// Of the commits of this run.
    pub progress: Progress,
    /// Since when blocks may be on the node that no pin holds yet, unix seconds; 0 where a crash
    /// interrupted a commit. A collection must leave what was put from then on.
    pub unpinned_since_s: Option<u64>,
}

/// What commits of this run have sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Commits made.
    pub commits: u64,
    /// Blocks sent.
    pub sent_blocks: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
}

type Reply = oneshot::Sender<Result<(), PublishError>>;

/// What somebody wants of the worker.
enum Demand {
    /// That all is published.
    Flush(Reply),
    /// That what another machine has published is taken over, where nothing is unpublished here.
    Follow(oneshot::Sender<()>),
}

/// The publisher of one volume. Dropping it ends it; what is unpublished stays.
pub struct Publisher {
    demands: mpsc::UnboundedSender<Demand>,
    status: Arc<Mutex<PublishStatus>>,
    receipts: Receipts,
    volume: Arc<Volume>,
    signs: Arc<Signs>,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
    sampler: JoinHandle<()>,
    ahead: Option<JoinHandle<()>>,
}

impl Publisher {
    /// Starts publishing.
    #[must_use]
    pub fn spawn(context: Context, timing: Timing, runtime: &Handle) -> Self {
        let (demands, receiver) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let status = Arc::new(Mutex::new(PublishStatus::default()));
        let receipts = Receipts::of(&context.volume, &context.node.label);
        let volume = Arc::clone(&context.volume);
        let signs = Arc::new(Signs::default());
        let is_bare = receipts.is_of_new_node && is_ours(&volume);
        signs.bare.store(is_bare, Ordering::Release);
        let sampler = Sampler::begin(&context.volume, receipts.clone());
        let sampler = runtime.spawn(task::run(context.clone(), sampler, Arc::clone(&signs)));
        let turn = Arc::new(Turn::default());
        let ahead = context.node.ahead.then(|| {
            let (status, of) = (Arc::clone(&status), context.clone());
            let begin = move || note_unpinned(&of, &status);
            let (context, receipts) = (context.clone(), receipts.clone());
            runtime.spawn(ahead::run(context, receipts, Arc::clone(&turn), begin))
        });
        let worker = Worker {
            context,
            turn,
            signs: Arc::clone(&signs),
            timing,
            receipts: receipts.clone(),
            status: Arc::clone(&status),
            failures: 0,
            early_look: None,
            looking: Vec::new(),
            unrenewed: None,
        };
        worker.note_head();
        if worker.has(PENDING) || worker.has(DOUBTED) {
            lock(&status).unpinned_since_s = Some(0);
        }
        let task = runtime.spawn(worker.run(receiver, stopped));
        Self {
            demands,
            status,
            receipts,
            volume,
            signs,
            stop,
            sampler,
            ahead,
            task: Mutex::new(Some(task)),
        }
    }

    /// Publishes everything that was acknowledged before the call: at once, and again with the
    /// publisher's own patience for as long as another try may help. Whoever has waited long enough
    /// drops it.
    ///
    /// # Errors
    /// Why no other try helps. Trying goes on in the background all the same.
    pub async fn flush(&self) -> Result<(), PublishError> {
        let (reply, answer) = oneshot::channel();
        self.demands
            .send(Demand::Flush(reply))
            .map_err(|_| PublishError::Stopped)?;
        answer.await.unwrap_or(Err(PublishError::Stopped))
    }

    /// Takes over what another machine has published since, where nothing is unpublished here. Returns when that is
    /// done, or is not to be done now.
    pub async fn follow(&self) {
        let (reply, answer) = oneshot::channel();
        if self.demands.send(Demand::Follow(reply)).is_ok() {
            let _ = answer.await;
        }
    }

    /// What it has done and is doing.
    #[must_use]
    pub fn status(&self) -> PublishStatus {
        let status = lock(&self.status).clone();
        PublishStatus {
            next_commit_s: next_commit_s(&self.volume, status.last_commit_s),
            ..status
        }
    }

    /// Moves while publishing comes nearer to its end, and stands still while tries fail.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.receipts.moved()
    }

    /// Whether the node is known to lack what this machine has published last, or was another one before and has not
    /// been asked yet.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.signs.bare.load(Ordering::Acquire)
    }

    /// The node removed blocks that nothing held: what it acknowledged once may be gone.
    pub fn forget_receipts(&self) {
        self.receipts.forget();
    }

    /// Ends it; a commit under way is given up.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        self.end_helpers();
        let task = lock(&self.task).take();
        if let Some(task) = task {
            let _ = timeout(Duration::from_secs(5), task).await;
        }
    }

    fn end_helpers(&self) {
        self.sampler.abort();
        if let Some(ahead) = &self.ahead {
            ahead.abort();
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.end_helpers();
        self.stop.send_replace(true);
    }
}

/// Whether a volume has nothing to publish, no commit that a crash or a take-over has left to
/// be made, and no head that may not be whole on the node.
#[must_use]
pub fn is_idle(volume: &Volume) -> bool {
    let left = |name| !volume.raw_meta(name).is_ok_and(|value| value.is_none());
    volume.activity().is_none() && ![PENDING, DOUBTED, head::TAKEN_OVER].into_iter().any(left)
}

/// What is known of a volume that nobody publishes: its newest commit.
#[must_use]
pub fn standing(volume: &Volume) -> PublishStatus {
    let mut status = PublishStatus::default();
    note_head(volume, &mut status);
    status
}

fn note_head(volume: &Volume, status: &mut PublishStatus) {
    if let Ok(Some(head)) = volume.meta::<Head>("head") {
        status.sequence = head.sequence;
        status.root = head.root.map(|root| root.0);
        status.last_commit_s = head.time_s;
        status.is_theirs = head.root.is_some() && head.own.map(|own| own.root) != head.root;
    }
}

/// Blocks are about to be on the node that no pin holds.
fn note_unpinned(context: &Context, status: &Mutex<PublishStatus>) {
    let now_s = context.now_s();
    lock(status).unpinned_since_s.get_or_insert(now_s);
}

struct Worker {
    context: Context,
    turn: Arc<Turn>,
    signs: Arc<Signs>,
    timing: Timing,
    receipts: Receipts,
    status: Arc<Mutex<PublishStatus>>,
    failures: u32,
    /// When a commit of ours is looked at again, by the boot clock, where another one may have met it.
    early_look: Option<Duration>,
    /// Who is told that all is published when that was found to be so.
    looking: Vec<Reply>,
    /// Why the name could not be put again, if so.
    unrenewed: Option<PublishError>,
}

impl Worker {
    async fn run(
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
        loop {
            let known = waiting.len();
            let mut first = None;
            tokio::select! {
                _ = stopped.changed() => return,
                demand = demands.recv() => match demand {
                    Some(demand) => first = Some(demand),
                    None => return,
                },
                () = sleep(TICK) => {}
            }
            let mut followers = Vec::new();
            let rest = std::iter::from_fn(|| demands.try_recv().ok());
            for demand in first.into_iter().chain(rest) {
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
            let due = Instant::now() >= not_before
                && (!waiting.is_empty()
                    || self.is_due()
                    || self.has(PENDING)
                    || self.receipts.whole().is_some()
                    || self.has(head::TAKEN_OVER)
                    || self.context.volume.is_half_followed()
                    || self.signs.lost.swap(false, Ordering::AcqRel));
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
                not_before = Instant::now() + self.pause(!waiting.is_empty());
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
            } else if renewed.is_none_or(|at| clock.boottime() >= at + RENEW)
                && clock.boottime() >= renew_not_before
                // The record of a commit under way is to end later than any that the node has.
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

    /// Whether another machine has named something else since our last commit, or in the place of it.
    async fn look_early(&mut self) {
        let looked = timeout(STALL, look_again(&self.context)).await;
        let result = match looked.unwrap_or_else(|_| Err(silent())) {
            Ok(true) => Ok(()),
            Err(error) if !error.may_pass() => {
                self.note_failure(error.clone());
                Err(error)
            }
            // It is told anew, or cannot be asked now.
            Ok(false) | Err(_) => {
                self.early_look = Some(self.context.clock.boottime() + EARLY_LOOK);
                return;
            }
        };
        self.early_look = None;
        self.note_head();
        tell(&mut self.looking, &result);
    }

    /// Takes over what another machine has published since, where nothing is unpublished here.
    async fn follow_idle(&mut self) {
        let volume = &self.context.volume;
        if !is_idle(volume) || volume.is_half_followed() {
            return;
        }
        let looked = timeout(STALL, follow::look(&self.context)).await;
        match looked.unwrap_or_else(|_| Err(silent())) {
            Ok(Step::Parted) => {
                let head = self.context.volume.meta::<Head>("head");
                let head = head.ok().flatten().unwrap_or_default();
                if let Err(error @ PublishError::Conflict(_)) =
                    refuse_foreign(&self.context, &head, None).await
                {
                    self.note_failure(error);
                }
            }
            Ok(step) => {
                // Nothing here keeps it from that but how much is loaded.
                let is_behind = step == Step::Waits && is_idle(&self.context.volume);
                lock(&self.status).is_behind = is_behind;
                self.note_head();
            }
            Err(error) => {
                tracing::debug!(%error, "whether another machine has gone on is not known");
            }
        }
    }

    async fn try_once(&mut self) -> Result<(), PublishError> {
        if self.context.volume.is_half_followed() {
            self.go_on_following().await?;
        }
        if let Access::ReadOnly(reason) = self.context.volume.with_quota(|q| q.access().clone()) {
            if is_idle(&self.context.volume) {
                return self.confirm().await;
            }
            self.failures = self.failures.saturating_add(1);
            return Err(PublishError::Refused(reason));
        }
        if self.has_nothing_to_do() {
            return self.confirm().await;
        }
        lock(&self.status).busy = true;
        let turn = Arc::clone(&self.turn);
        let sending = turn.of_commit().await;
        note_unpinned(&self.context, &self.status);
        let result = match self.while_it_moves().await {
            // Nothing was left to do but by the node.
            Ok(Done {
                made: false,
                doubted: Some(doubted),
                ..
            }) => Err(doubted.error()),
            Ok(done) if !done.made && done.stuck.is_none() => {
                self.ask_whether_it_is_there().await.map(|()| done)
            }
            result => result,
        };
        lock(&self.status).busy = false;
        match result {
            Ok(done) => {
                self.failures = 0;
                self.receipts.forget_chunks();
                self.receipts.note_end(true);
                if done.made {
                    // It was pinned, with all below it.
                    self.signs.bare.store(false, Ordering::Release);
                }
                let mut status = lock(&self.status);
                status.last_error = None;
                // A head that is doubted may be pinned nowhere.
                status.unpinned_since_s = done.doubted.is_some().then_some(0);
                status.progress.commits += u64::from(done.made);
                status.progress.sent_blocks += done.sent_blocks;
                status.progress.sent_bytes += done.sent_bytes;
                drop(status);
                drop(sending);
                let left = (done.stuck.map(PublishError::Damaged))
                    .or_else(|| done.doubted.map(|doubted| doubted.error()));
                self.note_head();
                match left {
                    None => Ok(()),
                    Some(error) => {
                        self.note_failure(error.clone());
                        Err(error)
                    }
                }
            }
            Err(error) => {
                self.note_failure(error.clone());
                Err(error)
            }
        }
    }

    /// Whether a commit would find nothing, for all that is known.
    fn has_nothing_to_do(&self) -> bool {
        is_idle(&self.context.volume)
            && self.receipts.whole().is_none()
            && !self.signs.lost.load(Ordering::Acquire)
            && lock(&self.status).last_error.is_none()
    }

    /// Whether the node has what was published last; what it lacks is looked for at once.
    async fn confirm(&mut self) -> Result<(), PublishError> {
        let result = self.ask_whether_it_is_there().await;
        match &result {
            Ok(()) => {
                self.failures = 0;
                lock(&self.status).last_error = None;
                // It may have been another machine's, and taken over.
                self.note_head();
            }
            Err(error) => self.note_failure(error.clone()),
        }
        result
    }

    async fn ask_whether_it_is_there(&self) -> Result<(), PublishError> {
        if self.signs.bare.load(Ordering::Acquire) {
            return Err(lacks());
        }
        let asked = timeout(STALL, confirm(&self.context)).await;
        asked.unwrap_or_else(|_| Err(silent()))
    }

    /// The name was put again: what an earlier try met is over.
    fn note_renewed(&mut self) {
        let Some(met) = self.unrenewed.take() else {
            return;
        };
        let mut status = lock(&self.status);
        if status.last_error.take_if(|error| *error == met).is_some() {
            self.failures = 0;
        }
    }

    /// A take-over was begun that came to no end: until it does nothing can be changed.
    async fn go_on_following(&mut self) -> Result<(), PublishError> {
        let followed = timeout(STALL, follow(&self.context)).await;
        match followed.unwrap_or_else(|_| Err(silent())) {
            Ok(true) => {
                self.failures = 0;
                lock(&self.status).last_error = None;
                self.note_head();
                Ok(())
            }
            // It is not what was named any more, or another is at it.
            Ok(false) => {
                self.failures = self.failures.saturating_add(1);
                Ok(())
            }
            Err(error) => {
                self.note_failure(error.clone());
                Err(error)
            }
        }
    }

    /// A commit, for as long as it comes on: how long it takes in all is its size's affair.
    async fn while_it_moves(&self) -> Result<Done, PublishError> {
        let mut work = std::pin::pin!(commit(&self.context, &self.receipts));
        loop {
            let before = self.receipts.pulse();
            match timeout(STALL, &mut work).await {
                Ok(result) => return result,
                Err(_) if self.receipts.pulse() != before => {}
                Err(_) => return Err(silent()),
            }
        }
    }

    fn note_failure(&mut self, error: PublishError) {
        let misses = matches!(
            error,
            PublishError::Store(StoreError::Missing(_) | StoreError::Corrupt(..))
                | PublishError::Unverified(_)
                | PublishError::Local(FsError::Lost(_))
        );
        if misses {
            self.signs.sweep.notify_one();
        }
        self.failures = self.failures.saturating_add(1);
        self.receipts.note_end(false);
        let (token, failures) = (self.context.volume.key().token.token, self.failures);
        let before = lock(&self.status).last_error.replace(error.clone());
        if before.as_ref() == Some(&error) {
            tracing::debug!(%token, %error, failures, "not published; it is tried again");
        } else {
            tracing::warn!(%token, %error, failures, "not published; it is tried again");
        }
    }

    fn note_head(&self) {
        note_head(&self.context.volume, &mut lock(&self.status));
    }

    fn is_due(&self) -> bool {
        let Some(activity) = self.context.volume.activity() else {
            return false;
        };
        if next_commit_s(&self.context.volume, lock(&self.status).last_commit_s)
            .is_some_and(|at| self.context.now_s() < at)
        {
            return false;
        }
        let now = self.context.clock.boottime();
        now.saturating_sub(activity.last) >= self.timing.idle
            || now.saturating_sub(activity.first) >= self.timing.most
    }

    fn has(&self, value: &str) -> bool {
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

/// Where uploads are counted: the earliest time of the next commit that nobody asks for, unix seconds,
/// so that those that are left last until the next sync is due.
fn next_commit_s(volume: &Volume, last_commit_s: u64) -> Option<u64> {
    let units = volume.with_quota(|quota| quota.units_left())?;
    if last_commit_s == 0 {
        return None;
    }
    let left_s = volume.seconds_left()?;
    Some(last_commit_s.saturating_add(left_s / units.max(1)))
}

fn silent() -> PublishError {
    PublishError::Unverified("it does not answer".into())
}

fn tell(replies: &mut Vec<Reply>, result: &Result<(), PublishError>) {
    for reply in replies.drain(..) {
        let _ = reply.send(result.clone());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
