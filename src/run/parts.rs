//! The concrete parts that a configuration names: chain, contract, wallet, node.
//!
//! Invariant: the only place that builds them, for the daemon and for commands without one. What
//! is refused is refused here, with what to do. Called by `operate`, `daemon`, `demo`, `cli`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use alloy::primitives::Address;
use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::counted::Counts;
use super::node;
use crate::chain::deploy::Deployment;
use crate::chain::dialect::Dialect;
use crate::chain::embedded;
use crate::chain::endpoint::Endpoint;
use crate::chain::ledger::ContractLedger;
use crate::chain::transact::Transactor;
use crate::chain::wallet::Wallet;
use crate::cli::exit::{Exit, Failure, fail};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, RpcUrl};
use crate::names::NameStore;
use crate::names::record::Network;
use crate::publish::Other;
use crate::rpc::Client;
use crate::store::BlockStore;
use crate::store::embedded::EmbeddedStore;

/// The chain, with the account whose tokens are mounted.
pub struct ChainParts {
    /// Where the chain is reached.
    pub endpoint: Endpoint,
    /// The chain inside this process, when that is the one.
    pub embedded: Option<embedded::Handle>,
    /// EIP-155 id.
    pub chain_id: u64,
    /// The token contract.
    pub contract: Address,
    /// Whose tokens these are.
    pub owner: Address,
    /// What it owns.
    pub ledger: ContractLedger,
    /// What the contract speaks.
    pub dialect: Dialect,
    /// What acts for the owner; `None` where only the address is known, and nothing is signed.
    pub account: Option<Account>,
    /// The oracle's operator, where this process is one.
    pub operator: Option<Operator>,
}

/// What acts for the owner.
#[derive(Clone)]
pub struct Account {
    /// Its key.
    pub wallet: Arc<Wallet>,
    /// What it sends.
    pub transactor: Transactor,
}

impl ChainParts {
    /// What acts for the owner, to do `what`.
    ///
    /// # Errors
    /// [`Exit::Usage`]: only the address is known.
    pub fn account(&self, what: &str) -> Result<&Account, Failure> {
        (self.account.as_ref()).ok_or_else(|| needs_wallet(what, &self.owner))
    }
}

/// What is said where `what` is asked of an address.
fn needs_wallet(what: &str, owner: &Address) -> Failure {
    Failure::new(
        Exit::Usage,
        format!(
            "{what}: {owner} is only watched here, by its address: give --wallet in place of --address"
        ),
    )
}

/// The oracle operator of the embedded chain.
pub struct Operator {
    /// Its account.
    pub wallet: Wallet,
    /// Nothing that concerns it is older than this block.
    pub from_block: u64,
}

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
}

/// Everything.
pub struct Parts {
    /// What was configured.
    pub config: Config,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The chain.
    pub chain: ChainParts,
    /// The node.
    pub node: NodeParts,
}

