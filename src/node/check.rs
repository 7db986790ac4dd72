//! What a node or a gateway says of itself, and whether its settings endanger data.

use std::time::Duration;

use super::build::gateway;
use crate::config::NodeUrl;
use crate::rpc::probe::{self, Found, Warning};
use crate::rpc::{Client, Dialect, RpcError};

/// The CID of no bytes, which it contains: no gateway has to look for it.
const EMPTY: &str = "bafkqaaa";
/// How much a gateway may say that does not give it: a page.
const GATEWAY_ANSWER: usize = 64 << 10;
/// How long a gateway may take to answer.
const GATEWAY_PATIENCE: Duration = Duration::from_secs(15);

/// What the node says of itself, and which of its settings endanger data where the tokens may hold
/// `needed_bytes`; none for a node that is only read from.
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

/// Whether anybody who reaches an IPFS node may call it; of a BTFS node, which has a login by default, false.
///
/// # Errors
/// It does not answer.
pub async fn is_open(client: &Client) -> anyhow::Result<bool> {
    match client.dialect() {
        Dialect::Btfs => Ok(false),
        Dialect::Ipfs => Ok(probe::is_open(client).await?),
    }
}

/// Looks over the nodes of a mount, and tells in the log what was found.
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

/// What a gateway is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    /// Single blocks: what the nodes have not got is read from it.
    Blocks,
    /// What a name leads to, and no single blocks: it is given as a URL with `{name}` in it.
    Names,
    /// It answers, and gives no single blocks.
    Nothing,
}

/// What the gateway at `url` is good for here. It is asked for the empty block, whose CID has all of it.
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
        // What answers everything with a page of its own is none.
        Ok(Some(data)) if data.is_empty() && !is_for_names => return Ok(Gives::Blocks),
        Ok(_) => {}
        // It answers, with an error.
        Err(RpcError::Transport(why)) if why.contains("the gateway answers") => {}
        Err(error) => return Err(error.into()),
    }
    Ok(if is_for_names {
        Gives::Names
    } else {
        Gives::Nothing
    })
}
