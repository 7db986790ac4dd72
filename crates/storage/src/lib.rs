//! Stores for blocks and name records: BTFS and IPFS nodes, gateways, and local folders.
//!
//! [`store`] holds blocks by CID, [`names`] signed name records; both reach nodes by [`rpc`].
//! [`fault`] scripts their fault wrappers.

pub mod fault;
pub mod names;
pub mod rpc;
pub mod store;
