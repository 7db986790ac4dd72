//! The volume format: pure functions between bytes and meaning. No disk, no network, no clock.

pub mod cid;
pub mod usage;
