//! Carrying what was asked for to its end: written down, sent, sent again, replaced, found, forgotten.
//!
//! Invariant: what [`Entry::next`] wants signed is on the shelf before it is sent; what is on the shelf
//! goes only when its block is final and nobody comes back for it. Called by [`Transactor`]'s senders,
//! and by the daemon for all that is on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::B256;
use alloy::providers::Provider;
use alloy::rpc::types::TransactionReceipt;
use tokio::sync::MutexGuard;
use tokio::time::Instant;

use super::{Place, Transactor};
use crate::chain::ChainError;
use crate::chain::outbox::shelf::{FolderShelf, Kept, Shelf, Watch};
use crate::chain::outbox::{Entry, Look, Outcome, Purpose, Rules, Step, Taker, Try, Wait};

/// The entries of an account, as they are on its shelf.
pub(super) struct Desk {
    shelf: Arc<dyn Shelf>,
    items: BTreeMap<u64, Item>,
}

struct Item {
    kept: Kept,
    /// When it was last sent by this process.
    sent: Option<Instant>,
    /// Its block, once it is in one.
    mined: Option<u64>,
    error: Option<String>,
}

/// How far an entry is.
pub(super) enum Progress {
    /// On its way, under one of these hashes.
    Open(Vec<B256>),
    /// In a block.
    Mined(Box<TransactionReceipt>),
    /// It has ended.
    Over(Outcome),
}

/// What is told of something that was posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// Its tag.
    pub tag: String,
    /// The block that it is in, final or not.
    pub mined: Option<u64>,
    /// How it ended, for good.
    pub over: Option<Outcome>,
    /// Why it does not come on, if so.
    pub error: Option<String>,
}

/// The desk, while nobody else has it.
pub(super) struct Turn<'a>(MutexGuard<'a, Option<Desk>>);

impl Turn<'_> {
    pub(super) fn get(&self) -> Result<&Desk, ChainError> {
        self.0.as_ref().ok_or_else(missing)
    }

    pub(super) fn get_mut(&mut self) -> Result<&mut Desk, ChainError> {
        self.0.as_mut().ok_or_else(missing)
    }
}

fn missing() -> ChainError {
    ChainError::Outbox("it is not open".to_owned())
}

impl Desk {
    /// What an earlier process has left on its way under `tag`, or one that stopped waiting.
    pub(super) fn orphan(&self, tag: &str, awaited: &BTreeSet<u64>) -> Option<u64> {
        let mut items = self.items.iter();
        let found = items.find(|(serial, item)| {
            item.kept.tag == tag
                && !item.kept.claimed
                && !item.kept.told
                && item.kept.over.is_none()
                && !awaited.contains(*serial)
        });
        found.map(|(serial, _)| *serial)
    }

    /// The first nonce of an entry, and the hashes that it may be mined under.
    pub(super) fn signed(&self, serial: u64) -> Result<(u64, Vec<B256>), ChainError> {
        let item = self.items.get(&serial).ok_or_else(missing)?;
        let first = item.kept.entry.tries.first().ok_or_else(missing)?;
        Ok((first.nonce, item.hashes()))
    }

    /// The nonces that all entries had or have.
    fn nonces(&self) -> BTreeSet<u64> {
        self.items.values().flat_map(Item::nonces).collect()
    }

    /// The entry that `nonce` is to be had by.
    fn at_nonce(&self, nonce: u64) -> Option<u64> {
        let mut items = self.items.iter();
        let found = items.find(|(_, item)| {
            let last = item.kept.entry.tries.last();
            item.kept.over.is_none() && last.is_some_and(|last| last.nonce == nonce)
        });
        found.map(|(serial, _)| *serial)
    }

    async fn put(&mut self, serial: u64, kept: Kept) -> Result<(), ChainError> {
        self.shelf.put(serial, kept.to_bytes()?).await?;
        if let Some(item) = self.items.get_mut(&serial) {
            item.kept = kept;
        }
        Ok(())
    }

