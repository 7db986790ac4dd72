//! Transactions: signed here, sent, and waited for.
//!
//! Invariant: what a transaction would revert with is told before it is sent and paid for; one
//! account sends one transaction at a time; every wait has an end. Called by the command line, by
//! the daemon (sync) and by the oracle.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alloy::consensus::TxEnvelope;
use alloy::eips::BlockId;
use alloy::eips::eip2718::Encodable2718;
use alloy::network::{EthereumWallet, NetworkTransactionBuilder, TransactionBuilder};
use alloy::primitives::{Address, B256, Bytes, TxKind, U256};
use alloy::providers::Provider;
use alloy::rpc::types::{Filter, TransactionInput, TransactionReceipt, TransactionRequest};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolEvent};
use tokio::time::{Instant, sleep, timeout_at};

use super::ChainError;
use super::contract::{PxSync, failure};
use super::endpoint::Endpoint;
use super::wallet::Wallet;
use crate::types::TokenId;

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
        let data = mint_calldata(package, name);
        self.buy(contract, package, data, Some(nonce)).await
    }

    /// Mints a token of `package` that has no name key yet, as a block explorer does.
    ///
    /// # Errors
    /// As [`Transactor::mint`].
    pub async fn mint_bare(&self, contract: Address, package: u64) -> Result<Minted, ChainError> {
        let data = mint_bare_calldata(package);
        self.buy(contract, package, data, None).await
    }

    async fn buy(
        &self,
        contract: Address,
        package: u64,
        data: Bytes,
        nonce: Option<u64>,
    ) -> Result<Minted, ChainError> {
        let price = self.price(contract, package).await?;
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

fn mined(receipt: &TransactionReceipt) -> Mined {
    Mined {
        transaction: receipt.transaction_hash,
        block: receipt.block_number.unwrap_or_default(),
    }
}
