//! The name records of a storage node, by its RPC: BTNS on BTFS nodes, IPNS on IPFS nodes.
//!
//! Invariant: a record counts as published only when the node has given it back. A BTFS node refuses
//! in silence, under status 200, and an IPFS node does not take a record of the sequence that it
//! holds by the call that checks sequences: both are seen to here. What a node gives is verified.
//! Built by `run`; wire facts: `docs/nodes.md`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use data_encoding::BASE64;
use serde::Deserialize;

use super::key::public_key;
use super::record::MAX_RECORD_BYTES;
use super::{Admission, NameError, NameStore, admit, verify};
use crate::clock::Clock;
use crate::rpc::{Client, Dialect, File, RpcError};

/// How long a node may ask others, in one call.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest answer: a routing call tells a line for each peer it has asked.
const ANSWER: usize = 4 << 20;
/// The kind of a routing event that carries a value.
const VALUE: i64 = 5;
/// The kind of one that carries an error.
const FAILED: i64 = 3;

/// A node as a store of names.
pub struct RpcNames {
    client: Client,
    clock: Arc<dyn Clock>,
    patience: Duration,
}

/// A line of a routing call.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "Type")]
    kind: i64,
    #[serde(rename = "Extra", default)]
    extra: String,
}

impl RpcNames {
    /// The node behind `client`; `clock` tells whether an offered record is alive.
    #[must_use]
    pub fn new(client: Client, clock: Arc<dyn Clock>) -> Self {
        Self {
            client,
            clock,
            patience: PATIENCE,
        }
    }

    /// The same; each call to the node ends after `patience`.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self {
            client: self.client.clone(),
            clock: Arc::clone(&self.clock),
            patience,
        }
    }

    /// What the node calls the name, and the calls that read and write it.
    fn key(&self, name: &str) -> String {
        match self.client.dialect() {
            Dialect::Btfs => format!("/btns/{name}"),
            Dialect::Ipfs => format!("/ipns/{name}"),
        }
    }

    async fn routing(
        &self,
        path: &str,
        args: &[(&str, &str)],
        files: &[File],
    ) -> Result<(Bytes, Option<String>), RpcError> {
        self.client
            .search(path, args, files, ANSWER, self.patience)
            .await
    }

    /// The bytes that the node has for `name`, as they are; `None` when it has none.
    async fn held(&self, name: &str) -> Result<Option<Vec<u8>>, NameError> {
        let (path, key) = match self.client.dialect() {
            Dialect::Btfs => ("dht/get", self.key(name)),
            Dialect::Ipfs => ("routing/get", self.key(name)),
        };
        let (answer, error) = match self.routing(path, &[("arg", &key)], &[]).await {
            Ok((answer, error)) => (answer, error),
            Err(RpcError::Failed(why)) => (Bytes::new(), Some(why)),
            Err(error) => return Err(plain(error)),
        };
        let (mut value, mut error) = (None, error);
        let events = serde_json::Deserializer::from_slice(&answer).into_iter::<Event>();
        for event in events {
            match event {
                Ok(event) if event.kind == VALUE => value = Some(event.extra),
                Ok(event) if event.kind == FAILED => error = error.or(Some(event.extra)),
                Ok(_) => {}
                Err(fault) => {
                    return Err(NameError::Transient(format!(
                        "its answer is not what it should be: {fault}"
                    )));
                }
            }
        }
        match (value, error) {
            (Some(text), _) if text.len() > 2 * MAX_RECORD_BYTES => {
                Err(corrupt(name, "is too long"))
            }
            (Some(text), _) => match BASE64.decode(text.as_bytes()) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(_) => Err(corrupt(name, "is not in base64")),
            },
            (None, Some(why)) if why.contains("not found") => Ok(None),
            (None, Some(why)) => Err(NameError::Transient(why)),
            (None, None) => Err(NameError::Transient("its answer is empty".into())),
        }
    }

    /// Offers the record to the node, which takes no older one.
    async fn put(&self, name: &str, record: &[u8], now_ns: i64) -> Result<(), NameError> {
        let file = [File::new(Bytes::copy_from_slice(record))];
        let key = self.key(name);
        let sent = match self.client.dialect() {
            Dialect::Btfs => self.routing("dht/put", &[("arg", &key)], &file).await,
            Dialect::Ipfs => {
                let args = [("arg", key.as_str()), ("allow-offline", "true")];
                match self.routing("name/put", &args, &file).await {
                    // A renewal under the same sequence, or a node from before that call.
                    Err(error) if is_unchecked(&error) => {
                        let held = self.held(name).await?;
                        match admit(name, record, held.as_deref(), now_ns)? {
                            Admission::Held => return Ok(()),
                            Admission::Take => self.routing("routing/put", &args, &file).await,
                        }
                    }
                    other => other,
                }
            }
        };
        // That it found nobody to tell is no failure of ours: it has it, or the read tells.
        sent.map(drop).map_err(plain)
    }
}

#[async_trait]
impl NameStore for RpcNames {
    async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError> {
        let now_ns = self.clock.wall_ns();
        // Before anything is asked: what is not valid is nobody's business.
        admit(name, record, None, now_ns)?;
        self.put(name, record, now_ns).await?;
        match self.held(name).await? {
            Some(back) if back == record => Ok(back),
            Some(other) => {
                // Somebody else's, newer than ours, or one that the node would not part with.
                admit(name, record, Some(&other), now_ns)?;
                Err(NameError::Transient(
                    "it holds another record than the one it took".into(),
                ))
            }
            None => Err(NameError::Transient(
                "it does not hold the record that it took".into(),
            )),
        }
    }

    async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError> {
        public_key(name).map_err(|e| NameError::Permanent(e.to_string()))?;
        let bytes = self.held(name).await?;
        let bytes = bytes.ok_or_else(|| NameError::Missing(name.to_owned()))?;
        verify(name, &bytes)?;
        Ok(bytes)
    }
}

/// Whether the call that checks sequences leaves the record to us.
fn is_unchecked(error: &RpcError) -> bool {
    match error {
        RpcError::Failed(why) => why.contains("existing IPNS record"),
        RpcError::Unknown(_) => true,
        _ => false,
    }
}

fn corrupt(name: &str, why: &str) -> NameError {
    NameError::Corrupt(name.to_owned(), why.to_owned())
}

/// What a failed call means.
fn plain(error: RpcError) -> NameError {
    match error.is_permanent() {
        true => NameError::Permanent(error.to_string()),
        false => NameError::Transient(error.to_string()),
    }
}