    /// Removes what is over and wanted by nobody. What is still open must be able to tell the account's
    /// own nonces from others', from its first one on; and a server that lags must not have a nonce
    /// signed for once more: what has later nonces stays, and what has the last one.
    async fn sweep(&mut self) -> Result<(), ChainError> {
        let open = self.items.values().filter(|item| item.kept.over.is_none());
        let first_open = open.filter_map(|item| item.nonces().next()).min();
        let last = self.nonces().last().copied();
        let needed =
            |nonce: u64| first_open.is_some_and(|first| first <= nonce) || last == Some(nonce);
        let done = self.items.iter().filter(|(_, item)| {
            let kept = &item.kept;
            kept.over.is_some() && (kept.told || !kept.claimed) && !item.nonces().any(needed)
        });
        let done: Vec<u64> = done.map(|(serial, _)| *serial).collect();
        for serial in done {
            self.shelf.remove(serial).await?;
            self.items.remove(&serial);
        }
        Ok(())
    }
}

impl Item {
    /// The nonces that it had, the first first.
    fn nonces(&self) -> impl Iterator<Item = u64> {
        self.kept.entry.tries.iter().map(|one| one.nonce)
    }

    fn hashes(&self) -> Vec<B256> {
        let last = self.kept.entry.tries.last();
        let signed = last.map_or(&[][..], |last| &last.signed);
        signed.iter().rev().map(|signed| signed.hash).collect()
    }

    fn posted(&self) -> Posted {
        Posted {
            tag: self.kept.tag.clone(),
            mined: self.mined,
            over: self.kept.over,
            error: self.error.clone(),
        }
    }
}

