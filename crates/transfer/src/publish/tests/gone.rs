//! What was published and nobody has any more: given up by who says so, and never in silence.

use std::sync::Arc;

use super::rig::{Machine, Shared, second, token};
use crate::chain::{Accounting, TokenInfo};
use crate::names::fault::{Call as NameCall, Fault};
use crate::names::record::Network;
use crate::names::{NameError, NameStore};
use crate::pack::cid as form;
use crate::publish::state::Head;
use crate::publish::{Bootstrap, PublishError, is_idle};
use crate::store::StoreError;
use crate::store::fault::{Call, FaultStore};
use crate::store::memory::MemoryStore;

fn head_of(machine: &Machine) -> Head {
    machine.volume.meta("head").unwrap().unwrap()
}

/// The node loses the root of what `machine` published last.
fn lose_root(shared: &Shared, machine: &Machine) {
    assert!(shared.blocks.lose(&head_of(machine).root.unwrap().0));
}

async fn assert_lost(machine: &Machine) {
    let found = machine.mount().await;
    let Err(PublishError::Missing(why)) = found else {
        panic!("{found:?}");
    };
    assert!(why.contains("--begin-anew"), "{why}");
    // To write over another machine's tree is not to give it up.
    let found = machine.take_over().await;
    assert!(matches!(found, Err(PublishError::Missing(_))), "{found:?}");
}

/// Whoever looks now sees this tree, and nothing else.
async fn assert_published(shared: &Shared, machine: &Machine) {
    assert_eq!(second(shared).await.tree().await, machine.tree().await);
}

#[tokio::test]
async fn a_fresh_machine_begins_anew_over_a_lost_tree_if_told_to_and_goes_on_without() {
    let shared = Shared::new();
    let first = Machine::new(&shared);
    first.put(first.root, "lost", &[(0, b"lost")]).await;
    first.commit().await.unwrap();
    lose_root(&shared, &first);

    let other = Machine::new(&shared);
    assert_lost(&other).await;
    assert_eq!(other.begin_anew().await.unwrap(), Bootstrap::New);
    // Nothing is published over it unasked, and what was said once no crash takes back.
    assert!(is_idle(&other.volume));
    let other = other.crash(&shared);
    assert_eq!(other.mount().await.unwrap(), Bootstrap::New);
    other.put(other.root, "anew", &[(0, b"anew")]).await;
    other.commit().await.unwrap();
    assert!(head_of(&other).sequence > head_of(&first).sequence);
    assert_published(&shared, &other).await;
    let other = other.crash(&shared);
    assert_eq!(other.mount().await.unwrap(), Bootstrap::Current);
    // What was given up is not what it looked like to the one who made it.
    first.put(first.root, "more", &[(0, b"more")]).await;
    let told = first.commit().await;
    assert!(matches!(told, Err(PublishError::Conflict(_))), "{told:?}");
}

#[tokio::test]
async fn a_machine_whose_tree_another_one_went_on_from_puts_it_back_where_that_ones_is_lost() {
    let shared = Shared::new();
    let first = Machine::new(&shared);
    first.put(first.root, "base", &[(0, b"base")]).await;
    first.commit().await.unwrap();
    let other = second(&shared).await;
    other.put(other.root, "theirs", &[(0, b"theirs")]).await;
    other.commit().await.unwrap();
    lose_root(&shared, &other);

    assert_lost(&first).await;
    assert_eq!(first.begin_anew().await.unwrap(), Bootstrap::Current);
    // Nothing was written here since, and it is published all the same.
    let first = first.crash(&shared);
    assert_eq!(first.mount().await.unwrap(), Bootstrap::Current);
    assert!(first.commit().await.unwrap().made);
    assert!(head_of(&first).sequence > head_of(&other).sequence);
    assert_published(&shared, &first).await;
    assert!(!first.commit().await.unwrap().made);
}

