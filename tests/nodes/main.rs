//! Storage nodes as they are: what pxfs relies on, held against real ones.
//!
//! [`kubo`] is an IPFS node that `tests/run setup` builds. A BTFS node cannot be built from what
//! package registries have, so [`btfs`] stands in for one. [`given`] is for nodes of the
//! one who runs this; [`front`] stands before a node and plays faults.

mod beside;
mod btfs;
mod dialect;
mod faults;
#[allow(dead_code, reason = "shared with the suite of mounts")]
mod front;
mod given;
mod kubo;
mod names;
mod running;
mod stores;
mod trees;
