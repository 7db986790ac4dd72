//! Where all concrete parts are built and put together; nobody else does that.
//!
//! [`parts`] builds chain, wallet and node from the configuration; [`operate`] is what commands do
//! with them (mint, register, sync); [`daemon`] mounts and serves until it is told to end, with
//! [`tokens`] keeping the drive in step with the chain. [`demo`] prepares a state folder that has
//! all of it inside.

mod collection;
mod counted;
pub mod daemon;
pub mod demo;
mod desk;
mod fault;
mod first;
mod leave;
mod live;
pub mod operate;
pub mod parts;
mod publishing;
mod session;
mod signals;
pub mod state;
mod tokens;

#[cfg(test)]
mod tests;
