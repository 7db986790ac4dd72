//! What a chain last said of an owner's tokens on a contract, stored so that a mount can show them
//! while the chain does not answer.
//!
//! Form: JSON, `known/CHAIN-CONTRACT-OWNER.json`; golden file `tests/golden/state/known.json`.
//! Invariant: it grants nothing: each volume stores its own allowance. A damaged or other-version
//! list counts as none.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use alloy::primitives::Address;
use pxfs_base::lock;
use serde::{Deserialize, Serialize};

use super::chain::ChainParts;
use crate::chain::Snapshot;
use crate::chain::dialect::Dialect;
use crate::durable::{Unnamed, create_folder, sweep_unfinished};

const VERSION: u8 = 1;
/// Seconds after which an unchanged list is written again.
const LASTS_S: u64 = 3_600;

/// The last known list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Known {
    version: u8,
    /// When it was read, Unix seconds by this machine's clock.
    pub(crate) read_s: u64,
    /// The contract's dialect.
    pub(crate) dialect: Dialect,
    pub(crate) snapshot: Snapshot,
    /// Account nonces of the keys of this wallet's names.
    pub(crate) keys: BTreeMap<String, u64>,
}

impl Known {
    pub(crate) fn new(
        read_s: u64,
        dialect: Dialect,
        snapshot: Snapshot,
        keys: BTreeMap<String, u64>,
    ) -> Self {
        Self {
            version: VERSION,
            read_s,
            dialect,
            snapshot,
            keys,
        }
    }

    /// `None` if `file` is missing or damaged.
    fn read(file: &Path) -> Option<Self> {
        let bytes = std::fs::read(file).ok()?;
        let known = serde_json::from_slice::<Self>(&bytes).ok();
        let known = known.filter(|known| known.version == VERSION);
        if known.is_none() {
            tracing::warn!(path = %file.display(), "what is kept of the chain is damaged, or of another version: it is left alone until the chain answers");
        }
        known
    }

    fn write(&self, file: &Path) -> io::Result<()> {
        let folder = file.parent().unwrap_or(Path::new("."));
        create_folder(folder)?;
        sweep_unfinished(folder);
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        Unnamed::write(folder, &bytes, None)?.rename(file)
    }

    /// The tokens, at the chain's likely time when this clock says `now_s`.
    pub(crate) fn snapshot_at(&self, now_s: u64) -> Snapshot {
        let passed_s = now_s.saturating_sub(self.read_s);
        Snapshot {
            timestamp_s: self.snapshot.timestamp_s.saturating_add(passed_s),
            ..self.snapshot.clone()
        }
    }

    fn is_news(&self, before: &Self) -> bool {
        let is_same = self.snapshot.tokens == before.snapshot.tokens
            && (self.dialect, &self.keys) == (before.dialect, &before.keys);
        !is_same || self.read_s.abs_diff(before.read_s) >= LASTS_S
    }
}

pub(crate) struct List {
    /// `None` for an in-process chain, which always answers.
    file: Option<PathBuf>,
    kept: Mutex<Option<Arc<Known>>>,
}

impl List {
    /// That of `chain` in the state folder `state`.
    pub(crate) fn of(state: &Path, chain: &ChainParts) -> Self {
        let file = match &chain.embedded {
            Some(_) => None,
            None => Some(file(state, chain.chain_id, &chain.contract, &chain.owner)),
        };
        let kept = file.as_deref().and_then(Known::read).map(Arc::new);
        Self {
            file,
            kept: Mutex::new(kept),
        }
    }

    pub(crate) fn get(&self) -> Option<Arc<Known>> {
        lock(&self.kept).clone()
    }

    /// Stores `known` if changed. A failure does not affect the mount.
    pub(crate) async fn keep(&self, known: Known) {
        let is_news = self.get().is_none_or(|before| known.is_news(&before));
        let Some(file) = self.file.clone().filter(|_| is_news) else {
            return;
        };
        let written = tokio::task::spawn_blocking(move || known.write(&file).map(|()| known));
        match written.await.map_err(io::Error::other).flatten() {
            Ok(known) => {
                *lock(&self.kept) = Some(Arc::new(known));
            }
            Err(fault) => tracing::debug!("what the chain told is not kept: {fault}"),
        }
    }
}

/// A list's path in the state folder `state`.
fn file(state: &Path, chain_id: u64, contract: &Address, owner: &Address) -> PathBuf {
    let name = format!("{chain_id}-{contract:#x}-{owner:#x}.json");
    state.join("known").join(name)
}

