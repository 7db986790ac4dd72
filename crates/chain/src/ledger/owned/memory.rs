//! Remembers a token search between runs in a small file.
//!
//! Form: JSON, `{"version": 1, "tokens": ["7"], "from": 100, "to": 200, "range": 2000, "id": 500}`;
//! golden file `tests/golden/state/owned.json`. Invariant: it only says where to search, so a
//! damaged or other-version file counts as none.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use alloy::primitives::U256;
use serde::{Deserialize, Serialize};

use super::RANGE_FIRST;
use pxfs_base::durable::{Unnamed, create_folder, sweep_unfinished};
use pxfs_base::types::TokenId;

/// The version of the file.
const VERSION: u8 = 1;

/// Blocks without news that justify a write.
const BLOCKS_NEWS: u64 = 10_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// Tokens that ever came to the wallet, or were found to be its own.
    pub(super) tokens: BTreeSet<U256>,
    /// The oldest and newest block whose logs were read.
    pub(super) from: Option<u64>,
    pub(super) to: Option<u64>,
    /// Blocks of the next request.
    pub(super) range: u64,
    /// The next id to try.
    pub(super) id: u64,
}

#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) memory: Memory,
    /// What the file has.
    written: Memory,
    file: Option<PathBuf>,
}

impl Notes {
    /// Loads `file`, and writes to it.
    pub(super) fn of(file: PathBuf) -> Self {
        let memory = Memory::read(&file);
        Self {
            written: memory.clone(),
            memory,
            file: Some(file),
        }
    }

    /// Writes news atomically.
    pub(super) async fn keep(&mut self) {
        let is_news = self.memory.is_news(&self.written);
        let Some(file) = self.file.clone().filter(|_| is_news) else {
            return;
        };
        let memory = self.memory.clone();
        let written = tokio::task::spawn_blocking(move || memory.write(&file).map(|()| memory));
        match written.await {
            Ok(Ok(written)) => self.written = written,
            Ok(Err(fault)) => tracing::debug!("found tokens are not remembered: {fault}"),
            Err(fault) => tracing::debug!("found tokens are not remembered: {fault}"),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u8,
    tokens: Vec<TokenId>,
    from: Option<u64>,
    to: Option<u64>,
    range: u64,
    id: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            tokens: BTreeSet::new(),
            from: None,
            to: None,
            range: RANGE_FIRST,
            id: 0,
        }
    }
}

impl Memory {
    /// Empty if the file is missing or damaged.
    pub(super) fn read(file: &Path) -> Self {
        let bytes = std::fs::read(file).unwrap_or_default();
        let written = serde_json::from_slice::<Written>(&bytes).ok();
        let written = written.filter(|written| written.version == VERSION);
        written.map_or_else(Self::default, |written| Self {
            tokens: written.tokens.into_iter().map(|token| token.0).collect(),
            from: written.from,
            to: written.to,
            range: written.range,
            id: written.id,
        })
    }

    /// All tokens up to block `head` are known: later ones leave logs in later blocks.
    pub(super) fn set_whole(&mut self, head: u64) {
        (self.from, self.to) = (Some(0), Some(head));
    }

    /// Whether it differs from `before` enough for a write. Some more empty blocks, or a larger
    /// range, are soon learnt again.
    fn is_news(&self, before: &Self) -> bool {
        let to = |memory: &Self| memory.to.unwrap_or(0);
        let passed = to(self).abs_diff(to(before)) >= BLOCKS_NEWS;
        let found = self.tokens != before.tokens || self.from != before.from;
        passed || found || self.id != before.id || self.range < before.range
    }

    /// Writes `file` atomically, if there is a state folder.
    pub(super) fn write(&self, file: &Path) -> io::Result<()> {
        let Some(folder) = file.parent() else {
            return Ok(());
        };
        if !folder.parent().is_some_and(Path::exists) {
            return Ok(());
        }
        let written = Written {
            version: VERSION,
            tokens: self.tokens.iter().map(|&id| TokenId(id)).collect(),
            from: self.from,
            to: self.to,
            range: self.range,
            id: self.id,
        };
        create_folder(folder)?;
        sweep_unfinished(folder);
        let mut bytes = serde_json::to_vec(&written)?;
        bytes.push(b'\n');
        Unnamed::write(folder, &bytes, None)?.rename(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A changed form makes every wallet's search start over.
    #[test]
    fn found_tokens_are_found_again_by_every_later_version() {
        let golden = include_str!("../../../../../tests/golden/state/owned.json");
        let memory = Memory {
            tokens: [3, 70].map(U256::from).into(),
            from: Some(100),
            to: Some(2_000),
            range: 512,
            id: 9_000,
        };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("owned").join("1.json");
        memory.write(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), golden);
        assert_eq!(Memory::read(&file), memory);
    }

    #[test]
    fn a_damaged_file_costs_a_search_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("1.json");
        for damaged in [
            "",
            "{",
            "[]",
            r#"{"version":2,"tokens":[],"from":0,"to":0,"range":1,"id":0}"#,
        ] {
            std::fs::write(&file, damaged).unwrap();
            assert_eq!(Memory::read(&file), Memory::default());
        }
        assert_eq!(Memory::read(&dir.path().join("none")), Memory::default());
    }

    #[test]
    fn where_there_is_no_state_folder_none_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let file = state.join("owned").join("1.json");
        Memory::default().write(&file).unwrap();
        assert!(!state.exists());
    }
}
