//! The shapes of `--json`, an interface for scripts.
//!
//! Invariant: fields are added, never renamed or dropped; wei and token ids are strings, byte
//! counts numbers.

mod answers;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use answers::{
    AdvanceAnswer, ArchiveAnswer, CallAnswer, CheckAnswer, DamagedBlock, DeployAnswer,
    DetachAnswer, FsckAnswer, GetAnswer, LeftOut, MintAnswer, PackageAnswer, ShareAnswer,
    SyncAnswer, SyncOffer, TokensAnswer, UmountAnswer, Unsure, UploadsAnswer,
};

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
    /// The first contract's chain.
    pub chain: ChainStatus,
    /// All chains of the drive's contracts, each once.
    #[serde(default)]
    pub chains: Vec<ChainStatus>,
    /// The storage node that is written to.
    pub node: NodeStatus,
    /// All storage nodes, that one first; gateways are not checked.
    #[serde(default)]
    pub nodes: Vec<NodeStatus>,
    /// The tokens, by contract as configured, then by ascending id.
    pub tokens: Vec<TokenStatus>,
}

/// The chain as last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainStatus {
    /// EIP-155 id.
    pub id: u64,
    /// Scheme and host only.
    pub url: String,
    /// Whether the last check succeeded.
    pub ok: bool,
    /// Block of the last successful check.
    pub block: u64,
    /// Seconds since that check.
    pub age_s: u64,
    /// Why the last check failed.
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
    /// Why it failed.
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
    /// Nothing can be written; see the reason.
    ReadOnly,
    /// Another machine published under the name.
    Conflict,
    /// No longer ours, with unpublished data.
    Detached,
    /// A local fsync failed.
    Poisoned,
    /// A published commit cannot be charged, on a contract that charges each.
    Uncharged,
    /// Nothing was published for minutes while something waits, or the local disk is full.
    Stuck,
}

impl State {
    /// Its text in the interface.
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

/// One token. `pxfs tokens --json` omits the fields that only a mount knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenStatus {
    /// The token.
    pub id: TokenId,
    /// Its name in commands and as a directory: its id, after the contract's name if there are
    /// several.
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
    /// What is in use, by the quota's rule.
    #[serde(flatten)]
    pub local: Option<LocalStatus>,
    /// Upload units left; null if the contract has none.
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
    /// Sequence of the newest document, the mount's or else the chain's.
    pub sequence: Option<u64>,
    /// CID of the published volume root.
    pub root: Option<String>,
}

/// What only a mount knows of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalStatus {
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes reserved for calls that are not growth.
    pub reserved_bytes: u64,
    /// Bytes that can be written.
    pub free_bytes: u64,
    /// Bytes that are not on the node yet.
    pub pending_bytes: u64,
    /// Files that are not on the node yet.
    pub pending_files: u64,
    /// Whether anything is unpublished, names and attributes included.
    #[serde(default)]
    pub pending: bool,
    /// When the last commit was published.
    pub last_commit: Option<Timestamp>,
    /// If uploads are counted: time of the next commit without `pxfs flush`.
    #[serde(default)]
    pub next_commit: Option<Timestamp>,
    /// Why the last commit failed.
    pub last_error: Option<String>,
    /// Files and directories with known block losses on the node.
    #[serde(default)]
    pub damaged_files: u64,
    /// The first hundred.
    #[serde(default)]
    pub damaged: Vec<DamagedFile>,
}

/// A file or directory with a lost block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedFile {
    /// Its path below the token's directory.
    pub path: String,
    /// The block.
    pub cid: String,
    /// The meaning, and the remedy.
    pub reason: String,
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

    /// All fields of the interface by name.
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