/// The chain of `owner`'s tokens of `contract`, by the lists in `state`; `None` if several.
pub(crate) fn chain_of(state: &Path, contract: &Address, owner: &Address) -> Option<u64> {
    let rest = format!("-{contract:#x}-{owner:#x}.json");
    let entries = std::fs::read_dir(state.join("known")).ok()?;
    let names = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let id: u64 = name.strip_suffix(&rest)?.parse().ok()?;
        dialect_of(state, id, contract, owner).map(|_| id)
    });
    let mut ids = names.fuse();
    ids.next().filter(|_| ids.next().is_none())
}

/// The dialect of `contract`, by the lists in `state`.
pub(crate) fn dialect_of(
    state: &Path,
    chain_id: u64,
    contract: &Address,
    owner: &Address,
) -> Option<Dialect> {
    let known = Known::read(&file(state, chain_id, contract, owner))?;
    Some(known.dialect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::anchor::Anchor;
    use crate::chain::{Accounting, NO_LOCK_S, TokenInfo};
    use crate::types::TokenId;
    use alloy::primitives::B256;

    const NAME: &str = "k51qzi5uqu5dgutdk6i1ynyzgkqngpha5xpgia3a5qqp4jsh0u4csozksxel2r";

    fn known() -> Known {
        let token = TokenInfo {
            id: TokenId::from(7),
            owner: Address::repeat_byte(2),
            package: "5GB".to_owned(),
            epoch: 2,
            name: Some(NAME.to_owned()),
            size_bytes: 5_000_000_000,
            usage_bytes: 4_096,
            uploads_left: None,
            accounting: Accounting::Absolute,
            last_sync_s: 1_800_000_000,
            sync_window_s: 2_592_000,
            sequence: Some(3),
            root: Some(B256::repeat_byte(3)),
            anchor: None,
            sync_asked_s: Some(1_800_000_100),
        };
        let additive = TokenInfo {
            id: TokenId(alloy::primitives::U256::MAX),
            name: None,
            uploads_left: Some(25),
            accounting: Accounting::Additive,
            sync_window_s: NO_LOCK_S,
            sequence: None,
            root: None,
            anchor: Some(Anchor {
                owner: Address::repeat_byte(2),
                name: NAME.to_owned(),
                sequence: 5,
                root: B256::repeat_byte(4),
            }),
            sync_asked_s: None,
            ..token.clone()
        };
        let snapshot = Snapshot {
            block: 42,
            timestamp_s: 1_800_000_200,
            tokens: vec![token, additive],
        };
        let keys = BTreeMap::from([(NAME.to_owned(), 9)]);
        Known::new(1_800_000_201, Dialect::PxSync, snapshot, keys)
    }

    /// A changed form makes every state folder wait for its chain once.
    #[test]
    fn what_the_chain_told_is_read_by_every_later_version() {
        let golden = include_str!("../../tests/golden/state/known.json");
        let dir = tempfile::tempdir().unwrap();
        let (contract, owner) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let file = file(dir.path(), 31337, &contract, &owner);
        known().write(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), golden);
        assert_eq!(Known::read(&file), Some(known()));
    }

    #[test]
    fn a_damaged_list_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("1.json");
        let golden = include_str!("../../tests/golden/state/known.json");
        let other = golden.replace("\"version\":1", "\"version\":2");
        for damaged in ["", "{", "[]", &golden[..golden.len() - 9], &other] {
            std::fs::write(&file, damaged).unwrap();
            assert_eq!(Known::read(&file), None, "{damaged}");
        }
    }

    #[test]
    fn a_chain_without_a_number_is_known_by_its_only_list() {
        let dir = tempfile::tempdir().unwrap();
        let (contract, owner) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let of = |contract, owner| chain_of(dir.path(), contract, owner);
        assert_eq!(of(&contract, &owner), None);
        known()
            .write(&file(dir.path(), 100, &contract, &owner))
            .unwrap();
        assert_eq!(of(&contract, &owner), Some(100));
        assert_eq!(of(&owner, &owner), None);
        assert_eq!(of(&contract, &contract), None);
        // An unreadable one says nothing.
        let damaged = file(dir.path(), 7, &contract, &owner);
        std::fs::write(&damaged, "{").unwrap();
        assert_eq!(of(&contract, &owner), Some(100));
        known().write(&damaged).unwrap();
        assert_eq!(of(&contract, &owner), None);
    }

    #[test]
    fn time_goes_on_while_the_chain_does_not_answer() {
        let known = known();
        let at = |now_s| known.snapshot_at(now_s).timestamp_s;
        assert_eq!(at(1_800_000_301), 1_800_000_300);
        assert_eq!(at(0), 1_800_000_200, "a clock that was set back");
    }
}
