//! Syncs: asked for in a transaction, answered by the oracle, and waited for in the contract's events.
//!
//! Called by the command line and the daemon.

use std::time::Duration;

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256};
use alloy::providers::Provider;
use alloy::rpc::types::Filter;
use alloy::sol_types::SolEvent;
use tokio::time::Instant;

use super::calldata::sync_calldata;
use super::{Look, Mined, Transactor};
use crate::chain::ChainError;
use crate::chain::contract::{PxSync, failure};
use crate::chain::outbox::Purpose;
use crate::types::TokenId;

/// How far back a request that is worth waiting for can lie, in blocks.
const OPEN_BLOCKS: u64 = 5_000;

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
        let purpose = Purpose {
            to: Some(contract),
            data: sync_calldata(token),
            value: fee,
            bound: false,
        };
        let tag = format!("sync {contract} {token}");
        let sent = self.send_as(tag, purpose, None).await?;
        let logs = sent
            .receipt
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
            mined: sent.mined(),
        })
    }

    /// The sync of `token` that is open, to wait for it instead of asking again; `None` where none is,
    /// or it was asked for thousands of blocks ago.
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
        let height = self.endpoint.height().await?;
        let filter = Filter::new()
            .address(contract)
            .from_block(height.saturating_sub(OPEN_BLOCKS))
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
                    "no operator has answered for token {token} within {} s: look after the oracle, and try again",
                    limit.as_secs()
                )));
            }
        }
    }
}
