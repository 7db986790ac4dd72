//! Deploys the contract suite: the oracle's forwarder, and the token contract that trusts it.
//!
//! Invariant: what is deployed is the committed bytecode, and the two are wired by their
//! constructors, so there is no moment in which the token contract trusts another. Called by
//! `pxfs demo` and `pxfs deploy`.

use alloy::primitives::{Address, U256};

use super::ChainError;
use super::contract::{forwarder_code, token_code};
use super::transact::Transactor;

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

/// Deploys both contracts, owned by the account that pays. `threshold` of the `operators` must sign
/// a report.
///
/// # Errors
/// [`ChainError::Reverted`] when the money does not suffice or the operators are not acceptable
/// (none, twice the same, more than 32, threshold out of range), else as [`Transactor::send`].
pub async fn deploy(
    payer: &Transactor,
    operators: &[Address],
    threshold: u64,
) -> Result<Deployment, ChainError> {
    let mut operators = operators.to_vec();
    operators.sort_unstable();
    let code = forwarder_code(payer.address(), &operators, threshold)?;
    let forwarder = payer.send(None, code, U256::ZERO, None).await?;
    let forwarder = created(forwarder.contract_address)?;
    let code = token_code(payer.address(), forwarder)?;
    let receipt = payer.send(None, code, U256::ZERO, None).await?;
    Ok(Deployment {
        chain_id: payer.endpoint().chain_id().await?,
        contract: created(receipt.contract_address)?,
        forwarder,
        block: receipt.block_number.unwrap_or_default(),
    })
}

fn created(address: Option<Address>) -> Result<Address, ChainError> {
    let what = || ChainError::Permanent("the chain does not say where the contract is".to_owned());
    address.ok_or_else(what)
}
