//! Detects a token contract's dialect.
//!
//! Invariant: by what it answers (ERC-165, the shape of answers), never by its address or by the
//! words of a refusal.

use alloy::eips::BlockId;
use alloy::primitives::{Address, Bytes, FixedBytes, U256, hex};
use alloy::providers::Provider;
use alloy::sol_types::SolCall;
use serde::{Deserialize, Serialize};

use super::ChainError;
use super::contract::{PX_SYNC_ID, PxSync, PxV1, PxV2};
use super::endpoint::Endpoint;

const ERC721_ID: FixedBytes<4> = FixedBytes(hex!("80ac58cd"));

/// The dialects of the token contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// Name keys, epochs and an oracle.
    PxSync,
    /// Counts uploads, and only adds usage up.
    PxV2,
    /// Counts no uploads, has no lock, and only its owner reports usage.
    PxV1,
}

impl Dialect {
    /// The name that users see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PxSync => "px-sync",
            Self::PxV2 => "px-v2",
            Self::PxV1 => "px-v1",
        }
    }

    /// Detects the dialect of `contract`.
    ///
    /// # Errors
    /// [`ChainError::Permanent`] if there is no contract, or its dialect is unknown;
    /// [`ChainError::Transient`] if the chain does not answer.
    pub async fn of(endpoint: &Endpoint, contract: Address) -> Result<Self, ChainError> {
        let code = endpoint.provider().get_code_at(contract).await;
        if code.map_err(|fault| endpoint.fault(fault))?.is_empty() {
            let id = endpoint.chain_id().await?;
            return Err(ChainError::Permanent(format!(
                "there is no contract at {contract} on chain {id} ({}): check --contract and --rpc-url",
                endpoint.label()
            )));
        }
        let speaks = async |id| {
            let question = PxSync::supportsInterfaceCall { interfaceId: id };
            let answer = asked(endpoint, contract, &question).await?;
            // Exactly the word 1: a fallback that answers anything does not count.
            Ok::<_, ChainError>(answer.is_some_and(|answer| one_word(&answer) == Some(U256::ONE)))
        };
        // ERC-165 forbids this identifier: a contract that claims it says yes to everything.
        let honest = !speaks(FixedBytes([0xff; 4])).await?;
        if honest && speaks(PX_SYNC_ID).await? {
            return Ok(Self::PxSync);
        }
        let older = match honest && speaks(ERC721_ID).await? {
            true => older(endpoint, contract).await?,
            false => None,
        };
        older.ok_or_else(|| {
            ChainError::Permanent(format!(
                "contract {contract} speaks none of px-sync, px-v2 and px-v1: check --contract"
            ))
        })
    }
}

/// The older dialect, if it is one: these answer about tokens that do not exist, too.
async fn older(endpoint: &Endpoint, contract: Address) -> Result<Option<Dialect>, ChainError> {
    let can = PxV2::canUploadCall {
        tokenId: U256::ZERO,
        newUsage: U256::ZERO,
    };
    let can = asked(endpoint, contract, &can).await?;
    let can_bytes = can.map_or(0, |answer| answer.len());
    if !matches!(can_bytes, 32 | 96) {
        return Ok(None);
    }
    let read = PxV2::pxStorageCall {
        tokenId: U256::ZERO,
    };
    let Some(read) = asked(endpoint, contract, &read).await? else {
        return Ok(None);
    };
    // Both forms begin with the offset of the first text, which follows the fields.
    let fields = read
        .first_chunk()
        .map(|word| U256::from_be_bytes::<32>(*word));
    let is_new = fields == Some(U256::from(9 * 32)) && whole::<PxV2::pxStorageCall>(&read);
    let is_old = fields == Some(U256::from(8 * 32)) && whole::<PxV1::pxStorageCall>(&read);
    match (is_new, is_old, can_bytes) {
        (true, _, 96) => Ok(Some(Dialect::PxV2)),
        (_, true, 32) => Ok(Some(Dialect::PxV1)),
        // Other versions: one locks after a day, one lets only its owner report.
        (true, _, _) => Err(ChainError::Permanent(format!(
            "contract {contract} is of a version between px-v1 and px-v2, whose rules pxfs does not know: use a token of another contract"
        ))),
        _ => Ok(None),
    }
}

/// `None` if the contract refuses.
async fn asked<C: SolCall>(
    endpoint: &Endpoint,
    contract: Address,
    question: &C,
) -> Result<Option<Bytes>, ChainError> {
    let data = question.abi_encode().into();
    match endpoint.call_raw(contract, data, BlockId::latest()).await {
        Ok(answer) => Ok(Some(answer)),
        Err(ChainError::Reverted(_)) => Ok(None),
        Err(fault) => Err(fault),
    }
}

fn one_word(answer: &Bytes) -> Option<U256> {
    let word: [u8; 32] = answer.as_ref().try_into().ok()?;
    Some(U256::from_be_bytes(word))
}

fn whole<C: SolCall>(answer: &Bytes) -> bool {
    C::abi_decode_returns_validate(answer).is_ok()
}
