//! Has the commits of mounted tokens charged, on contracts that charge each commit.
//!
//! Invariant: a volume keeps a charge until the chain has it for good and was seen with it, so that a crash at any moment ends in
//! asking again, which charges nothing twice. Started by `daemon`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::live::Live;
use super::parts::Parts;
use super::tokens::Tokens;
use crate::chain::charges::Charger;
use crate::chain::transact::Transactor;
use crate::chain::{Accounting, ChainError};
use crate::types::VolumeKey;

/// Between two looks at what is to be charged, where there is anything.
const PAUSE: Duration = Duration::from_secs(2);

/// Looks again and again; never returns.
pub(super) async fn run(parts: Arc<Parts>, sender: Transactor, tokens: Arc<Tokens>) {
    let mut swept = HashSet::new();
    // What was given up for good is told for as long as the token is shown.
    let mut ended: HashMap<VolumeKey, String> = HashMap::new();
    loop {
        tokio::time::sleep(PAUSE).await;
        // What it speaks may be known no sooner than its first token.
        if parts.chain.dialect().accounting() != Accounting::Additive {
            continue;
        }
        for live in tokens.all() {
            let fresh = !swept.contains(&live.key);
            let error = match settle(&parts, &sender, &live, fresh).await {
                Ok(told) => {
                    swept.insert(live.key);
                    ended.extend(told.map(|told| (live.key, told)));
                    ended.get(&live.key).cloned()
                }
                Err(error) => Some(error),
            };
            if let Some(error) = &error
                && live.charge_error().as_ref() != Some(error)
            {
                tracing::warn!(token = %live.key.token.token, "charges: {error}");
            }
            live.set_charge_error(error);
        }
    }
}

/// One look at one token, which is a `fresh` one the first time: what was given up for good, if anything.
///
/// # Errors
/// Why it does not come on.
async fn settle(
    parts: &Parts,
    sender: &Transactor,
    live: &Live,
    fresh: bool,
) -> Result<Option<String>, String> {
    let commits = live.volume.charges();
    if commits.is_empty() && !fresh {
        return Ok(None);
    }
    let chain = &parts.chain;
    let key = live.key.token;
    let charger = Charger::new(sender.clone(), key.contract, chain.dialect(), key.token);
    if fresh {
        charger.sweep(&commits).await.map_err(words)?;
    }
    let mut report = charger.report(&commits).await.map_err(words)?;
    if report.error.is_none() && report.done.len() + report.mined.len() < commits.len() {
        // Most are in a block at once: what the chain has shall not count twice.
        if let Err(fault) = sender.carry().await {
            tracing::debug!("{fault}");
        }
        report = charger.report(&commits).await.map_err(words)?;
    }
    let (volume, mut done) = (Arc::clone(&live.volume), report.done);
    // No block has to be waited for.
    done.extend(report.lost.iter().map(|sequence| (*sequence, 0)));
    let mined = report.mined;
    let settled = tokio::task::spawn_blocking(move || volume.settle_charges(&done, mined)).await;
    let settled = match settled {
        Ok(Ok(settled)) => settled,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("the volume ended".to_owned()),
    };
    for sequence in settled {
        charger.forget(sequence).await.map_err(words)?;
    }
    match (report.error, report.lost.len()) {
        (None, _) => Ok(None),
        (Some(fault), 0) => Err(words(fault)),
        (Some(fault), lost) => Ok(Some(format!(
            "{lost} published commits are charged to nobody, since the token is not this wallet's any more: {fault}"
        ))),
    }
}

fn words(fault: ChainError) -> String {
    format!("the last commit is not charged yet: {fault}")
}
