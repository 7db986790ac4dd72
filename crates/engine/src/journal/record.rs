//! The records that the journal's table holds, and their bytes.
//!
//! Every value is one version byte (1) and a CBOR array of the fields in the order given here
//! (an absent option is `null`). A record of another version is refused, never guessed at.

use bytes::Bytes;
use cid::Cid;
use minicbor::{CborLen, Decode, Encode};

use super::JournalError;
use crate::pack::Child;
use crate::pack::entry::{Sums, TreeRef};

/// Version byte of every record.
const VERSION: u8 = 1;

/// A record of the journal.
pub trait Record: Sized {
    /// The bytes that go into the table.
    fn to_bytes(&self) -> Bytes;
    /// The record of `bytes`; [`JournalError::Corrupt`] when it is not one.
    fn from_bytes(bytes: &[u8]) -> Result<Self, JournalError>;
}

impl<T> Record for T
where
    T: Encode<()> + CborLen<()> + for<'b> Decode<'b, ()>,
{
    fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(1 + minicbor::len(self));
        bytes.push(VERSION);
        let written = minicbor::encode(self, &mut bytes);
        debug_assert!(written.is_ok(), "a vector takes every byte");
        Bytes::from(bytes)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, JournalError> {
        match bytes.split_first() {
            Some((&VERSION, body)) => {
                minicbor::decode(body).map_err(|e| JournalError::Corrupt(e.to_string()))
            }
            Some((other, _)) => Err(JournalError::Corrupt(format!("record version {other}"))),
            None => Err(JournalError::Corrupt("empty record".to_owned())),
        }
    }
}

/// A CID as its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CidBytes(pub Cid);

impl<C> Encode<C> for CidBytes {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.0.to_bytes())?.ok()
    }
}

impl<C> CborLen<C> for CidBytes {
    fn cbor_len(&self, ctx: &mut C) -> usize {
        minicbor::bytes::ByteVec::from(self.0.to_bytes()).cbor_len(ctx)
    }
}

impl<'b, C> Decode<'b, C> for CidBytes {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Cid::try_from(d.bytes()?)
            .map(Self)
            .map_err(|_| minicbor::decode::Error::message("not a CID"))
    }
}

/// An inode's attributes. Length, times and content of a regular file are in [`Content`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(crate) struct Inode {
    /// `fs::Kind` as its number.
    #[n(0)]
    pub kind: u8,
    /// Permission, set-id and sticky bits.
    #[n(1)]
    pub mode: u16,
    /// Owner.
    #[n(2)]
    pub uid: u32,
    /// Group.
    #[n(3)]
    pub gid: u32,
    /// Links; for a directory 2 and one for each subdirectory.
    #[n(4)]
    pub nlink: u32,
    /// Device number.
    #[n(5)]
    pub rdev: u32,
    /// Modification time, ns (regular files: [`Content::mtime_ns`]).
    #[n(6)]
    pub mtime_ns: i64,
    /// Change time, ns.
    #[n(7)]
    pub ctime_ns: i64,
    /// Creation time, ns.
    #[n(8)]
    pub birth_ns: i64,
    /// Whether it ever had a second link: its published attributes stand in the inode table.
    #[n(9)]
    pub hard: bool,
    /// Target of a symlink; empty otherwise.
    #[n(10)]
    #[cbor(with = "minicbor::bytes")]
    pub target: Vec<u8>,
    /// Extended attributes, sorted by name.
    #[n(11)]
    pub xattrs: Vec<Xattr>,
    /// Access time, ns, as `relatime` has it; kept here alone.
    #[n(12)]
    pub atime_ns: i64,
}

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(crate) struct Xattr {
    /// Name with its namespace.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub name: Vec<u8>,
    /// Value.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub value: Vec<u8>,
}

/// The published content that a file's staged chunks lie over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(crate) struct Base {
    /// CID of the whole published content.
    #[n(0)]
    pub cid: CidBytes,
    /// Its whole length.
    #[n(1)]
    pub size: u64,
    /// How many of its bytes still count: what lies behind was truncated away.
    #[n(2)]
    pub valid: u64,
    /// Cumulative size of its blocks, a hint (dag-pb `Tsize`).
    #[n(3)]
    pub tsize: u64,
    /// Its blocks are lost.
    #[n(4)]
    pub damaged: bool,
}

/// A regular file's content: inline, or staged chunks over a published base.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(crate) struct Content {
    /// Length in bytes.
    #[n(0)]
    pub size: u64,
    /// Modification time, ns.
    #[n(1)]
    pub mtime_ns: i64,
    /// Version of the newest change of bytes or length.
    #[n(2)]
    pub version: u64,
    /// [`Content::version`] that the base holds; equal when nothing is unpublished.
    #[n(3)]
    pub published: u64,
    /// How often the file was cut, or took over what another one has published: a base built before
    /// must not be taken after it.
    #[n(4)]
    pub cuts: u64,
    /// Chunks that are holes, as runs (start, end).
    #[n(5)]
    pub holes: Vec<(u64, u64)>,
    /// Published content below the staged chunks.
    #[n(6)]
    pub base: Option<Base>,
    /// Stage file that holds the staged ranges, at their own offsets.
    #[n(7)]
    pub stage: Option<u64>,
    /// The whole content, when it is small and never had a stage file.
    #[n(8)]
    pub inline: Option<minicbor::bytes::ByteVec>,
    /// Time of the last change of content, ns; the inode's own change time may be later.
    #[n(9)]
    pub ctime_ns: i64,
    /// Whether there are records of its chunks ([`Chunk`]): most files have none, and need not be asked.
    #[n(10)]
    pub staged: bool,
}

