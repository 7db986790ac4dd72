//! The concrete parts that a configuration names: contracts on their chains, and the node.
//!
//! Invariant: the only place that builds them, for the daemon and for commands without one. What
//! is refused is refused here, with what to do. Called by `operate`, `daemon`, `demo`, `cli`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use alloy::primitives::Address;
use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::chains::Needed;
pub use super::chains::{Account, ChainParts};
use super::counted::Counts;
pub use super::signing::{Names, open_signer, open_wallet};
use super::{chains, node};
use crate::chain::deploy::Deployment;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::control::Subject;
use crate::exit::{Failure, fail};
use crate::names::NameStore;
use crate::names::record::Network;
use crate::publish::Other;
use crate::rpc::Client;
use crate::store::BlockStore;
use crate::store::embedded::EmbeddedStore;
use crate::types::{TokenId, TokenRef};

/// The storage node.
#[derive(Clone)]
pub struct NodeParts {
    /// What it is, for `status`.
    pub kind: &'static str,
    /// Where it is, for `status`.
    pub label: String,
    /// The namespace that its records name content in.
    pub network: Network,
    /// Blocks.
    pub store: Arc<dyn BlockStore>,
    /// The same to read from, and from all other nodes.
    pub reads: Arc<dyn BlockStore>,
    /// The names of the other nodes.
    pub others: Vec<Other>,
    /// Names.
    pub names: Arc<dyn NameStore>,
    /// What both have done.
    pub counts: Arc<Counts>,
    /// The node inside this process, which collects its garbage when it is told to.
    pub embedded: Option<EmbeddedStore>,
    /// The way to the node, where it is a process of its own.
    pub client: Option<Client>,
    /// The nodes that are only read from.
    pub more: Vec<MoreNode>,
}

/// A node that is only read from.
#[derive(Clone)]
pub struct MoreNode {
    /// What it is, for `status`.
    pub kind: &'static str,
    /// Where it is, for `status`.
    pub label: String,
    /// What it has itself.
    pub near: Arc<dyn BlockStore>,
    /// The way to it, where it is a process of its own.
    pub client: Option<Client>,
}

/// Everything that the tokens of one contract stand on.
pub struct Parts {
    /// What was configured.
    pub config: Config,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The contract, on its chain.
    pub chain: ChainParts,
    /// The node.
    pub node: NodeParts,
}

impl Parts {
    /// Builds what `config` names, of its only contract.
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

    /// Builds what `config` names, once for each contract, in their order: at least one. The node and what
    /// belongs to one chain are the same for all.
    ///
    /// # Errors
    /// One line each, with its exit code.
    pub async fn all(config: &Config) -> anyhow::Result<Vec<Arc<Self>>> {
        let all = Self::each(config, Needed::Each).await?;
        Ok(all.into_iter().map(Arc::new).collect())
    }

    /// The same for what is about one contract: of several chains one has to answer. The tokens of the
    /// others come when they do, and what is about one of them fails as it does.
    ///
    /// # Errors
    /// One line each, with its exit code.
    pub async fn any(config: &Config) -> anyhow::Result<Vec<Arc<Self>>> {
        let all = Self::each(config, Needed::Any).await?;
        Ok(all.into_iter().map(Arc::new).collect())
    }

    /// The same for a mount, which begins without any chain where it is kept what its tokens were.
    ///
    /// # Errors
    /// One line each, with its exit code.
    pub async fn mounted(config: &Config) -> anyhow::Result<Vec<Arc<Self>>> {
        let all = Self::each(config, Needed::Unknown).await?;
        Ok(all.into_iter().map(Arc::new).collect())
    }

