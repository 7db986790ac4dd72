//! pxfs mounts PollinationX storage NFTs as a drive: each token that a wallet owns is a directory,
//! what is written there goes to a storage node, and the chain says how much that may be.
//!
//! Two halves and one seam. The foreground is synchronous and local, the background speaks to the
//! network, and the journal between them is all that they share.
//!
//! **The way of a write.** The kernel calls [`mount`] (convert, nothing else), which calls
//! [`fs::Drive`] and there one [`fs::Volume`]: the quota takes what the write adds, the bytes go
//! into the stage or, while a file is small, stay with it, the records into the overlay of
//! [`journal`]; `fsync` and the next seconds make both durable. [`publish`] notices, cuts one
//! instant of the tree, builds what differs as blocks of [`pack`], puts them into the [`store`],
//! pins the new root, signs the usage metadata and the name record ([`names`]), reads it back, and
//! settles: what was published is clean here. [`chain`] takes the usage at the next sync.
//!
//! **The way of a read.** `fs` lays the stage over the [`cache`]; what neither has is answered
//! "not local", and `mount` has [`fetch`] bring it, verified, within a deadline, and asks again.
//!
//! **Around it.** [`cli`] is the grammar and what a user sees; [`run`] alone builds concrete parts
//! and runs the daemon, which others reach through its socket, [`control`]; [`status`] is what it
//! tells; [`config`], [`types`], [`clock`], [`durable`] (whole files), [`fault`] (faults on
//! demand) and [`text`] (what others have written) serve all.

// What tests of the crate and of the program share says `pxfs` in both.
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
