//! What a user sees: the real `pxfs` program, a real mount, real tools.
//!
//! Each test has its own daemon with its own folders (see [`harness`]), so they run side by side.
//! They need `/dev/fuse`, and root or `fusermount3`; where that is missing they fail.
//! One module for each kind of promise; `tests/run mount NAME` runs one.

#![allow(
    clippy::duplicate_mod,
    reason = "anvil and the nodes are kept alive by the same file"
)]

mod acls;
mod additive;
mod announced;
#[path = "../common/anvil.rs"]
mod anvil;
mod attributes;
mod bad_input;
mod blocks;
mod calls;
mod changed;
mod collected;
mod command;
mod conflict;
mod contract;
mod copies;
mod corners;
mod damaged;
mod disk;
mod dumps;
mod faults;
mod full;
mod handles;
mod hanging;
mod harness;
mod kill;
mod limits;
mod line;
mod local;
mod locks;
mod lost;
mod mapped;
mod metadata;
mod mixed;
mod model;
mod month;
mod names;
mod nodes;
mod offline;
mod operated;
mod overdue;
mod ownership;
mod permissions;
mod postgres;
mod quota;
mod renewal;
mod restored;
mod round_trips;
mod samples;
mod scale;
#[path = "../common/secret.rs"]
mod secret;
mod secrets;
mod service;
mod set_id;
mod several;
mod signers;
mod sparse;
mod stop;
mod suites;
mod synchronous;
mod tokens;
mod tools;
mod trash;
mod trees;
mod uncharged;
mod upcalls;
mod user;
mod watch;
