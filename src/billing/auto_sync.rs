//! Syncs tokens before their deadlines: `--auto-sync`.
//!
//! Invariant: one token per chain at a time, none again before the last try could take effect, and
//! ever more rarely while paid tries bring no sync. `--max-fee`, which here covers fee and gas,
//! bounds the cost. A contract's tokens with a common deadline are spread over half of the time
//! left; the one tried longest ago comes first. It queries the chain only when one is due.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use crate::billing::sync;
use crate::chain::TokenInfo;
use crate::chain::dialect::Dialect;
use crate::chain::ledger::Reading;
use crate::contracts::Parts;
use crate::tokens::Tokens;
use crate::types::VolumeKey;

const PAUSE: Duration = Duration::from_secs(5);
/// The pause before a retry, after none, one, two and more paid tries without a sync. The contract
/// renews a request after 5 minutes.
const AGAIN: [Duration; 4] = [
    Duration::from_secs(600),
    Duration::from_secs(600),
    Duration::from_secs(3600),
    Duration::from_secs(6 * 3600),
];
/// The pause before renewing a request with unknown history, seconds of chain time.
const UNKNOWN_S: u64 = 3600;

#[derive(Default)]
struct Tries(HashMap<VolumeKey, Tried>);

/// The last try of a token.
#[derive(Clone, Copy)]
struct Tried {
    at: Duration,
    /// Paid tries since the last sync.
    paid: usize,
    /// Time of that sync.
    last_sync_s: u64,
}

impl Tries {
    /// The last try since the token's last sync.
    fn of(&self, key: &VolumeKey, token: &TokenInfo) -> Option<Tried> {
        let tried = self.0.get(key).copied();
        tried.filter(|tried| tried.last_sync_s == token.last_sync_s)
    }

    /// Whether `token` may be tried at `now` (chain time: `now_s`).
    fn may(&self, key: &VolumeKey, token: &TokenInfo, now: Duration, now_s: u64) -> bool {
        match self.of(key, token) {
            Some(tried) => {
                let pause = AGAIN.get(tried.paid).or(AGAIN.last());
                now >= tried.at + pause.copied().unwrap_or_default()
            }
            None => (token.sync_asked_s)
                .is_none_or(|asked_s| now_s >= asked_s.saturating_add(UNKNOWN_S)),
        }
    }

    /// Of those that may be tried, the one tried longest ago.
    fn next<T>(
        &self,
        due: impl IntoIterator<Item = (VolumeKey, TokenInfo, T)>,
    ) -> Option<(VolumeKey, TokenInfo, T)> {
        let tried =
            |(key, token, _): &(VolumeKey, TokenInfo, T)| self.of(key, token).map(|tried| tried.at);
        due.into_iter().min_by_key(tried)
    }

    /// Notes a try, and whether it was `paid` for.
    fn note(&mut self, key: VolumeKey, token: &TokenInfo, at: Duration, paid: bool) {
        let before = self.of(&key, token).map_or(0, |tried| tried.paid);
        let tried = Tried {
            at,
            paid: before + usize::from(paid),
            last_sync_s: token.last_sync_s,
        };
        self.0.insert(key, tried);
    }
}

/// Checks repeatedly when it is this contract's `turn` on the chain; returns if nothing can be
/// signed.
pub(crate) async fn run(
    parts: Arc<Parts>,
    tokens: Arc<Tokens>,
    before: Duration,
    turn: Arc<Mutex<()>>,
) {
    let mut tries = Tries::default();
    let Some(account) = &parts.chain.account else {
        return;
    };
    loop {
        tokio::time::sleep(PAUSE).await;
        // The nonce, which all contracts of the chain share, shows whether a try was paid for.
        let ours = turn.lock().await;
        let now = parts.clock.boottime();
        let live = tokens.all().into_iter().filter_map(|live| {
            let (token, now_s) = live.syncable(&*parts.clock)?;
            Some((live.key, token, now_s))
        });
        let all = live.chain(tokens.unused_to_sync());
        let due = all.filter(|(key, token, now_s)| {
            is_due(key, token, before, *now_s) && tries.may(key, token, now, *now_s)
        });
        let Some((key, info, _)) = tries.next(due) else {
            continue;
        };
        let token = key.token.token;
        let nonce = account.transactor.next_nonce().await.ok();
        let sent = sync::of_mount(&parts, &tokens, token, sync::By::Itself, false).await;
        // A failed one may have been sent.
        let next = account.transactor.next_nonce().await.ok();
        let paid = sent.is_ok() || nonce.is_none() || nonce != next;
        drop(ours);
        tries.note(key, &info, parts.clock.boottime(), paid);
        match sent {
            Ok(_) => {
                tracing::info!(%token, "auto-sync: sent");
                // Legacy contracts may leave no log of it.
                let reading = match parts.chain.dialect() {
                    Dialect::PxSync => Reading::Changed,
                    Dialect::PxV2 | Dialect::PxV1 => Reading::All,
                };
                if let Err(error) = tokens.pass(Some(reading)).await {
                    tracing::debug!("tokens: {error:#}");
                }
            }
            Err(error) => {
                tracing::warn!(%token, "auto-sync: {error:#}");
                let why = format!("auto-sync failed, and is tried again: {error:#}");
                if let Some(live) = tokens.get(token) {
                    live.set_sync_error(Some(why));
                }
            }
        }
    }
}

