//! The tokens of one contract, and what is known of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{Notify, Semaphore};

use super::kernel_notify::KernelNotifier;
use crate::chain::{ChainError, Snapshot, TokenInfo};
use crate::context::MountContext;
use crate::contracts::Approvals;
use crate::contracts::List;
use crate::contracts::Parts;
use crate::exit::Failure;
use crate::mount::Notifier;
use crate::names::key::NameKey;
use crate::status::TokenStatus;
use crate::tokens::mounted::MountedToken;
use crate::tokens::orphans::OrphanedVolumes;
use crate::tokens::pending_opens::PendingOpens;
use crate::types::{TokenId, VolumeKey};
use pxfs_base::lock;

/// Tokens that are checked at a time.
pub(super) const TOKENS_AT_ONCE: usize = 16;

/// All of a contract.
pub(super) type UnusedTokens = BTreeMap<TokenId, UnusedToken>;

/// One of them.
pub(super) struct UnusedToken {
    pub(super) key: VolumeKey,
    pub(super) directory: String,
    pub(super) slot: u16,
    pub(super) token: TokenInfo,
    /// Somebody wants it, and it could not be opened yet: each pass tries again.
    pub(super) is_wanted: bool,
    /// Whoever opens it holds this.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
}

/// How the chain looked last.
#[derive(Default)]
pub(super) struct View {
    /// Of this process, or what the volumes keep of an earlier one.
    pub(super) block: u64,
    pub(super) seen: Option<Duration>,
    /// What was seen then.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) error: Option<String>,
    /// Whether the last look has come to nothing.
    pub(super) is_blind: bool,
    /// Whether a later block that was seen was never true: what is kept of one counts no more.
    pub(super) overruled: bool,
    /// Whether what a volume keeps of a later block holds.
    pub(super) doubts: bool,
}

/// The tokens of a mount.
pub(crate) struct Tokens {
    pub(super) ground: Arc<MountContext>,
    /// What earlier epochs have left.
    pub(crate) leftovers: OrphanedVolumes,
    pub(super) teller: KernelNotifier,
    pub(super) live: Mutex<BTreeMap<TokenId, Arc<MountedToken>>>,
    /// Those that nobody has used here yet.
    pub(super) unused: Mutex<UnusedTokens>,
    pub(super) openings: PendingOpens,
    /// Owned tokens that cannot be shown, as the chain has them, and why.
    pub(super) failed: Mutex<BTreeMap<TokenId, (TokenStatus, Failure)>>,
    /// Keys by name, and what they are derived with; looking for one costs a derivation for each transaction of the wallet.
    pub(super) keys: Mutex<HashMap<String, Option<(u64, NameKey)>>>,
    pub(super) approvals: Approvals,
    /// Names whose first document is there, or on its way.
    pub(super) documented: Arc<Mutex<HashSet<String>>>,
    pub(super) view: Mutex<View>,
    /// What the chain told last, also an earlier process.
    pub(super) known: List,
    /// Why the chain did not answer before the first look.
    pub(super) silence: Mutex<Option<ChainError>>,
    /// For looks at what is published, beside the passes.
    pub(super) turns: Arc<Semaphore>,
    pub(super) pass: tokio::sync::Mutex<()>,
    /// A commit may be to be charged, or a charge may have come on.
    pub(super) charging: Arc<Notify>,
    /// Nothing is opened any more.
    pub(super) has_ended: AtomicBool,
}

impl Tokens {
    /// What they stand on.
    pub(crate) fn ground(&self) -> &MountContext {
        &self.ground
    }

    /// The contract's parts.
    pub(crate) fn parts(&self) -> &Arc<Parts> {
        &self.ground.parts
    }

    pub(crate) fn new(ground: Arc<MountContext>) -> Self {
        let parts = &ground.parts;
        Self {
            known: List::of(&parts.config.state_dir, &parts.chain),
            silence: Mutex::new(parts.chain.silence.clone()),
            leftovers: OrphanedVolumes::new(Arc::clone(&ground)),
            ground,
            teller: KernelNotifier::default(),
            live: Mutex::default(),
            unused: Mutex::default(),
            openings: PendingOpens::default(),
            failed: Mutex::default(),
            keys: Mutex::default(),
            approvals: Approvals::default(),
            documented: Arc::default(),
            view: Mutex::default(),
            turns: Arc::new(Semaphore::new(TOKENS_AT_ONCE)),
            pass: tokio::sync::Mutex::default(),
            charging: Arc::default(),
            has_ended: AtomicBool::new(false),
        }
    }

    /// From now on the kernel is told what appears.
    pub(crate) fn set_notifier(&self, notifier: Notifier) {
        self.teller.set(notifier);
    }

    /// Returns when the kernel has been told of what changed, or a while later.
    pub(crate) async fn told(&self) {
        self.teller.told().await;
    }

    /// Whether anything of the contract is shown.
    pub(crate) fn any_shown(&self) -> bool {
        let is_empty = lock(&self.live).is_empty() && lock(&self.unused).is_empty();
        !is_empty || self.leftovers.any_shown()
    }

    pub(crate) fn all(&self) -> Vec<Arc<MountedToken>> {
        lock(&self.live).values().cloned().collect()
    }

    pub(crate) fn get(&self, id: TokenId) -> Option<Arc<MountedToken>> {
        lock(&self.live).get(&id).cloned()
    }

    /// What `status` tells of the tokens. Reads the journals: blocks on the disk.
    pub(crate) fn describe(&self, mountpoint: &str) -> Vec<TokenStatus> {
        let shown = self.all();
        let mut tokens: Vec<TokenStatus> = shown
            .iter()
            .map(|live| live.describe(&self.ground.parts, mountpoint))
            .collect();
        tokens.extend(
            lock(&self.failed)
                .values()
                .map(|(status, _)| status.clone()),
        );
        tokens.extend(self.describe_unused(mountpoint));
        tokens.extend(self.leftovers.describe(mountpoint));
        tokens.sort_by_key(|token| token.id);
        tokens
    }

    /// Ends all publishers.
    pub(crate) async fn stop_publishing(&self) {
        self.has_ended.store(true, Ordering::Release);
        self.openings.keep(&BTreeSet::new());
        let all = self.all();
        join_all(all.iter().map(|live| live.stop_publishing())).await;
    }

    /// Ends all volumes; everything acknowledged is durable here afterwards. Blocks on the disk.
    pub(crate) fn stop(&self) {
        // A mount that is in use is only out of sight: who has something open there goes on calling. It is the
        // drive of all contracts: whoever is first ends it.
        self.ground.drive.end();
        let all = std::mem::take(&mut *lock(&self.live));
        let all: Vec<Arc<MountedToken>> = all.into_values().collect();
        let next = AtomicUsize::new(0);
        let stop = || {
            while let Some(live) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                live.stop();
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..all.len().min(TOKENS_AT_ONCE) {
                // Where the system has no thread to give the others do its part.
                drop(std::thread::Builder::new().spawn_scoped(scope, stop));
            }
            stop();
        });
        self.leftovers.stop();
    }
}
