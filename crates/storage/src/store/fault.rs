//! Faults and counts around any block store, for tests.
//!
//! Invariant: without a fault it changes nothing; failed calls count too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;

use super::{Block, BlockStore, Lookup, StoreError};
pub use crate::fault::Fault;
use crate::fault::{Outcome, Script};

/// The calls of a [`BlockStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`BlockStore::put`]
    PutMany,
    /// [`BlockStore::lookup`]
    Get,
    /// [`BlockStore::has`]
    Has,
    /// [`BlockStore::pin_with`]
    Pin,
    /// [`BlockStore::unpin`]
    Unpin,
    /// [`BlockStore::pinned`]
    Pins,
}

impl Call {
    /// All calls.
    pub const ALL: [Self; 6] = [
        Self::PutMany,
        Self::Get,
        Self::Has,
        Self::Pin,
        Self::Unpin,
        Self::Pins,
    ];
}

/// A store with faults on demand, and counts. Share it in an `Arc` to switch it in use.
pub struct FaultStore {
    inner: Arc<dyn BlockStore>,
    script: Script<Call, StoreError>,
    block_count: AtomicU64,
    block_bytes: AtomicU64,
}

impl FaultStore {
    /// Wraps `inner`, without faults.
    #[must_use]
    pub fn new(inner: Arc<dyn BlockStore>) -> Self {
        Self {
            inner,
            script: Script::new(),
            block_count: AtomicU64::new(0),
            block_bytes: AtomicU64::new(0),
        }
    }

    /// From now on `call` meets `fault`: `times` times, or (`None`) until [`FaultStore::clear`].
    /// [`Fault::Corrupt`] affects only `lookup`.
    pub fn set(&self, call: Call, fault: Fault<StoreError>, times: Option<u64>) {
        self.script.set(call, fault, times);
    }

    /// From now on every call meets `fault`, until [`FaultStore::clear`].
    pub fn set_all(&self, fault: &Fault<StoreError>) {
        for call in Call::ALL {
            self.set(call, fault.clone(), None);
        }
    }

    /// Ends all faults; hanging calls go on.
    pub fn clear(&self) {
        self.script.clear();
    }

    /// Calls since the start or [`FaultStore::reset_counts`].
    #[must_use]
    pub fn count(&self, call: Call) -> u64 {
        self.script.count(call)
    }

    /// Blocks offered to `put` since then.
    #[must_use]
    pub fn block_count(&self) -> u64 {
        self.block_count.load(Ordering::SeqCst)
    }

    /// Their bytes.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        self.block_bytes.load(Ordering::SeqCst)
    }

    /// Counts from zero again.
    pub fn reset_counts(&self) {
        self.script.reset_counts();
        self.block_count.store(0, Ordering::SeqCst);
        self.block_bytes.store(0, Ordering::SeqCst);
    }

    fn count_blocks(&self, blocks: &[Block]) {
        let bytes = blocks.iter().map(|b| b.data.len() as u64).sum();
        let count = blocks.len() as u64;
        self.block_count.fetch_add(count, Ordering::SeqCst);
        self.block_bytes.fetch_add(bytes, Ordering::SeqCst);
    }
}

/// The answer of a call with this `outcome`.
fn answer<T>(outcome: Outcome<StoreError>, result: Result<T, StoreError>) -> Result<T, StoreError> {
    match outcome {
        Outcome::Fail(error) => Err(error),
        _ => result,
    }
}

/// The same length with one byte changed; one byte for none.
fn changed(data: &Bytes) -> Bytes {
    let mut bytes = data.to_vec();
    match bytes.first_mut() {
        Some(byte) => *byte ^= 0x01,
        None => bytes.push(0),
    }
    bytes.into()
}

#[async_trait]
impl BlockStore for FaultStore {
    async fn put(&self, blocks: &[Block], bundle: Option<&Block>) -> Result<bool, StoreError> {
        self.count_blocks(blocks);
        match self.script.enter(Call::PutMany).await? {
            Outcome::Drop => Ok(true),
            outcome => answer(outcome, self.inner.put(blocks, bundle).await),
        }
    }

