//! The suite that every name store must pass.
//!
//! Invariant: each case uses its own name, so that it also runs on a store with other records,
//! repeatedly. A failing case panics.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::key::NameKey;
use super::record::{Network, Record};
use super::{NameError, NameStore, is_same};
use pxfs_format::cid::leaf_cid;

/// 2026-11-21 00:00:00 UTC.
pub const NOW_NS: i64 = 1_795_219_200_000_000_000;

/// What the tested store expects of records.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// The network of their values.
    pub network: Network,
    /// The store's clock is within a year after this.
    pub now_ns: i64,
}

impl Default for World {
    /// BTFS, at [`NOW_NS`].
    fn default() -> Self {
        Self {
            network: Network::Btfs,
            now_ns: NOW_NS,
        }
    }
}

impl World {
    /// A record with this sequence that expires after so many years.
    #[must_use]
    pub fn record(&self, sequence: u64, years: i64) -> Record {
        let life = SignedDuration::from_hours(years * 365 * 24);
        let now = Timestamp::from_nanosecond(self.now_ns.into()).expect("a time");
        Record {
            network: self.network,
            cid: leaf_cid(&sequence.to_le_bytes()),
            sequence,
            end_of_life: now.checked_add(life).expect("a time"),
            ttl_ns: 60_000_000_000,
        }
    }
}

/// A record of the default world.
#[must_use]
pub fn record(sequence: u64, years: i64) -> Record {
    World::default().record(sequence, years)
}

/// Runs every case on `store`, in the default world.
pub async fn passes(store: Arc<dyn NameStore>) {
    passes_in(World::default(), store).await;
}

/// Runs every case on `store`.
pub async fn passes_in(world: World, store: Arc<dyn NameStore>) {
    let (world, store) = (&world, &*store);
    records_come_back(world, store).await;
    unknown_names_are_missing(store).await;
    newer_records_win(world, store).await;
    padded_records_are_what_they_were(world, store).await;
    invalid_records_are_refused(world, store).await;
    names_do_not_mix(world, store).await;
}

fn fresh_key() -> NameKey {
    NameKey::random()
}

async fn records_come_back(world: &World, store: &dyn NameStore) {
    let key = fresh_key();
    let bytes = world.record(7, 2).sign(&key);
    for _ in 0..2 {
        // Published again, it is the stored one.
        let published = store.publish(&key.name(), &bytes).await;
        assert_eq!(published.as_ref(), Ok(&bytes));
        assert_eq!(store.resolve(&key.name()).await.as_ref(), Ok(&bytes));
    }
}

async fn unknown_names_are_missing(store: &dyn NameStore) {
    let name = fresh_key().name();
    let missing = Err(NameError::Missing(name.clone()));
    assert_eq!(store.resolve(&name).await, missing);
}

async fn newer_records_win(world: &World, store: &dyn NameStore) {
    let key = fresh_key();
    let name = key.name();
    let publish = async |sequence, years| {
        let bytes = world.record(sequence, years).sign(&key);
        (store.publish(&name, &bytes).await.map(drop), bytes)
    };
    let stale = |held, offered| Err(NameError::Stale { held, offered });

    assert_eq!(publish(5, 3).await.0, Ok(()));
    assert_eq!(publish(4, 9).await.0, stale(5, 4), "a lower sequence");
    assert_eq!(publish(5, 2).await.0, stale(5, 5), "an earlier end of life");
    let mut same_end = world.record(5, 3);
    same_end.ttl_ns += 1;
    let same_end = same_end.sign(&key);
    match store.publish(&name, &same_end).await {
        Ok(held) => assert_eq!(store.resolve(&name).await, Ok(held)),
        refused => assert_eq!(refused.map(drop), stale(5, 5), "the same end of life"),
    }
    let (renewed, bytes) = publish(5, 4).await;
    assert_eq!(renewed, Ok(()), "a later end of life");
    assert_eq!(store.resolve(&name).await, Ok(bytes));
    let (next, bytes) = publish(6, 2).await;
    assert_eq!(next, Ok(()), "a higher sequence, an earlier end of life");
    assert_eq!(store.resolve(&name).await, Ok(bytes));
}

