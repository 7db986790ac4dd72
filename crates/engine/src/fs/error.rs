//! What can go wrong in the file system, by meaning. `mount/errno.rs` alone turns it into errnos.

use cid::Cid;

use crate::types::Ino;

/// Bytes or entries that a call needs and this machine does not hold. The caller fetches them and
/// calls again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// The entries of a directory that was not loaded yet.
    Directory {
        /// Which volume, by its slot in the drive; 0 when the error comes from the volume itself.
        slot: u16,
        /// The directory.
        dir: Ino,
    },
    /// A range of a file's published content.
    Content {
        /// As in [`Want::Directory`].
        slot: u16,
        /// The file.
        ino: Ino,
        /// CID of the whole content.
        cid: Cid,
        /// Length of the whole content in bytes.
        size: u64,
        /// First byte wanted.
        offset: u64,
        /// Number of bytes wanted.
        len: u64,
    },
    /// The volume of a token that nobody has used yet.
    Volume {
        /// Its slot.
        slot: u16,
    },
}

/// A block that the node has lost, or gives otherwise than it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostBlock {
    /// The block.
    pub cid: Cid,
    /// The chunk of a file that it is; `None` for a node, and where that is not known.
    pub chunk: Option<u64>,
    /// What the node says.
    pub why: String,
}

/// Why a call was refused or failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum FsError {
    /// No such entry or inode.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory is needed here.
    #[error("not a directory")]
    NotDirectory,
    /// Anything but a directory is needed here.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// The name is longer than 255 bytes.
    #[error("name too long")]
    NameTooLong,
    /// An argument makes no sense for this call.
    #[error("invalid argument")]
    Invalid,
    /// The volume root or the mount root cannot be changed like this.
    #[error("operation not permitted")]
    NotPermitted,
    /// Source and target are in different tokens.
    #[error("cross-device link")]
    CrossDevice,
    /// The file would pass its greatest size.
    #[error("file too large")]
    TooLarge,
    /// Too many links to one inode.
    #[error("too many links")]
    TooManyLinks,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The attribute value does not fit the caller's buffer, or its name is too long.
    #[error("attribute too large")]
    AttributeTooLarge,
    /// All extended attributes of one inode would be more than they may be.
    #[error("no room for more attributes of this file")]
    AttributesFull,
    /// The call is not supported.
    #[error("not supported")]
    NotSupported,
    /// `SEEK_DATA` or `SEEK_HOLE` beyond the end.
    #[error("no data beyond this offset")]
    NoData,
    /// The handle is not open, or not open for this.
    #[error("bad handle")]
    BadHandle,
    /// Growth past the quota, or no upload units left.
    #[error("quota exceeded")]
    Quota,
    /// The token's sync on chain is overdue.
    #[error("the token's sync is overdue")]
    Overdue,
    /// The token is read-only, with the reason.
    #[error("read-only: {0}")]
    ReadOnly(String),
    /// No local room for data that is not uploaded yet.
    #[error("no local room")]
    NoRoom,
    /// A local disk failed; what it was doing.
    #[error("local disk: {0}")]
    Disk(String),
    /// What was published is not what it must be.
    #[error("damaged: {0}")]
    Damaged(String),
    /// A block is missing on the node or does not verify.
    #[error("damaged: {}", .0.why)]
    Lost(Box<LostBlock>),
    /// The network's deadline passed.
    #[error("timed out")]
    TimedOut,
    /// The inode is not in the tree that another machine has published since.
    #[error("another machine has published another tree")]
    Stale,
    /// The drive has ended: nothing that is done now is kept.
    #[error("the drive has ended")]
    Ended,
    /// Not held locally: fetch this and call again.
    #[error("not local")]
    NotLocal(Box<Want>),
}
