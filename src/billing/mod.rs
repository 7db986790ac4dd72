//! Costs on chain: minting, packages, syncs, and charges.
//!
//! [`answer_of`] serves commands. Beside the mount, `charges` charges commits, `anchors` stores the
//! newest root on chain, and `auto_sync` syncs tokens before their deadlines.

mod anchors;
mod answer;
pub(crate) mod auto_sync;
pub(crate) mod charges;
mod commands;
mod dev;
mod gas;
mod legacy;
mod list;
mod mint;
mod refusals;
pub(crate) mod sync;
mod upgrade;

pub(crate) use answer::json;
pub use commands::{answer, answer_of};
pub(crate) use mint::mint;
