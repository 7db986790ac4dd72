//! Finds a wallet's tokens on a contract that does not list them.
//!
//! Every received token left a `Transfer` log. The search reads logs in block ranges that halve on
//! refusal and grow again: forward from the last check's end, then backward. `balanceOf` says when
//! all are found, so old blocks are read only as needed. Without logs, or if they take long, it
//! tries the ids (`_tokenIds` counts them).
//!
//! Invariant: `ownerOf` in the requested block confirms each answer; memory only says where to
//! search. It is written after each range, so an aborted search resumes, also in another process.

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

/// Blocks of the first log request, and of the largest.
const RANGE_FIRST: u64 = 2_000;
const RANGE_MAX: u64 = 1_000_000;
/// Blocks read again, because the newest may have been replaced.
const AGAIN: u64 = 64;
/// Requests for old logs before the ids are tried, and in one check at all.
const RANGES_SOON: u32 = 16;
const RANGES_MOST: u32 = 200;
/// Divides a range that takes too long.
const SLOW_LESS: u64 = 8;
const IDS_MAX: u64 = 20_000;
/// Consecutive ids without an owner that end the search if the contract does not count them.
const IDS_EMPTY: u64 = 64;

#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long to wait for one range's logs.
    pub(super) logs: Duration,
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

/// One wallet's tokens on one contract, as far as found.
#[derive(Debug, Default)]
pub(super) struct Owned {
    notes: Mutex<Notes>,
    pace: Pace,
}

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
    /// Starts from what `file` remembers, and stores findings there.
    pub(super) fn kept(file: PathBuf) -> Self {
        Self {
            notes: Mutex::new(Notes::of(file)),
            pace: Pace::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn with_pace(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    /// Where to look first: tokens that ever came, by ascending id.
    pub(super) async fn known(&self) -> Vec<U256> {
        let notes = self.notes.lock().await;
        notes.memory.tokens.iter().copied().collect()
    }

    /// All tokens in block `head` are among the known ones.
    pub(super) async fn note_whole(&self, head: u64) {
        let mut notes = self.notes.lock().await;
        notes.memory.set_whole(head);
        notes.keep().await;
    }

    /// The tokens that `owner` has in block `at` (number `head`), by ascending id.
    ///
    /// # Errors
    /// [`ChainError::Transient`] if the endpoint does not answer, or not all are found yet;
    /// [`ChainError::Permanent`] if there are too many.
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
            // A development chain was reset.
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

    /// Asks who owns these, and takes ours.
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

    /// Reads new logs, then old ones, range by range.
    async fn by_logs(
        &mut self,
        notes: &mut Notes,
        head: u64,
        effort: Effort,
    ) -> Result<Logs, ChainError> {
        // Blocks may have been replaced; the search's own are not read twice.
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

    /// Reads one range at one end of `from..=to`.
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
                    // A slow server still has logs.
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

    /// Tries all ids, from where it stopped; whether that was possible.
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
            // A token received since may have an id tried before.
            self.try_ids(notes, counted).await?;
        }
        Ok(true)
    }

    /// Tries ids from the next one on.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logs {
    /// All were read, or all tokens are found.
    Whole,
    /// There are more.
    Later,
    /// The endpoint gives none.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    /// Read up to this other end.
    To(u64),
    /// No logs in time; the next request is smaller.
    Slow,
    /// The endpoint refuses even few blocks.
    Refused,
}

/// How many logs one check reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    /// The ids may be faster.
    Little,
    /// There is no other way.
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

/// The end to take a range from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}
