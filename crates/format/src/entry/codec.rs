//! Entries as bytes.
//!
//! An entry is a CBOR array (RFC 8949, deterministic form: definite lengths, shortest numbers):
//!
//! | place | directory | inode table | |
//! |---|---|---|---|
//! | 0 | bytes: name | number of names | |
//! | 1 | inode number | the same | the only other element where the inode stands in the inode table |
//! | 2 | kind | | 1 file, 2 directory, 3 symlink, 4 FIFO, 5 socket, 6 character device, 7 block device |
//! | 3, 4, 5 | mode, uid, gid | | mode: 12 bits |
//! | 6, 7, 8 | mtime, ctime, birth | | signed, ns since 1970 |
//! | 9 | map bytes → bytes | | extended attributes, by name |
//! | 10 | child | | kinds 1, 2, 3: the position of the link in the node; for a damaged one its CID as bytes |
//! | 11 … | file: size, chunk size in units of 4 KiB, holes | | holes: array of numbers, for each run how far it begins behind the end of the one before, and its length |
//! | | directory: bytes, inodes, entries, subdirs | | the sums of what lies in it |
//! | | symlink: bytes | | target |
//! | | device: number | | at place 10, without child |

use std::collections::BTreeMap;

use ::cid::Cid;
use bytes::Bytes;
use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use super::{Attr, Entry, Inode, Kind, Sums, TreeKind, TreeRef};
use crate::chunk::CHUNK_SIZE;
use crate::dagpb::{self, Link};
use crate::holes::{Holes, MAX_RUNS};
use crate::link_name::link_name;
use crate::{Child, PackError, cid};
use pxfs_base::types::Ino;

/// What bytes were refused for.
type Refused = minicbor::decode::Error;

/// Chunk sizes are counted in these.
pub(super) const CHUNK_UNIT: u64 = 4096;

/// The child that an inode has a block for: content, tree, or a symlink's own node.
fn child_of(kind: &Kind) -> Result<Option<Child>, PackError> {
    Ok(match kind {
        Kind::File { content, .. } => Some(*content),
        Kind::Directory(tree) => Some(tree.root),
        Kind::Symlink(target) => Some(dagpb::symlink(target)?.1),
        Kind::Fifo | Kind::Socket | Kind::CharDevice(_) | Kind::BlockDevice(_) => None,
    })
}

/// The link that an entry takes in its page's node; none for what has no block, or is damaged.
pub(crate) fn link_of(entry: &Entry, tree: TreeKind) -> Result<Option<Link>, PackError> {
    let Some(inode) = &entry.inode else {
        return Ok(None);
    };
    let child = child_of(&inode.kind)?.filter(|child| !child.damaged);
    Ok(child.map(|child| Link {
        cid: child.cid,
        name: match tree {
            TreeKind::Directory => link_name(&entry.key),
            TreeKind::Table => format!("{:012x}", entry.ino.0).into(),
        },
        tsize: child.tsize,
    }))
}

/// Writes `entry`; `position` is that of its link.
pub(crate) fn write(
    entry: &Entry,
    tree: TreeKind,
    position: usize,
    out: &mut Encoder<Vec<u8>>,
) -> Result<(), PackError> {
    write_entry(entry, tree, position, out).map_err(|e| PackError::Limit(e.to_string()))
}

