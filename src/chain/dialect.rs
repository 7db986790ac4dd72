//! Which dialect a token contract speaks.
//!
//! Invariant: a contract is told by what it says of itself (ERC-165), never by its address. Called
//! by `ledger`, once for each contract.

use alloy::eips::BlockId;
use alloy::primitives::Address;

use super::ChainError;
use super::contract::{PX_SYNC_ID, PxSync};
use super::endpoint::Endpoint;

/// The dialects of the token contract. `px-v2` and `px-v1` have no ERC-165 id of their own and come
/// later: they will be told by the shape of `pxStorage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The protocol with name keys, epochs and an oracle.
    PxSync,
}

impl Dialect {
    /// The name that users see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PxSync => "px-sync",
        }
    }

    /// Asks `contract` what it speaks.
    ///
    /// # Errors
    /// [`ChainError::Permanent`] when there is no contract, or it speaks no dialect that is known
    /// here; [`ChainError::Transient`] when the chain does not answer.
    pub async fn of(endpoint: &Endpoint, contract: Address) -> Result<Self, ChainError> {
        use alloy::providers::Provider;
        let code = endpoint.provider().get_code_at(contract).await;
        if code.map_err(|fault| endpoint.fault(fault))?.is_empty() {
            let id = endpoint.chain_id().await?;
            return Err(ChainError::Permanent(format!(
                "there is no contract at {contract} on chain {id} ({}): check --contract and --rpc-url",
                endpoint.label()
            )));
        }
        let question = PxSync::supportsInterfaceCall {
            interfaceId: PX_SYNC_ID,
        };
        match endpoint.call(contract, &question, BlockId::latest()).await {
            Ok(true) => Ok(Self::PxSync),
            Err(fault @ ChainError::Transient(_)) => Err(fault),
            Ok(false) | Err(_) => Err(ChainError::Permanent(format!(
                "contract {contract} does not speak px-sync, the only dialect that is supported yet"
            ))),
        }
    }
}
