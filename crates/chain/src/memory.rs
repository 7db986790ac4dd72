//! The memory twin of the ledger: a snapshot that is set by hand.
//!
//! Invariant: answers exactly what was set, or the fault that was set. Called by the tests of
//! whoever reads a [`Ledger`].

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::{ChainError, Ledger, Snapshot, TokenInfo};
use pxfs_base::types::TokenId;

/// A [`Ledger`] whose answers are set by the test that owns it.
#[derive(Debug)]
pub struct MemoryLedger {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    snapshot: Snapshot,
    fault: Option<ChainError>,
}

impl MemoryLedger {
    /// A ledger that answers `snapshot`.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        Self {
            state: Mutex::new(State {
                snapshot,
                fault: None,
            }),
        }
    }

    /// Answers `snapshot` from now on.
    pub fn set(&self, snapshot: Snapshot) {
        self.update(|held| *held = snapshot);
    }

    /// Changes the snapshot in place.
    pub fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.lock().snapshot);
    }

    /// Answers every call with `fault` from now on; `None` ends that.
    pub fn fail(&self, fault: Option<ChainError>) {
        self.lock().fault = fault;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn snapshot(&self) -> Result<Snapshot, ChainError> {
        let state = self.lock();
        match &state.fault {
            Some(fault) => Err(fault.clone()),
            None => Ok(state.snapshot.clone()),
        }
    }

    async fn token(&self, id: TokenId) -> Result<TokenInfo, ChainError> {
        let snapshot = self.snapshot().await?;
        let found = snapshot.tokens.into_iter().find(|token| token.id == id);
        found.ok_or_else(|| ChainError::Missing(format!("token {id} does not exist")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fault_is_answered_until_it_is_taken_back() {
        let ledger = MemoryLedger::new(Snapshot {
            block: 1,
            timestamp_s: 2,
            tokens: Vec::new(),
        });
        ledger.fail(Some(ChainError::Transient("down".into())));
        assert_eq!(
            ledger.snapshot().await,
            Err(ChainError::Transient("down".into()))
        );
        ledger.fail(None);
        ledger.update(|snapshot| snapshot.block = 9);
        assert_eq!(ledger.snapshot().await.map(|held| held.block), Ok(9));
        assert!(matches!(
            ledger.token(TokenId::from(1)).await,
            Err(ChainError::Missing(_))
        ));
    }
}
