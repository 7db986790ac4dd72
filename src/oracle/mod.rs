//! Operators of the oracle: in a process of its own (`process`), and in the process of a drive (`in_process`).

mod in_process;
mod process;

pub(crate) use in_process::begin;
pub use in_process::is_wanted;
pub use process::{MAX_PER_TOKEN, Oracle, Plan};
