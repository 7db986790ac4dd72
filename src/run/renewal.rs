//! Syncs tokens by itself, a while before their deadlines: `--auto-sync`.
//!
//! Invariant: one token of a contract at a time, and none again before it could have had an effect, so what is spent
//! is bounded; tokens that are due together are spread over half of the time that is left. Asks the
//! chain nothing until one is due. Started by `daemon`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::live::Live;
use super::parts::Parts;
use super::sync;
use super::tokens::Tokens;
use crate::types::VolumeKey;

/// Between two looks at what is due.
const PAUSE: Duration = Duration::from_secs(5);
/// Before a token is tried again: the contract lets a request be renewed after 5 minutes.
const AGAIN: Duration = Duration::from_secs(600);

/// Looks again and again; never returns.
pub(super) async fn run(parts: Arc<Parts>, tokens: Arc<Tokens>, before: Duration) {
    let mut tried: HashMap<VolumeKey, Duration> = HashMap::new();
    loop {
        tokio::time::sleep(PAUSE).await;
        let now = parts.clock.boottime();
        tried.retain(|_, at| now < *at + AGAIN);
        let due = tokens
            .all()
            .into_iter()
            .find(|live| !tried.contains_key(&live.key) && is_due(live, &parts, before));
        let Some(live) = due else { continue };
        tried.insert(live.key, now);
        let token = live.key.token.token;
        match sync::of_mount(&parts, &tokens, token, sync::By::Itself, false).await {
            Ok(_) => {
                tracing::info!(%token, "auto-sync: sent");
                if let Err(error) = tokens.refresh().await {
                    tracing::debug!("tokens: {error:#}");
                }
            }
            Err(error) => {
                tracing::warn!(%token, "auto-sync: {error:#}");
                let why = format!("auto-sync failed, and is tried again: {error:#}");
                live.set_sync_error(Some(why));
            }
        }
    }
}

fn is_due(live: &Live, parts: &Parts, before: Duration) -> bool {
    let Some((token, now_s)) = live.syncable(&*parts.clock) else {
        return false;
    };
    let deadline_s = token.last_sync_s.saturating_add(token.sync_window_s);
    let window = Duration::from_secs(token.sync_window_s);
    now_s >= due_s(&live.key, deadline_s, before.min(window))
}

/// When a token is due: at the earliest `before` ahead of its deadline, at the latest half of that.
fn due_s(key: &VolumeKey, deadline_s: u64, before: Duration) -> u64 {
    let mut hash = Sha256::new();
    hash.update(key.token.chain_id.to_be_bytes());
    hash.update(key.token.contract);
    hash.update(key.token.token.0.to_be_bytes::<32>());
    let chance = hash
        .finalize()
        .first_chunk()
        .map_or(0, |some| u64::from_be_bytes(*some));
    let before_s = before.as_secs();
    deadline_s
        .saturating_sub(before_s)
        .saturating_add(chance % (before_s / 2 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{TokenId, TokenKey};

    #[test]
    fn tokens_of_one_day_are_synced_apart_and_all_in_time() {
        let (deadline_s, before_s) = (2_000_000_000, 3 * 86_400);
        let due = |token: u64| {
            let token = TokenKey {
                chain_id: 100,
                contract: alloy::primitives::Address::repeat_byte(1),
                token: TokenId::from(token),
            };
            let key = VolumeKey { token, epoch: 1 };
            due_s(&key, deadline_s, Duration::from_secs(before_s))
        };
        let all: Vec<u64> = (0..500).map(due).collect();
        let (first, last) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert!(*first >= deadline_s - before_s && *last <= deadline_s - before_s / 2);
        // Within each of 36 hours some, and nowhere a crowd.
        let mut hours = [0; 37];
        for due in &all {
            hours[usize::try_from((due - (deadline_s - before_s)) / 3600).unwrap()] += 1;
        }
        assert!(
            hours[..36].iter().all(|&count| (1..50).contains(&count)),
            "{hours:?}"
        );
        assert_eq!(due(7), due(7), "a restart changes nothing");
    }
}
