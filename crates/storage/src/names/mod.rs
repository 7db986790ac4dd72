//! The name store: mutable pointers (BTNS, IPNS) to immutable content.
//!
//! Records are signed here, by a key that no node holds, so any node can publish them.
//!
//! [`key`] makes name keys and names, [`record`] the signed records; [`memory`], [`embedded`] and
//! [`rpc`] (a BTFS or IPFS node) keep records; [`gateway`] gives what a name leads to; [`fault`] and [`late`] wrap any store; `suite` is what every one of them must pass.

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
    /// Publishes the encoded record (IPNS protobuf, V1+V2) under `name`; durable there on return. The
    /// bytes that the store has for the name then: a caller that must not be lied to compares them ([`is_same`]).
    /// [`NameError::Stale`] unless it is the one held, or newer ([`Record::replaces`]; of two of one commit
    /// that end at one time a store may keep either);
    /// [`NameError::Corrupt`] when it is not valid for `name`; [`NameError::Permanent`] when its end
    /// of life has passed.
    async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError>;
    /// The newest record that the store has for `name`, verified against the name. Its end of life
    /// may have passed: the caller decides ([`Record::check_alive`]).
    async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError>;
}

/// What a store does with a record that is offered to it.
enum Admission {
    /// It is newer than what is held, or nothing valid is held.
    Take,
    /// It is what is held, though something else may stand around it there.
    Held,
}

/// The rule of every store that keeps one record a name: `offered` must be valid for `name` and
/// alive at `now_ns`, and replace `held`. A held record that cannot be verified protects nothing.
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

/// Whether two encoded records say the same of `name`, whatever stands around what was signed of them.
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
