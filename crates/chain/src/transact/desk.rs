//! An account's entries: what was signed and not forgotten.
//!
//! Invariant: this mirrors the storage. One task at a time has it, and its work completes even if
//! nobody waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use alloy::primitives::{B256, U256};
use alloy::providers::Provider;
use alloy::rpc::types::TransactionReceipt;
use tokio::sync::MutexGuard;
use tokio::time::Instant;

use super::sync::SYNC_TAG;
use super::{Place, Transactor};
use crate::ChainError;
use crate::outbox::Outcome;
use crate::outbox::shelf::{FolderShelf, Kept, Shelf};

pub(super) struct Desk {
    pub(super) shelf: Arc<dyn Shelf>,
    pub(super) items: BTreeMap<u64, Item>,
}

pub(super) struct Item {
    pub(super) kept: Kept,
    /// When this process last sent it.
    pub(super) sent: Option<Instant>,
    /// How many patiences have passed with its newest bytes.
    pub(super) rounds: u32,
    /// Its block and hash, once mined.
    pub(super) mined: Option<u64>,
    pub(super) mined_as: Option<B256>,
    /// When this process last checked it.
    pub(super) looked: Option<Instant>,
    pub(super) error: Option<String>,
    /// Why the last check could do nothing, without a failure.
    pub(super) stalled: Option<String>,
}

pub(super) struct SignedAs {
    pub(super) nonce: u64,
    pub(super) value: U256,
    /// Hashes under which it may be mined.
    pub(super) hashes: Vec<B256>,
}

/// How far an entry is.
pub(super) enum Progress {
    /// Pending, under one of these hashes.
    Open(Vec<B256>),
    /// In a block.
    Mined(Box<TransactionReceipt>),
    /// It has ended.
    Over(Outcome),
}

/// The state of a posted entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// Its tag.
    pub tag: String,
    /// Its block, final or not; for an ended entry perhaps a later one.
    pub mined: Option<u64>,
    /// Its hash there, or of its newest form.
    pub transaction: Option<B256>,
    /// The final outcome.
    pub over: Option<Outcome>,
    /// Why it makes no progress.
    pub error: Option<String>,
}

pub(super) struct Turn<'a>(MutexGuard<'a, Option<Desk>>);

impl Turn<'_> {
    pub(super) fn get(&self) -> Result<&Desk, ChainError> {
        self.0.as_ref().ok_or_else(missing)
    }

    pub(super) fn get_mut(&mut self) -> Result<&mut Desk, ChainError> {
        self.0.as_mut().ok_or_else(missing)
    }
}

pub(super) fn missing() -> ChainError {
    ChainError::Outbox("it is not open".to_owned())
}

impl Desk {
    /// A pending entry with `tag` that an earlier process, or an aborted waiter, left; or an ended
    /// one whose payer was not told.
    pub(super) fn orphan(&self, tag: &str, awaited: &BTreeSet<u64>) -> Option<u64> {
        let mut items = self.items.iter();
        let found = items.find(|(serial, item)| {
            item.kept.tag == tag
                && !item.kept.claimed
                && !item.kept.told
                && (item.kept.over.is_none() || is_unheard(&item.kept))
                && !awaited.contains(*serial)
        });
        found.map(|(serial, _)| *serial)
    }

    /// Checks an ended entry again, for somebody who wants its outcome.
    pub(super) fn reopen(&mut self, serial: u64) {
        if let Some(item) = self.items.get_mut(&serial)
            && !item.kept.claimed
        {
            item.kept.over = None;
        }
    }

    pub(super) fn signed(&self, serial: u64) -> Result<SignedAs, ChainError> {
        let item = self.items.get(&serial).ok_or_else(missing)?;
        let first = item.kept.entry.tries.first().ok_or_else(missing)?;
        Ok(SignedAs {
            nonce: first.nonce,
            value: item.kept.entry.purpose.value,
            hashes: item.hashes(),
        })
    }

    /// All past and present nonces of the entries.
    pub(super) fn nonces(&self) -> BTreeSet<u64> {
        self.items.values().flat_map(Item::nonces).collect()
    }

    /// The entry posted under `tag` and not forgotten.
    pub(super) fn claimed(&self, tag: &str) -> Option<Posted> {
        let mut items = self.items.values();
        let found = items.find(|item| item.is_claimed(tag));
        found.map(Item::posted)
    }

    /// The entry that should use `nonce`.
    pub(super) fn at_nonce(&self, nonce: u64) -> Option<u64> {
        let mut items = self.items.iter();
        let found = items.find(|(_, item)| {
            let last = item.kept.entry.tries.last();
            item.kept.over.is_none() && last.is_some_and(|last| last.nonce == nonce)
        });
        found.map(|(serial, _)| *serial)
    }

