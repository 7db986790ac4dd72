//! Whether a mounted token is published, and from which root.
//!
//! Invariant: nothing is published before the newest root is known; a volume never used here is not
//! shown before that.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pxfs_base::lock;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::chain::TokenInfo;
use crate::context::MountContext;
use crate::contracts::token_status;
use crate::exit::fail;
use crate::fs::Volume;
use crate::publish::{
    Allowed, Bootstrap, Context, Key, Node, PublishError, PublishStatus, Publisher, Timing,
    bootstrap, follow, is_idle, is_ours, recent, standing, watch,
};
use crate::status::State;
use crate::tokens::right::Right;

/// How long finding the newest root may take: a node with many peers took half a minute per name
/// lookup, and each call has its own bound.
pub(crate) const FIND: Duration = Duration::from_secs(600);
/// After this time the wait is reported, and a pass stops waiting.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long finding the root may delay showing a volume used here before.
const KNOWN_PATIENCE: Duration = Duration::from_secs(2);
/// After this time, a volume that cannot publish is reported as stuck.
pub(crate) const STUCK: Duration = Duration::from_secs(120);
/// Pause between two checks for another machine's commits because of missing blocks.
const RENEW_PAUSE: Duration = Duration::from_secs(5);
/// Pause between a flush's checks for the newest root.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a reader may take over what the owner published.
const WATCH_PATIENCE: Duration = Duration::from_secs(600);

/// The message while the node is slow.
pub(crate) const LATE: &str =
    "the storage node has not said yet what was published last: it is waited for";
/// The message for a name that leads to another tree than before.
const PARTED: &str = "what is published does not contain what was seen before: that is shown until its owner goes on";
/// Why an earlier mount's writes are not published.
const WATCHED: &str = "only the address is known here: mount with --wallet to publish it";
/// The remedy once another machine has published since.
const BEHIND: &str = "another machine has gone on from here: unmount, and mount again";

pub(crate) struct Publishing {
    context: Option<Context>,
    /// When it began, by the boot clock.
    begun: Duration,
    timing: Timing,
    allowed: Allowed,
    /// Where its commits run.
    runtime: Handle,
    /// Minimum pause between two checks for another machine's commits; `None` if no other machine
    /// can write to its nodes.
    pace: Option<Duration>,
    /// The last such check.
    looked: Mutex<Option<Instant>>,
    stage: Mutex<Stage>,
    /// Serialises searches for the newest root.
    look: tokio::sync::Mutex<()>,
    /// When the name was last resolved for a missing block.
    renewed: Mutex<Option<Instant>>,
}

enum Stage {
    /// Never: the name is not ours.
    Never,
    /// The newest root is unknown; why.
    Waiting(Option<String>),
    /// Publishing.
    On(Arc<Publisher>),
    /// Two machines wrote.
    Conflict(String),
    /// Another machine has published since, and nothing here is unpublished.
    Behind,
    /// Another machine has just written: why we may not yet.
    Barred(String),
    /// Read-only follower of the owner's commits; why the last check failed.
    Watching(Option<String>),
    /// The mount is ending.
    Ended,
}

impl Publishing {
    pub(crate) fn new(ground: &MountContext, volume: &Arc<Volume>, right: &Right) -> Self {
        let parts = &ground.parts;
        let key = match right {
            Right::None(..) => None,
            Right::Ours(key) => Some(Key::Ours(key.clone())),
            Right::Watched(name, _) => Some(Key::Theirs(name.clone())),
        };
        let context = key.map(|key| Context {
            volume: Arc::clone(volume),
            node: Node {
                label: parts.node.label.clone(),
                store: Arc::clone(&parts.node.store),
                names: Arc::clone(&parts.node.names),
                fetcher: Arc::clone(&ground.fetcher),
                network: parts.node.network,
                others: parts.node.others.clone(),
                ahead: parts.node.client.is_some(),
            },
            key,
            clock: Arc::clone(&parts.clock),
        });
        Self {
            stage: Mutex::new(match context {
                Some(_) => Stage::Waiting(None),
                None => Stage::Never,
            }),
            context,
            begun: parts.clock.boottime(),
            timing: Timing {
                idle: parts.config.commit_idle,
                most: parts.config.commit_max,
            },
            allowed: Allowed {
                take_over: parts.config.take_over,
                begin_anew: parts.config.begin_anew,
            },
            runtime: ground.commits.handle(),
            // An embedded node is this process's own. Half, so that a pass that comes slightly
            // early still checks.
            pace: (parts.node.client.is_some() || !parts.node.others.is_empty())
                .then(|| parts.config.refresh / 2),
            looked: Mutex::default(),
            look: tokio::sync::Mutex::default(),
            renewed: Mutex::default(),
        }
    }

