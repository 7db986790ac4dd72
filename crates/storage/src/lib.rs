//! Where blocks and name records lie: at BTFS and IPFS nodes, behind gateways, and in a folder of this machine.
//!
//! [`store`] holds blocks by CID, [`names`] the signed records of names; both reach nodes by [`rpc`]. [`fault`] is the
//! script that their fault wrappers play.

pub mod fault;
pub mod names;
pub mod rpc;
pub mod store;
