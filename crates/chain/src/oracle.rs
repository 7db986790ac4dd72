//! The oracle operator: answers sync requests where Chainlink's network does not run.
//!
//! Invariant: a request is answered until the chain shows it closed, also after a restart.
//!
//! An operator signs with all its keys. If the forwarder wants more signatures, it asks its
//! [`Colleagues`] ([`agree`]).

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, B256};
use alloy::rpc::types::{Filter, Log};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolEvent;
use futures::future::join_all;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::ChainError;
use super::contract::PxSync;
use super::endpoint::LogsFault;
use super::transact::Transactor;
use super::wallet::Wallet;
use pxfs_base::backoff::Backoff;
use pxfs_base::clock::{Clock, SystemClock};
use pxfs_base::durable::{Unnamed, sweep_unfinished, sync_folder};
use pxfs_base::types::TokenId;

pub mod agree;
mod answer;
mod budget;
mod reader;
#[cfg(test)]
mod tests;

pub use agree::{Board, Colleagues, Statement};
use answer::Step;
use budget::Budget;
pub use reader::{Documents, Finding, NodeDocuments, Reader, Refusal};

const LOGS_RANGE: u64 = 5_000;
/// Blocks read again, because the newest may have been replaced.
const LOGS_AGAIN: u64 = 16;
/// Log requests per check; the next check does the rest.
const RANGES: usize = 64;
/// Pauses between tries to answer one request.
const TRY_MIN: Duration = Duration::from_millis(500);
const TRY_MAX: Duration = Duration::from_secs(60);
/// The longest pause while waiting for others.
const OTHERS_MAX: Duration = Duration::from_secs(4);
/// How long an operator leaves a request to each one before it.
const TURN: Duration = Duration::from_secs(10);
/// Reads of a missing document before the request is answered with that.
const READS: u32 = 3;
/// The limit for one request, so that it cannot hold up others for ever.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);
const AT_ONCE: usize = 16;
/// The longest pause after the chain did not answer.
const FAULT_MAX: Duration = Duration::from_secs(60);
/// The most blocks without a request before the place is written.
const KEEP_BLOCKS: u64 = 500;

/// One operator.
pub struct Operator {
    payer: Transactor,
    contract: Address,
    signers: Vec<PrivateKeySigner>,
    reader: Reader,
    colleagues: Option<Arc<dyn Colleagues>>,
    board: Board,
    tell: Option<Tell>,
    budget: Budget,
    /// Whether a paid delivery is not written down yet.
    has_paid: bool,
    clock: Arc<dyn Clock>,
    /// The file for the place, and what it says.
    place: Option<(PathBuf, Option<u64>)>,
    turn: Duration,
    next_block: u64,
    /// Blocks per log request, as the endpoint accepts.
    range: u64,
    open: BTreeMap<B256, Open>,
}

/// Receives the outcomes of requests.
pub type Tell = Arc<dyn Fn(&Told) + Send + Sync>;

#[derive(Clone, Debug)]
struct Open {
    token: TokenId,
    epoch: u64,
    name: String,
    block: u64,
    reads: u32,
    backoff: Backoff,
    due: Instant,
    seen: Instant,
    why: String,
}

/// The outcome of a request, for observers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Its id in the contract.
    pub request: B256,
    /// The token.
    pub token: TokenId,
    /// Its epoch.
    pub epoch: u64,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The contract took the document.
    Synced {
        /// Bytes in use.
        usage: u64,
        /// Sequence of the document.
        sequence: u64,
        /// The delivery.
        transaction: B256,
    },
    /// Closed by a code of `SyncFailed`.
    Failed {
        /// The code.
        code: u8,
        /// Its meaning, and what was found.
        reason: String,
        /// The delivery.
        transaction: B256,
    },
    /// Will be retried.
    Waits {
        /// Why.
        reason: String,
    },
    /// No longer open: another operator answered, or it was made anew.
    Elsewhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// A document.
    Read,
    /// The other operators.
    Signatures,
    /// An earlier operator's turn.
    Turn,
    /// The chain.
    Chain,
    /// The token's next delivery that the budget allows.
    Budget(Instant),
}

