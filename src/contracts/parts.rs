//! The parts of a configuration: contracts on their chains, and the node.
//!
//! Invariant: only this file builds them, for the daemon and for commands without one. Refusals
//! happen here, with the remedy.

use std::sync::Arc;

use super::build::{self, Needed};
use super::chain::ChainParts;
use super::naming;
use crate::chain::oracle::{Documents, NodeDocuments};
use crate::chain::{Accounting, TokenInfo};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::control::Subject;
use crate::exit::{Failure, fail};
use crate::node::{self, NodeParts};
use crate::types::{TokenId, TokenKey, TokenRef, VolumeKey};

/// Everything that one contract's tokens need.
pub struct Parts {
    /// The configuration.
    pub config: Config,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The contract, on its chain.
    pub chain: ChainParts,
    /// The node.
    pub node: NodeParts,
}

impl Parts {
    /// Builds the parts of the only contract in `config`.
    ///
    /// # Errors
    /// One line each, with its exit code.
    pub async fn build(config: &Config) -> anyhow::Result<Self> {
        let mut all = Self::each(config, Needed::Each).await?;
        match (all.pop(), all.is_empty()) {
            (Some(only), true) => Ok(only),
            _ => fail!(Usage, "several contracts are configured, and one is wanted"),
        }
    }

    /// Builds the parts of each contract in `config`, in order; at least one. They share the node and each
    /// chain.
    ///
    /// # Errors
    /// One line each, with its exit code.
    pub async fn all(config: &Config) -> anyhow::Result<Vec<Arc<Self>>> {
        let all = Self::each(config, Needed::Each).await?;
        Ok(all.into_iter().map(Arc::new).collect())
    }

    /// The same for a request about one contract: one chain must answer. The others' tokens come later, and
    /// requests about them fail until then.
    ///
    /// # Errors
    /// One line each, with its exit code.
    pub async fn any(config: &Config) -> anyhow::Result<Vec<Arc<Self>>> {
        let all = Self::each(config, Needed::Any).await?;
        Ok(all.into_iter().map(Arc::new).collect())
    }

    /// The same for a mount, which needs no chain if token lists are stored.
    ///
    /// # Errors
    /// One line each, with its exit code.
    pub async fn mounted(config: &Config) -> anyhow::Result<Vec<Arc<Self>>> {
        let all = Self::each(config, Needed::Unknown).await?;
        Ok(all.into_iter().map(Arc::new).collect())
    }

    /// The same for a request about the chain alone: the node may be missing.
    ///
    /// # Errors
    /// One line each, with its exit code.
    pub async fn without_node(config: &Config) -> anyhow::Result<Vec<Arc<Self>>> {
        if !config.nodes.is_empty() {
            return Self::any(config).await;
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let node = node::none(&clock);
        let all = Self::on(config, clock, node, Needed::Any).await?;
        Ok(all.into_iter().map(Arc::new).collect())
    }

    async fn each(config: &Config, needed: Needed) -> anyhow::Result<Vec<Self>> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let node = node::open(config, &clock).await?;
        Self::on(config, clock, node, needed).await
    }

    async fn on(
        config: &Config,
        clock: Arc<dyn Clock>,
        node: NodeParts,
        needed: Needed,
    ) -> anyhow::Result<Vec<Self>> {
        let contracts = build::contracts(config, &clock, needed).await?;
        let with = |chain| Self {
            config: config.clone(),
            clock: Arc::clone(&clock),
            chain,
            node: node.clone(),
        };
        Ok(contracts.into_iter().map(with).collect())
    }

    pub(crate) fn volume_key(&self, token: &TokenInfo) -> VolumeKey {
        VolumeKey {
            token: TokenKey {
                chain_id: self.chain.chain_id,
                contract: self.chain.contract,
                token: token.id,
            },
            epoch: token.epoch,
        }
    }

    pub(crate) async fn owned(&self, token: TokenId) -> anyhow::Result<TokenInfo> {
        let info = self.chain.ledger.token(token).await?;
        let (owner, chain) = (info.owner, &self.chain);
        if owner != chain.owner {
            let ours = match chain.account {
                Some(_) => "this wallet",
                None => "the address that is watched",
            };
            fail!(
                Token,
                "token {} belongs to {owner}, not to {ours} ({})",
                chain.called.token(token),
                chain.owner
            );
        }
        Ok(info)
    }

    pub(crate) fn own_documents(&self) -> Arc<dyn Documents> {
        Arc::new(NodeDocuments {
            names: Arc::clone(&self.node.names),
            blocks: Arc::clone(&self.node.reads),
            clock: Arc::clone(&self.clock),
        })
    }

    /// Whether the contract charges each commit, if known.
    pub(crate) fn charges_commits(&self) -> bool {
        self.chain.ledger.known_accounting() == Some(Accounting::Additive)
    }

    /// Whether `id` is to be mounted.
    #[must_use]
    pub fn wants(&self, id: TokenId) -> bool {
        let wanted = &self.config.tokens;
        let is_it = |token: &TokenRef| token.id == id && self.chain.called.is(token);
        wanted.is_empty() || wanted.iter().any(is_it)
    }
}

/// Those of `all` that `subject` names; the first if it names none.
///
/// # Errors
/// There are several, and none is named.
pub fn pick<'a>(all: &'a [Arc<Parts>], subject: Subject<'_>) -> Result<&'a Arc<Parts>, Failure> {
    let found = all.iter().find(|parts| {
        let called = &parts.chain.called;
        match subject {
            Subject::Token(token) => called.is(token),
            Subject::Contract(name) => called.is_named(name),
            Subject::Nothing => true,
        }
    });
    found.ok_or_else(|| none_of(all, subject))
}

/// The message if `subject` names none of `all`.
pub(crate) fn none_of(all: &[Arc<Parts>], subject: Subject<'_>) -> Failure {
    let what = match subject {
        Subject::Token(token) => format!("token {token}"),
        Subject::Contract(Some(name)) => format!("--on {name}"),
        Subject::Contract(None) | Subject::Nothing => "--on NAME".to_owned(),
    };
    let names = all
        .iter()
        .filter_map(|parts| parts.chain.called.name.as_deref());
    naming::unknown(&what, &names.collect::<Vec<_>>())
}

/// Closes the in-process chains of `all`.
pub async fn close_chains(all: &[Arc<Parts>]) {
    let mut closed = Vec::new();
    for parts in all {
        let Some(chain) = parts.chain.embedded.clone() else {
            continue;
        };
        if closed.contains(&parts.chain.chain_id) {
            continue;
        }
        closed.push(parts.chain.chain_id);
        let ended = tokio::task::spawn_blocking(move || chain.close()).await;
        if ended.is_err() {
            tracing::error!("the embedded chain did not end in order");
        }
    }
}
