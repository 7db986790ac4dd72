//! Tokens of `px-v2` and `px-v1`, as the common type.
//!
//! Invariant: everything read of a token, its owner too, is of one block.

use alloy::eips::BlockId;
use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::SolCall;

use super::{ContractLedger, Package, saturate};
use crate::anchor::{self, Anchor};
use crate::contract::{PxV1, PxV2};
use crate::dialect::Dialect;
use crate::transact::update_calldata;
use crate::{Accounting, ChainError, NO_LOCK_S, TokenInfo};
use pxfs_base::text;
use pxfs_base::types::TokenId;

/// Seconds after its last update at which a `px-v2` token locks: a contract constant.
const LOCK_S: u64 = 30 * 86_400;
/// The most packages of a contract that does not list them.
const PACKAGES_MAX: u64 = 64;

impl ContractLedger {
    /// The wallet's tokens, by ascending id, in block `at`, number `block`.
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
        let mut tokens = self.tokens_additive(dialect, &known, answers).await?;
        ours(&mut tokens);
        if U256::from(tokens.len()) == balance {
            self.found.note_whole(block).await;
            return Ok(tokens);
        }
        // More have come: search.
        let owned = self
            .found
            .tokens(&self.endpoint, self.contract, self.owner, (block, at))
            .await?;
        let mut tokens = self.read_additive(dialect, &owned, at).await?;
        ours(&mut tokens);
        Ok(tokens)
    }

    /// These tokens in their order, without nonexistent ones.
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
        self.tokens_additive(dialect, ids, &answers).await
    }

    pub(super) async fn each_package(&self) -> Result<Vec<Package>, ChainError> {
        let calls = (0..PACKAGES_MAX).map(|id| {
            let call = PxV1::pxStoragePackageCall {
                packageId: U256::from(id),
            };
            call.abi_encode().into()
        });
        let calls: Vec<Bytes> = calls.collect();
        let (endpoint, contract) = (&self.endpoint, self.contract);
        let answers = endpoint.call_many(contract, &calls, BlockId::latest());
        let mut packages = Vec::new();
        for (id, answer) in (0..).zip(answers.await?) {
            let read = endpoint.read::<PxV1::pxStoragePackageCall>(contract, &answer?)?;
            if read.name.is_empty() {
                break;
            }
            packages.push(Package {
                id,
                name: text::name(&read.name),
                price: read.price,
                size_bytes: saturate(read.sizeInBytes),
                uploads: None,
                on_sale: read.active == U256::ONE,
            });
        }
        Ok(packages)
    }

    /// Who reports the usage of these `px-v1` tokens: asks the contract once whether this owner
    /// may.
    async fn reported(&self, tokens: &[TokenInfo]) -> Result<Accounting, ChainError> {
        let Some(own) = tokens.iter().find(|token| token.owner == self.owner) else {
            return Ok(self.reported.get().copied().unwrap_or(Accounting::ByIssuer));
        };
        let ask = || async {
            let data = update_calldata(Dialect::PxV1, own.id, 0, 0);
            let tried = self.endpoint.would_succeed(self.owner, self.contract, data);
            Ok(match tried.await? {
                true => Accounting::Additive,
                false => Accounting::ByIssuer,
            })
        };
        self.reported.get_or_try_init(ask).await.copied()
    }

    /// Those of `ids` that exist, from the answers to each one's [`token_calls`].
    async fn tokens_additive(
        &self,
        dialect: Dialect,
        ids: &[U256],
        answers: &[Result<Bytes, ChainError>],
    ) -> Result<Vec<TokenInfo>, ChainError> {
        let mut tokens = Vec::with_capacity(ids.len());
        let each = token_calls(dialect, U256::ZERO).len();
        for (&id, answers) in ids.iter().zip(answers.chunks_exact(each)) {
            let [owner, read, third] = answers else {
                continue;
            };
            // No owner: no such token.
            let Ok(owner) = owner else { continue };
            let owner = self
                .endpoint
                .read::<PxV2::ownerOfCall>(self.contract, owner)?;
            let read = read.as_ref().map_err(Clone::clone)?;
            let mut token = self.token_additive(dialect, id, owner, read)?;
            let anchor = match dialect {
                Dialect::PxV1 => {
                    token.sync_window_s = self.window(&token, third)?;
                    None
                }
                Dialect::PxV2 | Dialect::PxSync => self.anchor(third),
            };
            let anchor = anchor.filter(|anchor| anchor.owner == owner);
            let told = self.names.get(&token.id);
            tokens.push(TokenInfo {
                name: told.or(anchor.as_ref().map(|anchor| &anchor.name)).cloned(),
                anchor,
                ..token
            });
        }
        if dialect == Dialect::PxV1 {
            let accounting = self.reported(&tokens).await?;
            (tokens.iter_mut()).for_each(|token| token.accounting = accounting);
        }
        Ok(tokens)
    }

    /// A `px-v1` token's window, from its answer whether uploads are barred.
    fn window(
        &self,
        token: &TokenInfo,
        can: &Result<Bytes, ChainError>,
    ) -> Result<u64, ChainError> {
        let can = can.as_ref().map_err(Clone::clone)?;
        let can = self
            .endpoint
            .read::<PxV1::canUploadCall>(self.contract, can)?;
        let is_full = token.usage_bytes > token.size_bytes;
        Ok(if can || is_full { NO_LOCK_S } else { 0 })
    }

    /// The anchor in the answer; `None` for nothing or something else.
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
            package: text::name(&name),
            epoch: 0,
            name: None,
            size_bytes: saturate(size),
            usage_bytes: saturate(usage),
            uploads_left: units,
            accounting: Accounting::Additive,
            last_sync_s: saturate(updated),
            sync_window_s: LOCK_S,
            sequence: None,
            root: None,
            anchor: None,
            sync_asked_s: None,
        })
    }
}

fn token_calls(dialect: Dialect, id: U256) -> [Bytes; 3] {
    // Both dialects have it.
    let read = PxV2::pxStorageCall { tokenId: id };
    let third = match dialect {
        Dialect::PxV1 => PxV1::canUploadCall {
            tokenId: id,
            newUsage: U256::ZERO,
        }
        .abi_encode(),
        Dialect::PxV2 | Dialect::PxSync => PxV2::getExtraContentCall {
            tokenId: id,
            hash: anchor::KEY.to_owned(),
        }
        .abi_encode(),
    };
    [owner_call(id), read.abi_encode().into(), third.into()]
}

pub(super) fn owner_call(id: U256) -> Bytes {
    PxV2::ownerOfCall { tokenId: id }.abi_encode().into()
}

impl From<PxV2::Package> for Package {
    fn from(package: PxV2::Package) -> Self {
        Self {
            id: saturate(package.id),
            name: text::name(&package.name),
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
            name: text::name(&package.name),
            price: package.price,
            size_bytes: saturate(package.sizeInBytes),
            uploads: None,
            on_sale: package.active == U256::ONE,
        }
    }
}
