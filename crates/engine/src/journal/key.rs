//! Keys of the journal's one table, ordered so that what is read together lies together.
//!
//! | tag | key behind the tag | value |
//! |---|---|---|
//! | 1 | inode u64be | [`super::record::Inode`] |
//! | 2 | inode u64be | [`super::record::Content`] |
//! | 3 | inode u64be, chunk u64be | [`super::record::Chunk`] |
//! | 4 | directory u64be, name | [`super::record::Entry`] |
//! | 5 | directory u64be, cookie u64be | [`super::record::Cookie`] |
//! | 6 | inode u64be, directory u64be, name | nothing: a link of the inode |
//! | 7 | inode u64be | [`super::record::Directory`] |
//! | 8 | directory u64be, name | version u64be: the entry differs from the published one |
//! | 9 | inode u64be | version u64be: the inode differs from the published one |
//! | 10 | inode u64be | nothing: unlinked while open |
//! | 11 | ASCII name | a value of the volume ([`super::record`]) |
//! | 12 | inode u64be | [`super::record::Lost`] |
//! | 13 | stage file u64be, number u64be | [`super::record::Patch`] |
//! | 14 | number u64be | unix seconds u64be ‖ 16 bytes a block that the node has acknowledged |
//! | 15 | sequence u64be, number u64be | 16 bytes a block that the commit has built |

use super::record::{Chunk, Content, Cookie, Directory, Entry, Inode, Lost, Patch, Record};
use crate::types::Ino;

/// An encoded key: tag byte, then fixed-width big-endian numbers, then a name to the end.
pub(crate) type Key = Vec<u8>;

const INODE: u8 = 1;
const CONTENT: u8 = 2;
const CHUNK: u8 = 3;
const ENTRY: u8 = 4;
const COOKIE: u8 = 5;
const LINK: u8 = 6;
const DIRECTORY: u8 = 7;
const DIRTY_ENTRY: u8 = 8;
const DIRTY_INODE: u8 = 9;
const ORPHAN: u8 = 10;
const META: u8 = 11;
const LOST: u8 = 12;
const PATCH: u8 = 13;
const RECEIPT: u8 = 14;
const BUILT: u8 = 15;

