//! Records that others have put something around, or that nobody signed: they stop nothing, and hide nothing.

use std::sync::Arc;

use async_trait::async_trait;

use super::rig::{Machine, Shared, second};
use crate::fault::Fault;
use crate::names::fault::Call as NameCall;
use crate::names::record::Network;
use crate::names::{NameError, NameStore, is_same};
use crate::publish::naming::{is_named, renew};
use crate::publish::state::Head;
use crate::publish::{Bootstrap, Other, PublishError};

const NETWORKS: [Network; 2] = [Network::Btfs, Network::Ipfs];

/// A machine beside a node of such a network.
fn machine_on(shared: &Shared, network: Network) -> Machine {
    let mut machine = Machine::new(shared);
    machine.context.node.network = network;
    machine
}

async fn write(machine: &Machine, name: &str) {
    machine
        .put(machine.root, name, &[(0, name.as_bytes())])
        .await;
}

fn padded(record: &[u8]) -> Vec<u8> {
    [record, &[0x7a, 1, b'x']].concat()
}

/// A node that has every record with something around it that nobody signed.
struct Padding(Arc<dyn NameStore>);

#[async_trait]
impl NameStore for Padding {
    async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError> {
        Ok(padded(&self.0.publish(name, record).await?))
    }

    async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError> {
        Ok(padded(&self.0.resolve(name).await?))
    }
}

#[tokio::test]
async fn bytes_that_anybody_adds_to_a_record_stop_no_commit_and_no_renewal() {
    for network in NETWORKS {
        let shared = Shared::new();
        let machine = machine_on(&shared, network);
        let name = machine.context.key.name();
        write(&machine, "one").await;
        machine.commit().await.unwrap();
        let record = shared.names.resolve(&name).await.unwrap();
        let meddle = || shared.names.damage(&name, padded(&record));
        meddle();
        assert_eq!(is_named(&machine.context).await, Ok(true));
        renew(&machine.context).await.unwrap();
        let renewed = shared.names.resolve(&name).await.unwrap();
        assert!(!is_same(&name, &renewed, &record), "{network:?}");
        meddle();
        assert_eq!(second(&shared).await.tree().await, machine.tree().await);
        write(&machine, "two").await;
        assert!(machine.commit().await.unwrap().made);
        assert_eq!(second(&shared).await.tree().await, machine.tree().await);
    }
}

#[tokio::test]
async fn a_commit_is_named_though_its_record_comes_back_with_more_around_it() {
    for network in NETWORKS {
        let shared = Shared::new();
        let mut machine = machine_on(&shared, network);
        let names = Arc::clone(&machine.names);
        machine.context.node.names = Arc::new(Padding(names));
        for name in ["one", "two"] {
            write(&machine, name).await;
            assert!(machine.commit().await.unwrap().made);
            renew(&machine.context).await.unwrap();
        }
        assert_eq!(second(&shared).await.tree().await, machine.tree().await);
    }
}

#[tokio::test]
async fn a_record_that_nobody_signed_stops_no_commit_and_goes_with_the_next_one() {
    for network in NETWORKS {
        let shared = Shared::new();
        let machine = machine_on(&shared, network);
        let name = machine.context.key.name();
        write(&machine, "one").await;
        machine.commit().await.unwrap();
        let meddle = || shared.names.damage(&name, b"nothing of ours".to_vec());
        meddle();
        assert_eq!(is_named(&machine.context).await, Ok(false));
        renew(&machine.context).await.unwrap();
        assert_eq!(is_named(&machine.context).await, Ok(true));
        meddle();
        write(&machine, "two").await;
        assert!(machine.commit().await.unwrap().made);
        assert_eq!(second(&shared).await.tree().await, machine.tree().await);
        meddle();
        let mut machine = machine.crash(&shared);
        machine.context.node.network = network;
        assert_eq!(machine.mount().await.unwrap(), Bootstrap::Current);
        write(&machine, "three").await;
        assert!(machine.commit().await.unwrap().made);
        assert_eq!(second(&shared).await.tree().await, machine.tree().await);
    }
}

#[tokio::test]
async fn a_fresh_machine_takes_no_record_that_nobody_signed_for_a_token_without_files() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    let name = machine.context.key.name();
    write(&machine, "one").await;
    machine.commit().await.unwrap();
    let record = shared.names.resolve(&name).await.unwrap();
    shared.names.damage(&name, b"nothing of ours".to_vec());
    let mut fresh = Machine::new(&shared);
    for _ in 0..2 {
        let Err(PublishError::Name(NameError::Corrupt(of, why))) = fresh.mount().await else {
            panic!("it begins without the files");
        };
        assert_eq!(of, name);
        assert!(why.contains("on the machine that wrote last"), "{why}");
    }
    // Another node may have the right one.
    let names = Arc::new(crate::names::memory::MemoryNames::new(Arc::<
        crate::clock::ManualClock,
    >::clone(
        &shared.clock
    )));
    names.publish(&name, &record).await.unwrap();
    fresh.context.node.others.push(Other {
        label: "other".to_owned(),
        names,
        network: Network::Btfs,
    });
    let found = fresh.take_over().await.unwrap();
    assert_eq!(found, Bootstrap::Adopted(head_root(&machine)));
    assert_eq!(fresh.tree().await, machine.tree().await);
}

fn head_root(machine: &Machine) -> cid::Cid {
    let head: Head = machine.volume.meta("head").unwrap().unwrap();
    head.root.unwrap().0
}

/// What was written to a token that had nothing yet is not held back by what somebody puts at its name since.
#[tokio::test]
async fn what_was_begun_before_anything_was_published_is_not_locked_away() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    assert_eq!(machine.mount().await.unwrap(), Bootstrap::New);
    write(&machine, "first").await;
    machine.volume.sync().unwrap();
    let name = machine.context.key.name();
    shared.names.damage(&name, b"nothing of ours".to_vec());
    let machine = machine.crash(&shared);
    assert_eq!(machine.mount().await.unwrap(), Bootstrap::New);
    assert!(machine.commit().await.unwrap().made);
    assert_eq!(second(&shared).await.tree().await, machine.tree().await);
}

/// Each has looked at the name before the other one's record was there.
#[tokio::test]
async fn of_two_commits_at_one_moment_the_second_one_does_not_take_an_ipns_name() {
    let shared = Shared::new();
    let first = machine_on(&shared, Network::Ipfs);
    write(&first, "base").await;
    first.commit().await.unwrap();
    let mut other = second(&shared).await;
    other.context.node.network = Network::Ipfs;
    write(&first, "mine").await;
    first.commit().await.unwrap();
    write(&other, "theirs").await;
    shared.clock.advance(std::time::Duration::from_secs(2));
    let unseen = Fault::Before(NameError::Missing("k".into()));
    other.names.set(NameCall::Resolve, unseen, Some(2));
    let late = other.commit().await;
    assert!(matches!(late, Err(PublishError::Conflict(_))), "{late:?}");
    assert_eq!(second(&shared).await.tree().await, first.tree().await);
}
