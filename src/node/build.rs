//! Builds the configured storage nodes and checks them.
//!
//! Invariant: a node of the wrong kind is refused; one that does not answer is not, because local
//! writes wait for it.

use std::sync::Arc;

use super::faults;
use super::metered::{Meter, Metered};
use super::parts::{MoreNode, NodeParts};
use crate::chain::oracle::{Documents, NodeDocuments};
use crate::clock::Clock;
use crate::config::{Config, NodeUrl};
use crate::exit::fail;
use crate::names::NameStore;
use crate::names::embedded::EmbeddedNames;
use crate::names::gateway::NameGateway;
use crate::names::late::LateNames;
use crate::names::memory::MemoryNames;
use crate::names::record::Network;
use crate::names::rpc::RpcNames;
use crate::publish::Other;
use crate::rpc::guard::Guard;
use crate::rpc::probe;
use crate::rpc::{Client, Dialect, Gateway, Login, RpcError};
use crate::store::BlockStore;
use crate::store::embedded::EmbeddedStore;
use crate::store::gateway::GatewayStore;
use crate::store::many::ManyStore;
use crate::store::memory::MemoryStore;
use crate::store::rpc::{Patience, RpcStore};

struct Opened {
    store: Arc<dyn BlockStore>,
    /// The same without network searches.
    near: Arc<dyn BlockStore>,
    names: Arc<dyn NameStore>,
    network: Network,
    embedded: Option<EmbeddedStore>,
    client: Option<Client>,
}

/// Builds the nodes of `config`: the first is written to, and all are read from.
///
/// # Errors
/// There is none; a folder cannot be opened; one is of another kind.
pub(crate) async fn open(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<NodeParts> {
    let Some((url, further)) = config.nodes.split_first() else {
        fail!(
            Usage,
            "no storage node: give --node btfs=URL, ipfs=URL or embedded=FOLDER, or try `pxfs demo MOUNTPOINT`"
        )
    };
    let first = open_one(config, url, clock).await?;
    let (store, names) = match &config.fault {
        Some(file) => faults::wrap(first.store, first.names, file),
        None => (first.store, first.names),
    };
    let counts = Arc::new(Meter::default());
    let store: Arc<dyn BlockStore> = Arc::new(Metered::new(store, &counts));
    let near: Arc<dyn BlockStore> = Arc::new(Metered::new(first.near, &counts));
    let (mut others, mut more) = (Vec::new(), Vec::new());
    let (mut stores, mut keepers) = (vec![Arc::clone(&near)], vec![near]);
    for url in further {
        if let NodeUrl::Gateway(place) = url {
            // A gateway for names gives no blocks.
            if place.contains("{name}") {
                continue;
            }
            stores.push(Arc::new(GatewayStore::new(gateway(place)?)));
            continue;
        }
        let other = open_one(config, url, clock).await?;
        keepers.push(Arc::clone(&other.near));
        stores.push(Arc::clone(&other.near));
        more.push(MoreNode {
            kind: url.kind(),
            label: url.to_string(),
            near: other.near,
            client: other.client,
        });
        others.push(Other {
            label: url.to_string(),
            // No commit waits long for it.
            names: Arc::new(LateNames::new(other.names)),
            network: other.network,
        });
    }
    Ok(NodeParts {
        kind: url.kind(),
        label: url.to_string(),
        network: first.network,
        own_nodes: match stores.len() > keepers.len() {
            true => Some(Arc::new(ManyStore::new(Arc::clone(&store), keepers))),
            false => None,
        },
        reads: match stores.len() {
            1 => Arc::clone(&store),
            _ => Arc::new(ManyStore::new(Arc::clone(&store), stores)),
        },
        others,
        store,
        names: Arc::new(Metered::new(names, &counts)),
        counts,
        embedded: first.embedded,
        client: first.client,
        more,
    })
}

/// No node, for requests about the chain alone.
pub(crate) fn none(clock: &Arc<dyn Clock>) -> NodeParts {
    let store: Arc<dyn BlockStore> = Arc::new(MemoryStore::new());
    NodeParts {
        kind: "none",
        label: "none".to_owned(),
        network: Network::Ipfs,
        reads: Arc::clone(&store),
        own_nodes: None,
        store,
        others: Vec::new(),
        names: Arc::new(MemoryNames::new(Arc::clone(clock))),
        counts: Arc::new(Meter::default()),
        embedded: None,
        client: None,
        more: Vec::new(),
    }
}

/// An oracle's document sources: all nodes and gateways of `config`, gateways by `guard`.
///
/// # Errors
/// As [`open`].
pub(crate) async fn documents(
    config: &Config,
    clock: &Arc<dyn Clock>,
    guard: &Guard,
) -> anyhow::Result<Vec<Arc<dyn Documents>>> {
    let mut sources: Vec<Arc<dyn Documents>> = gateways(config, guard)?;
    for url in &config.nodes {
        if !matches!(url, NodeUrl::Gateway(_)) {
            let opened = open_one(config, url, clock).await?;
            sources.push(Arc::new(NodeDocuments {
                names: opened.names,
                blocks: opened.store,
                clock: Arc::clone(clock),
            }));
        }
    }
    Ok(sources)
}

/// The gateways of `config`, for names.
///
/// # Errors
/// One is no URL.
pub(crate) fn gateways(config: &Config, guard: &Guard) -> anyhow::Result<Vec<Arc<dyn Documents>>> {
    let mut sources: Vec<Arc<dyn Documents>> = Vec::new();
    for url in &config.nodes {
        if let NodeUrl::Gateway(place) = url {
            match NameGateway::new(place, guard.clone()) {
                Ok(gateway) => sources.push(Arc::new(gateway)),
                Err(error) => fail!(Usage, "--node gateway: {error}"),
            }
        }
    }
    Ok(sources)
}

async fn open_one(
    config: &Config,
    url: &NodeUrl,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Opened> {
    let client = match url {
        NodeUrl::Embedded(folder) => {
            let (folder, clock) = (folder.clone(), Arc::clone(clock));
            let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
                let store = EmbeddedStore::open(&folder.join("blocks"), Arc::clone(&clock))?;
                let names = EmbeddedNames::open(&folder.join("names"), clock)?;
                Ok((store, names))
            });
            let (store, names) = opened.await??;
            return Ok(Opened {
                store: Arc::new(store.clone()),
                near: Arc::new(store.clone()),
                names: Arc::new(names),
                network: Network::Ipfs,
                embedded: Some(store),
                client: None,
            });
        }
        NodeUrl::Btfs(text) => client(config, text, Dialect::Btfs)?,
        NodeUrl::Ipfs(text) => client(config, text, Dialect::Ipfs)?,
        NodeUrl::Gateway(_) => fail!(
            Usage,
            "--node gateway={url}: is only read from: name a node that is written to before it"
        ),
    };
    meet(config, url, &client).await?;
    let store = RpcStore::new(client.clone(), Patience::default());
    Ok(Opened {
        near: Arc::new(store.near()),
        store: Arc::new(store),
        names: Arc::new(RpcNames::new(client.clone(), Arc::clone(clock))),
        network: match client.dialect() {
            Dialect::Btfs => Network::Btfs,
            Dialect::Ipfs => Network::Ipfs,
        },
        embedded: None,
        client: Some(client),
    })
}

