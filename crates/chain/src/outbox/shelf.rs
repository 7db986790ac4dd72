//! Stores what was signed before it is sent, so that a crash loses none of it.
//!
//! One file an entry: `DIR/CHAIN-GENESIS-ACCOUNT/SERIAL`, whole and durable under its name or absent;
//! one process holds `….lock` beside the folder.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | version, 1 |
//! | n | CBOR array: tag; purpose (4 fields); tries; watch; told; outcome; claimed; and, where there is one, the cap (see [`Kept`]) |
//! | 32 | SHA-256 of what stands before |
//!
//! Invariant: entries survive any crash, and an unreadable one is an error, because a forgotten purpose
//! could be signed twice.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use alloy::primitives::{Address, B256, Bytes, U256};
use async_trait::async_trait;
use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256};

use super::{Entry, Outcome, Purpose, Signed, Try};
use crate::ChainError;
use pxfs_base::durable::{Unnamed, create_folder, lock_whole, sync_folder};

const VERSION: u8 = 1;
const SUM: usize = 32;
/// Tries to lock the folder, half a second each.
const LOCK_TRIES: u32 = 6;

/// How a charge that happened elsewhere shows: a token's usage has grown as much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The token.
    pub token: U256,
    /// What the charge adds to the usage.
    pub bytes: U256,
    /// The usage when the charge was first signed.
    pub before: U256,
}

/// An entry, and what the sender knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The caller's description; one purpose has one tag.
    pub tag: String,
    /// The entry.
    pub entry: Entry,
    /// Evidence that it happened, if any.
    pub watch: Option<Watch>,
    /// Whether the caller returns for the outcome by its tag, after any crash.
    pub claimed: bool,
    /// Whether the caller knows the outcome.
    pub told: bool,
    /// The final outcome.
    pub over: Option<Outcome>,
    /// The most for its gas, wei, if set when requested.
    pub gas_cost_max: Option<U256>,
}

/// Storage for entries by serial number.
#[async_trait]
pub trait Shelf: Send + Sync {
    /// All entries in order.
    async fn load(&self) -> Result<BTreeMap<u64, Vec<u8>>, ChainError>;
    /// Adds or replaces one; durable on return.
    async fn put(&self, serial: u64, bytes: Vec<u8>) -> Result<(), ChainError>;
    /// Removes one; durable on return.
    async fn remove(&self, serial: u64) -> Result<(), ChainError>;
}

/// A folder, exclusive once read: two processes that number independently would replace each
/// other's files.
#[derive(Debug)]
pub struct FolderShelf {
    folder: PathBuf,
    lock: Mutex<Option<File>>,
}

impl FolderShelf {
    /// An account's storage in `folder`; created on the first put.
    #[must_use]
    pub fn new(folder: &Path, chain_id: u64, genesis: &B256, account: &Address) -> Self {
        let short = alloy::hex::encode(&genesis[..8]);
        Self {
            folder: folder.join(format!("{chain_id}-{short}-{account:#x}")),
            lock: Mutex::default(),
        }
    }

    /// Locks it unless we have the lock. Blocks.
    fn lock(folder: &Path) -> std::io::Result<File> {
        let file = folder.with_extension("lock");
        if let Some(parent) = file.parent() {
            create_folder(parent)?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(file)?;
        // An ending process may have a write to finish.
        for _ in 0..LOCK_TRIES {
            match lock_whole(&file) {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(fault)) => return Err(fault),
            }
        }
        Err(std::io::Error::new(
            std::io::ErrorKind::WouldBlock,
            "another pxfs, or another account setting of this one, sends from the same account there",
        ))
    }

    fn held(&self) -> MutexGuard<'_, Option<File>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, ChainError> {
        let folder = self.folder.clone();
        let done = tokio::task::spawn_blocking(move || work(&folder).map_err(|e| (folder, e)));
        match done.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err((folder, fault))) => Err(ChainError::Outbox(format!(
                "{}: {fault}: nothing is sent without it",
                folder.display()
            ))),
            Err(_) => Err(ChainError::Outbox("the writer ended in a panic".to_owned())),
        }
    }
}

