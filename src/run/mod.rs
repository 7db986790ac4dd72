//! The process that holds a mount.
//!
//! [`daemon`] mounts and serves until a signal or command ends it; `handler` answers requests,
//! `session` is the running mount, and `shutdown` publishes and unmounts. [`demo`] prepares a
//! self-contained state folder.

pub mod daemon;
pub mod demo;
pub mod detach;
mod garbage_collection;
mod handler;
mod session;
mod shutdown;

#[cfg(test)]
pub(crate) mod tests;
