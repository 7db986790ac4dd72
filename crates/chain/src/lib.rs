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
    /// Usage on chain only grows; each commit is charged (`px-v2`).
    Additive,
    /// Only the contract's owner reports usage (deployed `px-v1`): nothing is charged from here,
    /// and what is stored here comes on top.
    ByIssuer,
}

impl Accounting {
    /// Whether the contract stores a name key per token; else the name follows from the token's
    /// number.
    #[must_use]
    pub fn has_names(self) -> bool {
        self == Self::Absolute
    }
}

/// [`TokenInfo::sync_window_s`] of a contract without a lock.
pub const NO_LOCK_S: u64 = u64::MAX;

/// One token on chain, read in one block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Its id.
    pub id: TokenId,
    /// Its owner.
    pub owner: Address,
    /// Package name.
    pub package: String,
    /// Epoch; 0 on contracts without.
    pub epoch: u64,
    /// The token's name key; `None` if not registered. On contracts without names: the one given by
    /// a watching user.
    pub name: Option<String>,
    /// Quota, bytes.
    pub size_bytes: u64,
    /// Usage on chain, bytes.
    pub usage_bytes: u64,
    /// Upload units left; `None` if the contract has none.
    pub uploads_left: Option<u64>,
    /// Accounting rule.
    pub accounting: Accounting,
    /// Last sync (`lastUpdateTimestamp`), Unix seconds.
    pub last_sync_s: u64,
    /// Seconds a token may go without a sync; growth locks when chain time exceeds `last_sync_s +
    /// sync_window_s`. [`NO_LOCK_S`] without a lock; 0 if the contract says that nothing can be
    /// uploaded now.
    pub sync_window_s: u64,
    /// Sequence of the newest document that the chain took in this epoch.
    pub sequence: Option<u64>,
    /// Digest of that document's root, if any.
    pub root: Option<B256>,
    /// The owner's anchor, on contracts that store texts.
    pub anchor: Option<Anchor>,
    /// When the open sync request was made, Unix seconds.
    pub sync_asked_s: Option<u64>,
}

impl TokenInfo {
    /// Sequence and root digest of what the chain knows to be published under `name`.
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

/// A wallet's tokens in one block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Block number.
    pub block: u64,
    /// Its timestamp, Unix seconds.
    pub timestamp_s: u64,
    /// Owned tokens, by ascending id.
    pub tokens: Vec<TokenInfo>,
}

/// A chain failure, by what the caller can do about it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChainError {
    /// No such token, or not ours.
    #[error("{0}")]
    Missing(String),
    /// The endpoint does not answer: retry.
    #[error("chain: {0}")]
    Transient(String),
    /// The endpoint or contract is not the requested one.
    #[error("chain: {0}")]
    Permanent(String),
    /// The endpoint does not answer as a chain does: HTTP 401, 403, 404, or garbage.
    #[error("chain: {0}")]
    Unserved(String),
    /// A transaction failed or was reverted.
    #[error("transaction: {0}")]
    Reverted(String),
    /// A sent or planned transaction cannot be stored or read.
    #[error("outbox: {0}")]
    Outbox(String),
    /// The oracle answered with an error, or too late.
    #[error("oracle: {0}")]
    Oracle(String),
    /// The wallet file is missing, readable by others, or no wallet.
    #[error("wallet {0}")]
    Wallet(String),
    /// The wallet's password is wrong or missing.
    #[error("wallet {0}")]
    WrongPassword(String),
    /// The signer refused, timed out, or signed something else: nothing is sent.
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
    /// Whether the server just does not serve now, rather than being of another chain or contract.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Transient(_) | Self::Unserved(_))
    }
}
