//! What the gas of a call costs.

use alloy::primitives::{Address, Bytes, U256};

use crate::chain::ChainError;
use crate::contracts::Parts;
use crate::status::CallAnswer;

/// A call to the token contract with its gas cost, for `command`.
///
/// # Errors
/// The contract would refuse it, or the account cannot pay.
pub(crate) async fn call_of(
    parts: &Parts,
    command: &str,
    (data, value): (Bytes, U256),
) -> anyhow::Result<CallAnswer> {
    let chain = &parts.chain;
    let sender = &chain.account(command)?.transactor;
    let cost = match sender.gas_of(chain.contract, data.clone(), value).await {
        Err(fault @ ChainError::Reverted(_)) => return Err(fault.into()),
        told => told.ok(),
    };
    Ok(CallAnswer {
        account: Some(sender.address().to_string()),
        gas: cost.map(|cost| cost.gas),
        gas_cost_wei: cost.map(|cost| cost.wei.to_string()),
        ..CallAnswer::new(chain.chain_id, chain.contract, value, &data)
    })
}

/// The call with its sender, and its gas cost if the chain tells it (it may not if the account
/// cannot pay).
pub(crate) async fn with_gas(parts: &Parts, call: CallAnswer) -> CallAnswer {
    let chain = &parts.chain;
    let pays = chain.operates().filter(|_| call.name.is_none());
    let call = CallAnswer {
        account: Some(pays.unwrap_or(chain.owner).to_string()),
        ..call
    };
    let asked = async {
        let to: Address = call.to.parse().ok()?;
        let (data, value) = (call.data.parse().ok()?, call.value_wei.parse().ok()?);
        let sender = &parts.chain.account.as_ref()?.transactor;
        sender.gas_of(to, data, value).await.ok()
    };
    match asked.await {
        Some(cost) => CallAnswer {
            gas: Some(cost.gas),
            gas_cost_wei: Some(cost.wei.to_string()),
            ..call
        },
        None => call,
    }
}
