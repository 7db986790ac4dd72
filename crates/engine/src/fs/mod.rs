//! The file system: namespace, handles, content, quota. The foreground half.
//!
//! Synchronous and local: nothing here knows the network. What is not held on this machine is
//! answered with [`FsError::NotLocal`]; the caller has `fetch` bring it and calls again.
//! `mount` calls [`Drive`]; `publish` cuts and settles a [`Volume`].

mod access;
mod account;
mod acl;
mod adoptions;
mod ahead;
mod allocate;
mod attr;
mod attributes;
mod behind;
mod body;
mod charges;
mod climb;
mod content;
mod copy;
mod create;
mod cut;
mod damage;
mod drive;
mod durable;
mod emptied;
mod errno;
mod error;
mod files;
mod follow;
mod gaps;
mod io;
mod late;
mod limits;
mod load;
mod locks;
mod lookup;
mod news;
mod notes;
mod owing;
mod pages;
mod places;
mod preallocation;
mod purge;
mod quota;
mod ranges;
mod recover;
mod remove;
mod removed;
mod rename;
mod report;
mod reservation;
mod salvage;
mod save;
mod settle;
mod takeover;
mod unsaved;
mod vacancy;
mod volume;

#[cfg(test)]
pub(crate) mod tests;

pub use ahead::{ChunkVersion, WholeChunk};
pub use attr::{Attr, Caller, DirItem, Kind, SetAttr, StatFs};
pub use behind::{Behind, Place, What};
pub use cut::{Built, Changes, Contents, Cut, CutFile};
pub use damage::Loss;
pub use drive::{Drive, Opened, Unused};
pub use error::{FsError, LostBlock, Want};
pub use follow::Followed;
pub use io::Terms;
pub use limits::Limits;
pub use load::LoadedEntry;
pub use news::News;
pub use notes::{Notes, UNHELD, Values};
pub use quota::{Access, Allowance, ChainTime, Quota};

pub use report::{Labels, Pending};
pub use volume::{Activity, Volume, VolumeOptions};
