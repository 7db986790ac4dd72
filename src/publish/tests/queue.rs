//! The publisher: what it does by itself, and for somebody who waits.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

use super::rig::{Machine, Shared};
use crate::fault::Fault;
use crate::journal::record::{CidBytes, Record as _};
use crate::names::NameStore;
use crate::names::record::Record;
use crate::publish::head::Head;
use crate::publish::pending::{PENDING, Pending};
use crate::publish::{PublishError, Publisher, Timing};
use crate::store::fault::Call;
use crate::store::{BlockStore, StoreError};

/// More than anything here takes on a loaded machine.
const LIMIT: Duration = Duration::from_secs(30);

fn busy() -> Fault<StoreError> {
    Fault::Before(StoreError::Transient("busy".to_owned()))
}

fn spawn(machine: &Machine) -> Publisher {
    Publisher::spawn(
        machine.context.clone(),
        Timing::default(),
        &Handle::current(),
    )
}

/// Puts the journal back to the moment between the settling of the last commit and its being taken
/// as the head, which was `before`.
async fn between_settling_and_head(machine: &Machine, before: Option<Vec<u8>>) {
    let head: Head = machine.volume.meta("head").unwrap().unwrap();
    let root = head.root.unwrap().0;
    let name = machine.context.key.name();
    let record = machine.names.resolve(&name).await.unwrap();
    let document = Record::verify(&name, &record).unwrap().cid;
    let pending = Pending {
        sequence: head.sequence,
        root: CidBytes(root),
        root_bytes: machine.store.get(&root).await.unwrap().to_vec().into(),
        document: machine.store.get(&document).await.unwrap().to_vec().into(),
        record: record.into(),
        time_s: head.time_s,
        uploads: head.uploads,
        charge_bytes: None,
        unsent: false,
        sample: Vec::new(),
    };
    let values = vec![
        ("head", before.map(Into::into)),
        (PENDING, Some(pending.to_bytes())),
    ];
    machine.volume.keep(values).unwrap();
    assert!(machine.volume.activity().is_none());
}

#[tokio::test]
async fn a_commit_that_only_lacks_its_head_is_finished_after_a_stumble_and_is_no_conflict() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    machine.put(machine.root, "f", &[(0, b"one")]).await;
    machine.commit().await.unwrap();
    let before = machine.volume.raw_meta("head").unwrap();
    machine.put(machine.root, "f", &[(0, b"two")]).await;
    machine.commit().await.unwrap();
    let head: Head = machine.volume.meta("head").unwrap().unwrap();
    between_settling_and_head(&machine, before.map(|bytes| bytes.to_vec())).await;

    machine.store.set(Call::Pin, busy(), Some(1));
    let publisher = spawn(&machine);
    let finished = async {
        while machine.volume.raw_meta(PENDING).unwrap().is_some() {
            sleep(Duration::from_millis(20)).await;
            let error = publisher.status().last_error;
            let conflict = matches!(error, Some(PublishError::Conflict(_)));
            assert!(!conflict, "{error:?}");
        }
    };
    timeout(LIMIT, finished).await.expect("it is tried again");
    let now: Head = machine.volume.meta("head").unwrap().unwrap();
    assert_eq!((now.sequence, now.root), (head.sequence, head.root));
    publisher.stop().await;
}

#[tokio::test]
async fn who_waits_hears_of_a_refusal_at_once_and_of_a_stumble_never() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    let publisher = spawn(&machine);
    machine.put(machine.root, "f", &[(0, b"one")]).await;
    let refused = StoreError::Permanent("forbidden".to_owned());
    let fault = Fault::Before(refused.clone());
    machine.store.set(Call::PutMany, fault, None);
    // Nor does the next one wait for the pause after the failures: half a minute at least by now.
    for _ in 0..12 {
        let answer = timeout(LIMIT, publisher.flush()).await.expect("an answer");
        assert_eq!(answer, Err(PublishError::Store(refused.clone())));
    }
    machine.store.set(Call::PutMany, busy(), Some(2));
    let answer = timeout(LIMIT, publisher.flush()).await.expect("an answer");
    assert_eq!(answer, Ok(()));
    publisher.stop().await;
}

#[tokio::test]
async fn tries_that_fail_are_no_progress_and_get_rare_when_nobody_waits() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    let publisher = spawn(&machine);
    machine
        .put(machine.root, "f", &[(0, &vec![7; 1_500_000])])
        .await;
    machine.store.set(Call::Pin, busy(), None);
    let tried = async |tries: u64| {
        let are_over = async {
            while machine.store.count(Call::Pin) < tries {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, are_over).await.expect("it is tried again");
    };
    tokio::select! {
        answer = publisher.flush() => panic!("nothing can be published: {answer:?}"),
        () = tried(1) => {}
    }
    let (moved, begun) = (publisher.moved(), Instant::now());
    tried(7).await;
    // Each pause is twice the one before, and half of it at least: without the first one 3.1 s.
    let paused = begun.elapsed();
    assert!(paused >= Duration::from_secs(3), "six tries in {paused:?}");
    assert_eq!(publisher.moved(), moved);
    machine.store.clear();
    assert_eq!(timeout(LIMIT, publisher.flush()).await, Ok(Ok(())));
    assert!(publisher.moved() > moved);
    publisher.stop().await;
}

#[tokio::test]
async fn a_node_that_loses_everything_each_time_gets_nowhere() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    let publisher = spawn(&machine);
    machine
        .put(machine.root, "f", &[(0, &vec![7; 1_500_000])])
        .await;
    machine.store.set(Call::PutMany, Fault::Drop, None);
    let mut seen = Vec::new();
    for _ in 0..6 {
        drop(timeout(Duration::from_secs(1), publisher.flush()).await);
        seen.push(publisher.moved());
    }
    assert_eq!(seen[4], seen[5], "{seen:?}");
    machine.store.clear();
    assert_eq!(timeout(LIMIT, publisher.flush()).await, Ok(Ok(())));
    publisher.stop().await;
}

#[tokio::test]
async fn a_flush_sees_a_long_commit_move_also_while_it_settles() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    for n in 0..300 {
        let name = format!("file-{n}");
        machine.put(machine.root, &name, &[(0, b"same")]).await;
    }
    let (pulse, moved) = (machine.receipts.pulse(), machine.receipts.moved());
    machine.commit().await.unwrap();
    // Each of them is built, and each is settled.
    assert!(machine.receipts.moved() >= moved + 600);
    assert!(machine.receipts.pulse() >= pulse + 600);
}
