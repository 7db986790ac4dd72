//! The small values that every part speaks of: token ids, inode and handle numbers, volume keys.
//!
//! Invariant: each is a plain value without behaviour beyond parsing and printing.

use std::fmt;
use std::str::FromStr;

use alloy::primitives::{Address, U256};
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