#[async_trait]
impl Shelf for FolderShelf {
    async fn load(&self) -> Result<BTreeMap<u64, Vec<u8>>, ChainError> {
        if self.held().is_none() {
            let lock = self.work(Self::lock).await?;
            self.held().replace(lock);
        }
        self.work(|folder| {
            let entries = match std::fs::read_dir(folder) {
                Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => {
                    return Ok(BTreeMap::new());
                }
                entries => entries?,
            };
            let mut found = BTreeMap::new();
            for entry in entries {
                let entry = entry?;
                // Other names are drafts from a crash: nothing of them was sent.
                let name = entry.file_name();
                let serial = name.to_str().and_then(|name| name.parse().ok());
                match serial.filter(|&serial| *file_name(serial) == *name) {
                    Some(serial) => drop(found.insert(serial, std::fs::read(entry.path())?)),
                    None => std::fs::remove_file(entry.path())?,
                }
            }
            Ok(found)
        })
        .await
    }

    async fn put(&self, serial: u64, bytes: Vec<u8>) -> Result<(), ChainError> {
        self.work(move |folder| {
            create_folder(folder)?;
            Unnamed::write(folder, &bytes, None)?.rename(&folder.join(file_name(serial)))?;
            sync_folder(folder)
        })
        .await
    }

    async fn remove(&self, serial: u64) -> Result<(), ChainError> {
        self.work(move |folder| {
            std::fs::remove_file(folder.join(file_name(serial)))?;
            sync_folder(folder)
        })
        .await
    }
}

fn file_name(serial: u64) -> String {
    format!("{serial:020}")
}

/// In memory, for accounts that live no longer than the process.
#[derive(Debug, Default)]
pub struct MemoryShelf(Mutex<BTreeMap<u64, Vec<u8>>>);

#[async_trait]
impl Shelf for MemoryShelf {
    async fn load(&self) -> Result<BTreeMap<u64, Vec<u8>>, ChainError> {
        Ok(self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }

    async fn put(&self, serial: u64, bytes: Vec<u8>) -> Result<(), ChainError> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(serial, bytes);
        Ok(())
    }

