//! The pin of what is published: without it the node's next collection takes the volume. It comes back.

use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use futures::FutureExt;
use tokio::runtime::{Builder, Handle};
use tokio::time::{sleep, timeout};

use super::rig::{Machine, Shared, second};
use crate::fault::Fault;
use crate::publish::receipt::Receipts;
use crate::publish::sample::Sampler;
use crate::publish::sample::task::{self, Signs, turn};
use crate::publish::{Publisher, Timing};
use crate::store::fault::Call;
use crate::store::{BlockStore, BlockStoreExt, StoreError};

/// A machine that has published more than a step of a sweep asks for, and has it in its cache; and the node's pins.
async fn published(shared: &Shared) -> (Machine, Vec<Cid>) {
    let machine = Machine::new(shared);
    for i in 0..700 {
        let name = format!("f{i}");
        let parts: [(u64, &[u8]); 1] = [(0, name.as_bytes())];
        machine.put(machine.root, &name, &parts).await;
    }
    machine.commit().await.unwrap();
    machine.tree().await;
    let pins = shared.blocks.pins().await.unwrap();
    assert_eq!(pins.len(), 2);
    (machine, pins)
}

async fn unpin_all(shared: &Shared) {
    for pin in &shared.blocks.pins().await.unwrap() {
        shared.blocks.unpin(pin).await.unwrap();
    }
}

async fn empty(shared: &Shared) {
    unpin_all(shared).await;
    for cid in &shared.blocks.all() {
        shared.blocks.lose(cid);
    }
}

async fn one_turn(machine: &Machine, sampler: &mut Sampler) {
    turn(&machine.context, sampler, &Signs::default()).await;
}

/// Turns without a pause, as long as there are any, and one at least.
async fn sweep(machine: &Machine, sampler: &mut Sampler) {
    for _ in 0..10 {
        one_turn(machine, sampler).await;
        if !sampler.is_sweeping() {
            return;
        }
    }
    panic!("a sweep without an end");
}

fn begin(machine: &Machine) -> Sampler {
    Sampler::begin(&machine.volume, Receipts::new())
}

async fn assert_pinned(shared: &Shared, pins: &[Cid]) {
    assert!(shared.blocks.all_pinned(pins).await.unwrap());
}

#[tokio::test]
async fn a_pin_that_somebody_took_away_is_back_within_a_turn_wherever_the_round_is() {
    let shared = Shared::new();
    let (machine, pins) = published(&shared).await;
    let mut sampler = begin(&machine);
    for _ in 0..3 {
        unpin_all(&shared).await;
        one_turn(&machine, &mut sampler).await;
        assert_pinned(&shared, &pins).await;
    }
    // Of the usage metadata alone, too.
    for pin in &pins {
        shared.blocks.unpin(pin).await.unwrap();
        one_turn(&machine, &mut sampler).await;
        assert_pinned(&shared, &pins).await;
    }
}

#[tokio::test]
async fn an_emptied_node_gets_its_pins_again_though_the_daemon_was_restarted_while_all_was_put_again()
 {
    let shared = Shared::new();
    let (machine, pins) = published(&shared).await;
    empty(&shared).await;
    let mut sampler = begin(&machine);
    one_turn(&machine, &mut sampler).await;
    assert!(sampler.is_sweeping());
    let mut sampler = begin(&machine);
    sweep(&machine, &mut sampler).await;
    assert_pinned(&shared, &pins).await;
    assert_eq!(second(&shared).await.tree().await, machine.tree().await);
}

#[tokio::test]
async fn a_pin_that_fails_at_the_end_of_a_sweep_is_asked_for_again_at_the_next_turn() {
    let shared = Shared::new();
    let (machine, pins) = published(&shared).await;
    empty(&shared).await;
    let busy = Fault::Before(StoreError::Transient("busy".to_owned()));
    let mut sampler = begin(&machine);
    machine.store.set(Call::Pin, busy, None);
    sweep(&machine, &mut sampler).await;
    assert!(shared.blocks.pins().await.unwrap().is_empty());
    machine.store.clear();
    one_turn(&machine, &mut sampler).await;
    assert_pinned(&shared, &pins).await;
}

#[tokio::test]
async fn a_machine_that_has_not_seen_yet_that_another_went_on_pins_no_old_root_again() {
    let shared = Shared::new();
    let (machine, _) = published(&shared).await;
    let other = second(&shared).await;
    other.put(other.root, "more", &[(0, b"more")]).await;
    other.commit().await.unwrap();
    unpin_all(&shared).await;
    one_turn(&machine, &mut begin(&machine)).await;
    assert!(shared.blocks.pins().await.unwrap().is_empty());
    // Who knows the newest does.
    one_turn(&other, &mut begin(&other)).await;
    assert_eq!(shared.blocks.pins().await.unwrap().len(), 2);
}

#[test]
fn the_sampler_sets_no_timer_before_anything_is_published() {
    let machine = Machine::new(&Shared::new());
    let sampling = || task::run(machine.context.clone(), begin(&machine), Arc::default());
    // A timer cannot be set here.
    let untimed = Builder::new_current_thread().build().unwrap();
    let waits = untimed.block_on(async { sampling().now_or_never() });
    assert_eq!(waits, None);
}

#[tokio::test]
async fn a_pin_of_the_first_commit_of_a_mount_is_looked_after() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    let publisher = Publisher::spawn(
        machine.context.clone(),
        Timing::default(),
        &Handle::current(),
    );
    // It is asleep by now, as far as that can be told.
    tokio::task::yield_now().await;
    machine.put(machine.root, "first", &[(0, b"one")]).await;
    publisher.flush().await.unwrap();
    unpin_all(&shared).await;
    let again = async {
        while shared.blocks.pins().await.unwrap().len() < 2 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let again = timeout(Duration::from_secs(120), again).await;
    again.expect("it is pinned again");
}
