//! Storage nodes as they are: what pxfs relies on, held against real ones.
//!
//! [`kubo`] is an IPFS node that `tests/run setup` builds.

mod kubo;
mod running;
