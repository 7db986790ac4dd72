//! Follows the contract's logs, so that a check costs one small request while nothing changes,
//! however many tokens.
//!
//! Invariant: a token is reused from the last check only if no later log concerns it, and no log
//! seen in the last [`AGAIN`] blocks has vanished. Periodically, and if the server gives no logs,
//! all tokens are read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::primitives::{B256, Bytes, U256};
use alloy::rpc::types::{Filter, Log};
use alloy::sol_types::{SolCall, SolEvent};

use super::{ContractLedger, Head, PAGE, token};
use crate::contract::PxSync;
use crate::dialect::Dialect;
use crate::endpoint::LogsFault;
use crate::{ChainError, Snapshot, TokenInfo};
use pxfs_base::types::TokenId;

/// Blocks whose logs are requested again, because the newest may have been replaced or incomplete.
const AGAIN: u64 = 64;
/// Seconds of chain time after which all `px-sync` tokens are read, plus seconds per token: a list
/// of thousands is megabytes.
const ALL_S: u64 = 3_600;
const ALL_MORE_S: u64 = 6;
/// The same per token of legacy contracts, where some changes leave no log; and the maximum.
const ALL_ADDITIVE_MORE_S: u64 = 5;
const ALL_ADDITIVE_S: u64 = 600;
/// Seconds of chain time for which a server without logs is not asked for them.
const NO_LOGS_S: u64 = 3_600;

/// What a check reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// All tokens.
    All,
    /// Those that logs concern.
    Changed,
}

#[derive(Debug)]
struct Known {
    snapshot: Snapshot,
    /// Chain time when all tokens were read, and when logs were refused.
    all_s: u64,
    refused_s: Option<u64>,
    /// The logs of its last blocks, if known.
    logs: Option<Logs>,
}

/// Logs of changes, by number and hash of their block and index in it.
type Logs = BTreeMap<(u64, B256, u64), Told>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Token(TokenId),
    /// Of any token.
    Any,
}

#[derive(Debug, Default)]
pub(super) struct Followed {
    last: Mutex<Option<Arc<Known>>>,
    /// Tells a server without logs from one that is down: after a check with logs fails (1), one
    /// goes without; if that succeeds (2), logs are tried once more (3).
    tries: AtomicU8,
}

impl Followed {
    fn last(&self) -> Option<Arc<Known>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }

    fn keep(&self, known: Known) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(Arc::new(known));
    }

    /// Begins a check, which may be aborted: whether to ask for logs, and what to pass to
    /// [`Followed::end`].
    fn begin(&self) -> (bool, u8) {
        let tries = self.tries.load(Ordering::Relaxed);
        let asks = tries.is_multiple_of(2);
        let failed = if asks { tries + 1 } else { 0 };
        self.tries.store(failed, Ordering::Relaxed);
        (asks, tries)
    }

    /// Ends it; true if the server gives no logs.
    fn end(&self, (asks, tries): (bool, u8), has_logs: bool) -> bool {
        match (asks, tries) {
            // As after a failure.
            (true, _) if !has_logs => return false,
            (false, 1) => self.tries.store(2, Ordering::Relaxed),
            _ => self.tries.store(0, Ordering::Relaxed),
        }
        (asks, tries) == (false, 3)
    }
}

impl ContractLedger {
    /// The wallet's tokens in the newest block. With `Changed`, unchanged ones are from the last check.
    ///
    /// # Errors
    /// As [`ContractLedger::snapshot`](super::ContractLedger::snapshot).
    pub async fn look(&self, reading: Reading) -> Result<Snapshot, ChainError> {
        let dialect = self.dialect().await?;
        let last = self.followed.last();
        let mut refused_s = last.as_ref().and_then(|last| last.refused_s);
        let open = last.as_ref().filter(|_| refused_s.is_none());
        let begun = open.map(|_| self.followed.begin());
        let asked = open.filter(|_| begun.is_some_and(|(asks, _)| asks));
        let first = asked.map(|last| last.snapshot.block.saturating_sub(AGAIN));
        let filter = first.map(|first| self.changes_since(first));
        let (head, logs) = self.newest(filter.as_ref()).await?;
        let is_told = !matches!(logs, Some(Err(LogsFault::Other(_))));
        if begun.is_some_and(|begun| self.followed.end(begun, is_told)) {
            refused_s = Some(head.timestamp_s);
        }
        refused_s =
            refused_s.filter(|since_s| head.timestamp_s < since_s.saturating_add(NO_LOGS_S));
        let known = last.as_ref().map(|last| last.snapshot.tokens.as_slice());
        let logs = match logs {
            Some(Ok(logs)) => Some(self.telling(&logs, known.unwrap_or_default(), head.number)),
            Some(Err(fault)) => {
                tracing::debug!("all tokens are read, since there are no logs: {fault}");
                let blocks = head.number.saturating_sub(first.unwrap_or_default());
                // Other servers refuse as many blocks as follow a pause, too.
                if is_told && blocks < 4 * AGAIN {
                    refused_s = Some(head.timestamp_s);
                }
                None
            }
            None => None,
        };
        let changed = match (&last, &logs) {
            (Some(last), Some(logs)) if reading == Reading::Changed => {
                last.changed(dialect, &head, logs)
            }
            _ => None,
        };
        let (tokens, all_s) = match (last, changed) {
            (Some(last), Some(changed)) => {
                let tokens = last.snapshot.tokens.clone();
                let tokens = self.renewed(dialect, tokens, &changed, head.at).await?;
                (tokens, last.all_s)
            }
            _ => (self.all(dialect, &head).await?, head.timestamp_s),
        };
        let snapshot = Snapshot {
            block: head.number,
            timestamp_s: head.timestamp_s,
            tokens,
        };
        self.followed.keep(Known {
            snapshot: snapshot.clone(),
            all_s,
            refused_s,
            logs,
        });
        Ok(snapshot)
    }

