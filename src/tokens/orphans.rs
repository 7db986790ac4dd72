//! Volumes of earlier epochs: removed if fully published, else shown as `TOKEN.detached`.
//!
//! Invariant: a folder is removed only if all of it is published and the chain is past its epoch,
//! or its owner says so; an open volume is not opened again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::pending::is_pending;
use crate::chain::{ChainError, Snapshot};
use crate::context;
use crate::context::MountContext;
use crate::control::Amount;
use crate::control::Report;
use crate::exit::{Exit, Failure, fail};
use crate::status::{DetachAnswer, TokenStatus};
use crate::tokens::mounted::MountedToken;
use crate::tokens::orphan::{self, OrphanedVolume, bare_status, remedy};
use crate::tokens::salvage;
use crate::tokens::save;
use crate::types::{TokenId, TokenRef, VolumeKey};
use pxfs_base::lock;

#[derive(Clone)]
enum Orphan {
    Shown(Arc<OrphanedVolume>),
    /// Cannot be opened: its name, and why.
    Broken(String, Failure),
}

impl Orphan {
    fn directory(&self) -> &str {
        match self {
            Self::Shown(one) => &one.directory,
            Self::Broken(directory, _) => directory,
        }
    }
}

/// Why a volume no longer belongs to a token.
struct Ending {
    why: String,
    /// The chain is past its epoch, which is final.
    past: bool,
}

/// The result of a check.
#[derive(Default)]
pub(crate) struct Looked {
    /// Names that appeared.
    pub(crate) appeared: Vec<String>,
    /// The latest block seen by volumes that were not judged.
    pub(crate) seen_block: u64,
}

pub(crate) struct OrphanedVolumes {
    ground: Arc<MountContext>,
    known: Mutex<BTreeMap<VolumeKey, Orphan>>,
    /// Volumes shown earlier in this run; not to be opened again.
    spent: Mutex<HashSet<VolumeKey>>,
    /// Whether all folders have been judged.
    looked: Mutex<bool>,
    /// Serialises endings.
    ending: tokio::sync::Mutex<()>,
}

impl OrphanedVolumes {
    pub(crate) fn new(ground: Arc<MountContext>) -> Self {
        Self {
            ground,
            known: Mutex::default(),
            spent: Mutex::default(),
            looked: Mutex::default(),
            ending: tokio::sync::Mutex::default(),
        }
    }

    /// Judges every folder once; the next pass retries those that the chain says too little of. `open` are
    /// the volumes of shown tokens. If it `doubts`, a volume that has seen a later block than `snapshot` is
    /// not judged by it.
    ///
    /// # Errors
    /// The state folder cannot be read.
    pub(crate) async fn look(
        &self,
        snapshot: &Snapshot,
        open: &BTreeSet<VolumeKey>,
        doubts: bool,
    ) -> anyhow::Result<Looked> {
        let mut looked = Looked::default();
        if *lock(&self.looked) {
            return Ok(looked);
        }
        let mut all_judged = true;
        let latest = match doubts {
            true => snapshot.block,
            false => u64::MAX,
        };
        for key in self.ground.state_dir.volumes()? {
            if !self.concerns(&key) || open.contains(&key) || self.holds(&key) {
                continue;
            }
            match self.judge(snapshot, &key).await {
                Ok(None) => {}
                Ok(Some(ending)) => match self.admit(key, &ending, latest).await {
                    Ok(name) => looked.appeared.extend(name),
                    Err(block) => {
                        tracing::warn!(
                            token = %key.token.token, epoch = key.epoch,
                            "block {} is not believed of it: block {block} was seen", snapshot.block
                        );
                        looked.seen_block = looked.seen_block.max(block);
                        all_judged = false;
                    }
                },
                Err(error) => {
                    tracing::warn!(token = %key.token.token, epoch = key.epoch, "what is left of it: {error}");
                    all_judged = false;
                }
            }
        }
        *lock(&self.looked) = all_judged;
        Ok(looked)
    }

    fn concerns(&self, key: &VolumeKey) -> bool {
        let parts = &self.ground.parts;
        key.token.chain_id == parts.chain.chain_id
            && key.token.contract == parts.chain.contract
            && parts.wants(key.token.token)
    }

