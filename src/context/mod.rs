//! What all tokens of a mount share: the state folder, the cache, the drive, and the threads that flush and commit.
//!
//! [`MountContext`] holds it for the tokens of one contract. Volumes are opened here ([`open_volume`]), made durable by
//! the `flusher`, and their unpaid charges outlive their folder (`unpaid`).

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
