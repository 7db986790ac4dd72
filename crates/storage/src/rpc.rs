//! The HTTP RPC of storage nodes: one client for BTFS and IPFS nodes.
//!
//! Invariant: every call ends by its deadline; an answer counts only when it came whole, without an
//! error in its trailer; no secret (token, password, path or query of the URL) stands in an error or
//! a log line. Called by `store::rpc` and `names::rpc`, built by `run`.
//!
//! [`client`] makes calls, `http` sends one and reads its answer, [`error`] says what a failure means,
//! [`Gateway`] gives blocks over GET, [`guard`] fetches from strangers, [`auth`] logs in where a node wants it, [`probe`] asks a node what it is and how it is set up.
//! `docs/nodes.md` has the facts that this relies on.

pub mod auth;
pub mod client;
pub mod error;
mod gateway;
pub mod guard;
mod http;
pub mod probe;

pub use auth::Login;
pub use client::Client;
pub use error::RpcError;
pub use gateway::Gateway;
pub use http::File;

/// Which of the two kinds of node this is: they share most calls, not their names and arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// go-btfs.
    Btfs,
    /// kubo.
    Ipfs,
}

impl Dialect {
    /// `btfs` or `ipfs`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Btfs => "btfs",
            Self::Ipfs => "ipfs",
        }
    }

    /// What every call's path begins with. A BTFS node opens some calls without a login under `v1` alone.
    fn base(self) -> &'static str {
        match self {
            Self::Btfs => "api/v1",
            Self::Ipfs => "api/v0",
        }
    }
}

/// `scheme://host:port` of a URL, without user, path and query. Of what is no URL nothing is shown: nobody knows where in
/// it a password stands.
#[must_use]
pub fn host_only(url: &str) -> String {
    let parsed = reqwest::Url::parse(url).ok();
    let shown = parsed.as_ref().and_then(|url| {
        let host = url.host_str()?;
        let port = url
            .port()
            .map_or_else(String::new, |port| format!(":{port}"));
        Some(format!("{}://{host}{port}", url.scheme()))
    });
    shown.unwrap_or_else(|| "a URL that is none".to_owned())
}