    /// `tokens`, with those of `changed` read anew in block `at`.
    async fn renewed(
        &self,
        dialect: Dialect,
        mut tokens: Vec<TokenInfo>,
        changed: &BTreeSet<TokenId>,
        at: BlockId,
    ) -> Result<Vec<TokenInfo>, ChainError> {
        if changed.is_empty() {
            return Ok(tokens);
        }
        let ids: Vec<U256> = changed.iter().map(|id| id.0).collect();
        let read = match dialect {
            Dialect::PxSync => self.infos(&ids, at).await?,
            Dialect::PxV2 | Dialect::PxV1 => self.read_additive(dialect, &ids, at).await?,
        };
        tokens.retain(|token| !changed.contains(&token.id));
        tokens.extend(read.into_iter().filter(|token| token.owner == self.owner));
        tokens.sort_unstable_by_key(|token| token.id);
        Ok(tokens)
    }

    async fn infos(&self, ids: &[U256], at: BlockId) -> Result<Vec<TokenInfo>, ChainError> {
        let calls = ids.iter().map(|&id| {
            let call = PxSync::tokenInfoCall { tokenId: id };
            call.abi_encode().into()
        });
        let calls: Vec<Bytes> = calls.collect();
        let mut tokens = Vec::with_capacity(ids.len());
        for answer in self.endpoint.call_many(self.contract, &calls, at).await? {
            let Ok(answer) = answer else { continue };
            let read = self
                .endpoint
                .read::<PxSync::tokenInfoCall>(self.contract, &answer)?;
            tokens.push(token(read));
        }
        Ok(tokens)
    }

    /// The filter for logs of changes.
    pub(crate) fn changes(&self) -> Filter {
        let events = vec![
            PxSync::Transfer::SIGNATURE_HASH,
            PxSync::Registered::SIGNATURE_HASH,
            PxSync::SyncRequested::SIGNATURE_HASH,
            PxSync::Synced::SIGNATURE_HASH,
            PxSync::SyncFailed::SIGNATURE_HASH,
            PxSync::MetadataUpdate::SIGNATURE_HASH,
            PxSync::BatchMetadataUpdate::SIGNATURE_HASH,
        ];
        Filter::new().address(self.contract).event_signature(events)
    }

    fn changes_since(&self, first: u64) -> Filter {
        let all = self.changes().from_block(first);
        all.to_block(BlockNumberOrTag::Latest)
    }

    /// Whether `log` changes this wallet's tokens.
    pub(crate) fn concerns(&self, log: &Log) -> bool {
        let last = self.followed.last();
        let known = last.as_ref().map(|last| last.snapshot.tokens.as_slice());
        self.told_by(log, known.unwrap_or_default()).is_some()
    }

    /// The logs that change this wallet's tokens, last `known`, up to block `head`; later ones come
    /// again.
    fn telling(&self, logs: &[Log], known: &[TokenInfo], head: u64) -> Logs {
        let told = logs.iter().filter_map(|log| {
            let place = (log.block_number?, log.block_hash?, log.log_index?);
            let told = self.told_by(log, known)?;
            (place.0 <= head).then_some((place, told))
        });
        told.collect()
    }

    fn told_by(&self, log: &Log, known: &[TokenInfo]) -> Option<Told> {
        let topics = log.topics();
        let event = topics.first().copied()?;
        if event == PxSync::BatchMetadataUpdate::SIGNATURE_HASH {
            return Some(Told::Any);
        }
        let is_transfer = event == PxSync::Transfer::SIGNATURE_HASH;
        let word = match topics {
            [_] => B256::try_from(log.data().data.as_ref()).ok()?,
            [_, _, _, word] if is_transfer => *word,
            [_, word, ..] => *word,
            [] => return None,
        };
        let id = TokenId(U256::from_be_bytes(word.0));
        let is_known = known.binary_search_by_key(&id, |token| token.id).is_ok();
        let comes = is_transfer && topics.get(2) == Some(&self.owner.into_word());
        (is_known || comes).then_some(Told::Token(id))
    }
}

impl Known {
    /// The tokens to read anew in `head`; `None` for all.
    fn changed(&self, dialect: Dialect, head: &Head, logs: &Logs) -> Option<BTreeSet<TokenId>> {
        let count = self.snapshot.tokens.len() as u64;
        let all_after_s = match dialect {
            Dialect::PxSync => ALL_S + ALL_MORE_S * count,
            Dialect::PxV2 | Dialect::PxV1 => ALL_ADDITIVE_S.min(ALL_ADDITIVE_MORE_S * count),
        };
        if head.number < self.snapshot.block
            || head.timestamp_s >= self.all_s.saturating_add(all_after_s)
        {
            return None;
        }
        let before = self.logs.as_ref()?;
        let first = self.snapshot.block.saturating_sub(AGAIN);
        let gone = before
            .iter()
            .filter(|(place, _)| place.0 >= first && !logs.contains_key(place));
        let come = logs.iter().filter(|(place, _)| !before.contains_key(place));
        let changed = gone.chain(come).map(|(_, told)| match told {
            Told::Token(id) => Some(*id),
            Told::Any => None,
        });
        let changed: BTreeSet<TokenId> = changed.collect::<Option<_>>()?;
        (changed.len() as u64 <= PAGE).then_some(changed)
    }
}
