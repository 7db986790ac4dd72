//! Pages: the nodes of a tree, as UnixFS directories with a payload of ours.
//!
//! Invariant: bytes and meaning are one to one: what is read encodes to the same bytes, else it is
//! refused. The links of a node are exactly the children that its payload names, sorted by name, no
//! two equal. Called by `tree`.
//!
//! | payload | |
//! |---|---|
//! | 0 | version: 1 |
//! | 1 | kind: 1 page of a directory, 2 index of a directory, 3 page of the inode table, 4 index of the inode table (5: root) |
//! | 2 … | CBOR. Page: an array of entries (`entry/codec`), by key. Index: an array of its level (1: the children are pages) and an array of rows, by border |
//!
//! A row is an array: border (bytes), child (position of the link, or a damaged one's CID as
//! bytes), weight, and the sums bytes, inodes, entries, subdirs. The link of an index's child is
//! named by its position, 8 hex digits.

use ::cid::Cid;
use bytes::Bytes;
use minicbor::{Decoder, Encoder};

use super::dagpb::{Link, Node, Unixfs, link_len};
use super::entry::{self, Entry, Sums, TreeKind, uint_len};
use super::{Child, PackError, VERSION};
use crate::block::Block;
use crate::block::MAX_BLOCK_BYTES;

/// Entries or rows of a page.
pub(super) const MAX_ITEMS: usize = 65_536;
/// Bytes of a page beside its entries, at most.
pub(super) const FRAME: usize = 32;
/// Levels of an index; each divides by more than ten.
const MAX_LEVEL: u8 = 16;

/// A child of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Keys from this one on, up to the next row's, are below it (those below the first row's too).
    pub(super) border: Bytes,
    /// The page or index below.
    pub(super) child: Child,
    /// The weight of its items, in bytes.
    pub(super) weight: u64,
    /// The sums of what is below.
    pub(super) sums: Sums,
}

/// What a page holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Entries(Vec<Entry>),
    /// Level, and the rows.
    Rows(u8, Vec<Row>),
}

impl Row {
    /// Bytes that the row takes in its page, with its link.
    fn weight(&self) -> usize {
        let child = entry::child_len(&self.child)
            + if self.child.damaged {
                0
            } else {
                link_len(&self.child.cid, 8, self.child.tsize)
            };
        let border = uint_len(self.border.len() as u64) + self.border.len();
        1 + border + child + uint_len(self.weight) + entry::sums_len(&self.sums)
    }
}

impl Body {
    /// The weights of its items, in bytes: what its block takes, a little more, without [`FRAME`].
    pub(super) fn weights(&self, tree: TreeKind) -> Vec<usize> {
        match self {
            Self::Entries(entries) => entries.iter().map(|e| entry::weight(e, tree)).collect(),
            Self::Rows(_, rows) => rows.iter().map(Row::weight).collect(),
        }
    }

    /// The sum of [`Body::weights`].
    pub(super) fn weight(&self, tree: TreeKind) -> u64 {
        match self {
            Self::Entries(entries) => entries.iter().map(|e| entry::weight(e, tree) as u64).sum(),
            Self::Rows(_, rows) => rows.iter().map(|r| r.weight() as u64).sum(),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Entries(entries) => entries.len(),
            Self::Rows(_, rows) => rows.len(),
        }
    }

    pub(super) fn sums(&self, tree: TreeKind) -> Sums {
        match self {
            Self::Entries(entries) => entries.iter().map(|entry| entry.sums(tree)).sum(),
            Self::Rows(_, rows) => rows.iter().map(|row| row.sums).sum(),
        }
    }

    /// 0 for a page.
    pub(super) fn level(&self) -> u8 {
        match self {
            Self::Entries(_) => 0,
            Self::Rows(level, _) => *level,
        }
    }

    /// The block, and what its parents link to.
    pub(super) fn encode(&self, tree: TreeKind) -> Result<(Block, Child), PackError> {
        let limit = |e: minicbor::encode::Error<_>| PackError::Limit(e.to_string());
        let kind = kind_byte(tree, self.level() > 0);
        let mut payload = vec![VERSION, kind];
        let mut links = Vec::new();
        match self {
            Self::Entries(entries) => {
                let mut out = Encoder::new(payload);
                out.array(entries.len() as u64).map_err(limit)?;
                let mut named: Vec<(usize, Link)> = Vec::with_capacity(entries.len());
                for (i, entry) in entries.iter().enumerate() {
                    named.extend(entry::link_of(entry, tree)?.map(|link| (i, link)));
                }
                named.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
                let mut positions = vec![0; entries.len()];
                for (position, (i, _)) in named.iter().enumerate() {
                    if let Some(slot) = positions.get_mut(*i) {
                        *slot = position;
                    }
                }
                for (entry, position) in entries.iter().zip(positions) {
                    entry::write(entry, tree, position, &mut out)?;
                }
                payload = out.into_writer();
                links.extend(named.into_iter().map(|(_, link)| link));
            }
            Self::Rows(level, rows) => {
                let mut out = Encoder::new(payload);
                out.array(2).and_then(|o| o.u8(*level)).map_err(limit)?;
                out.array(rows.len() as u64).map_err(limit)?;
                for row in rows {
                    write_row(row, links.len(), &mut out).map_err(limit)?;
                    if !row.child.damaged {
                        links.push(Link {
                            cid: row.child.cid,
                            name: format!("{:08x}", links.len()).into(),
                            tsize: row.child.tsize,
                        });
                    }
                }
                payload = out.into_writer();
            }
        }
        if payload.len() > MAX_BLOCK_BYTES || self.len() > MAX_ITEMS {
            return Err(PackError::Limit(format!("a page of {} items", self.len())));
        }
        let unixfs = Unixfs::Directory(payload.into());
        Node { links, unixfs }.encode()
    }

