//! Reads and verifies the usage metadata under a token's name.
//!
//! Invariant: the name's key signed a finding's document for this chain, contract, token and epoch;
//! all else is a refusal with the contract's code (`PxSync.sol`). All sources are asked at once and
//! the newest valid document counts, as in the workflow under `contracts/oracle`. Every read ends
//! in bounded time.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::B256;
use async_trait::async_trait;
use bytes::Bytes;
use ed25519_dalek::VerifyingKey;
use futures::future::join_all;
use tokio::time::timeout;

use pxfs_base::clock::Clock;
use pxfs_base::types::VolumeKey;
use pxfs_format::cid::digest;
use pxfs_format::usage::{self, Usage};
use pxfs_storage::names::gateway::NameGateway;
use pxfs_storage::names::key::public_key;
use pxfs_storage::names::record::Record;
use pxfs_storage::names::{NameError, NameStore};
use pxfs_storage::store::{BlockStore, BlockStoreExt, StoreError};

/// How long resolving a name, or fetching the document, may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Source of documents. The caller verifies them.
#[async_trait]
pub trait Documents: Send + Sync {
    /// For the log.
    fn label(&self) -> String;
    /// What `name` leads to.
    async fn document(&self, name: &str) -> Result<Bytes, Refusal>;
}

/// A storage node: a record, and the block that it names.
#[derive(Clone)]
pub struct NodeDocuments {
    /// Resolves names.
    pub names: Arc<dyn NameStore>,
    /// Has the documents.
    pub blocks: Arc<dyn BlockStore>,
    /// Decides whether a record has expired.
    pub clock: Arc<dyn Clock>,
}

/// Where documents come from.
#[derive(Clone)]
pub struct Reader {
    /// All are asked.
    pub sources: Vec<Arc<dyn Documents>>,
}

/// A verified document's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its bytes.
    pub document: Bytes,
    /// Bytes stored.
    pub usage_bytes: u64,
    /// Sequence of the document.
    pub sequence: u64,
    /// When it was made, by its machine's clock, Unix seconds.
    pub updated_s: u64,
    /// Digest of the volume's root, if any.
    pub root: Option<B256>,
}

/// Why there is no finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The contract's code, 1 to 6.
    pub code: u8,
    /// For the log, one line.
    pub why: String,
    /// Whether a retry may find something.
    pub again: bool,
}

impl Refusal {
    fn new(code: u8, why: impl Display) -> Self {
        Self {
            code,
            why: why.to_string(),
            again: false,
        }
    }

    fn again(code: u8, why: impl Display) -> Self {
        Self {
            again: true,
            ..Self::new(code, why)
        }
    }
}

/// Refusal codes, the most telling first.
const TELLING: [u8; 4] = [OTHER_TOKEN, NOT_VALID, NO_DOCUMENT, NO_NAME];
const NO_NAME: u8 = 1;
const NO_DOCUMENT: u8 = 2;
const NOT_VALID: u8 = 3;
const OTHER_TOKEN: u8 = 4;
const BAD_KEY: u8 = 5;
const ORACLE_FAILED: u8 = 6;

impl Reader {
    /// The newest document under `name` that is valid for `volume`.
    ///
    /// # Errors
    /// The most telling [`Refusal`], if no source has a valid one.
    pub async fn read(&self, volume: &VolumeKey, name: &str) -> Result<Finding, Refusal> {
        let key = public_key(name).map_err(|fault| Refusal::new(BAD_KEY, fault))?;
        let asked = self.sources.iter().map(|source| async {
            let document = source.document(name).await;
            let finding = document.and_then(|document| judge(document, &key, volume));
            finding.map_err(|refusal| Refusal {
                why: format!("{}: {}", source.label(), refusal.why),
                ..refusal
            })
        });
        best(join_all(asked).await)
    }
}

/// A document's content, if the name's key signed it for this volume.
///
/// # Errors
/// [`Refusal`].
pub(super) fn judge(
    document: Bytes,
    key: &VerifyingKey,
    volume: &VolumeKey,
) -> Result<Finding, Refusal> {
    let usage = Usage::verify(&document, key);
    let usage = usage.map_err(|fault| Refusal::new(NOT_VALID, fault))?;
    if usage.volume != *volume {
        let why = "the usage metadata is of another token or epoch";
        return Err(Refusal::new(OTHER_TOKEN, why));
    }
    let root = usage.root.as_ref().map(digest).transpose();
    let root = root.map_err(|fault| Refusal::new(NOT_VALID, fault))?;
    Ok(Finding {
        usage_bytes: usage.usage,
        sequence: usage.sequence,
        updated_s: usage.updated_s,
        root: root.map(B256::from),
        document,
    })
}

