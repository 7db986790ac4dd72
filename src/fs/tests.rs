//! The file system against a reference in memory, and its promises one by one.

mod access;
mod charged;
mod copies;
mod core;
mod costs;
mod crash;
mod follow;
mod holes;
mod killed;
mod late_comers;
mod locks;
mod meter;
mod model;
mod pages;
mod planted;
mod promises;
#[path = "../../tests/model/mod.rs"]
mod reference;
mod refused;
mod removed;
mod rewrites;
mod rig;
mod room;
mod settled;
mod spool;
