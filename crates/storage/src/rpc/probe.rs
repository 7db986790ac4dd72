//! Asks a node what it is and how it is configured.
//!
//! Invariant: it only asks, and never guesses.

use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use pxfs_base::text;
use serde::Deserialize;
use serde_json::Value;

use super::{Client, Dialect, RpcError};

const ASK: Duration = Duration::from_secs(5);
/// The longest answer: a configuration may list many peers.
const ANSWER: usize = 4 << 20;

/// A node's self-description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its kind.
    pub dialect: Dialect,
    /// Its name and version: `kubo/0.42.0`.
    pub agent: String,
}

/// A dangerous setting, and its remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The finding.
    pub what: String,
    /// The remedy.
    pub fix: String,
}

#[derive(Deserialize)]
struct Id {
    #[serde(rename = "AgentVersion")]
    agent: String,
    /// BTFS nodes only.
    #[serde(rename = "BttcAddress")]
    bttc_address: Option<String>,
}

/// Asks the node what it is, whatever is expected. A BTFS node wants no login for that; an IPFS node may,
/// and gets its own once BTFS is ruled out.
///
/// # Errors
/// Those of the call; [`RpcError::Refused`] if it is neither.
pub async fn identify(client: &Client) -> Result<Found, RpcError> {
    let answer = match (ask_as_btfs(client).await, client.dialect()) {
        (Ok(Some(answer)), _) => answer,
        (Ok(None), Dialect::Ipfs) => client.call("id", &[], &[], ANSWER, ASK).await?,
        (Ok(None), Dialect::Btfs) => client.call_as(Dialect::Ipfs, "id", ANSWER, ASK).await?,
        (Err(error), _) => return Err(error),
    };
    understood(&answer)
}

