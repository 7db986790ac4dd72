//! The desk of an account: what was signed and not forgotten, as it is on the shelf.
//!
//! Invariant: what is here is on the shelf, and what is not on the shelf is not here. One at a time has it,
//! and whatever was begun with it comes to its end, also where nobody waits for that any more. Called by
//! `carry`.

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

/// The entries of an account, as they are on its shelf.
pub(super) struct Desk {
    pub(super) shelf: Arc<dyn Shelf>,
    pub(super) items: BTreeMap<u64, Item>,
}

/// One of them.
pub(super) struct Item {
    pub(super) kept: Kept,
    /// When it was last sent by this process.
    pub(super) sent: Option<Instant>,
    /// How often the patience with its newest bytes has ended.
    pub(super) rounds: u32,
    /// Its block, once it is in one, and under which hash.
    pub(super) mined: Option<u64>,
    pub(super) mined_as: Option<B256>,
    /// When it was last looked at by this process.
    pub(super) looked: Option<Instant>,
    pub(super) error: Option<String>,
    /// Why nothing could be done at the last look, though nothing failed.
    pub(super) stalled: Option<String>,
}

/// How an entry was signed.
pub(super) struct SignedAs {
    /// Its first nonce.
    pub(super) nonce: u64,
    /// What goes along, in wei.
    pub(super) value: U256,
    /// The hashes that it may be mined under.
    pub(super) hashes: Vec<B256>,
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
    /// The block that it is in, final or not; of what has ended perhaps a later one.
    pub mined: Option<u64>,
    /// Its hash there, or that of its newest form.
    pub transaction: Option<B256>,
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

pub(super) fn missing() -> ChainError {
    ChainError::Outbox("it is not open".to_owned())
}

impl Desk {
    /// What an earlier process has left on its way under `tag`, or one that stopped waiting; or what has
    /// ended and was not told to whoever paid for it.
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

    /// Looks anew at what has ended, for somebody who wants to hear of it.
    pub(super) fn reopen(&mut self, serial: u64) {
        if let Some(item) = self.items.get_mut(&serial)
            && !item.kept.claimed
        {
            item.kept.over = None;
        }
    }

    /// How an entry was signed.
    pub(super) fn signed(&self, serial: u64) -> Result<SignedAs, ChainError> {
        let item = self.items.get(&serial).ok_or_else(missing)?;
        let first = item.kept.entry.tries.first().ok_or_else(missing)?;
        Ok(SignedAs {
            nonce: first.nonce,
            value: item.kept.entry.purpose.value,
            hashes: item.hashes(),
        })
    }

    /// The nonces that all entries had or have.
    pub(super) fn nonces(&self) -> BTreeSet<u64> {
        self.items.values().flat_map(Item::nonces).collect()
    }

    /// What somebody has posted under `tag`, and not forgotten.
    pub(super) fn claimed(&self, tag: &str) -> Option<Posted> {
        let mut items = self.items.values();
        let found = items.find(|item| item.is_claimed(tag));
        found.map(Item::posted)
    }

    /// The entry that `nonce` is to be had by.
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

    /// Whoever waited for an entry knows its outcome; nothing where there is no such entry.
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

    /// Removes what is over and wanted by nobody: what was paid for, and whose sender was cut off before it
    /// heard of it, waits for the same command. What is still open must be able to tell the account's
    /// own nonces from others', from its first one on; and a server that lags must not have a nonce
    /// signed for once more: what has later nonces stays, and what has the last one.
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

/// Whether a command has done with it what must not be done once more for nothing (it paid, or made a
/// contract), and does not know. A sync that has ended is no answer to a later one, and the token itself
/// shows whether it is open.
pub(super) fn is_unheard(kept: &Kept) -> bool {
    let purpose = &kept.entry.purpose;
    let paid = !purpose.value.is_zero() && !kept.tag.starts_with(SYNC_TAG);
    let matters = paid || purpose.to.is_none();
    matters && !kept.claimed && !kept.told && kept.over == Some(Outcome::Happened)
}

impl Item {
    /// The nonces that it had, the first first.
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
                items.insert(serial, Item::new(kept));
            }
            *desk = Some(Desk { shelf, items });
        }
        Ok(Turn(desk))
    }

    /// Does `work` to its end: a signed transaction whose sender thinks better of it in the middle of a
    /// write would be on the shelf and not at the desk.
    pub(super) async fn whole<T, F>(&self, work: impl FnOnce(Self) -> F) -> Result<T, ChainError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ChainError>> + Send + 'static,
    {
        let done = tokio::spawn(work(self.clone())).await;
        done.unwrap_or_else(|_| Err(ChainError::Outbox("its task ended in a panic".to_owned())))
    }
}
