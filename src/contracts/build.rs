//! The chains and contracts of a configuration, with their accounts.
//!
//! Invariant: however many contracts share a chain, it has one connection, one account and one
//! outbox, because nonces are per account and chain. Refusals happen here, with the remedy.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use alloy::primitives::Address;
use futures::future::join_all;

use super::chain::{Account, Called, ChainParts, Operator};
use super::connect::{ConnectedChain, chain_of, probe};
use super::embedded::{Deployed, operator_file, outbox};
use super::last_seen;
use super::naming::check_names;
use super::signing::{self, Keys, Names};
use crate::chain::ChainError;
use crate::chain::ledger::ContractLedger;
use crate::chain::transact::Transactor;
use crate::chain::wallet::Wallet;
use crate::clock::Clock;
use crate::config::{Config, ContractAt};
use crate::exit::fail;

/// Which of several chains must answer first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needed {
    /// All.
    Each,
    /// One: the others' tokens appear when they answer.
    Any,
    /// Those without a stored token list: see [`last_seen`].
    Unknown,
}

/// All contracts in `config`, in order; at least one.
///
/// # Errors
/// One line each, with its exit code; if only `Any` is `needed`, that no chain answers.
pub(crate) async fn contracts(
    config: &Config,
    clock: &Arc<dyn Clock>,
    needed: Needed,
) -> anyhow::Result<Vec<ChainParts>> {
    check_names(config)?;
    let Keys {
        signer,
        wallet,
        names,
        owner,
    } = signing::open(config).await?;
    let mut chains: BTreeMap<Option<u64>, (ConnectedChain, Option<Account>)> = BTreeMap::new();
    let mut silent: BTreeMap<Option<u64>, ChainError> = BTreeMap::new();
    let mut all: Vec<ChainParts> = Vec::new();
    let all_wanted = wanted(config);
    let wanted_count = all_wanted.len();
    let chain_wanted =
        |wanted: Option<&ContractAt>| chain_of(config, wanted.and_then(|wanted| wanted.chain));
    // Concurrently: each may be slow to fail.
    let ids: BTreeSet<_> = all_wanted.iter().copied().map(chain_wanted).collect();
    let kept = |chain| {
        let its = config.contracts.iter();
        let mut its =
            its.filter(|one| needed == Needed::Unknown && chain_wanted(Some(one)) == chain);
        its.find_map(|one| last_seen::chain_of(&config.state_dir, &one.address, &owner))
    };
    let probes = ids.into_iter().map(|chain| {
        let kept = kept(chain);
        async move { (chain, probe(config, chain, kept, clock).await) }
    });
    let mut answers: BTreeMap<_, _> = join_all(probes).await.into_iter().collect();
    for wanted in all_wanted {
        let chain = chain_wanted(wanted);
        if let Some(answer) = answers.remove(&chain) {
            let (connected, fault) = answer?;
            match fault {
                None => {}
                Some(fault) if needed == Needed::Each => return Err(fault.into()),
                Some(fault) => {
                    tracing::info!(
                        "{fault}: the tokens of chain {} come when it answers",
                        connected.chain_id
                    );
                    silent.insert(chain, fault);
                }
            }
            if let Some((other, _)) = chains
                .values()
                .find(|(other, _)| other.chain_id == connected.chain_id)
            {
                // One account's two outboxes would take each other's nonces.
                fail!(
                    Usage,
                    "chain {0} is named twice ({1} and {2}): write --rpc-url {0}=URL and ADDRESS@{0} for all of it",
                    connected.chain_id,
                    other.endpoint.label(),
                    connected.endpoint.label()
                );
            }
            let account = signer.clone().map(|signer| Account {
                wallet: wallet.clone(),
                transactor: Transactor::signed_by(connected.endpoint.clone(), signer)
                    .kept_in(&outbox(&config.state_dir))
                    .on_chain(connected.chain_id)
                    .with_gas_cost_max(config.max_fee),
            });
            chains.insert(chain, (connected, account));
        }
        let Some((connected, account)) = chains.get(&chain) else {
            continue;
        };
        let called = Called {
            name: wanted.and_then(|wanted| wanted.name.clone()),
            place: all.len(),
            count: wanted_count,
        };
        let who = (owner, account.clone(), names.clone());
        let mut found = of_contract(config, connected, who, wanted, called)?;
        if let Entry::Vacant(silent) = silent.entry(chain) {
            match found.ledger.dialect().await {
                // It has fallen silent since.
                Err(fault) if needed != Needed::Each && fault.is_silence() => {
                    silent.insert(fault);
                }
                told => drop(told?),
            }
        }
        found.silence = silent.get(&chain).cloned();
        if needed == Needed::Unknown && found.silence.is_some() {
            let (state, contract) = (&config.state_dir, &found.contract);
            let spoke = last_seen::dialect_of(state, found.chain_id, contract, &owner);
            found.ledger = found.ledger.that_spoke(spoke);
        }
        let is_known = |known: &ChainParts| {
            (known.chain_id, known.contract) == (found.chain_id, found.contract)
        };
        if all.iter().any(is_known) {
            fail!(
                Usage,
                "contract {} of chain {} is named twice: leave one out",
                found.contract,
                found.chain_id
            );
        }
        all.push(found);
    }
    let is_known = |one: &ChainParts| one.ledger.known_dialect().is_some();
    match silent.pop_first() {
        Some((_, fault)) if silent.len() + 1 == chains.len() && !all.iter().any(is_known) => {
            Err(fault.into())
        }
        _ => Ok(all),
    }
}

