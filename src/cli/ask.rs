//! Has a request answered: by the daemon that owns the state folder, else in this process.
//!
//! Invariant: one process owns a state folder, so what the daemon can answer is asked of it. Called
//! by the commands.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::locate;
use super::mount::runtime;
use super::setup::Setup;
use crate::control::Request;
use crate::run::operate;
use crate::run::parts::Parts;
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
        let parts = Arc::new(Parts::build(&config).await?);
        // On the embedded chain nobody else is the oracle.
        let oracle = operate::oracle(&parts).await?.map(tokio::spawn);
        let answer = operate::answer(&parts, request).await;
        if let Some(oracle) = oracle {
            oracle.abort();
        }
        if let Some(chain) = parts.chain.embedded.clone() {
            tokio::task::spawn_blocking(move || chain.close()).await?;
        }
        answer
    })?;
    Ok(serde_json::from_value(answer)?)
}
