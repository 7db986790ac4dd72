//! The protobuf messages of dag-pb and UnixFS, as any program writes them.

use bytes::Bytes;
use prost::Message;

/// dag-pb `PBNode`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PbNode {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(super) data: Option<Bytes>,
    #[prost(message, repeated, tag = "2")]
    pub(super) links: Vec<PbLink>,
}

/// dag-pb `PBLink`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PbLink {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) hash: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) name: Bytes,
    #[prost(uint64, tag = "3")]
    pub(super) tsize: u64,
}

/// UnixFS `Data`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PbUnixfs {
    #[prost(uint64, tag = "1")]
    pub(super) kind: u64,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(super) data: Option<Bytes>,
    #[prost(uint64, optional, tag = "3")]
    pub(super) size: Option<u64>,
    #[prost(uint64, repeated, packed = "false", tag = "4")]
    pub(super) parts: Vec<u64>,
}

pub(super) const RAW: u64 = 0;
pub(super) const DIRECTORY: u64 = 1;
pub(super) const FILE: u64 = 2;
pub(super) const SYMLINK: u64 = 4;
