//! `oracle`.
//!
//! Invariant: with `--json` stdout has one object a line: its description, then one for each
//! outcome.

use std::io::Write;
use std::sync::Arc;

use sd_notify::NotifyState;

use super::mount::{notify, runtime};
use super::setup::Setup;
use crate::context::StateDir;
use crate::exit::Exit;
use crate::oracle::{Oracle, Plan};

pub(super) fn run(setup: &Setup, plan: &Plan) -> anyhow::Result<Exit> {
    setup.start_log("info")?;
    let config = setup.config()?;
    // For its outbox and place.
    let _state_dir = StateDir::open(&config.state_dir)?;
    let json = setup.json;
    runtime()?.hold(async {
        let tell = move |told: &_| {
            if json {
                say(told);
            }
        };
        let oracle = Oracle::new(&config, plan, Arc::new(tell)).await?;
        let start = &oracle.start;
        match (json, start.listening) {
            (true, _) => say(start),
            (false, Some(at)) => tracing::info!("oracle: the other operators can ask at {at}"),
            (false, None) => {}
        }
        tracing::info!(
            "oracle: operator {} of contract {} on chain {}, from block {} on",
            start.operator,
            start.contract,
            start.chain_id,
            start.next_block
        );
        notify(&[NotifyState::Ready]);
        oracle.serve().await?;
        Ok(Exit::Ok)
    })
}

fn say(what: &impl serde::Serialize) {
    // A closed stdout does not stop it.
    if let Ok(line) = serde_json::to_string(what) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}
