//! Between a volume and its storage node: [`fetch`] brings what is read and not here, [`publish`] takes there what was
//! written, and names it.

// What tests of this crate and of the program share says `pxfs` in both.
#[cfg(test)]
extern crate self as pxfs;

pub(crate) use pxfs_base::{clock, types};
pub(crate) use pxfs_chain as chain;
pub(crate) use pxfs_engine::{cache, fs, journal};
pub(crate) use pxfs_format as pack;
#[cfg(test)]
pub(crate) use pxfs_storage::fault;
pub(crate) use pxfs_storage::{names, store};

pub mod fetch;
pub mod publish;
