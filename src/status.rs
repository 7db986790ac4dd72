//! The shapes of `--json`, an interface that scripts rely on. `run` fills them, `cli` prints them.
//!
//! Invariant: fields are added, never renamed or dropped; wei and token ids are strings, byte counts numbers.

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
