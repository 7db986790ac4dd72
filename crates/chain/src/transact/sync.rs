//! Syncs: requested in a transaction, answered by the oracle, awaited in the contract's events.

use std::ops::RangeInclusive;
use std::time::Duration;

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256, U256};
use alloy::providers::Provider;
use alloy::rpc::types::{Filter, Log};
use alloy::sol_types::SolEvent;
use tokio::time::timeout;

use super::calldata::sync_calldata;
use super::{Look, Mined, Transactor};
use crate::ChainError;
use crate::contract::{PxSync, failure};
use crate::endpoint::{Endpoint, LogsFault};
use crate::outbox::Purpose;
use pxfs_base::types::TokenId;

/// The age up to which a request is worth waiting for, blocks.
const OPEN_BLOCKS: u64 = 5_000;
pub(super) const SYNC_TAG: &str = "sync ";
/// Blocks read again at each check.
const LOGS_AGAIN: u64 = 64;
/// The limit on the last check.
const LAST_LOOK: Duration = Duration::from_secs(10);

/// A sync that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncRequest {
    /// The token.
    pub token: TokenId,
    /// The contract's id of it.
    pub request: B256,
    /// The transaction.
    pub mined: Mined,
}

/// A completed sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Usage on chain now, bytes.
    pub usage_bytes: u64,
    /// Sequence of the document taken.
    pub sequence: u64,
    /// Digest of that document's root, if any.
    pub root: Option<B256>,
}

impl Transactor {
    /// The value to send with a sync of `token`, wei: the contract's fee, or nothing if an open request has
    /// paid it.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] if there is no such token.
    pub async fn sync_fee(&self, contract: Address, token: TokenId) -> Result<U256, ChainError> {
        sync_fee(&self.endpoint, contract, token).await
    }

