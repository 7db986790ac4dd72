//! The token contracts that a configuration names, each on its chain, with the account that acts on its tokens.
//!
//! [`Parts`] is everything that the tokens of one contract stand on. `build` connects to the chains (`connect`) and opens
//! what signs (`signing`); `terms` holds a request to what it was asked for; `token_status` and `name_keys` say what the
//! chain and the wallet know of a token.

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
