//! The root of a volume: one commit, the node that the name leads to and the pin holds.
//!
//! Invariant: usage and sums of a root agree, and its bytes are the one encoding of its meaning.
//! Called by a commit, and by a mount that asks which state it has before it.
//!
//! A UnixFS directory with the links `header`, `links` (the inode table) and `tree` (the root
//! directory). Payload: version 1, kind 5, then a CBOR array:
//!
//! | place | | |
//! |---|---|---|
//! | 0, 1, 2 | number; 20 bytes; 32 bytes | chain id, contract, token (big-endian) |
//! | 3, 4 | numbers | epoch, sequence |
//! | 5 | bytes or null | CID of the parent root |
//! | 6 | map 16 bytes → array of number, 32 bytes | version vector: writer → sequence, digest of the root |
//! | 7, 8 | 16 bytes; signed | writer, time in ns since 1970 |
//! | 9, 10 | numbers | next inode, usage in bytes |
//! | 11 … 17 | as in an entry | mode, uid, gid, mtime, ctime, birth, extended attributes of the root directory |
//! | 18 … 21 | numbers | sums of the tree: bytes, inodes, entries, subdirs |
//! | 22 … 25 | numbers | sums of the inode table |

use std::collections::BTreeMap;

use ::cid::Cid;
use alloy_primitives::{Address, U256};
use bytes::Bytes;
use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use super::charge::{VOLUME_OVERHEAD, xattrs_charge};
use super::dagpb::{Link, Node, Unixfs};
use super::entry::{self, Attr, TreeRef};
use super::page::open_payload;
use super::{Child, PackError, VERSION, cid};
use crate::block::Block;
use pxfs_base::types::{Ino, TokenId, TokenKey, VolumeKey};

/// Writers that a version vector holds; with one more, the one with the lowest sequence is dropped.
pub const MAX_WRITERS: usize = 32;

/// The kind in the payload.
const KIND: u8 = 5;
/// Elements of the record.
const PLACES: u64 = 26;
/// The links, in their order.
const LINKS: [&str; 3] = ["header", "links", "tree"];

/// Who wrote: 128 random bits of a state folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId(pub [u8; 16]);

/// A writer's last commit that a tree contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Its sequence.
    pub sequence: u64,
    /// The SHA-256 digest in its root's CID.
    pub root: [u8; 32],
}

/// The record in a root, and what it links to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Token and epoch.
    pub volume: VolumeKey,
    /// Sequence of the commit in its epoch.
    pub sequence: u64,
    /// The root that this commit was made from.
    pub parent: Option<Cid>,
    /// For each writer its last commit in this tree, this one not counted. At most [`MAX_WRITERS`].
    pub versions: BTreeMap<WriterId, Version>,
    /// Who made this commit.
    pub writer: WriterId,
    /// When, ns since 1970-01-01 UTC.
    pub time_ns: i64,
    /// The number of the next new inode.
    pub next_inode: Ino,
    /// Attributes of the root directory (inode 1).
    pub attr: Attr,
    /// The root directory (link `tree`).
    pub tree: TreeRef,
    /// The inode table (link `links`).
    pub table: TreeRef,
    /// The header (link `header`).
    pub header: Child,
}

impl Root {
    /// The volume's usage in bytes: what its usage metadata tells and the quota limits.
    #[must_use]
    pub fn usage(&self) -> u64 {
        VOLUME_OVERHEAD
            .saturating_add(self.tree.sums.bytes)
            .saturating_add(self.table.sums.bytes)
            .saturating_add(xattrs_charge(self.attr.xattrs_bytes()))
    }

    /// Notes that this tree contains the commit `version` of `writer`; makes room for it.
    pub fn note(&mut self, writer: WriterId, version: Version) {
        self.versions.remove(&writer);
        while self.versions.len() >= MAX_WRITERS {
            let oldest = self.versions.iter().min_by_key(|(_, v)| v.sequence);
            let Some(oldest) = oldest.map(|(writer, _)| *writer) else {
                break;
            };
            self.versions.remove(&oldest);
        }
        self.versions.insert(writer, version);
    }

    /// The node.
    pub fn encode(&self) -> Result<Block, PackError> {
        self.check().map_err(PackError::Contradiction)?;
        self.attr.check()?;
        let mut out = Encoder::new(vec![VERSION, KIND]);
        self.write(&mut out)
            .map_err(|e| PackError::Limit(e.to_string()))?;
        let children = [self.header, self.table.root, self.tree.root];
        let links = LINKS.iter().zip(children).map(|(name, child)| Link {
            cid: child.cid,
            name: Bytes::from_static(name.as_bytes()),
            tsize: child.tsize,
        });
        let node = Node {
            links: links.collect(),
            unixfs: Unixfs::Directory(out.into_writer().into()),
        };
        Ok(node.encode()?.0)
    }

