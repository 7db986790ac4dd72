//! `pxfs detach` where nothing is mounted: the state folder is opened for as long as it takes.
//!
//! Invariant: no token's volume is opened, and nothing is published. Called by `cli`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::ground::Ground;
use super::leave::Tell;
use super::leftovers::Leftovers;
use super::parts::Parts;
use super::state::StateDir;
use crate::chain::Ledger;
use crate::status::DetachAnswer;

/// Ends what `name` means (a token, or a directory as the drive would show it): saves it first,
/// where a folder is given.
///
/// # Errors
/// The chain's; there is none, or more than one; something of it could not be saved: then all is
/// still there.
pub async fn end(
    parts: Arc<Parts>,
    state_dir: StateDir,
    name: &str,
    save: Option<&Path>,
    tell: Tell<'_>,
) -> anyhow::Result<DetachAnswer> {
    state_dir.claim(parts.chain.owner)?;
    state_dir.empty_trash();
    let snapshot = parts.chain.ledger.snapshot().await?;
    let ground = Ground::build(parts, Arc::new(state_dir)).await?;
    let leftovers = Leftovers::new(ground);
    leftovers.look(&snapshot, &BTreeSet::new()).await?;
    let ended = leftovers.end(name, save, tell).await;
    tokio::task::spawn_blocking(move || leftovers.stop()).await?;
    ended
}
