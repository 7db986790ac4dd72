//! The wallet's tokens as directories: each is mounted while the wallet owns it; after a loss its
//! unpublished data stays readable as an orphaned volume.
//!
//! [`Tokens`] are those of one contract, [`MountedContracts`] those of all. Each pass (`passes`)
//! compares the drive with the chain: a [`MountedToken`] has a volume and its publisher, an unused
//! token is opened on demand (`unused`), and a lost one is closed (`lost`).

mod chain_view;
mod charge_calls;
mod check_pace;
mod contract_tokens;
mod copy;
mod kernel_notify;
mod lost;
mod mounted;
mod mounted_contracts;
mod orphan;
mod orphans;
mod passes;
mod pending;
mod pending_opens;
mod publishing;
mod right;
mod rights;
mod salvage;
mod save;
mod shown_volumes;
mod slot;
mod sync_failure;
mod unshown;
mod unused;

pub(crate) use contract_tokens::Tokens;
pub(crate) use mounted::MountedToken;
pub(crate) use mounted_contracts::MountedContracts;
pub(crate) use orphans::OrphanedVolumes;
pub(crate) use publishing::{STUCK, unpublished_since};
