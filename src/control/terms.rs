//! A command's own chain, contract, account and costs, which the daemon checks.
//!
//! Invariant: it has endpoints only as digests, because URLs hold keys.

use alloy::primitives::{Address, B256, U256, keccak256};
use serde::{Deserialize, Serialize};

use crate::config::{ChainUrl, ContractAt, RpcUrl};

/// A request's conditions; the drive decides the rest.
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
    /// The tokens' owner, if another account pays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Address>,
    /// The paying account; also the owner without `owner`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<Address>,
    /// Whether only its address was given: then nothing is signed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub watches: bool,
    /// The most for one transaction's gas, wei.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_fee: Option<U256>,
    /// The agreed price, wei.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<U256>,
    /// The highest gas cost that was shown with that price, wei, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gas_cost: Option<U256>,
    /// Blocks on top before success is reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmations: Option<u64>,
}

/// A chain endpoint that was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedUrl {
    /// Its chain's id, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<u64>,
    /// Its [`Terms::digest`].
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

    /// An endpoint's digest.
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