#[tokio::test]
async fn a_commit_that_was_cut_off_before_another_ones_was_lost_comes_with_the_next() {
    let shared = Shared::new();
    let first = Machine::new(&shared);
    first.put(first.root, "base", &[(0, b"base")]).await;
    first.commit().await.unwrap();
    let other = second(&shared).await;
    first.put(first.root, "mine", &[(0, b"mine")]).await;
    let down = Fault::Before(NameError::Transient("down".into()));
    first.names.set(NameCall::Publish, down, None);
    first.commit().await.unwrap_err();
    first.volume.sync().unwrap();
    for name in ["theirs", "more of theirs"] {
        other.put(other.root, name, &[(0, b"theirs")]).await;
        other.commit().await.unwrap();
    }
    lose_root(&shared, &other);

    let first = first.crash(&shared);
    assert_lost(&first).await;
    assert_eq!(first.begin_anew().await.unwrap(), Bootstrap::Current);
    let first = first.crash(&shared);
    assert_eq!(first.mount().await.unwrap(), Bootstrap::Current);
    assert!(first.commit().await.unwrap().made);
    assert!(head_of(&first).sequence > head_of(&other).sequence);
    assert!(first.tree().await.contains_key("/mine"));
    assert_published(&shared, &first).await;
}

/// What another machine published in between is there, and has all that is here.
#[tokio::test]
async fn the_newest_tree_that_a_node_still_has_is_gone_on_from() {
    let shared = Shared::new();
    let first = Machine::new(&shared);
    first.put(first.root, "base", &[(0, b"base")]).await;
    first.commit().await.unwrap();
    let other = second(&shared).await;
    other.put(other.root, "theirs", &[(0, b"theirs")]).await;
    other.commit().await.unwrap();
    let kept = head_of(&other);
    other.put(other.root, "lost", &[(0, b"lost")]).await;
    other.commit().await.unwrap();
    lose_root(&shared, &other);
    let synced = TokenInfo {
        sequence: Some(kept.sequence),
        root: Some(form::digest(&kept.root.unwrap().0).unwrap().into()),
        ..token()
    };
    // Nothing here is unpublished: its folder makes way, and the next one begins anew in the same mount.
    let found = first.mount_with(&synced, false, true).await.unwrap();
    assert_eq!(found, Bootstrap::Behind);
    let fresh = Machine::new(&shared);
    let found = fresh.mount_with(&synced, true, true).await.unwrap();
    assert_eq!(found, Bootstrap::Adopted(kept.root.unwrap().0));
    fresh.put(fresh.root, "more", &[(0, b"more")]).await;
    fresh.commit().await.unwrap();
    assert!(head_of(&fresh).sequence > head_of(&other).sequence);
    assert!(fresh.tree().await.contains_key("/theirs"));
    assert_published(&shared, &fresh).await;
}

/// The record is there, and the document that it leads to is on no node.
#[tokio::test]
async fn a_record_that_leads_nowhere_keeps_no_tree_from_being_found_through_the_chain() {
    let shared = Shared::new();
    let mut first = Machine::new(&shared);
    first.context.node.network = Network::Ipfs;
    let synced = |machine: &Machine| {
        let head = head_of(machine);
        TokenInfo {
            sequence: Some(head.sequence),
            root: Some(form::digest(&head.root.unwrap().0).unwrap().into()),
            ..token()
        }
    };
    first.put(first.root, "file", &[(0, b"content")]).await;
    first.commit().await.unwrap();
    let older = synced(&first);
    first.put(first.root, "more", &[(0, b"content")]).await;
    first.commit().await.unwrap();
    let newest = synced(&first);
    assert!(shared.blocks.lose(&head_of(&first).document.unwrap().0));
    let fresh = Machine::new(&shared);
    assert!(fresh.mount().await.is_err());
    // A tree that was there before is not taken for the one that the record is of.
    fresh.mount_with(&older, true, false).await.unwrap_err();
    let found = fresh.mount_with(&newest, true, false).await.unwrap();
    assert_eq!(found, Bootstrap::Adopted(head_of(&first).root.unwrap().0));
    assert_eq!(fresh.tree().await, first.tree().await);
}

/// Where each commit is charged and the chain counts bytes, something was published by somebody.
#[tokio::test]
async fn what_is_unpublished_here_is_not_put_beside_a_tree_whose_record_is_gone() {
    let shared = Shared::new();
    let charged = TokenInfo {
        accounting: Accounting::Additive,
        usage_bytes: 1 << 20,
        uploads_left: Some(50),
        ..token()
    };
    let machine = Machine::new(&shared);
    machine.put(machine.root, "mine", &[(0, b"mine")]).await;
    for take_over in [false, true] {
        let found = machine.mount_with(&charged, take_over, false).await;
        assert!(matches!(found, Err(PublishError::Missing(_))), "{found:?}");
    }
    let found = machine.mount_with(&charged, false, true).await.unwrap();
    assert_eq!(found, Bootstrap::New);
    machine.commit().await.unwrap();
    assert_published(&shared, &machine).await;
}

