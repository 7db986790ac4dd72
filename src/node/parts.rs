//! A process's storage nodes.

use std::sync::Arc;

use super::metered::Meter;
use crate::names::NameStore;
use crate::names::record::Network;
use crate::publish::Other;
use crate::rpc::Client;
use crate::store::BlockStore;
use crate::store::embedded::EmbeddedStore;

/// The storage node.
#[derive(Clone)]
pub struct NodeParts {
    /// Its kind, for `status`.
    pub kind: &'static str,
    /// Its address, for `status`.
    pub label: String,
    /// The network of its records' values.
    pub network: Network,
    /// Blocks.
    pub store: Arc<dyn BlockStore>,
    /// For reading, from all nodes.
    pub reads: Arc<dyn BlockStore>,
    /// `reads` without gateways, if there are any.
    pub own_nodes: Option<Arc<dyn BlockStore>>,
    /// The names of the other nodes.
    pub others: Vec<Other>,
    /// Names.
    pub names: Arc<dyn NameStore>,
    /// The activity of both.
    pub counts: Arc<Meter>,
    /// The in-process node, whose garbage collection is explicit.
    pub embedded: Option<EmbeddedStore>,
    /// The client, if it is its own process.
    pub client: Option<Client>,
    /// Read-only nodes.
    pub more: Vec<MoreNode>,
}

/// A read-only node.
#[derive(Clone)]
pub struct MoreNode {
    /// Its kind, for `status`.
    pub kind: &'static str,
    /// Its address, for `status`.
    pub label: String,
    /// What it has itself.
    pub near: Arc<dyn BlockStore>,
    /// The client, if it is its own process.
    pub client: Option<Client>,
}
