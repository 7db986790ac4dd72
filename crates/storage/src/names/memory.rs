//! Name records in memory, for tests.
//!
//! Invariant: passes the suite beside it; nothing survives the process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Admission, NameError, NameStore, admit, verify};
use pxfs_base::clock::Clock;

/// A name store in memory.
pub struct MemoryNames {
    clock: Arc<dyn Clock>,
    records: Mutex<HashMap<String, Vec<u8>>>,
}

impl MemoryNames {
    /// An empty store; `clock` decides whether an offered record has expired.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            records: Mutex::default(),
        }
    }

    /// Replaces the bytes under `name` unchecked. A test's tool.
    pub fn damage(&self, name: &str, bytes: Vec<u8>) {
        self.records().insert(name.to_owned(), bytes);
    }

    fn records(&self) -> MutexGuard<'_, HashMap<String, Vec<u8>>> {
        // Every change is one insert, so the map is valid even after a panic.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl NameStore for MemoryNames {
    async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError> {
        let now_ns = self.clock.wall_ns();
        let mut records = self.records();
        let held = records.get(name).cloned();
        match (admit(name, record, held.as_deref(), now_ns)?, held) {
            (Admission::Held, Some(held)) => Ok(held),
            _ => {
                records.insert(name.to_owned(), record.to_vec());
                Ok(record.to_vec())
            }
        }
    }

    async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError> {
        let bytes = self.records().get(name).cloned();
        let bytes = bytes.ok_or_else(|| NameError::Missing(name.to_owned()))?;
        verify(name, &bytes)?;
        Ok(bytes)
    }
}
