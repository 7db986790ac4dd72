//! The embedded chain's JSON-RPC errors, worded as nodes word them.

use alloy::primitives::Bytes;
use alloy::rpc::json_rpc::ErrorPayload;
use alloy::sol_types::decode_revert_reason;
use revm::context::result::InvalidTransaction;
use serde_json::value::to_raw_value;

use super::chain::Refusal;
use super::evm::End;

#[derive(Debug)]
pub(super) struct Fault {
    code: i64,
    message: String,
    data: Option<Bytes>,
}

impl Fault {
    pub(super) fn new(code: i64, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            data: None,
        }
    }

    pub(super) fn params(what: impl std::fmt::Display) -> Self {
        Self::new(-32602, format!("invalid params: {what}"))
    }

    pub(super) fn internal(what: impl Into<String>) -> Self {
        Self::new(-32603, what)
    }

    /// The error of a run that did not return, with the contract's reason.
    pub(super) fn of_end(end: End) -> Self {
        match end {
            End::Return(_) => Self::internal("no error"),
            End::Halt(reason) => Self::new(-32003, format!("EVM error: {reason}")),
            End::Revert(data) => {
                let message = match decode_revert_reason(&data) {
                    Some(reason) if !data.is_empty() => {
                        // alloy puts the kind of error before the words of `require`.
                        let words = reason.strip_prefix("revert: ").unwrap_or(&reason);
                        format!("execution reverted: {words}")
                    }
                    _ => "execution reverted".to_owned(),
                };
                Self {
                    code: 3,
                    message,
                    data: Some(data),
                }
            }
        }
    }

    pub(super) fn payload(self) -> ErrorPayload {
        ErrorPayload {
            code: self.code,
            message: self.message.into(),
            data: self.data.and_then(|data| to_raw_value(&data).ok()),
        }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed(what) => Self::new(-32602, what),
            Refusal::Known => Self::new(-32000, "already known"),
            Refusal::Invalid(fault) => fault.into(),
        }
    }
}

impl From<InvalidTransaction> for Fault {
    /// Uses go-ethereum's words, because clients look for them.
    fn from(fault: InvalidTransaction) -> Self {
        let message = match &fault {
            InvalidTransaction::NonceTooLow { tx, state } => {
                format!("nonce too low: next nonce {state}, tx nonce {tx}")
            }
            InvalidTransaction::NonceTooHigh { tx, state } => {
                format!("nonce too high: next nonce {state}, tx nonce {tx}")
            }
            InvalidTransaction::LackOfFundForMaxFee { fee, balance } => {
                format!("insufficient funds for gas * price + value: have {balance} want {fee}")
            }
            InvalidTransaction::GasPriceLessThanBasefee => {
                "max fee per gas less than block base fee".to_owned()
            }
            InvalidTransaction::CallGasCostMoreThanGasLimit { .. } => {
                "intrinsic gas too low".into()
            }
            other => other.to_string(),
        };
        Self::new(-32000, message)
    }
}
