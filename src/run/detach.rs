//! `pxfs detach` without a mount: opens the state folder meanwhile.
//!
//! Invariant: opens no token's volume, and publishes nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::context::MountContext;
use crate::context::StateDir;
use crate::contracts::Parts;
use crate::control::Report;
use crate::exit::fail;
use crate::status::DetachAnswer;
use crate::tokens::OrphanedVolumes;

/// Ends the orphan `name` (a token, or a directory name), after saving it if a folder is given.
///
/// # Errors
/// The chain's; none or several match; something could not be saved: then all is still there.
pub async fn end(
    all: &[Arc<Parts>],
    state_dir: StateDir,
    name: &str,
    save: Option<&Path>,
    tell: Report<'_>,
) -> anyhow::Result<DetachAnswer> {
    let Some(first) = all.first() else {
        fail!(Token, "detach {name}: there is nothing of it");
    };
    state_dir.claim(first.chain.owner)?;
    state_dir.empty_trash();
    let ground = MountContext::build(Arc::clone(first), Arc::new(state_dir)).await?;
    let mut looked = Vec::new();
    for ground in ground.with_others(all) {
        let snapshot = ground.parts.chain.ledger.snapshot().await?;
        let doubts = !ground.parts.chain.endpoint.is_idle().await.unwrap_or(false);
        let leftovers = OrphanedVolumes::new(ground);
        leftovers.look(&snapshot, &BTreeSet::new(), doubts).await?;
        looked.push(leftovers);
    }
    let meant = looked.iter().find(|leftovers| leftovers.is_meant(name));
    let ended = match meant.or(looked.first()) {
        Some(leftovers) => leftovers.end(name, save, tell).await,
        None => fail!(Token, "detach {name}: there is nothing of it"),
    };
    let stop = move || looked.iter().for_each(OrphanedVolumes::stop);
    tokio::task::spawn_blocking(stop).await?;
    ended
}
