//! What commits are charged on contracts that charge each one.

use std::collections::BTreeMap;

use super::guard::publish_beside;
use super::rig::{Machine, Shared, second, token};
use crate::chain::{Accounting, TokenInfo};
use crate::fault::Fault;
use crate::names::NameError;
use crate::names::fault::Call as NameCall;
use crate::publish::allowance;
use crate::publish::{Bootstrap, PublishError};
use crate::store::StoreError;
use crate::store::fault::Call;

/// Bytes of the file that a commit is cut off with, and of one that is written later.
const FIRST: u64 = 1_500_000;
const LATER: u64 = 300_000;
/// More than roots, documents, directories and nodes of one commit take.
const REST: u64 = 60_000;

/// A machine on such a contract; to be said again after each start.
fn additive(machine: Machine) -> Machine {
    grant(&machine, 50);
    machine
}

/// The chain is seen with so many upload units.
fn grant(machine: &Machine, units: u64) {
    let token = TokenInfo {
        accounting: Accounting::Additive,
        uploads_left: Some(units),
        ..token()
    };
    let clock = machine.context.clock.as_ref();
    let allowance = allowance(&token, 1, 1_800_000_000, clock);
    machine.volume.set_allowance(&allowance).unwrap();
}

/// Bytes of which no chunk is like another, nor like one of another `salt`.
fn bytes(salt: u32, count: u64) -> Vec<u8> {
    let words = u32::try_from(count / 4).unwrap();
    let words = (0..words).map(|word| word ^ salt << 24);
    words.flat_map(u32::to_be_bytes).collect()
}

async fn put(machine: &Machine, name: &str, content: &[u8]) {
    machine.put(machine.root, name, &[(0, content)]).await;
}

/// The last commit was charged for so many bytes of content.
#[track_caller]
fn assert_charged(machine: &Machine, sequence: u64, content: u64) {
    let charges = machine.volume.charges();
    let (last, charged) = *charges.last().unwrap();
    assert_eq!(last, sequence, "{charges:?}");
    assert!(
        (content..content + REST).contains(&charged),
        "{content} bytes are charged as {charges:?}"
    );
}

#[tokio::test]
async fn what_a_commit_that_was_cut_off_has_sent_is_charged_once() {
    let lost = || NameError::Transient("the line broke".to_owned());
    for step in ["pin", "name", "named"] {
        let shared = Shared::new();
        let machine = additive(Machine::new(&shared));
        put(&machine, "first", &bytes(1, FIRST)).await;
        match step {
            "pin" => {
                let busy = StoreError::Transient("busy".to_owned());
                machine.store.set(Call::Pin, Fault::Before(busy), Some(1));
            }
            "name" => (machine.names).set(NameCall::Publish, Fault::Before(lost()), Some(1)),
            _ => (machine.names).set(NameCall::Publish, Fault::After(lost()), Some(1)),
        }
        assert!(machine.commit().await.is_err(), "{step}");
        assert_eq!(machine.volume.charges(), [], "{step}");

        let machine = additive(machine.crash(&shared));
        put(&machine, "later", &bytes(2, LATER)).await;
        machine.commit().await.unwrap();
        let charges = machine.volume.charges();
        assert_eq!(charges.len(), 2, "{step}: {charges:?}");
        let (sequence, charged) = charges[0];
        assert_eq!(sequence, 1);
        assert!(
            (FIRST..FIRST + REST).contains(&charged),
            "{step}: {charges:?}"
        );
        assert_charged(&machine, 2, LATER);

        // From then on what is stored anew is paid for, whatever it was before.
        put(&machine, "first", &bytes(3, FIRST)).await;
        machine.commit().await.unwrap();
        assert_charged(&machine, 3, FIRST);
        put(&machine, "first", &bytes(1, FIRST)).await;
        machine.commit().await.unwrap();
        assert_charged(&machine, 4, FIRST);
    }
}