    /// Reads the bytes of the block `cid`.
    pub(super) fn decode(tree: TreeKind, cid: &Cid, bytes: &Bytes) -> Result<Self, PackError> {
        let refused = |why: String| PackError::Malformed(*cid, why);
        let node = Node::decode(cid, bytes)?;
        let Unixfs::Directory(payload) = node.unixfs else {
            return Err(refused("a directory is expected here".into()));
        };
        let index = open_payload(&payload, cid, |kind| {
            [false, true]
                .into_iter()
                .find(|index| kind_byte(tree, *index) == kind)
        })?;
        let mut input = Decoder::new(payload.get(2..).unwrap_or_default());
        let cbor = payload.slice(2.min(payload.len())..);
        let parsed = if index {
            read_rows(&node.links, &cbor, &mut input)
        } else {
            read_entries(tree, &node.links, &cbor, &mut input)
        };
        let body = parsed.map_err(|e| refused(e.to_string()))?;
        body.check(tree).map_err(|e| refused(e.to_string()))?;
        let (again, _) = body.encode(tree)?;
        if again.data != *bytes {
            return Err(refused(
                "the page is not in the form that is written".into(),
            ));
        }
        Ok(body)
    }

    /// What the form of bytes does not say by itself.
    fn check(&self, tree: TreeKind) -> Result<(), PackError> {
        let contradiction = |what: &str| Err(PackError::Contradiction(what.to_owned()));
        match self {
            Self::Entries(entries) => {
                if !entries.is_sorted_by(|a, b| a.key < b.key) {
                    return contradiction("keys that are not sorted");
                }
                entries.iter().try_for_each(|entry| entry.check(tree))
            }
            Self::Rows(level, rows) => {
                if *level == 0 || *level > MAX_LEVEL || rows.is_empty() {
                    return contradiction("an index without rows, or of no level");
                }
                if !rows.is_sorted_by(|a, b| a.border < b.border) {
                    return contradiction("borders that are not sorted");
                }
                Ok(())
            }
        }
    }
}

/// Reads version and kind of a payload. A version above ours, and a kind that nobody has, are
/// unknown; a kind that `known` does not give is out of place.
pub(super) fn open_payload<T>(
    payload: &Bytes,
    cid: &Cid,
    known: impl Fn(u8) -> Option<T>,
) -> Result<T, PackError> {
    let refused = |why: &str| PackError::Malformed(*cid, why.to_owned());
    match payload.get(..2) {
        Some([VERSION, kind]) => known(*kind).ok_or_else(|| match kind {
            1..=5 => refused("a node of another kind is expected here"),
            _ => PackError::Unknown(format!("kind {kind} of node {cid}")),
        }),
        Some([version, _]) if *version > VERSION => Err(PackError::Unknown(format!(
            "version {version} of the volume format"
        ))),
        _ => Err(refused("the directory has no payload of a volume")),
    }
}

fn kind_byte(tree: TreeKind, index: bool) -> u8 {
    match (tree, index) {
        (TreeKind::Directory, false) => 1,
        (TreeKind::Directory, true) => 2,
        (TreeKind::Table, false) => 3,
        (TreeKind::Table, true) => 4,
    }
}

fn write_row(
    row: &Row,
    position: usize,
    out: &mut Encoder<Vec<u8>>,
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    out.array(7)?.bytes(&row.border)?;
    if row.child.damaged {
        out.bytes(&row.child.cid.to_bytes())?;
    } else {
        out.u64(position as u64)?;
    }
    out.u64(row.weight)?;
    entry::write_sums(&row.sums, out)
}

fn read_entries(
    tree: TreeKind,
    links: &[Link],
    page: &Bytes,
    input: &mut Decoder<'_>,
) -> Result<Body, minicbor::decode::Error> {
    let count = items(input)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(entry::read(tree, links, page, input)?);
    }
    end(input)?;
    Ok(Body::Entries(entries))
}

fn read_rows(
    links: &[Link],
    page: &Bytes,
    input: &mut Decoder<'_>,
) -> Result<Body, minicbor::decode::Error> {
    let refused = minicbor::decode::Error::message;
    if entry::array(input)? != 2 {
        return Err(refused("an index is a level and rows"));
    }
    let level = input.u8()?;
    let mut rows = Vec::new();
    for _ in 0..items(input)? {
        if entry::array(input)? != 7 {
            return Err(refused("a row with more or fewer fields than it has"));
        }
        rows.push(Row {
            border: entry::bytes(page, input)?,
            child: entry::read_child(links, input)?,
            weight: input.u64()?,
            sums: entry::read_sums(input)?,
        });
    }
    end(input)?;
    Ok(Body::Rows(level, rows))
}

/// The length of the array of items; no more than bytes are left, before room is made for them.
fn items(input: &mut Decoder<'_>) -> Result<usize, minicbor::decode::Error> {
    let count = usize::try_from(entry::array(input)?).unwrap_or(usize::MAX);
    let left = input.input().len() - input.position();
    if count > MAX_ITEMS || count > left {
        return Err(minicbor::decode::Error::message(
            "too many items for a page",
        ));
    }
    Ok(count)
}

fn end(input: &Decoder<'_>) -> Result<(), minicbor::decode::Error> {
    if input.position() == input.input().len() {
        Ok(())
    } else {
        Err(minicbor::decode::Error::message("unknown bytes at the end"))
    }
}
