//! Charges the commits of mounted tokens, on contracts that charge each.
//!
//! Invariant: a volume stores a charge until a final block has it and the chain was seen with it,
//! so that a crash only repeats a request, which charges nothing twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{B256, U256};
use pxfs_base::backoff::Backoff;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::refusals::hint;
use crate::billing::anchors::Anchors;
use crate::chain::ChainError;
use crate::chain::charges::{Charger, Report, UNITS};
use crate::chain::transact::{Transactor, update_calldata};
use crate::contracts::Parts;
use crate::status::CallAnswer;
use crate::tokens::MountedToken;
use crate::tokens::Tokens;
use crate::types::VolumeKey;

const PAUSE: Duration = Duration::from_secs(2);
/// The same after a refusal, because each check asks the chain again; grows up to this.
const REFUSED_MAX: Duration = Duration::from_secs(30);
/// How long to wait until a charge is mined, and between two checks of it.
const MINED_LIMIT: Duration = Duration::from_secs(180);
const MINED_PAUSE: Duration = Duration::from_millis(250);

/// A check's finding on a token: what was abandoned, or why it does not advance.
type Looked = (Arc<MountedToken>, Result<Option<String>, String>);

/// Checks when woken, and until all is charged; never returns.
pub(crate) async fn run(parts: Arc<Parts>, sender: Transactor, tokens: Arc<Tokens>) {
    let mut swept = HashSet::new();
    // An abandoned charge is reported while the token is shown.
    let mut ended: HashMap<VolumeKey, String> = HashMap::new();
    let mut anchors = Anchors::default();
    let mut refused: HashMap<VolumeKey, (Instant, Backoff)> = HashMap::new();
    let (mut last, mut next) = (None, None);
    loop {
        wait(&tokens, last, next).await;
        let now = Instant::now();
        (last, next) = (Some(now), None);
        // The dialect may be unknown before the first token.
        if !parts.charges_commits() {
            continue;
        }
        let is_due =
            |live: &Arc<MountedToken>| refused.get(&live.key).is_none_or(|(due, _)| *due <= now);
        let due = tokens.all().into_iter().filter(is_due).collect();
        for (live, looked) in look(&parts, &sender, due, &swept).await {
            let error = match looked {
                Ok(told) => {
                    swept.insert(live.key);
                    ended.extend(told.map(|told| (live.key, told)));
                    ended.get(&live.key).cloned()
                }
                Err(error) => Some(error),
            };
            // Only state changes are logged: the chain's figures differ at each check.
            match (live.charge_error(), &error) {
                (None, Some(error)) => {
                    tracing::warn!(token = %live.key.token.token, "charges: {error}");
                }
                (Some(_), None) => {
                    tracing::info!(token = %live.key.token.token, "charges: they come on again");
                }
                _ => {}
            }
            match &error {
                None => drop(refused.remove(&live.key)),
                Some(_) => {
                    let first = || (now, Backoff::new(PAUSE, REFUSED_MAX));
                    let (due, backoff) = refused.entry(live.key).or_insert_with(first);
                    *due = now + backoff.pause();
                }
            }
            live.set_charge_error(error);
        }
        let all = tokens.all();
        let is_anchoring = anchors.look(&parts, &sender, &all).await;
        let is_open = |live: &Arc<MountedToken>| {
            let is_done = swept.contains(&live.key) && live.volume.charges().is_empty();
            !is_done || refused.contains_key(&live.key)
        };
        let due = |live: &Arc<MountedToken>| refused.get(&live.key).map_or(now, |(due, _)| *due);
        let open = all.iter().filter(|live| is_open(live)).map(due);
        next = open.chain(is_anchoring.then_some(now)).min();
    }
}

/// Waits until woken or `next`, and at least for the pause after the `last` check.
async fn wait(tokens: &Tokens, last: Option<Instant>, next: Option<Instant>) {
    match next {
        Some(next) => tokio::select! {
            () = sleep_until(next) => {}
            () = tokens.charge_called() => {}
        },
        None => tokens.charge_called().await,
    }
    if let Some(last) = last {
        sleep_until(last + PAUSE).await;
    }
}

/// The last check of `all`, with anchors: reports tokens whose last commits cannot be charged now.
/// What is sent proceeds by itself.
pub(crate) async fn look_last(
    parts: &Parts,
    sender: &Transactor,
    all: Vec<Arc<MountedToken>>,
) -> Vec<String> {
    // The next mount removes what earlier crashes left.
    let swept = all.iter().map(|live| live.key).collect();
    let mut told = Vec::new();
    for (live, looked) in look(parts, sender, all.clone(), &swept).await {
        told.extend(looked.err().map(|why| uncharged(&live, &why)));
    }
    Anchors::last().look(parts, sender, &all).await;
    told
}

/// The message at shutdown for uncharged commits.
pub(crate) fn uncharged(live: &MountedToken, why: &str) -> String {
    format!(
        "token {}: {why}; it is asked for again after the next mount",
        live.directory
    )
}