/// The named contracts; `None` for the embedded chain's.
fn wanted(config: &Config) -> Vec<Option<&ContractAt>> {
    match config.contracts.is_empty() {
        true => vec![None],
        false => config.contracts.iter().map(Some).collect(),
    }
}

/// The chain of a command without a contract: `--chain-id`, else the first.
pub(crate) fn main_chain(config: &Config) -> Option<u64> {
    let wanted = config
        .chain_id
        .filter(|id| config.rpc.iter().any(|one| one.chain == Some(*id)));
    chain_of(config, wanted)
}

/// The only contract, for a command about one.
///
/// # Errors
/// There is none, or there are several.
pub(crate) fn only_contract<'a>(config: &'a Config, what: &str) -> anyhow::Result<&'a ContractAt> {
    match config.contracts.as_slice() {
        [only] => Ok(only),
        [] => fail!(Usage, "{what}: no token contract: give --contract 0x…"),
        _ => fail!(
            Usage,
            "{what}: several contracts are configured: give the one by --contract 0x…"
        ),
    }
}

fn of_contract(
    config: &Config,
    connected: &ConnectedChain,
    (owner, account, names): (Address, Option<Account>, Names),
    wanted: Option<&ContractAt>,
    called: Called,
) -> anyhow::Result<ChainParts> {
    let deployed = match &connected.embedded {
        Some((_, folder)) => Deployed::read(folder)?.map(|contracts| (contracts, folder)),
        None => None,
    };
    let contract = match (wanted, &deployed) {
        (Some(wanted), _) => wanted.address,
        (None, Some((contracts, _))) => contracts.contract,
        (None, None) => fail!(Usage, "no token contract: give --contract 0x…"),
    };
    let operator = match deployed {
        // Not of another contract. A watcher signs nothing, reports neither.
        Some((contracts, folder)) if contracts.contract == contract && account.is_some() => {
            Some(Operator {
                wallet: Wallet::open(&operator_file(folder), None)?,
                from_block: contracts.block,
            })
        }
        _ => None,
    };
    let (endpoint, chain_id) = (&connected.endpoint, &connected.chain_id);
    let mut ledger = ContractLedger::new(endpoint.clone(), contract, owner)
        .remember(*chain_id, &config.state_dir.join("owned"));
    if account.is_none() {
        let told = config.names.iter().filter(|told| called.is(&told.token));
        ledger = ledger.with_names(told.map(|told| (told.token.id, told.name.clone())));
    }
    Ok(ChainParts {
        ledger,
        endpoint: endpoint.clone(),
        embedded: connected
            .embedded
            .as_ref()
            .map(|(handle, _)| handle.clone()),
        chain_id: *chain_id,
        contract,
        called,
        owner,
        account,
        names,
        operator,
        silence: None,
    })
}
