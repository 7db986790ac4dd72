//! A node's name records over RPC: BTNS on BTFS nodes, IPNS on IPFS nodes.
//!
//! Invariant: a record counts as published only when the node has returned it; spreading it to
//! other nodes continues unawaited. A BTFS node refuses silently with status 200, and an IPFS
//! node's sequence-checking call rejects the sequence that it has: both are handled here. Answers
//! are verified; anybody may have added unsigned data. Wire facts: `docs/nodes.md`.

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

/// How long a node may search for a name. One with many peers took about 30 s.
const FIND: Duration = Duration::from_secs(90);
/// How long it may spread a record: longer than ever observed. It first searches for the name.
const TELL: Duration = Duration::from_secs(300);
/// How long before checking whether it has the record.
const LOOK: Duration = Duration::from_secs(10);
/// The longest answer: a routing call reports a line for each peer asked, and each better record in
/// base64.
const ANSWER: usize = 4 * MAX_GIVEN_BYTES;
/// A routing event with a value.
const VALUE: i64 = 5;
/// A routing event with an error.
const FAILED: i64 = 3;

/// A node as a name store.
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
    /// The node behind `client`; `clock` decides whether an offered record has expired.
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

    /// Limits each call to `patience`.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self {
            find: self.find.min(patience),
            tell: self.tell.min(patience),
            look: self.look.min(patience),
            ..self.clone()
        }
    }

    /// Checks for the record this long after sending it, repeatedly.
    #[must_use]
    pub fn with_look(&self, look: Duration) -> Self {
        Self {
            look,
            ..self.clone()
        }
    }

    /// The node's term for the name.
    fn key(&self, name: &str) -> String {
        match self.client.dialect() {
            Dialect::Btfs => format!("/btns/{name}"),
            Dialect::Ipfs => format!("/ipns/{name}"),
        }
    }

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

    /// The raw bytes that the node finds for `name`, if any.
    async fn found(&self, name: &str) -> Result<Option<Vec<u8>>, NameError> {
        self.ask(name, &[]).await
    }

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

    /// Offers the record; the node takes no older one.
    async fn put(&self, name: &str, record: &[u8], now_ns: i64) -> Result<(), NameError> {
        let file = File::new(Bytes::copy_from_slice(record));
        let key = self.key(name);
        let sent = match self.client.dialect() {
            Dialect::Btfs => self.send("dht/put", &[("arg", &key)], &file).await,
            Dialect::Ipfs => {
                let args = [("arg", key.as_str()), ("allow-offline", "true")];
                match self.send("name/put", &args, &file).await {
                    // A renewal under the same sequence, or a node without that call.
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
            // If it found nobody to spread to, or not all in time, it still has the record, or the
            // read tells.
            Ok(_) | Err(RpcError::TimedOut(_)) => Ok(()),
            Err(error) if error.is_search_over() => Ok(()),
            Err(error) => Err(plain(error)),
        }
    }

    /// [`RpcNames::put`], which continues while the node spreads; returns once the node has the
    /// record, or refuses it.
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
        // First of all: an invalid record is nobody's business.
        admit(name, record, None, now_ns)?;
        self.offer(name, record, now_ns).await?;
        match self.held(name).await? {
            Some(back) if is_same(name, &back, record) => Ok(back),
            Some(other) => {
                // Somebody else's, newer than ours, or one that the node would not replace.
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

/// Whether the sequence-checking call leaves the record to us.
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

fn plain(error: RpcError) -> NameError {
    match error.is_permanent() {
        true => NameError::Permanent(error.to_string()),
        false => NameError::Transient(error.to_string()),
    }
}
