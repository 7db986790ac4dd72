//! What a token grants, as the quota of its volume takes it.

use crate::chain::{Accounting, TokenInfo};
use crate::clock::Clock;
use crate::fs::{Allowance, ChainTime};

/// The allowance that `token` grants, seen in `block` of `timestamp_s` (Unix seconds).
#[must_use]
pub fn allowance(token: &TokenInfo, block: u64, timestamp_s: u64, clock: &dyn Clock) -> Allowance {
    Allowance {
        size_bytes: token.size_bytes,
        usage_on_chain_bytes: token.usage_bytes,
        additive: token.accounting == Accounting::Additive,
        uploads_left: token.uploads_left,
        last_sync_s: token.last_sync_s,
        sync_window_s: token.sync_window_s,
        seen: ChainTime::now(block, timestamp_s, clock),
        others_bytes: match token.accounting {
            Accounting::ByIssuer => token.usage_bytes,
            Accounting::Absolute | Accounting::Additive => 0,
        },
    }
}
