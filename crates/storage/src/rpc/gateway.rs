//! A gateway: blocks by CID over GET (`?format=raw`).
//!
//! Invariant: verifies nothing. Sources: specs.ipfs.tech/http-gateways/trustless-gateway and
//! /path-gateway (`only-if-cached`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::time::timeout;

use super::error::RpcError;
use super::http::Http;
use super::{Client, Dialect};

/// How long and how much a node may answer about its gateway.
const ASK: Duration = Duration::from_secs(5);
const ANSWER: usize = 64 << 10;

/// A connection to a gateway.
pub struct Gateway(Http);

impl Gateway {
    /// The gateway at `url`; sends nothing yet.
    ///
    /// # Errors
    /// [`RpcError::Refused`]: no URL, in one line that does not repeat it.
    pub fn new(url: &str) -> Result<Self, RpcError> {
        Http::new(url).map(Self)
    }

    /// The gateway in the configuration of the IPFS node behind `client`, if both are on this machine. Sends
    /// it nothing yet; another node's may be at that address.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn beside(client: &Client) -> Result<Option<Self>, RpcError> {
        if client.dialect() != Dialect::Ipfs || !client.is_loopback() {
            return Ok(None);
        }
        let args = [("arg", "Addresses.Gateway")];
        let answer = client.call("config", &args, &[], ANSWER, ASK).await?;
        let told: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let addresses = match &told["Value"] {
            Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect::<Vec<_>>(),
        };
        let here = addresses.into_iter().find_map(of_this_machine);
        here.map(|address| Self::new(&format!("http://{address}")))
            .transpose()
    }

    /// The bytes of a CID, at most `most`; `None` if it has none. Ends after `limit`.
    ///
    /// # Errors
    /// As [`RpcError`] says.
    pub async fn block(
        &self,
        cid: &str,
        most: usize,
        limit: Duration,
    ) -> Result<Option<Bytes>, RpcError> {
        self.fetch(cid, false, most, limit).await
    }

    /// As [`Gateway::block`], without a network search.
    ///
    /// # Errors
    /// As [`RpcError`] says.
    pub async fn held(
        &self,
        cid: &str,
        most: usize,
        limit: Duration,
    ) -> Result<Option<Bytes>, RpcError> {
        self.fetch(cid, true, most, limit).await
    }

    async fn fetch(
        &self,
        cid: &str,
        is_held: bool,
        most: usize,
        limit: Duration,
    ) -> Result<Option<Bytes>, RpcError> {
        let path = format!("ipfs/{cid}");
        let reply = timeout(limit, self.0.get(&path, ("format", "raw"), is_held, most)).await;
        let reply = reply.unwrap_or(Err(RpcError::TimedOut(limit)))?;
        match reply.status {
            StatusCode::OK => Ok(Some(reply.body)),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            StatusCode::PRECONDITION_FAILED if is_held => Ok(None),
            status => Err(RpcError::Transport(format!("the gateway answers {status}"))),
        }
    }
}

/// How to reach this multiaddress's listener, if it is on this machine.
fn of_this_machine(address: &str) -> Option<SocketAddr> {
    let (host, port) = address.trim_start_matches('/').split_once("/tcp/")?;
    let ip = match host.split_once('/')? {
        ("ip4", host) => IpAddr::V4(host.parse().ok()?),
        ("ip6", host) => IpAddr::V6(host.parse().ok()?),
        _ => return None,
    };
    let ip = match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    // Port 0 changes with each start.
    let port: u16 = port.parse().ok()?;
    (ip.is_loopback() && port != 0).then_some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_looked_for_on_this_machine_alone() {
        let here = |address| of_this_machine(address).map(|place| place.to_string());
        let at = |place: &str| Some(place.to_owned());
        assert_eq!(here("/ip4/127.0.0.1/tcp/8080"), at("127.0.0.1:8080"));
        assert_eq!(here("/ip4/0.0.0.0/tcp/80"), at("127.0.0.1:80"));
        assert_eq!(here("/ip6/::/tcp/8080"), at("[::1]:8080"));
        for elsewhere in [
            "/ip4/192.0.2.1/tcp/8080",
            "/ip4/127.0.0.1/tcp/0",
            "/ip4/127.0.0.1/tcp/8080/p2p/other",
            "/ip4/127.0.0.1/udp/8080",
            "/dns4/localhost/tcp/8080",
            "/unix/tmp/gateway",
            "",
        ] {
            assert_eq!(here(elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn only_a_node_on_this_machine_is_asked_for_its_gateway() {
        let is_here = |url: &str| Http::new(url).map(|http| http.is_loopback());
        for url in [
            "http://127.0.0.1:5001",
            "http://[::1]:1",
            "http://localhost:5001",
        ] {
            assert_eq!(is_here(url), Ok(true), "{url}");
        }
        for url in [
            "http://192.0.2.1:5001",
            "http://localhost.example:5001",
            "http://[2001:db8::1]",
        ] {
            assert_eq!(is_here(url), Ok(false), "{url}");
        }
    }
}