/// The newest finding, else the most telling refusal.
pub(super) fn best(
    answers: impl IntoIterator<Item = Result<Finding, Refusal>>,
) -> Result<Finding, Refusal> {
    let mut newest: Option<Finding> = None;
    let mut refusals = Vec::new();
    for answer in answers {
        match answer {
            // Two with one sequence come from a broken client; all operators pick the same.
            Ok(found)
                if newest.as_ref().is_none_or(|known| {
                    (known.sequence, &known.document) < (found.sequence, &found.document)
                }) =>
            {
                newest = Some(found);
            }
            Ok(_) => {}
            Err(refusal) => refusals.push(refusal),
        }
    }
    if let Some(newest) = newest {
        for refusal in &refusals {
            tracing::debug!("oracle: {}", refusal.why);
        }
        return Ok(newest);
    }
    // A source that did not answer may have what others lack.
    let again = refusals.iter().any(|refusal| refusal.again);
    let rank = |refusal: &Refusal| {
        let place = TELLING.iter().position(|code| *code == refusal.code);
        place.unwrap_or(TELLING.len())
    };
    let why: Vec<&str> = refusals
        .iter()
        .map(|refusal| refusal.why.as_str())
        .collect();
    let why = why.join("; ");
    let telling = refusals.iter().min_by_key(|refusal| rank(refusal));
    let code = telling.map_or(ORACLE_FAILED, |refusal| refusal.code);
    Err(Refusal { code, why, again })
}

/// The more telling code; all operators agree on it.
pub(super) fn more_telling(one: u8, other: u8) -> u8 {
    let rank = |code: u8| TELLING.iter().position(|known| *known == code);
    match (rank(one), rank(other)) {
        (Some(first), Some(second)) if second < first => other,
        (None, Some(_)) => other,
        _ => one,
    }
}

#[async_trait]
impl Documents for NodeDocuments {
    fn label(&self) -> String {
        "the node".to_owned()
    }

    async fn document(&self, name: &str) -> Result<Bytes, Refusal> {
        let record = match timeout(LIMIT, self.names.resolve(name)).await {
            Ok(record) => record.map_err(of_name)?,
            Err(_) => {
                return Err(Refusal::again(
                    ORACLE_FAILED,
                    "names do not resolve in time",
                ));
            }
        };
        let record = Record::verify(name, &record).map_err(|fault| Refusal::new(NO_NAME, fault))?;
        let now = self.clock.wall_ns();
        let alive = record.check_alive(now);
        alive.map_err(|fault| Refusal::new(NO_NAME, fault))?;
        let block = match timeout(LIMIT, self.blocks.get(&record.cid)).await {
            Ok(block) => block.map_err(of_store)?,
            Err(_) => return Err(Refusal::again(NO_DOCUMENT, "blocks do not come in time")),
        };
        let document = usage::document(&record.cid, &block);
        document.map_err(|fault| Refusal::new(NOT_VALID, fault))
    }
}

#[async_trait]
impl Documents for NameGateway {
    fn label(&self) -> String {
        self.to_string()
    }

    async fn document(&self, name: &str) -> Result<Bytes, Refusal> {
        self.fetch(name).await.map_err(of_name)
    }
}

fn of_name(fault: NameError) -> Refusal {
    match fault {
        NameError::Missing(_) | NameError::Corrupt(..) => Refusal::new(NO_NAME, fault),
        NameError::Transient(_) => Refusal::again(ORACLE_FAILED, fault),
        NameError::Permanent(_) | NameError::Stale { .. } => Refusal::new(ORACLE_FAILED, fault),
    }
}

fn of_store(fault: StoreError) -> Refusal {
    match fault {
        StoreError::Missing(_) | StoreError::Corrupt(..) => Refusal::new(NO_DOCUMENT, fault),
        StoreError::Transient(_) | StoreError::Away(_) => Refusal::again(NO_DOCUMENT, fault),
        StoreError::Permanent(_) => Refusal::new(ORACLE_FAILED, fault),
    }
}
