//! Reads and verifies the usage metadata that a token's name leads to.
//!
//! Invariant: a finding is of a document that the name's key signed, for this chain, contract,
//! token and epoch; everything else is a refusal with the contract's code for it (`PxSync.sol`).
//! Every read ends in bounded time. Called by the operator.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::B256;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::names::key::public_key;
use crate::names::record::Record;
use crate::names::{NameError, NameStore};
use crate::pack::cid::{Kind, digest, kind};
use crate::pack::usage::Usage;
use crate::store::{BlockStore, StoreError};
use crate::types::VolumeKey;

/// How long looking a name up, or fetching the document, may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Where documents come from.
#[derive(Clone)]
pub struct Reader {
    /// Resolves names.
    pub names: Arc<dyn NameStore>,
    /// Has the documents.
    pub blocks: Arc<dyn BlockStore>,
    /// Tells whether a record is still alive.
    pub clock: Arc<dyn Clock>,
}

/// What a verified document says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Bytes stored.
    pub usage_bytes: u64,
    /// Sequence of the document.
    pub sequence: u64,
    /// Digest of the volume's root; `None` for none.
    pub root: Option<B256>,
}

/// Why there is no finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The contract's code, 1 to 6.
    pub code: u8,
    /// One line for the log.
    pub why: String,
    /// Whether another try may find something.
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

const NO_NAME: u8 = 1;
const NO_DOCUMENT: u8 = 2;
const NOT_VALID: u8 = 3;
const OTHER_TOKEN: u8 = 4;
const BAD_KEY: u8 = 5;
const ORACLE_FAILED: u8 = 6;

impl Reader {
    /// The newest document under `name`, verified for `volume`.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn read(&self, volume: &VolumeKey, name: &str) -> Result<Finding, Refusal> {
        let key = public_key(name).map_err(|fault| Refusal::new(BAD_KEY, fault))?;
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
        if kind(&record.cid) != Ok(Kind::Leaf) {
            let why = format!("{name} does not lead to one raw block");
            return Err(Refusal::new(NOT_VALID, why));
        }
        let document = match timeout(LIMIT, self.blocks.get(&record.cid)).await {
            Ok(document) => document.map_err(of_store)?,
            Err(_) => return Err(Refusal::again(NO_DOCUMENT, "blocks do not come in time")),
        };
        let usage = Usage::verify(&document, &key);
        let usage = usage.map_err(|fault| Refusal::new(NOT_VALID, fault))?;
        if usage.volume != *volume {
            let why = format!("{name} leads to usage metadata of another token or epoch");
            return Err(Refusal::new(OTHER_TOKEN, why));
        }
        let root = usage.root.as_ref().map(digest).transpose();
        let root = root.map_err(|fault| Refusal::new(NOT_VALID, fault))?;
        Ok(Finding {
            usage_bytes: usage.usage,
            sequence: usage.sequence,
            root: root.map(B256::from),
        })
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
        StoreError::Transient(_) => Refusal::again(NO_DOCUMENT, fault),
        StoreError::Permanent(_) => Refusal::new(ORACLE_FAILED, fault),
    }
}
