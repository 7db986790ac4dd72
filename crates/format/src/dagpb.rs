//! dag-pb nodes and the UnixFS message in them, in the one form that is written.
//!
//! Invariant: links come before data, fields in their order, no field twice, none unknown, shortest
//! varints, so bytes and meaning are one to one: what does not encode to the same bytes is refused.
//! [`foreign`] reads the nodes of other programs.
//!
//! | bytes | field (dag-pb `PBNode`) |
//! |---|---|
//! | `12` len | a link, any number: `0a` len CID (34 bytes of CIDv0, 36 of a raw CIDv1), `12` len name, `18` varint `Tsize` |
//! | `0a` len | UnixFS `Data`: `08` varint type (1 directory, 2 file, 4 symlink), `12` len bytes (directory: our payload; symlink: the target; file of one block: its bytes), `18` varint file size and `20` varint for each link the bytes below it (file) |
//!
//! Sources: the dag-pb and UnixFS v1 specifications of IPFS; live nodes ask nothing else.

pub mod foreign;
mod message;

use ::cid::Cid;
use bytes::Bytes;
use message::{DIRECTORY, FILE, PbLink, PbNode, PbUnixfs, SYMLINK};
use prost::Message;

use super::cid::{self, node_cid};
use super::{Child, PackError};
use crate::block::Block;
use crate::block::MAX_BLOCK_BYTES;

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

/// What a node is to UnixFS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unixfs {
    /// A directory, with bytes of ours that other readers pass over.
    Directory(Bytes),
    /// A file of one block, with its bytes.
    Whole(Bytes),
    /// An inner node of a file: bytes below it, and below each link.
    File {
        /// Bytes below the node.
        size: u64,
        /// Bytes below each link.
        parts: Vec<u64>,
    },
    /// A symlink, with its target.
    Symlink(Bytes),
}

/// A dag-pb node with a UnixFS message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its links, in the order of the bytes.
    pub links: Vec<Link>,
    /// What it is.
    pub unixfs: Unixfs,
}

impl Node {
    /// The block, and what its parents link to. [`PackError::Limit`] above [`MAX_BLOCK_BYTES`].
    pub fn encode(&self) -> Result<(Block, Child), PackError> {
        let out = self.to_bytes();
        if out.len() > MAX_BLOCK_BYTES {
            return Err(PackError::Limit(format!("a block of {} bytes", out.len())));
        }
        let data = Bytes::from(out);
        let cid = node_cid(&data);
        let below = self.links.iter().map(|link| link.tsize);
        let tsize = below.fold(data.len() as u64, u64::saturating_add);
        Ok((Block { cid, data }, Child::new(cid, tsize)))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.links.len() * 64 + self.data_len());
        for link in &self.links {
            let cid = link.cid.to_bytes();
            put_tag(
                &mut out,
                0x12,
                link_inner_len(&link.cid, link.name.len(), link.tsize),
            );
            put_bytes(&mut out, 0x0a, &cid);
            put_bytes(&mut out, 0x12, &link.name);
            put_tag(&mut out, 0x18, link.tsize);
        }
        put_tag(&mut out, 0x0a, self.data_len() as u64);
        match &self.unixfs {
            Unixfs::Directory(payload) => {
                put_tag(&mut out, 0x08, DIRECTORY);
                put_bytes(&mut out, 0x12, payload);
            }
            Unixfs::Whole(bytes) => {
                put_tag(&mut out, 0x08, FILE);
                put_bytes(&mut out, 0x12, bytes);
                put_tag(&mut out, 0x18, bytes.len() as u64);
            }
            Unixfs::File { size, parts } => {
                put_tag(&mut out, 0x08, FILE);
                put_tag(&mut out, 0x18, *size);
                for part in parts {
                    put_tag(&mut out, 0x20, *part);
                }
            }
            Unixfs::Symlink(target) => {
                put_tag(&mut out, 0x08, SYMLINK);
                put_bytes(&mut out, 0x12, target);
            }
        }
        out
    }

    /// Reads the bytes of the block `cid`; parts of them are shared, not copied.
    pub fn decode(cid: &Cid, bytes: &Bytes) -> Result<Self, PackError> {
        let refused = |why: &str| PackError::Malformed(*cid, why.to_owned());
        if cid::kind(cid) != Ok(cid::Kind::Node) {
            return Err(refused("a node is expected here, not a leaf"));
        }
        if bytes.len() > MAX_BLOCK_BYTES {
            return Err(refused("the block is too large"));
        }
        parse(bytes).map_err(refused)
    }

    /// Bytes of the UnixFS message.
    fn data_len(&self) -> usize {
        let field = |bytes: &Bytes| 1 + varint_len(bytes.len() as u64) + bytes.len();
        2 + match &self.unixfs {
            Unixfs::Directory(bytes) | Unixfs::Symlink(bytes) => field(bytes),
            Unixfs::Whole(bytes) => field(bytes) + 1 + varint_len(bytes.len() as u64),
            Unixfs::File { size, parts } => {
                let parts = parts.iter().map(|part| 1 + varint_len(*part));
                1 + varint_len(*size) + parts.sum::<usize>()
            }
        }
    }
}