    pub(super) async fn put(&mut self, serial: u64, kept: Kept) -> Result<(), ChainError> {
        self.shelf.put(serial, kept.to_bytes()?).await?;
        if let Some(item) = self.items.get_mut(&serial) {
            item.kept = kept;
        }
        Ok(())
    }

    /// The waiter knows the outcome. No-op for unknown entries.
    pub(super) async fn tell(&mut self, serial: u64) -> Result<(), ChainError> {
        let Some(item) = self.items.get(&serial) else {
            return Ok(());
        };
        let kept = Kept {
            told: true,
            ..item.kept.clone()
        };
        self.put(serial, kept).await
    }

    /// Removes ended entries that nobody wants. One whose payer was cut off waits for the same
    /// command. Entries at or above the first open nonce stay, so that the open ones can tell our
    /// nonces from others'; so does the last, so that a lagging server gets no nonce signed twice.
    pub(super) async fn sweep(&mut self) -> Result<(), ChainError> {
        let open = self.items.values().filter(|item| item.kept.over.is_none());
        let first_open = open.filter_map(|item| item.nonces().next()).min();
        let last = self.nonces().last().copied();
        let needed =
            |nonce: u64| first_open.is_some_and(|first| first <= nonce) || last == Some(nonce);
        let done = self.items.iter().filter(|(_, item)| {
            let kept = &item.kept;
            let wanted = !kept.told && (kept.claimed || is_unheard(&item.kept));
            kept.over.is_some() && !wanted && !item.nonces().any(needed)
        });
        let done: Vec<u64> = done.map(|(serial, _)| *serial).collect();
        for serial in done {
            self.shelf.remove(serial).await?;
            self.items.remove(&serial);
        }
        Ok(())
    }
}

/// Whether a command paid, or made a contract, and does not know it: it must not happen twice. A
/// sync does not count, because an ended one does not answer a later request, and the token shows
/// an open one.
pub(super) fn is_unheard(kept: &Kept) -> bool {
    let purpose = &kept.entry.purpose;
    let paid = !purpose.value.is_zero() && !kept.tag.starts_with(SYNC_TAG);
    let matters = paid || purpose.to.is_none();
    matters && !kept.claimed && !kept.told && kept.over == Some(Outcome::Happened)
}

impl Item {
    /// Its nonces, in order.
    fn nonces(&self) -> impl Iterator<Item = u64> {
        self.kept.entry.tries.iter().map(|one| one.nonce)
    }

    pub(super) fn new(kept: Kept) -> Self {
        Self {
            kept,
            sent: None,
            rounds: 0,
            mined: None,
            mined_as: None,
            looked: None,
            error: None,
            stalled: None,
        }
    }

    pub(super) fn is_claimed(&self, tag: &str) -> bool {
        let kept = &self.kept;
        kept.claimed && !kept.told && kept.tag == tag
    }

    pub(super) fn hashes(&self) -> Vec<B256> {
        let last = self.kept.entry.tries.last();
        let signed = last.map_or(&[][..], |last| &last.signed);
        signed.iter().rev().map(|signed| signed.hash).collect()
    }

    pub(super) fn posted(&self) -> Posted {
        Posted {
            tag: self.kept.tag.clone(),
            mined: self.mined,
            transaction: self.mined_as.or(self.hashes().first().copied()),
            over: self.kept.over,
            error: self.error.clone(),
        }
    }
}

impl Transactor {
    /// The entries; loaded at the first call.
    pub(super) async fn desk(&self) -> Result<Turn<'_>, ChainError> {
        let mut desk = self.outbox.desk.lock().await;
        if desk.is_none() {
            let shelf: Arc<dyn Shelf> = match &self.place {
                Place::Shelf(shelf) => Arc::clone(shelf),
                Place::Folder(folder) => {
                    let genesis = self.endpoint.provider();
                    let genesis = genesis.get_block_by_number(0.into()).await;
                    let genesis = genesis.map_err(|fault| self.endpoint.fault(fault))?;
                    // A wrong folder would look as if nothing was signed yet.
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
                items.insert(serial, Item::new(kept));
            }
            *desk = Some(Desk { shelf, items });
        }
        Ok(Turn(desk))
    }

    /// Runs `work` to its end: if its caller gave up during a write, a signed transaction would be
    /// stored but not listed here.
    pub(super) async fn whole<T, F>(&self, work: impl FnOnce(Self) -> F) -> Result<T, ChainError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ChainError>> + Send + 'static,
    {
        let done = tokio::spawn(work(self.clone())).await;
        done.unwrap_or_else(|_| Err(ChainError::Outbox("its task ended in a panic".to_owned())))
    }
}
