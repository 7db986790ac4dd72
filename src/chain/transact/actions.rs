//! What is done with tokens: mint, register, upgrade, give away, sync.
//!
//! Invariant: each waits until it is mined and took effect, and answers what the contract said in
//! its events. Called by the command line and the daemon, and `--print` for the calldata alone.

use std::time::Duration;

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::Provider;
use alloy::rpc::types::Filter;
use alloy::sol_types::{SolCall, SolEvent};
use tokio::time::Instant;

use super::super::ChainError;
use super::super::contract::{PxSync, PxV1, PxV2, failure};
use super::super::dialect::Dialect;
use super::{Look, Mined, Transactor, mined};
use crate::types::TokenId;

/// A token that was minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minted {
    /// The new token.
    pub token: TokenId,
    /// The transaction.
    pub mined: Mined,
}

/// A sync that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncRequest {
    /// The token.
    pub token: TokenId,
    /// The contract's id of the request.
    pub request: B256,
    /// The transaction.
    pub mined: Mined,
}

/// A sync that has landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Usage that the chain has now, in bytes.
    pub usage_bytes: u64,
    /// Sequence of the document that it took.
    pub sequence: u64,
    /// Digest of the root of that document; `None` for none.
    pub root: Option<B256>,
}

impl Transactor {
    /// Mints a token of `package` with the name key `name`, in the transaction with this `nonce`.
    ///
    /// # Errors
    /// [`ChainError::Missing`] for an unknown package, [`ChainError::Reverted`] with the reason,
    /// [`ChainError::Transient`] when the nonce was taken meanwhile (derive the next key).
    pub async fn mint(
        &self,
        contract: Address,
        package: u64,
        name: &str,
        nonce: u64,
    ) -> Result<Minted, ChainError> {
        let price = self.price(contract, package).await?;
        let data = mint_calldata(package, name);
        self.buy(contract, price, data, Some(nonce)).await
    }

    /// Mints a token of `package` that has no name key yet, as a block explorer does.
    ///
    /// # Errors
    /// As [`Transactor::mint`].
    pub async fn mint_bare(&self, contract: Address, package: u64) -> Result<Minted, ChainError> {
        let price = self.price(contract, package).await?;
        self.mint_for(contract, package, price).await
    }

    /// Mints a token of `package`, whose price in wei is known, without a name key: the one way on
    /// `px-v1` and `px-v2`.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] with the reason.
    pub async fn mint_for(
        &self,
        contract: Address,
        package: u64,
        price: U256,
    ) -> Result<Minted, ChainError> {
        let data = mint_bare_calldata(package);
        self.buy(contract, price, data, None).await
    }

    /// Tells a contract of `px-v1` or `px-v2` that nothing was uploaded, which renews the time of
    /// the last update. Sent twice it does no more than once.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] with the reason: `No bandwidth` where no upload units are left.
    pub async fn renew(
        &self,
        contract: Address,
        dialect: Dialect,
        token: TokenId,
    ) -> Result<Mined, ChainError> {
        let data = match dialect {
            Dialect::PxV1 => PxV1::updateStorageUsageCall {
                tokenId: token.0,
                usageInBytes: U256::ZERO,
            }
            .abi_encode(),
            Dialect::PxV2 | Dialect::PxSync => PxV2::updateStorageUsageCall {
                tokenId: token.0,
                usageInBytes: U256::ZERO,
                bandwidth: U256::ZERO,
            }
            .abi_encode(),
        };
        let sent = self.send(Some(contract), data.into(), U256::ZERO, None);
        Ok(mined(&sent.await?))
    }

    async fn buy(
        &self,
        contract: Address,
        price: U256,
        data: Bytes,
        nonce: Option<u64>,
    ) -> Result<Minted, ChainError> {
        let receipt = self.send(Some(contract), data, price, nonce).await?;
        let logs = receipt
            .logs()
            .iter()
            .filter(|log| log.address() == contract);
        let mut transfers = logs.filter_map(|log| PxSync::Transfer::decode_log(&log.inner).ok());
        let minted = transfers.find(|log| log.from.is_zero() && log.to == self.address());
        let minted = minted.ok_or_else(|| {
            ChainError::Permanent(format!("contract {contract} minted without saying what"))
        })?;
        Ok(Minted {
            token: TokenId(minted.tokenId),
            mined: mined(&receipt),
        })
    }

