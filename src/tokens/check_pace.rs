//! Schedules checks of the chain: often while a change is expected, seldom otherwise or while the
//! chain announces changes.
//!
//! Invariant: at most [`IDLE`] pauses lie between two checks, [`IDLE`] times as many while changes
//! are announced. While a charge is unconfirmed, a check reads the usage on chain.

use std::sync::Arc;
use std::time::Duration;

use super::contract_tokens::Tokens;
use crate::chain::dialect::Dialect;
use crate::chain::ledger::Reading;
use crate::chain::subscription::Announced;
use crate::tokens::mounted::MountedToken;
use pxfs_base::lock;

/// Pauses between two idle checks, and the factor on a pause while changes are announced.
const IDLE: u32 = 5;

impl Tokens {
    /// What the next check reads; `None` while the last one is recent enough.
    pub(super) fn due(&self, announced: Announced) -> Option<Reading> {
        let parts = &self.ground.parts;
        let all = self.all();
        let (age, block) = {
            let view = lock(&self.view);
            let seen = view.seen.filter(|_| !view.is_blind);
            let age = seen.map(|seen| parts.clock.boottime().saturating_sub(seen));
            (age, view.snapshot.as_ref().map_or(0, |seen| seen.block))
        };
        // A token that cannot be charged now is not waited for: that may last days.
        let awaits = |live: &Arc<MountedToken>| {
            live.awaits_sync(&*parts.clock)
                || self.owes(live) && live.charge_error().is_none()
                || live.lost().is_some() && live.is_pending()
        };
        let is_awaited = || all.iter().any(awaits) || self.awaits_unused();
        let pause = parts.config.refresh;
        // The last check's server did not know the announced change yet.
        if age.is_some_and(|age| age >= pause) && block < announced.block {
            return Some(self.reading());
        }
        // Legacy contracts change some state without a log, so nothing announces it.
        let is_announced = announced.is_live && parts.chain.dialect() == Dialect::PxSync;
        let pause = if is_announced { pause * IDLE } else { pause };
        is_due(age, pause, is_awaited).then(|| self.reading())
    }

    /// What to read after an announcement.
    pub(super) fn reading(&self) -> Reading {
        match self.all().iter().any(|live| self.owes(live)) {
            true => Reading::All,
            false => Reading::Changed,
        }
    }

    /// Whether a charge of `live` may still be missing from the usage on chain.
    fn owes(&self, live: &MountedToken) -> bool {
        self.ground.parts.charges_commits() && !live.volume.charges().is_empty()
    }
}

/// Whether a check of this age needs another.
fn is_due(age: Option<Duration>, pause: Duration, is_awaited: impl FnOnce() -> bool) -> bool {
    let Some(age) = age else { return true };
    age >= pause * IDLE || age >= pause && is_awaited()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks in an hour of passes that are a pause apart.
    fn checks_of_an_hour(pause_s: u64, is_awaited: bool) -> u64 {
        let pause = Duration::from_secs(pause_s);
        let (mut seen_s, mut looks) = (None::<u64>, 0);
        for now_s in (0..3600).step_by(usize::try_from(pause_s).unwrap()) {
            let age = seen_s.map(|seen_s| Duration::from_secs(now_s - seen_s));
            if is_due(age, pause, || is_awaited) {
                (seen_s, looks) = (Some(now_s), looks + 1);
            }
        }
        looks
    }

    #[test]
    fn an_idle_drive_checks_the_chain_once_a_minute() {
        assert_eq!(checks_of_an_hour(15, false), 48);
        assert_eq!(checks_of_an_hour(15, true), 240);
        assert_eq!(
            checks_of_an_hour(1, false),
            720,
            "as often as somebody wants it"
        );
    }
}
