//! Drives pending transactions to their end: stored, sent, resent, replaced, found, forgotten.
//!
//! Invariant: what [`Entry::next`] wants signed is stored before it is sent; an entry is deleted
//! only when its block is final and nobody returns for it.

use std::time::Duration;

use alloy::primitives::B256;
use alloy::providers::Provider;
use alloy::rpc::types::TransactionReceipt;
use tokio::time::{Instant, timeout};

use super::Transactor;
use super::desk::{Desk, Item, Posted, Progress, is_unheard, missing};
use super::look::Heads;
use super::sign::gas_instead;
use crate::ChainError;
use crate::endpoint::is_refusal;
use crate::outbox::shelf::{Kept, Watch};
use crate::outbox::{Entry, Look, Outcome, Purpose, Rules, Step, Taker, Try, Wait};

/// The message if a server refuses a transaction that is already stored.
fn kept_all_the_same(why: &str) -> String {
    format!(
        "{why}: it stays written down, and is sent again by the daemon, or by the same command, which waits for it"
    )
}

/// Resend after one patience, two, four, at most this many.
const ROUNDS_MAX: u32 = 16;
/// The limit on checking the chain for one entry, while others wait.
const LOOK_LIMIT: Duration = Duration::from_secs(60);

impl Transactor {
    /// Requests `purpose` under its own `tag`, without waiting: [`Transactor::carry`] completes it, in this
    /// process or the next. Idempotent. The caller returns for the outcome, then calls
    /// [`Transactor::forget`].
    ///
    /// # Errors
    /// [`ChainError::Reverted`] if the chain would refuse it, [`ChainError::Transient`] if it does not
    /// answer: then nothing was signed, unless [`Transactor::posted`] lists it.
    pub async fn post(
        &self,
        tag: &str,
        purpose: Purpose,
        watch: Option<Watch>,
    ) -> Result<Posted, ChainError> {
        let tag = tag.to_owned();
        self.whole(|this| async move {
            let mut desk = this.desk().await?;
            let desk = desk.get_mut()?;
            if let Some(posted) = desk.claimed(&tag) {
                return Ok(posted);
            }
            this.begin(desk, tag.clone(), purpose, Some(watch), None)
                .await?;
            desk.claimed(&tag).ok_or_else(missing)
        })
        .await
    }

    /// All that was posted and not forgotten, in order.
    ///
    /// # Errors
    /// The entries cannot be read; the chain does not answer at the first call.
    pub async fn posted(&self) -> Result<Vec<Posted>, ChainError> {
        let mut desk = self.desk().await?;
        let items = || desk.get().map(|desk| desk.items.values());
        let claimed = |item: &&Item| item.kept.claimed && !item.kept.told;
        // Its block is unknown if it ended in an earlier process, but is not later than now.
        let blind = |item: &&Item| item.kept.over.is_some() && item.mined.is_none();
        if items()?.filter(claimed).any(|item| blind(&item)) {
            let height = self.endpoint.height().await?;
            for item in desk.get_mut()?.items.values_mut() {
                if blind(&&*item) {
                    item.mined = Some(height);
                }
            }
        }
        Ok(desk
            .get()?
            .items
            .values()
            .filter(claimed)
            .map(Item::posted)
            .collect())
    }

    /// Drops what was posted under `tag`: its outcome is known.
    ///
    /// # Errors
    /// The entries cannot be written.
    pub async fn forget(&self, tag: &str) -> Result<(), ChainError> {
        let tag = tag.to_owned();
        self.whole(|this| async move {
            let mut desk = this.desk().await?;
            let desk = desk.get_mut()?;
            let mut items = desk.items.iter();
            if let Some((&serial, _)) = items.find(|(_, item)| item.is_claimed(&tag)) {
                desk.tell(serial).await?;
            }
            desk.sweep().await
        })
        .await
    }

