//! Every rule of the contracts, held against the compiled artifacts that are committed.
//!
//! Each test takes a [`World`](world::World): a contract of its own, freshly deployed by the provider that
//! [`harness`] hands out. Nothing here knows which chain that is: all of it runs on the embedded one,
//! and again on anvil ([`everywhere`]).

mod additive;
mod additive_world;
#[path = "../common/anvil.rs"]
mod anvil;
mod epochs;
mod everywhere;
mod forwarder;
mod gas;
mod harness;
mod keys;
mod packages;
mod reads;
mod reentrancy;
mod report;
mod roles;
mod sync;
mod workflow;
mod world;
