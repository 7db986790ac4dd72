//! What is said of a token as the chain alone knows it: its state, and what to do about it.

use jiff::Timestamp;

use super::chain::ChainParts;
use super::parts::Parts;
use crate::chain::{Accounting, TokenInfo};
use crate::exit::{Exit, Failure};
use crate::status::{State, TokenStatus};

/// After so many seconds of chain time an open request may be made anew (`PxSync.sol`).
pub(crate) const REQUEST_TIMEOUT_S: u64 = 300;

/// What is said of tokens whose usage is not reported from here.
pub const BY_ISSUER: &str = "this contract (px-v1) lets PollinationX alone report usage: what is stored from here is charged to nobody, and no sync is due";

/// A token as the chain alone knows it, at chain time `now_s`.
pub(crate) fn describe(parts: &Parts, token: &TokenInfo, now_s: u64) -> TokenStatus {
    let deadline_s = token.last_sync_s.saturating_add(token.sync_window_s);
    let called = parts.chain.called.token(token.id);
    let (state, reason) = if token.accounting.has_names() && token.name.is_none() {
        (State::Unregistered, Some(unregistered(&called)))
    } else if now_s > deadline_s {
        (State::Overdue, Some(overdue(&called, token, now_s)))
    } else if let Some(asked_s) = token.sync_asked_s {
        (State::Syncing, Some(waiting(&called, asked_s, now_s)))
    } else {
        (State::Ok, by_issuer(token))
    };
    TokenStatus {
        id: token.id,
        directory: called,
        chain_id: parts.chain.chain_id,
        contract: format!("{:#x}", parts.chain.contract),
        dialect: parts.chain.dialect().name().to_owned(),
        path: None,
        volume: None,
        state,
        reason,
        quota_bytes: token.size_bytes,
        local: None,
        uploads_left: token.uploads_left,
        last_sync: instant(token.last_sync_s),
        sync_deadline: instant(deadline_s),
        usage_on_chain_bytes: token.usage_bytes,
        name: parts.chain.name_of(token),
        epoch: token.epoch,
        sequence: token.sequence,
        root: token
            .root
            .map(|digest| crate::pack::cid::node_of_digest(digest.0).to_string()),
    }
}

/// The same, where `token` is one.
pub(crate) fn by_issuer(token: &TokenInfo) -> Option<String> {
    (token.accounting == Accounting::ByIssuer).then(|| BY_ISSUER.to_owned())
}

pub(crate) fn unregistered(called: &str) -> String {
    format!("token {called} has no name key: run `pxfs register {called}`")
}

/// What is said of a token whose volume its wallet alone finds, where only the address is known.
pub(crate) fn unnamed(chain: &ChainParts, called: &str) -> Failure {
    let (contract, dialect) = (chain.contract, chain.dialect().name());
    Failure::new(
        Exit::Token,
        format!(
            "token {called}: contract {contract} ({dialect}) keeps no names, and what is stored is found by its name alone: say --name {called}=k51… (its owner's `pxfs status --json` has it), or give --wallet in place of --address"
        ),
    )
}

/// What is to be said of a token whose deadline has passed, at chain time `now_s`.
pub(crate) fn overdue(called: &str, token: &TokenInfo, now_s: u64) -> String {
    if token.accounting == Accounting::ByIssuer {
        return format!(
            "the contract takes no upload of token {called} now (`canUpload`), and PollinationX alone can change that; until then nothing can grow"
        );
    }
    let deadline_s = token.last_sync_s.saturating_add(token.sync_window_s);
    let since = instant(deadline_s).map_or_else(String::new, |at| format!(" since {at}"));
    let next = match token.sync_asked_s {
        Some(asked_s) => waiting(called, asked_s, now_s),
        None => format!("run `pxfs sync {called}`"),
    };
    format!("the sync is overdue{since}: {next}; until then nothing can grow")
}

/// What is to be said of a request that is open since `asked_s`, at chain time `now_s`.
pub(crate) fn waiting(called: &str, asked_s: u64, now_s: u64) -> String {
    let at = instant(asked_s).map_or_else(String::new, |at| format!(" of {at}"));
    match now_s < asked_s.saturating_add(REQUEST_TIMEOUT_S) {
        true => format!("the oracle has not answered the sync request{at} yet"),
        false => format!(
            "no operator of the oracle has answered the sync request{at}: look after the oracle, and run `pxfs sync {called}` again, which costs gas alone"
        ),
    }
}

/// Unix seconds as a time; `None` when it is beyond what a calendar holds.
pub(crate) fn instant(unix_s: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(unix_s).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_nobody_answers_is_told_as_that() {
        let token = "7";
        assert!(waiting(token, 1000, 1299).contains("yet"));
        let late = waiting(token, 1000, 1300);
        assert!(
            late.contains("no operator") && late.contains("`pxfs sync 7`"),
            "{late}"
        );
    }
}
