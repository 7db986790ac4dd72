//! Transactions: signed, stored, sent and awaited.
//!
//! Invariant: a revert is reported before signing and paying; what is signed is stored before it is
//! sent, and driven until its block is final (`carry`); every wait ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::providers::Provider;
use alloy::rpc::types::TransactionReceipt;
use pxfs_base::backoff::Backoff;
use pxfs_base::lock;
use tokio::time::{Instant, sleep, timeout_at};

use super::ChainError;
use super::coin;
use super::endpoint::Endpoint;
use super::outbox::shelf::{MemoryShelf, Shelf};
use super::outbox::{Outcome, Purpose};
use super::signer::Signer;
use super::wallet::Wallet;

mod actions;
mod calldata;
mod carry;
mod confirm;
mod desk;
mod look;
mod sign;
mod sync;
#[cfg(test)]
mod tests;

pub use actions::{Minted, Registered};
pub use calldata::{
    anchor_calldata, mint_bare_calldata, mint_calldata, register_calldata, sync_calldata,
    update_calldata, upgrade_calldata, uploads_calldata,
};
pub use desk::Posted;
pub use sign::Cost;
pub use sync::{SyncRequest, Synced, sync_fee};

use desk::{Desk, Progress};

/// The default limit for mining a transaction.
const RECEIPT_LIMIT: Duration = Duration::from_secs(180);
/// How long to wait before sending again, or for more.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two full checks of an awaited transaction.
const STEP: Duration = Duration::from_secs(2);
/// First and longest pause between two checks.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Receives progress messages.
pub type OnProgress = Arc<dyn Fn(&str) + Send + Sync>;

/// Sends one account's transactions. Clones share its outbox: use one instance's clones per
/// account.
#[derive(Clone)]
pub struct Transactor {
    endpoint: Endpoint,
    signer: Signer,
    limit: Duration,
    patience: Duration,
    /// The most for one transaction's gas, wei.
    gas_cost_max: Option<U256>,
    /// The chain whose coin is spent; 0 if unknown.
    chain_id: u64,
    consent: Consent,
    /// The gas cost that the user was shown and agreed to, wei.
    agreed: Option<U256>,
    /// The price that the user was shown and agreed to, wei.
    price: Option<U256>,
    /// Blocks on top required before something counts as done.
    confirmations: u64,
    progress: Option<OnProgress>,
    place: Place,
    outbox: Arc<Outbox>,
}

/// Who agreed to the cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consent {
    /// A user who saw it, or who bounds it.
    Seen,
    /// A user who saw the highest gas cost: that is the limit.
    Agreed,
    /// A user who saw no fees: gas is limited.
    Unseen,
    /// Nobody: value and gas share a limit.
    Unasked,
}

/// Where entries are stored.
#[derive(Clone)]
enum Place {
    Folder(PathBuf),
    Shelf(Arc<dyn Shelf>),
}

/// Shared by clones.
#[derive(Default)]
struct Outbox {
    /// Serialises checking, signing and sending; `None` until entries are loaded.
    desk: tokio::sync::Mutex<Option<Desk>>,
    /// Signals that something new is pending.
    asked: tokio::sync::Notify,
    /// Serial numbers that somebody in this process waits for.
    awaited: Mutex<BTreeSet<u64>>,
    /// The next block to search for each nonce's user.
    walked: Mutex<BTreeMap<u64, u64>>,
}

impl fmt::Debug for Transactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transactor({})", self.address())
    }
}

/// A mined transaction that took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mined {
    /// Hash of the transaction.
    pub transaction: B256,
    /// Number of its block.
    pub block: u64,
    /// Its cost to the account, wei: value and gas. `None` if unknown.
    pub paid: Option<U256>,
}

/// A transaction that took effect, with its receipt.
struct Sent {
    receipt: TransactionReceipt,
    /// The nonce first signed.
    nonce: u64,
    /// Its value, wei.
    value: U256,
    awaited: Awaited,
}

impl Sent {
    fn mined(&self) -> Mined {
        Mined {
            transaction: self.receipt.transaction_hash,
            block: self.receipt.block_number.unwrap_or_default(),
            paid: Some(self.value.saturating_add(gas_paid(&self.receipt))),
        }
    }
}

