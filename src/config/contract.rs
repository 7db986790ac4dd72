//! Contracts and chains in flags, variables and files.
//!
//! Invariant: parsing never panics, and an error says what would be right.

use std::fmt;
use std::str::FromStr;

use alloy::primitives::Address;
use serde::{Deserialize, Serialize};

use super::values::RpcUrl;
use crate::types::is_contract_name;

/// A token contract: `[NAME=]ADDRESS[@CHAIN]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContractAt {
    /// The prefix of its tokens' directories, if there are several contracts.
    pub name: Option<String>,
    /// Where it is.
    pub address: Address,
    /// EIP-155 id of its chain; `None` for the first endpoint's.
    pub chain: Option<u64>,
}

impl FromStr for ContractAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = match text.split_once('=') {
            Some((name, rest)) => (Some(name), rest),
            None => (None, text),
        };
        if let Some(name) = name.filter(|name| !is_contract_name(name)) {
            return Err(format!(
                "`{name}` cannot name a contract: take a letter, and then letters, digits, - and _, 32 at most"
            ));
        }
        let (address, chain) = match rest.split_once('@') {
            Some((address, chain)) => (address, Some(chain)),
            None => (rest, None),
        };
        let parsed = address.parse().ok().filter(|_| address.starts_with("0x"));
        let address =
            parsed.ok_or_else(|| format!("contract `{text}`: give 0x and 40 hex digits"))?;
        let chain = match chain.map(str::parse) {
            None => None,
            Some(Ok(chain)) => Some(chain),
            Some(Err(_)) => {
                return Err(format!(
                    "contract `{text}`: behind @ stands the number of a chain"
                ));
            }
        };
        Ok(Self {
            name: name.map(str::to_owned),
            address,
            chain,
        })
    }
}

impl fmt::Display for ContractAt {
    /// Without its name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.chain {
            None => write!(f, "{}", self.address),
            Some(chain) => write!(f, "{}@{chain}", self.address),
        }
    }
}

/// A chain endpoint and its chain: `[CHAIN=]URL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainUrl {
    /// EIP-155 id, if given.
    pub chain: Option<u64>,
    /// The endpoint.
    pub url: RpcUrl,
}

impl From<RpcUrl> for ChainUrl {
    fn from(url: RpcUrl) -> Self {
        Self { chain: None, url }
    }
}

impl FromStr for ChainUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbered = text.split_once('=').and_then(|(chain, url)| {
            let digits = !chain.is_empty() && chain.bytes().all(|b| b.is_ascii_digit());
            digits.then_some((chain, url))
        });
        match numbered {
            None => text.parse().map(|url: RpcUrl| url.into()),
            Some((chain, url)) => Ok(Self {
                chain: Some(chain.parse().map_err(|_| "a chain's number is too large")?),
                url: url.parse()?,
            }),
        }
    }
}

impl fmt::Display for ChainUrl {
    /// The URL without its keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "0x5FbDB2315678afecb367f032d93F642f64180aa3";

    #[test]
    fn a_contract_is_an_address_with_optional_name_and_chain() {
        let read = |text: String| text.parse::<ContractAt>();
        let plain = read(PLAIN.to_owned()).unwrap();
        assert_eq!((&plain.name, plain.chain), (&None, None));
        let all = read(format!("my-px_2={PLAIN}@100")).unwrap();
        assert_eq!(all.name.as_deref(), Some("my-px_2"));
        assert_eq!((all.address, all.chain), (plain.address, Some(100)));
        assert_eq!(read(format!("{PLAIN}@137")).unwrap().chain, Some(137));
        for wrong in [
            "0x12".to_owned(),
            PLAIN[2..].to_owned(),
            format!("={PLAIN}"),
            format!("7={PLAIN}"),
            format!("a.b={PLAIN}"),
            format!("a/b={PLAIN}"),
            format!("{PLAIN}@"),
            format!("{PLAIN}@gnosis"),
            format!("{}={PLAIN}", "a".repeat(33)),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_endpoint_may_say_which_chain_it_is_of() {
        let read = |text: &str| text.parse::<ChainUrl>();
        let plain = read("https://rpc.example/?chain=5").unwrap();
        assert_eq!(plain.chain, None);
        let numbered = read("100=https://rpc.example/KEY").unwrap();
        assert_eq!(numbered.chain, Some(100));
        assert_eq!(numbered.to_string(), "https://rpc.example");
        assert_eq!(read("31337=embedded:/c").unwrap().chain, Some(31337));
        assert!(read("gnosis=https://rpc.example").is_err());
        assert!(read("99999999999999999999=https://rpc.example").is_err());
    }
}
