//! What commands answer: the shapes of `--json`, an interface that scripts rely on.
//!
//! Invariant: fields are added, never renamed or dropped; wei and token ids are strings, byte
//! counts numbers. Filled by `run`, carried by `control`, printed by `cli`.

use alloy::primitives::{Address, Bytes, U256};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::types::TokenId;

/// `pxfs status --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Where the drive is.
    pub mountpoint: String,
    /// Seconds since it was mounted.
    pub uptime_s: u64,
    /// The chain; of several the first contract's.
    pub chain: ChainStatus,
    /// All chains that contracts of the drive are on, each once.
    #[serde(default)]
    pub chains: Vec<ChainStatus>,
    /// The storage node that is written to.
    pub node: NodeStatus,
    /// All storage nodes, that one first; gateways are not looked at.
    #[serde(default)]
    pub nodes: Vec<NodeStatus>,
    /// The tokens, by contract as they are configured, and by ascending id.
    pub tokens: Vec<TokenStatus>,
}

/// The chain, as it was last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainStatus {
    /// EIP-155 id.
    pub id: u64,
    /// Scheme and host only.
    pub url: String,
    /// Whether the last look succeeded.
    pub ok: bool,
    /// Block of the last look that succeeded.
    pub block: u64,
    /// Seconds since that look.
    pub age_s: u64,
    /// Why the last look failed.
    pub error: Option<String>,
}

/// A storage node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// `btfs`, `ipfs` or `embedded`.
    pub kind: String,
    /// Scheme and host only, or the folder.
    pub url: String,
    /// Whether the last call succeeded.
    pub ok: bool,
    /// Why it did not.
    pub error: Option<String>,
}

/// What can be done with a token now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// All is well.
    Ok,
    /// The quota is used up.
    Quota,
    /// The sync is overdue: nothing may grow.
    Overdue,
    /// A sync request is open.
    Syncing,
    /// The token has no name key yet.
    Unregistered,
    /// The token's name key is not ours.
    ForeignKey,
    /// Nothing can be written; the reason says why.
    ReadOnly,
    /// Another machine moved the name on.
    Conflict,
    /// No longer ours, and holds what is not published.
    Detached,
    /// A local fsync failed.
    Poisoned,
    /// What is published cannot be charged, on a contract that charges each commit.
    Uncharged,
    /// Nothing was published for minutes, and something waits for it; or the local disk is full.
    Stuck,
}

impl State {
    /// The text of the interface.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Quota => "quota",
            Self::Overdue => "overdue",
            Self::Syncing => "syncing",
            Self::Unregistered => "unregistered",
            Self::ForeignKey => "foreign-key",
            Self::ReadOnly => "read-only",
            Self::Conflict => "conflict",
            Self::Detached => "detached",
            Self::Poisoned => "poisoned",
            Self::Uncharged => "uncharged",
            Self::Stuck => "stuck",
        }
    }
}

/// One token. In `pxfs tokens --json` the fields that only a mount knows are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenStatus {
    /// The token.
    pub id: TokenId,
    /// What it is called in commands, and as a directory: its id, with the contract's name before it where
    /// there are several.
    #[serde(default)]
    pub directory: String,
    /// EIP-155 id of its chain.
    #[serde(default)]
    pub chain_id: u64,
    /// The token contract.
    pub contract: String,
    /// `px-sync`.
    pub dialect: String,
    /// Its directory.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<String>,
    /// `sealed` or `plain`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub volume: Option<String>,
    /// What can be done with it.
    pub state: State,
    /// Why the state is not `ok`, and what to do.
    pub reason: Option<String>,
    /// The quota in bytes.
    pub quota_bytes: u64,
    /// What is in use, by the rule of the quota.
    #[serde(flatten)]
    pub local: Option<LocalStatus>,
    /// Upload units left; null where the contract has none.
    pub uploads_left: Option<u64>,
    /// When the chain last took a sync.
    pub last_sync: Option<Timestamp>,
    /// After this nothing may grow until the next sync.
    pub sync_deadline: Option<Timestamp>,
    /// Usage that the chain knows of, in bytes.
    pub usage_on_chain_bytes: u64,
    /// The name key's name.
    pub name: Option<String>,
    /// The token's epoch.
    pub epoch: u64,
    /// Sequence of the newest document: of the mount's, else the chain's.
    pub sequence: Option<u64>,
    /// CID of the volume root that is published.
    pub root: Option<String>,
}

