//! FUSE in, [`crate::fs::Drive`] out; no policy.
//!
//! A call comes in at `adapter`, which converts it (`convert`), asks the drive, and answers (`reply`;
//! `errno` is the one table of error numbers); `caching` says what the kernel keeps of a file, and `write` and `seek` act on it; `lookups` counts which inodes
//! it holds. What is not held on this machine moves with its reply into `miss`, which fetches and asks again within a
//! deadline; calls that wait for others are `patient`; what has to wait runs on threads that `permits` counts. `session` mounts (`handshake` is what it
//! agrees with the kernel), watches and unmounts, by way of `mountpoint` (what is mounted where) and `device` (how to mount).

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