    /// Whether a volume must not be opened as a token's in this run.
    pub(crate) fn holds(&self, key: &VolumeKey) -> bool {
        lock(&self.known).contains_key(key) || lock(&self.spent).contains(key)
    }

    /// A shown volume is hidden; the next mount judges it.
    pub(crate) fn note_spent(&self, key: VolumeKey) {
        lock(&self.spent).insert(key);
    }

    /// Why a volume is no token of this wallet; `None` if it is one.
    async fn judge(
        &self,
        snapshot: &Snapshot,
        key: &VolumeKey,
    ) -> Result<Option<Ending>, ChainError> {
        let (id, chain) = (key.token.token, &self.ground.parts.chain);
        let called = chain.called.token(id);
        let owned = snapshot.tokens.iter().find(|token| token.id == id);
        if let Some(token) = owned {
            return Ok((token.epoch != key.epoch).then(|| Ending {
                why: other_epoch(&called, key.epoch, token.epoch),
                past: token.epoch > key.epoch,
            }));
        }
        match chain.ledger.token(id).await {
            Ok(token) if token.owner == chain.owner => Err(ChainError::Transient(format!(
                "token {id} has just become this wallet's"
            ))),
            Ok(token) => Ok(Some(Ending {
                why: format!("token {called} belongs to {} now", token.owner),
                past: token.epoch > key.epoch,
            })),
            // Not certain: an endpoint may lag, or a chain was reset.
            Err(ChainError::Missing(_)) => Ok(Some(Ending {
                why: format!("token {called} does not exist"),
                past: false,
            })),
            Err(fault) => Err(fault),
        }
    }

    /// Removes a fully published volume, or shows it and returns its name. One that has seen a
    /// later block than `latest` stays; returns that block.
    async fn admit(
        &self,
        key: VolumeKey,
        ending: &Ending,
        latest: u64,
    ) -> Result<Option<String>, u64> {
        let directory = self.name_for(&key);
        let leftover = match orphan::open(&self.ground, key).await {
            Err(error) => Orphan::Broken(directory.clone(), Failure::from_error(&error)),
            Ok(volume) if context::seen_block(&volume) > latest => {
                return Err(context::seen_block(&volume));
            }
            Ok(volume) => {
                let asked = Arc::clone(&volume);
                let pending = tokio::task::spawn_blocking(move || is_pending(&asked)).await;
                if !pending.unwrap_or(true) {
                    drop(volume);
                    if ending.past {
                        self.remove(key, &ending.why).await;
                    }
                    return Ok(None);
                }
                match OrphanedVolume::show(&self.ground, volume, directory.clone(), &ending.why) {
                    Ok(shown) => Orphan::Shown(Arc::new(shown)),
                    Err(error) => Orphan::Broken(directory.clone(), Failure::from_error(&error)),
                }
            }
        };
        match &leftover {
            Orphan::Shown(_) => tracing::warn!(
                "{}; what was not published is shown as {directory}",
                ending.why
            ),
            Orphan::Broken(_, failure) => {
                tracing::warn!("{}; {directory} cannot be shown: {failure}", ending.why);
            }
        }
        lock(&self.known).insert(key, leftover);
        Ok(Some(directory))
    }

    async fn remove(&self, key: VolumeKey, why: &str) {
        let ground = Arc::clone(&self.ground);
        let dropped = tokio::task::spawn_blocking(move || ground.state_dir.drop_volume(&key)).await;
        match dropped {
            Ok(Ok(())) => tracing::info!(
                epoch = key.epoch,
                "{why}; all of it was published: its local state is removed"
            ),
            Ok(Err(error)) => {
                tracing::warn!(%error, epoch = key.epoch, "{why}; its local state stays")
            }
            Err(error) => tracing::warn!(%error, "its local state stays"),
        }
    }

    /// Takes over a token's directory; returns the orphan's name.
    ///
    /// # Errors
    /// Another directory has that name.
    pub(crate) fn take(&self, live: &MountedToken, why: &str) -> anyhow::Result<String> {
        let directory = self.name_for(&live.key);
        let taken = OrphanedVolume::take(
            &self.ground,
            (Arc::clone(&live.volume), Arc::clone(&live.keeper)),
            (live.slot, &live.directory),
            directory.clone(),
            why,
        )?;
        tracing::warn!("{why}; what was not published is shown as {directory}");
        lock(&self.known).insert(live.key, Orphan::Shown(Arc::new(taken)));
        Ok(directory)
    }

