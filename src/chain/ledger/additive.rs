//! Tokens of `px-v2` and `px-v1`: what the contracts answer, as the one type that hides the difference.
//!
//! Invariant: what is read of a token, its owner too, is of one block. Called by `ledger`.

use alloy::eips::BlockId;
use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::SolCall;

use super::{ContractLedger, Package, saturate};
use crate::chain::anchor::{self, Anchor};
use crate::chain::contract::{PxV1, PxV2};
use crate::chain::dialect::Dialect;
use crate::chain::{ChainError, TokenInfo};
use crate::types::TokenId;

/// Seconds after its last update at which a token locks: a constant of the contracts.
const LOCK_S: u64 = 30 * 86_400;

impl ContractLedger {
    /// The tokens of the wallet, by ascending id, in block `at`, which is number `block`.
    pub(super) async fn owned_additive(
        &self,
        dialect: Dialect,
        block: u64,
        at: BlockId,
    ) -> Result<Vec<TokenInfo>, ChainError> {
        let known = self.found.known().await;
        let balance = PxV2::balanceOfCall { owner: self.owner };
        let mut calls: Vec<Bytes> = vec![balance.abi_encode().into()];
        calls.extend(known.iter().flat_map(|&id| token_calls(dialect, id)));
        let answers = self.endpoint.call_many(self.contract, &calls, at).await?;
        let Some((balance, answers)) = answers.split_first() else {
            return Err(ChainError::Permanent("no answer to no question".to_owned()));
        };
        let balance = balance.as_ref().map_err(Clone::clone)?;
        let balance = self
            .endpoint
            .read::<PxV2::balanceOfCall>(self.contract, balance)?;
        let ours = |tokens: &mut Vec<TokenInfo>| tokens.retain(|token| token.owner == self.owner);
        let mut tokens = self.tokens_additive(dialect, &known, answers)?;
        ours(&mut tokens);
        if U256::from(tokens.len()) == balance {
            self.found.note_whole(block).await;
            return Ok(tokens);
        }
        // Some have come: they are looked for.
        let owned = self
            .found
            .tokens(&self.endpoint, self.contract, self.owner, (block, at))
            .await?;
        let mut tokens = self.read_additive(dialect, &owned, at).await?;
        ours(&mut tokens);
        Ok(tokens)
    }

    /// These tokens, but for those that do not exist, in their order.
    pub(super) async fn read_additive(
        &self,
        dialect: Dialect,
        ids: &[U256],
        at: BlockId,
    ) -> Result<Vec<TokenInfo>, ChainError> {
        let calls: Vec<Bytes> = (ids.iter())
            .flat_map(|&id| token_calls(dialect, id))
            .collect();
        let answers = self.endpoint.call_many(self.contract, &calls, at).await?;
        self.tokens_additive(dialect, ids, &answers)
    }

    /// Those of `ids` that exist, by what was answered to the [`token_calls`] of each.
    fn tokens_additive(
        &self,
        dialect: Dialect,
        ids: &[U256],
        answers: &[Result<Bytes, ChainError>],
    ) -> Result<Vec<TokenInfo>, ChainError> {
        let mut tokens = Vec::with_capacity(ids.len());
        let each = token_calls(dialect, U256::ZERO).len();
        for (&id, answers) in ids.iter().zip(answers.chunks_exact(each)) {
            let [owner, read, anchor @ ..] = answers else {
                continue;
            };
            // It has no owner: there is no such token.
            let Ok(owner) = owner else { continue };
            let owner = self
                .endpoint
                .read::<PxV2::ownerOfCall>(self.contract, owner)?;
            let read = read.as_ref().map_err(Clone::clone)?;
            let token = self.token_additive(dialect, id, owner, read)?;
            let anchor = anchor.first().and_then(|answer| self.anchor(answer));
            let anchor = anchor.filter(|anchor| anchor.owner == owner);
            let told = self.names.get(&token.id);
            tokens.push(TokenInfo {
                name: told.or(anchor.as_ref().map(|anchor| &anchor.name)).cloned(),
                anchor,
                ..token
            });
        }
        Ok(tokens)
    }

    /// What is anchored, by the answer to the question for it. There is nothing, or something of others': no anchor.
    fn anchor(&self, answer: &Result<Bytes, ChainError>) -> Option<Anchor> {
        let answer = answer.as_ref().ok()?;
        let read = self
            .endpoint
            .read::<PxV2::getExtraContentCall>(self.contract, answer);
        Anchor::parse(&read.ok()?)
    }

    fn token_additive(
        &self,
        dialect: Dialect,
        id: U256,
        owner: Address,
        read: &Bytes,
    ) -> Result<TokenInfo, ChainError> {
        let (endpoint, contract) = (&self.endpoint, self.contract);
        let (name, size, usage, updated, units) = match dialect {
            Dialect::PxV1 => {
                let read = endpoint.read::<PxV1::pxStorageCall>(contract, read)?;
                let updated = read.lastUpdateTimestamp;
                (read.name, read.sizeInBytes, read.usage, updated, None)
            }
            Dialect::PxV2 | Dialect::PxSync => {
                let read = endpoint.read::<PxV2::pxStorageCall>(contract, read)?;
                let updated = read.lastUpdateTimestamp;
                let units = Some(saturate(read.bandwidth));
                (read.name, read.sizeInBytes, read.usage, updated, units)
            }
        };
        Ok(TokenInfo {
            id: TokenId(id),
            owner,
            package: name,
            epoch: 0,
            name: None,
            size_bytes: saturate(size),
            usage_bytes: saturate(usage),
            uploads_left: units,
            accounting: dialect.accounting(),
            last_sync_s: saturate(updated),
            sync_window_s: LOCK_S,
            sequence: None,
            root: None,
            anchor: None,
            sync_asked_s: None,
        })
    }
}

/// What is asked of a token: as many questions of each.
fn token_calls(dialect: Dialect, id: U256) -> Vec<Bytes> {
    // Both dialects call it the same.
    let read = PxV2::pxStorageCall { tokenId: id };
    let mut calls = vec![owner_call(id), read.abi_encode().into()];
    if dialect == Dialect::PxV2 {
        let anchor = PxV2::getExtraContentCall {
            tokenId: id,
            hash: anchor::KEY.to_owned(),
        };
        calls.push(anchor.abi_encode().into());
    }
    calls
}

/// `ownerOf(id)`.
pub(super) fn owner_call(id: U256) -> Bytes {
    PxV2::ownerOfCall { tokenId: id }.abi_encode().into()
}

impl From<PxV2::Package> for Package {
    fn from(package: PxV2::Package) -> Self {
        Self {
            id: saturate(package.id),
            name: package.name,
            price: package.price,
            size_bytes: saturate(package.sizeInBytes),
            uploads: Some(saturate(package.bandwidthLimit)),
            on_sale: package.active == U256::ONE,
        }
    }
}

impl From<PxV1::Package> for Package {
    fn from(package: PxV1::Package) -> Self {
        Self {
            id: saturate(package.id),
            name: package.name,
            price: package.price,
            size_bytes: saturate(package.sizeInBytes),
            uploads: None,
            on_sale: package.active == U256::ONE,
        }
    }
}
