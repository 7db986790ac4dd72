//! Transactions: signed here, written down, sent, and waited for.
//!
//! Invariant: what a transaction would revert with is told before it is signed and paid for; what is
//! signed is on the shelf before it leaves, and is looked after until its block is final (`carry`);
//! every wait has an end. Called by the command line, by the daemon (sync, charges) and by the oracle.

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

/// How long a transaction may take to be mined, unless told otherwise.
const RECEIPT_LIMIT: Duration = Duration::from_secs(180);
/// How long what was sent is left alone before it is sent again, or for more.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at all that concerns a transaction that is waited for.
const STEP: Duration = Duration::from_secs(2);
/// First and longest pause between two looks.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Hears what is waited for.
pub type OnProgress = Arc<dyn Fn(&str) + Send + Sync>;

/// Sends transactions of one account. Clones share its outbox: use clones of one for one account.
#[derive(Clone)]
pub struct Transactor {
    endpoint: Endpoint,
    signer: Signer,
    limit: Duration,
    patience: Duration,
    /// The most that the gas of one transaction may cost, in wei.
    gas_cost_max: Option<U256>,
    /// Whose coin is spent; 0 where that is not known.
    chain_id: u64,
    consent: Consent,
    /// What somebody was told that gas costs at most, and has agreed to, in wei.
    agreed: Option<U256>,
    /// The price that somebody has seen and agreed to, in wei.
    price: Option<U256>,
    /// Blocks on top of what is waited for before it counts as done.
    confirmations: u64,
    progress: Option<OnProgress>,
    place: Place,
    outbox: Arc<Outbox>,
}

/// Who has agreed to what is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consent {
    /// Somebody who was told, or who bounds it.
    Seen,
    /// Somebody who was told what its gas costs at most: that is the bound.
    Agreed,
    /// Somebody who was told of no fees: what its gas costs has a bound.
    Unseen,
    /// Nobody each time: value and gas have a bound together.
    Unasked,
}

/// Where its shelf is.
#[derive(Clone)]
enum Place {
    Folder(PathBuf),
    Shelf(Arc<dyn Shelf>),
}

/// What the clones of a transactor share.
#[derive(Default)]
struct Outbox {
    /// One at a time looks, signs and sends; `None` until the shelf is read.
    desk: tokio::sync::Mutex<Option<Desk>>,
    /// Something is on its way that was not before.
    asked: tokio::sync::Notify,
    /// What somebody in this process waits for, by serial number.
    awaited: Mutex<BTreeSet<u64>>,
    /// How far the blocks were gone through for who has a nonce: the next one.
    walked: Mutex<BTreeMap<u64, u64>>,
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
    /// What it took from the account, in wei: what went along, and its gas. Nothing where that is not at hand.
    pub paid: Option<U256>,
}

/// A transaction that took effect, with its receipt.
struct Sent {
    receipt: TransactionReceipt,
    /// The nonce that it was first signed for.
    nonce: u64,
    /// What went along, in wei.
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

/// What the gas of a transaction has cost, in wei.
#[must_use]
pub fn gas_paid(receipt: &TransactionReceipt) -> U256 {
    U256::from(receipt.gas_used).saturating_mul(U256::from(receipt.effective_gas_price))
}

impl Transactor {
    /// Sends from the account of `wallet`; what was sent is forgotten with the process.
    #[must_use]
    pub fn new(endpoint: Endpoint, wallet: &Wallet) -> Self {
        Self::signed_by(endpoint, Signer::Local(wallet.signer().clone()))
    }

    /// The same from the account of `signer`.
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

    /// The same, keeping in `folder`, which one process has, what is on its way.
    #[must_use]
    pub fn kept_in(self, folder: &Path) -> Self {
        self.over(Place::Folder(folder.to_owned()))
    }

    /// The same, with another shelf.
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

    /// The same with another bound on the time until a transaction is mined.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// The same with another time after which something is sent again.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same with a bound on what the gas of one transaction may cost, in wei.
    #[must_use]
    pub fn with_gas_cost_max(self, gas_cost_max: Option<U256>) -> Self {
        Self {
            gas_cost_max,
            ..self
        }
    }

    /// The same, bounded by what the coin of a chain is worth where no bound is given.
    #[must_use]
    pub fn on_chain(self, chain_id: u64) -> Self {
        Self { chain_id, ..self }
    }