    /// Gives up the orphan of `key`, because the wallet has its token again.
    pub(crate) async fn give_back(&self, key: &VolumeKey) -> Option<Arc<OrphanedVolume>> {
        // No ending of it is in progress.
        let _one = self.ending.lock().await;
        let mut known = lock(&self.known);
        match known.get(key) {
            Some(Orphan::Shown(one)) => {
                let one = Arc::clone(one);
                known.remove(key);
                Some(one)
            }
            _ => None,
        }
    }

    /// Takes it back: it could not be shown as the token's.
    pub(crate) fn keep(&self, left: Arc<OrphanedVolume>) {
        lock(&self.known).insert(left.key, Orphan::Shown(left));
    }

    /// `TOKEN.detached`, with the contract's name if there are several, and with the epoch if the
    /// name is taken.
    fn name_for(&self, key: &VolumeKey) -> String {
        let known = lock(&self.known);
        let token = self.ground.parts.chain.called.token(key.token.token);
        let plain = format!("{token}.detached");
        match known.values().any(|one| one.directory() == plain) {
            true => format!("{plain}-{}", key.epoch),
            false => plain,
        }
    }

    pub(crate) fn any_shown(&self) -> bool {
        let known = lock(&self.known);
        known.values().any(|one| matches!(one, Orphan::Shown(_)))
    }

    pub(crate) fn describe(&self, mountpoint: &str) -> Vec<TokenStatus> {
        let known = lock(&self.known).clone();
        let dialect = self.ground.parts.chain.dialect();
        let tell = |(key, one): (VolumeKey, Orphan)| match one {
            Orphan::Shown(one) => one.describe(dialect, mountpoint),
            Orphan::Broken(directory, failure) => {
                let reason = format!("cannot be shown: {failure}; {}", remedy(&directory));
                bare_status(&key, dialect, &directory, reason)
            }
        };
        known.into_iter().map(tell).collect()
    }

    /// Why the drive, or the directory `only`, is not fully published, if so. Reads the journals.
    pub(crate) fn unpublished(&self, only: Option<&str>) -> Option<Failure> {
        let known = lock(&self.known).clone();
        let waiting = known
            .values()
            .filter(|one| only.is_none_or(|name| name == one.directory()))
            .find(|one| match one {
                Orphan::Shown(one) => one.is_pending(),
                Orphan::Broken(..) => true,
            })?;
        let directory = waiting.directory();
        Some(Failure::new(
            Exit::Unpublished,
            format!(
                "{directory} holds what was not published when its epoch ended, and cannot be any more: {}",
                remedy(directory)
            ),
        ))
    }

    /// Whether any is of this token.
    pub(crate) fn concerns_token(&self, token: TokenId) -> bool {
        lock(&self.known).keys().any(|key| key.token.token == token)
    }

    pub(crate) fn is_meant(&self, name: &str) -> bool {
        let has_any = |token| {
            let folders = self.folders_of(token);
            self.concerns_token(token) || folders.is_ok_and(|folders| !folders.is_empty())
        };
        self.has(name) || self.token_of(name).is_some_and(has_any)
    }

    pub(crate) fn has(&self, directory: &str) -> bool {
        lock(&self.known)
            .values()
            .any(|one| one.directory() == directory)
    }

