//! The storage node that a configuration names: built, asked what it is, looked over.
//!
//! Invariant: a node of another kind than it is given as is refused; one that does not answer now is
//! not, since what was written here waits for it. Called by `parts` and by `doctor`.

use std::sync::Arc;

use super::counted::{Counted, Counts};
use super::fault;
use super::parts::NodeParts;
use crate::cli::exit::fail;
use crate::clock::Clock;
use crate::config::{Config, NodeUrl};
use crate::names::NameStore;
use crate::names::embedded::EmbeddedNames;
use crate::names::record::Network;
use crate::names::rpc::RpcNames;
use crate::rpc::probe::{self, Found, Warning};
use crate::rpc::{Client, Dialect, Login, RpcError};
use crate::store::BlockStore;
use crate::store::embedded::EmbeddedStore;
use crate::store::rpc::{Patience, RpcStore};

/// Builds the first node of `config`.
///
/// # Errors
/// There is none; its folder cannot be opened; it is something else than it is given as.
pub(super) async fn open(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<NodeParts> {
    let Some(url) = config.nodes.first() else {
        fail!(
            Usage,
            "no storage node: give --node btfs=URL, ipfs=URL or embedded=FOLDER, or try `pxfs demo MOUNTPOINT`"
        )
    };
    let mut real = None;
    let (store, names, embedded): (Arc<dyn BlockStore>, Arc<dyn NameStore>, _) = match url {
        NodeUrl::Embedded(folder) => {
            let (folder, clock) = (folder.clone(), Arc::clone(clock));
            let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
                let store = EmbeddedStore::open(&folder.join("blocks"), Arc::clone(&clock))?;
                let names = EmbeddedNames::open(&folder.join("names"), clock)?;
                Ok((store, names))
            });
            let (store, names) = opened.await??;
            (Arc::new(store.clone()), Arc::new(names), Some(store))
        }
        NodeUrl::Btfs(_) | NodeUrl::Ipfs(_) => {
            let client = client(config)?;
            meet(url, &client).await?;
            real = Some(client.clone());
            let store = RpcStore::new(client.clone(), Patience::default());
            let names = RpcNames::new(client, Arc::clone(clock));
            (Arc::new(store), Arc::new(names), None)
        }
    };
    let (store, names) = match &config.fault {
        Some(file) => fault::wrap(store, names, file),
        None => (store, names),
    };
    let counts = Arc::new(Counts::default());
    Ok(NodeParts {
        kind: url.kind(),
        label: url.to_string(),
        network: match url {
            NodeUrl::Btfs(_) => Network::Btfs,
            NodeUrl::Ipfs(_) | NodeUrl::Embedded(_) => Network::Ipfs,
        },
        store: Arc::new(Counted::new(store, &counts)),
        names: Arc::new(Counted::new(names, &counts)),
        counts,
        embedded,
        client: real,
    })
}

/// What the node says of itself, and which of its settings endanger data where the tokens may hold
/// `needed_bytes`.
///
/// # Errors
/// It does not answer, or refuses.
pub async fn look(client: &Client, needed_bytes: u64) -> anyhow::Result<(Found, Vec<Warning>)> {
    let unwell = |error: RpcError| anyhow::anyhow!("node {}: {error}", client.label());
    let found = probe::identify(client).await.map_err(unwell)?;
    let warnings = probe::warnings(client, needed_bytes).await;
    Ok((found, warnings.map_err(unwell)?))
}

/// Looks over the node of a mount, and tells in the log what was found.
pub(super) async fn look_over(client: Client, needed_bytes: u64) {
    match look(&client, needed_bytes).await {
        Ok((found, warnings)) => {
            tracing::info!(
                node = found.agent,
                kind = found.dialect.as_str(),
                "the node"
            );
            for warning in warnings {
                tracing::warn!("the storage node: {}: {}", warning.what, warning.fix);
            }
        }
        Err(error) => tracing::warn!("{error:#}"),
    }
}

/// A client of the first node, where that is a real one.
///
/// # Errors
/// Its URL is none; what it is to be asked with does not fit it.
pub fn real(config: &Config) -> anyhow::Result<Option<Client>> {
    match config.nodes.first() {
        Some(NodeUrl::Btfs(_) | NodeUrl::Ipfs(_)) => client(config).map(Some),
        _ => Ok(None),
    }
}

/// A client of the first node, which is a real one.
fn client(config: &Config) -> anyhow::Result<Client> {
    let (url, dialect) = match config.nodes.first() {
        Some(NodeUrl::Btfs(url)) => (url, Dialect::Btfs),
        Some(NodeUrl::Ipfs(url)) => (url, Dialect::Ipfs),
        _ => fail!(Usage, "no storage node: give --node btfs=URL or ipfs=URL"),
    };
    let login = match (&config.node_token_file, &config.node_password_file, dialect) {
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

/// Refuses a node of the other kind, and what is no node at all.
async fn meet(url: &NodeUrl, client: &Client) -> anyhow::Result<()> {
    match probe::identify(client).await {
        Ok(found) if found.dialect == client.dialect() => Ok(()),
        Ok(found) => fail!(
            Node,
            "{url} is {}: give --node {}={url}",
            found.agent,
            found.dialect.as_str()
        ),
        Err(error @ (RpcError::Refused(_) | RpcError::Unknown(_))) => {
            fail!(Node, "{url} {error}: look at --node")
        }
        Err(error) => {
            tracing::warn!("the storage node {url}: {error}");
            Ok(())
        }
    }
}