#[tokio::test]
async fn uploads_are_to_be_bought_only_where_the_chain_has_none() {
    let machine = additive(Machine::new(&Shared::new()));
    let file = machine.put(machine.root, "file", &[(0, b"content")]).await;
    machine.commit().await.unwrap();
    machine.resize(file, 0);
    let refused = async || machine.commit().await.unwrap_err().to_string();
    // Whether that is before or after the charge of the first commit is not known yet.
    grant(&machine, 1);
    let told = refused().await;
    assert!(
        !told.contains("buy") && told.contains("tried again"),
        "{told}"
    );
    grant(&machine, 0);
    machine
        .volume
        .settle_charges(&[(1, 0)], BTreeMap::new())
        .unwrap();
    let told = refused().await;
    assert!(told.contains("buy uploads"), "{told}");
}

#[tokio::test]
async fn what_a_commit_that_was_given_up_has_built_is_charged_with_the_next_one() {
    let shared = Shared::new();
    let machine = additive(Machine::new(&shared));
    put(&machine, "first", &bytes(1, FIRST)).await;
    let busy = StoreError::Transient("busy".to_owned());
    machine
        .store
        .set(Call::PutMany, Fault::Before(busy), Some(1));
    assert!(machine.commit().await.is_err());
    let machine = additive(machine.crash(&shared));
    machine.commit().await.unwrap();
    assert_eq!(machine.volume.charges().len(), 1);
    assert_charged(&machine, 2, FIRST);
}

/// It is in no other commit, and its bytes are on the node.
#[tokio::test]
async fn what_was_settled_in_a_commit_that_another_machine_hid_is_charged_once() {
    let shared = Shared::new();
    let machine = additive(Machine::new(&shared));
    put(&machine, "base", b"base").await;
    machine.commit().await.unwrap();
    let before = machine.volume.raw_meta("head").unwrap();
    let base = machine.volume.charges();
    let other = additive(second(&shared).await);
    put(&machine, "mine", &bytes(1, FIRST)).await;
    machine.commit().await.unwrap();
    let charged = *machine.volume.charges().last().unwrap();
    // The power is cut before it is the head, and is charged.
    (machine.between_settling_and_head(before, Some(charged.1), &[])).await;
    machine.volume.disown_charges().unwrap();
    machine.volume.owe(&base).unwrap();
    publish_beside(&shared, &other).await;

    assert_eq!(machine.take_over().await.unwrap(), Bootstrap::Current);
    assert_eq!(machine.volume.charges(), [base, vec![charged]].concat());
    let machine = additive(machine.crash(&shared));
    assert_eq!(machine.mount().await.unwrap(), Bootstrap::Current);
    machine.commit().await.unwrap();
    assert_charged(&machine, charged.0 + 1, 0);
}

/// Nobody has ever seen it, and all of it comes with the commit of the take-over.
#[tokio::test]
async fn a_commit_that_saw_another_machines_name_before_its_own_left_costs_nothing() {
    let shared = Shared::new();
    let machine = additive(Machine::new(&shared));
    put(&machine, "base", b"base").await;
    machine.commit().await.unwrap();
    let base = machine.volume.charges();
    let other = additive(second(&shared).await);
    put(&other, "theirs", b"theirs").await;
    other.commit().await.unwrap();
    put(&machine, "mine", &bytes(1, FIRST)).await;
    // It begins before the other one is there, and looks again before it names.
    let unseen = Fault::Before(NameError::Missing("k".to_owned()));
    machine.names.set(NameCall::Resolve, unseen, Some(1));
    let told = machine.commit().await;
    assert!(matches!(told, Err(PublishError::Conflict(_))), "{told:?}");
    assert_eq!(machine.take_over().await.unwrap(), Bootstrap::Current);
    assert_eq!(machine.volume.charges(), base);
    machine.commit().await.unwrap();
    let sequence = machine.volume.charges().last().unwrap().0;
    assert_charged(&machine, sequence, FIRST);
    assert_eq!(machine.volume.charges().len(), base.len() + 1);
}
