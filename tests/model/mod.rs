//! Random operations by several handles, held against a small POSIX file system in memory.
//!
//! A sequence is a list of [`Call`]s. Each is made on the [`Reference`], which says what must be
//! answered, and on the [`System`] under test; [`Checked`] compares the answers and, now and then,
//! all that can be seen. `proptest-state-machine` draws the sequences and makes a failing one as
//! short as it can. Hardly a call has a precondition: one that makes no sense has an error number,
//! and that is compared too, so a sequence stays a sequence whatever is taken out of it.
//!
//! The same machine drives `fs::Drive` (`crates/engine/src/fs/tests/model.rs`) and a real mount
//! (`tests/mount/model.rs`): each is one implementation of [`System`].

mod access;
mod attributes;
mod call;
mod check;
mod content;
mod draw;
mod files;
mod machine;
mod node;
mod oracle;
mod pattern;
mod scan;
mod tree;

pub(crate) use call::{
    Access, Allocation, Attr, Call, Event, How, Item, Kind, NAMES, Reply, Special, System, XATTRS,
    XattrMode, symlink_target,
};
pub(crate) use machine::{Failure, replay, run};
pub(crate) use pattern::bytes as pattern;