    /// The same for what is about the chain alone: where no node is named, none is missed.
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
        let contracts = chains::contracts(config, &clock, needed).await?;
        let with = |chain| Self {
            config: config.clone(),
            clock: Arc::clone(&clock),
            chain,
            node: node.clone(),
        };
        Ok(contracts.into_iter().map(with).collect())
    }

    /// Whether `id` is to be mounted.
    #[must_use]
    pub fn wants(&self, id: TokenId) -> bool {
        let wanted = &self.config.tokens;
        let is_it = |token: &TokenRef| token.id == id && self.chain.called.is(token);
        wanted.is_empty() || wanted.iter().any(is_it)
    }
}

/// Those of `all` that `subject` is about: the first where it is about none.
///
/// # Errors
/// There are several, and none of them is named.
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

/// What is said where `subject` is about none of `all`.
pub(super) fn none_of(all: &[Arc<Parts>], subject: Subject<'_>) -> Failure {
    let what = match subject {
        Subject::Token(token) => format!("token {token}"),
        Subject::Contract(Some(name)) => format!("--on {name}"),
        Subject::Contract(None) | Subject::Nothing => "--on NAME".to_owned(),
    };
    let names = all
        .iter()
        .filter_map(|parts| parts.chain.called.name.as_deref());
    chains::unknown(&what, &names.collect::<Vec<_>>())
}

/// Ends the chains inside this process that `all` stand on.
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

/// What the folder of an embedded chain keeps of the contracts on it: `contracts.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contracts {
    /// Version of this file, 1.
    pub version: u8,
    /// The token contract.
    pub contract: Address,
    /// The forwarder of the oracle's reports.
    pub forwarder: Address,
    /// Block of the token contract.
    pub block: u64,
}

impl Contracts {
    /// Of a deployment.
    #[must_use]
    pub fn of(deployment: &Deployment) -> Self {
        Self {
            version: 1,
            contract: deployment.contract,
            forwarder: deployment.forwarder,
            block: deployment.block,
        }
    }

    /// The file in a chain's folder.
    #[must_use]
    pub fn file(chain: &Path) -> PathBuf {
        chain.join("contracts.json")
    }

    /// What the chain in `chain` has; `None` when nothing was deployed yet.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn read(chain: &Path) -> anyhow::Result<Option<Self>> {
        let file = Self::file(chain);
        let bytes = match std::fs::read(&file) {
            Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| file.display().to_string())?,
        };
        let what = || format!("{}: damaged", file.display());
        let read: Self = serde_json::from_slice(&bytes).with_context(what)?;
        match read.version {
            1 => Ok(Some(read)),
            other => fail!(
                Failure,
                "{}: version {other} is not known: use a newer pxfs",
                file.display()
            ),
        }
    }
}

/// What is on its way to the chain, in a state folder.
#[must_use]
pub fn outbox(state: &Path) -> PathBuf {
    state.join("outbox")
}

/// The file of the operator's key in the folder of an embedded chain.
#[must_use]
pub fn operator_file(chain: &Path) -> PathBuf {
    chain.join("operator")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever changes this file's form leaves the chains of earlier versions without contracts.
    #[test]
    fn contracts_are_found_again_by_every_later_version() {
        let golden = include_str!("../../tests/golden/state/contracts.json");
        let contracts = Contracts {
            version: 1,
            contract: "0x5fbdb2315678afecb367f032d93f642f64180aa3"
                .parse()
                .unwrap(),
            forwarder: "0xe7f1725e7734ce288f8367e1bb143e90bb3f0512"
                .parse()
                .unwrap(),
            block: 2,
        };
        assert_eq!(
            serde_json::to_string_pretty(&contracts).unwrap(),
            golden.trim_end()
        );
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(Contracts::file(dir.path()), golden).unwrap();
        assert_eq!(Contracts::read(dir.path()).unwrap(), Some(contracts));
    }

    #[test]
    fn a_damaged_list_of_contracts_is_no_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Contracts::read(dir.path()).unwrap(), None);
        std::fs::write(Contracts::file(dir.path()), "{").unwrap();
        assert!(Contracts::read(dir.path()).is_err());
    }
}