    /// Finds the newest root for a volume about to be shown. One used here before can be shown from local
    /// state while [`Publishing::go_on`] continues the search; any other waits up to `patience`.
    ///
    /// # Errors
    /// The volume was never used here, and its root cannot be found now.
    pub(crate) async fn begin(&self, token: &TokenInfo, patience: Duration) -> anyhow::Result<()> {
        let Some(context) = &self.context else {
            return Ok(());
        };
        let used =
            context.volume.raw_meta("head")?.is_some() || context.volume.activity().is_some();
        let patience = match used {
            true => KNOWN_PATIENCE,
            false => patience,
        };
        let look = async {
            let _one = self.look.lock().await;
            self.find(context, token).await;
        };
        if timeout(patience, look).await.is_err() {
            tracing::debug!(token = %token.id, "the newest root is not known yet");
        }
        match (&*lock(&self.stage), used) {
            (Stage::Waiting(why), false) => fail!(
                Node,
                "token {}: what was published of it is not known: {}",
                token.id,
                why.as_deref().unwrap_or("the storage node does not answer")
            ),
            _ => Ok(()),
        }
    }

    /// Starts publishing once the newest root is known and another machine's commit is old enough.
    /// A volume that is only read, or fully published, follows the newest root within `turns`.
    /// Returns at once if a search is running.
    pub(crate) async fn go_on(&self, token: &TokenInfo, turns: &Semaphore) {
        let Some(context) = &self.context else { return };
        let Ok(_one) = self.look.try_lock() else {
            return;
        };
        match (self.is_waiting(), self.watches()) {
            (false, _) => {
                let Some(publisher) = self.idle() else { return };
                *lock(&self.looked) = Some(Instant::now());
                let _turn = turns.acquire().await;
                // Its work may take long.
                let _ = timeout(WATCH_PATIENCE, publisher.follow()).await;
            }
            (true, true) => {
                // Hundreds of tokens are checked repeatedly. Never closed.
                let _turn = turns.acquire().await;
                self.watch(context, token).await;
            }
            (true, false) => self.find(context, token).await,
        }
    }

    /// Finds the newest root, and starts what it allows.
    async fn find(&self, context: &Context, token: &TokenInfo) {
        let was_barred = matches!(*lock(&self.stage), Stage::Barred(_));
        let look = async {
            // The other machine's new commits need no remount.
            if was_barred {
                follow(context).await?;
            }
            bootstrap(context, token, self.allowed).await
        };
        tokio::pin!(look);
        let found = match timeout(PATIENCE, &mut look).await {
            Ok(found) => Ok(found),
            Err(_) => {
                self.note_late();
                timeout(FIND - PATIENCE, look).await
            }
        };
        let stage = match found {
            Ok(Ok(Bootstrap::Behind)) => Stage::Behind,
            Ok(Ok(_)) if self.watches() => Stage::Watching(None),
            // The root first seen stays until its owner publishes.
            Ok(Err(PublishError::Conflict(_))) if self.watches() => {
                Stage::Watching(Some(PARTED.to_owned()))
            }
            Ok(Ok(Bootstrap::Current | Bootstrap::New | Bootstrap::Adopted(_))) => {
                let context = context.clone();
                let publisher = Publisher::spawn(context, self.timing, &self.runtime);
                Stage::On(Arc::new(publisher))
            }
            Ok(Ok(Bootstrap::ReadOnly(reason))) => Stage::Barred(reason),
            Ok(Err(PublishError::Conflict(why))) => Stage::Conflict(why),
            Ok(Err(error)) => Stage::Waiting(Some(error.to_string())),
            Err(_) => Stage::Waiting(Some(format!(
                "the storage node does not answer within {} s",
                FIND.as_secs()
            ))),
        };
        let mut now = lock(&self.stage);
        // Unless the mount is ending.
        if matches!(*now, Stage::Waiting(_) | Stage::Barred(_)) {
            *now = stage;
        }
    }

    /// The search is slow: it continues, and says so.
    fn note_late(&self) {
        if let Stage::Waiting(why) = &mut *lock(&self.stage) {
            *why = Some(LATE.to_owned());
        }
    }

    /// Whether another's name is followed read-only.
    fn watches(&self) -> bool {
        let context = self.context.as_ref();
        context.is_some_and(|context| matches!(context.key, Key::Theirs(_)))
    }