    /// Requests a sync of `token`, and pays its fee.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] with the reason (`sync already requested`, `not registered`, …).
    pub async fn sync(&self, contract: Address, token: TokenId) -> Result<SyncRequest, ChainError> {
        let fee = self.sync_fee(contract, token).await?;
        let purpose = Purpose {
            to: Some(contract),
            data: sync_calldata(token),
            value: fee,
            bound: false,
        };
        let tag = format!("{SYNC_TAG}{contract} {token}");
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

    /// The open sync of `token`, to wait for it instead of asking again; `None` if there is none, or it is
    /// thousands of blocks old.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] if there is no such token.
    pub async fn open_sync(
        &self,
        contract: Address,
        token: TokenId,
    ) -> Result<Option<SyncRequest>, ChainError> {
        let info = self.info(contract, token).await?;
        if info.requestId.is_zero() {
            return Ok(None);
        }
        let height = self.endpoint.height().await?;
        let filter = Filter::new()
            .address(contract)
            .event_signature(PxSync::SyncRequested::SIGNATURE_HASH)
            .topic1(B256::from(token.0))
            .topic2(info.requestId);
        let first = height.saturating_sub(OPEN_BLOCKS);
        let mut range = OPEN_BLOCKS;
        let logs = self.logs(&filter, first..=height, &mut range).await?;
        let asked = logs.last().and_then(|log| {
            Some(Mined {
                transaction: log.transaction_hash?,
                block: log.block_number?,
                paid: None,
            })
        });
        Ok(asked.map(|mined| SyncRequest {
            token,
            request: info.requestId,
            mined,
        }))
    }

    /// The logs of `filter` in `blocks`, at most `range` blocks at once; shrinks the range if the
    /// endpoint refuses.
    async fn logs(
        &self,
        filter: &Filter,
        blocks: RangeInclusive<u64>,
        range: &mut u64,
    ) -> Result<Vec<Log>, ChainError> {
        let (mut from, last) = blocks.into_inner();
        let mut all = Vec::new();
        while from <= last {
            let to = last.min(from.saturating_add(range.saturating_sub(1)));
            let part = filter.clone().from_block(from).to_block(to);
            match self.endpoint.logs(&part).await {
                Ok(logs) => all.extend(logs),
                Err(LogsFault::TooMuch(_)) if *range > 1 => {
                    *range = (*range).min(to - from + 1) / 2;
                    *range = (*range).max(1);
                    continue;
                }
                Err(LogsFault::TooMuch(why)) => return Err(ChainError::Transient(why)),
                Err(LogsFault::Other(fault)) => return Err(fault),
            }
            match to.checked_add(1) {
                Some(next) => from = next,
                None => break,
            }
        }
        Ok(all)
    }

    /// Waits until the sync has landed. Retries if the endpoint does not answer, and finally asks the token
    /// itself, because a paid request must not be reported as failed wrongly.
    ///
    /// # Errors
    /// [`ChainError::Oracle`] if the oracle answers with an error, or not within `limit`.
    pub async fn wait_synced(
        &self,
        contract: Address,
        request: &SyncRequest,
        limit: Duration,
    ) -> Result<Synced, ChainError> {
        let token = request.token;
        let mut look = Look::within(limit);
        let (mut from, mut range) = (request.mined.block, OPEN_BLOCKS);
        // The block it landed in, and the blocks on top.
        let mut landed = None;
        loop {
            let looked = self.look_synced(contract, request, &mut from, &mut range);
            match look.bound(looked).await {
                Some(Ok(Some((synced, block)))) => {
                    let on_top = self.on_top(block).await;
                    if on_top >= self.confirmations {
                        return Ok(synced);
                    }
                    if landed.is_none() {
                        look = Look::within(self.confirming());
                    }
                    landed = Some((block, on_top));
                }
                Some(Err(failed @ ChainError::Oracle(_))) => return Err(failed),
                // Retry.
                Some(Ok(None) | Err(_)) | None => {}
            }
            let Mined {
                transaction, block, ..
            } = request.mined;
            let clock = look.clock();
            self.report(&match landed {
                None => format!(
                    "transaction {transaction} in block {block}; waiting for the oracle, {clock}; Ctrl-C is safe"
                ),
                Some((block, on_top)) => format!(
                    "synced in block {block}; {on_top} of {} blocks on top, {clock}; Ctrl-C is safe",
                    self.confirmations
                ),
            });
            if !look.again().await {
                break;
            }
        }
        if let Some((block, on_top)) = landed {
            return Err(self.too_shallow(&format!("the sync of token {token}"), block, on_top));
        }
        let told = timeout(LAST_LOOK, self.has_synced(contract, request)).await;
        match told {
            Ok(Ok(Some(synced))) => Ok(synced),
            Ok(Ok(None)) => Err(ChainError::Oracle(format!(
                "no operator of the oracle has answered for token {token} within {} s: the request in transaction {} stays open, and nothing needs to be paid again: it lands when an operator answers; `pxfs sync` waits for it, and asks again for gas alone",
                limit.as_secs(),
                request.mined.transaction
            ))),
            Ok(Err(_)) | Err(_) => Err(ChainError::Oracle(format!(
                "whether token {token} is synced is not known: {} has not told within {} s: look at `pxfs tokens` before trying again",
                self.endpoint.current(),
                limit.as_secs()
            ))),
        }
    }

    /// The contract's events in blocks from `from` on, which advances; and their block.
    async fn look_synced(
        &self,
        contract: Address,
        request: &SyncRequest,
        from: &mut u64,
        range: &mut u64,
    ) -> Result<Option<(Synced, u64)>, ChainError> {
        let token = request.token;
        let filter = Filter::new()
            .address(contract)
            .event_signature(vec![
                PxSync::Synced::SIGNATURE_HASH,
                PxSync::SyncFailed::SIGNATURE_HASH,
            ])
            .topic1(B256::from(token.0));
        let height = self.endpoint.height().await?;
        for log in self.logs(&filter, *from..=height, range).await? {
            if let Ok(failed) = PxSync::SyncFailed::decode_log(&log.inner)
                && failed.requestId == request.request
            {
                let (code, why) = (failed.code, failure(failed.code));
                let line = format!("token {token} is not synced: {why} (code {code})");
                return Err(ChainError::Oracle(line));
            }
            // A token has one open request, so a landed sync answers ours unless ours is still
            // open.
            if let Ok(synced) = PxSync::Synced::decode_log(&log.inner)
                && self.info(contract, token).await?.requestId != request.request
            {
                let landed = Synced {
                    usage_bytes: u64::try_from(synced.usage).unwrap_or(u64::MAX),
                    sequence: synced.sequence,
                    root: (!synced.root.is_zero()).then_some(synced.root),
                };
                return Ok(Some((landed, log.block_number.unwrap_or(height))));
            }
        }
        // Replaced blocks are read again.
        *from = height.saturating_sub(LOGS_AGAIN).max(*from);
        Ok(None)
    }

    /// What the token says; `None` if nothing has landed since the request.
    async fn has_synced(
        &self,
        contract: Address,
        request: &SyncRequest,
    ) -> Result<Option<Synced>, ChainError> {
        let info = self.info(contract, request.token).await?;
        let block = self.endpoint.provider();
        let block = block.get_block_by_number(request.mined.block.into()).await;
        let block = block.map_err(|fault| self.endpoint.fault(fault))?;
        let asked_s = block.map_or(u64::MAX, |block| block.header.timestamp);
        let landed = info.requestId != request.request && info.lastUpdateTimestamp >= asked_s;
        Ok(landed.then(|| Synced {
            usage_bytes: u64::try_from(info.usage).unwrap_or(u64::MAX),
            sequence: info.sequence,
            root: (!info.root.is_zero()).then_some(info.root),
        }))
    }

    async fn info(
        &self,
        contract: Address,
        token: TokenId,
    ) -> Result<PxSync::TokenInfo, ChainError> {
        info(&self.endpoint, contract, token).await
    }
}

/// As [`Transactor::sync_fee`], without an account.
///
/// # Errors
/// As [`Endpoint::call`].
pub async fn sync_fee(
    endpoint: &Endpoint,
    contract: Address,
    token: TokenId,
) -> Result<U256, ChainError> {
    if !info(endpoint, contract, token).await?.requestId.is_zero() {
        return Ok(U256::ZERO);
    }
    let call = PxSync::syncFeeCall {};
    endpoint.call(contract, &call, BlockId::latest()).await
}

async fn info(
    endpoint: &Endpoint,
    contract: Address,
    token: TokenId,
) -> Result<PxSync::TokenInfo, ChainError> {
    let call = PxSync::tokenInfoCall { tokenId: token.0 };
    endpoint.call(contract, &call, BlockId::latest()).await
}
