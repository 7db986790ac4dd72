//! A node's blocks over RPC: BTFS or IPFS.
//!
//! Invariant: a block counts as put only if the node named it in its answer, or counted it in a
//! complete one. Reads are verified unless the caller asks otherwise; every call ends by its own
//! deadline. A pinned root is never pinned again, because an IPFS node that lacks one of its blocks
//! then drops the pin. Wire facts: `docs/nodes.md`.

mod batch;
mod beside;
mod leaves;
mod pin;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;
use serde::Deserialize;

use super::{Block, BlockStore, Lookup, MAX_BLOCK_BYTES, StoreError, car, check_bytes};
use crate::rpc::client::whole;
use crate::rpc::{Client, Dialect, File, RpcError, probe};
use batch::Pace;
use beside::{Answer, Beside};
use pxfs_base::text;
use pxfs_format::cid::{self as form, Kind};

const ANSWER: usize = 1 << 20;

/// A node's timeouts.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For answers from its disk; for sent data, beside the time for its bytes.
    pub ask: Duration,
    /// In the network, per block; zero: never.
    pub network: Duration,
    /// For a pin without progress; its total depends on the tree.
    pub pin: Duration,
    /// When to check whether a slow pin lacks a block.
    pub doubt: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            ask: Duration::from_secs(30),
            network: Duration::from_secs(8),
            pin: Duration::from_secs(600),
            doubt: Duration::from_secs(3),
        }
    }
}

/// A node as a block store.
#[derive(Clone)]
pub struct RpcStore {
    client: Client,
    patience: Patience,
    pace: std::sync::Arc<Pace>,
    beside: std::sync::Arc<Beside>,
}

/// A line of `block/put`.
#[derive(Deserialize)]
struct PutLine {
    #[serde(rename = "Key")]
    key: String,
}

/// A line of `dag/import` with `stats`.
#[derive(Deserialize)]
struct ImportLine {
    #[serde(rename = "Stats")]
    stats: Option<ImportStats>,
    #[serde(rename = "Root")]
    root: Option<ImportRoot>,
}

/// The result of pinning an archive's root.
#[derive(Deserialize)]
struct ImportRoot {
    #[serde(rename = "PinErrorMsg", default)]
    error: String,
}

#[derive(Deserialize)]
struct ImportStats {
    #[serde(rename = "BlockCount")]
    blocks: usize,
    #[serde(rename = "BlockBytesCount")]
    bytes: u64,
}

impl RpcStore {
    /// The node behind `client`.
    #[must_use]
    pub fn new(client: Client, patience: Patience) -> Self {
        Self {
            client,
            patience,
            pace: std::sync::Arc::new(Pace::new(patience.ask)),
            beside: Beside::new(),
        }
    }

    /// The same node, without network searches.
    #[must_use]
    pub fn near(&self) -> Self {
        let mut near = self.clone();
        near.patience.network = Duration::ZERO;
        near
    }

