//! The HTTP RPC of storage nodes: one client for BTFS and IPFS.
//!
//! Invariant: every call ends by its deadline; an answer counts only if whole, without an error in
//! its trailer; no secret (token, password, path or query of the URL) appears in an error or log
//! line.
//!
//! [`client`] makes calls, `http` sends them, [`error`] classifies failures, [`Gateway`] gets
//! blocks by GET, [`guard`] fetches from strangers, [`auth`] logs in, [`probe`] asks a node what it
//! is. Facts relied on: `docs/nodes.md`.

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

/// The kind of node: they share most calls, not their names and arguments.
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

    /// The path prefix of calls. A BTFS node opens some without a login only under `v1`.
    fn base(self) -> &'static str {
        match self {
            Self::Btfs => "api/v1",
            Self::Ipfs => "api/v0",
        }
    }
}

/// `scheme://host:port` of a URL, without user, path and query. Shows nothing of an invalid URL,
/// because a password may be anywhere in it.
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
