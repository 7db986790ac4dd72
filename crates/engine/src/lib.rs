//! A volume on this machine: its names and contents, what is not published yet, and what was fetched. Synchronous and
//! local: no runtime, no network, no chain.
//!
//! [`fs`] is the file system, [`journal`] its durable local state, [`cache`] what can be fetched again.

// What tests of this crate and of the program share says `pxfs` in both.
#[cfg(test)]
extern crate self as pxfs;

pub(crate) use pxfs_base::{clock, durable, text, types};
pub(crate) use pxfs_format as pack;

pub mod cache;
pub mod fs;
pub mod journal;