fn write_entry(
    entry: &Entry,
    tree: TreeKind,
    position: usize,
    out: &mut Encoder<Vec<u8>>,
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    out.array(entry.inode.as_ref().map_or(2, |inode| places(&inode.kind)))?;
    match tree {
        TreeKind::Directory => out.bytes(&entry.key)?,
        TreeKind::Table => out.u32(entry.inode.as_ref().map_or(0, |inode| inode.links))?,
    };
    out.u64(entry.ino.0)?;
    let Some(inode) = &entry.inode else {
        return Ok(());
    };
    out.u8(number(&inode.kind))?;
    write_attr(&inode.attr, out)?;
    let mut child = |child: &Child| {
        if child.damaged {
            out.bytes(&child.cid.to_bytes()).map(|_| ())
        } else {
            out.u64(position as u64).map(|_| ())
        }
    };
    match &inode.kind {
        Kind::File {
            content,
            size,
            holes,
        } => {
            child(content)?;
            out.u64(*size)?.u64(CHUNK_SIZE / CHUNK_UNIT)?;
            out.array(2 * holes.runs().len() as u64)?;
            let mut end = 0;
            for run in holes.runs() {
                out.u64(run.start - end)?.u64(run.end - run.start)?;
                end = run.end;
            }
        }
        Kind::Directory(tree) => {
            child(&tree.root)?;
            write_sums(&tree.sums, out)?;
        }
        Kind::Symlink(target) => {
            out.u64(position as u64)?.bytes(target)?;
        }
        Kind::Fifo | Kind::Socket => {}
        Kind::CharDevice(device) | Kind::BlockDevice(device) => {
            out.u32(*device)?;
        }
    }
    Ok(())
}

/// Writes mode, owner, group, times, extended attributes.
pub(crate) fn write_attr(
    attr: &Attr,
    out: &mut Encoder<Vec<u8>>,
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    out.u16(attr.mode)?.u32(attr.uid)?.u32(attr.gid)?;
    out.i64(attr.mtime_ns)?
        .i64(attr.ctime_ns)?
        .i64(attr.birth_ns)?;
    out.map(attr.xattrs.len() as u64)?;
    for (name, value) in &attr.xattrs {
        out.bytes(name)?.bytes(value)?;
    }
    Ok(())
}

/// Writes the four sums.
pub(crate) fn write_sums(
    sums: &Sums,
    out: &mut Encoder<Vec<u8>>,
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    out.u64(sums.bytes)?
        .u64(sums.inodes)?
        .u64(sums.entries)?
        .u64(sums.subdirs)?;
    Ok(())
}

/// Reads an entry out of `page`, the bytes that `input` reads; `links` are those of its node. What
/// is read is checked in form, not against the limits ([`Entry::check`]).
pub(crate) fn read(
    tree: TreeKind,
    links: &[Link],
    page: &Bytes,
    input: &mut Decoder<'_>,
) -> Result<Entry, Refused> {
    let count = array(input)?;
    let (mut key, names) = match tree {
        TreeKind::Directory => (bytes(page, input)?, 1),
        TreeKind::Table => (Bytes::new(), input.u32()?),
    };
    let ino = Ino(input.u64()?);
    if tree == TreeKind::Table {
        key = super::row_key(ino);
    }
    if count == 2 {
        return Ok(Entry {
            key,
            ino,
            inode: None,
        });
    }
    let number = input.u8()?;
    let attr = read_attr(page, input)?;
    let kind = match number {
        1 => Kind::File {
            content: read_child(links, input)?,
            size: input.u64()?,
            holes: read_holes(input)?,
        },
        2 => Kind::Directory(TreeRef {
            root: read_child(links, input)?,
            sums: read_sums(input)?,
        }),
        3 => {
            read_child(links, input)?;
            Kind::Symlink(bytes(page, input)?)
        }
        4 => Kind::Fifo,
        5 => Kind::Socket,
        6 => Kind::CharDevice(input.u32()?),
        7 => Kind::BlockDevice(input.u32()?),
        _ => return Err(Refused::message("a kind of inode that is not known")),
    };
    if places(&kind) != count {
        return Err(Refused::message(
            "an entry with more or fewer fields than its kind has",
        ));
    }
    Ok(Entry {
        key,
        ino,
        inode: Some(Inode {
            attr,
            kind,
            links: names,
        }),
    })
}

