//! Checks a request's conditions: chain, contract, account, price, limit.
//!
//! Invariant: a request for another chain, contract or account is refused before anything is read
//! for it.

use std::slice;
use std::sync::Arc;

use super::chain::{Account, ChainParts};
use super::connect::{chain_of, urls_of};
use super::parts::{Parts, pick};
use crate::chain::transact::OnProgress;
use crate::config::ContractAt;
use crate::control::{AskedUrl, Subject, Terms};
use crate::exit::fail;

/// The remedy if command and drive disagree.
const FIX: &str = "leave it out, or name another state folder by --state-dir";

/// The mount's parts for a request about `subject` under `terms`: as [`Parts::under`].
///
/// # Errors
/// It is about another chain, contract or account, or about none.
pub(crate) fn hold(
    all: &[Arc<Parts>],
    terms: &Terms,
    subject: Subject<'_>,
) -> anyhow::Result<Vec<Arc<Parts>>> {
    let about = match subject {
        Subject::Nothing => all,
        subject => slice::from_ref(pick(all, subject)?),
    };
    check_chain(all, about, terms)?;
    check_contracts(all, about, terms, subject)?;
    check_account(about, terms)?;
    let held = all.iter().map(|parts| Arc::new(parts.under(terms)));
    Ok(held.collect())
}

/// The mount's parts for a request without terms.
pub(crate) fn unseen(all: &[Arc<Parts>]) -> Vec<Arc<Parts>> {
    let terms = Terms::default();
    all.iter()
        .map(|parts| Arc::new(parts.under(&terms)))
        .collect()
}

impl Parts {
    /// These parts under `terms`: with its limit and agreed costs; if nobody saw the gas cost, with
    /// a default limit; if an address replaces the wallet, without a signer. They run no oracle.
    #[must_use]
    pub fn under(&self, terms: &Terms) -> Self {
        let max_fee = terms.max_fee.or(self.config.max_fee);
        let account = self.chain.account.as_ref().filter(|_| !terms.watches);
        self.with(account.map(|account| {
            let sender = account.transactor.clone().with_price(terms.price);
            let confirmations = terms.confirmations.unwrap_or(self.config.confirmations);
            let sender = sender
                .with_gas_cost_max(max_fee)
                .with_confirmations(confirmations);
            Account {
                wallet: account.wallet.clone(),
                transactor: match (terms.price, terms.gas_cost) {
                    (Some(_), Some(shown)) => sender.agreed(shown),
                    _ => sender.unseen(),
                },
            }
        }))
    }

    /// These parts for unattended transactions: as [`Transactor::unasked`]. They run no oracle.
    ///
    /// [`Transactor::unasked`]: crate::chain::transact::Transactor::unasked
    pub(crate) fn unasked(&self) -> Self {
        let account = self.chain.account.as_ref();
        self.with(account.map(|account| Account {
            wallet: account.wallet.clone(),
            transactor: account.transactor.unasked(),
        }))
    }

    /// These parts, reporting what a transaction waits for. They run no oracle.
    #[must_use]
    pub fn with_progress(&self, progress: &OnProgress) -> Self {
        let account = self.chain.account.as_ref();
        self.with(account.map(|account| {
            Account {
                wallet: account.wallet.clone(),
                transactor: account
                    .transactor
                    .clone()
                    .with_progress(Arc::clone(progress)),
            }
        }))
    }

    fn with(&self, account: Option<Account>) -> Self {
        let chain = &self.chain;
        Self {
            config: self.config.clone(),
            clock: self.clock.clone(),
            node: self.node.clone(),
            chain: ChainParts {
                endpoint: chain.endpoint.clone(),
                embedded: chain.embedded.clone(),
                chain_id: chain.chain_id,
                contract: chain.contract,
                called: chain.called.clone(),
                owner: chain.owner,
                ledger: chain.ledger.clone(),
                account,
                names: chain.names.clone(),
                operator: None,
                silence: chain.silence.clone(),
            },
        }
    }

    /// Whether the contract is the requested one.
    fn is_contract(&self, asked: &ContractAt) -> bool {
        let chain = &self.chain;
        asked.address == chain.contract && asked.chain.is_none_or(|id| id == chain.chain_id)
    }

    /// Whether the requested endpoint reaches the contract's chain.
    fn is_reached_by(&self, asked: &AskedUrl) -> bool {
        let chain = &self.chain;
        let wanted = self.config.contracts.get(chain.called.place);
        let named = chain_of(&self.config, wanted.and_then(|wanted| wanted.chain));
        let mut urls = urls_of(&self.config, named).into_iter();
        asked.chain.is_none_or(|id| id == chain.chain_id)
            && urls.any(|url| Terms::digest(url) == asked.digest)
    }
}

