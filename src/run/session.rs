//! A running mount, shared by handler, signals and shutdown.
//!
//! Invariant: its end is announced once, by whoever comes first.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use pxfs_base::lock;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::contracts::Parts;
use crate::exit::Exit;
use crate::mount::Mounted;
use crate::pack::cid::leaf_cid;
use crate::status::{NodeStatus, State, Status};
use crate::store::{BlockStore, StoreError};
use crate::tokens::MountedContracts;
use crate::tokens::{STUCK, unpublished_since};

/// Between two node checks, and the limit of one.
const LOOK_PAUSE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_secs(5);
/// A node without an answer for so long hangs.
const SILENT: Duration = Duration::from_secs(5);

pub(crate) struct Session {
    /// The first contract's, which hold what all share.
    pub(crate) parts: Arc<Parts>,
    pub(crate) tokens: Arc<MountedContracts>,
    pub(crate) mounted: Arc<Mounted>,
    pub(crate) mountpoint: PathBuf,
    /// How long publishing may make no progress before shutdown gives up.
    pub(crate) patience: Duration,
    /// `pxfs umount` is in progress: the mount's end is expected.
    pub(crate) leaving: AtomicBool,
    /// The exit code, once the daemon is to end.
    pub(crate) end: watch::Sender<Option<Exit>>,
    /// Mounted with `-o ro`.
    read_only: bool,
    born: Duration,
    /// The last node check's error, and when it began.
    node_error: Mutex<Option<(String, Instant)>>,
    /// The same for read-only nodes, in order.
    more_errors: Mutex<Vec<Option<String>>>,
}

impl Session {
    pub(crate) fn new(
        parts: Arc<Parts>,
        tokens: Arc<MountedContracts>,
        mounted: Mounted,
        mountpoint: PathBuf,
        read_only: bool,
    ) -> Self {
        Self {
            patience: parts.config.read_timeout,
            born: parts.clock.boottime(),
            parts,
            tokens,
            mounted: Arc::new(mounted),
            mountpoint,
            read_only,
            leaving: AtomicBool::new(false),
            end: watch::Sender::new(None),
            node_error: Mutex::default(),
            more_errors: Mutex::default(),
        }
    }

    /// Checks the node repeatedly; never returns.
    pub(crate) async fn watch_node(self: Arc<Self>) {
        // Any block will do: only the answer counts.
        let asked = leaf_cid(b"");
        loop {
            let look = async |store: &Arc<dyn BlockStore>| match timeout(LOOK, store.has(&asked))
                .await
            {
                Ok(Ok(_)) => None,
                Ok(Err(
                    StoreError::Transient(why) | StoreError::Away(why) | StoreError::Permanent(why),
                )) => Some(why),
                Ok(Err(fault)) => Some(fault.to_string()),
                Err(_) => Some(format!("no answer within {} s", LOOK.as_secs())),
            };
            let (node, begin) = (&self.parts.node, Instant::now());
            let more = join_all(node.more.iter().map(|node| look(&node.near)));
            let (error, more) = futures::join!(look(&node.store), more);
            *lock(&self.node_error) = error.map(|error| (error, begin));
            *lock(&self.more_errors) = more;
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// The node's problem, if it was silent for `silent`, or the last check failed.
    pub(crate) fn node_fault(&self, silent: Duration) -> Option<String> {
        let silence = self.parts.node.counts.silence();
        if silence >= silent {
            let waited = silence.as_secs();
            return Some(format!("the storage node has not answered for {waited} s"));
        }
        let error = self.node_error();
        error.map(|error| format!("the storage node: {error}"))
    }

    /// Whether the last node check failed, and the node has answered nobody since.
    pub(crate) fn is_node_away(&self) -> bool {
        self.node_error().is_some()
    }

    /// Since when the node has been silent, Unix seconds, if that is long.
    fn silent_since_s(&self) -> Option<u64> {
        let silence = self.parts.node.counts.silence();
        let now_s = self.parts.clock.wall_s();
        (silence >= STUCK && self.is_node_away()).then(|| now_s.saturating_sub(silence.as_secs()))
    }

    /// The last check's error, unless the node has answered since.
    fn node_error(&self) -> Option<String> {
        let (error, begin) = lock(&self.node_error).clone()?;
        let counts = &self.parts.node.counts;
        (!counts.is_heard_since(begin)).then_some(error)
    }

    /// All tokens' quotas, bytes. Reads the journals.
    pub(crate) fn quota_bytes(&self) -> u64 {
        let tokens = self.tokens.describe("");
        let quotas = tokens.iter().map(|token| token.quota_bytes);
        quotas.fold(0, u64::saturating_add)
    }

    /// All nodes, as last checked.
    fn node_status(&self) -> Vec<NodeStatus> {
        let told = |kind: &str, url: &str, error: Option<String>| NodeStatus {
            kind: kind.to_owned(),
            url: url.to_owned(),
            ok: error.is_none(),
            error,
        };
        let node = &self.parts.node;
        let first = told(node.kind, &node.label, self.node_error());
        let mut errors = lock(&self.more_errors).clone().into_iter();
        let more = node.more.iter();
        let more = more.map(|node| told(node.kind, &node.label, errors.next().flatten()));
        std::iter::once(first).chain(more).collect()
    }

    /// The answer to `status`. Reads the journals.
    pub(crate) fn status(&self) -> Status {
        let mountpoint = self.mountpoint.to_string_lossy().into_owned();
        let now = self.parts.clock.boottime();
        let mut tokens = self.tokens.describe(&mountpoint);
        let silent_since_s = self.silent_since_s();
        for token in &mut tokens {
            if self.read_only && token.state == State::Ok {
                token.state = State::ReadOnly;
                token.reason = Some("mounted with `-o ro`".to_owned());
            }
            // A hanging commit has no error of its own.
            if let Some(local) = &mut token.local
                && local.last_error.is_none()
                && (local.pending || local.pending_files > 0)
                && token.state != State::Detached
            {
                local.last_error = self.node_fault(SILENT);
                if let (State::Ok, Some(since_s)) = (token.state, silent_since_s) {
                    let (why, node) = ("it does not answer", &self.parts.node.label);
                    token.reason = Some(unpublished_since(since_s, why, Some(node)));
                    token.state = State::Stuck;
                }
            }
        }
        let chains = self.tokens.chains();
        let nodes = self.node_status();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: now.saturating_sub(self.born).as_secs(),
            chain: chains.first().cloned().unwrap_or_default(),
            chains,
            node: nodes.first().cloned().unwrap_or_default(),
            nodes,
            tokens,
            mountpoint,
        }
    }
}
