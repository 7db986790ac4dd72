//! What commands other than `status` answer: their shapes in `--json`.

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
    /// Upload units; null where the contract has none.
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
    /// What it is called in commands, and as a directory.
    #[serde(default)]
    pub directory: String,
    /// The token contract.
    pub contract: String,
    /// Hash of the transaction.
    pub transaction: String,
    /// The name key's name; null where the contract keeps none.
    pub name: Option<String>,
    /// EIP-155 id of the chain.
    #[serde(default)]
    pub chain_id: u64,
    /// What it took from the account, price and gas, in wei, decimal.
    #[serde(default)]
    pub paid_wei: Option<String>,
}

/// What the daemon answers to `pxfs tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokensAnswer {
    /// The tokens of all chains that have answered.
    pub tokens: Vec<TokenStatus>,
    /// The others.
    pub left_out: Vec<LeftOut>,
}

/// A contract whose tokens are not in a list.
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
    /// What is published and cannot be charged now, where each commit is: a line for each token.
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

/// Answer of `mint`, `register`, `upgrade` and `sync` with `--print`: the transaction that is to be sent by other means.
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
    /// The account nonce that the name key belongs to, where it belongs to one.
    pub nonce: Option<u64>,
    /// The name key's name; null where the contract keeps none.
    pub name: Option<String>,
    /// The account that sends it where pxfs does.
    #[serde(default)]
    pub account: Option<String>,
    /// Gas, with some to spare; null where the chain does not tell.
    #[serde(default)]
    pub gas: Option<u64>,
    /// What that costs at most, in wei, decimal.
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
    /// The request; null where no oracle is asked.
    pub request: Option<String>,
    /// Usage that the chain took; null when it was not waited for.
    pub usage: Option<u64>,
    /// Sequence that the chain took; null when it was not waited for.
    pub sequence: Option<u64>,
    /// EIP-155 id of the chain.
    #[serde(default)]
    pub chain_id: u64,
    /// What it took from the account, fee and gas, in wei, decimal; null where nothing was sent, or charges were.
    #[serde(default)]
    pub paid_wei: Option<String>,
}

/// What `sync` would send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncOffer {
    /// The transaction; null where nothing is sent that costs anything beyond what is on its way.
    pub call: Option<CallAnswer>,
    /// The charges that the daemon sends by itself.
    #[serde(default)]
    pub charges: Vec<CallAnswer>,
    /// What there is to know of it.
    pub note: Option<String>,
}

impl SyncOffer {
    /// One transaction, of which there is nothing more to know.
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
    /// Where it was saved; null when it was discarded.
    pub saved: Option<String>,
    /// Files that were saved.
    pub files: u64,
    /// Their bytes, without holes.
    pub bytes: u64,
    /// Where its local state is damaged: what is not sure. Nothing was removed then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsure: Option<Unsure>,
}

/// What of a damaged directory could not be saved, or is not sure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsure {
    /// How many paths.
    pub paths: u64,
    /// A file that names them, one a line.
    pub list: String,
    /// The local state, which is as it was.
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
    /// Blocks in it, or that its files were read from.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Sockets, which an archive of files cannot hold.
    #[serde(default)]
    pub left_out: u64,
}

/// Answer of `fsck`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckAnswer {
    /// The token.
    pub token: TokenId,
    /// Blocks that were read, each once.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is lost, and was not put again.
    pub damaged: Vec<DamagedBlock>,
    /// Blocks that were put again.
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
    /// What was looked at, and what was found.
    pub check: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What to do; null when it is.
    pub fix: Option<String>,
}