impl Parts {
    /// Builds what `config` names.
    ///
    /// # Errors
    /// One line each, with its exit code.
    pub async fn build(config: &Config) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let node = node::open(config, &clock).await?;
        let chain = chain(config, &clock).await?;
        Ok(Self {
            config: config.clone(),
            clock,
            chain,
            node,
        })
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

/// A chain that is reached, and is the one that was asked for.
pub struct Reached {
    /// Where.
    pub endpoint: Endpoint,
    /// The chain inside this process, when that is the one.
    pub embedded: Option<embedded::Handle>,
    /// EIP-155 id.
    pub chain_id: u64,
    /// What an embedded chain has.
    pub contracts: Option<Contracts>,
}

/// Reaches the chain that `config` names.
///
/// # Errors
/// There is none, it does not answer, or has another id.
pub async fn reach(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<Reached> {
    let (endpoint, embedded, contracts) = match config.rpc.first() {
        None => fail!(
            Usage,
            "no chain: give --rpc-url, or try `pxfs demo MOUNTPOINT`"
        ),
        Some(RpcUrl::Embedded(folder)) => {
            let handle = open_embedded(folder, clock).await?;
            let contracts = Contracts::read(folder)?;
            (Endpoint::embedded(&handle), Some(handle), contracts)
        }
        Some(RpcUrl::Http(_)) => {
            let urls = config.rpc.iter().filter_map(|url| match url {
                RpcUrl::Http(url) => Some(url.as_str()),
                RpcUrl::Embedded(_) => None,
            });
            let urls: Vec<&str> = urls.collect();
            (Endpoint::over_http(&urls, config.chain_id)?, None, None)
        }
    };
    let chain_id = endpoint.chain_id().await?;
    if let Some(wanted) = config.chain_id
        && wanted != chain_id
    {
        fail!(
            Chain,
            "chain {} has id {chain_id}, and --chain-id asks for {wanted}: give another --rpc-url",
            endpoint.label()
        );
    }
    Ok(Reached {
        endpoint,
        embedded,
        chain_id,
        contracts,
    })
}

async fn chain(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<ChainParts> {
    let wallet = match config.address {
        Some(_) => None,
        None => Some(open_wallet(config)?),
    };
    let owner = match (&wallet, config.address) {
        (Some(wallet), _) => wallet.address(),
        (None, address) => address.unwrap_or_default(),
    };
    let Reached {
        endpoint,
        embedded,
        chain_id,
        contracts,
    } = reach(config, clock).await?;
    let contract = match (&config.contract, &contracts) {
        (Some(text), _) => parse_contract(text)?,
        (None, Some(contracts)) => contracts.contract,
        (None, None) => fail!(Usage, "no token contract: give --contract 0x…"),
    };
    let operator = match (config.embedded_chain(), contracts) {
        // Who watches signs nothing, reports neither.
        (Some(folder), Some(contracts)) if wallet.is_some() => Some(Operator {
            wallet: Wallet::open(&operator_file(folder), None)?,
            from_block: contracts.block,
        }),
        _ => None,
    };
    let ledger = ContractLedger::new(endpoint.clone(), contract, owner)
        .remember(chain_id, &config.state_dir.join("owned"));
    let account = wallet.map(|wallet| Account {
        transactor: Transactor::new(endpoint.clone(), &wallet)
            .kept_in(&outbox(&config.state_dir))
            .with_gas_cost_max(config.max_fee),
        wallet: Arc::new(wallet),
    });
    Ok(ChainParts {
        dialect: ledger.dialect().await?,
        ledger,
        endpoint,
        embedded,
        chain_id,
        contract,
        owner,
        account,
        operator,
    })
}

/// The wallet that `config` names, opened by the password file where one is given.
///
/// # Errors
/// As [`Wallet::open`]; the password file cannot be read; an address is named in its place.
pub fn open_wallet(config: &Config) -> anyhow::Result<Wallet> {
    if let Some(owner) = &config.address {
        return Err(needs_wallet("wallet", owner).into());
    }
    let password = match &config.wallet_password_file {
        None => None,
        Some(file) => match std::fs::read_to_string(file) {
            Ok(text) => Some(zeroize::Zeroizing::new(
                text.trim_end_matches(['\n', '\r']).to_owned(),
            )),
            Err(fault) => fail!(Usage, "wallet password file {}: {fault}", file.display()),
        },
    };
    let password = password.as_deref().map(String::as_str);
    Ok(Wallet::open(&config.wallet, password)?)
}

/// Opens the chain in `folder`.
///
/// # Errors
/// There is none, it is damaged, or another process has it.
pub async fn open_embedded(
    folder: &Path,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<embedded::Handle> {
    let folder = folder.to_owned();
    let clock = Arc::clone(clock);
    Ok(tokio::task::spawn_blocking(move || embedded::Handle::open(&folder, clock)).await??)
}

/// `[NAME=]ADDRESS`; the name matters with several contracts only, and there is one.
pub(super) fn parse_contract(text: &str) -> anyhow::Result<Address> {
    let address = text.split_once('=').map_or(text, |(_, address)| address);
    match address.parse() {
        Ok(address) => Ok(address),
        Err(_) => fail!(Usage, "--contract {text}: give 0x and 40 hex digits"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contract_is_an_address_with_or_without_a_name() {
        let plain = "0x5FbDB2315678afecb367f032d93F642f64180aa3";
        assert_eq!(
            parse_contract(plain).unwrap(),
            parse_contract(&format!("main={plain}")).unwrap()
        );
        assert!(parse_contract("0x12").is_err());
    }

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