impl Open {
    fn told(&self, request: B256, outcome: Outcome) -> Told {
        Told {
            request,
            token: self.token,
            epoch: self.epoch,
            outcome,
        }
    }
}

impl Operator {
    /// An operator for `contract` that signs with `signers`, reads through `reader`, and starts at
    /// `from_block` (the deployment, or an earlier [`Operator::next_block`]). `payer` pays for
    /// deliveries.
    #[must_use]
    pub fn new(
        payer: Transactor,
        contract: Address,
        signers: &[&Wallet],
        reader: Reader,
        from_block: u64,
    ) -> Self {
        let mut signers: Vec<_> = signers
            .iter()
            .map(|wallet| wallet.signer().clone())
            .collect();
        signers.sort_by_key(PrivateKeySigner::address);
        signers.dedup_by_key(|signer| signer.address());
        Self {
            payer,
            contract,
            signers,
            reader,
            colleagues: None,
            board: Board::default(),
            tell: None,
            budget: Budget::default(),
            has_paid: false,
            clock: Arc::new(SystemClock),
            place: None,
            turn: TURN,
            next_block: from_block,
            range: LOGS_RANGE,
            open: BTreeMap::new(),
        }
    }

    /// Also counts these colleagues' signatures.
    #[must_use]
    pub fn with_colleagues(self, colleagues: Arc<dyn Colleagues>) -> Self {
        Self {
            colleagues: Some(colleagues),
            ..self
        }
    }

    /// Reports outcomes to `tell`.
    #[must_use]
    pub fn telling(self, tell: Tell) -> Self {
        Self {
            tell: Some(tell),
            ..self
        }
    }

    /// Pays for at most `most` deliveries per token in 24 hours; more requests wait.
    #[must_use]
    pub fn with_budget(self, most: usize) -> Self {
        Self {
            budget: self.budget.of(most),
            ..self
        }
    }

