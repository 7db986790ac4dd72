//! A token that cannot reach its node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::World;
use crate::billing;
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::names::{NameError, NameStore};
use crate::status::State;

/// A full node takes no name.
struct Full {
    names: Arc<dyn NameStore>,
    is_full: AtomicBool,
}

#[async_trait]
impl NameStore for Full {
    async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError> {
        match self.is_full.load(Ordering::Relaxed) {
            true => Err(NameError::Transient("no space left on device".to_owned())),
            false => self.names.publish(name, record).await,
        }
    }

    async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError> {
        self.names.resolve(name).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_publish_for_minutes_is_not_reported_ok() {
    let clock = Arc::new(ManualClock::at(SystemClock.wall_ns()));
    let mut full = None;
    let world = World::begin_with(tempfile::tempdir().unwrap(), |parts| {
        parts.clock = Arc::<ManualClock>::clone(&clock) as _;
        let names = Arc::new(Full {
            names: Arc::clone(&parts.node.names),
            is_full: AtomicBool::new(false),
        });
        parts.node.names = Arc::<Full>::clone(&names) as _;
        full = Some(names);
    })
    .await;
    let full = full.unwrap();
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    assert_eq!(world.look(token).await.state, State::Ok);

    full.is_full.store(true, Ordering::Relaxed);
    world.write("1", "file", b"precious").unwrap();
    let live = world.tokens.get(token).unwrap();
    let flushing = tokio::spawn({
        let live = Arc::clone(&live);
        async move { live.flush().await }
    });
    while live.last_error().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // It may pass.
    clock.advance(Duration::from_secs(60));
    assert_eq!(world.look(token).await.state, State::Ok);
    assert_eq!(live.stuck(), None);
    clock.advance(Duration::from_secs(60));
    let status = world.look(token).await;
    assert_eq!(status.state, State::Stuck, "{status:?}");
    let why = status.reason.unwrap();
    for words in [
        "nothing was published since 20",
        "no space left on device",
        "has room",
        "8 bytes in 1 files wait here",
    ] {
        assert!(why.contains(words), "{words} is not in: {why}");
    }
    // A flush reports the same.
    assert!(why.starts_with(&live.stuck().unwrap()), "{why}");

    full.is_full.store(false, Ordering::Relaxed);
    flushing.await.unwrap().unwrap();
    assert_eq!(world.look(token).await.state, State::Ok);
    drop(live);
    drop(world.end().await);
}
