//! The name records of a storage node, by its RPC: BTNS on BTFS nodes, IPNS on IPFS nodes.
//!
//! Invariant: a record counts as published only when the node has given it back; that it has told other nodes
//! of it is not waited for, and goes on. A BTFS node refuses
//! in silence, under status 200, and an IPFS node does not take a record of the sequence that it
//! holds by the call that checks sequences: both are seen to here. What a node gives is verified; it may give more than was
//! signed, put there by anybody.
//! Built by `run`; wire facts: `docs/nodes.md`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use data_encoding::BASE64;
use serde::Deserialize;
use tokio::time::timeout;

use super::key::public_key;
use super::record::MAX_GIVEN_BYTES;
use super::{Admission, NameError, NameStore, admit, is_same, verify};
use crate::rpc::{Client, Dialect, File, RpcError};
use pxfs_base::clock::Clock;
use pxfs_base::text;

/// How long a node may look for a name. One with many peers was seen to take about 30 s.
const FIND: Duration = Duration::from_secs(90);
/// How long it may tell others of a record: longer than any was seen to take. It looks for the name before that.
const TELL: Duration = Duration::from_secs(300);
/// How long it may take before it is looked whether it has the record by now.
const LOOK: Duration = Duration::from_secs(10);
/// The longest answer: a routing call tells a line for each peer it has asked, and each record that was better than the
/// one before, in base64.
const ANSWER: usize = 4 * MAX_GIVEN_BYTES;
/// The kind of a routing event that carries a value.
const VALUE: i64 = 5;
/// The kind of one that carries an error.
const FAILED: i64 = 3;

/// A node as a store of names.
#[derive(Clone)]
pub struct RpcNames {
    client: Client,
    clock: Arc<dyn Clock>,
    find: Duration,
    tell: Duration,
    look: Duration,
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
            find: FIND,
            tell: TELL,
            look: LOOK,
        }
    }

    /// The same; each call to the node ends after `patience`.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self {
            find: self.find.min(patience),
            tell: self.tell.min(patience),
            look: self.look.min(patience),
            ..self.clone()
        }
    }

    /// The same; that the node has a record is looked for this long after that was sent, and again and again.
    #[must_use]
    pub fn with_look(&self, look: Duration) -> Self {
        Self {
            look,
            ..self.clone()
        }
    }

    /// What the node calls the name, and the calls that read and write it.
    fn key(&self, name: &str) -> String {
        match self.client.dialect() {
            Dialect::Btfs => format!("/btns/{name}"),
            Dialect::Ipfs => format!("/ipns/{name}"),
        }
    }

    /// Sends a record.
    async fn send(
        &self,
        path: &str,
        args: &[(&str, &str)],
        file: &File,
    ) -> Result<(Bytes, Option<String>), RpcError> {
        let files = std::slice::from_ref(file);
        self.client
            .search(path, args, files, ANSWER, self.tell)
            .await
    }

    /// The bytes that the node finds for `name`, as they are; `None` when there are none.
    async fn found(&self, name: &str) -> Result<Option<Vec<u8>>, NameError> {
        self.ask(name, &[]).await
    }

    /// The bytes that the node has for `name`. A BTFS node looks for newer ones at others, too.
    async fn held(&self, name: &str) -> Result<Option<Vec<u8>>, NameError> {
        match self.client.dialect() {
            Dialect::Btfs => self.found(name).await,
            Dialect::Ipfs => self.ask(name, &[("offline", "true")]).await,
        }
    }

    async fn ask(&self, name: &str, more: &[(&str, &str)]) -> Result<Option<Vec<u8>>, NameError> {
        let (path, key) = match self.client.dialect() {
            Dialect::Btfs => ("dht/get", self.key(name)),
            Dialect::Ipfs => ("routing/get", self.key(name)),
        };
        let args = [&[("arg", key.as_str())], more].concat();
        let asked = self.client.search(path, &args, &[], ANSWER, self.find);
        let (answer, error) = match asked.await {
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
                    let why = format!("its answer is not what it should be: {fault}");
                    return Err(NameError::Transient(text::message(&why)));
                }
            }
        }
        match (value, error) {
            (Some(text), _) if text.len() > 2 * MAX_GIVEN_BYTES => {
                Err(corrupt(name, "is too long"))
            }
            (Some(text), _) => match BASE64.decode(text.as_bytes()) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(_) => Err(corrupt(name, "is not in base64")),
            },
            (None, Some(why)) if why.contains("not found") => Ok(None),
            (None, Some(why)) => Err(NameError::Transient(text::message(&why))),
            (None, None) => Err(NameError::Transient("its answer is empty".into())),
        }
    }

    /// Offers the record to the node, which takes no older one.
    async fn put(&self, name: &str, record: &[u8], now_ns: i64) -> Result<(), NameError> {
        let file = File::new(Bytes::copy_from_slice(record));
        let key = self.key(name);
        let sent = match self.client.dialect() {
            Dialect::Btfs => self.send("dht/put", &[("arg", &key)], &file).await,
            Dialect::Ipfs => {
                let args = [("arg", key.as_str()), ("allow-offline", "true")];
                match self.send("name/put", &args, &file).await {
                    // A renewal under the same sequence, or a node from before that call.
                    Err(error) if is_unchecked(&error) => {
                        let found = match self.found(name).await {
                            Err(NameError::Corrupt(..)) => None,
                            found => found?,
                        };
                        match admit(name, record, found.as_deref(), now_ns)? {
                            Admission::Held => return Ok(()),
                            Admission::Take => self.send("routing/put", &args, &file).await,
                        }
                    }
                    other => other,
                }
            }
        };
        match sent {
            // That it found nobody to tell, or not all in time, is no failure of ours: it has it, or the read tells.
            Ok(_) | Err(RpcError::TimedOut(_)) => Ok(()),
            Err(error) if error.is_search_over() => Ok(()),
            Err(error) => Err(plain(error)),
        }
    }

    /// [`RpcNames::put`], which goes on for as long as the node has to tell others; returns when the node has the
    /// record, or will not take it.
    async fn offer(&self, name: &str, record: &[u8], now_ns: i64) -> Result<(), NameError> {
        let (teller, told, sent) = (self.clone(), name.to_owned(), record.to_vec());
        let mut put = tokio::spawn(async move { teller.put(&told, &sent, now_ns).await });
        loop {
            match timeout(self.look, &mut put).await {
                Ok(Ok(ended)) => return ended,
                Ok(Err(fault)) => return Err(NameError::Transient(fault.to_string())),
                Err(_) => {}
            }
            tokio::select! {
                ended = &mut put => {
                    return ended.unwrap_or_else(|fault| Err(NameError::Transient(fault.to_string())));
                }
                held = self.held(name) => {
                    if held.is_ok_and(|held| held.is_some_and(|held| is_same(name, &held, record))) {
                        return Ok(());
                    }
                }
            }
        }
    }
}

#[async_trait]
impl NameStore for RpcNames {
    async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError> {
        let now_ns = self.clock.wall_ns();
        // Before anything is asked: what is not valid is nobody's business.
        admit(name, record, None, now_ns)?;
        self.offer(name, record, now_ns).await?;
        match self.held(name).await? {
            Some(back) if is_same(name, &back, record) => Ok(back),
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
        let bytes = self.found(name).await?;
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
