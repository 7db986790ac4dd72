//! The name store: mutable pointers (BTNS, IPNS) to immutable content.
//!
//! Records are signed here, by a key that no node holds, so any node can publish them.

use async_trait::async_trait;

/// What went wrong at a name store, by what the caller can do about it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// No record is known for the name.
    #[error("name {0} has no record")]
    Missing(String),
    /// Worth another try.
    #[error("name store: {0}")]
    Transient(String),
    /// Refused for good.
    #[error("name store: {0}")]
    Permanent(String),
    /// A record that is not valid for its name.
    #[error("name record of {0} is invalid: {1}")]
    Corrupt(String, String),
    /// The store holds a newer record: sequence there, sequence offered.
    #[error("name store holds sequence {held}, refused {offered}")]
    Stale {
        /// Sequence of the record that the store holds.
        held: u64,
        /// Sequence of the record that was offered.
        offered: u64,
    },
}

/// A place for signed name records. `name` is the text form: `k51…`, base36 CIDv1 libp2p-key.
#[async_trait]
pub trait NameStore: Send + Sync {
    /// Publishes the encoded record (IPNS protobuf, V1+V2) under `name`; durable there on return.
    async fn publish(&self, name: &str, record: &[u8]) -> Result<(), NameError>;
    /// The newest record that the store has for `name`, verified against the name.
    async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError>;
}
