//! Why a call to a node failed, and what its message means.
//!
//! Invariant: one bounded line each, without URL and secrets; the node's own words
//! ([`RpcError::Failed`]) are told apart from those of anything in between.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;

use super::http::Reply;

/// The longest error text repeated, characters.
const LONGEST_TEXT: usize = 300;

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RpcError {
    /// It cannot be reached, or its answer is unintelligible.
    #[error("{0}")]
    Transport(String),
    /// Connection refused, or no route.
    #[error("{0}")]
    Away(String),
    /// The connection broke midway.
    #[error("{0}")]
    Broken(String),
    /// It did not answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The node's own error text.
    #[error("{0}")]
    Failed(String),
    /// It, or a proxy, is busy or unwell: a status that says no more.
    #[error("{0}")]
    Unwell(String),
    /// It will never do this for us.
    #[error("{0}")]
    Refused(String),
    /// It has no such call.
    #[error("has no call `{0}`")]
    Unknown(String),
}

impl RpcError {
    /// Whether a retry is pointless until somebody acts.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Unknown(_) => true,
            Self::Transport(_)
            | Self::Away(_)
            | Self::Broken(_)
            | Self::TimedOut(_)
            | Self::Failed(_)
            | Self::Unwell(_) => false,
        }
    }

    /// Whether the node itself says that it lacks what was asked for.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        self.says("could not find") || self.says("not found")
    }

    /// Whether the node itself says that its search timed out.
    #[must_use]
    pub fn is_search_over(&self) -> bool {
        self.says("deadline exceeded")
    }

    fn says(&self, words: &str) -> bool {
        matches!(self, Self::Failed(why) if why.contains(words))
    }
}

#[derive(Deserialize)]
struct Failure {
    #[serde(rename = "Message")]
    message: String,
}

/// The error of a status; `None` for success.
pub(super) fn judge(path: &str, reply: &Reply) -> Option<RpcError> {
    if reply.status == StatusCode::OK {
        return None;
    }
    let message = serde_json::from_slice::<Failure>(&reply.body).map(|failure| failure.message);
    let is_json = message.is_ok();
    let message = message.map_or_else(|_| one_line(&reply.body), |m| one_line(m.as_bytes()));
    let status = reply.status.as_u16();
    let told = match message.is_empty() {
        true => format!("answers {status} to `{path}`"),
        false => format!("answers {status} to `{path}`: {message}"),
    };
    Some(match status {
        404 if !is_json => RpcError::Unknown(path.to_owned()),
        401 => RpcError::Refused(format!("{told}: it does not take our token")),
        408 | 429 => RpcError::Unwell(told),
        400..=499 => RpcError::Refused(told),
        _ if is_json => RpcError::Failed(message),
        _ => RpcError::Unwell(told),
    })
}

/// The first line, bounded.
pub(super) fn one_line(text: &[u8]) -> String {
    let head = text.get(..4 * LONGEST_TEXT).unwrap_or(text);
    let text = String::from_utf8_lossy(head);
    pxfs_base::text::message(&text)
}

/// The causes, without the URL.
pub(super) fn told(fault: &reqwest::Error) -> String {
    let mut text = match (fault.is_connect(), fault.is_body() || fault.is_decode()) {
        (true, _) => "cannot be reached".to_owned(),
        (_, true) => "its answer broke off".to_owned(),
        _ => "the connection broke".to_owned(),
    };
    let mut cause = std::error::Error::source(fault);
    while let Some(next) = cause.and_then(std::error::Error::source) {
        cause = Some(next);
    }
    if let Some(cause) = cause {
        text.push_str(": ");
        text.push_str(&one_line(cause.to_string().as_bytes()));
    }
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn reply(status: u16, body: &'static str) -> Reply {
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            body: Bytes::from_static(body.as_bytes()),
            trailer: None,
        }
    }

    #[test]
    fn permanent_node_errors_are_distinguished_from_transient_ones() {
        let json = r#"{"Message":"blockstore: is full","Code":0,"Type":"error"}"#;
        assert_eq!(judge("id", &reply(200, "")), None);
        assert_eq!(
            judge("block/put", &reply(500, json)),
            Some(RpcError::Failed("blockstore: is full".into()))
        );
        assert_eq!(
            judge("name/put", &reply(404, "404 page not found\n")),
            Some(RpcError::Unknown("name/put".into()))
        );
        for later in [429, 408, 500, 502, 503] {
            assert!(matches!(
                judge("id", &reply(later, "")),
                Some(RpcError::Unwell(_))
            ));
        }
        for never in [400, 401, 403, 405] {
            assert!(matches!(
                judge("id", &reply(never, "no")),
                Some(RpcError::Refused(_))
            ));
        }
    }

    #[test]
    fn what_a_node_writes_cannot_fill_a_log() {
        let long = "x".repeat(100_000);
        assert_eq!(one_line(long.as_bytes()).len(), LONGEST_TEXT);
        assert_eq!(one_line(b"one\ntwo"), "one");
        assert_eq!(one_line(b"a\x1b[31mb\xff"), "a[31mb\u{fffd}");
    }

    /// Confusing them would report a lost block while a node is just down.
    #[test]
    fn only_the_nodes_own_words_say_that_it_has_not_got_something() {
        let json =
            r#"{"Message":"block was not found locally (offline): ipld: could not find Qm"}"#;
        let own = judge("block/get", &reply(500, json)).unwrap();
        assert!(own.is_absence() && !own.is_permanent());
        let late = RpcError::Failed("context deadline exceeded".into());
        assert!(late.is_search_over() && !late.is_absence());
        for other in [
            judge(
                "block/get",
                &reply(502, "upstream not found: deadline exceeded"),
            )
            .unwrap(),
            judge("block/get", &reply(429, json)).unwrap(),
            RpcError::Transport("host not found".into()),
            RpcError::Broken("not found".into()),
            RpcError::TimedOut(Duration::from_secs(1)),
        ] {
            let said = other.is_absence() || other.is_search_over();
            assert!(!said && !other.is_permanent(), "{other:?}");
        }
    }
}
