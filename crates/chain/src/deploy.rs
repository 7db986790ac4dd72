//! Deploys the oracle's forwarder and the token contract that trusts it.
//!
//! Invariant: the bytecode is the committed one, and constructors wire the two, so the token
//! contract never trusts another.

use alloy::primitives::{Address, Bytes};

use super::ChainError;
use super::contract::{forwarder_code, token_code};
use super::transact::{Cost, Transactor};

/// Where the contracts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The token contract.
    pub contract: Address,
    /// The forwarder that delivers the oracle's reports.
    pub forwarder: Address,
    /// The token contract's block: no log of it is older.
    pub block: u64,
}

/// The forwarder that a token contract trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forwarder {
    /// An existing one, such as Chainlink's.
    There(Address),
    /// A new one: its operators, and how many must sign a report.
    New(Vec<Address>, u64),
}

/// Deploys both contracts, owned by the payer. `threshold` of the `operators` must sign a report.
///
/// # Errors
/// As [`deploy_with`].
pub async fn deploy(
    payer: &Transactor,
    operators: &[Address],
    threshold: u64,
) -> Result<Deployment, ChainError> {
    deploy_with(payer, &Forwarder::New(operators.to_vec(), threshold)).await
}

/// Deploys the token contract, owned by the payer, after its forwarder if that is new.
///
/// # Errors
/// [`ChainError::Reverted`] if the money does not suffice or the operators are invalid (none,
/// duplicates, more than 32, threshold out of range), else as [`Transactor::send`].
pub async fn deploy_with(
    payer: &Transactor,
    forwarder: &Forwarder,
) -> Result<Deployment, ChainError> {
    let (there, first) = match new_forwarder(payer, forwarder)? {
        Ok(code) => (None, Some(code)),
        Err(there) => (Some(there), None),
    };
    let made = payer.create_all(|made| {
        let forwarder = there.or(made.first().copied());
        match (forwarder, &first) {
            (None, Some(code)) => Ok(Some(code.clone())),
            (Some(forwarder), first) if made.len() == usize::from(first.is_some()) => {
                token_code(payer.address(), forwarder).map(Some)
            }
            _ => Ok(None),
        }
    });
    let made = made.await?;
    let missing = || ChainError::Permanent("no contract was deployed".to_owned());
    let (contract, mined) = *made.last().ok_or_else(missing)?;
    let first = made.first().map(|(address, _)| *address);
    Ok(Deployment {
        chain_id: payer.endpoint().chain_id().await?,
        contract,
        forwarder: there.or(first).ok_or_else(missing)?,
        block: mined.block,
    })
}

/// The cost of [`deploy_with`]; the account has that much.
///
/// # Errors
/// As [`deploy_with`].
pub async fn cost(payer: &Transactor, forwarder: &Forwarder) -> Result<Cost, ChainError> {
    let (forwarder, first) = match new_forwarder(payer, forwarder)? {
        Ok(code) => {
            let nonce = payer.next_nonce().await?;
            (payer.address().create(nonce), Some(code))
        }
        Err(there) => (there, None),
    };
    let codes = first
        .into_iter()
        .chain([token_code(payer.address(), forwarder)?]);
    payer.cost(codes.map(|code| (None, code))).await
}

/// The creation code of a new forwarder, or the existing one's address.
fn new_forwarder(
    payer: &Transactor,
    forwarder: &Forwarder,
) -> Result<Result<Bytes, Address>, ChainError> {
    match forwarder {
        Forwarder::There(there) => Ok(Err(*there)),
        Forwarder::New(operators, threshold) => {
            let mut operators = operators.clone();
            operators.sort_unstable();
            forwarder_code(payer.address(), &operators, *threshold).map(Ok)
        }
    }
}
