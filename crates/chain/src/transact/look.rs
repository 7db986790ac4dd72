//! Checks the chain: who used a nonce of the account, and whether finally.
//!
//! Invariant: what is called final was in a final block before the check, so stale answers make an
//! outcome late, never wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use alloy::consensus::Transaction as _;
use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::network::TransactionResponse;
use alloy::primitives::{Address, TxKind, U256};
use alloy::providers::Provider;
use alloy::rpc::json_rpc::RpcError;
use alloy::rpc::types::{TransactionInput, TransactionReceipt, TransactionRequest};
use tokio::time::Instant;

use super::{Transactor, lock};
use crate::ChainError;
use crate::busy;
use crate::contract::PxV2;
use crate::endpoint::is_refusal;
use crate::outbox::shelf::{Kept, Watch};
use crate::outbox::{Purpose, Taker, Try};

/// Blocks on top that make a block final if the chain does not say.
const DEPTH: u64 = 64;
/// Blocks searched one by one if a server does not know an account's past.
const WALK: u64 = 4096;
/// How many of them at once, because others wait meanwhile.
const PORTION: usize = 64;
/// How long the view of the newest blocks serves consecutive entries.
const HEADS_FRESH: Duration = Duration::from_secs(5);
const FOREIGN: u64 = 256;

pub(super) struct Place {
    pub(super) taker: Taker,
    pub(super) is_final: bool,
    /// The receipt, if the transaction does what we wanted.
    pub(super) receipt: Option<TransactionReceipt>,
}

/// The chain's newest blocks, with which each check begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub(super) settled: u64,
    /// The account's next nonce in the newest block.
    pub(super) next: u64,
    at: Instant,
}

impl Heads {
    /// Whether to reuse it: an older view makes an outcome late, never wrong.
    pub(super) fn are_fresh(&self) -> bool {
        self.at.elapsed() < HEADS_FRESH
    }
}

impl Transactor {
    pub(super) async fn heads(&self) -> Result<Heads, ChainError> {
        let at = Instant::now();
        // This order, because a block final now is final later.
        let settled = self.final_block().await?;
        let next = self.endpoint.provider();
        let next = next.get_transaction_count(self.address()).await;
        let next = next.map_err(|fault| self.endpoint.fault(fault))?;
        Ok(Heads { settled, next, at })
    }

    /// Number of the newest final block.
    pub(super) async fn final_block(&self) -> Result<u64, ChainError> {
        let provider = self.endpoint.provider();
        let told = provider.get_block_by_number(BlockNumberOrTag::Finalized);
        match told.await {
            Ok(Some(block)) => Ok(block.header.number),
            Err(RpcError::ErrorResp(told)) if busy::is_later(&told) => {
                Err(self.endpoint.fault(RpcError::ErrorResp(told)))
            }
            // Not every chain knows "finalized".
            Ok(None) | Err(RpcError::ErrorResp(_)) => {
                Ok(self.endpoint.height().await?.saturating_sub(DEPTH))
            }
            Err(fault) => Err(self.endpoint.fault(fault)),
        }
    }

    /// Who used the nonce of `last`, given the account's `next` nonce and the final block
    /// `settled`; `None` if nobody, or unknown.
    pub(super) async fn place(
        &self,
        purpose: &Purpose,
        last: &Try,
        next: u64,
        settled: u64,
    ) -> Result<Option<Place>, ChainError> {
        let provider = self.endpoint.provider();
        for signed in last.signed.iter().rev() {
            let receipt = provider.get_transaction_receipt(signed.hash).await;
            if let Some(receipt) = receipt.map_err(|fault| self.endpoint.fault(fault))? {
                return Ok(Some(Place {
                    taker: Taker::Same {
                        success: receipt.status(),
                    },
                    is_final: self.is_settled(&receipt, settled).await?,
                    receipt: Some(receipt),
                }));
            }
        }
        if next <= last.nonce {
            return Ok(None);
        }
        let is_final = self.count_at(settled).await? > last.nonce;
        let until = match is_final {
            true => settled,
            false => self.endpoint.height().await?,
        };
        let Some(found) = self.find(last.nonce, last.since, until).await? else {
            return Ok(None);
        };
        if !same(purpose, &found) {
            return Ok(Some(Place {
                taker: Taker::Other,
                is_final,
                receipt: None,
            }));
        }
        let receipt = provider.get_transaction_receipt(found.tx_hash()).await;
        let receipt = receipt.map_err(|fault| self.endpoint.fault(fault))?;
        Ok(receipt.map(|receipt| Place {
            taker: Taker::Same {
                success: receipt.status(),
            },
            is_final,
            receipt: Some(receipt),
        }))
    }

