//! Which tokens a wallet owns on a contract that does not list them.
//!
//! Every token that came to the wallet has left a `Transfer` log. Logs are asked for in ranges of
//! blocks that halve when the endpoint refuses one and grow again when it does not: forward from
//! where the last look ended, then back from there. `balanceOf` says when all are found, so old
//! blocks are looked at only as far as needed. Where logs are not to be had, or would take long, the
//! ids themselves are tried one by one (`_tokenIds` says how many there are).
//!
//! Invariant: what is answered was confirmed by `ownerOf` in the block that was asked for; what is
//! remembered is only where to look. It is written down after each range, so a look that is cut off at any
//! moment is gone on with at the next, also by another process. Called by `ledger`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use alloy::eips::BlockId;
use alloy::primitives::{Address, U256};
use alloy::rpc::types::Filter;
use alloy::sol_types::SolEvent;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::TOKENS_MAX;
use super::additive::owner_call;
use crate::ChainError;
use crate::contract::{PxSync, PxV2};
use crate::endpoint::{Endpoint, LogsFault};

mod memory;

use memory::Notes;

/// Blocks of the first question for logs, and of the largest.
const RANGE_FIRST: u64 = 2_000;
const RANGE_MAX: u64 = 1_000_000;
/// Blocks that are looked at again, in case the newest were replaced.
const AGAIN: u64 = 64;
/// Questions for old logs before the ids are tried, and in one look at all.
const RANGES_SOON: u32 = 16;
const RANGES_MOST: u32 = 200;
/// What a range that takes too long is divided by.
const SLOW_LESS: u64 = 8;
/// The most ids that are tried.
const IDS_MAX: u64 = 20_000;
/// Ids without an owner after which there are no more, where the contract does not count them.
const IDS_EMPTY: u64 = 64;

/// How the search goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long the logs of one range are waited for.
    pub(super) logs: Duration,
    /// Ids that are tried at once.
    pub(super) ids: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            logs: Duration::from_secs(8),
            ids: 500,
        }
    }
}

/// The tokens of one wallet on one contract, as far as they were found.
#[derive(Debug, Default)]
pub(super) struct Owned {
    notes: Mutex<Notes>,
    pace: Pace,
}

/// One look.
struct Look<'a> {
    endpoint: &'a Endpoint,
    contract: Address,
    owner: Address,
    at: BlockId,
    balance: usize,
    owned: BTreeSet<U256>,
    pace: Pace,
}

impl Owned {
    /// With what `file` remembers, and keeping there what is found.
    pub(super) fn kept(file: PathBuf) -> Self {
        Self {
            notes: Mutex::new(Notes::of(file)),
            pace: Pace::default(),
        }
    }

