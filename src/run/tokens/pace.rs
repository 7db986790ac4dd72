//! When the chain is looked at, and how closely: often while something is awaited of it, else seldom.
//!
//! Invariant: no more than [`IDLE`] pauses lie between two looks, and while a charge is not known to be in the usage on
//! chain, a look reads that usage. Called by `tokens`.

use std::sync::Arc;
use std::time::Duration;

use super::{Tokens, lock};
use crate::chain::ledger::Reading;
use crate::run::charges;
use crate::run::live::Live;

/// How many pauses lie between two looks while nothing is awaited.
const IDLE: u32 = 5;

impl Tokens {
    /// What the next look reads; `None` while the last one holds.
    pub(super) fn due(&self) -> Option<Reading> {
        let parts = &self.ground.parts;
        let all = self.all();
        let is_charged = charges::applies(parts);
        let owes = |live: &Arc<Live>| is_charged && !live.volume.charges().is_empty();
        let reading = match all.iter().any(owes) {
            true => Reading::All,
            false => Reading::Changed,
        };
        let age = {
            let view = lock(&self.view);
            let seen = view.seen.filter(|_| !view.is_blind);
            seen.map(|seen| parts.clock.boottime().saturating_sub(seen))
        };
        // What cannot be charged now is not awaited: it may stay so for days.
        let awaits = |live: &Arc<Live>| {
            live.awaits_sync(&*parts.clock)
                || owes(live) && live.charge_error().is_none()
                || live.lost().is_some() && live.is_pending()
        };
        let is_awaited = || all.iter().any(awaits) || self.awaits_unused();
        is_due(age, parts.config.refresh, is_awaited).then_some(reading)
    }
}

/// Whether the last look, of this age, is to be followed by another.
fn is_due(age: Option<Duration>, pause: Duration, is_awaited: impl FnOnce() -> bool) -> bool {
    let Some(age) = age else { return true };
    age >= pause * IDLE || age >= pause && is_awaited()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks of an hour whose passes are a pause apart.
    fn looks_of_an_hour(pause_s: u64, is_awaited: bool) -> u64 {
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
    fn a_drive_of_which_nothing_is_awaited_leaves_the_chain_alone_for_a_minute() {
        assert_eq!(looks_of_an_hour(15, false), 48);
        assert_eq!(looks_of_an_hour(15, true), 240);
        assert_eq!(
            looks_of_an_hour(1, false),
            720,
            "as often as somebody wants it"
        );
    }
}
