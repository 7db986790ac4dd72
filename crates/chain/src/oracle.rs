//! The oracle operator: answers the contract's sync requests where Chainlink's network does not run.
//!
//! Invariant: a request is answered until the chain shows it closed, also after a restart. Runs in the
//! daemon on the embedded chain, and as `pxfs oracle`.
//!
//! An operator signs with all keys that it has been given. Where the forwarder wants more, it asks the
//! [`Colleagues`] for theirs ([`agree`]).

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

/// Blocks of one question for logs.
const LOGS_RANGE: u64 = 5_000;
/// Blocks that are looked at again, in case the newest were replaced.
const LOGS_AGAIN: u64 = 16;
/// Requests for logs of one look: what is left is the next one's, up to the height that the chain tells then.
const RANGES: usize = 64;
/// Pauses between tries to answer one request.
const TRY_MIN: Duration = Duration::from_millis(500);
const TRY_MAX: Duration = Duration::from_secs(60);
/// The longest pause while others are waited for.
const OTHERS_MAX: Duration = Duration::from_secs(4);
/// How long an operator leaves a request to each of those whose turn is before its own.
const TURN: Duration = Duration::from_secs(10);
/// How often a document that cannot be had is tried before the request is answered with that.
const READS: u32 = 3;
/// The longest that one request may take, so that it does not hold up the others for ever.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);
/// Requests that are worked on at once.
const AT_ONCE: usize = 16;
/// The longest pause after the chain did not answer.
const FAULT_MAX: Duration = Duration::from_secs(60);
/// The place is written down at the latest after so many blocks without a request.
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
    /// Whether a delivery was paid for that is not written down yet.
    has_paid: bool,
    clock: Arc<dyn Clock>,
    /// Where the place is kept, and what stands there.
    place: Option<(PathBuf, Option<u64>)>,
    turn: Duration,
    next_block: u64,
    /// Blocks of one question for logs, as the endpoint takes them.
    range: u64,
    open: BTreeMap<B256, Open>,
}

/// Hears what became of requests.
pub type Tell = Arc<dyn Fn(&Told) + Send + Sync>;

/// A request that waits for its answer.
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
    /// Why it waits.
    why: String,
}

/// What became of a request, for whoever watches an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The contract's id of it.
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
    /// The contract has what the document says.
    Synced {
        /// Bytes in use.
        usage: u64,
        /// Sequence of the document.
        sequence: u64,
        /// The delivery.
        transaction: B256,
    },
    /// The request was closed by a code of `SyncFailed`.
    Failed {
        /// The code.
        code: u8,
        /// What it means, and what was found.
        reason: String,
        /// The delivery.
        transaction: B256,
    },
    /// It is tried again.
    Waits {
        /// Why.
        reason: String,
    },
    /// It is no longer open: another operator has answered, or it was asked anew.
    Elsewhere,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// A document that can be had.
    Read,
    /// The other operators.
    Signatures,
    /// An operator whose turn it is.
    Turn,
    /// The chain.
    Chain,
    /// The time when this token's next delivery may be paid for.
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
    /// An operator for `contract` that signs with `signers`, reads through `reader`, and looks for
    /// requests from `from_block` on (the contract's deployment, or what [`Operator::next_block`]
    /// said before). `payer` pays for the deliveries.
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

    /// The same, with others whose signatures count beside its own.
    #[must_use]
    pub fn with_colleagues(self, colleagues: Arc<dyn Colleagues>) -> Self {
        Self {
            colleagues: Some(colleagues),
            ..self
        }
    }

    /// The same, whose outcomes are told.
    #[must_use]
    pub fn telling(self, tell: Tell) -> Self {
        Self {
            tell: Some(tell),
            ..self
        }
    }

    /// The same, which pays for no more than `most` deliveries of one token in 24 hours: what is
    /// asked for beyond that waits.
    #[must_use]
    pub fn with_budget(self, most: usize) -> Self {
        Self {
            budget: self.budget.of(most),
            ..self
        }
    }

    /// The same, which keeps in `file` its place and what it has delivered in the last day, and goes on from what
    /// stands there: the next block, then a line a delivery.
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

    /// What it says about open requests, for the others.
    #[must_use]
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Where to go on after a restart: every request before this block is answered.
    #[must_use]
    pub fn next_block(&self) -> u64 {
        let open = self.open.values().map(|open| open.block);
        open.fold(self.next_block, u64::min)
    }

    /// Checks that it is an operator, and that its signatures suffice, or may with others'.
    ///
    /// # Errors
    /// [`ChainError::Permanent`] when they do not, or the contract has no forwarder.
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

    /// Answers requests until `stop` turns true (or its sender is gone), looking every `pause`.
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

    /// Writes its place down, where that has moved.
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

    /// Looks for new requests and tries to answer those that are due; answers how many were closed.
    ///
    /// # Errors
    /// When the chain does not answer; nothing is forgotten then.
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

    /// Takes in the requests of new blocks. Of a token only the last can be open.
    async fn look(&mut self) -> Result<(), ChainError> {
        let endpoint = self.payer.endpoint().clone();
        let height = endpoint.height().await?;
        // A chain that was set back has new blocks where old ones were.
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
            // What was looked through is so also where what follows cannot be had now.
            self.next_block = to.saturating_add(1);
            // Fewer blocks at once were wanted of a moment, or of these alone.
            if to - from + 1 == self.range {
                self.range = self.range.saturating_mul(2).min(LOGS_RANGE);
            }
            from = self.next_block;
        }
        Ok(())
    }

    /// Takes in what was asked for in blocks from `from` on.
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
