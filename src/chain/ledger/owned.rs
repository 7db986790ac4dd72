//! Which tokens a wallet owns on a contract that does not list them.
//!
//! Every token that came to the wallet has left a `Transfer` log. Logs are asked for in ranges of
//! blocks that halve when the endpoint refuses one and grow again when it does not: forward from
//! where the last look ended, then back from there. `balanceOf` says when all are found, so old
//! blocks are looked at only as far as needed. Where logs are not to be had, or would take long, the
//! ids themselves are tried one by one (`_tokenIds` says how many there are).
//!
//! Invariant: what is answered was confirmed by `ownerOf` in the block that was asked for; what is
//! remembered is only where to look. Work that was cut short is gone on with at the next look.
//! Called by `ledger`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use alloy::eips::BlockId;
use alloy::primitives::{Address, U256};
use alloy::rpc::types::Filter;
use alloy::sol_types::SolEvent;
use tokio::sync::Mutex;

use super::TOKENS_MAX;
use super::additive::owner_call;
use crate::chain::ChainError;
use crate::chain::contract::{PxSync, PxV2};
use crate::chain::endpoint::{Endpoint, LogsFault};

mod memory;

use memory::Memory;

/// Blocks of the first question for logs, and of the largest.
const RANGE_FIRST: u64 = 2_000;
const RANGE_MAX: u64 = 1_000_000;
/// Blocks that are looked at again, in case the newest were replaced.
const AGAIN: u64 = 64;
/// Questions for old logs before the ids are tried, and in one look at all.
const RANGES_SOON: u32 = 16;
const RANGES_MOST: u32 = 200;
/// The most ids that are tried, and how many at once.
const IDS_MAX: u64 = 20_000;
const IDS_ONCE: u64 = 500;
/// Ids without an owner after which there are no more, where the contract does not count them.
const IDS_EMPTY: u64 = 64;

/// The tokens of one wallet on one contract, as far as they were found.
#[derive(Debug, Default)]
pub(super) struct Owned {
    state: Mutex<Memory>,
    file: Option<PathBuf>,
}

/// One look.
struct Look<'a> {
    endpoint: &'a Endpoint,
    contract: Address,
    owner: Address,
    at: BlockId,
    balance: usize,
    owned: BTreeSet<U256>,
}

impl Owned {
    /// With what `file` remembers, and keeping there what is found.
    pub(super) fn kept(file: PathBuf) -> Self {
        Self {
            state: Mutex::new(Memory::read(&file)),
            file: Some(file),
        }
    }

    /// Where to look first: the tokens that came at some time, by ascending id.
    pub(super) async fn known(&self) -> Vec<U256> {
        self.state.lock().await.tokens.iter().copied().collect()
    }

    /// All that there are in block `head` are among the known ones.
    pub(super) async fn note_whole(&self, head: u64) {
        let mut memory = self.state.lock().await;
        let before = memory.clone();
        memory.set_whole(head);
        self.keep(&memory, &before).await;
    }

    /// Writes down what is news.
    async fn keep(&self, memory: &Memory, before: &Memory) {
        let Some(file) = self.file.clone().filter(|_| memory.is_news(before)) else {
            return;
        };
        let memory = memory.clone();
        let written = tokio::task::spawn_blocking(move || memory.write(&file));
        if let Ok(Err(fault)) = written.await {
            tracing::debug!("found tokens are not remembered: {fault}");
        }
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
        let mut memory = self.state.lock().await;
        let before = memory.clone();
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
        };
        let looked = look.find(&mut memory, head).await;
        self.keep(&memory, &before).await;
        looked?;
        Ok(look.owned.into_iter().collect())
    }
}

