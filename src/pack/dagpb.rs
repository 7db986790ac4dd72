//! dag-pb nodes and the UnixFS message in them, in the one form that is written.
//!
//! Invariant: links come before data, fields in their order, no field twice, none unknown, shortest
//! varints, so bytes and meaning are one to one: what decodes encodes to the same bytes. Sources:
//! the dag-pb and UnixFS v1 specifications of IPFS. Called by `file` and `page`.

use ::cid::Cid;
use bytes::Bytes;

use super::cid;

/// A link of a dag-pb node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it leads to.
    pub cid: Cid,
    /// Its name: UTF-8, empty in a file's nodes.
    pub name: Bytes,
    /// Cumulative size of what it leads to, in bytes.
    pub tsize: u64,
}
