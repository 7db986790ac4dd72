//! The `--json` shapes of other commands' answers.

use alloy::primitives::{Address, Bytes, U256};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::TokenStatus;
use crate::types::TokenId;

/// A package, of `pxfs packages --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageAnswer {
    /// Number of the package.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Price in wei, decimal.
    pub price_wei: String,
    /// What it grants.
    pub size_bytes: u64,
    /// Upload units; null if the contract has none.
    pub uploads: Option<u64>,
    /// EIP-155 id of its chain.
    #[serde(default)]
    pub chain_id: u64,
}

/// Answer of `mint` and `register`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MintAnswer {
    /// The token.
    pub token: TokenId,
    /// Its name in commands and as a directory.
    #[serde(default)]
    pub directory: String,
    /// The token contract.
    pub contract: String,
    /// Hash of the transaction.
    pub transaction: String,
    /// The name key's name; null if the contract stores none.
    pub name: Option<String>,
    /// EIP-155 id of the chain.
    #[serde(default)]
    pub chain_id: u64,
    /// Its cost to the account, price and gas, wei, decimal.
    #[serde(default)]
    pub paid_wei: Option<String>,
}

/// What the daemon answers to `pxfs tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokensAnswer {
    /// Tokens of all chains that answered.
    pub tokens: Vec<TokenStatus>,
    /// The others.
    pub left_out: Vec<LeftOut>,
}

/// A contract whose tokens are missing in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// EIP-155 id of its chain.
    pub chain_id: u64,
    /// Its address.
    pub contract: String,
    /// Why, in one line.
    pub error: String,
}

/// Answer of `umount` and `flush`, from the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UmountAnswer {
    /// Published commits that cannot be charged now: a line per token.
    pub uncharged: Vec<String>,
}

/// A package of upload units, of `pxfs packages --uploads --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadsAnswer {
    /// Number of the package.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Price in wei, decimal.
    pub price_wei: String,
    /// Upload units.
    pub uploads: u64,
    /// EIP-155 id of its chain.
    #[serde(default)]
    pub chain_id: u64,
}

/// Answer of `mint`, `register`, `upgrade` and `sync` with `--print`: a transaction to send by
/// other means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallAnswer {
    /// Chain id.
    pub chain_id: u64,
    /// Where it goes.
    pub to: String,
    /// Wei to send, decimal.
    pub value_wei: String,
    /// Call data, `0x…`.
    pub data: String,
    /// The account nonce that the name key belongs to, if any.
    pub nonce: Option<u64>,
    /// The name key's name; null if the contract stores none.
    pub name: Option<String>,
    /// The account that would send it.
    #[serde(default)]
    pub account: Option<String>,
    /// Gas, with spare; null if unknown.
    #[serde(default)]
    pub gas: Option<u64>,
    /// Its highest cost, wei, decimal.
    #[serde(default)]
    pub gas_cost_wei: Option<String>,
}

impl CallAnswer {
    /// A call with `data`.
    #[must_use]
    pub fn new(chain_id: u64, to: Address, value: U256, data: &Bytes) -> Self {
        Self {
            chain_id,
            to: to.to_string(),
            value_wei: value.to_string(),
            data: data.to_string(),
            nonce: None,
            name: None,
            account: None,
            gas: None,
            gas_cost_wei: None,
        }
    }
}

/// Answer of `sync`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncAnswer {
    /// The token.
    pub token: TokenId,
    /// Hash of the transaction.
    pub transaction: String,
    /// The request; null without an oracle.
    pub request: Option<String>,
    /// Usage that the chain took; null if not awaited.
    pub usage: Option<u64>,
    /// Sequence that the chain took; null if not awaited.
    pub sequence: Option<u64>,
    /// EIP-155 id of the chain.
    #[serde(default)]
    pub chain_id: u64,
    /// Its cost to the account, fee and gas, wei, decimal; null if nothing, or only charges, were
    /// sent.
    #[serde(default)]
    pub paid_wei: Option<String>,
}

/// What `sync` would send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncOffer {
    /// The transaction; null if nothing new costs anything.
    pub call: Option<CallAnswer>,
    /// The charges that the daemon sends by itself.
    #[serde(default)]
    pub charges: Vec<CallAnswer>,
    /// A remark.
    pub note: Option<String>,
}

impl SyncOffer {
    /// One transaction, without a remark.
    #[must_use]
    pub fn of(call: CallAnswer) -> Self {
        Self {
            call: Some(call),
            charges: Vec::new(),
            note: None,
        }
    }
}

/// Answer of `detach`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachAnswer {
    /// The token.
    pub token: TokenId,
    /// The directory that was ended.
    pub directory: String,
    /// Where it was saved; null if discarded.
    pub saved: Option<String>,
    /// Files that were saved.
    pub files: u64,
    /// Their bytes, without holes.
    pub bytes: u64,
    /// For damaged local state, what is doubtful; nothing was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsure: Option<Unsure>,
}

/// What of a damaged directory was not saved, or is doubtful.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsure {
    /// How many paths.
    pub paths: u64,
    /// A file that names them, one a line.
    pub list: String,
    /// The unchanged local state.
    pub state: String,
}

/// Answer of `deploy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployAnswer {
    /// EIP-155 id of the chain.
    pub chain_id: u64,
    /// The token contract, `0x…`.
    pub contract: String,
    /// The forwarder that it trusts.
    pub forwarder: String,
    /// Block of the token contract.
    pub block: u64,
}

/// Answer of `get`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetAnswer {
    /// The file that was fetched.
    pub cid: String,
    /// Where it is now.
    pub file: String,
    /// Its length.
    pub bytes: u64,
}

/// Answer of `share`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareAnswer {
    /// The file's CID.
    pub cid: String,
}

/// Answer of `export` and `import`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveAnswer {
    /// The token.
    pub token: TokenId,
    /// The root of its volume.
    pub root: String,
    /// The archive.
    pub file: String,
    /// Blocks in it, or read for its files.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Sockets, which tar cannot hold.
    #[serde(default)]
    pub left_out: u64,
}

/// Answer of `fsck`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckAnswer {
    /// The token.
    pub token: TokenId,
    /// Blocks read, each once.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is lost, and was not repaired.
    pub damaged: Vec<DamagedBlock>,
    /// Blocks uploaded again.
    pub repaired: u64,
}

/// A block that is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedBlock {
    /// What needs it, below the token's directory.
    pub path: String,
    /// The block.
    pub cid: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Answer of `dev advance`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvanceAnswer {
    /// Chain time after it.
    pub chain_time: Timestamp,
}

/// One line of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckAnswer {
    /// The check and its finding.
    pub check: String,
    /// Whether it passed.
    pub ok: bool,
    /// The remedy; null if it passed.
    pub fix: Option<String>,
}
