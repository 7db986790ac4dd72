//! The process that holds a mount: it builds the parts, mounts, answers its socket, and ends in order.
//!
//! [`daemon`] mounts and serves until a signal or a command ends it; `handler` answers requests, `session` is what runs, and
//! `shutdown` publishes and unmounts. [`demo`] prepares a state folder that has chain, node and wallet inside.

pub mod daemon;
pub mod demo;
pub mod detach;
mod garbage_collection;
mod handler;
mod session;
mod shutdown;

#[cfg(test)]
pub(crate) mod tests;