fn with_number(tag: u8, number: u64, room: usize) -> Key {
    let mut key = Vec::with_capacity(9 + room);
    key.push(tag);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn with_name(tag: u8, number: u64, name: &[u8]) -> Key {
    let mut key = with_number(tag, number, name.len());
    key.extend_from_slice(name);
    key
}

fn with_two(tag: u8, first: u64, second: u64) -> Key {
    with_name(tag, first, &second.to_be_bytes())
}

/// The inode's attributes.
pub(crate) fn inode(ino: Ino) -> Key {
    with_number(INODE, ino.0, 0)
}

/// Prefix of all inodes.
pub(crate) fn inodes() -> Key {
    vec![INODE]
}

/// A regular file's content.
pub(crate) fn content(ino: Ino) -> Key {
    with_number(CONTENT, ino.0, 0)
}

/// One staged chunk of a file.
pub(crate) fn chunk(ino: Ino, index: u64) -> Key {
    with_two(CHUNK, ino.0, index)
}

/// Prefix of all staged chunks of a file.
pub(crate) fn chunks(ino: Ino) -> Key {
    with_number(CHUNK, ino.0, 0)
}

/// A directory's entry by name.
pub(crate) fn entry(dir: Ino, name: &[u8]) -> Key {
    with_name(ENTRY, dir.0, name)
}

/// Prefix of all entries of a directory by name.
pub(crate) fn entries(dir: Ino) -> Key {
    with_number(ENTRY, dir.0, 0)
}

/// A directory's entry by serial number.
pub(crate) fn cookie(dir: Ino, cookie: u64) -> Key {
    with_two(COOKIE, dir.0, cookie)
}

/// Prefix of all entries of a directory by serial number.
pub(crate) fn cookies(dir: Ino) -> Key {
    with_number(COOKIE, dir.0, 0)
}

/// One link of an inode.
pub(crate) fn link(ino: Ino, dir: Ino, name: &[u8]) -> Key {
    let mut key = with_two(LINK, ino.0, dir.0);
    key.extend_from_slice(name);
    key
}

/// Prefix of all links of an inode.
pub(crate) fn links(ino: Ino) -> Key {
    with_number(LINK, ino.0, 0)
}

/// Directory and name of a link key; `None` for any other key.
pub(crate) fn parse_link(key: &[u8]) -> Option<(Ino, &[u8])> {
    match key.first() {
        Some(&LINK) => Some((Ino(number(key, 9)?), key.get(17..)?)),
        _ => None,
    }
}

/// A directory's state.
pub(crate) fn directory(ino: Ino) -> Key {
    with_number(DIRECTORY, ino.0, 0)
}

/// The inode of a directory's state; `None` for any other key.
pub(crate) fn parse_directory(key: &[u8]) -> Option<Ino> {
    match key.first() {
        Some(&DIRECTORY) => Some(Ino(number(key, 1)?)),
        _ => None,
    }
}

/// Mark of an entry that differs from the published one.
pub(crate) fn dirty_entry(dir: Ino, name: &[u8]) -> Key {
    with_name(DIRTY_ENTRY, dir.0, name)
}

/// Prefix of all marks of entries.
pub(crate) fn dirty_entries() -> Key {
    vec![DIRTY_ENTRY]
}

/// Prefix of all marks of entries of a directory.
pub(crate) fn dirty_entries_in(dir: Ino) -> Key {
    with_number(DIRTY_ENTRY, dir.0, 0)
}

/// Directory and name of a mark of an entry; `None` for any other key.
pub(crate) fn parse_dirty_entry(key: &[u8]) -> Option<(Ino, &[u8])> {
    match key.first() {
        Some(&DIRTY_ENTRY) => Some((Ino(number(key, 1)?), key.get(9..)?)),
        _ => None,
    }
}

/// Mark of an inode that differs from the published one.
pub(crate) fn dirty_inode(ino: Ino) -> Key {
    with_number(DIRTY_INODE, ino.0, 0)
}

/// Prefix of all marks of inodes.
pub(crate) fn dirty_inodes() -> Key {
    vec![DIRTY_INODE]
}

/// Mark of an inode that was unlinked while open.
pub(crate) fn orphan(ino: Ino) -> Key {
    with_number(ORPHAN, ino.0, 0)
}

/// Prefix of all orphans.
pub(crate) fn orphans() -> Key {
    vec![ORPHAN]
}

/// What is known to be lost of a file or directory.
pub(crate) fn lost(ino: Ino) -> Key {
    with_number(LOST, ino.0, 0)
}

/// Prefix of everything that is known to be lost.
pub(crate) fn all_lost() -> Key {
    vec![LOST]
}

/// A patch of a stage file.
pub(crate) fn patch(stage: u64, number: u64) -> Key {
    with_two(PATCH, stage, number)
}

/// Prefix of all patches.
pub(crate) fn patches() -> Key {
    vec![PATCH]
}

/// Stage file and number of a patch; `None` for any other key.
pub(crate) fn parse_patch(key: &[u8]) -> Option<(u64, u64)> {
    match key.first() {
        Some(&PATCH) => Some((number(key, 1)?, number(key, 9)?)),
        _ => None,
    }
}

/// A note of what the node has acknowledged.
pub(crate) fn receipt(number: u64) -> Key {
    with_number(RECEIPT, number, 0)
}

/// Prefix of all of them.
pub(crate) fn receipts() -> Key {
    vec![RECEIPT]
}

/// The number of one; `None` for any other key.
pub(crate) fn parse_receipt(key: &[u8]) -> Option<u64> {
    match key.first() {
        Some(&RECEIPT) => number(key, 1),
        _ => None,
    }
}

/// A note of what a commit has built.
pub(crate) fn built(sequence: u64, note: u64) -> Key {
    with_two(BUILT, sequence, note)
}

/// Prefix of all of them.
pub(crate) fn all_built() -> Key {
    vec![BUILT]
}

/// Sequence and number of one; `None` for any other key.
pub(crate) fn parse_built(key: &[u8]) -> Option<(u64, u64)> {
    match key.first() {
        Some(&BUILT) => Some((number(key, 1)?, number(key, 9)?)),
        _ => None,
    }
}

/// Prefixes of everything but the values of the volume, and what of it the node has.
pub(crate) fn tree() -> impl Iterator<Item = Key> {
    (INODE..=ORPHAN).chain([LOST, PATCH]).map(|tag| vec![tag])
}

/// The inode of a key whose only number it is (orphans, marks of inodes, losses).
pub(crate) fn parse_ino(key: &[u8]) -> Option<Ino> {
    number(key, 1).map(Ino)
}

/// The second number of a key: a chunk's index, an entry's cookie.
pub(crate) fn parse_second(key: &[u8]) -> Option<u64> {
    number(key, 9)
}

/// A value of the volume.
pub(crate) fn meta(name: &str) -> Key {
    let mut key = vec![META];
    key.extend_from_slice(name.as_bytes());
    key
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// A file or directory.
    Inode(Ino),
    /// A stage file.
    Stage(u64),
    /// The volume, or what the node has of it.
    Volume,
}

/// What the record of a key is about; `None` where it is no key.
pub(super) fn subject(key: &[u8]) -> Option<Subject> {
    let tag = *key.first()?;
    let has_name = matches!(tag, ENTRY | DIRTY_ENTRY | LINK);
    let len = match tag {
        INODE | CONTENT | DIRECTORY | DIRTY_INODE | ORPHAN | LOST | RECEIPT | ENTRY
        | DIRTY_ENTRY => 9,
        CHUNK | COOKIE | PATCH | BUILT | LINK => 17,
        META => return Some(Subject::Volume),
        _ => return None,
    };
    let is_whole = if has_name {
        key.len() > len
    } else {
        key.len() == len
    };
    let first = number(key, 1).filter(|_| is_whole)?;
    Some(match tag {
        RECEIPT | BUILT => Subject::Volume,
        PATCH => Subject::Stage(first),
        _ => Subject::Inode(Ino(first)),
    })
}

/// Whether `value` is what a record of a file, a directory or a stage file holds.
pub(super) fn may_hold(key: &[u8], value: &[u8]) -> bool {
    match key.first() {
        Some(&INODE) => Inode::from_bytes(value).is_ok(),
        Some(&CONTENT) => Content::from_bytes(value).is_ok(),
        Some(&CHUNK) => Chunk::from_bytes(value).is_ok(),
        Some(&ENTRY) => Entry::from_bytes(value).is_ok(),
        Some(&COOKIE) => Cookie::from_bytes(value).is_ok(),
        Some(&DIRECTORY) => Directory::from_bytes(value).is_ok(),
        Some(&LOST) => Lost::from_bytes(value).is_ok(),
        Some(&PATCH) => Patch::from_bytes(value).is_ok(),
        Some(&(LINK | ORPHAN)) => value.is_empty(),
        Some(&(DIRTY_ENTRY | DIRTY_INODE)) => value.len() == 8,
        _ => false,
    }
}

/// The first key behind all keys that begin with `prefix`; `None` when there is none.
pub(crate) fn end_of(prefix: &[u8]) -> Option<Key> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

fn number(key: &[u8], at: usize) -> Option<u64> {
    key.get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_be_bytes)
}