    /// Whether a charge that did not happen at its nonce happened at one not in `own`.
    pub(super) async fn elsewhere(
        &self,
        kept: &Kept,
        own: &BTreeSet<u64>,
        settled: u64,
    ) -> Result<Option<bool>, ChainError> {
        let purpose = &kept.entry.purpose;
        let (Some(watch), Some(contract)) = (&kept.watch, purpose.to) else {
            return Ok(Some(false));
        };
        let usage = self.usage(contract, watch, settled).await?;
        if usage < watch.before.saturating_add(watch.bytes) {
            return Ok(Some(false));
        }
        // Usage has grown as much; this account's other transactions tell by whom.
        let Some(first) = kept.entry.tries.first() else {
            return Ok(None);
        };
        let next = self.count_at(settled).await?;
        if next.saturating_sub(first.nonce) > FOREIGN {
            return Ok(None);
        }
        for nonce in first.nonce..next {
            if own.contains(&nonce) {
                continue;
            }
            match self.find(nonce, first.since, settled).await? {
                None => return Ok(None),
                Some(found) if same(purpose, &found) => {
                    let receipt = self.endpoint.provider();
                    let receipt = receipt.get_transaction_receipt(found.tx_hash()).await;
                    match receipt.map_err(|fault| self.endpoint.fault(fault))? {
                        None => return Ok(None),
                        Some(receipt) if receipt.status() => return Ok(Some(true)),
                        Some(_) => {}
                    }
                }
                Some(_) => {}
            }
        }
        Ok(Some(false))
    }

    async fn usage(
        &self,
        contract: Address,
        watch: &Watch,
        block: u64,
    ) -> Result<U256, ChainError> {
        // All dialects share the first fields of the answer.
        let call = PxV2::getStorageUsageInBytesCall {
            tokenId: watch.token,
        };
        self.endpoint
            .call(contract, &call, BlockId::number(block))
            .await
    }

