//! Faults and counts around any name store, for tests.
//!
//! Invariant: without a fault it changes nothing; failed calls count too.

use std::sync::Arc;

use async_trait::async_trait;

use super::{NameError, NameStore};
pub use crate::fault::Fault;
use crate::fault::{Outcome, Script};

/// The calls of a [`NameStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`NameStore::publish`]
    Publish,
    /// [`NameStore::resolve`]
    Resolve,
}

/// A name store with faults on demand, and counts. Share it in an `Arc` to switch it in use.
pub struct FaultNames {
    inner: Arc<dyn NameStore>,
    script: Script<Call, NameError>,
}

impl FaultNames {
    /// Wraps `inner`, without faults.
    #[must_use]
    pub fn new(inner: Arc<dyn NameStore>) -> Self {
        Self {
            inner,
            script: Script::new(),
        }
    }

    /// From now on `call` meets `fault`: `times` times, or (`None`) until [`FaultNames::clear`].
    /// [`Fault::Drop`] imitates a BTFS node that refuses a record: success, and nothing stored.
    /// [`Fault::Corrupt`] affects only `resolve`.
    pub fn set(&self, call: Call, fault: Fault<NameError>, times: Option<u64>) {
        self.script.set(call, fault, times);
    }

    /// From now on both calls meet `fault`, until [`FaultNames::clear`].
    pub fn set_all(&self, fault: &Fault<NameError>) {
        self.set(Call::Publish, fault.clone(), None);
        self.set(Call::Resolve, fault.clone(), None);
    }

    /// Ends all faults; hanging calls go on.
    pub fn clear(&self) {
        self.script.clear();
    }

    /// Calls since the start or [`FaultNames::reset_counts`].
    #[must_use]
    pub fn count(&self, call: Call) -> u64 {
        self.script.count(call)
    }

    /// Counts from zero again.
    pub fn reset_counts(&self) {
        self.script.reset_counts();
    }
}

#[async_trait]
impl NameStore for FaultNames {
    async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError> {
        let outcome = self.script.enter(Call::Publish).await?;
        if outcome == Outcome::Drop {
            return match self.inner.resolve(name).await {
                Err(NameError::Missing(_)) => Ok(Vec::new()),
                held => held,
            };
        }
        let result = self.inner.publish(name, record).await;
        match outcome {
            Outcome::Fail(error) => Err(error),
            _ => result,
        }
    }

    async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError> {
        let outcome = self.script.enter(Call::Resolve).await?;
        if outcome == Outcome::Drop {
            return Err(NameError::Missing(name.to_owned()));
        }
        let mut bytes = self.inner.resolve(name).await?;
        match outcome {
            Outcome::Fail(error) => return Err(error),
            Outcome::Corrupt => bytes.iter_mut().take(1).for_each(|byte| *byte ^= 1),
            _ => {}
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::key::NameKey;
    use crate::names::memory::MemoryNames;
    use crate::names::record::Record;
    use crate::names::suite::{NOW_NS, record};
    use pxfs_base::clock::ManualClock;

    #[tokio::test]
    async fn each_fault_is_what_it_says() {
        let clock = Arc::new(ManualClock::at(NOW_NS));
        let memory = Arc::new(MemoryNames::new(clock));
        let store = FaultNames::new(memory.clone());
        let key = NameKey::random();
        let (name, bytes) = (key.name(), record(1, 1).sign(&key));
        let lost = NameError::Transient("connection reset".into());

        store.set(Call::Publish, Fault::Drop, Some(1));
        store.publish(&name, &bytes).await.unwrap();
        store.set(Call::Publish, Fault::Before(lost.clone()), Some(1));
        assert_eq!(store.publish(&name, &bytes).await, Err(lost.clone()));
        assert!(memory.resolve(&name).await.is_err());
        store.set(Call::Publish, Fault::After(lost.clone()), Some(1));
        assert_eq!(store.publish(&name, &bytes).await, Err(lost));
        assert_eq!(memory.resolve(&name).await.as_ref(), Ok(&bytes));
        assert_eq!(store.resolve(&name).await.as_ref(), Ok(&bytes));

        store.set_all(&Fault::Corrupt);
        let changed = store.resolve(&name).await.unwrap();
        assert!(Record::verify(&name, &changed).is_err());
        store.set_all(&Fault::Drop);
        assert!(matches!(
            store.resolve(&name).await,
            Err(NameError::Missing(_))
        ));
        store.clear();
        assert_eq!(store.resolve(&name).await, Ok(bytes));
        assert_eq!(
            (store.count(Call::Publish), store.count(Call::Resolve)),
            (3, 4)
        );
    }
}
