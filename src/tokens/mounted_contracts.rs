//! The tokens of all contracts of a mount.
//!
//! Invariant: contracts share drive, node and state folder but are checked separately: an
//! unreachable chain does not affect the tokens of others.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::contract_tokens::Tokens;
use crate::context::{MountContext, ShownVolumes};
use crate::contracts::{self, Parts};
use crate::control::Report;
use crate::control::Subject;
use crate::exit::{Failure, fail};
use crate::mount::Notifier;
use crate::status::{ChainStatus, DetachAnswer, TokenStatus};
use crate::tokens::mounted::MountedToken;

pub(crate) struct MountedContracts {
    all: Vec<Arc<Tokens>>,
    parts: Vec<Arc<Parts>>,
}

impl MountedContracts {
    pub(crate) fn new(grounds: &[Arc<MountContext>]) -> Self {
        let made = grounds.iter().map(|ground| {
            let tokens = Arc::new(Tokens::new(Arc::clone(ground)));
            let shown: std::sync::Weak<dyn ShownVolumes> = Arc::<Tokens>::downgrade(&tokens);
            ground.renew_by(shown);
            tokens
        });
        Self {
            all: made.collect(),
            parts: grounds
                .iter()
                .map(|ground| Arc::clone(&ground.parts))
                .collect(),
        }
    }

    pub(crate) fn each(&self) -> &[Arc<Tokens>] {
        &self.all
    }

    pub(crate) fn parts(&self) -> &[Arc<Parts>] {
        &self.parts
    }

    /// The tokens of the contract that `subject` names; the first contract's if it names none.
    ///
    /// # Errors
    /// As [`contracts::pick`].
    pub(crate) fn of(&self, subject: Subject<'_>) -> Result<&Arc<Tokens>, Failure> {
        let picked = contracts::pick(&self.parts, subject)?;
        let found = self
            .all
            .iter()
            .find(|tokens| Arc::ptr_eq(tokens.parts(), picked));
        found.ok_or_else(|| contracts::none_of(&self.parts, subject))
    }

    /// The first check of all contracts, within `patience`.
    ///
    /// # Errors
    /// No contract can be shown: the first one's reason.
    pub(crate) async fn look_first(&self, patience: Duration) -> anyhow::Result<()> {
        let looks = join_all(self.all.iter().map(|tokens| tokens.look_first(patience)));
        let looked = looks.await;
        let any_shown = self.all.iter().any(|tokens| tokens.any_shown());
        let any_well = looked.iter().any(Result::is_ok);
        for error in looked.into_iter().filter_map(Result::err) {
            if !any_well {
                return Err(error);
            }
            tracing::warn!("tokens: {error:#}; it is tried again");
        }
        let failure = self.all.iter().find_map(|tokens| tokens.first_failure());
        match failure.filter(|_| !any_shown) {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        }
    }

    pub(crate) async fn refresh(&self) {
        for looked in join_all(self.all.iter().map(|tokens| tokens.refresh())).await {
            if let Err(error) = looked {
                tracing::warn!("tokens: {error:#}");
            }
        }
    }

    /// Returns once the kernel was notified of all changes, or after a timeout.
    pub(crate) async fn told(&self) {
        join_all(self.all.iter().map(|tokens| tokens.told())).await;
    }

    /// From now on the kernel is notified.
    pub(crate) fn set_notifier(&self, notifier: &Notifier) {
        for tokens in &self.all {
            tokens.set_notifier(notifier.clone());
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<MountedToken>> {
        self.all.iter().flat_map(|tokens| tokens.all()).collect()
    }

    /// The status of each chain once, preferring a contract that reports a problem.
    pub(crate) fn chains(&self) -> Vec<ChainStatus> {
        let mut order = Vec::new();
        let mut chains: BTreeMap<u64, ChainStatus> = BTreeMap::new();
        for status in self.all.iter().map(|tokens| tokens.chain_status()) {
            match chains.get(&status.id) {
                Some(known) if !known.ok || status.ok => {}
                known => {
                    if known.is_none() {
                        order.push(status.id);
                    }
                    chains.insert(status.id, status);
                }
            }
        }
        order.iter().filter_map(|id| chains.remove(id)).collect()
    }

    pub(crate) fn describe(&self, mountpoint: &str) -> Vec<TokenStatus> {
        let told = self.all.iter().map(|tokens| tokens.describe(mountpoint));
        told.flatten().collect()
    }

    /// Why orphans of the drive, or of the directory `only`, hold unpublished data, if they do.
    /// Reads the journals.
    pub(crate) fn unpublished(&self, only: Option<&str>) -> Option<Failure> {
        let mut all = self.all.iter();
        all.find_map(|tokens| tokens.leftovers.unpublished(only))
    }

    /// Whether `directory` is a token not used here yet.
    pub(crate) fn is_unused(&self, directory: &str) -> bool {
        self.all.iter().any(|tokens| tokens.is_unused(directory))
    }

    /// Whether `directory` is an orphan.
    pub(crate) fn has_leftover(&self, directory: &str) -> bool {
        let mut all = self.all.iter();
        all.any(|tokens| tokens.leftovers.has(directory))
    }

    /// `pxfs detach`.
    ///
    /// # Errors
    /// As [`Tokens::detach`].
    pub(crate) async fn detach(
        &self,
        name: &str,
        save: Option<&Path>,
        tell: Report<'_>,
    ) -> anyhow::Result<DetachAnswer> {
        let meant = self.all.iter().find(|tokens| tokens.is_meant(name));
        match meant.or(self.all.first()) {
            Some(tokens) => tokens.detach(name, save, tell).await,
            None => fail!(Token, "detach {name}: there is nothing of it"),
        }
    }

    pub(crate) async fn stop_publishing(&self) {
        join_all(self.all.iter().map(|tokens| tokens.stop_publishing())).await;
    }

    /// Ends all volumes; everything acknowledged is durable here afterwards. Blocks on the disk.
    pub(crate) fn stop(&self) {
        for tokens in &self.all {
            tokens.stop();
        }
    }
}
