use std::time::Duration;

use alloy::primitives::{B256, Bytes, U256};

use crate::contracts::Parts;
use crate::contracts::token_status;
use crate::exit::fail;
use crate::status::AdvanceAnswer;

/// Sends a call to the token contract; returns the transaction.
///
/// # Errors
/// The chain's.
pub(crate) async fn call(parts: &Parts, data: Bytes, value_wei: U256) -> anyhow::Result<B256> {
    let chain = &parts.chain;
    let receipt = chain
        .account("dev call")?
        .transactor
        .send(Some(chain.contract), data, value_wei, None)
        .await?;
    Ok(receipt.transaction_hash)
}

/// Advances chain time.
///
/// # Errors
/// The chain is no development chain.
pub(crate) async fn advance(parts: &Parts, step: Duration) -> anyhow::Result<AdvanceAnswer> {
    if step.as_secs() == 0 {
        fail!(
            Usage,
            "dev advance: chain time passes in whole seconds: give at least 1s"
        );
    }
    parts.chain.endpoint.advance(step).await?;
    let now_s = parts.chain.ledger.snapshot().await?.timestamp_s;
    match token_status::instant(now_s) {
        Some(chain_time) => Ok(AdvanceAnswer { chain_time }),
        None => fail!(
            Failure,
            "dev advance: chain time is beyond the calendar now"
        ),
    }
}
