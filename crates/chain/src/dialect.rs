//! Which dialect a token contract speaks.
//!
//! Invariant: a contract is told by what it answers (ERC-165, the shape of its answers), never by
//! its address, nor by the words of a refusal. Called by `ledger`, once for each contract.

use alloy::eips::BlockId;
use alloy::primitives::{Address, Bytes, FixedBytes, U256, hex};
use alloy::providers::Provider;
use alloy::sol_types::SolCall;
use serde::{Deserialize, Serialize};

use super::ChainError;
use super::contract::{PX_SYNC_ID, PxSync, PxV1, PxV2};
use super::endpoint::Endpoint;

/// ERC-165 identifier of ERC-721.
const ERC721_ID: FixedBytes<4> = FixedBytes(hex!("80ac58cd"));

/// The dialects of the token contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// The protocol with name keys, epochs and an oracle.
    PxSync,
    /// The contracts that count uploads, and add usage up.
    PxV2,
    /// The older ones, which count no uploads, know no lock, and let their own owner alone report usage.
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

    /// Asks `contract` what it speaks.
    ///
    /// # Errors
    /// [`ChainError::Permanent`] when there is no contract, or it speaks no dialect that is known
    /// here; [`ChainError::Transient`] when the chain does not answer.
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
            // Exactly one word that is 1: a fallback that answers anything is no answer.
            Ok::<_, ChainError>(answer.is_some_and(|answer| one_word(&answer) == Some(U256::ONE)))
        };
        // By ERC-165 nobody speaks this one: who says so says yes to everything.
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

/// Which of the older dialects, if one: these answer about tokens that do not exist, too.
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
    // Both forms begin with the offset of the first text, which lies right behind the fields.
    let fields = read
        .first_chunk()
        .map(|word| U256::from_be_bytes::<32>(*word));
    let is_new = fields == Some(U256::from(9 * 32)) && whole::<PxV2::pxStorageCall>(&read);
    let is_old = fields == Some(U256::from(8 * 32)) && whole::<PxV1::pxStorageCall>(&read);
    match (is_new, is_old, can_bytes) {
        (true, _, 96) => Ok(Some(Dialect::PxV2)),
        (_, true, 32) => Ok(Some(Dialect::PxV1)),
        // Of these one locks after a day, and another lets nobody but its owner report.
        (true, _, _) => Err(ChainError::Permanent(format!(
            "contract {contract} is of a version between px-v1 and px-v2, whose rules pxfs does not know: use a token of another contract"
        ))),
        _ => Ok(None),
    }
}

/// What the contract answers; `None` when it refuses.
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
