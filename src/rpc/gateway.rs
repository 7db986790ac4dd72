//! A gateway: blocks by their CIDs over GET (`?format=raw`), and nothing else.
//!
//! Invariant: what it gives is not verified here. Called by `store::gateway`. Source:
//! specs.ipfs.tech/http-gateways/trustless-gateway.

use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use tokio::time::timeout;

use super::error::RpcError;
use super::http::Http;

/// The way to a gateway.
pub struct Gateway(Http);

impl Gateway {
    /// The gateway at `url`; nothing is sent yet.
    ///
    /// # Errors
    /// [`RpcError::Refused`]: not a URL, in one line that does not repeat it.
    pub fn new(url: &str) -> Result<Self, RpcError> {
        Http::new(url).map(Self)
    }

    /// The bytes that it has for a CID, at most `most`; `None` where it has none. Ends after `limit`.
    ///
    /// # Errors
    /// As [`RpcError`] says.
    pub async fn block(
        &self,
        cid: &str,
        most: usize,
        limit: Duration,
    ) -> Result<Option<Bytes>, RpcError> {
        let path = format!("ipfs/{cid}");
        let reply = timeout(limit, self.0.get(&path, ("format", "raw"), most)).await;
        let reply = reply.unwrap_or(Err(RpcError::TimedOut(limit)))?;
        match reply.status {
            StatusCode::OK => Ok(Some(reply.body)),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            status => Err(RpcError::Transport(format!("the gateway answers {status}"))),
        }
    }
}