impl Look<'_> {
    async fn find(&mut self, memory: &mut Memory, head: u64) -> Result<(), ChainError> {
        if memory.to.is_some_and(|to| to > head + AGAIN) {
            // A development chain that began anew.
            (memory.from, memory.to) = (None, None);
        }
        let known: Vec<U256> = memory.tokens.iter().copied().collect();
        self.confirm(&known).await?;
        let mut found = match self.is_whole() {
            true => Logs::Whole,
            false => self.by_logs(memory, head, RANGES_SOON).await?,
        };
        if !self.is_whole() && !self.by_ids(memory).await? && found == Logs::Later {
            found = self.by_logs(memory, head, RANGES_MOST).await?;
        }
        let (have, all) = (self.owned.len(), self.balance);
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

    /// Up to `most` ranges of what has come since the last look, and of what came before.
    async fn by_logs(
        &mut self,
        memory: &mut Memory,
        head: u64,
        most: u32,
    ) -> Result<Logs, ChainError> {
        // Blocks may have been replaced since; those of the search itself are not looked at twice.
        let mut next = memory.to.map_or(head + 1, |to| to.saturating_sub(AGAIN));
        for _ in 0..most {
            if next > head {
                break;
            }
            let Some(end) = self.range(memory, next, head, Way::Up).await? else {
                return Ok(Logs::Refused);
            };
            memory.to = Some(end);
            next = end + 1;
        }
        for _ in 0..most {
            if self.is_whole() || memory.from == Some(0) {
                break;
            }
            let newest = memory.from.map_or(head, |from| from - 1);
            let Some(from) = self.range(memory, 0, newest, Way::Down).await? else {
                return Ok(Logs::Refused);
            };
            (memory.from, memory.to) = (Some(from), memory.to.or(Some(head)));
        }
        let all = memory.from == Some(0) && memory.to >= Some(head);
        Ok(match self.is_whole() || all {
            true => Logs::Whole,
            false => Logs::Later,
        })
    }

    /// Looks at one range of blocks at one end of `from..=to`; answers its other end, or `None` when
    /// the endpoint gives no logs of it, however few.
    async fn range(
        &mut self,
        memory: &mut Memory,
        from: u64,
        to: u64,
        way: Way,
    ) -> Result<Option<u64>, ChainError> {
        loop {
            let size = memory.range.clamp(1, RANGE_MAX);
            let (first, last) = match way {
                Way::Up => (from, to.min(from.saturating_add(size - 1))),
                Way::Down => (from.max(to.saturating_sub(size - 1)), to),
            };
            let filter = Filter::new()
                .address(self.contract)
                .event_signature(PxSync::Transfer::SIGNATURE_HASH)
                .topic2(self.owner.into_word())
                .from_block(first)
                .to_block(last);
            let logs = match self.endpoint.logs(&filter).await {
                Ok(logs) => logs,
                Err(LogsFault::TooMuch(why)) => {
                    let blocks = last - first + 1;
                    tracing::debug!("no logs of {blocks} blocks: {why}");
                    memory.range = blocks / 2;
                    if memory.range == 0 {
                        memory.range = RANGE_FIRST;
                        return Ok(None);
                    }
                    continue;
                }
                Err(LogsFault::Other(fault)) => return Err(fault),
            };
            memory.range = size.saturating_mul(2).min(RANGE_MAX);
            let come = logs.iter().filter_map(|log| log.topics().get(3).copied());
            let new: Vec<U256> = come
                .map(|word| U256::from_be_bytes(word.0))
                .filter(|id| !memory.tokens.contains(id))
                .collect();
            self.confirm(&new).await?;
            memory.tokens.extend(new);
            return Ok(Some(match way {
                Way::Up => last,
                Way::Down => first,
            }));
        }
    }

    /// Tries all ids, the newest first; whether that was possible.
    async fn by_ids(&mut self, memory: &mut Memory) -> Result<bool, ChainError> {
        let call = PxV2::_tokenIdsCall {};
        let counted = self.endpoint.call(self.contract, &call, self.at).await;
        let last = match counted {
            Ok(last) => Some(u64::try_from(last).unwrap_or(u64::MAX)),
            Err(ChainError::Reverted(_) | ChainError::Permanent(_)) => None,
            Err(fault) => return Err(fault),
        };
        if last.is_some_and(|last| last > IDS_MAX) {
            return Ok(false);
        }
        let mut empty = 0;
        for first in (0..=last.unwrap_or(IDS_MAX)).step_by(IDS_ONCE as usize) {
            let end = (first + IDS_ONCE - 1).min(last.unwrap_or(IDS_MAX));
            let ids: Vec<U256> = (first..=end).map(U256::from).collect();
            let exist = self.confirm(&ids).await?;
            memory.tokens.extend(&self.owned);
            empty = match exist {
                0 => empty + ids.len() as u64,
                _ => 0,
            };
            if self.is_whole() {
                break;
            }
            if last.is_none() && empty >= IDS_EMPTY {
                break;
            }
        }
        Ok(true)
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

/// From which end a range is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}
