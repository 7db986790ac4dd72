//! FUSE in, [`crate::fs::Drive`] out; no policy.
//!
//! `adapter` receives a call, converts it (`convert`), asks the drive and answers (`reply`,
//! `errno`). `caching` decides what the kernel caches, and `write` and `seek` follow it; `lookups`
//! counts inodes. If data is missing here, the reply moves to `miss`, which fetches and retries
//! within a deadline. Calls that wait for others are `patient`; `permits` bounds the threads that
//! may block. `session` mounts (`handshake`, `device`, `mountpoint`), watches and unmounts.

mod adapter;
mod caching;
mod convert;
mod device;
mod errno;
mod error;
mod handshake;
mod lookups;
mod miss;
mod mountinfo;
mod mountpoint;
mod notify;
mod options;
mod patient;
mod permits;
mod reply;
mod seek;
mod session;
mod timeouts;
mod write;

pub(crate) use device::UNMOUNT_PATIENCE;
pub use device::find_fusermount;
pub use errno::Full;
pub use error::MountError;
pub use miss::Fetcher;
pub use mountinfo::is_mounted;
pub use mountpoint::{check_mountpoint, is_dead, unmount_dead};
pub use notify::Notifier;
pub use options::Options;
pub use permits::THREADS as CALL_THREADS;
pub use session::{Ended, Mounted, start};