/// Asks as a BTFS node. IPFS nodes have no v1; a proxy may refuse it.
async fn ask_as_btfs(client: &Client) -> Result<Option<Bytes>, RpcError> {
    match client.call_as(Dialect::Btfs, "id", ANSWER, ASK).await {
        Ok(answer) => Ok(Some(answer)),
        Err(RpcError::Unknown(_) | RpcError::Refused(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn understood(answer: &[u8]) -> Result<Found, RpcError> {
    let id: Id = serde_json::from_slice(answer)
        .map_err(|_| RpcError::Refused("is neither a BTFS nor an IPFS node".into()))?;
    let is_btfs = id.bttc_address.is_some() || id.agent.starts_with("go-btfs/");
    Ok(Found {
        dialect: match is_btfs {
            true => Dialect::Btfs,
            false => Dialect::Ipfs,
        },
        agent: pxfs_base::text::name(&id.agent),
    })
}

/// Asks the node what it is, unless it said so and has answered itself ever since.
///
/// # Errors
/// As [`identify`]; [`RpcError::Refused`] with the remedy if it is of the other kind.
pub async fn meet(client: &Client) -> Result<(), RpcError> {
    match client.is_met() {
        true => Ok(()),
        false => fits(client, &identify(client).await?),
    }
}

/// As [`meet`], and also checks a known node for BTFS: another may have come to its address silently.
///
/// # Errors
/// As [`meet`].
pub async fn meet_again(client: &Client) -> Result<(), RpcError> {
    if !client.is_met() {
        return meet(client).await;
    }
    match ask_as_btfs(client).await? {
        None => Ok(()),
        // It was a node before: any other answer means that it is unwell.
        Some(answer) => match understood(&answer) {
            Ok(found) => fits(client, &found),
            Err(_) => Err(RpcError::Transport(
                "its answer to `id` is not understood".into(),
            )),
        },
    }
}

/// Whether the finding is what `client` expects.
fn fits(client: &Client, found: &Found) -> Result<(), RpcError> {
    let fits = found.dialect == client.dialect();
    client.set_met(fits);
    if fits {
        return Ok(());
    }
    let (url, kind) = (client.label(), found.dialect.as_str());
    let agent = &found.agent;
    Err(RpcError::Refused(format!(
        "is {agent}: give --node {kind}={url}"
    )))
}

/// Checks the node's configuration. `needed_bytes` is the sum of the quotas it must hold; `None` for
/// reading only.
///
/// # Errors
/// Those of the calls.
pub async fn warnings(
    client: &Client,
    needed_bytes: Option<u64>,
) -> Result<Vec<Warning>, RpcError> {
    let answer = client.call("config/show", &[], &[], ANSWER, ASK).await?;
    let config: Value = serde_json::from_slice(&answer)
        .map_err(|_| RpcError::Failed("its configuration is no JSON".into()))?;
    let is_guarded = match client.dialect() {
        Dialect::Btfs => config["API"]["EnableTokenAuth"] == true,
        // It does not show `API.Authorizations`.
        Dialect::Ipfs => !is_open(client).await?,
    };
    Ok(judge(&config, client.dialect(), is_guarded, needed_bytes))
}

/// Whether an IPFS node answers without a token.
///
/// # Errors
/// Those of the call.
pub async fn is_open(client: &Client) -> Result<bool, RpcError> {
    client.is_open("id", ANSWER, ASK).await
}

fn judge(
    config: &Value,
    dialect: Dialect,
    is_guarded: bool,
    needed_bytes: Option<u64>,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |what: String, fix: &str| {
        warnings.push(Warning {
            what,
            fix: fix.to_owned(),
        });
    };
    for listener in ["API", "RemoteAPI"] {
        let addresses = match &config["Addresses"][listener] {
            Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect::<Vec<_>>(),
        };
        let public = addresses.iter().find(|address| !is_local(address));
        if let Some(address) = public
            && !is_guarded
        {
            let login = match dialect {
                Dialect::Btfs => "API.EnableTokenAuth",
                Dialect::Ipfs => "API.Authorizations",
            };
            warn(
                format!("its RPC is open to others at {}", text::name(address)),
                &format!("let Addresses.{listener} be on 127.0.0.1, or set {login}"),
            );
        }
    }
    let Some(needed_bytes) = needed_bytes else {
        return warnings;
    };
    let store = &config["Datastore"];
    let most = store["StorageMax"]
        .as_str()
        .and_then(|text| text.parse::<ByteSize>().ok())
        .map(|size| size.as_u64());
    if let Some(most) = most {
        let mark = store["StorageGCWatermark"].as_u64().unwrap_or(90).min(100);
        let room = most / 100 * mark;
        if room < needed_bytes {
            warn(
                format!(
                    "it collects garbage from {} on, and the tokens may hold {}",
                    ByteSize(room),
                    ByteSize(needed_bytes)
                ),
                "raise Datastore.StorageMax above the sum of the quotas, and do not run the node \
                 with --enable-gc",
            );
        }
    }
    if has_unsynced(&store["Spec"]) {
        warn(
            "it does not wait for its disk: a power cut there can take what it has acknowledged"
                .to_owned(),
            "set `sync` of the flatfs datastore to true in Datastore.Spec, or keep the node on a machine whose power does not fail",
        );
    }
    warnings
}

fn is_local(address: &str) -> bool {
    [
        "/ip4/127.",
        "/ip6/::1/",
        "/unix/",
        "/dns/localhost/",
        "/dns4/localhost/",
    ]
    .iter()
    .any(|local| address.starts_with(local))
}

/// Whether any datastore in the tree writes without syncing.
fn has_unsynced(spec: &Value) -> bool {
    let here = ["sync", "syncWrites"].iter().any(|key| spec[key] == false);
    let below = spec["mounts"].as_array().into_iter().flatten();
    here || has_unsynced_child(&spec["child"]) || below.into_iter().any(has_unsynced)
}

fn has_unsynced_child(child: &Value) -> bool {
    child.is_object() && has_unsynced(child)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(api: Value, auth: bool, most: &str, sync: bool) -> Value {
        json!({
            "Addresses": {"API": api},
            "API": {"EnableTokenAuth": auth},
            "Datastore": {"StorageMax": most, "StorageGCWatermark": 90, "Spec": {"mounts": [
                {"child": {"type": "flatfs", "sync": sync}, "mountpoint": "/blocks"},
                {"child": {"type": "levelds"}, "mountpoint": "/"}
            ]}}
        })
    }

    fn told(config: &Value, needed: u64) -> String {
        let is_guarded = config["API"]["EnableTokenAuth"] == true;
        let warnings = judge(config, Dialect::Btfs, is_guarded, Some(needed));
        warnings.iter().map(|w| format!("{}\n", w.what)).collect()
    }

    #[test]
    fn each_setting_that_endangers_data_is_told_and_no_other() {
        let local = json!(["/ip4/127.0.0.1/tcp/5001"]);
        assert_eq!(
            told(&config(local.clone(), false, "32GB", true), 1 << 30),
            ""
        );
        let open = config(json!("/ip4/0.0.0.0/tcp/5001"), false, "32GB", true);
        assert!(told(&open, 0).contains("open to others at /ip4/0.0.0.0"));
        let forged = json!("/ip4/0.0.0.0\u{1b}[2J\nall is well");
        let forged = told(&config(forged, false, "32GB", true), 0);
        assert!(
            forged.starts_with("its RPC is open to others"),
            "{forged:?}"
        );
        assert_eq!(forged.matches(char::is_control).collect::<String>(), "\n");
        let guarded = config(json!("/ip4/0.0.0.0/tcp/5001"), true, "32GB", true);
        assert_eq!(told(&guarded, 0), "");
        let small = config(local.clone(), true, "1GB", true);
        assert!(told(&small, 950_000_000).contains("collects garbage"));
        let unsynced = config(local, true, "32GB", false);
        assert!(told(&unsynced, 0).contains("does not wait for its disk"));
        assert_eq!(told(&json!({}), 1), "", "what is not said is not guessed");
    }

    #[test]
    fn a_btfs_api_open_to_others_is_reported_even_if_unused() {
        let mut open = config(json!("/ip4/127.0.0.1/tcp/5001"), false, "32GB", true);
        open["Addresses"]["RemoteAPI"] = json!(["/ip4/0.0.0.0/tcp/5101"]);
        let warnings = judge(&open, Dialect::Btfs, false, None);
        let [Warning { what, fix }] = &warnings[..] else {
            panic!("{warnings:?}")
        };
        assert!(
            what.contains("open to others at /ip4/0.0.0.0/tcp/5101"),
            "{what}"
        );
        assert!(fix.contains("Addresses.RemoteAPI"), "{fix}");
        assert_eq!(judge(&open, Dialect::Btfs, true, None), []);
        open["Addresses"]["RemoteAPI"] = json!("/ip4/127.0.0.1/tcp/5101");
        assert_eq!(judge(&open, Dialect::Btfs, false, None), []);
    }
}