#[tokio::test]
async fn a_record_that_leads_nowhere_is_begun_anew_over_if_told_to() {
    for network in [Network::Btfs, Network::Ipfs] {
        let shared = Shared::new();
        let on_network = |mut machine: Machine| {
            machine.context.node.network = network;
            machine
        };
        let first = on_network(Machine::new(&shared));
        for name in ["lost", "more"] {
            first.put(first.root, name, &[(0, b"lost")]).await;
            first.commit().await.unwrap();
        }
        assert!(shared.blocks.lose(&head_of(&first).document.unwrap().0));
        let other = on_network(Machine::new(&shared));
        assert_lost(&other).await;
        assert_eq!(other.begin_anew().await.unwrap(), Bootstrap::New);
        let other = on_network(other.crash(&shared));
        assert_eq!(other.mount().await.unwrap(), Bootstrap::New);
        other.put(other.root, "anew", &[(0, b"anew")]).await;
        other.commit().await.unwrap();
        assert_published(&shared, &other).await;
        // Whoever published it is not silenced.
        first.put(first.root, "still", &[(0, b"here")]).await;
        let told = first.commit().await;
        assert!(matches!(told, Err(PublishError::Conflict(_))), "{told:?}");
    }
}

/// A node is set back to an old record, whose usage metadata was collected long ago.
#[tokio::test]
async fn an_old_record_that_leads_nowhere_holds_up_no_commit_and_another_machines_does() {
    for network in [Network::Btfs, Network::Ipfs] {
        let mut shared = Shared::new();
        let gateway = Arc::new(FaultStore::new(Arc::new(MemoryStore::new())));
        shared.elsewhere = Some(Arc::clone(&gateway));
        let mut machine = Machine::new(&shared);
        machine.context.node.network = network;
        let name = machine.context.key.name();
        let mut before = Vec::new();
        for round in 0..3_u8 {
            machine.put(machine.root, "file", &[(0, &[round])]).await;
            machine.commit().await.unwrap();
            before.push((
                shared.names.resolve(&name).await.unwrap(),
                head_of(&machine).document.unwrap().0,
            ));
        }
        for (record, document) in &before[..2] {
            assert!(shared.blocks.lose(document));
            // Also beside a gateway that finds nothing, and says so as a failure of its own.
            for fault in [None, Some(StoreError::Transient("504".to_owned()))] {
                shared.names.damage(&name, record.clone());
                if let Some(fault) = fault {
                    gateway.set(Call::Get, Fault::Before(fault), None);
                }
                machine.put(machine.root, "file", &[(0, b"new")]).await;
                machine.commit().await.unwrap();
                gateway.clear();
                assert_published(&shared, &machine).await;
            }
        }

        let mut other = second(&shared).await;
        other.context.node.network = network;
        let held = shared.names.resolve(&name).await.unwrap();
        other.put(other.root, "theirs", &[(0, b"theirs")]).await;
        other.commit().await.unwrap();
        let theirs = shared.names.resolve(&name).await.unwrap();
        assert_ne!(held, theirs);
        assert!(shared.blocks.lose(&head_of(&other).document.unwrap().0));
        machine.put(machine.root, "file", &[(0, b"newer")]).await;
        let told = machine.commit().await;
        assert!(matches!(told, Err(PublishError::Missing(_))), "{told:?}");
        assert_eq!(shared.names.resolve(&name).await.unwrap(), theirs);
    }
}

#[tokio::test]
async fn a_record_that_is_not_of_the_name_keeps_nobody_from_what_the_chain_has_or_from_beginning_anew()
 {
    let shared = Shared::new();
    let first = Machine::new(&shared);
    first.put(first.root, "file", &[(0, b"content")]).await;
    first.commit().await.unwrap();
    let root = head_of(&first).root.unwrap().0;
    let synced = TokenInfo {
        sequence: Some(head_of(&first).sequence),
        root: Some(form::digest(&root).unwrap().into()),
        ..token()
    };
    let name = first.context.key.name();
    shared.names.damage(&name, b"nothing of ours".to_vec());
    let fresh = Machine::new(&shared);
    fresh.mount().await.unwrap_err();
    let found = fresh.mount_with(&synced, true, false).await.unwrap();
    assert_eq!(found, Bootstrap::Adopted(root));
    let other = Machine::new(&shared);
    assert_eq!(other.begin_anew().await.unwrap(), Bootstrap::New);
}
