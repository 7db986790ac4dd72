//! Checks a node or gateway, and its settings.

use std::time::Duration;

use super::build::gateway;
use crate::config::NodeUrl;
use crate::rpc::probe::{self, Found, Warning};
use crate::rpc::{Client, Dialect, RpcError};

/// The CID that contains its empty block, so that no gateway has to search.
const EMPTY: &str = "bafkqaaa";
/// The most read of a wrong answer: a page.
const GATEWAY_ANSWER: usize = 64 << 10;
const GATEWAY_PATIENCE: Duration = Duration::from_secs(15);

/// A node's self-description, and its dangerous settings if the tokens may hold `needed_bytes`; `None`
/// for a read-only node.
///
/// # Errors
/// It does not answer, or refuses.
pub async fn look(
    client: &Client,
    needed_bytes: Option<u64>,
) -> anyhow::Result<(Found, Vec<Warning>)> {
    let unwell = |error: RpcError| anyhow::anyhow!("node {}: {error}", client.label());
    let found = probe::identify(client).await.map_err(unwell)?;
    let warnings = probe::warnings(client, needed_bytes).await;
    Ok((found, warnings.map_err(unwell)?))
}

/// Whether anybody who reaches an IPFS node may call it; false for BTFS, which has a login by default.
///
/// # Errors
/// It does not answer.
pub async fn is_open(client: &Client) -> anyhow::Result<bool> {
    match client.dialect() {
        Dialect::Btfs => Ok(false),
        Dialect::Ipfs => Ok(probe::is_open(client).await?),
    }
}

/// Checks a mount's nodes, and logs the findings.
pub(crate) async fn look_over(nodes: Vec<(Client, Option<u64>)>) {
    for (client, needed_bytes) in nodes {
        let node = client.label();
        match look(&client, needed_bytes).await {
            Ok((found, warnings)) => {
                let (is, kind) = (found.agent, found.dialect.as_str());
                tracing::info!(node, is, kind, "the node");
                for warning in warnings {
                    tracing::warn!("the storage node {node}: {}: {}", warning.what, warning.fix);
                }
            }
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
}

/// What a gateway is useful for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    /// Blocks that the nodes lack.
    Blocks,
    /// Names, not blocks: its URL contains `{name}`.
    Names,
    /// It answers, but gives no blocks.
    Nothing,
}

/// What the gateway at `url` is useful for. Asks for the empty block, which its CID contains.
///
/// # Errors
/// It does not answer.
pub async fn look_at_gateway(url: &NodeUrl) -> anyhow::Result<Gives> {
    let NodeUrl::Gateway(place) = url else {
        return Ok(Gives::Nothing);
    };
    let is_for_names = place.contains("{name}");
    let host = url.to_string();
    let place = if is_for_names { &host } else { place };
    let gateway = gateway(place)?;
    let asked = gateway.block(EMPTY, GATEWAY_ANSWER, GATEWAY_PATIENCE);
    match asked.await {
        // It answers everything with its own page.
        Ok(Some(data)) if data.is_empty() && !is_for_names => return Ok(Gives::Blocks),
        Ok(_) => {}
        // It answers with an error.
        Err(RpcError::Transport(why)) if why.contains("the gateway answers") => {}
        Err(error) => return Err(error.into()),
    }
    Ok(if is_for_names {
        Gives::Names
    } else {
        Gives::Nothing
    })
}
