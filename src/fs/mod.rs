//! The file system: namespace, handles, content, quota. The foreground half.
//!
//! Synchronous and local: nothing here knows the network. What is not held on this machine is
//! answered with [`FsError::NotLocal`]; the caller has `fetch` bring it and calls again.
//! `mount` calls [`Drive`]; `publish` cuts and settles a [`Volume`].

mod attr;
mod drive;
mod error;

pub use attr::{Attr, Caller, DirItem, Kind, SetAttr, StatFs};
pub use drive::{Drive, Opened};
pub use error::{FsError, Want};
