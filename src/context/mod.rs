//! What all tokens of a mount share: state folder, cache, drive, and the threads that flush and
//! commit.
//!
//! [`MountContext`] holds it for one contract's tokens. [`open_volume`] opens volumes, the
//! `flusher` makes them durable, and their unpaid charges outlive their folder (`unpaid`).

mod commit_threads;
mod flusher;
mod mount_context;
mod state_dir;
pub(crate) mod unpaid;
mod volumes;

pub(crate) use flusher::Flusher;
pub(crate) use mount_context::{MountContext, ShownVolumes};
pub use state_dir::StateDir;
pub(crate) use volumes::{JOURNAL_CACHE_MIN_BYTES, open_volume, seen_block, volume_options};
