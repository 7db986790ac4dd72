//! Signs an account's transactions: a key here, or an external signer.
//!
//! Invariant: the result is the requested transaction signed by the account, or an error. An
//! external signer learns only that transaction.

use std::fmt;
use std::sync::Arc;

use alloy::consensus::transaction::SignerRecoverable;
use alloy::consensus::{TxEnvelope, TypedTransaction};
use alloy::network::{Ethereum, EthereumWallet, NetworkTransactionBuilder};
use alloy::primitives::Address;
use alloy::rpc::types::TransactionRequest;
use alloy::signers::local::PrivateKeySigner;

use super::ChainError;
pub use remote::RemoteSigner;

mod remote;

/// Signs one account's transactions. Cheap to clone.
#[derive(Clone)]
pub enum Signer {
    /// A key in this process.
    Local(PrivateKeySigner),
    /// Another program, asked each time.
    Remote(Arc<RemoteSigner>),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.address())
    }
}

impl Signer {
    /// The account.
    #[must_use]
    pub fn address(&self) -> Address {
        match self {
            Self::Local(signer) => signer.address(),
            Self::Remote(signer) => signer.address(),
        }
    }

    /// Where it is, in words.
    #[must_use]
    pub fn label(&self) -> &str {
        match self {
            Self::Local(_) => "the wallet",
            Self::Remote(signer) => signer.label(),
        }
    }

    /// Whether it answers; signs nothing and disturbs nobody.
    ///
    /// # Errors
    /// [`ChainError::Signer`].
    pub async fn check(&self) -> Result<(), ChainError> {
        match self {
            Self::Remote(signer) => signer.check().await,
            _ => Ok(()),
        }
    }

    /// A user asks: a refused request may be repeated.
    pub(super) fn wanted(&self) {
        if let Self::Remote(signer) = self {
            signer.wanted();
        }
    }

    /// Signs `request`, with nonce, chain, gas and fees set.
    ///
    /// # Errors
    /// [`ChainError::Signer`]: it refuses, times out, or has signed something else.
    pub(super) async fn sign(&self, request: TransactionRequest) -> Result<TxEnvelope, ChainError> {
        match self {
            Self::Local(signer) => {
                let signed = request.build(&EthereumWallet::from(signer.clone())).await;
                signed.map_err(|fault| ChainError::Permanent(format!("cannot be signed: {fault}")))
            }
            Self::Remote(signer) => {
                let wanted = unsigned(&request)?;
                let signed = signer.sign(&request).await?;
                check(&wanted, signed, self.address(), signer.label())
            }
        }
    }
}

fn unsigned(request: &TransactionRequest) -> Result<TypedTransaction, ChainError> {
    let built = NetworkTransactionBuilder::<Ethereum>::build_unsigned(request.clone());
    built.map_err(|fault| ChainError::Permanent(format!("cannot be signed: {fault}")))
}

/// Refuses what is not `wanted`, or not signed by `account`.
fn check(
    wanted: &TypedTransaction,
    signed: TxEnvelope,
    account: Address,
    label: &str,
) -> Result<TxEnvelope, ChainError> {
    let refuse = |what: &str| {
        Err(ChainError::Signer(format!(
            "{label} {what}: nothing is sent; leave the transaction as it is shown there, and try again"
        )))
    };
    if TypedTransaction::from(signed.clone()) != *wanted {
        return refuse("has signed another transaction than it was asked to");
    }
    match signed.recover_signer() {
        Ok(signer) if signer == account => Ok(signed),
        Ok(signer) => refuse(&format!("has signed as {signer}, and not as {account}")),
        Err(_) => refuse("has given a signature that is none"),
    }
}

#[cfg(test)]
mod tests {
    use alloy::network::TransactionBuilder;
    use alloy::primitives::{TxKind, U256};

    use super::*;

    fn request() -> TransactionRequest {
        TransactionRequest::default()
            .with_kind(TxKind::Call(Address::repeat_byte(7)))
            .with_value(U256::from(5))
            .with_nonce(3)
            .with_chain_id(31337)
            .with_gas_limit(50_000)
            .with_max_fee_per_gas(20)
            .with_max_priority_fee_per_gas(2)
    }

    /// The signer may answer what it likes.
    #[tokio::test]
    async fn a_signature_of_anything_else_than_was_asked_for_is_refused() {
        let key = PrivateKeySigner::random();
        let local = Signer::Local(key.clone());
        let wanted = unsigned(&request()).unwrap();
        let signed = async |request| local.sign(request).await.unwrap();
        let same = check(&wanted, signed(request()).await, key.address(), "it");
        assert!(same.is_ok());
        for other in [
            request().with_nonce(4),
            request().with_value(U256::from(6)),
            request().with_gas_limit(60_000),
            request().with_max_fee_per_gas(21),
            request().with_chain_id(1),
            request().with_kind(TxKind::Call(Address::repeat_byte(8))),
            request().with_input(vec![1]),
        ] {
            let other = check(&wanted, signed(other).await, key.address(), "it");
            let told = other.unwrap_err().to_string();
            assert!(told.contains("another transaction"), "{told}");
        }
        let foreign = check(&wanted, signed(request()).await, Address::ZERO, "it");
        let told = foreign.unwrap_err().to_string();
        assert!(told.contains(&key.address().to_string()), "{told}");
    }
}
