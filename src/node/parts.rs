//! The storage nodes of a process, once they are built.

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
    /// What it is, for `status`.
    pub kind: &'static str,
    /// Where it is, for `status`.
    pub label: String,
    /// The namespace that its records name content in.
    pub network: Network,
    /// Blocks.
    pub store: Arc<dyn BlockStore>,
    /// The same to read from, and from all other nodes.
    pub reads: Arc<dyn BlockStore>,
    /// Those of `reads` that are no gateways, if there are gateways.
    pub own_nodes: Option<Arc<dyn BlockStore>>,
    /// The names of the other nodes.
    pub others: Vec<Other>,
    /// Names.
    pub names: Arc<dyn NameStore>,
    /// What both have done.
    pub counts: Arc<Meter>,
    /// The node inside this process, which collects its garbage when it is told to.
    pub embedded: Option<EmbeddedStore>,
    /// The way to the node, where it is a process of its own.
    pub client: Option<Client>,
    /// The nodes that are only read from.
    pub more: Vec<MoreNode>,
}

/// A node that is only read from.
#[derive(Clone)]
pub struct MoreNode {
    /// What it is, for `status`.
    pub kind: &'static str,
    /// Where it is, for `status`.
    pub label: String,
    /// What it has itself.
    pub near: Arc<dyn BlockStore>,
    /// The way to it, where it is a process of its own.
    pub client: Option<Client>,
}
