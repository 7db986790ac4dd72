//! The publisher of a volume, as others see it: what can be asked of it, and what it tells.
//!
//! Invariant: what it tells is what its worker has found; a demand is answered once, or told that publishing has ended. Built by
//! `run`; `worker` does the work.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(super) use pxfs_base::lock;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::Instrument;

use super::PublishError;
use super::ahead::{self, Turn};
use super::commit::Context;
use super::confirm::is_ours;
use super::pending::{DOUBTED, PENDING};
use super::receipt::Receipts;
use super::sample::Sampler;
use super::sample::task::{self, Signs};
use super::state;
use super::worker::Worker;
use crate::fs::{News, Volume};

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
    /// Since when all tries have failed, by the boot clock, if the last one did.
    pub failing_since: Option<Duration>,
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

pub(super) type Reply = oneshot::Sender<Result<(), PublishError>>;

/// What somebody wants of the worker.
pub(super) enum Demand {
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
        let sampling = task::run(context.clone(), sampler, Arc::clone(&signs));
        let sampler = runtime.spawn(sampling.instrument(tracing::debug_span!("sample")));
        let turn = Arc::new(Turn::default());
        let (work, send) = (Arc::clone(&signs), Arc::clone(&turn));
        volume.on_news(move |news| match news {
            News::Due => work.work.notify_one(),
            News::Whole => send.call(),
        });
        let ahead = context.node.ahead.then(|| {
            let (status, of) = (Arc::clone(&status), context.clone());
            let begin = move || note_unpinned(&of, &status);
            let (context, receipts) = (context.clone(), receipts.clone());
            runtime.spawn(ahead::run(context, receipts, Arc::clone(&turn), begin))
        });
        let worker = Worker::new(
            context,
            (timing, turn),
            Arc::clone(&signs),
            receipts.clone(),
            Arc::clone(&status),
        );
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
            failing_since: status.failing_since.filter(|_| status.last_error.is_some()),
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
    volume.activity().is_none() && ![PENDING, DOUBTED, state::TAKEN_OVER].into_iter().any(left)
}

/// What is known of a volume that nobody publishes: its newest commit.
#[must_use]
pub fn standing(volume: &Volume) -> PublishStatus {
    let mut status = PublishStatus::default();
    note_head(volume, &mut status);
    status
}

pub(super) fn note_head(volume: &Volume, status: &mut PublishStatus) {
    if let Ok(Some(head)) = state::known_head(volume) {
        status.sequence = head.sequence;
        status.root = head.root.map(|root| root.0);
        status.last_commit_s = head.time_s;
        status.is_theirs = head.root.is_some() && head.own.map(|own| own.root) != head.root;
    }
}

/// Blocks are about to be on the node that no pin holds.
pub(super) fn note_unpinned(context: &Context, status: &Mutex<PublishStatus>) {
    let now_s = context.now_s();
    lock(status).unpinned_since_s.get_or_insert(now_s);
}

/// Where uploads are counted: the earliest time of the next commit that nobody asks for, unix seconds,
/// so that those that are left last until the next sync is due.
pub(super) fn next_commit_s(volume: &Volume, last_commit_s: u64) -> Option<u64> {
    let units = volume.with_quota(|quota| quota.units_left())?;
    if last_commit_s == 0 {
        return None;
    }
    let left_s = volume.seconds_left()?;
    Some(last_commit_s.saturating_add(left_s / units.max(1)))
}
