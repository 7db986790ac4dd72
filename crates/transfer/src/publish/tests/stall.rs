//! A local disk that stands still: who waits for it, and who does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::sync::{Notify, Semaphore};

use super::rig::{Machine, Shared};
use crate::journal::simulated::{Left, Power};
use crate::publish::naming::renew;
use crate::publish::state::State;
use crate::publish::{Bootstrap, follow};

fn machine(shared: &Shared, power: &Arc<Power>) -> Machine {
    let folder = tempfile::tempdir().unwrap();
    Machine::on(shared, folder, power.disk(0), power.disk(1))
}

/// Counts the syncs of a disk: those that hold up the thread of all tasks, and others.
fn watch(power: &Power) -> Arc<[AtomicUsize; 2]> {
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let (runtime, told) = (thread::current().id(), Arc::clone(&counts));
    power.set_pause(Some(Arc::new(move || {
        let beside = thread::current().id() != runtime;
        told[usize::from(beside)].fetch_add(1, Ordering::Relaxed);
    })));
    counts
}

#[tokio::test]
async fn publishing_never_syncs_the_local_disk_in_the_thread_of_all_tasks() {
    let shared = Shared::new();
    let (one, other) = (Power::on(Left::default()), Power::on(Left::default()));
    let first = machine(&shared, &one);
    let second = machine(&shared, &other);
    let counts = [watch(&one), watch(&other)];
    first.start().await.unwrap();
    for text in [&b"one"[..], b"two"] {
        first.put(first.root, "f", &[(0, text)]).await;
        assert!(first.commit().await.unwrap().made);
    }
    renew(&first.context).await.unwrap();
    let found = second.start().await.unwrap();
    assert!(matches!(found, Bootstrap::Adopted(_)), "{found:?}");
    first.put(first.root, "g", &[(0, b"three")]).await;
    first.commit().await.unwrap();
    assert!(follow(&second.context).await.unwrap());
    second.put(second.root, "h", &[(0, b"four")]).await;
    second.commit().await.unwrap();
    first.put(first.root, "i", &[(0, b"five")]).await;
    first.take_over().await.unwrap();
    for count in counts {
        let [held_up, beside] = count.each_ref().map(|n| n.load(Ordering::Relaxed));
        assert_eq!(held_up, 0);
        assert!(beside > 4, "{beside} syncs were seen");
    }
}

/// A commit that finds many lost files holds the head for each of them.
#[tokio::test]
async fn a_head_that_is_held_already_waits_for_no_disk() {
    let (shared, power) = (Shared::new(), Power::on(Left::default()));
    let machine = machine(&shared, &power);
    machine.start().await.unwrap();
    machine.put(machine.root, "f", &[(0, b"text")]).await;
    machine.commit().await.unwrap();
    let now = machine.context.moment();
    let hold = async || {
        let now = now.clone();
        let held = State::change(&machine.volume, move |state| {
            state.hold_head(&now);
            Ok(())
        });
        held.await.unwrap();
    };
    let counts = watch(&power);
    let [_, syncs] = &*counts;
    hold().await;
    let first = syncs.load(Ordering::Relaxed);
    assert!(first > 0, "it is durable");
    hold().await;
    assert_eq!(syncs.load(Ordering::Relaxed), first);
}

#[tokio::test]
async fn a_volume_is_published_while_the_local_disks_of_others_stand_still() {
    let shared: Vec<Shared> = (0..3).map(|_| Shared::new()).collect();
    let powers: Vec<Arc<Power>> = (0..3).map(|_| Power::on(Left::default())).collect();
    let mut machines = Vec::new();
    for (shared, power) in shared.iter().zip(&powers) {
        let machine = machine(shared, power);
        machine.start().await.unwrap();
        machine.put(machine.root, "f", &[(0, b"text")]).await;
        machines.push(machine);
    }
    let runtime = thread::current().id();
    let stands_still = Arc::new(Notify::new());
    let gate = Arc::new(Semaphore::new(0));
    for power in &powers[..2] {
        let (told, gate) = (Arc::clone(&stands_still), Arc::clone(&gate));
        power.set_pause(Some(Arc::new(move || {
            assert_ne!(thread::current().id(), runtime, "nothing would go on");
            told.notify_one();
            let opened = futures::executor::block_on(gate.acquire());
            assert!(opened.is_err());
        })));
    }
    let free = machines.pop().unwrap();
    let mut stalled = Vec::new();
    for machine in machines {
        stalled.push(tokio::spawn(async move { machine.commit().await }));
        stands_still.notified().await;
    }
    assert!(free.commit().await.unwrap().made);
    assert!(stalled.iter().all(|task| !task.is_finished()));
    for power in &powers {
        power.set_pause(None);
    }
    gate.close();
    for task in stalled {
        assert!(task.await.unwrap().unwrap().made);
    }
}