    /// The same for what a price was agreed to, in wei: nothing that costs more is begun.
    #[must_use]
    pub fn with_price(self, price: Option<U256>) -> Self {
        Self { price, ..self }
    }

    /// The same for somebody who was told that the gas of a transaction costs `most` wei at most; a lower bound that
    /// is given stays.
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

    /// The same for what somebody asks for who has seen no fees (`--yes`): where no bound is given, gas costs no
    /// more than is known of the chain's coin, nor much more than it did a moment ago.
    #[must_use]
    pub fn unseen(self) -> Self {
        Self {
            consent: Consent::Unseen,
            ..self
        }
    }

    /// What the gas of a transaction without value may cost at most, in wei; `None` where that is not bounded.
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

    /// The same for what nobody asks for each time: the bound counts the value that goes along, too, and is
    /// known of the chain's coin where none is given. A server that is asked for the fees cannot have more spent.
    #[must_use]
    pub fn unasked(&self) -> Self {
        Self {
            consent: Consent::Unasked,
            agreed: None,
            price: None,
            ..self.clone()
        }
    }

    /// Whether somebody has seen a price and agreed to it.
    #[must_use]
    pub fn is_agreed(&self) -> bool {
        self.price.is_some()
    }

    /// The same, for which something is done when so many blocks lie on top of it.
    #[must_use]
    pub fn with_confirmations(self, confirmations: u64) -> Self {
        Self {
            confirmations,
            ..self
        }
    }

    /// The same, which says what it waits for.
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

    /// Whether nobody asks for what is sent each time.
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

    /// The nonce of the account's next transaction; transactions that wait to be mined count. It is
    /// the index of the name key that `mint` or `register` sets (see `names::key`).
    ///
    /// # Errors
    /// [`ChainError::Transient`] or [`ChainError::Permanent`].
    pub async fn next_nonce(&self) -> Result<u64, ChainError> {
        let desk = self.desk().await?;
        self.free_nonce(desk.get()?).await
    }

    /// Signs and sends a transaction (`to` is `None` to create a contract) and waits until it is
    /// mined. Without a `nonce` it takes the account's next; one that was made for a `nonce` is never
    /// signed at another. The same transaction that an earlier process has left on its way is waited
    /// for, and not sent once more.
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
        let purpose = Purpose {
            to,
            data,
            value,
            bound: nonce.is_some(),
        };
        Ok((self.send_as(call_tag(&purpose), purpose, nonce).await?).receipt)
    }

    /// The same for what `tag` names, whatever its bytes: what is on its way under it is waited for.
    pub(super) async fn send_tagged(
        &self,
        tag: String,
        purpose: Purpose,
    ) -> Result<TransactionReceipt, ChainError> {
        Ok(self.send_as(tag, purpose, None).await?.receipt)
    }

    /// The same under a `tag` that says what it is, whatever its bytes.
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

    /// Makes contracts, one behind the other: `codes` gives the next creation code by the addresses of those
    /// before it, and `None` at the end. The same call, cut off, goes on where it was.
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
        // Not before the last is there: who begins anew finds all of them again.
        for sent in &all {
            self.tell(sent.awaited.serial).await;
        }
        let mined = all.iter().map(Sent::mined);
        Ok(made.into_iter().zip(mined).collect())
    }

    /// The same, whose outcome is told by the caller; a refusal is told here.
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

/// The tag of a call that has no name.
fn call_tag(purpose: &Purpose) -> String {
    let to_whom = purpose.to.map(Address::into_array).unwrap_or_default();
    let value = purpose.value.to_be_bytes::<32>();
    let parts = [&to_whom[..], &value, &purpose.data];
    format!("call {}", keccak256(parts.concat()))
}

/// Somebody waits for an entry: nobody else takes it over.
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

/// Looks again and again, ever more slowly, until a deadline.
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

    /// How long it has gone on, and how long it will: `0:12 of 5:00`.
    fn clock(&self) -> String {
        let shown = |time: Duration| format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60);
        let all = self.deadline.saturating_duration_since(self.begin);
        format!("{} of {}", shown(self.begin.elapsed()), shown(all))
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
        let left = self.deadline - Instant::now();
        sleep(self.backoff.pause().min(left)).await;
        true
    }
}
