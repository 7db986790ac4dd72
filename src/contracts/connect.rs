//! Connects to a chain, over HTTP or in this process, and checks that it is the right one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chain::ChainError;
use crate::chain::embedded;
use crate::chain::endpoint::Endpoint;
use crate::clock::Clock;
use crate::config::{Config, RpcUrl};
use crate::exit::fail;

/// A connected chain, confirmed to be the requested one.
pub(crate) struct ConnectedChain {
    /// Where.
    pub endpoint: Endpoint,
    /// The in-process chain and its folder, if it is one.
    pub embedded: Option<(embedded::Handle, PathBuf)>,
    /// EIP-155 id.
    pub chain_id: u64,
}

/// The endpoints for `chain`.
pub(crate) fn urls_of(config: &Config, chain: Option<u64>) -> Vec<&RpcUrl> {
    let numbered = config.rpc.iter().any(|one| one.chain.is_some());
    // If no endpoint names its chain, all are of the requested one.
    let its = (config.rpc.iter()).filter(|one| one.chain == chain || !numbered);
    its.map(|one| &one.url).collect()
}

/// The id that endpoints of a contract's chain have.
pub(crate) fn chain_of(config: &Config, said: Option<u64>) -> Option<u64> {
    said.or_else(|| config.rpc.first().and_then(|first| first.chain))
}

/// Connects to the endpoints of `chain`.
///
/// # Errors
/// There is none, it does not answer, or has another id.
pub(crate) async fn connect(
    config: &Config,
    chain: Option<u64>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<ConnectedChain> {
    match probe(config, chain, None, clock).await? {
        (connected, None) => Ok(connected),
        (_, Some(fault)) => Err(fault.into()),
    }
}

/// The same; if a chain whose id is configured or `kept` does not answer, returns why.
pub(crate) async fn probe(
    config: &Config,
    chain: Option<u64>,
    kept: Option<u64>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<(ConnectedChain, Option<ChainError>)> {
    if let (Some(wanted), Some(chain)) = (config.chain_id, chain)
        && wanted != chain
    {
        fail!(
            Usage,
            "--chain-id {wanted}: chain {chain} is named too: leave one of them out"
        );
    }
    let urls = urls_of(config, chain);
    let wanted = chain.or(config.chain_id);
    let over_http = |wanted| {
        let urls = urls.iter().filter_map(|url| match url {
            RpcUrl::Http(url) => Some(url.as_str()),
            RpcUrl::Embedded(_) => None,
        });
        Endpoint::over_http(&urls.collect::<Vec<_>>(), wanted)
    };
    let (endpoint, embedded) = match (urls.first(), chain) {
        (None, Some(chain)) if !config.rpc.is_empty() => fail!(
            Usage,
            "chain {chain}: no endpoint of it: give --rpc-url {chain}=URL"
        ),
        (None, _) => fail!(
            Usage,
            "no chain: give --rpc-url, or try `pxfs demo MOUNTPOINT`"
        ),
        (Some(RpcUrl::Embedded(folder)), _) => {
            let handle = open_embedded(folder, clock).await?;
            (Endpoint::embedded(&handle), Some((handle, folder.clone())))
        }
        (Some(RpcUrl::Http(_)), _) => (over_http(wanted)?, None),
    };
    let chain_id = match (endpoint.chain_id().await, wanted.or(kept)) {
        // Each server is asked for it again first.
        (Err(fault), Some(chain_id)) if fault.is_silence() => {
            let connected = ConnectedChain {
                endpoint: over_http(Some(chain_id))?,
                embedded,
                chain_id,
            };
            return Ok((connected, Some(fault)));
        }
        (told, _) => told?,
    };
    if let Some(wanted) = wanted
        && wanted != chain_id
    {
        let said = match chain {
            Some(_) => format!("it is named as {wanted}"),
            None => format!("--chain-id asks for {wanted}"),
        };
        fail!(
            Chain,
            "chain {} has id {chain_id}, and {said}: give another --rpc-url",
            endpoint.label()
        );
    }
    let connected = ConnectedChain {
        endpoint,
        embedded,
        chain_id,
    };
    Ok((connected, None))
}

/// Opens the chain in `folder`.
///
/// # Errors
/// There is none, it is damaged, or another process has it.
async fn open_embedded(folder: &Path, clock: &Arc<dyn Clock>) -> anyhow::Result<embedded::Handle> {
    let folder = folder.to_owned();
    let clock = Arc::clone(clock);
    Ok(tokio::task::spawn_blocking(move || embedded::Handle::open(&folder, clock)).await??)
}
