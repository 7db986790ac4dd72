//! pxfs mounts PollinationX storage NFTs as a drive: each token of a wallet is a directory, its
//! content goes to a storage node, and the chain sets its size.
//!
//! Two halves and one seam: the foreground is synchronous and local, the background uses the
//! network, and they share only the journal.
//!
//! **The way of a write.** The kernel calls [`mount`] (conversion only), which calls [`fs::Drive`]
//! and there one [`fs::Volume`]: the quota takes the growth, bytes go to the stage or, in a small
//! file, stay with it, records to the overlay of [`journal`]; `fsync` and the next seconds make
//! both durable. [`publish`] takes a snapshot of the tree, builds what differs as blocks of
//! [`pack`], puts them into the [`store`], pins the new root, signs the usage metadata and the name
//! record ([`names`]), reads it back, and marks the snapshot clean. [`chain`] gets the usage at the
//! next sync.
//!
//! **The way of a read.** `fs` lays the stage over the [`cache`]; for what neither has, `mount` has
//! [`fetch`] get it, verified, within a deadline, and asks again.
//!
//! **Around it.** [`cli`] is the grammar and output; [`run`] is the daemon, which others reach
//! through its socket, [`control`]; [`status`] is its report; [`config`], [`types`], [`clock`],
//! [`durable`] (whole files), [`fault`] (faults on demand) and [`text`] (foreign text) serve all.

// Tests shared by crate and program name it `pxfs` in both.
#[cfg(test)]
extern crate self as pxfs;

pub use pxfs_base::{clock, durable, text, types};
pub use pxfs_chain as chain;
pub use pxfs_engine::{cache, fs, journal};
pub use pxfs_format as pack;
pub use pxfs_storage::{fault, names, rpc, store};
pub use pxfs_transfer::{fetch, publish};

pub mod archive;
pub mod billing;
pub mod cli;
pub mod config;
pub mod context;
pub mod contracts;
pub mod control;
pub mod exit;
pub mod mount;
pub mod node;
pub mod oracle;
pub mod run;
mod signals;
pub mod status;
pub mod tokens;
