//! What a command was told itself of chain, contract, account and money, for a daemon to hold it to.
//!
//! Invariant: no endpoint stands in it, only its digest: keys stand in URLs. Made by `cli`, checked by
//! `run`.

use alloy::primitives::{Address, B256, U256, keccak256};
use serde::{Deserialize, Serialize};

use crate::config::{ChainUrl, ContractAt, RpcUrl};

/// What a request was asked for. What it does not name is the drive's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// The chain endpoints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rpc: Vec<AskedUrl>,
    /// The chain's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_id: Option<u64>,
    /// The token contracts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contracts: Vec<ContractAt>,
    /// Whose tokens these are, where another account pays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Address>,
    /// The account that pays, and whose tokens these are unless `owner` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<Address>,
    /// Whether it was named by its address, without its wallet: then nothing is signed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub watches: bool,
    /// The most that the gas of one transaction may cost, in wei.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_fee: Option<U256>,
    /// The price that was agreed to, in wei.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<U256>,
    /// What was shown, with that price, as the most that its gas would cost, in wei; nothing where that was not
    /// to be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gas_cost: Option<U256>,
    /// Blocks on top of what is done before it counts as done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmations: Option<u64>,
}

/// A chain endpoint that was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedUrl {
    /// Id of the chain that it was said to be of, where that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<u64>,
    /// What stands for it ([`Terms::digest`]).
    pub digest: B256,
}

impl From<&ChainUrl> for AskedUrl {
    fn from(named: &ChainUrl) -> Self {
        Self {
            chain: named.chain,
            digest: Terms::digest(&named.url),
        }
    }
}

impl Terms {
    /// Whether nothing was named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What stands for an endpoint.
    #[must_use]
    pub fn digest(url: &RpcUrl) -> B256 {
        match url {
            RpcUrl::Http(url) => keccak256(url.trim_end_matches('/')),
            RpcUrl::Embedded(folder) => {
                let folder = folder.canonicalize().unwrap_or_else(|_| folder.clone());
                keccak256(format!("embedded:{}", folder.display()))
            }
        }
    }
}