    /// What `package` costs, in wei.
    ///
    /// # Errors
    /// [`ChainError::Missing`] for an unknown package.
    pub async fn price(&self, contract: Address, package: u64) -> Result<U256, ChainError> {
        let call = PxSync::getAllPackagesCall {};
        let all = self
            .endpoint
            .call(contract, &call, BlockId::latest())
            .await?;
        let found = all.iter().find(|one| one.id == U256::from(package));
        found.map(|one| one.price).ok_or_else(|| {
            let known: Vec<_> = all.iter().map(|one| one.id.to_string()).collect();
            let known = known.join(", ");
            ChainError::Missing(format!(
                "package {package} does not exist: give one of {known}"
            ))
        })
    }

    /// Assigns the name key `name` to `token`, in the transaction with this `nonce`.
    ///
    /// # Errors
    /// As [`Transactor::mint`].
    pub async fn register(
        &self,
        contract: Address,
        token: TokenId,
        name: &str,
        nonce: u64,
    ) -> Result<Mined, ChainError> {
        let data = register_calldata(token, name);
        let receipt = self
            .send(Some(contract), data, U256::ZERO, Some(nonce))
            .await?;
        Ok(mined(&receipt))
    }

    /// Moves `token` to a larger package.
    ///
    /// # Errors
    /// As [`Transactor::mint`].
    pub async fn upgrade(
        &self,
        contract: Address,
        token: TokenId,
        package: u64,
    ) -> Result<Mined, ChainError> {
        let price = self.price(contract, package).await?;
        let data = upgrade_calldata(token, package);
        let receipt = self.send(Some(contract), data, price, None).await?;
        Ok(mined(&receipt))
    }

    /// Gives `token` to another account.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] when it is not ours.
    pub async fn transfer(
        &self,
        contract: Address,
        token: TokenId,
        to: Address,
    ) -> Result<Mined, ChainError> {
        let call = PxSync::transferFromCall {
            from: self.address(),
            to,
            tokenId: token.0,
        };
        let data = call.abi_encode().into();
        let receipt = self.send(Some(contract), data, U256::ZERO, None).await?;
        Ok(mined(&receipt))
    }

    /// Asks the oracle to sync `token`, and pays its fee.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] with the reason (`sync already requested`, `not registered`, …).
    pub async fn sync(&self, contract: Address, token: TokenId) -> Result<SyncRequest, ChainError> {
        let call = PxSync::syncFeeCall {};
        let fee = self
            .endpoint
            .call(contract, &call, BlockId::latest())
            .await?;
        let receipt = self
            .send(Some(contract), sync_calldata(token), fee, None)
            .await?;
        let logs = receipt
            .logs()
            .iter()
            .filter(|log| log.address() == contract);
        let mut requests =
            logs.filter_map(|log| PxSync::SyncRequested::decode_log(&log.inner).ok());
        let asked = requests.find(|log| log.tokenId == token.0);
        let asked = asked.ok_or_else(|| {
            ChainError::Permanent(format!(
                "contract {contract} does not say what it has asked"
            ))
        })?;
        Ok(SyncRequest {
            token,
            request: asked.requestId,
            mined: mined(&receipt),
        })
    }

