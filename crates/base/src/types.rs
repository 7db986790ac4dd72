//! The small values that every part speaks of: token ids, inode and handle numbers, volume keys.
//!
//! Invariant: each is a plain value without behaviour beyond parsing and printing.

use std::fmt;
use std::str::FromStr;

use alloy_primitives::{Address, U256};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An ERC-721 token id: an unsigned 256-bit number, written in decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub U256);

impl TokenId {
    /// The id as a `u64`, if it is small enough.
    #[must_use]
    pub fn as_u64(self) -> Option<u64> {
        u64::try_from(self.0).ok()
    }
}

impl From<u64> for TokenId {
    fn from(id: u64) -> Self {
        Self(U256::from(id))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for TokenId {
    type Err = String;

    /// Parses plain decimal digits, nothing else (no sign, no `0x`, no separators).
    fn from_str(text: &str) -> Result<Self, String> {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        plain
            .then(|| U256::from_str_radix(text, 10).ok())
            .flatten()
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a token id: give a decimal number"))
    }
}

impl Serialize for TokenId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What a user calls a token: `7`, or `NAME-7` where several contracts are mounted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenRef {
    /// What its contract is called, where that is said.
    pub contract: Option<String>,
    /// The token.
    pub id: TokenId,
}

impl From<TokenId> for TokenRef {
    fn from(id: TokenId) -> Self {
        Self { contract: None, id }
    }
}

impl fmt::Display for TokenRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.contract {
            None => self.id.fmt(f),
            Some(name) => write!(f, "{name}-{}", self.id),
        }
    }
}

impl FromStr for TokenRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("`{text}` is not a token: give its number, or NAME-NUMBER");
        let (contract, id) = match text.rsplit_once('-') {
            Some((name, id)) if is_contract_name(name) => (Some(name.to_owned()), id),
            Some(_) => return Err(refused()),
            None => (None, text),
        };
        let id = id.parse().map_err(|_| refused())?;
        Ok(Self { contract, id })
    }
}

impl Serialize for TokenRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Whether a contract can be called `name`: a letter, and then letters, digits, `-` and `_`, 32 at most.
/// So it is a directory's name, holds no dot, and is never taken for a number.
#[must_use]
pub fn is_contract_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(plain)
}

/// What names one token for good: chain, contract, token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenKey {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The token contract.
    pub contract: Address,
    /// The token.
    pub token: TokenId,
}

/// What names one volume: a token in one epoch. A transfer or a registration begins a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeKey {
    /// The token.
    pub token: TokenKey,
    /// The token's epoch on chain; 0 on contracts that have none.
    pub epoch: u64,
}

/// An inode number as the volume that owns it numbers it: 1 is its root directory, at most 48 bits,
/// never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory of every volume.
    pub const ROOT: Self = Self(1);
    /// The greatest inode number of a volume.
    pub const MAX: Self = Self((1 << 48) - 1);
}

/// A handle of an open file or directory, unique in one run of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fh(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_told_from_its_contract_by_the_last_dash() {
        let read = |text: &str| text.parse::<TokenRef>();
        for text in ["7", "px-7", "my-px_2-10", "a-b-0"] {
            assert_eq!(read(text).unwrap().to_string(), text);
        }
        let token = read("my-px-7").unwrap();
        assert_eq!(token.contract.as_deref(), Some("my-px"));
        assert_eq!(token.id, TokenId::from(7));
        for text in [
            "",
            "px",
            "px-",
            "-7",
            "1-7",
            "px-x",
            "p.x-7",
            "px-7.detached",
            "p/x-7",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