    /// Ends what `name` (a token or directory) means, after saving it to a folder if one is given.
    ///
    /// # Errors
    /// None or several match; something could not be saved, then everything is still there.
    pub(crate) async fn end(
        &self,
        name: &str,
        save: Option<&Path>,
        tell: Report<'_>,
    ) -> anyhow::Result<DetachAnswer> {
        let _one = self.ending.lock().await;
        if let Some(folder) = save
            && let Some((key, directory)) = self.find_damaged(name).await?
        {
            let saved = salvage::save(&self.ground, key, &directory, folder, tell).await?;
            let (saved, unsure) = saved;
            return Ok(DetachAnswer {
                token: key.token.token,
                directory,
                saved: Some(folder.display().to_string()),
                files: saved.files,
                bytes: saved.bytes,
                unsure: Some(unsure),
            });
        }
        let (key, leftover) = self.find(name)?;
        let mut answer = DetachAnswer {
            token: key.token.token,
            directory: leftover.directory().to_owned(),
            saved: None,
            files: 0,
            bytes: 0,
            unsure: None,
        };
        if let Some(folder) = save {
            let one = match &leftover {
                Orphan::Shown(one) => one,
                Orphan::Broken(directory, failure) => {
                    fail!(Damage, "{directory} cannot be read: {failure}");
                }
            };
            let saved = save::save(&self.ground, one, folder, tell).await?;
            answer.saved = Some(folder.display().to_string());
            (answer.files, answer.bytes) = (saved.files, saved.bytes);
        }
        tell("removing local state", Amount::default());
        let ground = Arc::clone(&self.ground);
        tokio::task::spawn_blocking(move || match leftover {
            Orphan::Shown(one) => one.drop_state(&ground),
            Orphan::Broken(..) => ground.state_dir.drop_volume(&key),
        })
        .await??;
        self.note_spent(key);
        lock(&self.known).remove(&key);
        tracing::info!("{} is ended", answer.directory);
        Ok(answer)
    }

    /// The volume that `name` means if its journal is too damaged to be shown, and what to call it:
    /// an orphan's, or this wallet's own.
    async fn find_damaged(&self, name: &str) -> anyhow::Result<Option<(VolumeKey, String)>> {
        match self.find(name) {
            Ok((key, Orphan::Broken(directory, _))) => {
                let is_damaged = salvage::is_damaged(&self.ground, key).await?;
                return Ok(is_damaged.then_some((key, directory)));
            }
            Ok((_, Orphan::Shown(_))) => return Ok(None),
            Err(_) => {}
        }
        let Some(token) = self.token_of(name) else {
            return Ok(None);
        };
        for key in self.folders_of(token)? {
            let is_shown = self.holds(&key) || self.ground.shown_volume(&key).is_some();
            if !is_shown && salvage::is_damaged(&self.ground, key).await? {
                return Ok(Some((key, self.ground.parts.chain.called.token(token))));
            }
        }
        Ok(None)
    }

    /// The token of this contract that `name` means.
    fn token_of(&self, name: &str) -> Option<TokenId> {
        let token = name.parse::<TokenRef>().ok()?;
        let is_of = self.ground.parts.chain.called.is(&token);
        is_of.then_some(token.id)
    }

    /// The volumes of a token with a folder here.
    fn folders_of(&self, token: TokenId) -> std::io::Result<Vec<VolumeKey>> {
        let mut folders = self.ground.state_dir.volumes()?;
        folders.retain(|key| key.token.token == token && self.concerns(key));
        Ok(folders)
    }

    fn find(&self, name: &str) -> anyhow::Result<(VolumeKey, Orphan)> {
        let known = lock(&self.known);
        let token = self.token_of(name);
        let is_it = |key: &VolumeKey| token.is_some_and(|token| token == key.token.token);
        let found: Vec<_> = known
            .iter()
            .filter(|(key, one)| one.directory() == name || is_it(key))
            .collect();
        match found.as_slice() {
            [] => fail!(
                Token,
                "detach {name}: there is nothing of it that was left unpublished"
            ),
            [(key, one)] => Ok((**key, (*one).clone())),
            several => {
                let names: Vec<&str> = several.iter().map(|(_, one)| one.directory()).collect();
                fail!(
                    Usage,
                    "detach {name}: there are several: name one of {}",
                    names.join(", ")
                );
            }
        }
    }

    /// Ends all of them; the next mount shows them again. Blocks on the disk.
    pub(crate) fn stop(&self) {
        let all = std::mem::take(&mut *lock(&self.known));
        for one in all.into_values() {
            if let Orphan::Shown(one) = one {
                one.stop();
            }
        }
    }
}

/// The message for a volume of another epoch than the token's.
pub(crate) fn other_epoch(called: &str, left: u64, now: u64) -> String {
    format!("token {called} is in epoch {now}, and this is of epoch {left}")
}