/// Reads what [`write_attr`] wrote.
pub(crate) fn read_attr(page: &Bytes, input: &mut Decoder<'_>) -> Result<Attr, Refused> {
    let mut attr = Attr {
        mode: input.u16()?,
        uid: input.u32()?,
        gid: input.u32()?,
        mtime_ns: input.i64()?,
        ctime_ns: input.i64()?,
        birth_ns: input.i64()?,
        xattrs: BTreeMap::new(),
    };
    let count = input.map()?.ok_or_else(indefinite)?;
    for _ in 0..count {
        attr.xattrs.insert(bytes(page, input)?, bytes(page, input)?);
    }
    Ok(attr)
}

/// Reads the four sums.
pub(crate) fn read_sums(input: &mut Decoder<'_>) -> Result<Sums, Refused> {
    Ok(Sums {
        bytes: input.u64()?,
        inodes: input.u64()?,
        entries: input.u64()?,
        subdirs: input.u64()?,
    })
}

/// Reads a position and gives the link there, or the CID of a damaged child.
pub(crate) fn read_child(links: &[Link], input: &mut Decoder<'_>) -> Result<Child, Refused> {
    if input.datatype()? == Type::Bytes {
        return Ok(Child {
            cid: read_cid(input)?,
            tsize: 0,
            damaged: true,
        });
    }
    let position = usize::try_from(input.u64()?).unwrap_or(usize::MAX);
    let link = links
        .get(position)
        .ok_or_else(|| Refused::message("there is no such link"))?;
    Ok(Child::new(link.cid, link.tsize))
}

/// Reads a CID that stands as bytes.
pub(crate) fn read_cid(input: &mut Decoder<'_>) -> Result<Cid, Refused> {
    cid::from_bytes(input.bytes()?)
        .map_err(|_| Refused::message("a CID of a form that is not stored"))
}

fn read_holes(input: &mut Decoder<'_>) -> Result<Holes, Refused> {
    if input.u64()?.checked_mul(CHUNK_UNIT) != Some(CHUNK_SIZE) {
        return Err(Refused::message("a chunk size that is not known"));
    }
    let count = array(input)?;
    if count > 2 * MAX_RUNS as u64 {
        return Err(Refused::message("too many runs of holes"));
    }
    let mut holes = Holes::none();
    let mut end = 0u64;
    for _ in 0..count / 2 {
        let overflow = || Refused::message("a hole beyond the largest file");
        let start = end.checked_add(input.u64()?).ok_or_else(overflow)?;
        end = start.checked_add(input.u64()?).ok_or_else(overflow)?;
        holes.insert(start..end);
    }
    Ok(holes)
}

/// The length of an array that comes next.
pub(crate) fn array(input: &mut Decoder<'_>) -> Result<u64, Refused> {
    input.array()?.ok_or_else(indefinite)
}

/// A byte string that comes next, shared with `page`, which `input` reads.
pub(crate) fn bytes(page: &Bytes, input: &mut Decoder<'_>) -> Result<Bytes, Refused> {
    let found = input.bytes()?;
    let end = input.position();
    if end > page.len() || found.len() > end {
        return Err(Refused::end_of_input());
    }
    Ok(page.slice(end - found.len()..end))
}

fn indefinite() -> Refused {
    Refused::message("a length that is not said")
}

/// Elements of the array of an entry of this kind.
fn places(kind: &Kind) -> u64 {
    match kind {
        Kind::File { .. } => 14,
        Kind::Directory(_) => 15,
        Kind::Symlink(_) => 12,
        Kind::Fifo | Kind::Socket => 10,
        Kind::CharDevice(_) | Kind::BlockDevice(_) => 11,
    }
}

/// The number of a kind.
fn number(kind: &Kind) -> u8 {
    match kind {
        Kind::File { .. } => 1,
        Kind::Directory(_) => 2,
        Kind::Symlink(_) => 3,
        Kind::Fifo => 4,
        Kind::Socket => 5,
        Kind::CharDevice(_) => 6,
        Kind::BlockDevice(_) => 7,
    }
}
