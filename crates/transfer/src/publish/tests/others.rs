//! The other nodes of a volume: they are told its name beside a commit, as soon as they can be.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cid::Cid;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::rig::{Machine, Shared};
use crate::fault::Fault;
use crate::names::fault::{Call, FaultNames};
use crate::names::late::LateNames;
use crate::names::memory::MemoryNames;
use crate::names::record::{Network, Record};
use crate::names::{NameError, NameStore};
use crate::publish::Other;
use crate::publish::head;
use crate::publish::naming::tell_others;
use crate::publish::state::Head;

/// Much more than a commit waits for another node, and much less than that may take.
const BOUND: Duration = Duration::from_secs(30);

fn memory(shared: &Shared) -> Arc<MemoryNames> {
    Arc::new(MemoryNames::new(shared.clock.clone()))
}

fn other(names: Arc<dyn NameStore>, network: Network) -> Other {
    Other {
        label: "second".to_owned(),
        names,
        network,
    }
}

/// The document that the last commit has named, and its sequence.
fn named(machine: &Machine) -> (Cid, u64) {
    let head: Head = machine.volume.meta("head").unwrap().unwrap();
    (head.document.unwrap().0, head.sequence)
}

/// The document that a node has of the volume's name.
async fn held(machine: &Machine, names: &MemoryNames) -> Option<Cid> {
    let name = machine.context.key.name();
    let bytes = names.resolve(&name).await.ok()?;
    Some(Record::verify(&name, &bytes).unwrap().cid)
}

#[tokio::test]
async fn a_second_node_that_hangs_holds_no_commit_up_and_has_the_name_when_it_is_back() {
    let shared = Shared::new();
    let mut machine = Machine::new(&shared);
    let second = memory(&shared);
    let away = Arc::new(FaultNames::new(Arc::<MemoryNames>::clone(&second)));
    let late = Arc::new(LateNames::new(Arc::<FaultNames>::clone(&away)));
    machine.context.node.others = vec![other(late, Network::Ipfs)];
    away.set(Call::Publish, Fault::Hang, None);
    machine.put(machine.root, "file", &[(0, b"bytes")]).await;
    let committed = timeout(BOUND, machine.commit()).await;
    committed.expect("it does not wait").unwrap();
    assert_eq!(away.count(Call::Publish), 1, "it was not asked");
    assert_eq!(held(&machine, &second).await, None);
    away.clear();
    let (document, _) = named(&machine);
    let told = async {
        while held(&machine, &second).await != Some(document) {
            yield_now().await;
        }
    };
    timeout(BOUND, told)
        .await
        .expect("it is told when it is back");
}

#[tokio::test]
async fn a_second_node_that_does_not_say_what_it_has_of_a_name_holds_no_look_up() {
    let shared = Shared::new();
    let mut machine = Machine::new(&shared);
    machine.put(machine.root, "file", &[(0, b"bytes")]).await;
    machine.commit().await.unwrap();
    let away = Arc::new(FaultNames::new(memory(&shared)));
    away.set_all(&Fault::Hang);
    machine.context.node.others = vec![other(away, Network::Ipfs)];
    let looked = timeout(BOUND, head::resolve(&machine.context)).await;
    let looked = looked.expect("it does not wait").unwrap().unwrap();
    assert_eq!(looked.usage.sequence, named(&machine).1);
}

/// A node each of whose answers comes when it is let go.
struct Gate {
    inner: Arc<MemoryNames>,
    asked: Mutex<Vec<oneshot::Sender<()>>>,
}

#[async_trait]
impl NameStore for Gate {
    async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError> {
        self.inner.publish(name, record).await
    }

    async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError> {
        let (go, gone) = oneshot::channel();
        self.asked.lock().unwrap().push(go);
        let _ = gone.await;
        self.inner.resolve(name).await
    }
}

/// Where the end of life says which record is newer, one of an old commit that is made late would be it.
#[tokio::test]
async fn what_a_node_is_told_too_late_hides_no_later_commit() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    let gate = Arc::new(Gate {
        inner: memory(&shared),
        asked: Mutex::default(),
    });
    let mut context = machine.context.clone();
    context.node.others = vec![other(Arc::<Gate>::clone(&gate), Network::Btfs)];
    let mut holders = Vec::new();
    for round in 0..2_u8 {
        holders.push(Arc::strong_count(&gate));
        machine.put(machine.root, "file", &[(0, &[round])]).await;
        machine.commit().await.unwrap();
        let (document, sequence) = named(&machine);
        let asked = async {
            while gate.asked.lock().unwrap().len() <= usize::from(round) {
                yield_now().await;
            }
        };
        // Whoever does not wait for it leaves it to go on.
        tokio::select! {
            () = tell_others(&context, (document, sequence, 0)) => panic!("it is not asked"),
            () = asked => {}
        }
    }
    let (document, _) = named(&machine);
    while let Some(others) = holders.pop() {
        let go = gate.asked.lock().unwrap().pop().unwrap();
        go.send(()).unwrap();
        let ended = async {
            while Arc::strong_count(&gate) > others {
                yield_now().await;
            }
        };
        timeout(BOUND, ended).await.expect("it ends");
        assert_eq!(held(&machine, &gate.inner).await, Some(document));
    }
}