    /// Whether the contract refuses the call in the newest and in the newest final block: so
    /// neither a lagging server nor a passing state decides.
    pub(super) async fn is_refused(&self, purpose: &Purpose) -> Result<bool, ChainError> {
        let settled = BlockId::number(self.final_block().await?);
        for block in [settled, BlockId::latest()] {
            let call = TransactionRequest {
                from: Some(self.address()),
                to: purpose.to.map(TxKind::Call),
                value: Some(purpose.value),
                input: TransactionInput::new(purpose.data.clone()),
                ..TransactionRequest::default()
            };
            let called = self.endpoint.provider().call(call).block(block).await;
            match called.map_err(|fault| self.endpoint.fault(fault)) {
                Ok(_) => return Ok(false),
                Err(fault) if is_refusal(&fault) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(true)
    }

    /// Whether `token` was sold or burned for good.
    ///
    /// # Errors
    /// As [`Endpoint::fault`](crate::endpoint::Endpoint::fault).
    pub(crate) async fn has_lost(
        &self,
        contract: Address,
        token: U256,
    ) -> Result<bool, ChainError> {
        let settled = BlockId::number(self.final_block().await?);
        let call = PxV2::ownerOfCall { tokenId: token };
        // The final block may precede the token's arrival; the newest may be replaced.
        for at in [BlockId::latest(), settled] {
            match self.endpoint.call(contract, &call, at).await {
                Ok(owner) if owner == self.address() => return Ok(false),
                Ok(_) => {}
                Err(fault) if is_refusal(&fault) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(true)
    }

    /// Whether a receipt's block is final: one with this number was, before asking.
    async fn is_settled(
        &self,
        receipt: &TransactionReceipt,
        settled: u64,
    ) -> Result<bool, ChainError> {
        let (Some(number), Some(hash)) = (receipt.block_number, receipt.block_hash) else {
            return Ok(false);
        };
        if number > settled {
            return Ok(false);
        }
        let block = self.endpoint.provider();
        let block = block.get_block_by_number(number.into()).await;
        let block = block.map_err(|fault| self.endpoint.fault(fault))?;
        Ok(block.is_some_and(|block| block.header.hash == hash))
    }

    /// The account's next nonce in a block.
    async fn count_at(&self, block: u64) -> Result<u64, ChainError> {
        let count = self.endpoint.provider();
        let count = count.get_transaction_count(self.address()).number(block);
        count.await.map_err(|fault| self.endpoint.fault(fault))
    }

    /// The account's transaction with `nonce`, mined after block `since` (or slightly before, if
    /// blocks were replaced) and by block `until`.
    async fn find(
        &self,
        nonce: u64,
        since: u64,
        until: u64,
    ) -> Result<Option<alloy::rpc::types::Transaction>, ChainError> {
        // Unused before `low`, used in `high`.
        let (mut low, mut high) = (since.min(until), until);
        let mut step = 1;
        loop {
            match self.count_at(low).await {
                Ok(count) if count <= nonce => break,
                Ok(_) if low == 0 => return Ok(None),
                Ok(_) => {
                    high = low;
                    low = low.saturating_sub(step);
                    step *= 2;
                }
                // Its past is unknown there: search block by block.
                Err(ChainError::Permanent(_) | ChainError::Unserved(_)) => {
                    return self.walk(nonce, since, until).await;
                }
                Err(fault) => return Err(fault),
            }
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.count_at(middle).await? > nonce {
                true => high = middle,
                false => low = middle,
            }
        }
        self.in_block(nonce, high).await
    }

    async fn walk(
        &self,
        nonce: u64,
        since: u64,
        until: u64,
    ) -> Result<Option<alloy::rpc::types::Transaction>, ChainError> {
        let last = until.min(since.saturating_add(WALK));
        let begun = lock(&self.outbox.walked).get(&nonce).copied();
        let first = begun.unwrap_or_else(|| since.saturating_sub(DEPTH));
        for number in (first..=last).take(PORTION) {
            let found = self.in_block(nonce, number).await?;
            if found.is_some() {
                // It stays there unless blocks are replaced.
                lock(&self.outbox.walked).insert(nonce, number);
                return Ok(found);
            }
            // Stored at each block, so that an aborted search resumes.
            lock(&self.outbox.walked).insert(nonce, number + 1);
        }
        let next = lock(&self.outbox.walked).get(&nonce).copied();
        if let Some(next) = next.filter(|next| *next <= last) {
            return Err(ChainError::Transient(format!(
                "who has nonce {nonce} of {} is looked for block by block, since {} does not know it: {} blocks \
                 are left",
                self.address(),
                self.endpoint.current(),
                last - next + 1
            )));
        }
        lock(&self.outbox.walked).remove(&nonce);
        Ok(None)
    }

    async fn in_block(
        &self,
        nonce: u64,
        number: u64,
    ) -> Result<Option<alloy::rpc::types::Transaction>, ChainError> {
        let block = self.endpoint.provider();
        let block = block.get_block_by_number(number.into()).full().await;
        let Some(block) = block.map_err(|fault| self.endpoint.fault(fault))? else {
            return Ok(None);
        };
        let mut all = block.transactions.into_transactions();
        Ok(all.find(|one| one.from() == self.address() && one.nonce() == nonce))
    }
}

/// Whether a transaction does what was wanted.
fn same(purpose: &Purpose, found: &alloy::rpc::types::Transaction) -> bool {
    let to = alloy::consensus::Transaction::to(found);
    to == purpose.to && found.input() == &purpose.data && found.value() == purpose.value
}