    /// Reads the node. [`PackError::Unknown`] for a version that is not known here.
    pub fn decode(block: &Block) -> Result<Self, PackError> {
        let refused = |why: String| PackError::Malformed(block.cid, why);
        let node = Node::decode(&block.cid, &block.data)?;
        let Unixfs::Directory(payload) = &node.unixfs else {
            return Err(refused("a root is a directory".into()));
        };
        open_payload(payload, &block.cid, |kind| (kind == KIND).then_some(()))?;
        let names = node.links.iter().map(|link| link.name.as_ref());
        if !names.eq(LINKS.iter().map(|name| name.as_bytes())) {
            return Err(refused("a root links header, links and tree".into()));
        }
        let record = payload.slice(2.min(payload.len())..);
        let (root, usage) = read(&node.links, &record).map_err(|e| refused(e.to_string()))?;
        root.check().map_err(refused)?;
        if usage != root.usage() {
            return Err(refused("the usage is not that of the sums".into()));
        }
        let again = root.encode().map_err(|e| refused(e.to_string()))?;
        if again.data != block.data {
            return Err(refused(
                "the root is not in the form that is written".into(),
            ));
        }
        Ok(root)
    }

    fn check(&self) -> Result<(), String> {
        let children = [self.header, self.table.root, self.tree.root];
        let kinds = [cid::Kind::Leaf, cid::Kind::Node, cid::Kind::Node];
        let fits = |(child, kind): (Child, _)| !child.damaged && cid::kind(&child.cid) == Ok(kind);
        if !children.into_iter().zip(kinds).all(fits) {
            return Err("a root's links are a leaf and two nodes".into());
        }
        if self
            .parent
            .is_some_and(|cid| cid::kind(&cid) != Ok(cid::Kind::Node))
        {
            return Err("the parent of a root is a node".into());
        }
        if self.versions.len() > MAX_WRITERS {
            return Err(format!("more than {MAX_WRITERS} writers"));
        }
        if self.tree.sums.plus(self.table.sums).inodes > Ino::MAX.0 {
            return Err("more inodes than there are numbers".into());
        }
        // One above the greatest: all numbers are used up.
        if self.next_inode <= Ino::ROOT || self.next_inode.0 > Ino::MAX.0 + 1 {
            return Err("the next inode is no number of an inode".into());
        }
        Ok(())
    }

    fn write(
        &self,
        out: &mut Encoder<Vec<u8>>,
    ) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        let token = &self.volume.token;
        out.array(PLACES)?;
        out.u64(token.chain_id)?.bytes(token.contract.as_slice())?;
        out.bytes(&token.token.0.to_be_bytes::<32>())?;
        out.u64(self.volume.epoch)?.u64(self.sequence)?;
        match &self.parent {
            Some(parent) => out.bytes(&parent.to_bytes())?,
            None => out.null()?,
        };
        out.map(self.versions.len() as u64)?;
        for (writer, version) in &self.versions {
            out.bytes(&writer.0)?.array(2)?;
            out.u64(version.sequence)?.bytes(&version.root)?;
        }
        out.bytes(&self.writer.0)?.i64(self.time_ns)?;
        out.u64(self.next_inode.0)?.u64(self.usage())?;
        entry::write_attr(&self.attr, out)?;
        entry::write_sums(&self.tree.sums, out)?;
        entry::write_sums(&self.table.sums, out)
    }
}

/// The record and the usage that it tells.
fn read(links: &[Link], record: &Bytes) -> Result<(Root, u64), minicbor::decode::Error> {
    let refused = minicbor::decode::Error::message;
    let mut decoder = Decoder::new(record);
    let input = &mut decoder;
    if entry::array(input)? != PLACES {
        return Err(refused("a record with more or fewer fields than it has"));
    }
    let child = |at: usize| {
        let link = links
            .get(at)
            .ok_or_else(|| refused("there is no such link"))?;
        Ok(Child::new(link.cid, link.tsize))
    };
    let token = TokenKey {
        chain_id: input.u64()?,
        contract: Address::from(fixed::<20>(input)?),
        token: TokenId(U256::from_be_bytes(fixed::<32>(input)?)),
    };
    let volume = VolumeKey {
        token,
        epoch: input.u64()?,
    };
    let sequence = input.u64()?;
    let parent = match input.datatype()? {
        Type::Null => input.null().map(|()| None)?,
        _ => Some(entry::read_cid(input)?),
    };
    let mut versions = BTreeMap::new();
    let count = input.map()?.unwrap_or(u64::MAX);
    if count > MAX_WRITERS as u64 {
        return Err(refused("too many writers"));
    }
    for _ in 0..count {
        let writer = WriterId(fixed(input)?);
        if entry::array(input)? != 2 {
            return Err(refused("a version is a sequence and a digest"));
        }
        let (sequence, root) = (input.u64()?, fixed(input)?);
        versions.insert(writer, Version { sequence, root });
    }
    let writer = WriterId(fixed(input)?);
    let time_ns = input.i64()?;
    let next_inode = Ino(input.u64()?);
    let usage = input.u64()?;
    let attr = entry::read_attr(record, input)?;
    let root = Root {
        volume,
        sequence,
        parent,
        versions,
        writer,
        time_ns,
        next_inode,
        attr,
        tree: TreeRef {
            root: child(2)?,
            sums: entry::read_sums(input)?,
        },
        table: TreeRef {
            root: child(1)?,
            sums: entry::read_sums(input)?,
        },
        header: child(0)?,
    };
    if input.position() != record.len() {
        return Err(refused("unknown bytes at the end"));
    }
    Ok((root, usage))
}

fn fixed<const N: usize>(input: &mut Decoder<'_>) -> Result<[u8; N], minicbor::decode::Error> {
    let wrong = |_| minicbor::decode::Error::message("bytes of another length");
    input.bytes()?.try_into().map_err(wrong)
}
