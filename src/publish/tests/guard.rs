//! Two machines in turn on one token: who may write when, from what, and that renewing a name is no
//! conflict.

use std::time::Duration;

use super::rig::{Machine, Shared, second};
use crate::names::record::Network;
use crate::publish::head::Head;
use crate::publish::naming::renew;
use crate::publish::{Bootstrap, PublishError, standing};

fn head_of(machine: &Machine) -> Head {
    machine.volume.meta("head").unwrap().unwrap()
}

/// A machine that has just published, and what it published.
async fn writer(shared: &Shared) -> (Machine, Head) {
    let writer = Machine::new(shared);
    writer.put(writer.root, "base", &[(0, b"base")]).await;
    writer.commit().await.unwrap();
    let head = head_of(&writer);
    (writer, head)
}

/// Mounted without `--take-over`, a machine is told when the other one wrote and that it has to wait.
async fn assert_barred(machine: &Machine) {
    let found = machine.mount().await.unwrap();
    let Bootstrap::ReadOnly(reason) = found else {
        panic!("{found:?}");
    };
    for word in [
        "2027-01-15T08:00:00Z",
        "2027-01-15T08:10:00Z",
        "--take-over",
    ] {
        assert!(reason.contains(word), "{word}: {reason}");
    }
}

#[tokio::test]
async fn ten_minutes_after_another_machine_wrote_are_not_cut_short_by_mounting_again() {
    let shared = Shared::new();
    let _writer = writer(&shared).await;
    let other = Machine::new(&shared);
    assert_barred(&other).await;
    assert_barred(&other).await;
    let other = other.crash(&shared);
    assert_barred(&other).await;
    shared.clock.advance(Duration::from_secs(599));
    assert_barred(&other).await;
    shared.clock.advance(Duration::from_secs(1));
    assert_eq!(other.mount().await.unwrap(), Bootstrap::Current);
}

#[tokio::test]
async fn whoever_asks_for_it_writes_at_once_and_goes_on_after_a_crash() {
    let shared = Shared::new();
    let _writer = writer(&shared).await;
    let other = Machine::new(&shared);
    assert_barred(&other).await;
    assert_eq!(other.take_over().await.unwrap(), Bootstrap::Current);
    other.put(other.root, "mine", &[(0, b"mine")]).await;
    other.volume.sync().unwrap();
    // What was begun here is published, and not held back.
    let other = other.crash(&shared);
    assert_eq!(other.mount().await.unwrap(), Bootstrap::Current);
    other.commit().await.unwrap();
    // Its own commit bars nobody.
    assert_eq!(other.mount().await.unwrap(), Bootstrap::Current);
}

#[tokio::test]
async fn a_commit_after_a_read_only_begin_is_the_next_one_of_what_was_begun_from() {
    let shared = Shared::new();
    let (writer, published) = writer(&shared).await;
    let other = Machine::new(&shared);
    assert_barred(&other).await;
    let begun = head_of(&other);
    assert_eq!(
        (begun.sequence, begun.root),
        (published.sequence, published.root)
    );
    // Also who only reads is told what.
    let told = standing(&other.volume);
    assert_eq!(
        (told.sequence, told.root),
        (published.sequence, published.root.map(|root| root.0))
    );
    shared.clock.advance(Duration::from_secs(600));
    let other = other.crash(&shared);
    assert_eq!(other.mount().await.unwrap(), Bootstrap::Current);
    other.put(other.root, "mine", &[(0, b"mine")]).await;
    other.commit().await.unwrap();
    let head = head_of(&other);
    assert_eq!(head.sequence, published.sequence + 1);
    let (fetcher, key) = (&other.context.node.fetcher, other.volume.key());
    let cid = head.root.unwrap().0;
    let loaded = fetcher.load_root(&cid, &key);
    let (root, _) = loaded.await.unwrap();
    assert_eq!(root.parent, published.root.map(|root| root.0));
    assert_eq!(writer.start().await.unwrap(), Bootstrap::Behind);
}

#[tokio::test]
async fn what_was_written_before_anything_was_published_never_hides_what_another_machine_did() {
    let shared = Shared::new();
    let early = Machine::new(&shared);
    assert_eq!(early.mount().await.unwrap(), Bootstrap::New);
    early.put(early.root, "mine", &[(0, b"mine")]).await;
    early.volume.sync().unwrap();
    let (writer, published) = writer(&shared).await;
    let early = early.crash(&shared);
    for _ in 0..2 {
        let found = early.mount().await;
        assert!(matches!(found, Err(PublishError::Conflict(_))), "{found:?}");
    }
    let found = early.commit().await;
    assert!(matches!(found, Err(PublishError::Conflict(_))), "{found:?}");
    assert_eq!(second(&shared).await.tree().await, writer.tree().await);
    // Only who says so puts it over the other one's.
    assert_eq!(early.take_over().await.unwrap(), Bootstrap::Current);
    early.commit().await.unwrap();
    assert_eq!(head_of(&early).sequence, published.sequence + 1);
    assert_eq!(second(&shared).await.tree().await, early.tree().await);
}

#[tokio::test]
async fn a_name_that_the_other_machine_renewed_more_often_is_no_conflict() {
    let shared = Shared::new();
    let mut first = Machine::new(&shared);
    first.context.node.network = Network::Ipfs;
    first.put(first.root, "base", &[(0, b"base")]).await;
    first.commit().await.unwrap();
    for _ in 0..3 {
        renew(&first.context).await.unwrap();
    }
    let mut other = second(&shared).await;
    other.context.node.network = Network::Ipfs;
    renew(&other.context).await.unwrap();
    renew(&first.context).await.unwrap();
    assert_eq!(head_of(&first).renewals, 5);
    other.put(other.root, "mine", &[(0, b"mine")]).await;
    other.commit().await.unwrap();
    assert_eq!(head_of(&other).sequence, head_of(&first).sequence + 1);
}
