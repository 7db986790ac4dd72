//! One fetch at a time of each thing: who wants what is on its way waits for it.
//!
//! Invariant: a flight is a task of its own, so it outlives the call that began it (whose deadline
//! may pass) and ends by itself, or with [`Flights::end`]. Called by `content`, `directory`, `source` and `walk`.

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
        self.begin(key, std::iter::empty(), work)
    }

    /// Begins one flight of `keys`, but for those that are on their way already; none where they all are.
    pub(super) fn begin_together(
        &self,
        keys: &[K],
        work: impl Future<Output = Result<T, FsError>> + Send + 'static,
    ) {
        let mut keys = keys.iter().copied();
        if let Some(first) = keys.find(|key| !self.is_under_way(key)) {
            drop(self.begin(first, keys, work));
        }
    }

    /// The flight of `key`, or a new one of it and of those of `others` that have none.
    fn begin(
        &self,
        key: K,
        others: impl Iterator<Item = K>,
        work: impl Future<Output = Result<T, FsError>> + Send + 'static,
    ) -> Answer<T> {
        // The task's last act waits for this lock, so it cannot leave before it is entered.
        let mut under_way = lock(&self.under_way);
        if let Some((_, answer)) = under_way.get(&key) {
            return answer.clone();
        }
        let others = others.filter(|other| !under_way.contains_key(other));
        let keys: Vec<K> = std::iter::once(key).chain(others).collect();
        let landing = Landing {
            keys: keys.clone(),
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
        under_way.extend(
            keys.into_iter()
                .map(|key| (key, (handle.clone(), answer.clone()))),
        );
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
    keys: Vec<K>,
    under_way: Table<K, T>,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let landed: Vec<_> = {
            let mut under_way = lock(&self.under_way);
            let keys = self.keys.iter();
            keys.map(|key| under_way.remove(key)).collect()
        };
        drop(landed);
    }
}

fn lock<K, V>(table: &Mutex<HashMap<K, V>>) -> MutexGuard<'_, HashMap<K, V>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_begun_together_is_fetched_once_and_ends_together() {
        let flights: Flights<u32, ()> = Flights::new();
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        flights.begin_together(&[1, 2, 2, 3], async {
            told.await.map_err(|_| FsError::TimedOut)
        });
        // All of them are on their way already.
        flights.begin_together(&[3, 1], async { Err(FsError::NotFound) });
        // One is not.
        flights.begin_together(&[1, 4], async { Err(FsError::NotFound) });
        let answers = [1, 2, 3, 4].map(|key| flights.find(&key).unwrap());
        tell.send(()).unwrap();
        let answers = futures::future::join_all(answers).await;
        let lost = Err(FsError::NotFound);
        assert_eq!(answers, [Ok(()), Ok(()), Ok(()), lost]);
        // A flight leaves the table before it is told to have ended.
        assert!((1..=4).all(|key| !flights.is_under_way(&key)));
    }
}
