//! dag-pb nodes and the UnixFS message in them, in the one form that is written.
//!
//! Invariant: links come before data, fields in their order, no field twice, none unknown, shortest
//! varints, so bytes and meaning are one to one: what decodes encodes to the same bytes. Called by
//! `file`, `page` and `root`.
//!
//! | bytes | field (dag-pb `PBNode`) |
//! |---|---|
//! | `12` len | a link, any number: `0a` len CID (34 bytes of CIDv0, 36 of a raw CIDv1), `12` len name, `18` varint `Tsize` |
//! | `0a` len | UnixFS `Data`: `08` varint type (1 directory, 2 file, 4 symlink), `12` len bytes (directory: our payload; symlink: the target; file of one block: its bytes), `18` varint file size and `20` varint for each link the bytes below it (file) |
//!
//! Sources: the dag-pb and UnixFS v1 specifications of IPFS; live nodes ask nothing else.

use ::cid::Cid;
use bytes::{Buf, Bytes};

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

const DIRECTORY: u64 = 1;
const FILE: u64 = 2;
const SYMLINK: u64 = 4;

impl Node {
    /// The block, and what its parents link to. [`PackError::Limit`] above [`MAX_BLOCK_BYTES`].
    pub fn encode(&self) -> Result<(Block, Child), PackError> {
        let mut out = Vec::with_capacity(self.links.len() * 64 + self.data_len());
        let mut below = 0u64;
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
            below = below.saturating_add(link.tsize);
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
        if out.len() > MAX_BLOCK_BYTES {
            return Err(PackError::Limit(format!("a block of {} bytes", out.len())));
        }
        let data = Bytes::from(out);
        let cid = node_cid(&data);
        let tsize = below.saturating_add(data.len() as u64);
        Ok((Block { cid, data }, Child::new(cid, tsize)))
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
    let mut fields = Fields(bytes.clone());
    let mut links = Vec::new();
    while let Some(link) = fields.optional(0x12)? {
        links.push(parse_link(link)?);
    }
    let unixfs = parse_unixfs(fields.bytes(0x0a)?)?;
    fields.end()?;
    Ok(Node { links, unixfs })
}

fn parse_link(bytes: Bytes) -> Result<Link, &'static str> {
    let mut fields = Fields(bytes);
    let hash = fields.bytes(0x0a)?;
    let cid = cid::from_bytes(&hash).map_err(|_| "a link's CID has a form that is not stored")?;
    let name = fields.bytes(0x12)?;
    let tsize = fields.number(0x18)?;
    fields.end()?;
    if std::str::from_utf8(&name).is_err() {
        return Err("a link's name is not UTF-8");
    }
    Ok(Link { cid, name, tsize })
}

fn parse_unixfs(bytes: Bytes) -> Result<Unixfs, &'static str> {
    let mut fields = Fields(bytes);
    let unixfs = match fields.number(0x08)? {
        DIRECTORY => Unixfs::Directory(fields.bytes(0x12)?),
        SYMLINK => Unixfs::Symlink(fields.bytes(0x12)?),
        FILE if fields.next_is(0x12) => {
            let bytes = fields.bytes(0x12)?;
            if fields.number(0x18)? != bytes.len() as u64 {
                return Err("a file has another size than bytes");
            }
            Unixfs::Whole(bytes)
        }
        FILE => {
            let size = fields.number(0x18)?;
            let mut parts = Vec::new();
            while fields.next_is(0x20) {
                parts.push(fields.number(0x20)?);
            }
            Unixfs::File { size, parts }
        }
        _ => return Err("a UnixFS type that is not written"),
    };
    fields.end()?;
    Ok(unixfs)
}

/// What is left of a protobuf message.
struct Fields(Bytes);

impl Fields {
    fn next_is(&self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    /// A varint field that must come next.
    fn number(&mut self, tag: u8) -> Result<u64, &'static str> {
        if !self.next_is(tag) {
            return Err("a field is missing, unknown, or out of its order");
        }
        let mut value = 0u64;
        for (i, byte) in self.0.iter().skip(1).take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has one bit left; a last byte of 0 would be a longer form.
            if (i == 9 && bits > 1) || (i > 0 && *byte == 0) {
                break;
            }
            value |= bits << (7 * i);
            if byte & 0x80 == 0 {
                self.0.advance(i + 2);
                return Ok(value);
            }
        }
        Err("a number is cut, too large, or not in its shortest form")
    }

    /// A field of bytes that must come next.
    fn bytes(&mut self, tag: u8) -> Result<Bytes, &'static str> {
        let len = usize::try_from(self.number(tag)?).map_err(|_| "a field is too long")?;
        if len > self.0.len() {
            return Err("a field is longer than the block");
        }
        Ok(self.0.split_to(len))
    }

    /// A field of bytes, if it comes next.
    fn optional(&mut self, tag: u8) -> Result<Option<Bytes>, &'static str> {
        self.next_is(tag).then(|| self.bytes(tag)).transpose()
    }

    fn end(&self) -> Result<(), &'static str> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err("unknown bytes at an end")
        }
    }
}

#[cfg(test)]
mod tests;