impl Transactor {
    /// The desk; the shelf is read at the first call.
    pub(super) async fn desk(&self) -> Result<Turn<'_>, ChainError> {
        let mut desk = self.outbox.desk.lock().await;
        if desk.is_none() {
            let shelf: Arc<dyn Shelf> = match &self.place {
                Place::Shelf(shelf) => Arc::clone(shelf),
                Place::Folder(folder) => {
                    let genesis = self.endpoint.provider();
                    let genesis = genesis.get_block_by_number(0.into()).await;
                    let genesis = genesis.map_err(|fault| self.endpoint.fault(fault))?;
                    // Another folder would be taken for one where nothing was signed yet.
                    let genesis = genesis.ok_or_else(|| {
                        let server = self.endpoint.current();
                        ChainError::Permanent(format!(
                            "{server} does not have the chain's first block, by which what was signed is found \
                             again: give a server that has it as the first --rpc-url"
                        ))
                    })?;
                    let genesis = genesis.header.hash;
                    let chain_id = self.endpoint.chain_id().await?;
                    Arc::new(FolderShelf::new(
                        folder,
                        chain_id,
                        &genesis,
                        &self.address(),
                    ))
                }
            };
            let mut items = BTreeMap::new();
            for (serial, bytes) in shelf.load().await? {
                let kept = Kept::from_bytes(&bytes)?;
                let item = Item {
                    kept,
                    sent: None,
                    mined: None,
                    error: None,
                };
                items.insert(serial, item);
            }
            *desk = Some(Desk { shelf, items });
        }
        Ok(Turn(desk))
    }

    /// Asks for `purpose`, under a `tag` of its own, and does not wait: [`Transactor::carry`] brings it
    /// to its end, in this process or the next. Asking again for the same changes nothing. Whoever
    /// asked comes back for the outcome, and then says [`Transactor::forget`].
    ///
    /// # Errors
    /// [`ChainError::Reverted`] when the chain would refuse it, [`ChainError::Transient`] when it does
    /// not answer: then nothing was signed, unless it stands in [`Transactor::posted`].
    pub async fn post(
        &self,
        tag: &str,
        purpose: Purpose,
        watch: Option<Watch>,
    ) -> Result<Posted, ChainError> {
        let mut desk = self.desk().await?;
        let desk = desk.get_mut()?;
        let known = |desk: &Desk| {
            let mut items = desk.items.values();
            let found =
                items.find(|item| item.kept.claimed && !item.kept.told && item.kept.tag == tag);
            found.map(Item::posted)
        };
        if let Some(posted) = known(desk) {
            return Ok(posted);
        }
        self.begin(desk, tag.to_owned(), purpose, Some(watch), None)
            .await?;
        known(desk).ok_or_else(missing)
    }

    /// Everything that was posted and not forgotten, in order.
    ///
    /// # Errors
    /// The shelf cannot be read; the chain does not answer at the first call.
    pub async fn posted(&self) -> Result<Vec<Posted>, ChainError> {
        let desk = self.desk().await?;
        let items = desk.get()?.items.values();
        let claimed = items.filter(|item| item.kept.claimed && !item.kept.told);
        Ok(claimed.map(Item::posted).collect())
    }

    /// The outcome of what was posted under `tag` is known: it may go.
    ///
    /// # Errors
    /// The shelf cannot be written.
    pub async fn forget(&self, tag: &str) -> Result<(), ChainError> {
        let mut desk = self.desk().await?;
        let desk = desk.get_mut()?;
        let mut items = desk.items.iter();
        let found =
            items.find(|(_, item)| item.kept.claimed && !item.kept.told && item.kept.tag == tag);
        if let Some((&serial, item)) = found {
            let kept = Kept {
                told: true,
                ..item.kept.clone()
            };
            desk.put(serial, kept).await?;
        }
        desk.sweep().await
    }

    /// Takes all that is on its way one step further; true when nothing is.
    ///
    /// # Errors
    /// Why something did not come further; the rest did all the same.
    pub async fn carry(&self) -> Result<bool, ChainError> {
        let open: Vec<u64> = {
            let desk = self.desk().await?;
            let items = desk.get()?.items.iter();
            let open = items.filter(|(_, item)| item.kept.over.is_none());
            open.map(|(serial, _)| *serial).collect()
        };
        let mut failed = Ok(());
        for &serial in &open {
            if let Err(fault) = self.step(serial).await {
                failed = Err(fault);
            }
        }
        self.desk().await?.get_mut()?.sweep().await?;
        failed.map(|()| open.is_empty())
    }

    /// Signs, writes down and sends something new; its serial number.
    pub(super) async fn begin(
        &self,
        desk: &mut Desk,
        tag: String,
        purpose: Purpose,
        claimed: Option<Option<Watch>>,
        nonce: Option<u64>,
    ) -> Result<u64, ChainError> {
        self.resume(desk).await;
        let since = self.endpoint.height().await?;
        let next = self.free_nonce(desk).await?;
        if nonce.is_some_and(|nonce| nonce != next) {
            return Err(ChainError::Transient(format!(
                "{} has sent another transaction meanwhile: try again",
                self.address()
            )));
        }
        let signed = self.sign_new(&purpose, next).await?;
        let kept = Kept {
            tag,
            entry: Entry {
                purpose,
                tries: vec![Try {
                    nonce: next,
                    since,
                    signed: vec![signed],
                }],
            },
            claimed: claimed.is_some(),
            watch: claimed.flatten(),
            told: false,
            over: None,
        };
        let last = desk.items.last_key_value();
        let serial = last.map_or(0, |(serial, _)| serial + 1);
        desk.shelf.put(serial, kept.to_bytes()?).await?;
        let item = Item {
            kept,
            sent: None,
            mined: None,
            error: None,
        };
        desk.items.insert(serial, item);
        self.broadcast(desk, serial).await?;
        Ok(serial)
    }

    /// What an earlier process has left may not have been sent: without it nothing that comes after
    /// its nonce is mined.
    async fn resume(&self, desk: &mut Desk) {
        let left = desk.items.iter().filter(|(_, item)| {
            item.kept.over.is_none() && item.sent.is_none() && item.mined.is_none()
        });
        let left: Vec<u64> = left.map(|(serial, _)| *serial).collect();
        for serial in left {
            if let Err(fault) = self.step_at(desk, serial).await {
                tracing::debug!("outbox: {fault}");
            }
        }
    }

    /// The first nonce that nothing has: neither in a block, nor waiting at the node, nor here.
    pub(super) async fn free_nonce(&self, desk: &Desk) -> Result<u64, ChainError> {
        let pending = self.endpoint.provider();
        let pending = pending.get_transaction_count(self.address()).pending();
        let pending = pending.await.map_err(|fault| self.endpoint.fault(fault))?;
        let ours = desk.nonces().last().map_or(0, |nonce| nonce + 1);
        Ok(ours.max(pending))
    }

    /// Whoever waited for an entry knows its outcome. What the shelf does not take here costs the same
    /// answer once more.
    pub(super) async fn tell(&self, serial: u64) {
        let told = async {
            self.step(serial).await?;
            let mut desk = self.desk().await?;
            let desk = desk.get_mut()?;
            if let Some(item) = desk.items.get(&serial) {
                let kept = Kept {
                    told: true,
                    ..item.kept.clone()
                };
                desk.put(serial, kept).await?;
            }
            desk.sweep().await
        };
        if let Err(fault) = told.await {
            tracing::debug!("outbox: {fault}");
        }
    }

    /// Looks at the chain, and does what is next for an entry.
    pub(super) async fn step(&self, serial: u64) -> Result<Progress, ChainError> {
        let mut desk = self.desk().await?;
        let desk = desk.get_mut()?;
        let stepped = self.step_at(desk, serial).await;
        if let Some(item) = desk.items.get_mut(&serial) {
            item.error = stepped.as_ref().err().map(ToString::to_string);
        }
        stepped
    }

    async fn step_at(&self, desk: &mut Desk, serial: u64) -> Result<Progress, ChainError> {
        let item = desk.items.get(&serial).ok_or_else(missing)?;
        if let Some(over) = item.kept.over {
            return Ok(Progress::Over(over));
        }
        let (kept, sent) = (item.kept.clone(), item.sent);
        let last = kept.entry.tries.last().ok_or_else(missing)?.clone();
        let first = last.signed.first().ok_or_else(missing)?;
        let rules = Rules {
            patience: self.patience,
            max_fee: self.fee_cap(first),
        };
        let waited = sent.map_or(Duration::MAX, |sent| sent.elapsed());
        let (look, receipt) = self.look_at(desk, &kept, &last, waited).await?;
        let step = kept.entry.next(&look, &rules);
        if let Some(item) = desk.items.get_mut(&serial) {
            item.mined = receipt.as_ref().and_then(|receipt| receipt.block_number);
        }
        match step {
            Step::Wait(Wait::FeeCap) => {
                return Err(ChainError::Transient(format!(
                    "transaction {} waits: the chain wants {} wei for one gas, more than is allowed",
                    first.hash, look.fee
                )));
            }
            Step::Wait(_) => {}
            Step::Send => self.broadcast(desk, serial).await?,
            Step::Replace { max_fee } => {
                let before = last.signed.last().ok_or_else(missing)?;
                let purpose = &kept.entry.purpose;
                let signed = self.sign_instead(purpose, last.nonce, before, max_fee);
                let signed = signed.await?;
                let mut kept = kept;
                if let Some(last) = kept.entry.tries.last_mut() {
                    last.signed.push(signed);
                }
                desk.put(serial, kept).await?;
                self.broadcast(desk, serial).await?;
            }
            Step::Fill { nonce } => self.fill(desk, nonce).await?,
            Step::Sign { nonce } => {
                let since = self.endpoint.height().await?;
                let nonce = self.free_nonce(desk).await?.max(nonce);
                let signed = self.sign_new(&kept.entry.purpose, nonce).await?;
                let mut kept = kept;
                kept.entry.tries.push(Try {
                    nonce,
                    since,
                    signed: vec![signed],
                });
                desk.put(serial, kept).await?;
                self.broadcast(desk, serial).await?;
            }
            Step::Over(over) => {
                let kept = Kept {
                    over: Some(over),
                    ..kept
                };
                let wanted = kept.claimed;
                if wanted {
                    desk.put(serial, kept).await?;
                } else if let Some(item) = desk.items.get_mut(&serial) {
                    // Found again after a crash, it is over again.
                    item.kept = kept;
                }
                return Ok(match receipt {
                    Some(receipt) => Progress::Mined(Box::new(receipt)),
                    None => Progress::Over(over),
                });
            }
        }
        let hashes = desk.items.get(&serial).map(Item::hashes);
        Ok(match receipt {
            Some(receipt) => Progress::Mined(Box::new(receipt)),
            None => Progress::Open(hashes.unwrap_or_default()),
        })
    }

    async fn look_at(
        &self,
        desk: &Desk,
        kept: &Kept,
        last: &Try,
        waited: Duration,
    ) -> Result<(Look, Option<TransactionReceipt>), ChainError> {
        // In this order: what lies in a block that is final now is so later.
        let settled = self.final_block().await?;
        let next = self.endpoint.provider();
        let next = next.get_transaction_count(self.address()).await;
        let next = next.map_err(|fault| self.endpoint.fault(fault))?;
        let place = self.place(&kept.entry.purpose, last, next, settled).await?;
        let other = place.as_ref();
        let other = other.is_some_and(|place| place.taker == Taker::Other && place.is_final);
        let elsewhere = match other {
            true => self.elsewhere(kept, &desk.nonces(), settled).await?,
            false => Some(false),
        };
        let stuck = place.is_none() && next == last.nonce && waited >= self.patience;
        let look = Look {
            next,
            taken: place.as_ref().map(|place| (place.taker, place.is_final)),
            elsewhere,
            fee: match stuck {
                true => self.fees().await?.max_fee,
                false => 0,
            },
            waited,
        };
        Ok((look, place.and_then(|place| place.receipt)))
    }

    /// What had a nonce before ours is gone: what is ours there is sent again; what waits there at the
    /// node is left alone; else it is given to nothing.
    async fn fill(&self, desk: &mut Desk, nonce: u64) -> Result<(), ChainError> {
        if let Some(serial) = desk.at_nonce(nonce) {
            return self.broadcast(desk, serial).await;
        }
        let pending = self.endpoint.provider();
        let pending = pending.get_transaction_count(self.address()).pending();
        let pending = pending.await.map_err(|fault| self.endpoint.fault(fault))?;
        if pending > nonce {
            return Ok(());
        }
        let nothing = self.sign_nothing(nonce).await?;
        self.leave(&nothing.raw).await
    }

    /// Sends the newest bytes of an entry.
    async fn broadcast(&self, desk: &mut Desk, serial: u64) -> Result<(), ChainError> {
        let item = desk.items.get_mut(&serial).ok_or_else(missing)?;
        let last = item.kept.entry.tries.last();
        let signed = last.and_then(|last| last.signed.last());
        let raw = signed.ok_or_else(missing)?.raw.clone();
        item.sent = Some(Instant::now());
        self.leave(&raw).await
    }

    async fn leave(&self, raw: &[u8]) -> Result<(), ChainError> {
        let sent = self.endpoint.provider().send_raw_transaction(raw).await;
        match sent.map_err(|fault| self.endpoint.fault(fault)) {
            Ok(_) => Ok(()),
            // It may have arrived although no answer came.
            Err(ChainError::Transient(_)) => Ok(()),
            Err(fault) => {
                let words = fault.to_string().to_lowercase();
                // It is there, or what replaces it is, or its nonce was taken meanwhile: looked at next.
                let known = ["already", "nonce too low", "underpriced"];
                match known.iter().any(|known| words.contains(known)) {
                    true => Ok(()),
                    false => Err(fault),
                }
            }
        }
    }
}
