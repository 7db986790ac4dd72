//! Answers a request: by the daemon that owns the state folder, else in this process.
//!
//! Invariant: one process owns a state folder, so the daemon answers whatever it can, and refuses a
//! command for another chain, contract or account.

use std::sync::Arc;

use alloy::primitives::U256;
use serde::de::DeserializeOwned;

use super::locate;
use super::mount::runtime;
use super::progress::Progress;
use super::setup::Setup;
use crate::billing;
use crate::chain::transact::OnProgress;
use crate::context::StateDir;
use crate::contracts::{self, Parts, open_wallet};
use crate::control::{Amount, Request, Terms};
use crate::exit::{Exit, Failure};
use crate::oracle;

/// The answer to a request that needs no mount.
pub(super) fn answer<T: DeserializeOwned>(setup: &Setup, request: &Request) -> anyhow::Result<T> {
    answer_for(setup, request, None)
}

/// What a user saw and agreed to, wei.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreed {
    pub(super) price: U256,
    pub(super) gas_cost: Option<U256>,
}

/// The highest gas cost to show for an estimate of `wei`: fees may rise before consent, and
/// replacements cost more, up to this.
pub(super) fn at_most(wei: U256) -> U256 {
    wei.saturating_mul(U256::from(2))
}

/// The same with what was `agreed`; refuses higher costs.
pub(super) fn answer_for<T: DeserializeOwned>(
    setup: &Setup,
    request: &Request,
    agreed: Option<Agreed>,
) -> anyhow::Result<T> {
    let price = agreed.map(|agreed| agreed.price);
    let gas_cost = agreed.and_then(|agreed| agreed.gas_cost);
    if let Some(entry) = locate::find(setup, None)? {
        let terms = Terms {
            price,
            gas_cost,
            ..terms(setup)?
        };
        let request = if terms.is_empty() {
            request.clone()
        } else {
            Request::Under {
                terms,
                request: Box::new(request.clone()),
            }
        };
        let progress = Progress::new(setup.progress);
        return Ok(locate::connect(&entry)?.ask(&request, |step| {
            if !step.what.is_empty() {
                progress.set(&step.what, step.amount);
            }
        })?);
    }
    setup.start_log("warn")?;
    let config = setup.config_or_demo()?;
    let _state_dir = StateDir::open(&config.state_dir)?;
    let answer = runtime()?.hold(async {
        let all = if request.needs_node() {
            Parts::any(&config).await?
        } else {
            Parts::without_node(&config).await?
        };
        let is_sync = matches!(request, Request::Sync { .. });
        let mut oracles = Vec::new();
        for parts in all.iter().filter(|_| request.needs_node()) {
            if oracle::is_wanted(parts, is_sync) {
                oracles.extend(oracle::begin(parts).await?.map(tokio::spawn));
            }
        }
        let terms = Terms {
            price,
            gas_cost,
            ..Terms::default()
        };
        let progress = Progress::new(setup.progress);
        let on_progress: OnProgress = Arc::new(move |what| progress.set(what, Amount::default()));
        let held = all.iter().map(|parts| {
            let held = parts.under(&terms);
            Arc::new(held.with_progress(&on_progress))
        });
        let answer = billing::answer_of(&held.collect::<Vec<_>>(), request).await;
        for oracle in oracles {
            oracle.abort();
        }
        contracts::close_chains(&all).await;
        answer
    })?;
    Ok(serde_json::from_value(answer)?)
}

/// The command's chain, contract, account and costs, because another one's drive must not execute
/// it.
fn terms(setup: &Setup) -> anyhow::Result<Terms> {
    let mut told = setup.told().clone();
    told.read_url_file()
        .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let account = match (&told.address, &told.wallet) {
        (Some(address), _) => Some(address.0),
        (None, Some(_)) => Some(open_wallet(&setup.config()?)?.address()),
        // The signing process asks the signer for its account.
        (None, None) => None,
    };
    Ok(Terms {
        rpc: told.rpc_url.iter().map(Into::into).collect(),
        chain_id: told.chain_id,
        contracts: told.contract,
        account,
        owner: told.owner.map(|owner| owner.0),
        watches: told.address.is_some() && told.signer.is_none(),
        max_fee: told.max_fee.map(|most| most.0),
        price: None,
        gas_cost: None,
        confirmations: told.confirmations,
    })
}