/// Whether a token is due at chain time `now_s`.
fn is_due(key: &VolumeKey, token: &TokenInfo, before: Duration, now_s: u64) -> bool {
    let deadline_s = token.last_sync_s.saturating_add(token.sync_window_s);
    let window = Duration::from_secs(token.sync_window_s);
    now_s >= due_s(key, deadline_s, before.min(window))
}

/// Between `before` ahead of the deadline and half of that.
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

    fn key(token: u64) -> VolumeKey {
        let token = TokenKey {
            chain_id: 100,
            contract: alloy::primitives::Address::repeat_byte(1),
            token: TokenId::from(token),
        };
        VolumeKey { token, epoch: 1 }
    }

    fn info(last_sync_s: u64, sync_asked_s: Option<u64>) -> TokenInfo {
        TokenInfo {
            last_sync_s,
            sync_asked_s,
            ..crate::billing::sync::tests::info(None)
        }
    }

    /// Tries, and paid ones, within a week of unanswered requests.
    fn tries_of_a_week(paid: bool) -> usize {
        let (mut tries, mut count) = (Tries::default(), 0);
        for minute in 0..7 * 24 * 60 {
            let now = Duration::from_secs(60 * minute);
            if tries.may(&key(1), &info(5, None), now, now.as_secs()) {
                tries.note(key(1), &info(5, None), now, paid);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn an_oracle_silent_for_a_week_is_paid_four_times_daily() {
        assert_eq!(tries_of_a_week(true), 3 + 27);
        // Free tries continue, so that a gateway that returns is used in time.
        assert_eq!(tries_of_a_week(false), 7 * 24 * 6);
    }

    #[test]
    fn a_sync_that_lands_ends_the_waiting() {
        let (mut tries, now) = (Tries::default(), Duration::from_secs(1000));
        for _ in 0..9 {
            tries.note(key(1), &info(5, None), now, true);
        }
        assert!(!tries.may(&key(1), &info(5, None), now * 9, 0));
        assert!(tries.may(&key(1), &info(6, None), now * 9, 0));
    }

    #[test]
    fn a_restart_does_not_pay_at_once_for_what_nobody_answers() {
        let (tries, now) = (Tries::default(), Duration::ZERO);
        let unanswered = info(5, Some(1000));
        assert!(!tries.may(&key(1), &unanswered, now, 1000 + UNKNOWN_S - 1));
        assert!(tries.may(&key(1), &unanswered, now, 1000 + UNKNOWN_S));
    }

    #[test]
    fn a_token_that_cannot_be_synced_keeps_no_other_from_it() {
        let token = info(5, None);
        let (mut tries, mut seen) = (Tries::default(), Vec::new());
        for minute in 0..30 {
            let now = Duration::from_secs(60 * minute);
            let due = (1..=3).map(key);
            let due = due.filter(|key| tries.may(key, &token, now, 0));
            if let Some((key, _, ())) = tries.next(due.map(|key| (key, token.clone(), ()))) {
                tries.note(key, &token, now, false);
                seen.push(key.token.token.as_u64().unwrap());
            }
        }
        assert_eq!(seen, [1, 2, 3, 1, 2, 3, 1, 2, 3]);
        // Each try lasts as long as its pause: all get their turn.
        let mut tries = Tries::default();
        let mut seen = Vec::new();
        for turn in 0..6 {
            let now = AGAIN[0] * turn;
            let due = (1..=3).map(key);
            let due = due.filter(|key| tries.may(key, &token, now, 0));
            let due = due.map(|key| (key, token.clone(), ()));
            let (key, _, ()) = tries.next(due).unwrap();
            tries.note(key, &token, now, false);
            seen.push(key.token.token.as_u64().unwrap());
        }
        assert_eq!(seen, [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn tokens_of_one_day_are_synced_apart_and_all_in_time() {
        let (deadline_s, before_s) = (2_000_000_000, 3 * 86_400);
        let due = |token: u64| due_s(&key(token), deadline_s, Duration::from_secs(before_s));
        let all: Vec<u64> = (0..500).map(due).collect();
        let (first, last) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert!(*first >= deadline_s - before_s && *last <= deadline_s - before_s / 2);
        // Some within each of 36 hours, and no crowd.
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