    /// Stores its place and the last day's deliveries in `file`, and resumes from it: the next block, then
    /// a line for each delivery.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn kept_in(self, file: PathBuf) -> io::Result<Self> {
        let (mut budget, mut kept) = (self.budget, None);
        match std::fs::read_to_string(&file) {
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => {}
            text => {
                let text = text?;
                let mut lines = text.lines();
                let next = lines.next().unwrap_or_default().trim();
                kept = Some(next.parse::<u64>().map_err(io::Error::other)?);
                for line in lines {
                    let read = budget.read(line);
                    read.ok_or_else(|| io::Error::other("a line is no delivery"))?;
                }
            }
        }
        Ok(Self {
            next_block: kept.unwrap_or(self.next_block),
            place: Some((file, kept)),
            budget,
            ..self
        })
    }

    /// Its statements on open requests, for the others.
    #[must_use]
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Where to resume: every request before this block is answered.
    #[must_use]
    pub fn next_block(&self) -> u64 {
        let open = self.open.values().map(|open| open.block);
        open.fold(self.next_block, u64::min)
    }

    /// Checks that it is an operator, and that its signatures suffice, alone or with others'.
    ///
    /// # Errors
    /// [`ChainError::Permanent`] if not, or if the contract has no forwarder.
    pub async fn check(&self) -> Result<(), ChainError> {
        let forwarder = self.forwarder().await?;
        let council = self.council(forwarder).await?;
        let (own, threshold) = (&self.signers, council.threshold);
        let accepted = own.iter().map(PrivateKeySigner::address);
        let accepted = accepted.filter(|own| council.operators.contains(own));
        let accepted = accepted.count();
        if accepted == 0 && threshold > 0 {
            let who = own
                .first()
                .map(PrivateKeySigner::address)
                .unwrap_or_default();
            return Err(ChainError::Permanent(format!(
                "{who} is none of the operators of forwarder {forwarder} (0 of the {threshold} \
                 signatures that it wants): its owner can name it by `setOperators`"
            )));
        }
        if accepted < threshold && self.colleagues.is_none() {
            return Err(ChainError::Permanent(format!(
                "this oracle has {accepted} of the {threshold} signatures that forwarder \
                 {forwarder} wants: name the other operators by `pxfs oracle --peer`"
            )));
        }
        Ok(())
    }

    /// Answers requests until `stop` turns true (or its sender is gone), checking every `pause`.
    pub async fn run(mut self, pause: Duration, mut stop: watch::Receiver<bool>) {
        let mut last = None;
        let mut faults = Backoff::new(pause * 2, FAULT_MAX.max(pause));
        while !*stop.borrow() {
            let stepped = tokio::select! {
                stepped = self.step() => stepped,
                changed = stop.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => break,
                },
            };
            let fault = stepped.err();
            let rest = match &fault {
                Some(_) => faults.pause(),
                None => {
                    faults.reset();
                    pause
                }
            };
            if let Some(fault) = &fault
                && last.as_ref() != Some(fault)
            {
                tracing::warn!("oracle: {fault}");
            }
            last = fault;
            self.keep(false).await;
            let due = self.open.values().map(|open| open.due).min();
            let until = Instant::now() + rest;
            let until = due.map_or(until, |due| due.min(until).max(Instant::now() + TRY_MIN));
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                changed = stop.changed() => if changed.is_err() { break },
            }
        }
        self.keep(true).await;
    }

    /// Stores its place if that has moved.
    async fn keep(&mut self, last: bool) {
        let next = self.next_block();
        let Some((file, kept)) = &mut self.place else {
            return;
        };
        let moved = kept.map_or(u64::MAX, |kept| next.abs_diff(kept));
        if !self.has_paid && (moved == 0 || (moved < KEEP_BLOCKS && !last)) {
            return;
        }
        let to = file.clone();
        let text = format!("{next}\n{}", self.budget.lines());
        let written = tokio::task::spawn_blocking(move || {
            let folder = to.parent().ok_or_else(|| io::Error::other("no folder"))?;
            sweep_unfinished(folder);
            let unnamed = Unnamed::write(folder, text.as_bytes(), None)?;
            unnamed.rename(&to)?;
            sync_folder(folder)
        });
        match written.await.map_err(io::Error::other).flatten() {
            Ok(()) => {
                *kept = Some(next);
                self.has_paid = false;
            }
            Err(fault) => tracing::warn!("oracle: {}: {fault}", file.display()),
        }
    }

    /// Reads new requests and tries those that are due; returns how many were closed.
    ///
    /// # Errors
    /// The chain does not answer; nothing is forgotten then.
    pub async fn step(&mut self) -> Result<usize, ChainError> {
        self.look().await?;
        let (now, now_s) = (Instant::now(), self.now_s());
        let due = self.open.iter().filter(|(_, open)| open.due <= now);
        let due: Vec<(B256, Open)> = due
            .map(|(request, open)| (*request, open.clone()))
            .collect();
        let hands = Semaphore::new(AT_ONCE);
        let answers = due.iter().map(|(request, open)| async {
            let _hand = hands.acquire().await;
            if let Some(wait_s) = self.budget.wait_s(open.token, now_s) {
                let until = now + Duration::from_secs(wait_s);
                let why = "this token's deliveries of the day are spent (--max-per-token)";
                return Step::Later(Wait::Budget(until), why.to_owned());
            }
            let answer = timeout(ANSWER_LIMIT, self.answer(*request, open)).await;
            match answer {
                Ok(Ok(step)) => step,
                Ok(Err(fault)) => Step::Later(Wait::Chain, fault.to_string()),
                Err(_) => Step::Later(Wait::Chain, "it took too long".to_owned()),
            }
        });
        let answers = join_all(answers).await;
        let mut closed = 0;
        for ((request, _), answer) in due.iter().zip(answers) {
            match answer {
                Step::Closed(told) => {
                    if told.outcome != Outcome::Elsewhere {
                        self.budget.spend(told.token, now_s);
                        self.has_paid = true;
                    }
                    self.open.remove(request);
                    self.board.take_down(*request);
                    self.tell(&told);
                    closed += 1;
                }
                Step::Later(wait, why) => self.postpone(*request, wait, why),
            }
        }
        Ok(closed)
    }

    fn now_s(&self) -> u64 {
        self.clock.wall_s()
    }

    fn postpone(&mut self, request: B256, wait: Wait, why: String) {
        let Some(open) = self.open.get_mut(&request) else {
            return;
        };
        let most = match wait {
            Wait::Read | Wait::Chain => TRY_MAX,
            Wait::Signatures | Wait::Turn => OTHERS_MAX,
            Wait::Budget(_) => TRY_MIN,
        };
        open.reads += u32::from(wait == Wait::Read);
        let pause = open.backoff.pause_within(most);
        open.due = match wait {
            Wait::Budget(until) => until,
            _ => Instant::now() + pause,
        };
        if open.why != why {
            open.why.clone_from(&why);
            let told = open.told(request, Outcome::Waits { reason: why });
            self.tell(&told);
        }
    }

    fn tell(&self, told: &Told) {
        let Told { request, token, .. } = told;
        match &told.outcome {
            Outcome::Synced {
                usage, sequence, ..
            } => {
                tracing::info!(
                    "oracle: token {token} is synced: {usage} bytes, sequence {sequence}"
                );
            }
            Outcome::Failed { code, reason, .. } => {
                tracing::warn!("oracle: token {token}: {reason} (code {code})");
            }
            Outcome::Waits { reason } => {
                tracing::warn!("oracle: request {request} of token {token} waits: {reason}");
            }
            Outcome::Elsewhere => {
                tracing::info!("oracle: request {request} of token {token} is closed already");
            }
        }
        if let Some(tell) = &self.tell {
            tell(told);
        }
    }

    /// Reads the requests in new blocks. Only a token's last can be open.
    async fn look(&mut self) -> Result<(), ChainError> {
        let endpoint = self.payer.endpoint().clone();
        let height = endpoint.height().await?;
        // A chain that was set back has new blocks in place of old ones.
        let next = self.next_block.min(height.saturating_add(1));
        let mut from = next.saturating_sub(LOGS_AGAIN);
        for _ in 0..RANGES {
            if from > height {
                break;
            }
            let to = height.min(from.saturating_add(self.range - 1));
            let filter = Filter::new()
                .address(self.contract)
                .event_signature(PxSync::SyncRequested::SIGNATURE_HASH)
                .from_block(from)
                .to_block(to);
            let logs = match endpoint.logs(&filter).await {
                Ok(logs) => logs,
                Err(LogsFault::TooMuch(why)) if self.range == 1 => {
                    return Err(ChainError::Transient(why));
                }
                Err(LogsFault::TooMuch(_)) => {
                    self.range = (self.range / 2).max(1);
                    continue;
                }
                Err(LogsFault::Other(fault)) => return Err(fault),
            };
            self.take_in(&logs, from).await?;
            // Progress counts even if later blocks are unavailable now.
            self.next_block = to.saturating_add(1);
            // The endpoint wanted fewer blocks only for a moment, or only of these.
            if to - from + 1 == self.range {
                self.range = self.range.saturating_mul(2).min(LOGS_RANGE);
            }
            from = self.next_block;
        }
        Ok(())
    }

    /// Takes requests from blocks from `from` on.
    async fn take_in(&mut self, logs: &[Log], from: u64) -> Result<(), ChainError> {
        let mut found: BTreeMap<TokenId, (B256, Open)> = BTreeMap::new();
        for log in logs {
            if let Ok(asked) = PxSync::SyncRequested::decode_log(&log.inner) {
                let now = Instant::now();
                let open = Open {
                    token: TokenId(asked.tokenId),
                    epoch: asked.epoch,
                    name: asked.btnsKey.clone(),
                    block: log.block_number.unwrap_or(from),
                    reads: 0,
                    backoff: Backoff::new(TRY_MIN, TRY_MAX),
                    due: now,
                    seen: now,
                    why: String::new(),
                };
                found.insert(open.token, (asked.requestId, open));
            }
        }
        for (request, open) in found.into_values() {
            let known = self.open.contains_key(&request);
            if !known && self.open_info(request, open.token).await?.is_some() {
                self.open.insert(request, open);
            }
        }
        Ok(())
    }
}
