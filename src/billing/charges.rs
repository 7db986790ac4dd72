//! Has the commits of mounted tokens charged, on contracts that charge each commit.
//!
//! Invariant: a volume keeps a charge until the chain has it for good and was seen with it, so that a crash at any moment ends in
//! asking again, which charges nothing twice. Started by `daemon`, which also has it look once more on the way out;
//! called by `sync`.

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

/// Between two looks at what is to be charged.
const PAUSE: Duration = Duration::from_secs(2);
/// The same where a charge was refused, which every look asks the chain for anew: longer each time, up to this.
const REFUSED_MAX: Duration = Duration::from_secs(30);
/// How long whoever waits for a charge waits until it is in a block, and between two looks at it.
const MINED_LIMIT: Duration = Duration::from_secs(180);
const MINED_PAUSE: Duration = Duration::from_millis(250);

/// What one look has found of a token: what was given up for good, if anything, or why it does not come on.
type Looked = (Arc<MountedToken>, Result<Option<String>, String>);

/// Looks when it is called, and again until all is charged; never returns.
pub(crate) async fn run(parts: Arc<Parts>, sender: Transactor, tokens: Arc<Tokens>) {
    let mut swept = HashSet::new();
    // What was given up for good is told for as long as the token is shown.
    let mut ended: HashMap<VolumeKey, String> = HashMap::new();
    let mut anchors = Anchors::default();
    let mut refused: HashMap<VolumeKey, (Instant, Backoff)> = HashMap::new();
    let (mut last, mut next) = (None, None);
    loop {
        wait(&tokens, last, next).await;
        let now = Instant::now();
        (last, next) = (Some(now), None);
        // What it speaks may be known no sooner than its first token.
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
            // The state tells the rest: what the chain asks for differs at each look.
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

/// Waits until it is called or `next` comes, and in any case until the pause behind the `last` look is over.
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

/// One last look at `all`, which are anchored, too: what is to be said of those whose last commits cannot be charged now. What is sent
/// needs nobody any more.
pub(crate) async fn look_last(
    parts: &Parts,
    sender: &Transactor,
    all: Vec<Arc<MountedToken>>,
) -> Vec<String> {
    // What earlier crashes have left over is looked for at the next mount.
    let swept = all.iter().map(|live| live.key).collect();
    let mut told = Vec::new();
    for (live, looked) in look(parts, sender, all.clone(), &swept).await {
        told.extend(looked.err().map(|why| uncharged(&live, &why)));
    }
    Anchors::last().look(parts, sender, &all).await;
    told
}

/// What is said on the way out of a token whose last commits are not charged.
pub(crate) fn uncharged(live: &MountedToken, why: &str) -> String {
    format!(
        "token {}: {why}; it is asked for again after the next mount",
        live.directory
    )
}

/// Has all that is published of `live` by now charged, and waits until it is in a block: the transaction of the last
/// charge, or `None` where there was nothing that was in none.
///
/// # Errors
/// [`ChainError::Reverted`] where the contract refuses it; [`ChainError::Transient`] where it is in no block in
/// time: it stays on its way.
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
        // What has been settled since is none of this any more.
        let Some(turn) = begun?.filter(|turn| turn.commits.iter().any(|one| wanted.contains(one)))
        else {
            return Ok(last);
        };
        let is_mined = turn.report.is_mined(&turn.commits);
        let transaction = turn.report.transaction;
        why.clone_from(&turn.report.error);
        // The volume counts with what is in a block from here on.
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

/// What is sent for the commits of `live` that are not charged yet.
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

/// One look at `all`. What is on its way is carried on once for all of them, so that the work of a look grows
/// with what is open and not with its square.
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
    // Most are in a block at once: what the chain has shall not count twice.
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

/// One token with commits that are to be charged, in one look: nobody else asks for them meanwhile.
struct Turn {
    _turn: OwnedMutexGuard<()>,
    charger: Charger,
    commits: Vec<(u64, u64)>,
    report: Report,
}

impl Turn {
    /// Asks for what was not asked for yet; `None` where nothing is to be charged. Of one that is not `swept` yet,
    /// what a crash has left over is forgotten first.
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

    /// Whether another look may find it further.
    fn is_under_way(&self) -> bool {
        self.report.error.is_none() && !self.report.is_mined(&self.commits)
    }

    /// Lets the volume know: what was given up for good, if anything.
    ///
    /// # Errors
    /// Why it does not come on.
    async fn end(self, live: &MountedToken) -> Result<Option<String>, String> {
        let words = |fault: ChainError| words(&live.directory, &fault);
        let report = match self.is_under_way() {
            true => self.charger.report(&self.commits).await.map_err(words)?,
            false => self.report,
        };
        let (volume, mut done) = (Arc::clone(&live.volume), report.done);
        // No block has to be waited for.
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
