//! The chain: which tokens a wallet owns, what each grants, and the transactions that change it.

use alloy::primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use self::anchor::Anchor;
use pxfs_base::types::TokenId;

pub mod anchor;
pub mod approval;
mod busy;
pub mod charges;
pub mod coin;
mod contract;
pub mod deploy;
pub mod dialect;
pub mod embedded;
pub mod endpoint;
mod http;
mod keystore;
pub mod ledger;
mod many;
#[cfg(test)]
mod meddle;
pub mod oracle;
pub mod outbox;
pub mod signer;
pub mod subscription;
#[cfg(test)]
mod tests;
pub mod transact;
pub mod wallet;

/// How a contract accounts for stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accounting {
    /// Usage on chain is the live usage, from the metadata (`px-sync`): deleting frees space.
    Absolute,
    /// Usage on chain only grows, and each commit is charged (`px-v2`).
    Additive,
    /// Usage on chain is what the contract's owner alone reports (`px-v1` as deployed): nothing is charged from
    /// here, and what is stored from here comes on top of it.
    ByIssuer,
}

impl Accounting {
    /// Whether the contract keeps a name key for each token; else the name follows from the token's number.
    #[must_use]
    pub fn has_names(self) -> bool {
        self == Self::Absolute
    }
}

/// [`TokenInfo::sync_window_s`] of a contract that never locks.
pub const NO_LOCK_S: u64 = u64::MAX;

/// What the chain says of one token, read in one block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// The token.
    pub id: TokenId,
    /// Who owns it.
    pub owner: Address,
    /// Package name.
    pub package: String,
    /// Epoch (0 on contracts that have none).
    pub epoch: u64,
    /// The name key assigned to the token; `None` when it is not registered. On contracts that keep none: what
    /// whoever watches it was told.
    pub name: Option<String>,
    /// Quota in bytes.
    pub size_bytes: u64,
    /// Usage on chain in bytes.
    pub usage_bytes: u64,
    /// Upload units left; `None` where the contract has none.
    pub uploads_left: Option<u64>,
    /// Accounting rule.
    pub accounting: Accounting,
    /// Unix time of the last sync (`lastUpdateTimestamp`), seconds.
    pub last_sync_s: u64,
    /// Seconds a token may go without a sync; growth is locked when chain time is greater than
    /// `last_sync_s + sync_window_s`. [`NO_LOCK_S`] where the contract knows no lock, 0 where it says itself that
    /// nothing can be uploaded now.
    pub sync_window_s: u64,
    /// Sequence of the newest document that the chain has taken in this epoch; `None` before.
    pub sequence: Option<u64>,
    /// Digest of the root of that document; `None` for none.
    pub root: Option<B256>,
    /// What its owner has anchored there, on contracts that keep texts beside a token.
    pub anchor: Option<Anchor>,
    /// Since when a sync request is open, Unix seconds; `None` when none is.
    pub sync_asked_s: Option<u64>,
}

impl TokenInfo {
    /// What the chain knows of what is published under `name`: its sequence, and the digest of its root, if it has one.
    #[must_use]
    pub fn published(&self, name: &str) -> Option<(u64, Option<B256>)> {
        let anchor = self.anchor.as_ref().filter(|anchor| anchor.name == name);
        let anchored = anchor.map(|anchor| (anchor.sequence, Some(anchor.root)));
        match self.accounting {
            Accounting::Absolute => self.sequence.map(|sequence| (sequence, self.root)),
            Accounting::Additive | Accounting::ByIssuer => anchored,
        }
    }
}

/// The tokens of a wallet as one block had them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Block number.
    pub block: u64,
    /// Timestamp of that block, unix seconds.
    pub timestamp_s: u64,
    /// Owned tokens, by ascending id.
    pub tokens: Vec<TokenInfo>,
}

/// What went wrong at the chain, by what the caller can do about it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChainError {
    /// No such token, or not ours.
    #[error("{0}")]
    Missing(String),
    /// Worth another try: the endpoint does not answer.
    #[error("chain: {0}")]
    Transient(String),
    /// The endpoint or the contract is not what was asked for.
    #[error("chain: {0}")]
    Permanent(String),
    /// The endpoint answers, and not as a chain: it lets nobody in (HTTP 401, 403, 404), or says something else.
    #[error("chain: {0}")]
    Unserved(String),
    /// A transaction failed or was reverted.
    #[error("transaction: {0}")]
    Reverted(String),
    /// What was sent, or is to be sent, cannot be written down or read.
    #[error("outbox: {0}")]
    Outbox(String),
    /// The oracle answered with an error, or not in time.
    #[error("oracle: {0}")]
    Oracle(String),
    /// The wallet file cannot be used: missing, readable by others, or not a wallet.
    #[error("wallet {0}")]
    Wallet(String),
    /// The wallet's password is wrong or missing.
    #[error("wallet {0}")]
    WrongPassword(String),
    /// What signs refuses, says nothing in time, or has signed something else: nothing is sent.
    #[error("signer: {0}")]
    Signer(String),
    /// Another process owns the folder of the embedded chain.
    #[error("embedded chain {0}")]
    Busy(String),
    /// The folder of the embedded chain is damaged, or cannot be read or written.
    #[error("embedded chain {0}")]
    Damaged(String),
}

impl ChainError {
    /// Whether it is the server that does not serve now, for whatever reason: no other chain, and no other contract,
    /// than was named.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Transient(_) | Self::Unserved(_))
    }
}
