//! Waits for `--confirmations` blocks on top.
//!
//! Invariant: a transaction that moved to another block is waited for anew, and every wait ends.

use std::time::Duration;

use alloy::primitives::B256;
use alloy::providers::Provider;
use alloy::rpc::types::TransactionReceipt;

use super::{Look, Transactor};
use crate::ChainError;

/// The longest block time of a running chain.
const BLOCK: Duration = Duration::from_secs(60);

impl Transactor {
    pub(super) fn confirming(&self) -> Duration {
        BLOCK.saturating_mul(u32::try_from(self.confirmations).unwrap_or(u32::MAX))
    }

    /// Blocks on top of `block`; 0 if unknown.
    pub(super) async fn on_top(&self, block: u64) -> u64 {
        match self.confirmations {
            0 => 0,
            _ => self
                .endpoint
                .height()
                .await
                .map_or(0, |height| height.saturating_sub(block)),
        }
    }

    pub(super) async fn wait_deep(
        &self,
        serial: u64,
        hashes: &[B256],
    ) -> Result<TransactionReceipt, ChainError> {
        let mut receipt = self.wait(serial, hashes.to_vec()).await?;
        let mut look = Look::within(self.confirming());
        while !self.is_deep(&receipt, &mut look).await? {
            receipt = self.wait(serial, hashes.to_vec()).await?;
        }
        Ok(receipt)
    }

    /// Waits until the mined `transaction` is deep enough.
    ///
    /// # Errors
    /// [`ChainError::Transient`] if that takes too long, or it is in no block any more.
    pub async fn confirm(&self, transaction: B256) -> Result<(), ChainError> {
        if self.confirmations == 0 {
            return Ok(());
        }
        let mut look = Look::within(self.confirming());
        let receipt = self.endpoint.provider();
        let receipt = receipt.get_transaction_receipt(transaction).await;
        let receipt = receipt.map_err(|fault| self.endpoint.fault(fault))?;
        let is_there = match receipt {
            Some(receipt) => self.is_deep(&receipt, &mut look).await?,
            None => false,
        };
        match is_there {
            true => Ok(()),
            false => Err(ChainError::Transient(format!(
                "transaction {transaction} is in no block any more; it is sent again by itself"
            ))),
        }
    }

    /// Waits for the required blocks on top; false if it left its block.
    async fn is_deep(
        &self,
        receipt: &TransactionReceipt,
        look: &mut Look,
    ) -> Result<bool, ChainError> {
        if self.confirmations == 0 {
            return Ok(true);
        }
        let (hash, wanted) = (receipt.transaction_hash, self.confirmations);
        let block = receipt.block_number.unwrap_or_default();
        loop {
            let on_top = look.bound(self.on_top(block)).await.unwrap_or_default();
            if on_top >= wanted {
                let now = self.endpoint.provider().get_transaction_receipt(hash);
                match look.bound(now).await {
                    Some(Ok(Some(now))) => return Ok(now.block_hash == receipt.block_hash),
                    Some(Ok(None)) => return Ok(false),
                    // Retry.
                    Some(Err(_)) | None => {}
                }
            }
            let clock = look.clock();
            self.report(&format!(
                "transaction {hash} in block {block}; {on_top} of {wanted} blocks on top, {clock}; Ctrl-C is safe"
            ));
            if !look.again().await {
                return Err(self.too_shallow(&format!("transaction {hash}"), block, on_top));
            }
        }
    }

    /// The message if something took effect but the blocks on top do not come.
    pub(super) fn too_shallow(&self, what: &str, block: u64, on_top: u64) -> ChainError {
        ChainError::Transient(format!(
            "{what} took effect in block {block}, and has {on_top} of {} blocks on top after {} s: nothing needs to be paid again; look at `pxfs tokens` later",
            self.confirmations,
            self.confirming().as_secs()
        ))
    }
}