/// Clients of external nodes, and whether each is written to.
///
/// # Errors
/// An invalid URL, or a login that does not fit it.
pub fn real(config: &Config) -> anyhow::Result<Vec<(Client, bool)>> {
    let nodes = config.nodes.iter().enumerate();
    let real = nodes.filter_map(|(n, node)| {
        let client = match node {
            NodeUrl::Btfs(url) => client(config, url, Dialect::Btfs),
            NodeUrl::Ipfs(url) => client(config, url, Dialect::Ipfs),
            NodeUrl::Embedded(_) | NodeUrl::Gateway(_) => return None,
        };
        Some(client.map(|client| (client, n == 0)))
    });
    real.collect()
}

pub(crate) fn gateway(url: &str) -> anyhow::Result<Gateway> {
    match Gateway::new(url) {
        Ok(gateway) => Ok(gateway),
        Err(error) => fail!(Usage, "--node: {error}"),
    }
}

/// A client of the node at `url`.
fn client(config: &Config, url: &str, dialect: Dialect) -> anyhow::Result<Client> {
    // One of several nodes gets the login: the first BTFS node a password, the first node a token.
    let is_first = |node: &NodeUrl| match node {
        NodeUrl::Btfs(first) | NodeUrl::Ipfs(first) => first == url,
        NodeUrl::Embedded(_) | NodeUrl::Gateway(_) => false,
    };
    let mut with_passwords = config.nodes.iter();
    let with_password = with_passwords.find(|node| matches!(node, NodeUrl::Btfs(_)));
    let token = config.node_token_file.as_ref();
    let token = token.filter(|_| config.nodes.first().is_some_and(is_first));
    let password = config.node_password_file.as_ref();
    let password = password.filter(|_| with_password.is_none_or(is_first));
    let login = match (token, password, dialect) {
        (Some(_), Some(_), _) => fail!(
            Usage,
            "--node-token-file and --node-password-file: give one of them"
        ),
        (Some(file), None, _) => Login::TokenFile(file.clone()),
        (None, Some(_), Dialect::Ipfs) => fail!(
            Usage,
            "--node-password-file: an IPFS node has no password: give --node-token-file"
        ),
        (None, Some(file), Dialect::Btfs) => Login::PasswordFile(file.clone()),
        (None, None, _) => Login::Open,
    };
    match Client::new(url, dialect, login) {
        Ok(client) => Ok(client),
        Err(error) => fail!(Usage, "--node: {error}"),
    }
}

/// Refuses a node of the other kind, and what is no node.
async fn meet(config: &Config, url: &NodeUrl, client: &Client) -> anyhow::Result<()> {
    match probe::meet(client).await {
        Ok(()) => Ok(()),
        Err(error @ (RpcError::Refused(_) | RpcError::Unknown(_))) => {
            let told = error.to_string();
            let has_token = config.node_token_file.is_some();
            let hint = match (told.contains("--node"), has_token) {
                (true, _) => "",
                (false, true) => ": look at --node and --node-token-file",
                (false, false) => ": look at --node",
            };
            fail!(Node, "{url} {told}{hint}")
        }
        Err(error) => {
            tracing::warn!("the storage node {url}: {error}");
            Ok(())
        }
    }
}
