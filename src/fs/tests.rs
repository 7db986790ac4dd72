//! The file system against a reference in memory, and its promises one by one.

mod copies;
mod follow;
mod holes;
mod model;
mod promises;
mod rewrites;
mod rig;
