//! One fetch at a time of each thing: who wants what is on its way waits for it.
//!
//! Invariant: a flight is a task of its own, so it outlives the call that began it (whose deadline
//! may pass) and ends by itself, or with [`Flights::end`]. Called by `content` and `directory`.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::task::AbortHandle;

use crate::fs::FsError;

/// The answer of a flight, for everybody who waits.
pub(super) type Answer<T> = Shared<BoxFuture<'static, Result<T, FsError>>>;

type Table<K, T> = Arc<Mutex<HashMap<K, (AbortHandle, Answer<T>)>>>;

/// What is on its way, by what it is.
pub(super) struct Flights<K: Eq + Hash, T> {
    under_way: Table<K, T>,
}

impl<K, T> Flights<K, T>
where
    K: Eq + Hash + Copy + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(super) fn new() -> Self {
        Self {
            under_way: Arc::default(),
        }
    }

    /// Whether `key` is on its way.
    pub(super) fn is_under_way(&self, key: &K) -> bool {
        lock(&self.under_way).contains_key(key)
    }

    /// The flight of `key`, where there is one.
    pub(super) fn find(&self, key: &K) -> Option<Answer<T>> {
        lock(&self.under_way)
            .get(key)
            .map(|(_, answer)| answer.clone())
    }

    /// Joins the flight of `key`, or begins it with `work`. Needs a tokio runtime.
    pub(super) fn join(
        &self,
        key: K,
        work: impl Future<Output = Result<T, FsError>> + Send + 'static,
    ) -> Answer<T> {
        // The task's last act waits for this lock, so it cannot leave before it is entered.
        let mut under_way = lock(&self.under_way);
        if let Some((_, answer)) = under_way.get(&key) {
            return answer.clone();
        }
        let landing = Landing {
            key,
            under_way: Arc::clone(&self.under_way),
        };
        let task = tokio::spawn(async move {
            let _landing = landing;
            work.await
        });
        let handle = task.abort_handle();
        let answer = task
            .map(|ended| match ended {
                Ok(answer) => answer,
                Err(error) if error.is_cancelled() => Err(FsError::TimedOut),
                Err(error) => Err(FsError::Disk(error.to_string())),
            })
            .boxed()
            .shared();
        under_way.insert(key, (handle, answer.clone()));
        answer
    }

    /// Ends all of them: who waits is answered [`FsError::TimedOut`].
    pub(super) fn end(&self) {
        for (handle, _) in lock(&self.under_way).values() {
            handle.abort();
        }
    }
}

/// Takes a flight out of the table when it ends, also by a panic.
struct Landing<K: Eq + Hash, T> {
    key: K,
    under_way: Table<K, T>,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let landed = lock(&self.under_way).remove(&self.key);
        drop(landed);
    }
}

fn lock<K, V>(table: &Mutex<HashMap<K, V>>) -> MutexGuard<'_, HashMap<K, V>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