    /// Takes everything pending one step further; true when nothing is.
    ///
    /// # Errors
    /// Why something did not advance; the rest did.
    pub async fn carry(&self) -> Result<bool, ChainError> {
        let open = self.open().await?;
        let mut failed = Ok(());
        let mut heads = None::<Heads>;
        for &serial in &open {
            let now = match heads.filter(Heads::are_fresh) {
                Some(now) => now,
                None => match self.heads().await {
                    Ok(now) => *heads.insert(now),
                    Err(fault) => return Err(self.blind(fault).await),
                },
            };
            if let Err(fault) = self.carry_one(serial, now).await {
                failed = Err(fault);
            }
        }
        self.whole(|this| async move { this.desk().await?.get_mut()?.sweep().await })
            .await?;
        failed.map(|()| open.is_empty())
    }

    /// Returns when something new is pending; at once if there was since the last return. The
    /// driver waits here while idle.
    pub async fn asked(&self) {
        self.outbox.asked.notified().await;
    }

    async fn open(&self) -> Result<Vec<u64>, ChainError> {
        let desk = self.desk().await?;
        let items = desk.get()?.items.iter();
        let open = items.filter(|(_, item)| item.kept.over.is_none());
        Ok(open.map(|(serial, _)| *serial).collect())
    }

    /// The chain is invisible: that is why nothing advances.
    async fn blind(&self, fault: ChainError) -> ChainError {
        if let Ok(mut desk) = self.desk().await
            && let Ok(desk) = desk.get_mut()
        {
            for item in desk.items.values_mut() {
                item.error = Some(fault.to_string());
            }
        }
        fault
    }

    /// Takes one of many a step further, all by the same view `now`. A mined entry is checked again
    /// only when its block may be final, or after a while, because blocks get replaced.
    async fn carry_one(&self, serial: u64, now: Heads) -> Result<(), ChainError> {
        {
            let mut desk = self.desk().await?;
            if let Some(item) = desk.get_mut()?.items.get_mut(&serial)
                && item.mined.is_some_and(|block| block > now.settled)
                && let Some(looked) = item.looked
                && looked.elapsed() < self.patience
            {
                item.error = None;
                return Ok(());
            }
        }
        self.step_by(serial, Some(now)).await.map(drop)
    }

    /// Signs, stores and sends something new; returns its serial number.
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
        let gas_cost_max = self.gas_cap(&purpose)?;
        if !self.is_unasked() {
            self.signer.wanted();
        }
        let signed = self.sign_new(&purpose, next, gas_cost_max).await?;
        let kept = Kept {
            tag,
            gas_cost_max,
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
        desk.items.insert(serial, Item::new(kept));
        self.outbox.asked.notify_one();
        let left = self.broadcast(desk, serial).await;
        left.map_err(|fault| match fault {
            // Not forgotten for that: a server may have forwarded it.
            ChainError::Reverted(why) => ChainError::Reverted(kept_all_the_same(&why)),
            ChainError::Permanent(why) => ChainError::Permanent(kept_all_the_same(&why)),
            ChainError::Unserved(why) => ChainError::Unserved(kept_all_the_same(&why)),
            fault => fault,
        })?;
        Ok(serial)
    }

    /// An earlier process may not have sent its entries, and later nonces are not mined without
    /// them.
    async fn resume(&self, desk: &mut Desk) {
        let left = desk.items.iter().filter(|(_, item)| {
            item.kept.over.is_none() && item.sent.is_none() && item.mined.is_none()
        });
        let left: Vec<u64> = left.map(|(serial, _)| *serial).collect();
        for serial in left {
            if let Err(fault) = self.step_at(desk, serial, None).await {
                tracing::debug!("outbox: {fault}");
            }
        }
    }

    /// The first nonce free in blocks, in the node's mempool, and here.
    pub(super) async fn free_nonce(&self, desk: &Desk) -> Result<u64, ChainError> {
        let pending = self.endpoint.provider();
        let pending = pending.get_transaction_count(self.address()).pending();
        let pending = pending.await.map_err(|fault| self.endpoint.fault(fault))?;
        let ours = desk.nonces().last().map_or(0, |nonce| nonce + 1);
        Ok(ours.max(pending))
    }

