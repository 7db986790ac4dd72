//! Where all concrete parts are built and put together; nobody else does that.
//!
//! [`crate::contracts`] builds contracts on their chains, wallet and node from the configuration; [`operate`] is what commands do
//! with them (mint, register, sync); [`daemon`] mounts and serves until it is told to end, with
//! [`tokens`] keeping the drive in step with one contract, [`holdings`] with all of them, and [`leftovers`] what earlier epochs left.
//! [`oracle`] is an operator of the oracle in a process of its own, [`operator`] one in the process of a drive. [`demo`] prepares a state folder that has all of it inside.

mod anchors;
pub mod blocks;
mod buy;
mod charges;
mod collection;
mod commits;
mod copy;
pub mod daemon;
pub mod demo;
mod desk;
pub mod detach;
mod detached;
mod ground;
mod holdings;
mod keeper;
mod leave;
mod leftovers;
mod live;
mod older;
mod openings;
pub mod operate;
pub mod operator;
pub mod oracle;
mod owed;
mod publishing;
mod renewal;
mod salvage;
mod save;
mod session;
mod signals;
pub mod state;
mod sync;
mod tokens;

#[cfg(test)]
mod tests;
