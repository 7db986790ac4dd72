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

/// Tokens checked concurrently.
pub(super) const TOKENS_AT_ONCE: usize = 16;

/// All of one contract.
pub(super) type UnusedTokens = BTreeMap<TokenId, UnusedToken>;

pub(super) struct UnusedToken {
    pub(super) key: VolumeKey,
    pub(super) directory: String,
    pub(super) slot: u16,
    pub(super) token: TokenInfo,
    /// It was wanted but could not be opened: each pass retries.
    pub(super) is_wanted: bool,
    /// Held while opening it.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
}

/// How the chain last looked.
#[derive(Default)]
pub(super) struct View {
    /// Seen by this process, or stored in the volumes by an earlier one.
    pub(super) block: u64,
    pub(super) seen: Option<Duration>,
    /// What was seen then.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) error: Option<String>,
    /// Whether the last check failed.
    pub(super) is_blind: bool,
    /// A later block was seen but never true: stored ones count no more.
    pub(super) overruled: bool,
    /// Whether stored allowances of a later block hold.
    pub(super) doubts: bool,
}

/// The tokens of a mount.
pub(crate) struct Tokens {
    pub(super) ground: Arc<MountContext>,
    /// Volumes of earlier epochs.
    pub(crate) leftovers: OrphanedVolumes,
    pub(super) teller: KernelNotifier,
    pub(super) live: Mutex<BTreeMap<TokenId, Arc<MountedToken>>>,
    /// Tokens not used here yet.
    pub(super) unused: Mutex<UnusedTokens>,
    pub(super) openings: PendingOpens,
    /// Owned tokens that cannot be shown, and why.
    pub(super) failed: Mutex<BTreeMap<TokenId, (TokenStatus, Failure)>>,
    /// Keys by name, with their transaction nonce; a search derives one for each transaction of the
    /// wallet.
    pub(super) keys: Mutex<HashMap<String, Option<(u64, NameKey)>>>,
    pub(super) approvals: Approvals,
    /// Names whose first document is published, or on its way.
    pub(super) documented: Arc<Mutex<HashSet<String>>>,
    pub(super) view: Mutex<View>,
    /// What the chain last said, also to an earlier process.
    pub(super) known: List,
    /// Why the chain did not answer before the first check.
    pub(super) silence: Mutex<Option<ChainError>>,
    /// Bounds checks of published roots, beside the passes.
    pub(super) turns: Arc<Semaphore>,
    pub(super) pass: tokio::sync::Mutex<()>,
    /// Signals that a commit may need charging, or a charge advanced.
    pub(super) charging: Arc<Notify>,
    /// Opens nothing from now on.
    pub(super) has_ended: AtomicBool,
}

impl Tokens {
    pub(crate) fn ground(&self) -> &MountContext {
        &self.ground
    }

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

    /// From now on the kernel is notified.
    pub(crate) fn set_notifier(&self, notifier: Notifier) {
        self.teller.set(notifier);
    }

    /// Returns once the kernel was notified of all changes, or after a timeout.
    pub(crate) async fn told(&self) {
        self.teller.told().await;
    }

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
        // A detached mount still gets calls from open files, so the drive ends here. All contracts
        // share it; the first to stop ends it.
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
                // Without a thread from the system, the others do its part.
                drop(std::thread::Builder::new().spawn_scoped(scope, stop));
            }
            stop();
        });
        self.leftovers.stop();
    }
}
