//! Storage nodes as they are: what pxfs relies on, held against real ones.
//!
//! [`kubo`] is an IPFS node that `tests/run setup` builds. A BTFS node cannot be built from what
//! package registries have, so [`btfs`] stands in for one. With `PXFS_TEST_IPFS=URL` or
//! `PXFS_TEST_BTFS=URL` the suites of stores and names run against that node too.

mod btfs;
mod dialect;
mod kubo;
mod names;
mod running;
mod stores;
