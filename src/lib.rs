//! pxfs mounts PollinationX storage NFTs as a drive.

pub mod cache;
pub mod chain;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod durable;
pub mod fault;
pub mod fetch;
pub mod fs;
pub mod journal;
pub mod mount;
pub mod names;
pub mod pack;
pub mod publish;
pub mod run;
pub mod status;
pub mod store;
pub mod types;