/// The UnixFS symlink to `target`.
pub fn symlink(target: &Bytes) -> Result<(Block, Child), PackError> {
    let node = Node {
        links: Vec::new(),
        unixfs: Unixfs::Symlink(target.clone()),
    };
    node.encode()
}

/// A node that links to the bytes of each of these blocks, as leaves, whatever they are: whoever pins it holds them, and
/// nothing that they link to.
pub fn bundle(blocks: &[Block]) -> Result<Block, PackError> {
    let links = blocks.iter().enumerate().map(|(number, block)| Link {
        cid: Cid::new_v1(cid::RAW, *block.cid.hash()),
        name: format!("{number:08X}").into(),
        tsize: block.data.len() as u64,
    });
    let node = Node {
        links: links.collect(),
        unixfs: Unixfs::Directory(Bytes::new()),
    };
    Ok(node.encode()?.0)
}

/// Bytes of an encoded link with a name of `name_len` bytes.
pub(super) fn link_len(cid: &Cid, name_len: usize, tsize: u64) -> usize {
    let inner = link_inner_len(cid, name_len, tsize);
    1 + varint_len(inner) + inner as usize
}

/// Bytes of a link's message.
fn link_inner_len(cid: &Cid, name_len: usize, tsize: u64) -> u64 {
    let name = 1 + varint_len(name_len as u64) + name_len;
    (2 + cid.encoded_len() + name + 1 + varint_len(tsize)) as u64
}

/// Bytes of `value` as a varint.
fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_tag(out: &mut Vec<u8>, tag: u8, value: u64) {
    out.push(tag);
    let mut buffer = unsigned_varint::encode::u64_buffer();
    out.extend_from_slice(unsigned_varint::encode::u64(value, &mut buffer));
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    put_tag(out, tag, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn parse(bytes: &Bytes) -> Result<Node, &'static str> {
    let node = PbNode::decode(bytes.clone()).map_err(|_| "it is not dag-pb")?;
    let links = node.links.into_iter().map(read_link);
    let node = Node {
        links: links.collect::<Result<_, _>>()?,
        unixfs: read_unixfs(node.data.unwrap_or_default())?,
    };
    match node.to_bytes() == bytes[..] {
        true => Ok(node),
        false => Err("it is not in the one form that is written"),
    }
}

fn read_link(link: PbLink) -> Result<Link, &'static str> {
    let PbLink { hash, name, tsize } = link;
    let cid = cid::from_bytes(&hash).map_err(|_| "a link's CID has a form that is not stored")?;
    if std::str::from_utf8(&name).is_err() {
        return Err("a link's name is not UTF-8");
    }
    Ok(Link { cid, name, tsize })
}

fn read_unixfs(bytes: Bytes) -> Result<Unixfs, &'static str> {
    let message = PbUnixfs::decode(bytes).map_err(|_| "it is not UnixFS")?;
    Ok(match (message.kind, message.data) {
        (DIRECTORY, data) => Unixfs::Directory(data.unwrap_or_default()),
        (SYMLINK, data) => Unixfs::Symlink(data.unwrap_or_default()),
        (FILE, Some(data)) => Unixfs::Whole(data),
        (FILE, None) => Unixfs::File {
            size: message.size.unwrap_or_default(),
            parts: message.parts,
        },
        _ => return Err("a UnixFS type that is not written"),
    })
}

#[cfg(test)]
mod tests;