    /// The waiter knows the outcome. A failed write only repeats the answer.
    pub(super) async fn tell(&self, serial: u64) {
        let told = async {
            self.step(serial).await?;
            self.whole(move |this| async move {
                let mut desk = this.desk().await?;
                let desk = desk.get_mut()?;
                desk.tell(serial).await?;
                desk.sweep().await
            })
            .await
        };
        if let Err(fault) = told.await {
            tracing::debug!("outbox: {fault}");
        }
    }

    /// Checks the chain and does an entry's next step.
    pub(super) async fn step(&self, serial: u64) -> Result<Progress, ChainError> {
        self.step_by(serial, None).await
    }

    /// The same, by recent `heads` if given.
    async fn step_by(&self, serial: u64, heads: Option<Heads>) -> Result<Progress, ChainError> {
        self.whole(move |this| async move {
            let mut desk = this.desk().await?;
            let desk = desk.get_mut()?;
            let stepped = this.step_at(desk, serial, heads).await;
            if let Some(item) = desk.items.get_mut(&serial) {
                let stalled = item.stalled.take();
                item.error = stepped.as_ref().err().map(ToString::to_string).or(stalled);
            }
            stepped
        })
        .await
    }

    async fn step_at(
        &self,
        desk: &mut Desk,
        serial: u64,
        heads: Option<Heads>,
    ) -> Result<Progress, ChainError> {
        let item = desk.items.get(&serial).ok_or_else(missing)?;
        if let Some(over) = item.kept.over {
            return Ok(Progress::Over(over));
        }
        let (kept, sent) = (item.kept.clone(), item.sent);
        let last = kept.entry.tries.last().ok_or_else(missing)?.clone();
        let first = last.signed.first().ok_or_else(missing)?;
        let newest = last.signed.last().ok_or_else(missing)?;
        let gas_cost_max = kept.gas_cost_max.or(self.gas_cost_max);
        let waited = sent.map_or(Duration::MAX, |sent| sent.elapsed());
        let looking = self.look_at(desk, &kept, &last, waited, heads);
        let looked = timeout(LOOK_LIMIT, looking).await.unwrap_or_else(|_| {
            let (at, hash) = (self.endpoint.current(), first.hash);
            Err(ChainError::Transient(format!(
                "{at} does not tell within {} s what became of transaction {hash}",
                LOOK_LIMIT.as_secs()
            )))
        });
        let (look, receipt) = looked?;
        let gas = gas_instead(newest, look.gas);
        let rules = Rules {
            patience: self.patience,
            max_fee: self.fee_cap(first, gas, gas_cost_max),
            again: kept.claimed,
        };
        let step = kept.entry.next(&look, &rules);
        if let Some(item) = desk.items.get_mut(&serial) {
            item.mined = receipt.as_ref().and_then(|receipt| receipt.block_number);
            item.mined_as = receipt.as_ref().map(|receipt| receipt.transaction_hash);
            item.looked = Some(Instant::now());
            item.stalled = self.stall(&step, item.rounds, last.nonce, &newest.hash);
        }
        match step {
            Step::Wait(Wait::FeeCap) => {
                return Err(ChainError::Transient(format!(
                    "transaction {} waits: the chain wants {gas} gas at {} wei each, more than is allowed",
                    newest.hash, look.fee
                )));
            }
            Step::Wait(_) => {}
            Step::Send => self.broadcast_again(desk, serial).await?,
            Step::Replace { max_fee } => {
                let purpose = &kept.entry.purpose;
                let bounds = (max_fee, look.gas);
                let signed = self.sign_instead(purpose, last.nonce, newest, bounds);
                let signed = signed.await?;
                let mut kept = kept;
                if let Some(last) = kept.entry.tries.last_mut() {
                    last.signed.push(signed);
                }
                desk.put(serial, kept).await?;
                if let Some(item) = desk.items.get_mut(&serial) {
                    item.rounds = 0;
                }
                self.broadcast(desk, serial).await?;
            }
            Step::Fill { nonce } => self.fill(desk, nonce).await?,
            Step::Sign { nonce } => {
                let since = self.endpoint.height().await?;
                let nonce = self.free_nonce(desk).await?.max(nonce);
                let purpose = &kept.entry.purpose;
                let signed = self.sign_new(purpose, nonce, gas_cost_max).await;
                if let Err(fault) = &signed
                    && is_refusal(fault)
                    && self.is_refused(purpose).await?
                {
                    // None of it can be mined any more, and it would have no effect: the caller
                    // asks anew if needed.
                    tracing::warn!("{}: not sent again: {fault}", kept.tag);
                    let over = Outcome::Refused;
                    let kept = Kept {
                        over: Some(over),
                        ..kept
                    };
                    desk.put(serial, kept).await?;
                    return Ok(Progress::Over(over));
                }
                let signed = signed?;
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
                let wanted = kept.claimed || is_unheard(&kept);
                if wanted {
                    desk.put(serial, kept).await?;
                } else if let Some(item) = desk.items.get_mut(&serial) {
                    // Found again after a crash, it ends again.
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

    /// The message for a `step` without failure or progress at `nonce`.
    fn stall(&self, step: &Step, rounds: u32, nonce: u64, hash: &B256) -> Option<String> {
        match step {
            Step::Send | Step::Wait(Wait::Sent) if rounds > 1 => Some(format!(
                "transaction {hash} waits: {} has it in no block, though its fee and its gas suffice; it is sent again",
                self.endpoint.current()
            )),
            Step::Wait(Wait::Unseen) => Some(format!(
                "transaction {hash} waits: its nonce {nonce} is taken, and {} does not tell by what: give another --rpc-url too",
                self.endpoint.current()
            )),
            Step::Fill { nonce: before } => Some(format!(
                "transaction {hash} waits: nonce {before} of {}, before its own ({nonce}), is free again, and is filled",
                self.address()
            )),
            _ => None,
        }
    }

    async fn look_at(
        &self,
        desk: &Desk,
        kept: &Kept,
        last: &Try,
        waited: Duration,
        heads: Option<Heads>,
    ) -> Result<(Look, Option<TransactionReceipt>), ChainError> {
        let Heads { settled, next, .. } = match heads {
            Some(heads) => heads,
            None => self.heads().await?,
        };
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
            gas: match stuck {
                true => self.gas_now(&kept.entry.purpose, last.nonce).await,
                false => 0,
            },
            waited,
        };
        Ok((look, place.and_then(|place| place.receipt)))
    }

    /// A nonce before ours is free again: resends our own transaction there, leaves what waits at
    /// the node, else sends nothing of value.
    async fn fill(&self, desk: &mut Desk, nonce: u64) -> Result<(), ChainError> {
        if let Some(serial) = desk.at_nonce(nonce) {
            // Its own step sends and replaces it; the waiters check in vain.
            let sent = desk.items.get(&serial).and_then(|item| item.sent);
            return match sent.is_some_and(|sent| sent.elapsed() < self.patience) {
                true => Ok(()),
                false => self.broadcast_again(desk, serial).await,
            };
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

    /// Sends an entry's newest bytes again, ever more rarely.
    async fn broadcast_again(&self, desk: &mut Desk, serial: u64) -> Result<(), ChainError> {
        let item = desk.items.get_mut(&serial).ok_or_else(missing)?;
        item.rounds = item.rounds.saturating_add(1);
        if item.rounds.is_power_of_two() || item.rounds.is_multiple_of(ROUNDS_MAX) {
            return self.broadcast(desk, serial).await;
        }
        item.sent = Some(Instant::now());
        Ok(())
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
            // It may have arrived without an answer.
            Err(ChainError::Transient(_)) => Ok(()),
            Err(fault) => {
                let words = fault.to_string().to_lowercase();
                // It, or its replacement, is there, or the nonce is taken: the next check tells.
                let known = ["already", "nonce too low", "underpriced"];
                match known.iter().any(|known| words.contains(known)) {
                    true => Ok(()),
                    false => Err(fault),
                }
            }
        }
    }
}
