//! What costs something on the chain: minting, packages, syncs, and the charges of commits.
//!
//! [`answer_of`] does what a command asks for. Beside the mount, `charges` has each commit charged on contracts that charge
//! commits, `anchors` keeps the newest root on chain, and `auto_sync` syncs tokens before their deadlines.

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
