//! Two machines in turn on one token: who may write when, from what, and that renewing a name is no
//! conflict.

use std::time::Duration;

use super::rig::{Machine, Shared, second, token};
use crate::chain::TokenInfo;
use crate::clock::Clock as _;
use crate::names::NameError;
use crate::names::fault::{Call as NameCall, Fault};
use crate::names::record::Network;
use crate::pack::cid as form;
use crate::publish::naming::renew;
use crate::publish::state::Head;
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

/// `machine` publishes something, and does not see what another one has named a minute before by the wall clock, which is
/// what records go by: nothing else is due by then.
pub(super) async fn publish_beside(shared: &Shared, machine: &Machine) {
    machine.put(machine.root, "theirs", &[(0, b"theirs")]).await;
    let minute_ns = 60_000_000_000;
    shared.clock.set_wall(shared.clock.wall_ns() + minute_ns);
    let unseen = Fault::Before(NameError::Missing("k".into()));
    machine.names.set(NameCall::Resolve, unseen, None);
    machine.commit().await.unwrap();
    machine.names.clear();
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

/// A machine dies between the name and its head, and another one, which has its tree from there, puts the record again: at
/// its next mount, or a month later.
#[tokio::test]
async fn a_commit_that_another_machine_renewed_before_it_was_the_head_is_no_end_of_all_commits() {
    for network in [Network::Btfs, Network::Ipfs] {
        let shared = Shared::new();
        let mut machine = Machine::new(&shared);
        machine.context.node.network = network;
        machine.put(machine.root, "file", &[(0, b"content")]).await;
        // It is named, and the answer is lost.
        let lost = Fault::After(NameError::Transient("cut".into()));
        machine.names.set(NameCall::Publish, lost, Some(1));
        machine.commit().await.unwrap_err();
        machine.volume.sync().unwrap();
        let mut other = second(&shared).await;
        other.context.node.network = network;
        for _ in 0..2 {
            renew(&other.context).await.unwrap();
        }

        let mut machine = machine.crash(&shared);
        machine.context.node.network = network;
        machine.mount().await.unwrap();
        machine.commit().await.unwrap();
        machine.put(machine.root, "more", &[(0, b"more")]).await;
        machine.commit().await.unwrap();
        assert_eq!(second(&shared).await.tree().await, machine.tree().await);
    }
}

/// A machine has a commit on its way to a BTFS node when it is switched off; meanwhile the record of the one before it is
/// put again, and ends later than the one that waits.
#[tokio::test]
async fn a_commit_that_waits_for_its_name_gets_past_a_record_that_was_renewed_meanwhile() {
    let shared = Shared::new();
    let (machine, _) = writer(&shared).await;
    let other = second(&shared).await;
    machine.put(machine.root, "more", &[(0, b"more")]).await;
    let down = Fault::Before(NameError::Transient("down".into()));
    machine.names.set(NameCall::Publish, down, None);
    machine.commit().await.unwrap_err();
    machine.volume.sync().unwrap();
    shared.clock.advance(Duration::from_secs(30 * 86_400));
    renew(&other.context).await.unwrap();

    let machine = machine.crash(&shared);
    assert_eq!(machine.mount().await.unwrap(), Bootstrap::Current);
    machine.commit().await.unwrap();
    assert_eq!(second(&shared).await.tree().await, machine.tree().await);
}

/// Each has named its own, at a node of its own perhaps, and one of them stands on the chain.
#[tokio::test]
async fn of_two_trees_of_one_sequence_whoever_has_either_is_told() {
    let shared = Shared::new();
    let (first, _) = writer(&shared).await;
    let other = second(&shared).await;
    first.put(first.root, "mine", &[(0, b"mine")]).await;
    first.commit().await.unwrap();
    let chain = head_of(&first);
    publish_beside(&shared, &other).await;
    let named = head_of(&other);
    assert_eq!(chain.sequence, named.sequence);
    let root = |head: &Head| head.root.unwrap().0;
    let synced = TokenInfo {
        sequence: Some(chain.sequence),
        root: Some(form::digest(&root(&chain)).unwrap().into()),
        ..token()
    };
    for (machine, theirs) in [(&first, root(&named)), (&other, root(&chain))] {
        let found = machine.mount_with(&synced, false, false).await;
        let Err(PublishError::Conflict(why)) = found else {
            panic!("{found:?}");
        };
        assert!(why.contains(&theirs.to_string()), "{why}");
    }
    // Who has neither cannot know.
    let found = Machine::new(&shared)
        .mount_with(&synced, false, false)
        .await;
    assert!(matches!(found, Err(PublishError::Refused(_))), "{found:?}");
    let found = other.mount_with(&synced, true, false).await.unwrap();
    assert_eq!(found, Bootstrap::Current);
    // It goes above the other one by a commit of its own: the chain has to learn of it.
    assert!(other.commit().await.unwrap().made);
    assert!(head_of(&other).sequence > chain.sequence);
    let found = other.mount_with(&synced, false, false).await.unwrap();
    assert_eq!(found, Bootstrap::Current);
}

/// What was settled in a commit that never became the head is in no root but its own: a mount that comes before the
/// take-over's commit must not drop it.
#[tokio::test]
async fn a_take_over_that_waits_for_its_commit_is_no_folder_without_anything_unpublished() {
    let shared = Shared::new();
    let (first, _) = writer(&shared).await;
    let before = first.volume.raw_meta("head").unwrap();
    let other = second(&shared).await;
    first.put(first.root, "mine", &[(0, b"mine")]).await;
    first.commit().await.unwrap();
    first.between_settling_and_head(before, None, &[]).await;
    publish_beside(&shared, &other).await;
    let found = first.mount().await;
    assert!(matches!(found, Err(PublishError::Conflict(_))), "{found:?}");
    assert_eq!(first.take_over().await.unwrap(), Bootstrap::Current);
    other.put(other.root, "more", &[(0, b"more")]).await;
    other.commit().await.unwrap();
    let found = first.mount().await;
    assert!(matches!(found, Err(PublishError::Conflict(_))), "{found:?}");
    assert_eq!(first.take_over().await.unwrap(), Bootstrap::Current);
    first.commit().await.unwrap();
    assert!(first.tree().await.contains_key("/mine"));
    assert_eq!(second(&shared).await.tree().await, first.tree().await);
}
