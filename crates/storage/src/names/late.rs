//! Names of a slow node: a lookup continues when nobody waits for it, and its answer holds until a
//! newer one.
//!
//! Invariant: one lookup per name at a time; a late answer is given at most once, and only if a
//! later lookup found nothing within [`FRESH`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{NameError, NameStore};

/// How long to wait for a fresh answer if there is an older one; callers wait longer than that.
const FRESH: Duration = Duration::from_secs(3);

type Answer = Result<Vec<u8>, NameError>;
/// A lookup: `None` until it ends.
type Look = watch::Receiver<Option<Answer>>;

/// A node's name store that keeps late answers.
pub struct LateNames {
    inner: Arc<dyn NameStore>,
    fresh: Duration,
    /// By name: lookups in progress, or unheard.
    looks: Mutex<HashMap<String, Look>>,
}

impl LateNames {
    /// Wraps `inner`, each of whose calls must end by itself.
    #[must_use]
    pub fn new(inner: Arc<dyn NameStore>) -> Self {
        Self {
            inner,
            fresh: FRESH,
            looks: Mutex::default(),
        }
    }

    /// The running lookup for `name`, or a new one; and an earlier one's unheard answer.
    fn look(&self, name: &str) -> (Look, Option<Answer>) {
        let mut looks = self.lock();
        let late = match looks.get(name) {
            None => None,
            Some(look) => match look.borrow().clone() {
                Some(answer) => Some(answer),
                // A lookup whose task died does not count.
                None if look.has_changed().is_ok() => return (look.clone(), None),
                None => None,
            },
        };
        let (tell, look) = watch::channel(None);
        looks.insert(name.to_owned(), look.clone());
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        tokio::spawn(async move {
            let answer = inner.resolve(&name).await;
            tell.send_replace(Some(answer));
        });
        (look, late)
    }