/// What this state folder's commands use, in words.
fn drive(all: &[Arc<Parts>]) -> String {
    let folder = all.first().map(|parts| parts.config.state_dir.display());
    let folder = folder.map_or_else(String::new, |folder| format!(" {folder}"));
    format!("what the state folder{folder} is used with")
}

/// What `words` tells of `all`, each once.
fn list(all: &[Arc<Parts>], words: impl Fn(&ChainParts) -> String) -> String {
    let mut told: Vec<String> = all.iter().map(|parts| words(&parts.chain)).collect();
    told.dedup();
    told.join(", ")
}

fn check_chain(all: &[Arc<Parts>], about: &[Arc<Parts>], terms: &Terms) -> anyhow::Result<()> {
    if let Some(asked) = terms.chain_id
        && !about.iter().any(|parts| parts.chain.chain_id == asked)
    {
        let has = list(about, |chain| chain.chain_id.to_string());
        fail!(
            Chain,
            "--chain-id asks for {asked}, and {} is chain {has}: {FIX}",
            drive(all)
        );
    }
    // Also those of a chain that no contract is on: the same variables serve the mount and the command.
    let named = all.first().map(|parts| parts.config.rpc.as_slice());
    let named: Vec<AskedUrl> = (named.unwrap_or_default().iter().map(Into::into)).collect();
    let is_known = |asked: &AskedUrl| {
        named.contains(asked) || all.iter().any(|parts| parts.is_reached_by(asked))
    };
    let numbered = terms.rpc.iter().any(|asked| asked.chain.is_some());
    // Where none says what it is of, all are of the chain that is meant.
    let is_meant = |parts: &Arc<Parts>| {
        let mut asked = terms.rpc.iter();
        match numbered {
            true => asked.any(|asked| parts.is_reached_by(asked)),
            false => asked.all(|asked| parts.is_reached_by(asked)),
        }
    };
    let agreed = terms.rpc.iter().all(is_known) && about.iter().any(is_meant);
    if !agreed && !terms.rpc.is_empty() {
        let has = list(about, |chain| chain.endpoint.label().to_string());
        fail!(
            Chain,
            "--rpc-url names another chain endpoint than {} ({has}): {FIX}",
            drive(all)
        );
    }
    Ok(())
}

fn check_contracts(
    all: &[Arc<Parts>],
    about: &[Arc<Parts>],
    terms: &Terms,
    subject: Subject<'_>,
) -> anyhow::Result<()> {
    let is_one_of =
        |all: &[Arc<Parts>], asked: &ContractAt| all.iter().any(|parts| parts.is_contract(asked));
    let mut asked = terms.contracts.iter();
    if let Some(asked) = asked.find(|asked| !is_one_of(all, asked)) {
        let has = list(all, |chain| chain.contract.to_string());
        fail!(
            Usage,
            "--contract asks for {asked}, and {} is contract {has}: {FIX}",
            drive(all)
        );
    }
    let name = match subject {
        Subject::Token(token) => token.contract.as_deref(),
        Subject::Contract(name) => name,
        Subject::Nothing => return Ok(()),
    };
    // By the name that the command has for it, if it has one.
    let is_called = |asked: &&ContractAt| name.is_some() && asked.name.as_deref() == name;
    let called: Vec<&ContractAt> = terms.contracts.iter().filter(is_called).collect();
    let meant = match called.is_empty() {
        true => terms.contracts.iter().collect(),
        false => called,
    };
    if let Some(asked) = meant.first()
        && !meant.iter().any(|asked| is_one_of(about, asked))
    {
        let has = list(about, |chain| chain.contract.to_string());
        fail!(
            Usage,
            "--contract asks for {asked}, and by {} this is for contract {has}: {FIX}",
            drive(all)
        );
    }
    Ok(())
}

fn check_account(about: &[Arc<Parts>], terms: &Terms) -> anyhow::Result<()> {
    if let Some(asked) = terms.owner
        && let Some(has) = about
            .iter()
            .map(|parts| parts.chain.owner)
            .find(|has| *has != asked)
    {
        fail!(
            Usage,
            "--owner asks for {asked}, and {} has the tokens of {has}: {FIX}",
            drive(about)
        );
    }
    let Some(asked) = terms.account else {
        return Ok(());
    };
    let signs = |chain: &ChainParts| match (terms.watches, chain.operates()) {
        (false, Some(signs)) => signs,
        _ => chain.owner,
    };
    let mut owners = about.iter().map(|parts| signs(&parts.chain));
    if let Some(has) = owners.find(|has| *has != asked) {
        let flag = match terms.watches {
            true => "--address",
            false => "--wallet or --signer",
        };
        fail!(
            Usage,
            "{flag} is account {asked}, and {} is account {has}: {FIX}",
            drive(about)
        );
    }
    Ok(())
}
