//! Clocks that are wrong, machines that were off for long, and names that are gone meanwhile.

use std::time::Duration;

use alloy::primitives::B256;

use super::rig::{Machine, Shared, second, token};
use crate::chain::TokenInfo;
use crate::clock::Clock;
use crate::fault::Fault;
use crate::names::NameStore;
use crate::names::fault::Call as NameCall;
use crate::names::record::Record;
use crate::pack::cid as form;
use crate::publish::Bootstrap;
use crate::publish::naming::renew;
use crate::publish::state::Head;
use crate::store::BlockStoreExt;

const DAY_NS: i64 = 86_400_000_000_000;

async fn write(machine: &Machine, name: &str) {
    machine
        .put(machine.root, name, &[(0, name.as_bytes())])
        .await;
}

/// Whether the name has a record that is alive by the clock that stands now.
async fn is_alive(shared: &Shared, machine: &Machine) -> bool {
    let name = machine.context.key.name();
    let bytes = shared.names.resolve(&name).await.unwrap();
    let record = Record::verify(&name, &bytes).unwrap();
    record.check_alive(shared.clock.wall_ns()).is_ok()
}

#[tokio::test]
async fn a_machine_that_was_off_for_longer_than_its_record_lives_comes_back_by_itself() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    write(&machine, "before").await;
    machine.commit().await.unwrap();
    shared.clock.set_wall(shared.clock.wall_ns() + 400 * DAY_NS);
    assert!(!is_alive(&shared, &machine).await);
    // A fresh machine begins from the record all the same: nobody has a newer one.
    let other = second(&shared).await;
    assert_eq!(other.tree().await, machine.tree().await);
    drop(other);
    let machine = machine.crash(&shared);
    assert_eq!(machine.mount().await.unwrap(), Bootstrap::Current);
    renew(&machine.context).await.unwrap();
    assert!(is_alive(&shared, &machine).await);
    write(&machine, "after").await;
    machine.commit().await.unwrap();
    let other = second(&shared).await;
    assert_eq!(other.tree().await, machine.tree().await);
}

#[tokio::test]
async fn a_fresh_machine_finds_the_root_through_the_chain_when_the_name_is_gone() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    write(&machine, "published").await;
    machine.commit().await.unwrap();
    let head: Head = machine.volume.meta("head").unwrap().unwrap();
    let root = head.root.unwrap().0;
    let synced = TokenInfo {
        sequence: Some(head.sequence),
        root: Some(B256::from(form::digest(&root).unwrap())),
        ..token()
    };
    let tree = machine.tree().await;
    drop(machine);
    let fresh = Machine::new(&shared);
    fresh.names.set(NameCall::Resolve, Fault::Drop, None);
    let found = fresh.mount_with(&synced, true, false).await.unwrap();
    assert_eq!(found, Bootstrap::Adopted(root));
    assert_eq!(fresh.tree().await, tree);
    fresh.names.clear();
    write(&fresh, "more").await;
    fresh.commit().await.unwrap();
    let other = second(&shared).await;
    assert_eq!(other.tree().await, fresh.tree().await);
}

/// A clock that is right again a moment later has taken nothing from who reads an old root elsewhere.
#[tokio::test]
async fn a_wall_clock_that_jumps_ahead_for_one_commit_lets_go_of_no_old_root() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    for name in ["one", "two", "three"] {
        write(&machine, name).await;
        machine.commit().await.unwrap();
        shared.clock.advance(Duration::from_secs(60));
    }
    let pinned = shared.blocks.pins().await.unwrap();
    let right_ns = shared.clock.wall_ns();
    shared.clock.set_wall(right_ns + 25 * DAY_NS / 24);
    write(&machine, "wrong").await;
    machine.commit().await.unwrap();
    // A restart in between does not make them older.
    let machine = machine.crash(&shared);
    write(&machine, "wrong still").await;
    machine.commit().await.unwrap();
    shared.clock.set_wall(right_ns);
    let kept = shared.blocks.pins().await.unwrap();
    let lost: Vec<_> = pinned.iter().filter(|cid| !kept.contains(cid)).collect();
    assert_eq!(lost, Vec::<&cid::Cid>::new());

    // A day later they go; the one that was replaced meanwhile was so by the wrong clock.
    shared.clock.advance(Duration::from_secs(50 * 3600));
    write(&machine, "right").await;
    machine.commit().await.unwrap();
    let kept = shared.blocks.pins().await.unwrap();
    let left: Vec<_> = pinned.iter().filter(|cid| kept.contains(cid)).collect();
    assert_eq!(left, Vec::<&cid::Cid>::new());
}

/// In both directions: nothing is refused, and nothing is hidden.
#[tokio::test]
async fn a_clock_that_is_wrong_by_a_day_stops_neither_commits_nor_renewals_nor_another_machine() {
    for wrong_ns in [DAY_NS, -DAY_NS] {
        let shared = Shared::new();
        let right_ns = shared.clock.wall_ns();
        let first = Machine::new(&shared);
        write(&first, "right").await;
        first.commit().await.unwrap();
        shared.clock.set_wall(right_ns + wrong_ns);
        write(&first, "wrong").await;
        first.commit().await.unwrap();
        renew(&first.context).await.unwrap();
        assert!(is_alive(&shared, &first).await);

        // Another machine, whose clock is right, waits ten minutes at most, and goes on.
        shared.clock.set_wall(right_ns);
        assert!(is_alive(&shared, &first).await);
        let other = Machine::new(&shared);
        other.mount().await.unwrap();
        shared.clock.set_wall(right_ns + 601_000_000_000);
        assert_eq!(
            other.mount().await.unwrap(),
            Bootstrap::Current,
            "{wrong_ns}"
        );
        write(&other, "other").await;
        other.commit().await.unwrap();
        // The first one, still wrong, sees it, and loses nothing.
        shared.clock.set_wall(right_ns + wrong_ns);
        let first = first.crash(&shared);
        assert_eq!(first.mount().await.unwrap(), Bootstrap::Behind);
        let third = second(&shared).await;
        let tree = third.tree().await;
        for name in ["/right", "/wrong", "/other"] {
            assert!(tree.contains_key(name), "{name}");
        }
    }
}
