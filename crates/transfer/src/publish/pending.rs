//! What of a commit is kept in the journal: the one that is on its way, what the head contains, and whether the
//! node has all of it.
//!
//! Invariant: a [`Pending`] is durable before the first of its bytes leaves, and goes only when its root
//! is the head, is given up for good and never left for the name, or is a part of the next commit, which somebody has put
//! over another machine's. A head that was not found whole on the node is
//! [`Doubted`], and so is each later one, until a round of `sample` has found all there is. Called by `commit`, `head`,
//! `follow`, `queue` and `sample`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use minicbor::{CborLen, Decode, Encode};

use super::PublishError;
use crate::fetch::source::blocking;
use crate::fs::{Values, Volume};
use crate::journal::record::CidBytes;
use crate::pack::chunk;
use crate::pack::cid as form;
use crate::pack::root::{MAX_WRITERS, Root, Version, WriterId};
use crate::pack::usage;
use crate::store::Block;

/// The value of a volume that stands from before a commit leaves until it is the head.
pub(super) const PENDING: &str = "pending";

/// [`Volume::keep`] beside the runtime: the local disk may take its time.
pub(super) async fn keep(volume: &Arc<Volume>, values: Values) -> Result<(), PublishError> {
    let volume = Arc::clone(volume);
    Ok(blocking(move || volume.keep(values)).await??)
}

/// A commit that may have left: after a crash exactly these bytes are finished first.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(super) struct Pending {
    #[n(0)]
    pub(super) sequence: u64,
    #[n(1)]
    pub(super) root: CidBytes,
    /// The root's block.
    #[n(2)]
    pub(super) root_bytes: minicbor::bytes::ByteVec,
    /// The usage metadata.
    #[n(3)]
    pub(super) document: minicbor::bytes::ByteVec,
    /// The name record.
    #[n(4)]
    pub(super) record: minicbor::bytes::ByteVec,
    #[n(5)]
    pub(super) time_s: u64,
    #[n(6)]
    pub(super) uploads: u64,
    /// What it is charged, in bytes, on a contract that charges each commit.
    #[n(7)]
    pub(super) charge_bytes: Option<u64>,
    /// Its blocks may not all have left: after a crash it is given up, and never was named.
    #[n(8)]
    #[cbor(default)]
    pub(super) unsent: bool,
    /// Some of its blocks, which are read back before it is named.
    #[n(9)]
    #[cbor(default)]
    pub(super) sample: Vec<CidBytes>,
    /// It has not left for the name, and is not settled: it may be given up.
    #[n(10)]
    #[cbor(default)]
    pub(super) unnamed: bool,
    /// Its usage metadata is a file of one block; `false`: a raw leaf, and its record names that.
    #[n(11)]
    #[cbor(default)]
    pub(super) is_file: bool,
}

impl Pending {
    /// The block of its usage metadata.
    pub(super) fn document_block(&self) -> Block {
        let document = Bytes::copy_from_slice(&self.document);
        match self.is_file.then(|| usage::block(&document)) {
            Some(Ok(block)) => block,
            // What is signed is at most 4 KiB: it always is a block.
            Some(Err(_)) | None => chunk::leaf(document),
        }
    }

    /// Its CID.
    pub(super) fn document_cid(&self) -> Cid {
        self.document_block().cid
    }
}

/// The value of a volume that stands while its head may not be whole on the node.
pub(super) const DOUBTED: &str = "doubted";

/// The node was found to have lost blocks of what is published. Stands, whatever is published later, until each block
/// of the head was asked for since, and none was missing: nothing counts as published until then.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(super) struct Doubted {
    /// The root that was the head then.
    #[n(0)]
    pub(super) since: CidBytes,
    /// What was amiss.
    #[n(1)]
    why: String,
    /// Blocks that are to be read: that the node says it has them is not enough.
    #[n(2)]
    pub(super) sample: Vec<CidBytes>,
}

impl Doubted {
    /// The commit `pending` becomes the head though `why`. What was doubted before stays so.
    pub(super) fn new(pending: &Pending, why: &PublishError, before: Option<Self>) -> Self {
        let mut sample = pending.sample.clone();
        sample.extend(before.into_iter().flat_map(|before| before.sample));
        sample.truncate(DOUBTED_MAX);
        Self {
            since: pending.root,
            why: why.to_string(),
            sample,
        }
    }

    /// What there is.
    pub(super) fn of(volume: &Volume) -> Result<Option<Self>, PublishError> {
        Ok(volume.meta(DOUBTED)?)
    }

    /// What whoever wants everything published is told.
    pub(super) fn error(&self) -> PublishError {
        PublishError::Unverified(format!(
            "it has lost blocks of root {} ({}): what is here of them is put again",
            self.since.0, self.why
        ))
    }
}

/// Blocks that are read each time, at most.
const DOUBTED_MAX: usize = 64;

/// The version vector of the head: for each writer its last commit in the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(super) struct Versions {
    /// Writer id, sequence, root digest.
    #[n(0)]
    rows: Vec<VersionRow>,
}

/// One row of [`Versions`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
struct VersionRow {
    #[n(0)]
    writer: minicbor::bytes::ByteArray<16>,
    #[n(1)]
    sequence: u64,
    #[n(2)]
    root: minicbor::bytes::ByteArray<32>,
}

impl Versions {
    /// What a tree made from `root` contains: its vector, and its own commit.
    pub(super) fn of(root: &Root) -> Self {
        let mut map = root.versions.clone();
        if let Some(version) = root
            .encode()
            .ok()
            .and_then(|block| version(root.sequence, &block.cid))
        {
            map.insert(root.writer, version);
        }
        Self::from_map(&map)
    }

    /// Both: of each writer its later commit.
    pub(super) fn with(&self, other: &Self) -> Self {
        let mut map = self.to_map();
        for (writer, version) in other.to_map() {
            let known = map.entry(writer).or_insert(version);
            if known.sequence < version.sequence {
                *known = version;
            }
        }
        Self::from_map(&map)
    }

    /// As many as a root takes, the latest.
    pub(super) fn from_map(map: &BTreeMap<WriterId, Version>) -> Self {
        let mut latest: Vec<_> = map.iter().collect();
        latest.sort_by_key(|(_, version)| std::cmp::Reverse(version.sequence));
        latest.truncate(MAX_WRITERS);
        let rows = latest.into_iter().map(|(writer, version)| VersionRow {
            writer: writer.0.into(),
            sequence: version.sequence,
            root: version.root.into(),
        });
        Self {
            rows: rows.collect(),
        }
    }

    pub(super) fn to_map(&self) -> BTreeMap<WriterId, Version> {
        let rows = self.rows.iter().map(|row| {
            let version = Version {
                sequence: row.sequence,
                root: *row.root,
            };
            (WriterId(*row.writer), version)
        });
        rows.collect()
    }
}

pub(super) fn version(sequence: u64, root: &Cid) -> Option<Version> {
    let root = form::digest(root).ok()?;
    Some(Version { sequence, root })
}