/// One chunk whose bytes, or whose length, differ from the base.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(crate) struct Chunk {
    /// Version of its newest change.
    #[n(0)]
    pub version: u64,
    /// Byte ranges (start, end) within the chunk that the stage file holds; sorted, apart.
    #[n(1)]
    pub ranges: Vec<(u32, u32)>,
    /// Whether the rest of it is zeros rather than the base.
    #[n(2)]
    pub fresh: bool,
}

/// Bytes of a stage file that are durable here: the file itself was not synced since they were written.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(crate) struct Patch {
    /// Where in the file they lie.
    #[n(0)]
    pub offset: u64,
    /// The bytes.
    #[n(1)]
    pub bytes: minicbor::bytes::ByteVec,
}

/// A directory's entry by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(crate) struct Entry {
    /// The inode.
    #[n(0)]
    pub ino: u64,
    /// `fs::Kind` as its number.
    #[n(1)]
    pub kind: u8,
    /// The entry's serial number in `readdir`.
    #[n(2)]
    pub cookie: u64,
}

/// A directory's entry by serial number.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(crate) struct Cookie {
    /// The inode.
    #[n(0)]
    pub ino: u64,
    /// `fs::Kind` as its number.
    #[n(1)]
    pub kind: u8,
    /// The entry's name.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub name: Vec<u8>,
}

/// A directory's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(crate) struct Directory {
    /// Whether its entries are in the journal.
    #[n(0)]
    pub loaded: bool,
    /// Root of its last published tree, with the sums of what lies below it.
    #[n(1)]
    pub published: Option<Tree>,
}

/// A published directory tree, or inode table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(crate) struct Tree {
    /// CID of its top node.
    #[n(0)]
    pub cid: CidBytes,
    /// Cumulative size of its blocks, a hint (dag-pb `Tsize`).
    #[n(1)]
    pub tsize: u64,
    /// Nominal bytes below it.
    #[n(2)]
    pub nominal_bytes: u64,
    /// Inodes below it.
    #[n(3)]
    pub inodes: u64,
    /// Names below it, at any depth.
    #[n(4)]
    pub entries: u64,
    /// Direct subdirectories.
    #[n(5)]
    pub subdirs: u64,
    /// Its blocks are lost.
    #[n(6)]
    pub damaged: bool,
}

impl From<TreeRef> for Tree {
    fn from(tree: TreeRef) -> Self {
        Self {
            cid: CidBytes(tree.root.cid),
            tsize: tree.root.tsize,
            nominal_bytes: tree.sums.bytes,
            inodes: tree.sums.inodes,
            entries: tree.sums.entries,
            subdirs: tree.sums.subdirs,
            damaged: tree.root.damaged,
        }
    }
}

impl From<Tree> for TreeRef {
    fn from(tree: Tree) -> Self {
        Self {
            root: Child {
                cid: tree.cid.0,
                tsize: tree.tsize,
                damaged: tree.damaged,
            },
            sums: Sums {
                bytes: tree.nominal_bytes,
                inodes: tree.inodes,
                entries: tree.entries,
                subdirs: tree.subdirs,
            },
        }
    }
}

/// A block that the node has lost, of what one file or directory has published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(crate) struct Lost {
    /// The block.
    #[n(0)]
    pub block: CidBytes,
    /// The published content, or tree, that needs it: it is lost for no other.
    #[n(1)]
    pub of: CidBytes,
    /// Which chunk of the content it is; `None` for a node.
    #[n(2)]
    pub chunk: Option<u64>,
    /// Since when that is known, unix seconds.
    #[n(3)]
    pub since_s: u64,
    /// [`Content::version`] that cannot be published for want of the block; 0: none.
    #[n(4)]
    pub stuck: u64,
    /// Whether the published entry says that it is damaged, while the content is stuck.
    #[n(5)]
    pub told: bool,
}

/// Counters of the volume, written with every batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(crate) struct Counters {
    /// Greatest version given out.
    #[n(0)]
    pub version: u64,
    /// Next inode number.
    #[n(1)]
    pub next_ino: u64,
    /// Next serial number of an entry.
    #[n(2)]
    pub next_cookie: u64,
    /// Next stage file.
    #[n(3)]
    pub next_stage: u64,
    /// Nominal bytes charged for what this batch and those before it hold.
    #[n(4)]
    pub used_bytes: u64,
    /// Inodes of the volume.
    #[n(5)]
    pub inodes: u64,
}