/// A transaction's gas cost, wei.
#[must_use]
pub fn gas_paid(receipt: &TransactionReceipt) -> U256 {
    U256::from(receipt.gas_used).saturating_mul(U256::from(receipt.effective_gas_price))
}

impl Transactor {
    /// Sends from `wallet`'s account; sent transactions are forgotten with the process.
    #[must_use]
    pub fn new(endpoint: Endpoint, wallet: &Wallet) -> Self {
        Self::signed_by(endpoint, Signer::Local(wallet.signer().clone()))
    }

    /// Sends from `signer`'s account.
    #[must_use]
    pub fn signed_by(endpoint: Endpoint, signer: Signer) -> Self {
        Self {
            endpoint,
            signer,
            limit: RECEIPT_LIMIT,
            patience: PATIENCE,
            gas_cost_max: None,
            chain_id: 0,
            consent: Consent::Seen,
            agreed: None,
            price: None,
            confirmations: 0,
            progress: None,
            place: Place::Shelf(Arc::new(MemoryShelf::default())),
            outbox: Arc::default(),
        }
    }

    /// Stores pending transactions in `folder`, exclusive to one process.
    #[must_use]
    pub fn kept_in(self, folder: &Path) -> Self {
        self.over(Place::Folder(folder.to_owned()))
    }

    /// Uses another storage.
    #[must_use]
    pub fn with_shelf(self, shelf: Arc<dyn Shelf>) -> Self {
        self.over(Place::Shelf(shelf))
    }

    fn over(self, place: Place) -> Self {
        Self {
            place,
            outbox: Arc::default(),
            ..self
        }
    }

    /// Limits the time until a transaction is mined.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Sets the time after which something is sent again.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Limits the gas cost of one transaction, wei.
    #[must_use]
    pub fn with_gas_cost_max(self, gas_cost_max: Option<U256>) -> Self {
        Self {
            gas_cost_max,
            ..self
        }
    }

    /// Without a limit, applies the one for the chain's coin.
    #[must_use]
    pub fn on_chain(self, chain_id: u64) -> Self {
        Self { chain_id, ..self }
    }

    /// Nothing that costs more than this agreed price is begun, wei.
    #[must_use]
    pub fn with_price(self, price: Option<U256>) -> Self {
        Self { price, ..self }
    }

    /// The user agreed to gas of at most `most` wei; a lower limit stays.
    #[must_use]
    pub fn agreed(self, most: U256) -> Self {
        let is_bounded = self.gas_cost_max.is_some_and(|given| given < most);
        Self {
            consent: match is_bounded {
                true => self.consent,
                false => Consent::Agreed,
            },
            agreed: Some(most),
            ..self
        }
    }

    /// For a user who saw no fees (`--yes`): without a limit, gas costs no more than the coin's
    /// limit, nor much more than a moment ago.
    #[must_use]
    pub fn unseen(self) -> Self {
        Self {
            consent: Consent::Unseen,
            ..self
        }
    }

    /// The limit on the gas of a transaction without value, wei, if any.
    #[must_use]
    pub fn bound(&self) -> Option<U256> {
        match self.consent {
            Consent::Seen => self.gas_cost_max,
            Consent::Agreed => self.agreed,
            Consent::Unseen | Consent::Unasked => {
                let most = self.gas_cost_max;
                Some(most.unwrap_or_else(|| coin::unseen_max(self.chain_id)))
            }
        }
    }

    /// For unattended transactions: the limit covers gas and value, and defaults to the coin's, so
    /// that a lying server cannot have more spent.
    #[must_use]
    pub fn unasked(&self) -> Self {
        Self {
            consent: Consent::Unasked,
            agreed: None,
            price: None,
            ..self.clone()
        }
    }

    /// Whether a user saw a price and agreed to it.
    #[must_use]
    pub fn is_agreed(&self) -> bool {
        self.price.is_some()
    }

    /// Requires this many blocks on top.
    #[must_use]
    pub fn with_confirmations(self, confirmations: u64) -> Self {
        Self {
            confirmations,
            ..self
        }
    }