/// Charges all that is published of `live` by now, and waits until it is mined: the last charge's
/// transaction, or `None` if everything was mined already.
///
/// # Errors
/// [`ChainError::Reverted`] if the contract refuses it; [`ChainError::Transient`] if it is not mined in
/// time: it stays pending.
pub(crate) async fn have_charged(
    parts: &Parts,
    sender: &Transactor,
    live: &MountedToken,
) -> Result<Option<B256>, ChainError> {
    let wanted = live.volume.charges();
    let until = Instant::now() + MINED_LIMIT;
    let (mut last, mut why) = (None, None);
    while Instant::now() < until {
        let begun = Turn::begin(charger(parts, sender, live), live, true);
        let Ok(begun) = timeout_at(until, begun).await else {
            break;
        };
        // Without those settled since.
        let Some(turn) = begun?.filter(|turn| turn.commits.iter().any(|one| wanted.contains(one)))
        else {
            return Ok(last);
        };
        let is_mined = turn.report.is_mined(&turn.commits);
        let transaction = turn.report.transaction;
        why.clone_from(&turn.report.error);
        // From here the volume counts what is mined.
        let Ok(ended) = timeout_at(until, turn.end(live)).await else {
            break;
        };
        match &why {
            None | Some(ChainError::Transient(_)) => {}
            Some(fault) => return Err(fault.clone()),
        }
        if let Err(fault) = ended {
            tracing::debug!("{fault}");
        }
        if is_mined {
            return Ok(last);
        }
        last = transaction.or(last);
        if let Ok(Err(fault)) = timeout_at(until, sender.carry()).await {
            tracing::debug!("{fault}");
        }
        tokio::time::sleep(MINED_PAUSE).await;
    }
    Err(why.unwrap_or_else(|| {
        ChainError::Transient(format!(
            "the charge of the last commit is in no block after {} s; it may be later",
            MINED_LIMIT.as_secs()
        ))
    }))
}

/// The calls for the uncharged commits of `live`.
pub(crate) fn calls(parts: &Parts, live: &MountedToken) -> Vec<CallAnswer> {
    let (chain, token) = (&parts.chain, live.key.token.token);
    let commits = live.volume.charges().into_iter();
    let calls = commits.map(|(_, bytes)| {
        let data = update_calldata(chain.dialect(), token, bytes, UNITS);
        CallAnswer::new(chain.chain_id, chain.contract, U256::ZERO, &data)
    });
    calls.collect()
}

fn charger(parts: &Parts, sender: &Transactor, live: &MountedToken) -> Charger {
    let (key, dialect) = (live.key.token, parts.chain.dialect());
    Charger::new(sender.clone(), key.contract, dialect, key.token)
}

/// One check of `all`. Drives pending transactions once for all, so that its work is linear in the
/// open ones.
async fn look(
    parts: &Parts,
    sender: &Transactor,
    all: Vec<Arc<MountedToken>>,
    swept: &HashSet<VolumeKey>,
) -> Vec<Looked> {
    let (mut told, mut open) = (Vec::new(), Vec::new());
    for live in all {
        let charger = charger(parts, sender, &live);
        match Turn::begin(charger, &live, swept.contains(&live.key)).await {
            Ok(Some(turn)) => open.push((live, turn)),
            Ok(None) => told.push((live, Ok(None))),
            Err(fault) => {
                let why = words(&live.directory, &fault);
                told.push((live, Err(why)));
            }
        }
    }
    // Most are mined at once: the chain's usage must not count twice.
    if open.iter().any(|(_, turn)| turn.is_under_way())
        && let Err(fault) = sender.carry().await
    {
        tracing::debug!("{fault}");
    }
    for (live, turn) in open {
        let ended = turn.end(&live).await;
        told.push((live, ended));
    }
    told
}

/// One token's charges in a check, exclusively.
struct Turn {
    _turn: OwnedMutexGuard<()>,
    charger: Charger,
    commits: Vec<(u64, u64)>,
    report: Report,
}

impl Turn {
    /// Requests new charges; `None` if nothing is to be charged. First removes what a crash left,
    /// unless `swept`.
    async fn begin(
        charger: Charger,
        live: &MountedToken,
        swept: bool,
    ) -> Result<Option<Self>, ChainError> {
        let turn = Arc::clone(&live.keeper.charging).lock_owned().await;
        let commits = live.volume.charges();
        if !swept {
            charger.sweep(&commits).await?;
        }
        if commits.is_empty() {
            return Ok(None);
        }
        let report = charger.report(&commits).await?;
        Ok(Some(Self {
            _turn: turn,
            charger,
            commits,
            report,
        }))
    }

    /// Whether another check may find progress.
    fn is_under_way(&self) -> bool {
        self.report.error.is_none() && !self.report.is_mined(&self.commits)
    }

    /// Updates the volume; returns what was abandoned.
    ///
    /// # Errors
    /// Why it does not advance.
    async fn end(self, live: &MountedToken) -> Result<Option<String>, String> {
        let words = |fault: ChainError| words(&live.directory, &fault);
        let report = match self.is_under_way() {
            true => self.charger.report(&self.commits).await.map_err(words)?,
            false => self.report,
        };
        let (volume, mut done) = (Arc::clone(&live.volume), report.done);
        // No block to wait for.
        done.extend(report.lost.iter().map(|sequence| (*sequence, 0)));
        let mined = report.mined;
        let settled =
            tokio::task::spawn_blocking(move || volume.settle_charges(&done, mined)).await;
        let settled = match settled {
            Ok(Ok(settled)) => settled,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("the volume ended".to_owned()),
        };
        for sequence in settled {
            self.charger.forget(sequence).await.map_err(words)?;
        }
        match (report.error, report.lost.len()) {
            (None, _) => Ok(None),
            (Some(fault), 0) => Err(words(fault)),
            (Some(fault), lost) => Ok(Some(format!(
                "{lost} published commits are charged to nobody, since the token is not this wallet's any more: {fault}"
            ))),
        }
    }
}

fn words(called: &str, fault: &ChainError) -> String {
    match hint(called, fault) {
        Some(hint) => format!("the last commit is not charged yet: {fault}: {hint}"),
        None => format!("the last commit is not charged yet: {fault}"),
    }
}
