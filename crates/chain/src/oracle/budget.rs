//! Limits the deliveries an operator pays for, per token and day.
//!
//! Invariant: only the last day's deliveries are remembered, so it grows with payments, not tokens.
//! A clock set back delays nobody by more than a day.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use pxfs_base::types::TokenId;

const DAY_S: u64 = 86_400;

/// The last 24 hours' deliveries by token, Unix seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Budget {
    /// Per token and day; `None` for unlimited.
    most: Option<usize>,
    delivered: BTreeMap<TokenId, VecDeque<u64>>,
}

impl Budget {
    pub(super) fn of(self, most: usize) -> Self {
        Self {
            most: Some(most),
            ..self
        }
    }

    /// Seconds from `now_s` until the next delivery of `token` is allowed.
    pub(super) fn wait_s(&self, token: TokenId, now_s: u64) -> Option<u64> {
        let most = self.most?;
        let delivered = self.delivered.get(&token)?;
        let mut left: Vec<u64> = delivered
            .iter()
            .map(|at| ((*at).min(now_s) + DAY_S).saturating_sub(now_s))
            .filter(|left_s| *left_s > 0)
            .collect();
        left.sort_unstable();
        let first = left.len().checked_sub(most)?;
        left.get(first).copied()
    }

    pub(super) fn spend(&mut self, token: TokenId, now_s: u64) {
        if self.most.is_none() {
            return;
        }
        self.delivered.retain(|_, at| {
            at.retain(|at| now_s < at.saturating_add(DAY_S));
            !at.is_empty()
        });
        self.delivered.entry(token).or_default().push_back(now_s);
    }

    /// A line `delivered TOKEN UNIX_SECONDS` for each.
    pub(super) fn lines(&self) -> String {
        let mut lines = String::new();
        for (token, times) in &self.delivered {
            for at in times {
                // Writing to memory does not fail.
                let _ = writeln!(lines, "delivered {token} {at}");
            }
        }
        lines
    }

    /// Reads such a line; `None` if it is none.
    pub(super) fn read(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        if words.next() != Some("delivered") {
            return None;
        }
        let (token, at) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        self.delivered.entry(token).or_default().push_back(at);
        words.next().is_none().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;
    const BEGIN: u64 = 1_800_000_000;

    #[test]
    fn a_token_gets_its_deliveries_of_any_24_hours_and_no_more() {
        let (one, other) = (TokenId::from(1), TokenId::from(2));
        let mut budget = Budget::default().of(2);
        budget.spend(one, BEGIN);
        assert_eq!(budget.wait_s(one, BEGIN), None);
        budget.spend(one, BEGIN + HOUR);
        let later = BEGIN + 2 * HOUR;
        assert_eq!(budget.wait_s(one, later), Some(22 * HOUR));
        assert_eq!(budget.wait_s(other, later), None);
        assert_eq!(budget.wait_s(one, BEGIN + DAY_S), None);
        budget.spend(one, BEGIN + DAY_S);
        assert_eq!(budget.wait_s(one, BEGIN + DAY_S), Some(HOUR));
        // Deliveries expire after a day.
        budget.spend(other, BEGIN + 3 * DAY_S);
        assert_eq!(budget.delivered.len(), 1);
    }

    #[test]
    fn an_operator_without_a_bound_remembers_nothing() {
        let mut budget = Budget::default();
        budget.spend(TokenId::from(1), BEGIN);
        assert!(budget.delivered.is_empty());
        assert_eq!(budget.wait_s(TokenId::from(1), BEGIN), None);
    }

    #[test]
    fn what_was_paid_is_read_again_as_it_was_written() {
        let token = TokenId::from(7);
        let mut budget = Budget::default().of(1);
        budget.spend(token, BEGIN);
        let mut again = Budget::default().of(1);
        for line in budget.lines().lines() {
            again.read(line).unwrap();
        }
        assert_eq!(again.wait_s(token, BEGIN + HOUR), Some(23 * HOUR));
        // A clock set back by a year.
        let before = BEGIN - 365 * DAY_S;
        assert_eq!(again.wait_s(token, before), Some(DAY_S));
        for line in [
            "",
            "delivered",
            "delivered 7",
            "delivered x 1",
            "delivered 7 1 2",
        ] {
            assert_eq!(again.read(line), None, "{line}");
        }
    }
}