    /// Sends a batch in a form that the node takes.
    async fn put(&self, blocks: Vec<Block>, limit: Duration) -> Result<(), StoreError> {
        match self.client.dialect() {
            Dialect::Ipfs => self.import(&blocks, limit, false).await,
            Dialect::Btfs => {
                probe::meet(&self.client).await.map_err(plain)?;
                for (kind, name) in [(Kind::Leaf, "raw"), (Kind::Node, "v0")] {
                    let part: Vec<&Block> = blocks
                        .iter()
                        .filter(|block| form::kind(&block.cid) == Ok(kind))
                        .collect();
                    if !part.is_empty() {
                        self.put_parts(&part, name, limit).await?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Sends one archive, whose blocks the node counts. If its root, the last block, is pinned, no
    /// collection comes before.
    async fn import(
        &self,
        blocks: &[Block],
        limit: Duration,
        is_pinned: bool,
    ) -> Result<(), StoreError> {
        let args = [
            ("pin-roots", if is_pinned { "true" } else { "false" }),
            ("stats", "true"),
            ("fast-provide-root", "false"),
        ];
        let archive = [car::archive(blocks)];
        let mut is_first = true;
        let answer = loop {
            // This call kills a BTFS node, and one may have taken over the address at any time.
            probe::meet_again(&self.client).await.map_err(plain)?;
            let sent = self
                .client
                .call_once("dag/import", &args, &archive, ANSWER, limit);
            match sent.await {
                // A connection from before the node's restart.
                Err(RpcError::Broken(_)) if is_first => is_first = false,
                answer => break answer.map_err(plain)?,
            }
        };
        let mut lines = lines::<ImportLine>(&answer)?;
        if is_pinned {
            let root = lines.iter_mut().find_map(|line| line.root.take());
            match root.map(|root| root.error) {
                Some(error) if error.is_empty() => {}
                Some(error) => return Err(unfinished(&error)),
                None => return Err(unfinished("its answer does not say what it has pinned")),
            }
        }
        let stats = (lines.into_iter().find_map(|line| line.stats))
            .ok_or_else(|| unfinished("the count of blocks is missing in its answer"))?;
        let bytes: u64 = blocks.iter().map(|block| block.data.len() as u64).sum();
        match (stats.blocks, stats.bytes) == (blocks.len(), bytes) {
            true => Ok(()),
            false => Err(unfinished(&format!(
                "it took {} blocks of {} bytes, and {} of {bytes} were sent",
                stats.blocks,
                stats.bytes,
                blocks.len()
            ))),
        }
    }

    /// Sends many files, each of which the node names by CID.
    async fn put_parts(
        &self,
        blocks: &[&Block],
        format: &str,
        limit: Duration,
    ) -> Result<(), StoreError> {
        let files: Vec<File> = blocks
            .iter()
            .map(|block| File::new(block.data.clone()))
            .collect();
        let args = [("format", format)];
        let (answer, error) = self
            .client
            .stream("block/put", &args, &files, ANSWER, limit)
            .await
            .map_err(plain)?;
        let mut named: HashMap<String, usize> = HashMap::new();
        for line in lines::<PutLine>(&answer)? {
            *named.entry(line.key).or_default() += 1;
        }
        let unnamed = blocks
            .iter()
            .find(|block| named.remove(&block.cid.to_string()) != Some(1));
        match (unnamed, named.keys().next(), error) {
            (None, None, None) => Ok(()),
            (_, _, Some(error)) => Err(unfinished(&error)),
            (_, Some(other), _) => Err(unfinished(&format!(
                "it stored a block as {}, which none of ours is",
                text::name(other)
            ))),
            (Some(block), None, _) => Err(unfinished(&format!(
                "it does not say that it took {}",
                block.cid
            ))),
        }
    }

    /// The block from the node's disk.
    async fn local(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        let data = self.local_unverified(cid).await?;
        check_bytes(cid, &data).map(|()| data)
    }

    /// What the node's disk has under `cid`.
    async fn local_unverified(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        let text = cid.to_string();
        let args = [("arg", text.as_str()), ("offline", "true")];
        let answer = self
            .client
            .call("block/get", &args, &[], MAX_BLOCK_BYTES, self.patience.ask);
        answered(cid, answer.await)
    }

    /// What the node has or finds under `cid`, by RPC.
    async fn fetch(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        match self.local_unverified(cid).await {
            Err(StoreError::Missing(_)) if !self.patience.network.is_zero() => {}
            other => return other,
        }
        self.far(cid).await
    }

    /// What another node has under `cid`. Only the node itself can call it missing, not its
    /// absence.
    async fn far(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        let (text, patience) = (cid.to_string(), self.patience.network);
        let args = [("arg", text.as_str())];
        let answer = self
            .client
            .search("block/get", &args, &[], MAX_BLOCK_BYTES, patience);
        match answer.await.and_then(whole) {
            Err(error) if error.is_search_over() => Err(StoreError::Missing(*cid)),
            answer => answered(cid, answer),
        }
    }

    /// [`BlockStore::put`] with a bundle.
    async fn put_held(&self, blocks: &[Block], bundle: &Block) -> Result<bool, StoreError> {
        if self.client.dialect() != Dialect::Ipfs {
            return Ok(false);
        }
        blocks.iter().try_for_each(Block::check)?;
        // In one piece, because the last block holds the rest.
        let all = [blocks, std::slice::from_ref(bundle)].concat();
        let bytes = all.iter().map(|block| block.data.len()).sum();
        self.import(&all, self.pace.limit(bytes), true).await?;
        Ok(true)
    }

    async fn verified(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        if self.beside.has_given(cid) {
            self.beside.close("what the gateway gave was not enough");
        }
        let data = self.fetch(cid).await?;
        check_bytes(cid, &data).map(|()| data)
    }

    async fn unverified(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        let beside = self.beside.leaf(&self.client, cid).await;
        if let Answer::Given(data) = beside {
            return Ok(data);
        }
        let data = self.fetch(cid).await?;
        if let Answer::Lacks = beside {
            self.beside
                .close("the gateway has not got what the node has");
        }
        Ok(data)
    }
}

#[async_trait]
impl BlockStore for RpcStore {
    async fn put(&self, blocks: &[Block], bundle: Option<&Block>) -> Result<bool, StoreError> {
        if let Some(bundle) = bundle {
            return self.put_held(blocks, bundle).await;
        }
        blocks.iter().try_for_each(Block::check_form)?;
        let sent = self
            .pace
            .send(blocks, |batch, limit| self.put(batch, limit))
            .await;
        // The node hashes every block, and refuses or renames a wrong one; so hashing here only
        // tells whose fault it is.
        if sent.is_err() {
            blocks.iter().try_for_each(Block::check)?;
        }
        sent.map(|()| true)
    }

    async fn lookup(&self, cid: &Cid, how: Lookup) -> Result<Bytes, StoreError> {
        form::kind(cid).map_err(|e| StoreError::Permanent(e.to_string()))?;
        match how {
            Lookup::Network => self.verified(cid).await,
            Lookup::Unverified => self.unverified(cid).await,
            Lookup::Local => self.local(cid).await,
        }
    }

    async fn get_leaves(&self, leaves: &[(Cid, u64)]) -> Result<Vec<Bytes>, StoreError> {
        self.cat(leaves).await
    }

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        form::kind(cid).map_err(|e| StoreError::Permanent(e.to_string()))?;
        let text = cid.to_string();
        let args = [("arg", text.as_str()), ("offline", "true")];
        match self
            .client
            .call("block/stat", &args, &[], ANSWER, self.patience.ask)
            .await
        {
            Ok(answer)
                if lines::<PutLine>(&answer)?
                    .first()
                    .is_some_and(|line| line.key == text) =>
            {
                Ok(true)
            }
            Ok(_) => Err(unfinished("its answer to `block/stat` is of another block")),
            Err(error) => match of_block(cid, error) {
                StoreError::Missing(_) => Ok(false),
                other => Err(other),
            },
        }
    }

    async fn pin_with(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        progress: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError> {
        self.pin_whole(root, from, progress).await
    }

    async fn unpin(&self, root: &Cid) -> Result<(), StoreError> {
        let text = root.to_string();
        match self
            .client
            .call("pin/rm", &[("arg", &text)], &[], ANSWER, self.patience.ask)
            .await
        {
            Ok(_) => Ok(()),
            Err(RpcError::Failed(why))
                if why.contains("not pinned") || why.contains("indirect") =>
            {
                Ok(())
            }
            Err(error) => Err(plain(error)),
        }
    }

    async fn pinned(&self, among: Option<&[Cid]>) -> Result<Vec<Cid>, StoreError> {
        match among {
            Some(roots) => self.listed_of(roots).await,
            None => self.listed().await,
        }
    }
}

/// One JSON value a line; fails if the last is truncated.
fn lines<T: for<'de> Deserialize<'de>>(answer: &[u8]) -> Result<Vec<T>, StoreError> {
    serde_json::Deserializer::from_slice(answer)
        .into_iter::<T>()
        .collect::<Result<_, _>>()
        .map_err(|fault| unfinished(&format!("its answer is not what it should be: {fault}")))
}

fn unfinished(why: &str) -> StoreError {
    StoreError::Transient(text::message(why))
}

/// Classifies an error of a call without a block.
fn plain(error: RpcError) -> StoreError {
    match error {
        RpcError::Away(why) => StoreError::Away(why),
        error if error.is_permanent() => StoreError::Permanent(error.to_string()),
        error => StoreError::Transient(error.to_string()),
    }
}

/// Classifies an error of a request for `cid`.
fn of_block(cid: &Cid, error: RpcError) -> StoreError {
    match error.is_absence() {
        true => StoreError::Missing(*cid),
        false => plain(error),
    }
}

/// The answer for `cid`: at most a block's length.
fn answered(cid: &Cid, answer: Result<Bytes, RpcError>) -> Result<Bytes, StoreError> {
    let data = answer.map_err(|error| of_block(cid, error))?;
    if data.is_empty() && form::verify(cid, &data).is_err() {
        return Err(unfinished("its answer is empty"));
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_answers_cannot_flood_or_corrupt_the_log() {
        let long = "x".repeat(ANSWER / 2);
        let json = format!("{{\"Stats\":{{\"BlockCount\":\"\u{202e}{long}\"}}}}");
        let wrong = lines::<ImportLine>(json.as_bytes()).err();
        let said = unfinished(&format!("\u{1b}[2J{long}\nnext"));
        for error in [wrong.unwrap(), said] {
            let told = error.to_string();
            assert!(told.chars().count() < 400, "{} characters", told.len());
            assert!(!told.contains(['\u{1b}', '\n', '\u{202e}']), "{told}");
        }
    }
}
