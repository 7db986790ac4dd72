//! Deploys the contract suite: the oracle's forwarder, and the token contract that trusts it.
//!
//! Invariant: what is deployed is the committed bytecode, and the two are wired by their
//! constructors, so there is no moment in which the token contract trusts another. Called by
//! `pxfs demo` and `pxfs deploy`.

use alloy::primitives::{Address, Bytes, U256};

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
    /// Block of the token contract: nothing that concerns it is older.
    pub block: u64,
}

/// The forwarder that a token contract trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forwarder {
    /// One that is there, such as Chainlink's.
    There(Address),
    /// A new one, of which so many of these operators must sign a report.
    New(Vec<Address>, u64),
}

/// Deploys both contracts, owned by the account that pays. `threshold` of the `operators` must sign
/// a report.
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

/// Deploys the token contract, owned by the account that pays, and before it the forwarder, where it is
/// new.
///
/// # Errors
/// [`ChainError::Reverted`] when the money does not suffice or the operators are not acceptable
/// (none, twice the same, more than 32, threshold out of range), else as [`Transactor::send`].
pub async fn deploy_with(
    payer: &Transactor,
    forwarder: &Forwarder,
) -> Result<Deployment, ChainError> {
    let forwarder = match new_forwarder(payer, forwarder)? {
        Ok(code) => {
            let receipt = payer.send(None, code, U256::ZERO, None).await?;
            created(receipt.contract_address)?
        }
        Err(there) => there,
    };
    let code = token_code(payer.address(), forwarder)?;
    let receipt = payer.send(None, code, U256::ZERO, None).await?;
    Ok(Deployment {
        chain_id: payer.endpoint().chain_id().await?,
        contract: created(receipt.contract_address)?,
        forwarder,
        block: receipt.block_number.unwrap_or_default(),
    })
}

/// What that takes; the account has it.
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

/// Creation code of the forwarder, or the one that is there.
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

fn created(address: Option<Address>) -> Result<Address, ChainError> {
    let what = || ChainError::Permanent("the chain does not say where the contract is".to_owned());
    address.ok_or_else(what)
}
