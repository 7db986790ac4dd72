//! Has a request answered: by the daemon that owns the state folder, else in this process.
//!
//! Invariant: one process owns a state folder, so what the daemon can answer is asked of it. Called
//! by the commands.

use serde::de::DeserializeOwned;

use super::locate;
use super::mount::runtime;
use super::setup::Setup;
use crate::control::Request;
use crate::run::operate;
use crate::run::parts::{self, Parts};
use crate::run::state::StateDir;

/// The answer to a request that needs no mount.
pub(super) fn answer<T: DeserializeOwned>(setup: &Setup, request: &Request) -> anyhow::Result<T> {
    if let Some(entry) = locate::find(setup, None)? {
        return Ok(locate::connect(&entry)?.ask(request, |_| {})?);
    }
    setup.start_log("warn")?;
    let config = setup.config_or_demo()?;
    let _state_dir = StateDir::open(&config.state_dir)?;
    let answer = runtime()?.hold(async {
        let all = Parts::all(&config).await?;
        // On the embedded chain nobody else is the oracle.
        let mut oracles = Vec::new();
        for parts in &all {
            oracles.extend(operate::oracle(parts).await?.map(tokio::spawn));
        }
        let answer = operate::answer_of(&all, request).await;
        for oracle in oracles {
            oracle.abort();
        }
        parts::close_chains(&all).await;
        answer
    })?;
    Ok(serde_json::from_value(answer)?)
}
