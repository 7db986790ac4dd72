//! The name store: mutable pointers (BTNS, IPNS) to immutable content.
//!
//! Records are signed here, by a key that no node holds, so any node can publish them.
//!
//! [`key`] makes name keys and names, [`record`] signed records; [`memory`], [`embedded`] and
//! [`rpc`] (a BTFS or IPFS node) store records; [`gateway`] resolves names; [`fault`] and [`late`]
//! wrap any store; every store passes `suite`.

pub mod embedded;
pub mod fault;
pub mod gateway;
pub mod late;
pub mod memory;
pub mod rpc;
#[cfg(any(test, feature = "testing"))]
pub mod suite;

use async_trait::async_trait;
pub use pxfs_format::{key, record};

use record::{MAX_RECORD_BYTES, Record, RecordError};

/// A name store's failure, by what the caller can do about it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// No record is known for the name.
    #[error("name {0} has no record")]
    Missing(String),
    /// Retry.
    #[error("name store: {0}")]
    Transient(String),
    /// Refused for good.
    #[error("name store: {0}")]
    Permanent(String),
    /// The record is not valid for its name.
    #[error("name record of {0} is invalid: {1}")]
    Corrupt(String, String),
    /// The store has a newer record.
    #[error("name store holds sequence {held}, refused {offered}")]
    Stale {
        /// Sequence of the stored record.
        held: u64,
        /// Sequence of the offered record.
        offered: u64,
    },
}

/// A store of signed name records. `name` is the text form: `k51…`, base36 CIDv1 libp2p-key.
#[async_trait]
pub trait NameStore: Send + Sync {
    /// Publishes the encoded record (IPNS protobuf, V1+V2) under `name`; durable on return. Returns
    /// the bytes that the store then has; a cautious caller compares them ([`is_same`]).
    /// [`NameError::Stale`] unless it is the stored one, or newer ([`Record::replaces`]; of two of
    /// one commit with one expiry a store may keep either); [`NameError::Corrupt`] if it is not
    /// valid for `name`; [`NameError::Permanent`] if it has expired.
    async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError>;
    /// The newest record stored for `name`, verified against it. It may have expired: the caller
    /// decides ([`Record::check_alive`]).
    async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError>;
}

/// What to do with an offered record.
enum Admission {
    /// Newer than the stored one, or nothing valid is stored.
    Take,
    /// The stored one, perhaps with other data around it.
    Held,
}

/// The rule for every store with one record per name: `offered` must be valid for `name` and alive
/// at `now_ns`, and replace `held`. An invalid stored record protects nothing.
fn admit(
    name: &str,
    offered: &[u8],
    held: Option<&[u8]>,
    now_ns: i64,
) -> Result<Admission, NameError> {
    if offered.len() > MAX_RECORD_BYTES {
        let too_long = RecordError::TooLong(offered.len()).to_string();
        return Err(NameError::Corrupt(name.to_owned(), too_long));
    }
    let new = verify(name, offered)?;
    new.check_alive(now_ns)
        .map_err(|e| NameError::Permanent(e.to_string()))?;
    let Some(old) = held.and_then(|bytes| Record::verify(name, bytes).ok()) else {
        return Ok(Admission::Take);
    };
    if new.is_same(&old) {
        Ok(Admission::Held)
    } else if new.replaces(&old) {
        Ok(Admission::Take)
    } else {
        Err(NameError::Stale {
            held: old.sequence,
            offered: new.sequence,
        })
    }
}

/// Whether two encoded records say the same of `name`, whatever unsigned data surrounds them.
#[must_use]
pub fn is_same(name: &str, one: &[u8], other: &[u8]) -> bool {
    let verified = |bytes| Record::verify(name, bytes).ok();
    one == other
        || matches!((verified(one), verified(other)), (Some(one), Some(other)) if one.is_same(&other))
}

/// [`Record::verify`] as a store reports it.
fn verify(name: &str, bytes: &[u8]) -> Result<Record, NameError> {
    Record::verify(name, bytes).map_err(|e| NameError::Corrupt(name.to_owned(), e.to_string()))
}
