//! The configured token contracts, each on its chain with its account.
//!
//! [`Parts`] is all that one contract's tokens need. `build` connects to chains (`connect`) and
//! opens signers (`signing`); `terms` checks a request's conditions; `token_status` and `name_keys`
//! say what chain and wallet know of a token.

mod approval;
mod build;
mod chain;
mod connect;
pub mod deploy;
mod embedded;
pub(crate) mod first_document;
mod key_file;
mod last_seen;
mod name_keys;
mod naming;
mod parts;
mod pending;
mod signing;
pub(crate) mod terms;
pub mod token_status;

pub(crate) use approval::{Approvals, require_approval};
pub(crate) use build::only_contract;
pub use chain::{Account, Called, ChainParts, Operator};
pub(crate) use connect::{ConnectedChain, chain_of, connect};
pub use embedded::{Deployed, operator_file, outbox};
pub(crate) use last_seen::{Known, List};
pub(crate) use parts::none_of;
pub use parts::{Parts, close_chains, pick};
pub(crate) use pending::drive_pending;
pub use signing::{Names, open_signer, open_wallet};