    async fn lookup(&self, cid: &Cid, how: Lookup) -> Result<Bytes, StoreError> {
        match self.script.enter(Call::Get).await? {
            Outcome::Drop => Err(StoreError::Missing(*cid)),
            Outcome::Corrupt => Ok(changed(&self.inner.lookup(cid, how).await?)),
            outcome => answer(outcome, self.inner.lookup(cid, how).await),
        }
    }

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        match self.script.enter(Call::Has).await? {
            Outcome::Drop => Ok(false),
            outcome => answer(outcome, self.inner.has(cid).await),
        }
    }

    async fn pin_with(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        progress: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError> {
        match self.script.enter(Call::Pin).await? {
            Outcome::Drop => Ok(()),
            outcome => answer(outcome, self.inner.pin_with(root, from, progress).await),
        }
    }

    async fn unpin(&self, root: &Cid) -> Result<(), StoreError> {
        match self.script.enter(Call::Unpin).await? {
            Outcome::Drop => Ok(()),
            outcome => answer(outcome, self.inner.unpin(root).await),
        }
    }

    async fn pinned(&self, among: Option<&[Cid]>) -> Result<Vec<Cid>, StoreError> {
        match self.script.enter(Call::Pins).await? {
            Outcome::Drop => Ok(Vec::new()),
            outcome => answer(outcome, self.inner.pinned(among).await),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::BlockStoreExt;
    use crate::store::memory::MemoryStore;
    use pxfs_format::cid::leaf_cid;

    fn block(data: &'static [u8]) -> Block {
        Block {
            cid: leaf_cid(data),
            data: Bytes::from_static(data),
        }
    }

    fn stores() -> (Arc<MemoryStore>, Arc<FaultStore>) {
        let memory = Arc::new(MemoryStore::new());
        (memory.clone(), Arc::new(FaultStore::new(memory)))
    }

    fn lost() -> StoreError {
        StoreError::Transient("connection reset".into())
    }

    #[tokio::test]
    async fn a_fault_strikes_before_or_after_the_deed() {
        let (memory, store) = stores();
        store.set(Call::PutMany, Fault::Before(lost()), Some(1));
        assert_eq!(store.put_many(&[block(b"a")]).await, Err(lost()));
        assert_eq!(memory.block_count(), 0);
        store.set(Call::PutMany, Fault::After(lost()), Some(1));
        assert_eq!(store.put_many(&[block(b"a")]).await, Err(lost()));
        assert_eq!(memory.block_count(), 1);
        assert_eq!(store.put_many(&[block(b"b")]).await, Ok(()));
        assert_eq!(memory.block_count(), 2);
    }

    #[tokio::test]
    async fn a_store_that_lies_is_told_by_what_it_has() {
        let (memory, store) = stores();
        store.set(Call::PutMany, Fault::Drop, None);
        store.put_many(&[block(b"a")]).await.unwrap();
        assert_eq!(memory.block_count(), 0);
        store.clear();
        store.put_many(&[block(b"a")]).await.unwrap();
        store.set(Call::Has, Fault::Drop, None);
        assert_eq!(store.has(&block(b"a").cid).await, Ok(false));
    }

    #[tokio::test]
    async fn a_call_that_hangs_goes_on_when_the_fault_ends() {
        let (memory, store) = stores();
        store.set_all(&Fault::Hang);
        let hung = tokio::spawn({
            let store = store.clone();
            async move { store.put_many(&[block(b"a")]).await }
        });
        while store.count(Call::PutMany) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!hung.is_finished() && memory.block_count() == 0);
        // Another fault does not release it.
        store.set(Call::Get, Fault::Delay(Duration::ZERO), None);
        tokio::task::yield_now().await;
        assert!(!hung.is_finished());
        store.clear();
        assert_eq!(hung.await.unwrap(), Ok(()));
        assert_eq!(memory.block_count(), 1);
    }

    #[tokio::test]
    async fn every_call_is_counted_whatever_becomes_of_it() {
        let (_, store) = stores();
        store.put_many(&[block(b"a"), block(b"bcd")]).await.unwrap();
        store.set(Call::Get, Fault::Before(lost()), None);
        for _ in 0..3 {
            assert_eq!(store.get(&block(b"a").cid).await, Err(lost()));
        }
        assert_eq!((store.count(Call::PutMany), store.count(Call::Get)), (1, 3));
        assert_eq!((store.block_count(), store.block_bytes()), (2, 4));
        store.reset_counts();
        assert_eq!((store.count(Call::Get), store.block_count()), (0, 0));
        store.clear();
        assert!(store.get(&block(b"a").cid).await.is_ok());
    }
}
