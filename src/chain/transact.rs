//! Transactions: signed here, sent, and waited for.
//!
//! Invariant: what a transaction would revert with is told before it is sent and paid for; one
//! account sends one transaction at a time; every wait has an end. Called by the command line, by
//! the daemon (sync) and by the oracle.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alloy::consensus::TxEnvelope;
use alloy::eips::eip2718::Encodable2718;
use alloy::network::{EthereumWallet, NetworkTransactionBuilder, TransactionBuilder};
use alloy::primitives::{Address, B256, Bytes, TxKind, U256};
use alloy::providers::Provider;
use alloy::rpc::types::{TransactionInput, TransactionReceipt, TransactionRequest};
use alloy::signers::local::PrivateKeySigner;
use tokio::time::{Instant, sleep, timeout_at};

use super::ChainError;
use super::endpoint::Endpoint;
use super::wallet::Wallet;

mod actions;

pub use actions::{
    Minted, SyncRequest, Synced, mint_bare_calldata, mint_calldata, register_calldata,
    sync_calldata, upgrade_calldata,
};

/// How long a transaction may take to be mined, unless told otherwise.
const RECEIPT_LIMIT: Duration = Duration::from_secs(180);
/// First and longest pause between two looks.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Sends transactions of one account. Clones share its queue: use clones of one for one account.
#[derive(Clone)]
pub struct Transactor {
    endpoint: Endpoint,
    signer: PrivateKeySigner,
    limit: Duration,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl fmt::Debug for Transactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transactor({})", self.address())
    }
}

/// A transaction that is mined and took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mined {
    /// Hash of the transaction.
    pub transaction: B256,
    /// Number of its block.
    pub block: u64,
}

impl Transactor {
    /// Sends from the account of `wallet`.
    #[must_use]
    pub fn new(endpoint: Endpoint, wallet: &Wallet) -> Self {
        Self {
            endpoint,
            signer: wallet.signer().clone(),
            limit: RECEIPT_LIMIT,
            turn: Arc::default(),
        }
    }

    /// The same with another bound on the time until a transaction is mined.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// The account.
    #[must_use]
    pub fn address(&self) -> Address {
        self.signer.address()
    }

    /// The chain that it sends to.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The nonce of the account's next transaction; transactions that wait to be mined count. It is
    /// the index of the name key that `mint` or `register` sets (see `names::key`).
    ///
    /// # Errors
    /// [`ChainError::Transient`] or [`ChainError::Permanent`].
    pub async fn next_nonce(&self) -> Result<u64, ChainError> {
        let nonce = self
            .endpoint
            .provider()
            .get_transaction_count(self.address());
        nonce
            .pending()
            .await
            .map_err(|fault| self.endpoint.fault(fault))
    }

    /// Signs and sends a transaction (`to` is `None` to create a contract) and waits until it is
    /// mined. Without a `nonce` it takes the account's next.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] with the reason, [`ChainError::Transient`] when `nonce` is not the
    /// account's next any more, or the transaction is not mined in time (it may be, later).
    pub async fn send(
        &self,
        to: Option<Address>,
        data: Bytes,
        value: U256,
        nonce: Option<u64>,
    ) -> Result<TransactionReceipt, ChainError> {
        let _turn = self.turn.lock().await;
        let next = self.next_nonce().await?;
        if nonce.is_some_and(|nonce| nonce != next) {
            return Err(ChainError::Transient(format!(
                "{} has sent another transaction meanwhile: try again",
                self.address()
            )));
        }
        let request = TransactionRequest {
            from: Some(self.address()),
            to: Some(to.map_or(TxKind::Create, TxKind::Call)),
            value: Some(value),
            input: TransactionInput::new(data),
            nonce: Some(next),
            chain_id: Some(self.endpoint.chain_id().await?),
            ..TransactionRequest::default()
        };
        let envelope = self.sign(self.price_gas(request).await?).await?;
        let hash = *envelope.tx_hash();
        let provider = self.endpoint.provider();
        match provider
            .send_raw_transaction(&envelope.encoded_2718())
            .await
        {
            Ok(_) => {}
            Err(fault) => match self.endpoint.fault(fault) {
                // It may have arrived although no answer came.
                ChainError::Transient(_) => {}
                ChainError::Permanent(what) if what.contains("already") => {}
                fault => return Err(fault),
            },
        }
        self.receipt(hash).await
    }

    /// Adds gas and fees. A node runs the transaction for that, so here a revert comes out.
    async fn price_gas(
        &self,
        mut request: TransactionRequest,
    ) -> Result<TransactionRequest, ChainError> {
        let provider = self.endpoint.provider();
        let gas = provider.estimate_gas(request.clone()).await;
        let gas = gas.map_err(|fault| self.endpoint.fault(fault))?;
        // The state may be another when it is mined; what is not used is not paid.
        request.set_gas_limit(gas + gas / 4);
        match provider.estimate_eip1559_fees().await {
            Ok(fees) => {
                request.set_max_fee_per_gas(fees.max_fee_per_gas);
                request.set_max_priority_fee_per_gas(fees.max_priority_fee_per_gas);
            }
            // A chain without EIP-1559.
            Err(_) => {
                let price = provider.get_gas_price().await;
                request.set_gas_price(price.map_err(|fault| self.endpoint.fault(fault))?);
            }
        }
        Ok(request)
    }

    async fn sign(&self, request: TransactionRequest) -> Result<TxEnvelope, ChainError> {
        let wallet = EthereumWallet::from(self.signer.clone());
        let signed = request.build(&wallet).await;
        signed.map_err(|fault| ChainError::Permanent(format!("cannot be signed: {fault}")))
    }

    async fn receipt(&self, hash: B256) -> Result<TransactionReceipt, ChainError> {
        let mut look = Look::until(Instant::now() + self.limit);
        loop {
            let receipt = self.endpoint.provider().get_transaction_receipt(hash);
            match look.bound(receipt).await {
                Some(Ok(Some(receipt))) if receipt.status() => return Ok(receipt),
                Some(Ok(Some(receipt))) => {
                    let used = receipt.gas_used;
                    let line = format!("{hash} was reverted, after {used} gas");
                    return Err(ChainError::Reverted(line));
                }
                Some(Err(fault)) => match self.endpoint.fault(fault) {
                    ChainError::Transient(_) => {}
                    fault => return Err(fault),
                },
                Some(Ok(None)) | None => {}
            }
            if !look.again().await {
                return Err(ChainError::Transient(format!(
                    "transaction {hash} is not mined after {} s; it may be later",
                    self.limit.as_secs()
                )));
            }
        }
    }
}

/// Looks again and again, ever more slowly, until a deadline.
struct Look {
    deadline: Instant,
    pause: Duration,
}

impl Look {
    fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            pause: PAUSE_MIN,
        }
    }

    /// The outcome of `task`, unless the deadline comes first.
    async fn bound<T>(&self, task: impl IntoFuture<Output = T>) -> Option<T> {
        timeout_at(self.deadline, task.into_future()).await.ok()
    }

    /// Waits; false when the deadline has passed.
    async fn again(&mut self) -> bool {
        if Instant::now() >= self.deadline {
            return false;
        }
        sleep(self.pause.min(self.deadline - Instant::now())).await;
        self.pause = (self.pause * 3 / 2).min(PAUSE_MAX);
        true
    }
}

fn mined(receipt: &TransactionReceipt) -> Mined {
    Mined {
        transaction: receipt.transaction_hash,
        block: receipt.block_number.unwrap_or_default(),
    }
}
