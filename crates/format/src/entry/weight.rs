//! What entries take in a page, without writing them: pages are cut and joined by it.
//!
//! Invariant: never less than `codec` writes and the link takes; more by at most the bytes that a
//! small position saves, and two for a symlink. Called by `page`.

use super::codec::CHUNK_UNIT;
use super::{Entry, Kind, Sums, TreeKind};
use crate::chunk::CHUNK_SIZE;
use crate::link_name::link_name_len;
use crate::{Child, cid, dagpb};

/// Bytes of the head of a CBOR item with this argument, so of a number.
pub(crate) fn uint_len(value: u64) -> usize {
    match value {
        0..24 => 1,
        24..0x100 => 2,
        0x100..0x1_0000 => 3,
        0x1_0000..0x1_0000_0000 => 5,
        _ => 9,
    }
}

fn int_len(value: i64) -> usize {
    uint_len(if value < 0 { !value } else { value }.unsigned_abs())
}

fn bytes_len(bytes: &[u8]) -> usize {
    uint_len(bytes.len() as u64) + bytes.len()
}

/// Bytes of the four sums.
pub(crate) fn sums_len(sums: &Sums) -> usize {
    let numbers = [sums.bytes, sums.inodes, sums.entries, sums.subdirs];
    numbers.into_iter().map(uint_len).sum()
}

/// Bytes that a child's place takes in a payload: a position counts the 3 bytes of the greatest.
pub(crate) fn child_len(child: &Child) -> usize {
    if child.damaged {
        2 + child.cid.encoded_len()
    } else {
        3
    }
}

/// Bytes that an entry takes in its page, with its link: exact, but for the position of the link.
pub(crate) fn weight(entry: &Entry, tree: TreeKind) -> usize {
    let key = match tree {
        TreeKind::Directory => bytes_len(&entry.key),
        TreeKind::Table => uint_len(entry.inode.as_ref().map_or(0, |i| i.links).into()),
    };
    let head = 1 + key + uint_len(entry.ino.0);
    let Some(inode) = &entry.inode else {
        return head;
    };
    let attr = &inode.attr;
    let xattrs = attr
        .xattrs
        .iter()
        .map(|(name, value)| bytes_len(name) + bytes_len(value));
    let attrs = 1
        + uint_len(attr.mode.into())
        + uint_len(attr.uid.into())
        + uint_len(attr.gid.into())
        + int_len(attr.mtime_ns)
        + int_len(attr.ctime_ns)
        + int_len(attr.birth_ns)
        + uint_len(attr.xattrs.len() as u64)
        + xattrs.sum::<usize>();
    let name_len = match tree {
        TreeKind::Directory => link_name_len(&entry.key) as usize,
        TreeKind::Table => 12,
    };
    let linked = |child: &Child| {
        child_len(child)
            + if child.damaged {
                0
            } else {
                dagpb::link_len(&child.cid, name_len, child.tsize)
            }
    };
    let detail = match &inode.kind {
        Kind::File {
            content,
            size,
            holes,
        } => {
            let mut end = 0;
            let runs = holes.runs().iter().map(|run| {
                let gap = run.start - std::mem::replace(&mut end, run.end);
                uint_len(gap) + uint_len(run.end - run.start)
            });
            let runs: usize = runs.sum();
            let list = uint_len(2 * holes.runs().len() as u64) + runs;
            linked(content) + uint_len(*size) + uint_len(CHUNK_SIZE / CHUNK_UNIT) + list
        }
        Kind::Directory(tree) => linked(&tree.root) + sums_len(&tree.sums),
        Kind::Symlink(target) => {
            // A CIDv0 has one length; the node's size is within 2 bytes of length.
            let node = Child::new(cid::node_of_digest([0; 32]), target.len() as u64 + 16);
            linked(&node) + bytes_len(target)
        }
        Kind::Fifo | Kind::Socket => 0,
        Kind::CharDevice(device) | Kind::BlockDevice(device) => uint_len((*device).into()),
    };
    head + attrs + detail
}