/// What only a mount knows of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalStatus {
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes set aside for calls that are not growth.
    pub reserved_bytes: u64,
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Bytes that are not on the node yet.
    pub pending_bytes: u64,
    /// Files that are not on the node yet.
    pub pending_files: u64,
    /// Whether anything at all is not published yet: names and attributes too.
    #[serde(default)]
    pub pending: bool,
    /// When the last commit was published.
    pub last_commit: Option<Timestamp>,
    /// Where uploads are counted: when the next commit is made, unless `pxfs flush` asks for it sooner.
    #[serde(default)]
    pub next_commit: Option<Timestamp>,
    /// What the last commit failed of.
    pub last_error: Option<String>,
    /// How many files and directories the node has lost blocks of, as far as that is known.
    #[serde(default)]
    pub damaged_files: u64,
    /// The first hundred of them.
    #[serde(default)]
    pub damaged: Vec<DamagedFile>,
}

/// A file or directory that the node has lost a block of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedFile {
    /// Where it is below the token's directory.
    pub path: String,
    /// The block.
    pub cid: String,
    /// What that means, and what to do.
    pub reason: String,
}

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token() -> TokenStatus {
        TokenStatus {
            id: TokenId::from(1),
            directory: "1".into(),
            chain_id: 31337,
            contract: "0x01".into(),
            dialect: "px-sync".into(),
            path: Some("/m/1".into()),
            volume: Some("plain".into()),
            state: State::ForeignKey,
            reason: None,
            quota_bytes: 104_857_600,
            local: Some(LocalStatus {
                damaged_files: 1,
                damaged: vec![DamagedFile {
                    path: "a/b".into(),
                    cid: "Qm".into(),
                    reason: "why".into(),
                }],
                ..LocalStatus::default()
            }),
            uploads_left: None,
            last_sync: Some(Timestamp::from_second(1).unwrap()),
            sync_deadline: None,
            usage_on_chain_bytes: 0,
            name: None,
            epoch: 1,
            sequence: Some(7),
            root: None,
        }
    }

    /// The fields of the interface, all of them, by name.
    #[test]
    fn scripts_find_every_field_of_a_status() {
        let chain = ChainStatus {
            id: 31337,
            url: "embedded".into(),
            ok: true,
            block: 2,
            age_s: 3,
            error: None,
        };
        let node = NodeStatus {
            kind: "embedded".into(),
            url: "embedded:/n".into(),
            ok: true,
            error: None,
        };
        let status = Status {
            version: "0".into(),
            mountpoint: "/m".into(),
            uptime_s: 1,
            chains: vec![chain.clone()],
            chain,
            nodes: vec![node.clone()],
            node,
            tokens: vec![token()],
        };
        let mut wanted = json!({
            "version": "0", "mountpoint": "/m", "uptime_s": 1,
            "chain": {"id": 31337, "url": "embedded", "ok": true, "block": 2, "age_s": 3, "error": null},
            "node": {"kind": "embedded", "url": "embedded:/n", "ok": true, "error": null},
            "tokens": [{
                "id": "1", "contract": "0x01", "dialect": "px-sync", "path": "/m/1", "volume": "plain",
                "state": "foreign-key", "reason": null,
                "quota_bytes": 104_857_600, "used_bytes": 0, "reserved_bytes": 0, "free_bytes": 0,
                "pending_bytes": 0, "pending_files": 0, "pending": false, "uploads_left": null,
                "last_sync": "1970-01-01T00:00:01Z", "sync_deadline": null, "usage_on_chain_bytes": 0,
                "next_commit": null, "name": null, "epoch": 1, "sequence": 7, "root": null,
                "last_commit": null, "last_error": null,
                "damaged_files": 1, "damaged": [{"path": "a/b", "cid": "Qm", "reason": "why"}]
            }]
        });
        wanted["chains"] = json!([wanted["chain"]]);
        wanted["nodes"] = json!([wanted["node"]]);
        wanted["tokens"][0]["directory"] = json!("1");
        wanted["tokens"][0]["chain_id"] = json!(31337);
        assert_eq!(serde_json::to_value(&status).unwrap(), wanted);
        assert_eq!(serde_json::from_value::<Status>(wanted).unwrap(), status);
    }

    #[test]
    fn a_token_without_a_mount_says_nothing_that_only_a_mount_knows() {
        let bare = TokenStatus {
            path: None,
            volume: None,
            local: None,
            ..token()
        };
        let value = serde_json::to_value(&bare).unwrap();
        for field in [
            "path",
            "volume",
            "used_bytes",
            "free_bytes",
            "pending_files",
            "last_commit",
        ] {
            assert!(value.get(field).is_none(), "{field}");
        }
        assert_eq!(serde_json::from_value::<TokenStatus>(value).unwrap(), bare);
    }

    #[test]
    fn a_state_reads_the_same_in_the_table_and_in_json() {
        for state in [
            State::Ok,
            State::Quota,
            State::Overdue,
            State::Syncing,
            State::Unregistered,
            State::ForeignKey,
            State::ReadOnly,
            State::Conflict,
            State::Detached,
            State::Poisoned,
        ] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
