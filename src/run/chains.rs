//! The chains and contracts that a configuration names, with the account that acts on them.
//!
//! Invariant: a chain is reached once, however many contracts are on it, and has one account with one outbox:
//! nonces are an account's on a chain. What is refused is refused here, with what to do. Called by `parts`,
//! `deploy` and `oracle`.

mod names;
mod reach;

pub(super) use names::unknown;
pub(super) use reach::{Reached, reach, urls_of};

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use alloy::primitives::Address;
use futures::future::join_all;

use self::names::check_names;
use self::reach::knock;
use super::known;
use super::parts::{Contracts, operator_file, outbox};
use super::signing::{self, Keys, Names, needs_wallet};
use crate::chain::ChainError;
use crate::chain::dialect::Dialect;
use crate::chain::embedded;
use crate::chain::endpoint::Endpoint;
use crate::chain::ledger::ContractLedger;
use crate::chain::transact::Transactor;
use crate::chain::wallet::Wallet;
use crate::clock::Clock;
use crate::config::{Config, ContractAt};
use crate::exit::{Failure, fail};
use crate::types::{TokenId, TokenRef};

/// One token contract on its chain, with the account whose tokens are mounted.
pub struct ChainParts {
    /// Where the chain is reached.
    pub endpoint: Endpoint,
    /// The chain inside this process, when that is the one.
    pub embedded: Option<embedded::Handle>,
    /// EIP-155 id.
    pub chain_id: u64,
    /// The token contract.
    pub contract: Address,
    /// What its tokens are called.
    pub called: Called,
    /// Whose tokens these are.
    pub owner: Address,
    /// What it owns.
    pub ledger: ContractLedger,
    /// What acts for the owner; `None` where only the address is known, and nothing is signed.
    pub account: Option<Account>,
    /// What its tokens' names are signed by.
    pub names: Names,
    /// The oracle's operator, where this process is one.
    pub operator: Option<Operator>,
    /// Why the chain has not answered yet, where it is known by its id, or by what is kept of it.
    pub silence: Option<ChainError>,
}

/// What acts for the owner.
#[derive(Clone)]
pub struct Account {
    /// Its key, where that is in this process.
    pub wallet: Option<Arc<Wallet>>,
    /// What it sends.
    pub transactor: Transactor,
}

/// The oracle operator of the embedded chain.
pub struct Operator {
    /// Its account.
    pub wallet: Wallet,
    /// Nothing that concerns it is older than this block.
    pub from_block: u64,
}

/// What the tokens of a contract are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Called {
    /// The contract's name, where it has one.
    pub name: Option<String>,
    /// How many contracts stand before it; its tokens' inode numbers depend on that.
    pub place: usize,
    /// How many contracts there are; of several the name stands before the token's number.
    pub count: usize,
}

impl Called {
    /// What `id` is called in commands, and as a directory.
    #[must_use]
    pub fn token(&self, id: TokenId) -> String {
        let contract = self.name.clone().filter(|_| self.count > 1);
        TokenRef { contract, id }.to_string()
    }

    /// Whether `token` may be one of this contract.
    #[must_use]
    pub fn is(&self, token: &TokenRef) -> bool {
        self.is_named(token.contract.as_deref())
    }

    /// Whether the contract is meant by `name`; `None` means the only one.
    #[must_use]
    pub fn is_named(&self, name: Option<&str>) -> bool {
        match name {
            None => self.count <= 1,
            name => self.name.as_deref() == name,
        }
    }
}

impl ChainParts {
    /// What the contract speaks: known wherever any of its tokens is.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.ledger.known_dialect().unwrap_or(Dialect::PxSync)
    }

    /// What acts for the owner, to do `what`.
    ///
    /// # Errors
    /// [`Exit::Usage`](crate::exit::Exit::Usage): only the address is known.
    pub fn account(&self, what: &str) -> Result<&Account, Failure> {
        (self.account.as_ref()).ok_or_else(|| needs_wallet(what, &self.owner))
    }

    /// The account that signs, where it is not the owner's.
    #[must_use]
    pub fn operates(&self) -> Option<Address> {
        let signs = self.account.as_ref()?.transactor.address();
        (signs != self.owner).then_some(signs)
    }
}

/// Which of several chains must answer before anything begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needed {
    /// All.
    Each,
    /// One: the tokens of the others come when they answer.
    Any,
    /// None of whose tokens it is kept what they were: see [`known`].
    Unknown,
}

