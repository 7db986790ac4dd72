//! Estimates gas by search between what a transaction used and the block limit.
//!
//! Invariant: with the answer as its limit, the run returned.

use alloy::rpc::types::TransactionRequest;

use super::evm::{BLOCK_GAS, End, Outcome};
use super::fault::Fault;

/// The least gas with which `run` returns, at most 1.5 % too much (as in go-ethereum).
pub(super) fn gas(
    request: &TransactionRequest,
    run: impl Fn(u64) -> Result<Outcome, Fault>,
) -> Result<u64, Fault> {
    let mut high = request.gas.unwrap_or(BLOCK_GAS).min(BLOCK_GAS);
    let first = run(high)?;
    if !matches!(first.end, End::Return(_)) {
        return Err(Fault::of_end(first.end));
    }
    let enough = |gas| matches!(run(gas).map(|outcome| outcome.end), Ok(End::Return(_)));
    // Most transactions need just what they use: no refunds, no calls that pass 63/64 on.
    let used = first.gas_used;
    if enough(used) {
        return Ok(used);
    }
    let mut low = used;
    let generous = used.saturating_mul(64) / 63 + used / 4;
    if generous < high && enough(generous) {
        high = generous;
    }
    while high - low > 1 && (high - low) * 1000 > high * 15 {
        let middle = low + (high - low) / 2;
        if enough(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(high)
}
