//! Classifies an endpoint's refusals: "later" or "less".
//!
//! Invariant: a request for fewer blocks or logs is never taken for a rate limit, whatever its
//! code, because providers use one code for both.

use alloy::rpc::json_rpc::ErrorPayload;

/// Codes that always mean "later": HTTP's; Cloudflare's; QuickNode's credits; a socket with too
/// many requests.
const CODES: [i64; 5] = [429, -32055, -32012, -32029, 1008];
/// A contract's refusal (geth).
const REVERTED: i64 = 3;
/// EIP-1474's "limit exceeded", which providers use for rates and for results.
const LIMIT_EXCEEDED: i64 = -32005;

/// Words for "later", in lower case.
const LATER: [&str; 24] = [
    "rate limit",
    "rate-limit",
    "ratelimit",
    "rate exceeded",
    "too many requests",
    "too many connections",
    "too many concurrent",
    "limit exceeded",
    "limit reached",
    "exceeded the limit",
    "request limit",
    "request count exceeded",
    "requests per second",
    "over quota",
    "quota exceeded",
    "exceeded the quota",
    "capacity",
    "throughput",
    "throttle",
    "throttling",
    "credits",
    "compute units",
    "server is busy",
    "try again later",
];

/// Words for "less", in lower case.
const LESS: [&str; 12] = [
    "block range",
    "blocks range",
    " range",
    "range ",
    "more than",
    "too many results",
    "too many logs",
    "too many blocks",
    "response size",
    "response too large",
    "result set",
    "batch",
];

/// Whether the same request may succeed later.
pub(super) fn is_later(payload: &ErrorPayload) -> bool {
    let words = payload.message.to_lowercase();
    // These are the contract's words, not a server's.
    if payload.code == REVERTED || words.contains("revert") {
        return false;
    }
    let is_less = || LESS.iter().any(|less| words.contains(less));
    if CODES.contains(&payload.code) {
        return true;
    }
    if is_less() {
        return false;
    }
    payload.code == LIMIT_EXCEEDED || LATER.iter().any(|later| words.contains(later))
        // A node behind a load balancer lacks the newest block.
        || words == "header not found"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(code: i64, words: &'static str) -> bool {
        is_later(&ErrorPayload {
            code,
            message: words.into(),
            data: None,
        })
    }

    #[test]
    fn a_rate_limit_is_known_however_it_is_spelled() {
        for (code, words) in [
            (-32005, "limit exceeded"),
            (-32005, "daily request count exceeded, request rate limited"),
            (-32005, "project ID request rate exceeded"),
            (
                429,
                "Your app has exceeded its compute units per second capacity.",
            ),
            (429, "exceeded"),
            (-32016, "rate limit exceeded"),
            (-32029, "Too Many Requests"),
            (
                -32007,
                "100/second request limit reached - reduce calls per second",
            ),
            (-32012, "credits limited to 6000/sec"),
            (
                -32000,
                "rate limit exceeded. Please use an authenticated RPC",
            ),
            (
                -32090,
                "Too many requests, reason: call rate limit exhausted, retry in 10s",
            ),
            (-32000, "ratelimit: too many requests from this IP"),
            (-32603, "request rate-limited"),
            (-32001, "Request limit exceeded"),
            (-32098, "You have exceeded the limit of your plan"),
            (-32000, "monthly quota exceeded"),
            (-32097, "max throughput reached"),
            (-32000, "request throttled"),
            (-32000, "throttling: back off"),
            (-32055, "ratelimited by cloudflare"),
            (-32000, "over quota"),
            (-32603, "server is busy"),
            (-32000, "please try again later"),
            (1008, "too many concurrent requests"),
            (-32000, "header not found"),
        ] {
            assert!(is(code, words), "{code} {words}");
        }
    }

    #[test]
    fn a_refusal_of_too_many_logs_is_no_rate_limit() {
        for (code, words) in [
            (-32005, "query returned more than 10000 results"),
            (-32005, "block range limit exceeded"),
            (-32602, "eth_getLogs is limited to a 10,000 range"),
            (
                -32600,
                "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range",
            ),
            (-32000, "exceed maximum block range: 5000"),
            (
                -32602,
                "query exceeds max results 20000, retry with the range 1-5",
            ),
            (-32000, "block range is too wide"),
            (
                -32701,
                "Please specify less number of addresses or a smaller block range",
            ),
            (-32000, "too many results: limit exceeded"),
            (-32000, "batch limit exceeded"),
        ] {
            assert!(!is(code, words), "{code} {words}");
        }
    }

    #[test]
    fn a_plain_error_is_no_rate_limit() {
        for (code, words) in [
            (-32601, "method not found"),
            (3, "execution reverted: Storage full"),
            (3, "execution reverted: limit reached"),
            (-32000, "execution reverted: over capacity"),
            (
                -32015,
                "VM Exception while processing transaction: revert quota exceeded",
            ),
            (-32000, "insufficient funds for gas * price + value"),
            (-32000, "nonce too low"),
            (-32000, "pruned history unavailable"),
            (-32000, "missing trie node"),
        ] {
            assert!(!is(code, words), "{code} {words}");
        }
    }
}