    /// The sync of `token` that is open, to wait for it instead of asking again.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] when there is no such token.
    pub async fn open_sync(
        &self,
        contract: Address,
        token: TokenId,
    ) -> Result<Option<SyncRequest>, ChainError> {
        let call = PxSync::tokenInfoCall { tokenId: token.0 };
        let info = self
            .endpoint
            .call(contract, &call, BlockId::latest())
            .await?;
        if info.requestId.is_zero() {
            return Ok(None);
        }
        let filter = Filter::new()
            .address(contract)
            .from_block(0)
            .event_signature(PxSync::SyncRequested::SIGNATURE_HASH)
            .topic1(B256::from(token.0))
            .topic2(info.requestId);
        let logs = self.endpoint.provider().get_logs(&filter).await;
        let logs = logs.map_err(|fault| self.endpoint.fault(fault))?;
        let asked = logs.last().and_then(|log| {
            Some(Mined {
                transaction: log.transaction_hash?,
                block: log.block_number?,
            })
        });
        Ok(asked.map(|mined| SyncRequest {
            token,
            request: info.requestId,
            mined,
        }))
    }

    /// Waits until the sync has landed.
    ///
    /// # Errors
    /// [`ChainError::Oracle`] when the oracle answers with an error, or not within `limit`.
    pub async fn wait_synced(
        &self,
        contract: Address,
        request: &SyncRequest,
        limit: Duration,
    ) -> Result<Synced, ChainError> {
        let token = request.token;
        let filter = Filter::new()
            .address(contract)
            .from_block(request.mined.block)
            .event_signature(vec![
                PxSync::Synced::SIGNATURE_HASH,
                PxSync::SyncFailed::SIGNATURE_HASH,
            ])
            .topic1(B256::from(token.0));
        let mut look = Look::until(Instant::now() + limit);
        loop {
            let logs = self.endpoint.provider().get_logs(&filter);
            let logs = match look.bound(logs).await {
                Some(Ok(logs)) => logs,
                Some(Err(fault)) => match self.endpoint.fault(fault) {
                    // Worth another look.
                    ChainError::Transient(_) => Vec::new(),
                    fault => return Err(fault),
                },
                None => Vec::new(),
            };
            for log in logs {
                // A token has one open request, so what has landed since is the answer to ours.
                if let Ok(synced) = PxSync::Synced::decode_log(&log.inner) {
                    return Ok(Synced {
                        usage_bytes: u64::try_from(synced.usage).unwrap_or(u64::MAX),
                        sequence: synced.sequence,
                        root: (!synced.root.is_zero()).then_some(synced.root),
                    });
                }
                if let Ok(failed) = PxSync::SyncFailed::decode_log(&log.inner)
                    && failed.requestId == request.request
                {
                    let (code, why) = (failed.code, failure(failed.code));
                    let line = format!("token {token} is not synced: {why} (code {code})");
                    return Err(ChainError::Oracle(line));
                }
            }
            if !look.again().await {
                return Err(ChainError::Oracle(format!(
                    "no answer for token {token} within {} s: try again later",
                    limit.as_secs()
                )));
            }
        }
    }
}

/// Calldata of `mint(package, name)`, for a wallet elsewhere.
#[must_use]
pub fn mint_calldata(package: u64, name: &str) -> Bytes {
    let call = PxSync::mint_0Call {
        packageId: U256::from(package),
        btnsKey: name.to_owned(),
    };
    call.abi_encode().into()
}

/// Calldata of `mint(package)`, which sets no name key.
#[must_use]
pub fn mint_bare_calldata(package: u64) -> Bytes {
    let call = PxSync::mint_1Call {
        packageId: U256::from(package),
    };
    call.abi_encode().into()
}

/// Calldata of `register(token, name)`.
#[must_use]
pub fn register_calldata(token: TokenId, name: &str) -> Bytes {
    let call = PxSync::registerCall {
        tokenId: token.0,
        btnsKey: name.to_owned(),
    };
    call.abi_encode().into()
}

/// Calldata of `upgradeTokenPackage(token, package)`.
#[must_use]
pub fn upgrade_calldata(token: TokenId, package: u64) -> Bytes {
    let call = PxSync::upgradeTokenPackageCall {
        tokenId: token.0,
        packageId: U256::from(package),
    };
    call.abi_encode().into()
}

/// Calldata of `sync(token)`; its value is the contract's `syncFee()`.
#[must_use]
pub fn sync_calldata(token: TokenId) -> Bytes {
    PxSync::syncCall { tokenId: token.0 }.abi_encode().into()
}
