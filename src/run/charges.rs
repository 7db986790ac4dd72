//! Has the commits of mounted tokens charged, on contracts that charge each commit.
//!
//! Invariant: a volume keeps a charge until the chain has it for good and was seen with it, so that a crash at any moment ends in
//! asking again, which charges nothing twice. Started by `daemon`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::live::Live;
use super::parts::Parts;
use super::tokens::Tokens;
use crate::chain::ChainError;
use crate::chain::charges::Charger;
use crate::chain::transact::Transactor;

/// Between two looks at what is to be charged, where there is anything.
const PAUSE: Duration = Duration::from_secs(2);

/// Looks again and again; never returns.
pub(super) async fn run(parts: Arc<Parts>, sender: Transactor, tokens: Arc<Tokens>) {
    let mut swept = HashSet::new();
    loop {
        tokio::time::sleep(PAUSE).await;
        for live in tokens.all() {
            let fresh = !swept.contains(&live.key);
            let error = settle(&parts, &sender, &live, fresh).await.err();
            if fresh && error.is_none() {
                swept.insert(live.key);
            }
            if let Some(error) = &error
                && live.charge_error().as_ref() != Some(error)
            {
                tracing::warn!(token = %live.key.token.token, "charges: {error}");
            }
            live.set_charge_error(error);
        }
    }
}

/// One look at one token, which is a `fresh` one the first time; why it does not come on, if so.
async fn settle(
    parts: &Parts,
    sender: &Transactor,
    live: &Live,
    fresh: bool,
) -> Result<(), String> {
    let commits = live.volume.charges();
    if commits.is_empty() && !fresh {
        return Ok(());
    }
    let chain = &parts.chain;
    let key = live.key.token;
    let charger = Charger::new(sender.clone(), key.contract, chain.dialect, key.token);
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
    let (volume, done) = (Arc::clone(&live.volume), report.done);
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
    report.error.map_or(Ok(()), |fault| Err(words(fault)))
}

fn words(fault: ChainError) -> String {
    format!("the last commit is not charged yet: {fault}")
}