    /// The same at another pace.
    #[cfg(test)]
    pub(super) fn with_pace(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    /// Where to look first: the tokens that came at some time, by ascending id.
    pub(super) async fn known(&self) -> Vec<U256> {
        let notes = self.notes.lock().await;
        notes.memory.tokens.iter().copied().collect()
    }

    /// All that there are in block `head` are among the known ones.
    pub(super) async fn note_whole(&self, head: u64) {
        let mut notes = self.notes.lock().await;
        notes.memory.set_whole(head);
        notes.keep().await;
    }

    /// The tokens that `owner` has in block `at`, which has number `head`; by ascending id.
    ///
    /// # Errors
    /// [`ChainError::Transient`] when the endpoint does not answer, or not all are found yet;
    /// [`ChainError::Permanent`] when there are too many.
    pub(super) async fn tokens(
        &self,
        endpoint: &Endpoint,
        contract: Address,
        owner: Address,
        (head, at): (u64, BlockId),
    ) -> Result<Vec<U256>, ChainError> {
        let mut notes = self.notes.lock().await;
        let call = PxV2::balanceOfCall { owner };
        let balance = endpoint.call(contract, &call, at).await?;
        let balance = usize::try_from(balance).unwrap_or(usize::MAX);
        if balance as u64 > TOKENS_MAX {
            return Err(ChainError::Permanent(format!(
                "{owner} owns more than {TOKENS_MAX} tokens of {contract}"
            )));
        }
        let mut look = Look {
            endpoint,
            contract,
            owner,
            at,
            balance,
            owned: BTreeSet::new(),
            pace: self.pace,
        };
        let looked = look.find(&mut notes, head).await;
        notes.keep().await;
        looked?;
        Ok(look.owned.into_iter().collect())
    }
}

impl Look<'_> {
    async fn find(&mut self, notes: &mut Notes, head: u64) -> Result<(), ChainError> {
        let memory = &mut notes.memory;
        if memory.to.is_some_and(|to| to > head + AGAIN) {
            // A development chain that began anew.
            (memory.from, memory.to) = (None, None);
        }
        let known: Vec<U256> = memory.tokens.iter().copied().collect();
        self.confirm(&known).await?;
        let mut found = match self.is_whole() {
            true => Logs::Whole,
            false => self.by_logs(notes, head, Effort::Little).await?,
        };
        if !self.is_whole() && !self.by_ids(notes).await? && found == Logs::Later {
            found = self.by_logs(notes, head, Effort::Much).await?;
        }
        let (have, all) = (self.owned.len(), self.balance);
        let memory = &mut notes.memory;
        if self.is_whole() {
            memory.set_whole(head);
            if memory.tokens.len() as u64 > TOKENS_MAX {
                memory.tokens.clone_from(&self.owned);
            }
        } else if found == Logs::Later {
            return Err(ChainError::Transient(format!(
                "{have} of {all} tokens of {} are found yet: the search goes on",
                self.owner
            )));
        } else {
            tracing::warn!(contract = %self.contract, "{have} of {all} tokens can be found, and no more");
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.owned.len() >= self.balance
    }

    /// Asks who owns these, and keeps those that are ours.
    async fn confirm(&mut self, ids: &[U256]) -> Result<u64, ChainError> {
        let calls: Vec<_> = ids.iter().map(|&id| owner_call(id)).collect();
        let answers = self
            .endpoint
            .call_many(self.contract, &calls, self.at)
            .await?;
        let mut exist = 0;
        for (&id, answer) in ids.iter().zip(answers) {
            let Ok(answer) = answer else { continue };
            exist += 1;
            let owner = self
                .endpoint
                .read::<PxV2::ownerOfCall>(self.contract, &answer)?;
            if owner == self.owner {
                self.owned.insert(id);
            }
        }
        Ok(exist)
    }

    /// What has come since the last look, and what came before, range by range.
    async fn by_logs(
        &mut self,
        notes: &mut Notes,
        head: u64,
        effort: Effort,
    ) -> Result<Logs, ChainError> {
        // Blocks may have been replaced since; those of the search itself are not looked at twice.
        let to = notes.memory.to;
        let mut next = to.map_or(head + 1, |to| to.saturating_sub(AGAIN));
        for _ in 0..effort.ranges() {
            if next > head {
                break;
            }
            let end = match self.range(notes, next, head, Way::Up, effort).await? {
                Range::To(end) => end,
                Range::Slow => return Ok(Logs::Later),
                Range::Refused => return Ok(Logs::Refused),
            };
            notes.memory.to = Some(end);
            notes.keep().await;
            next = end + 1;
        }
        for _ in 0..effort.ranges() {
            let (from, to) = (notes.memory.from, notes.memory.to);
            if self.is_whole() || from == Some(0) {
                break;
            }
            let newest = from.map_or(head, |from| from - 1);
            let from = match self.range(notes, 0, newest, Way::Down, effort).await? {
                Range::To(from) => from,
                Range::Slow => return Ok(Logs::Later),
                Range::Refused => return Ok(Logs::Refused),
            };
            (notes.memory.from, notes.memory.to) = (Some(from), to.or(Some(head)));
            notes.keep().await;
        }
        let (from, to) = (notes.memory.from, notes.memory.to);
        let all = from == Some(0) && to >= Some(head);
        Ok(match self.is_whole() || all {
            true => Logs::Whole,
            false => Logs::Later,
        })
    }

    /// Looks at one range of blocks at one end of `from..=to`.
    async fn range(
        &mut self,
        notes: &mut Notes,
        from: u64,
        to: u64,
        way: Way,
        effort: Effort,
    ) -> Result<Range, ChainError> {
        loop {
            let memory = &mut notes.memory;
            let size = memory.range.clamp(1, RANGE_MAX);
            let (first, last) = match way {
                Way::Up => (from, to.min(from.saturating_add(size - 1))),
                Way::Down => (from.max(to.saturating_sub(size - 1)), to),
            };
            let blocks = last - first + 1;
            let filter = Filter::new()
                .address(self.contract)
                .event_signature(PxSync::Transfer::SIGNATURE_HASH)
                .topic2(self.owner.into_word())
                .from_block(first)
                .to_block(last);
            let asked = timeout(self.pace.logs, self.endpoint.logs(&filter)).await;
            let logs = match asked {
                Ok(Ok(logs)) => logs,
                Ok(Err(LogsFault::Other(fault))) => return Err(fault),
                Ok(Err(LogsFault::TooMuch(why))) => {
                    tracing::debug!("no logs of {blocks} blocks: {why}");
                    memory.range = blocks / 2;
                    if memory.range == 0 {
                        memory.range = RANGE_FIRST;
                        return Ok(Range::Refused);
                    }
                    notes.keep().await;
                    continue;
                }
                Err(_) => {
                    tracing::debug!("no logs of {blocks} blocks in time");
                    // A server that takes its time is not one that has none.
                    memory.range = (blocks / SLOW_LESS).max(1);
                    notes.keep().await;
                    match effort {
                        Effort::Little => return Ok(Range::Slow),
                        Effort::Much => continue,
                    }
                }
            };
            memory.range = size.saturating_mul(2).min(RANGE_MAX);
            let come = logs.iter().filter_map(|log| log.topics().get(3).copied());
            let new: Vec<U256> = come
                .map(|word| U256::from_be_bytes(word.0))
                .filter(|id| !memory.tokens.contains(id))
                .collect();
            self.confirm(&new).await?;
            memory.tokens.extend(new);
            return Ok(Range::To(match way {
                Way::Up => last,
                Way::Down => first,
            }));
        }
    }

    /// Tries all ids, from where that was left; whether that was possible.
    async fn by_ids(&mut self, notes: &mut Notes) -> Result<bool, ChainError> {
        let call = PxV2::_tokenIdsCall {};
        let counted = self.endpoint.call(self.contract, &call, self.at).await;
        let counted = match counted {
            Ok(last) => Some(u64::try_from(last).unwrap_or(u64::MAX)),
            Err(ChainError::Reverted(_) | ChainError::Permanent(_) | ChainError::Unserved(_)) => {
                None
            }
            Err(fault) => return Err(fault),
        };
        if counted.is_some_and(|last| last > IDS_MAX) {
            return Ok(false);
        }
        let began = notes.memory.id;
        self.try_ids(notes, counted).await?;
        if began > 0 && !self.is_whole() {
            // What came to the wallet since may have one that was tried before.
            self.try_ids(notes, counted).await?;
        }
        Ok(true)
    }

    /// Tries the ids from the next one on; the first is the next then.
    async fn try_ids(&mut self, notes: &mut Notes, counted: Option<u64>) -> Result<(), ChainError> {
        let last = counted.unwrap_or(IDS_MAX);
        let mut empty = 0;
        while notes.memory.id <= last && !self.is_whole() {
            let first = notes.memory.id;
            let end = (first + self.pace.ids - 1).min(last);
            let ids: Vec<U256> = (first..=end).map(U256::from).collect();
            let exist = self.confirm(&ids).await?;
            notes.memory.tokens.extend(&self.owned);
            notes.memory.id = end + 1;
            notes.keep().await;
            empty = match exist {
                0 => empty + ids.len() as u64,
                _ => 0,
            };
            if counted.is_none() && empty >= IDS_EMPTY {
                break;
            }
        }
        notes.memory.id = 0;
        Ok(())
    }
}

/// How far the logs have got us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logs {
    /// All that there are were read, or all tokens are found.
    Whole,
    /// There are more.
    Later,
    /// The endpoint gives none.
    Refused,
}

/// What became of one range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    /// It was looked at, to this other end.
    To(u64),
    /// No logs came in time; fewer blocks are asked for the next time.
    Slow,
    /// The endpoint gives no logs, of however few blocks.
    Refused,
}

/// How long the logs are gone through in one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    /// The ids may be quicker.
    Little,
    /// There is nothing else.
    Much,
}

impl Effort {
    fn ranges(self) -> u32 {
        match self {
            Self::Little => RANGES_SOON,
            Self::Much => RANGES_MOST,
        }
    }
}

/// From which end a range is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}
