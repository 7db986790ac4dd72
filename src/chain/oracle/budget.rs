//! How many deliveries an operator pays for, a token and day.
//!
//! Invariant: what is remembered are deliveries of the last day alone, so it grows with what was paid
//! and not with the tokens there are. It begins anew with the process.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::types::TokenId;

const DAY: Duration = Duration::from_secs(86_400);

/// The deliveries of the last 24 hours, by token.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// Deliveries a token and day; none: as many as are asked for.
    most: Option<usize>,
    delivered: BTreeMap<TokenId, VecDeque<Instant>>,
}

impl Budget {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: Some(most),
            ..Self::default()
        }
    }

    /// When the next delivery of `token` may be paid for, if not now.
    pub(super) fn wait_until(&self, token: TokenId, now: Instant) -> Option<Instant> {
        let most = self.most?;
        let delivered = self.delivered.get(&token)?;
        let recent = delivered.iter().filter(|at| now < **at + DAY);
        let recent: Vec<_> = recent.collect();
        let first = recent.len().checked_sub(most)?;
        recent.get(first).map(|at| **at + DAY)
    }

    /// Notes a delivery of `token`.
    pub(super) fn spend(&mut self, token: TokenId, now: Instant) {
        if self.most.is_none() {
            return;
        }
        self.delivered.retain(|_, at| {
            at.retain(|at| now < *at + DAY);
            !at.is_empty()
        });
        self.delivered.entry(token).or_default().push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_token_gets_its_deliveries_of_any_24_hours_and_no_more() {
        let (one, other) = (TokenId::from(1), TokenId::from(2));
        let begin = Instant::now();
        let mut budget = Budget::new(2);
        budget.spend(one, begin);
        assert_eq!(budget.wait_until(one, begin), None);
        budget.spend(one, begin + HOUR);
        let later = begin + 2 * HOUR;
        assert_eq!(budget.wait_until(one, later), Some(begin + DAY));
        assert_eq!(budget.wait_until(other, later), None);
        assert_eq!(budget.wait_until(one, begin + DAY), None);
        budget.spend(one, begin + DAY);
        assert_eq!(
            budget.wait_until(one, begin + DAY),
            Some(begin + DAY + HOUR)
        );
        // What is a day old is forgotten.
        budget.spend(other, begin + 3 * DAY);
        assert_eq!(budget.delivered.len(), 1);
    }

    #[test]
    fn an_operator_without_a_bound_remembers_nothing() {
        let mut budget = Budget::default();
        budget.spend(TokenId::from(1), Instant::now());
        assert!(budget.delivered.is_empty());
        assert_eq!(budget.wait_until(TokenId::from(1), Instant::now()), None);
    }
}