    fn heard(&self, name: &str, look: &Look) {
        let mut looks = self.lock();
        if looks.get(name).is_some_and(|kept| kept.same_channel(look)) {
            looks.remove(name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Look>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl NameStore for LateNames {
    async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError> {
        self.inner.publish(name, record).await
    }

    async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError> {
        let (mut look, late) = self.look(name);
        let kept = look.clone();
        let found = async {
            let ended = look.wait_for(Option::is_some).await;
            let answer = ended.ok().and_then(|answer| answer.clone());
            answer.unwrap_or_else(|| Err(NameError::Transient("its answer is lost".into())))
        };
        tokio::pin!(found);
        let answer = match late {
            None => found.await,
            Some(late) => match timeout(self.fresh, &mut found).await {
                Ok(answer) => answer,
                Err(_) => return late,
            },
        };
        self.heard(name, &kept);
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::task::yield_now;

    use super::*;
    use crate::names::fault::{Call, Fault, FaultNames};
    use crate::names::key::NameKey;
    use crate::names::memory::MemoryNames;
    use crate::names::suite::{self, NOW_NS, record};
    use pxfs_base::clock::ManualClock;

    fn memory() -> Arc<MemoryNames> {
        Arc::new(MemoryNames::new(Arc::new(ManualClock::at(NOW_NS))))
    }

    #[tokio::test]
    async fn it_passes() {
        suite::passes(Arc::new(LateNames::new(memory()))).await;
    }

    /// How long an impatient caller waits, and far beyond any answer's time here.
    const CUT: Duration = Duration::from_millis(50);
    const BOUND: Duration = Duration::from_secs(60);

    /// A node with a record for a name, which begins to hang.
    struct World {
        slow: Arc<FaultNames>,
        names: LateNames,
        key: NameKey,
        name: String,
        told: Vec<u8>,
    }

    impl World {
        /// `fresh`: how long a fresh answer is awaited.
        async fn new(fresh: Duration) -> Self {
            let slow = Arc::new(FaultNames::new(memory()));
            let names = LateNames {
                fresh,
                ..LateNames::new(Arc::<FaultNames>::clone(&slow))
            };
            let key = NameKey::random();
            let (name, told) = (key.name(), record(1, 1).sign(&key));
            names.publish(&name, &told).await.unwrap();
            let world = Self {
                slow,
                names,
                key,
                name,
                told,
            };
            world.hang();
            world
        }

        fn hang(&self) {
            self.slow.set(Call::Resolve, Fault::Hang, None);
        }

        async fn ask_in_vain(&self) {
            let waited = timeout(CUT, self.names.resolve(&self.name)).await;
            assert!(waited.is_err(), "{waited:?}");
        }

        async fn ask(&self) -> Answer {
            let answer = timeout(BOUND, self.names.resolve(&self.name)).await;
            answer.expect("an answer")
        }

        async fn answer_late(&self) {
            self.slow.clear();
            while self.names.lock()[&self.name].borrow().is_none() {
                yield_now().await;
            }
            self.hang();
        }
    }

    /// Otherwise a node slower than every caller would never be heard.
    #[tokio::test]
    async fn a_late_answer_of_a_node_is_used_next_time() {
        let world = World::new(Duration::from_millis(10)).await;
        for _ in 0..2 {
            world.ask_in_vain().await;
        }
        assert_eq!(world.slow.count(Call::Resolve), 1, "one look at a time");
        world.answer_late().await;
        assert_eq!(world.ask().await, Ok(world.told.clone()));
        assert_eq!(world.slow.count(Call::Resolve), 2, "it is asked anew");
        // Once: an older answer is not given again.
        world.ask_in_vain().await;
        assert_eq!(world.slow.count(Call::Resolve), 2, "one look at a time");
    }

    #[tokio::test]
    async fn a_late_answer_hides_no_newer_record_that_came_in_time() {
        let world = World::new(BOUND).await;
        world.ask_in_vain().await;
        world.answer_late().await;
        world.slow.clear();
        let newer = record(2, 2).sign(&world.key);
        world.names.publish(&world.name, &newer).await.unwrap();
        assert_eq!(world.ask().await, Ok(newer));
    }

    /// It may be any age by the time the node is slow.
    #[tokio::test]
    async fn a_delivered_record_is_not_repeated_when_the_node_is_slow() {
        let world = World::new(Duration::from_millis(10)).await;
        world.slow.clear();
        assert_eq!(world.ask().await, Ok(world.told.clone()));
        world.hang();
        world.ask_in_vain().await;
    }

    #[tokio::test]
    async fn who_hears_late_of_an_older_look_takes_no_newer_one_away() {
        let world = World::new(BOUND).await;
        let mut first = world.names.resolve(&world.name);
        assert!(futures::poll!(&mut first).is_pending());
        world.answer_late().await;
        let mut second = world.names.resolve(&world.name);
        assert!(futures::poll!(&mut second).is_pending());
        assert_eq!(first.await, Ok(world.told.clone()));
        world.ask_in_vain().await;
        assert_eq!(world.slow.count(Call::Resolve), 2, "one look at a time");
        world.slow.clear();
        assert_eq!(timeout(BOUND, second).await, Ok(Ok(world.told.clone())));
    }

    /// A node whose lookups panic on demand.
    struct Falls {
        inner: Arc<MemoryNames>,
        falls: AtomicBool,
    }

    #[async_trait]
    impl NameStore for Falls {
        async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError> {
            self.inner.publish(name, record).await
        }

        async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError> {
            assert!(!self.falls.load(Ordering::SeqCst), "as it is to");
            self.inner.resolve(name).await
        }
    }

    #[tokio::test]
    async fn a_look_that_ended_without_an_answer_is_begun_anew() {
        let node = Arc::new(Falls {
            inner: memory(),
            falls: AtomicBool::new(true),
        });
        let names = LateNames::new(Arc::<Falls>::clone(&node));
        let key = NameKey::random();
        let (name, told) = (key.name(), record(1, 1).sign(&key));
        names.publish(&name, &told).await.unwrap();
        // The caller has left before it panics.
        assert!(futures::poll!(names.resolve(&name)).is_pending());
        while names.lock()[&name].has_changed().is_ok() {
            yield_now().await;
        }
        node.falls.store(false, Ordering::SeqCst);
        assert_eq!(timeout(BOUND, names.resolve(&name)).await, Ok(Ok(told)));
    }
}