    /// Reports what it waits for.
    #[must_use]
    pub fn with_progress(self, progress: OnProgress) -> Self {
        Self {
            progress: Some(progress),
            ..self
        }
    }

    fn report(&self, what: &str) {
        if let Some(progress) = &self.progress {
            progress(what);
        }
    }

    fn is_unasked(&self) -> bool {
        self.consent == Consent::Unasked
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

    /// The nonce of the account's next transaction, counting pending ones. It is the index of the name key
    /// that `mint` or `register` sets (see `names::key`).
    ///
    /// # Errors
    /// [`ChainError::Transient`] or [`ChainError::Permanent`].
    pub async fn next_nonce(&self) -> Result<u64, ChainError> {
        let desk = self.desk().await?;
        self.free_nonce(desk.get()?).await
    }

    /// Signs and sends a transaction (`to` is `None` to create a contract), and waits until it is mined.
    /// Without a `nonce` it takes the next; with one it is never signed at another. If an earlier process
    /// left the same transaction pending, this waits for that one instead.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] with the reason, [`ChainError::Transient`] if `nonce` is no longer the next,
    /// or it is not mined in time (it may be, later).
    pub async fn send(
        &self,
        to: Option<Address>,
        data: Bytes,
        value: U256,
        nonce: Option<u64>,
    ) -> Result<TransactionReceipt, ChainError> {
        let purpose = Purpose {
            to,
            data,
            value,
            bound: nonce.is_some(),
        };
        Ok((self.send_as(call_tag(&purpose), purpose, nonce).await?).receipt)
    }

    /// Identifies the transaction by `tag`, whatever its bytes: waits for a pending one.
    pub(super) async fn send_tagged(
        &self,
        tag: String,
        purpose: Purpose,
    ) -> Result<TransactionReceipt, ChainError> {
        Ok(self.send_as(tag, purpose, None).await?.receipt)
    }

    /// The same, with a `tag` from the caller.
    async fn send_as(
        &self,
        tag: String,
        purpose: Purpose,
        nonce: Option<u64>,
    ) -> Result<Sent, ChainError> {
        let sent = self.send_for(tag, purpose, nonce).await?;
        self.tell(sent.awaited.serial).await;
        Ok(sent)
    }

    /// Creates contracts in sequence: `codes` gives the next creation code from the addresses before it,
    /// `None` at the end. An aborted call resumes if repeated.
    ///
    /// # Errors
    /// As [`Transactor::send`].
    pub async fn create_all(
        &self,
        mut codes: impl FnMut(&[Address]) -> Result<Option<Bytes>, ChainError>,
    ) -> Result<Vec<(Address, Mined)>, ChainError> {
        let (mut made, mut all) = (Vec::new(), Vec::new());
        while let Some(code) = codes(&made)? {
            let purpose = Purpose {
                to: None,
                data: code,
                value: U256::ZERO,
                bound: false,
            };
            let sent = self.send_for(call_tag(&purpose), purpose, None).await?;
            let address = sent.receipt.contract_address;
            made.push(address.ok_or_else(|| {
                ChainError::Permanent("the chain does not say where the contract is".to_owned())
            })?);
            all.push(sent);
        }
        // Only after the last: a new attempt must find all of them.
        for sent in &all {
            self.tell(sent.awaited.serial).await;
        }
        let mined = all.iter().map(Sent::mined);
        Ok(made.into_iter().zip(mined).collect())
    }

    /// The same; the caller reports success, this a refusal.
    async fn send_for(
        &self,
        tag: String,
        purpose: Purpose,
        nonce: Option<u64>,
    ) -> Result<Sent, ChainError> {
        let begun = self.whole(|this| async move {
            let mut desk = this.desk().await?;
            let desk = desk.get_mut()?;
            let orphan = desk.orphan(&tag, &lock(&this.outbox.awaited));
            let serial = match orphan {
                Some(serial) => {
                    tracing::warn!("what an earlier command sent, and did not see the end of, is not sent once more");
                    desk.reopen(serial);
                    this.outbox.asked.notify_one();
                    serial
                }
                None => this.begin(desk, tag, purpose, None, nonce).await?,
            };
            let signed = desk.signed(serial)?;
            Ok((Awaited::new(&this.outbox, serial), signed))
        });
        let (awaited, signed) = begun.await?;
        let receipt = self.wait_deep(awaited.serial, &signed.hashes).await?;
        let hash = receipt.transaction_hash;
        if !receipt.status() {
            self.tell(awaited.serial).await;
            let used = receipt.gas_used;
            let line = format!("{hash} was reverted, after {used} gas");
            return Err(ChainError::Reverted(line));
        }
        Ok(Sent {
            receipt,
            nonce: signed.nonce,
            value: signed.value,
            awaited,
        })
    }

    async fn wait(
        &self,
        serial: u64,
        mut hashes: Vec<B256>,
    ) -> Result<TransactionReceipt, ChainError> {
        let mut look = Look::within(self.limit);
        let mut stepped = Instant::now();
        loop {
            let hash = hashes.first().copied().unwrap_or_default();
            let clock = look.clock();
            self.report(&format!(
                "transaction {hash}; waiting for its block, {clock}; Ctrl-C is safe"
            ));
            for hash in &hashes {
                let receipt = self.endpoint.provider().get_transaction_receipt(*hash);
                match look.bound(receipt).await {
                    Some(Ok(Some(receipt))) => return Ok(receipt),
                    Some(Err(fault)) => match self.endpoint.fault(fault) {
                        ChainError::Transient(_) => {}
                        fault => return Err(fault),
                    },
                    Some(Ok(None)) | None => {}
                }
            }
            if stepped.elapsed() >= STEP.min(self.patience) {
                match look.bound(self.step(serial)).await {
                    Some(Ok(Progress::Open(now))) => hashes = now,
                    Some(Ok(Progress::Mined(receipt))) => return Ok(*receipt),
                    Some(Ok(Progress::Over(Outcome::Lost))) => {
                        return Err(ChainError::Reverted(format!(
                            "not done: another transaction of {} has its nonce, so it was cancelled or replaced: say it again if it is still wanted",
                            self.address()
                        )));
                    }
                    Some(Ok(Progress::Over(_))) => {
                        return Err(ChainError::Permanent(
                            "the transaction is mined, and its receipt is not to be had".into(),
                        ));
                    }
                    Some(Err(ChainError::Transient(_))) | None => {}
                    Some(Err(fault)) => return Err(fault),
                }
                stepped = Instant::now();
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

fn call_tag(purpose: &Purpose) -> String {
    let to_whom = purpose.to.map(Address::into_array).unwrap_or_default();
    let value = purpose.value.to_be_bytes::<32>();
    let parts = [&to_whom[..], &value, &purpose.data];
    format!("call {}", keccak256(parts.concat()))
}

/// A waiter for an entry: nobody else takes it over.
struct Awaited {
    outbox: Arc<Outbox>,
    serial: u64,
}

impl Awaited {
    fn new(outbox: &Arc<Outbox>, serial: u64) -> Self {
        lock(&outbox.awaited).insert(serial);
        Self {
            outbox: Arc::clone(outbox),
            serial,
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        lock(&self.outbox.awaited).remove(&self.serial);
    }
}

/// Retries ever more slowly until a deadline.
struct Look {
    begin: Instant,
    deadline: Instant,
    backoff: Backoff,
}

impl Look {
    fn within(limit: Duration) -> Self {
        let begin = Instant::now();
        Self {
            begin,
            deadline: begin + limit,
            backoff: Backoff::new(PAUSE_MIN, PAUSE_MAX),
        }
    }

    /// Elapsed and total time: `0:12 of 5:00`.
    fn clock(&self) -> String {
        let shown = |time: Duration| format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60);
        let all = self.deadline.saturating_duration_since(self.begin);
        format!("{} of {}", shown(self.begin.elapsed()), shown(all))
    }

    /// The result of `task`, unless the deadline comes first.
    async fn bound<T>(&self, task: impl IntoFuture<Output = T>) -> Option<T> {
        timeout_at(self.deadline, task.into_future()).await.ok()
    }

    /// Waits; false once the deadline has passed.
    async fn again(&mut self) -> bool {
        if Instant::now() >= self.deadline {
            return false;
        }
        let left = self.deadline - Instant::now();
        sleep(self.backoff.pause().min(left)).await;
        true
    }
}