    /// Takes over newer commits. Slow, but must run to its end.
    async fn watch(&self, context: &Context, token: &TokenInfo) {
        let error = match timeout(WATCH_PATIENCE, watch(context, token)).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the storage node does not answer".to_owned()),
        };
        let mut now = lock(&self.stage);
        let (Stage::Watching(known) | Stage::Waiting(known)) = &*now else {
            return;
        };
        if let Some(error) = &error
            && known.as_ref() != Some(error)
        {
            tracing::warn!(token = %token.id, "whether it was published anew is not known: {error}");
        }
        *now = Stage::Watching(error);
    }

    /// A block is missing: whether another machine's tree has just replaced this one. Rate-limited;
    /// continues when nobody waits for it.
    pub(crate) async fn renew(&self) -> bool {
        let Some(context) = self.context.clone() else {
            return false;
        };
        if matches!(*lock(&self.stage), Stage::Conflict(_) | Stage::Ended) {
            return false;
        }
        {
            let mut renewed = lock(&self.renewed);
            if renewed.is_some_and(|at| at.elapsed() < RENEW_PAUSE) {
                return false;
            }
            *renewed = Some(Instant::now());
        }
        let followed = tokio::spawn(async move { follow(&context).await });
        match followed.await {
            Ok(Ok(followed)) => followed,
            Ok(Err(error)) => {
                tracing::warn!(%error, "whether another machine has gone on is not known");
                false
            }
            Err(_) => false,
        }
    }

    /// Whether the newest root must be searched for (again); always for a follower.
    pub(crate) fn is_waiting(&self) -> bool {
        match &*lock(&self.stage) {
            Stage::Waiting(_) | Stage::Watching(_) => true,
            Stage::Barred(_) => self.recent().is_none(),
            _ => false,
        }
    }

    /// Whether to check for another machine's commits.
    pub(crate) fn is_to_look(&self) -> bool {
        self.is_waiting() || self.idle().is_some()
    }

    /// Its idle publisher, if it is time to check for another machine's commits.
    fn idle(&self) -> Option<Arc<Publisher>> {
        let Stage::On(publisher) = &*lock(&self.stage) else {
            return None;
        };
        let context = self.context.as_ref()?;
        let (pace, looked) = (self.pace?, *lock(&self.looked));
        let is_time = looked.is_none_or(|at| at.elapsed() >= pace);
        (is_time && is_idle(&context.volume)).then(|| Arc::clone(publisher))
    }

    /// Why nothing may be written yet, from the state folder.
    fn recent(&self) -> Option<String> {
        if self.allowed.take_over || self.watches() {
            return None;
        }
        let context = self.context.as_ref()?;
        recent(context).unwrap_or_else(|error| {
            tracing::warn!(%error, "when another machine wrote is not known");
            None
        })
    }

    /// Whether another machine has published since: the volume must be opened anew.
    pub(crate) fn is_behind(&self) -> bool {
        matches!(*lock(&self.stage), Stage::Behind)
    }

    /// Whether two machines wrote, and the name has the other's tree.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(*lock(&self.stage), Stage::Conflict(_))
    }

    /// Why nothing may be written, if so.
    pub(crate) fn barred(&self) -> Option<(State, String)> {
        match &*lock(&self.stage) {
            Stage::Behind => Some((State::ReadOnly, BEHIND.to_owned())),
            Stage::Barred(reason) => {
                let reason = self.recent().unwrap_or_else(|| reason.clone());
                Some((State::ReadOnly, reason))
            }
            // Also while the node is slow.
            Stage::Waiting(_) => self.recent().map(|reason| (State::ReadOnly, reason)),
            _ => None,
        }
    }

    /// The remedy for two machines that wrote, if so.
    pub(crate) fn conflict(&self) -> Option<String> {
        match &*lock(&self.stage) {
            Stage::Conflict(why) => Some(why.clone()),
            Stage::On(publisher) => match publisher.status().last_error {
                Some(PublishError::Conflict(why)) => Some(why),
                _ => None,
            },
            _ => None,
        }
    }

    /// Why it is not published, if so.
    pub(crate) fn error(&self) -> Option<String> {
        match &*lock(&self.stage) {
            Stage::Never | Stage::Ended => None,
            Stage::Waiting(why) | Stage::Watching(why) => why.clone(),
            Stage::Behind => Some(BEHIND.to_owned()),
            Stage::Conflict(why) | Stage::Barred(why) => Some(why.clone()),
            Stage::On(publisher) => {
                let status = publisher.status();
                let behind = status.is_behind.then(|| BEHIND.to_owned());
                status.last_error.map(|error| error.to_string()).or(behind)
            }
        }
    }

    /// Why nothing has been published for minutes, since when, and the remedy.
    pub(crate) fn stuck(&self) -> Option<String> {
        let context = self.context.as_ref()?;
        if is_idle(&context.volume) {
            return None;
        }
        let node = Some(context.node.label.as_str());
        let (since, why, node) = match &*lock(&self.stage) {
            Stage::Waiting(why) if !self.watches() => (
                self.begun,
                why.clone().unwrap_or_else(|| LATE.to_owned()),
                node,
            ),
            Stage::On(publisher) => {
                let status = publisher.status();
                let error = status.last_error.filter(PublishError::keeps_all_back)?;
                let node = node.filter(|_| error.is_of_node());
                (status.failing_since?, error.to_string(), node)
            }
            _ => return None,
        };
        let failing = context.clock.boottime().saturating_sub(since);
        let at = context.now_s().saturating_sub(failing.as_secs());
        (failing >= STUCK).then(|| unpublished_since(at, &why, node))
    }

    /// Since when the node may hold unpinned blocks, unix seconds; 0 if unknown.
    pub(crate) fn unpinned_since_s(&self) -> Option<u64> {
        match &*lock(&self.stage) {
            Stage::On(publisher) => publisher.status().unpinned_since_s,
            Stage::Waiting(_) => Some(0),
            _ => None,
        }
    }

    /// The node removed unpinned blocks.
    pub(crate) fn forget_receipts(&self) {
        if let Stage::On(publisher) = &*lock(&self.stage) {
            publisher.forget_receipts();
        }
    }

    /// Whether the node lacks the last published root.
    pub(crate) fn is_bare(&self) -> bool {
        matches!(&*lock(&self.stage), Stage::On(publisher) if publisher.is_bare())
    }

    pub(crate) fn is_on(&self) -> bool {
        matches!(*lock(&self.stage), Stage::On(_))
    }

    pub(crate) fn status(&self) -> PublishStatus {
        match &*lock(&self.stage) {
            Stage::On(publisher) => publisher.status(),
            _ => match &self.context {
                Some(context) => standing(&context.volume),
                None => PublishStatus::default(),
            },
        }
    }

    /// Changes as publishing progresses.
    pub(crate) fn moved(&self) -> u64 {
        match &*lock(&self.stage) {
            Stage::On(publisher) => publisher.moved(),
            _ => 0,
        }
    }

    /// Whether the node should confirm that it has the last root: only if that was published from
    /// here.
    fn is_to_ask(&self, volume: &Volume) -> bool {
        let may_ask = match &*lock(&self.stage) {
            Stage::On(_) | Stage::Conflict(_) => true,
            Stage::Waiting(_) => !self.watches(),
            _ => false,
        };
        may_ask && is_ours(volume)
    }

    /// Returns when everything written before is published. Retries without end what may still succeed; the
    /// caller bounds the wait.
    ///
    /// # Errors
    /// Why a retry is pointless.
    pub(crate) async fn flush(&self, volume: &Volume) -> Result<(), String> {
        loop {
            if is_idle(volume) && !self.is_bare() && !self.is_to_ask(volume) {
                return Ok(());
            }
            let publisher = match &*lock(&self.stage) {
                Stage::On(publisher) => Some(Arc::clone(publisher)),
                Stage::Waiting(_) if self.watches() => return Err(WATCHED.to_owned()),
                Stage::Waiting(_) => None,
                Stage::Never => return Err("its name is not ours".to_owned()),
                Stage::Watching(_) => return Err(WATCHED.to_owned()),
                Stage::Ended => return Err("the mount is ending".to_owned()),
                Stage::Behind => return Err(BEHIND.to_owned()),
                Stage::Conflict(why) | Stage::Barred(why) => return Err(why.clone()),
            };
            if let Some(publisher) = publisher {
                return publisher.flush().await.map_err(|error| error.to_string());
            }
            sleep(PAUSE).await;
        }
    }

    pub(crate) async fn stop(&self) {
        let stage = std::mem::replace(&mut *lock(&self.stage), Stage::Ended);
        if let Stage::On(publisher) = stage {
            publisher.stop().await;
        }
    }
}

/// The message if nothing was published since `since_s`, unix seconds, with the remedy if `node` is
/// the cause.
pub(crate) fn unpublished_since(since_s: u64, why: &str, node: Option<&str>) -> String {
    let at = token_status::instant(since_s).map_or_else(String::new, |at| format!(" since {at}"));
    let cure = node.map_or_else(String::new, |node| {
        format!(
            ": see that the node at {node} runs, answers and has room, or mount with another --node"
        )
    });
    format!("nothing was published{at}: {why}{cure}")
}