/// Anybody can add data around a record, and nodes take it.
async fn padded_records_are_what_they_were(world: &World, store: &dyn NameStore) {
    let key = fresh_key();
    let name = key.name();
    let good = world.record(5, 2).sign(&key);
    let padded = [&good[..], &[0x7a, 1, b'x']].concat();
    for bytes in [&good, &padded, &good] {
        let held = store.publish(&name, bytes).await.expect("it is the same");
        assert!(is_same(&name, &held, &good));
        assert_eq!(store.resolve(&name).await, Ok(held));
    }
    let next = world.record(6, 3).sign(&key);
    assert_eq!(store.publish(&name, &next).await.as_ref(), Ok(&next));
    // Another commit of one IPNS sequence is another machine's.
    let mut other = world.record(6, 4);
    other.cid = leaf_cid(b"another machine's");
    let other = other.sign(&key);
    let (answer, held) = match world.network {
        Network::Btfs => (Ok(other.clone()), other.clone()),
        Network::Ipfs => {
            let (held, offered) = (6, 6);
            (Err(NameError::Stale { held, offered }), next)
        }
    };
    assert_eq!(store.publish(&name, &other).await, answer);
    assert_eq!(store.resolve(&name).await, Ok(held));
}

async fn invalid_records_are_refused(world: &World, store: &dyn NameStore) {
    let key = fresh_key();
    let name = key.name();
    let mut changed = world.record(1, 2).sign(&key);
    // What either signature covers.
    for at in [10, changed.len() - 1] {
        changed[at] ^= 1;
    }
    let of_another_key = world.record(1, 2).sign(&fresh_key());
    let too_long = [0x7a, 0x80, 0x58].into_iter().chain([0; 11 << 10]);
    let too_long: Vec<u8> = world
        .record(1, 2)
        .sign(&key)
        .into_iter()
        .chain(too_long)
        .collect();
    for bad in [&changed[..], &of_another_key, b"", &too_long] {
        let refused = store.publish(&name, bad).await;
        assert!(
            matches!(refused, Err(NameError::Corrupt(..))),
            "{refused:?}"
        );
    }
    let expired = world.record(9, -1).sign(&key);
    let refused = store.publish(&name, &expired).await;
    assert!(matches!(refused, Err(NameError::Permanent(_))));
    let good = world.record(1, 2).sign(&key);
    for no_name in ["", "../../etc/passwd", "k51", &name.to_uppercase()] {
        assert!(store.publish(no_name, &good).await.is_err(), "{no_name}");
        assert!(store.resolve(no_name).await.is_err(), "{no_name}");
    }
    assert!(matches!(
        store.resolve(&name).await,
        Err(NameError::Missing(_))
    ));
}

async fn names_do_not_mix(world: &World, store: &dyn NameStore) {
    let keys = [fresh_key(), fresh_key(), fresh_key()];
    let records: Vec<(String, Vec<u8>)> = keys
        .iter()
        .zip(1..)
        .map(|(key, sequence)| (key.name(), world.record(sequence, 2).sign(key)))
        .collect();
    let publishes = records
        .iter()
        .map(|(name, bytes)| store.publish(name, bytes));
    futures::future::try_join_all(publishes)
        .await
        .expect("records at the same time");
    for (name, bytes) in &records {
        assert_eq!(store.resolve(name).await.as_ref(), Ok(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::fault::{Call, Fault, FaultNames};
    use crate::names::memory::MemoryNames;
    use pxfs_base::clock::ManualClock;

    fn memory() -> Arc<MemoryNames> {
        Arc::new(MemoryNames::new(Arc::new(ManualClock::at(NOW_NS))))
    }

    #[tokio::test]
    async fn the_twin_in_memory_passes_bare_and_wrapped() {
        passes(memory()).await;
        passes(Arc::new(FaultNames::new(memory()))).await;
    }

    /// Otherwise the suite could not fail.
    #[tokio::test]
    #[should_panic(expected = "left: Ok([])")]
    async fn a_store_that_forgets_does_not_pass() {
        let store = FaultNames::new(memory());
        store.set(Call::Publish, Fault::Drop, None);
        passes(Arc::new(store)).await;
    }
}