    async fn remove(&self, serial: u64) -> Result<(), ChainError> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&serial);
        Ok(())
    }
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct Form {
    #[n(0)]
    tag: String,
    #[n(1)]
    to: Option<ByteArray<20>>,
    #[n(2)]
    data: ByteVec,
    #[n(3)]
    value: ByteArray<32>,
    #[n(4)]
    bound: bool,
    #[n(5)]
    tries: Vec<TryForm>,
    #[n(6)]
    watch: Option<WatchForm>,
    #[n(7)]
    told: bool,
    /// 0 happened, 1 refused, 2 lost.
    #[n(8)]
    over: Option<u8>,
    #[n(9)]
    claimed: bool,
    /// Absent in earlier versions' files; they skip it.
    #[n(10)]
    gas_cost_max: Option<ByteArray<32>>,
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct TryForm {
    #[n(0)]
    nonce: u64,
    #[n(1)]
    since: u64,
    #[n(2)]
    signed: Vec<SignedForm>,
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct SignedForm {
    #[n(0)]
    hash: ByteArray<32>,
    #[n(1)]
    raw: ByteVec,
    #[n(2)]
    gas: u64,
    #[n(3)]
    max_fee: ByteArray<16>,
    #[n(4)]
    tip: Option<ByteArray<16>>,
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct WatchForm {
    #[n(0)]
    token: ByteArray<32>,
    #[n(1)]
    bytes: ByteArray<32>,
    #[n(2)]
    before: ByteArray<32>,
}

impl Kept {
    /// The stored form.
    ///
    /// # Errors
    /// [`ChainError::Outbox`]; none is known.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ChainError> {
        let mut bytes = vec![VERSION];
        minicbor::encode(self.form(), &mut bytes)
            .map_err(|fault| ChainError::Outbox(fault.to_string()))?;
        let sum = Sha256::digest(&bytes);
        bytes.extend(sum);
        Ok(bytes)
    }

    /// Decodes a stored entry.
    ///
    /// # Errors
    /// [`ChainError::Outbox`] if it is damaged or of another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ChainError> {
        let damaged = || {
            ChainError::Outbox(
                "a transaction that was written down is damaged: put the state folder back".into(),
            )
        };
        let (body, sum) = bytes.split_last_chunk::<SUM>().ok_or_else(damaged)?;
        if Sha256::digest(body).as_slice() != sum {
            return Err(damaged());
        }
        match body.split_first() {
            Some((&VERSION, body)) => {
                let form: Form = minicbor::decode(body).map_err(|_| damaged())?;
                Self::of(form).ok_or_else(damaged)
            }
            _ => Err(ChainError::Outbox(
                "a transaction was written down by a newer pxfs: use that one".into(),
            )),
        }
    }

    fn form(&self) -> Form {
        let purpose = &self.entry.purpose;
        let signed = |signed: &Signed| SignedForm {
            hash: signed.hash.0.into(),
            raw: signed.raw.to_vec().into(),
            gas: signed.gas,
            max_fee: signed.max_fee.to_be_bytes().into(),
            tip: signed.tip.map(|tip| tip.to_be_bytes().into()),
        };
        let tries = self.entry.tries.iter().map(|one| TryForm {
            nonce: one.nonce,
            since: one.since,
            signed: one.signed.iter().map(signed).collect(),
        });
        Form {
            tag: self.tag.clone(),
            to: purpose.to.map(|to| to.into_array().into()),
            data: purpose.data.to_vec().into(),
            value: purpose.value.to_be_bytes::<32>().into(),
            bound: purpose.bound,
            tries: tries.collect(),
            watch: self.watch.as_ref().map(|watch| WatchForm {
                token: watch.token.to_be_bytes::<32>().into(),
                bytes: watch.bytes.to_be_bytes::<32>().into(),
                before: watch.before.to_be_bytes::<32>().into(),
            }),
            told: self.told,
            over: self.over.map(|over| match over {
                Outcome::Happened => 0,
                Outcome::Refused => 1,
                Outcome::Lost => 2,
            }),
            claimed: self.claimed,
            gas_cost_max: self
                .gas_cost_max
                .map(|most| most.to_be_bytes::<32>().into()),
        }
    }

    fn of(form: Form) -> Option<Self> {
        let signed = |signed: SignedForm| Signed {
            hash: B256::from(*signed.hash),
            raw: Bytes::from(Vec::from(signed.raw)),
            gas: signed.gas,
            max_fee: u128::from_be_bytes(*signed.max_fee),
            tip: signed.tip.map(|tip| u128::from_be_bytes(*tip)),
        };
        let tries: Vec<Try> = form
            .tries
            .into_iter()
            .map(|one| Try {
                nonce: one.nonce,
                since: one.since,
                signed: one.signed.into_iter().map(signed).collect(),
            })
            .collect();
        if tries.is_empty() || tries.iter().any(|one| one.signed.is_empty()) {
            return None;
        }
        Some(Self {
            tag: form.tag,
            entry: Entry {
                purpose: Purpose {
                    to: form.to.map(|to| Address::from(*to)),
                    data: Bytes::from(Vec::from(form.data)),
                    value: U256::from_be_bytes(*form.value),
                    bound: form.bound,
                },
                tries,
            },
            watch: form.watch.map(|watch| Watch {
                token: U256::from_be_bytes(*watch.token),
                bytes: U256::from_be_bytes(*watch.bytes),
                before: U256::from_be_bytes(*watch.before),
            }),
            claimed: form.claimed,
            told: form.told,
            over: match form.over {
                None => None,
                Some(0) => Some(Outcome::Happened),
                Some(1) => Some(Outcome::Refused),
                Some(2) => Some(Outcome::Lost),
                Some(_) => return None,
            },
            gas_cost_max: form.gas_cost_max.map(|most| U256::from_be_bytes(*most)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        Kept {
            tag: "charge 7".to_owned(),
            entry: Entry {
                purpose: Purpose {
                    to: Some(Address::repeat_byte(0x1c)),
                    data: Bytes::from_static(b"call"),
                    value: U256::from(3),
                    bound: true,
                },
                tries: vec![Try {
                    nonce: 5,
                    since: 99,
                    signed: vec![Signed {
                        hash: B256::repeat_byte(2),
                        raw: Bytes::from_static(b"raw"),
                        gas: 21_000,
                        max_fee: 7,
                        tip: Some(1),
                    }],
                }],
            },
            watch: Some(Watch {
                token: U256::from(1),
                bytes: U256::from(4096),
                before: U256::from(8192),
            }),
            claimed: true,
            told: true,
            over: Some(Outcome::Refused),
            gas_cost_max: None,
        }
    }

    #[tokio::test]
    async fn stored_transactions_survive_a_crash_and_drafts_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let open = || FolderShelf::new(dir.path(), 1, &B256::ZERO, &Address::ZERO);
        assert!(open().load().await.unwrap().is_empty());
        open().put(7, b"one".to_vec()).await.unwrap();
        open().put(8, b"two".to_vec()).await.unwrap();
        open().put(7, b"new".to_vec()).await.unwrap();
        std::fs::write(open().folder.join("123-0"), b"half").unwrap();
        open().remove(8).await.unwrap();
        let found = open().load().await.unwrap();
        assert_eq!(found, BTreeMap::from([(7, b"new".to_vec())]));
    }

    #[tokio::test]
    async fn two_that_send_from_one_account_do_not_replace_each_others_files() {
        let dir = tempfile::tempdir().unwrap();
        let open = || FolderShelf::new(dir.path(), 1, &B256::ZERO, &Address::ZERO);
        let first = open();
        first.load().await.unwrap();
        first.load().await.unwrap();
        let told = open().load().await.unwrap_err().to_string();
        assert!(
            told.contains("sends from the same account") && told.lines().count() == 1,
            "{told}"
        );
        // Another account has its own folder.
        let other = FolderShelf::new(dir.path(), 1, &B256::ZERO, &Address::repeat_byte(1));
        other.load().await.unwrap();
        drop(first);
        open().load().await.unwrap();
    }

    #[test]
    fn an_entry_that_is_damaged_is_no_entry_less() {
        let bytes = kept().to_bytes().unwrap();
        assert_eq!(Kept::from_bytes(&bytes).unwrap(), kept());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Kept::from_bytes(&damaged).is_err(), "{at}");
        }
        assert!(Kept::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        assert!(Kept::from_bytes(b"").is_err());
    }

    /// A changed form loses earlier versions' entries, which would then be sent twice.
    #[test]
    fn what_was_sent_is_found_again_by_every_later_version() {
        let golden = include_str!("../../../../tests/golden/state/outbox.hex");
        let bytes = alloy::hex::decode(golden.trim_end()).unwrap();
        assert_eq!(Kept::from_bytes(&bytes).unwrap(), kept());
        assert_eq!(kept().to_bytes().unwrap(), bytes);
        let golden = include_str!("../../../../tests/golden/state/outbox-capped.hex");
        let bytes = alloy::hex::decode(golden.trim_end()).unwrap();
        let capped = Kept {
            gas_cost_max: Some(U256::from(9)),
            ..kept()
        };
        assert_eq!(Kept::from_bytes(&bytes).unwrap(), capped);
        assert_eq!(capped.to_bytes().unwrap(), bytes);
    }
}