/// All contracts that `config` names, in their order; at least one.
///
/// # Errors
/// One line each, with its exit code; where only `Any` is `needed`, that no chain answers.
pub(super) async fn contracts(
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
    let mut chains: BTreeMap<Option<u64>, (Reached, Option<Account>)> = BTreeMap::new();
    let mut silent: BTreeMap<Option<u64>, ChainError> = BTreeMap::new();
    let mut all: Vec<ChainParts> = Vec::new();
    let all_wanted = wanted(config);
    let wanted_count = all_wanted.len();
    let chain_wanted =
        |wanted: Option<&ContractAt>| chain_of(config, wanted.and_then(|wanted| wanted.chain));
    // All at once: each of them may take its time not to answer.
    let ids: BTreeSet<_> = all_wanted.iter().copied().map(chain_wanted).collect();
    let kept = |chain| {
        let its = config.contracts.iter();
        let mut its =
            its.filter(|one| needed == Needed::Unknown && chain_wanted(Some(one)) == chain);
        its.find_map(|one| known::chain_of(&config.state_dir, &one.address, &owner))
    };
    let knocks = ids.into_iter().map(|chain| {
        let kept = kept(chain);
        async move { (chain, knock(config, chain, kept, clock).await) }
    });
    let mut answers: BTreeMap<_, _> = join_all(knocks).await.into_iter().collect();
    for wanted in all_wanted {
        let chain = chain_wanted(wanted);
        if let Some(answer) = answers.remove(&chain) {
            let (reached, fault) = answer?;
            match fault {
                None => {}
                Some(fault) if needed == Needed::Each => return Err(fault.into()),
                Some(fault) => {
                    tracing::info!(
                        "{fault}: the tokens of chain {} come when it answers",
                        reached.chain_id
                    );
                    silent.insert(chain, fault);
                }
            }
            if let Some((other, _)) = chains
                .values()
                .find(|(other, _)| other.chain_id == reached.chain_id)
            {
                // Two outboxes of one account would take each other's nonces.
                fail!(
                    Usage,
                    "chain {0} is named twice ({1} and {2}): write --rpc-url {0}=URL and ADDRESS@{0} for all of it",
                    reached.chain_id,
                    other.endpoint.label(),
                    reached.endpoint.label()
                );
            }
            let account = signer.clone().map(|signer| Account {
                wallet: wallet.clone(),
                transactor: Transactor::signed_by(reached.endpoint.clone(), signer)
                    .kept_in(&outbox(&config.state_dir))
                    .on_chain(reached.chain_id)
                    .with_gas_cost_max(config.max_fee),
            });
            chains.insert(chain, (reached, account));
        }
        let Some((reached, account)) = chains.get(&chain) else {
            continue;
        };
        let called = Called {
            name: wanted.and_then(|wanted| wanted.name.clone()),
            place: all.len(),
            count: wanted_count,
        };
        let who = (owner, account.clone(), names.clone());
        let mut found = of_contract(config, reached, who, wanted, called)?;
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
            let spoke = known::dialect_of(state, found.chain_id, contract, &owner);
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

/// The contracts that are named; `None` where it is that of the embedded chain.
fn wanted(config: &Config) -> Vec<Option<&ContractAt>> {
    match config.contracts.is_empty() {
        true => vec![None],
        false => config.contracts.iter().map(Some).collect(),
    }
}

/// By which number the endpoints of a contract's chain are named.
pub(super) fn chain_of(config: &Config, said: Option<u64>) -> Option<u64> {
    said.or_else(|| config.rpc.first().and_then(|first| first.chain))
}

/// The chain of a command that needs no contract: that of `--chain-id`, else the first one.
pub(super) fn main_chain(config: &Config) -> Option<u64> {
    let wanted = config
        .chain_id
        .filter(|id| config.rpc.iter().any(|one| one.chain == Some(*id)));
    chain_of(config, wanted)
}

/// The only contract of a command that is about one.
///
/// # Errors
/// There is none, or there are several.
pub(super) fn only_contract<'a>(config: &'a Config, what: &str) -> anyhow::Result<&'a ContractAt> {
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
    reached: &Reached,
    (owner, account, names): (Address, Option<Account>, Names),
    wanted: Option<&ContractAt>,
    called: Called,
) -> anyhow::Result<ChainParts> {
    let deployed = match &reached.embedded {
        Some((_, folder)) => Contracts::read(folder)?.map(|contracts| (contracts, folder)),
        None => None,
    };
    let contract = match (wanted, &deployed) {
        (Some(wanted), _) => wanted.address,
        (None, Some((contracts, _))) => contracts.contract,
        (None, None) => fail!(Usage, "no token contract: give --contract 0x…"),
    };
    let operator = match deployed {
        // Of another contract it is none. Who watches signs nothing, reports neither.
        Some((contracts, folder)) if contracts.contract == contract && account.is_some() => {
            Some(Operator {
                wallet: Wallet::open(&operator_file(folder), None)?,
                from_block: contracts.block,
            })
        }
        _ => None,
    };
    let (endpoint, chain_id) = (&reached.endpoint, &reached.chain_id);
    let mut ledger = ContractLedger::new(endpoint.clone(), contract, owner)
        .remember(*chain_id, &config.state_dir.join("owned"));
    if account.is_none() {
        let told = config.names.iter().filter(|told| called.is(&told.token));
        ledger = ledger.with_names(told.map(|told| (told.token.id, told.name.clone())));
    }
    Ok(ChainParts {
        ledger,
        endpoint: endpoint.clone(),
        embedded: reached.embedded.as_ref().map(|(handle, _)| handle.clone()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_before_a_token_only_where_there_are_several_contracts() {
        let called = |name: Option<&str>, count| Called {
            name: name.map(str::to_owned),
            place: 0,
            count,
        };
        let id = TokenId::from(7);
        for (name, count, text) in [
            (None, 1, "7"),
            (Some("px"), 1, "7"),
            (Some("px"), 2, "px-7"),
        ] {
            let called = called(name, count);
            assert_eq!(called.token(id), text);
            assert!(called.is(&text.parse().unwrap()), "{text}");
        }
        let bare: TokenRef = "7".parse().unwrap();
        assert!(!called(Some("px"), 2).is(&bare));
        assert!(called(Some("px"), 1).is(&"px-7".parse().unwrap()));
        assert!(!called(None, 1).is(&"px-7".parse().unwrap()));
    }
}
