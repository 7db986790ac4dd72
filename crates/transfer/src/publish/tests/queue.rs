//! The publisher: what it does by itself, and for somebody who waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

use super::guard::publish_beside;
use super::rig::{Machine, Shared, second};
use crate::clock::{Clock, ManualClock};
use crate::fault::Fault;
use crate::journal::record::Record as _;
use crate::names::fault::Call as NameCall;
use crate::names::record::Network;
use crate::names::{NameError, NameStore};
use crate::pack::chunk;
use crate::pack::cid::leaf_cid;
use crate::publish::head::resolve;
use crate::publish::naming::{record, renew};
use crate::publish::pending::{DOUBTED, PENDING, Pending};
use crate::publish::receipt::Receipts;
use crate::publish::sample::Sampler;
use crate::publish::state::Head;
use crate::publish::writers::were_seen_lately;
use crate::publish::{PublishError, Publisher, Timing, is_idle, standing};
use crate::store::fault::{Call, FaultStore};
use crate::store::memory::MemoryStore;
use crate::store::{BlockStore, BlockStoreExt, StoreError};

/// More than anything here takes on a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Somebody waits again and again for everything to be published, until something else `is_so`.
async fn flushed_until(publisher: &Publisher, is_so: impl Fn() -> bool) {
    let waits = async {
        while !is_so() {
            drop(timeout(Duration::from_millis(200), publisher.flush()).await);
        }
    };
    timeout(LIMIT, waits).await.expect("it is tried again");
}

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
    machine
        .between_settling_and_head(before, None, &[leaf_cid(b"two")])
        .await;

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

/// Its name leads to a raw leaf: in another form the document would be under a CID that no record names.
#[tokio::test]
async fn a_commit_that_was_made_with_a_raw_document_is_finished_with_it_and_read_again() {
    let shared = Shared::new();
    let (machine, head) = without_its_head(&shared).await;
    let mut pending: Pending = machine.volume.meta(PENDING).unwrap().unwrap();
    let document = chunk::leaf(Bytes::copy_from_slice(&pending.document));
    let told = (document.cid, pending.sequence, 1);
    let network = machine.context.node.network;
    let (record, _) = record(&machine.context, network, told, 0).unwrap();
    pending.record = record.into();
    pending.is_file = false;
    let values = vec![(PENDING, Some(pending.to_bytes()))];
    machine.volume.keep(values).unwrap();

    let publisher = spawn(&machine);
    let flushed = timeout(LIMIT, publisher.flush()).await;
    flushed.expect("it ends").unwrap();
    let now: Head = machine.volume.meta("head").unwrap().unwrap();
    assert_eq!(now.root, head.root);
    assert_eq!(now.document.map(|cid| cid.0), Some(document.cid));
    assert_eq!(
        shared.blocks.get(&document.cid).await.unwrap(),
        document.data
    );
    let named = resolve(&machine.context).await.unwrap().unwrap();
    assert_eq!(named.document, document.cid);
    // A node that has lost it gets it back under this very CID.
    assert!(shared.blocks.lose(&document.cid));
    let mut sampler = Sampler::begin(&machine.volume, Receipts::new());
    sampler.step(&machine.context).await.unwrap();
    assert!(shared.blocks.has(&document.cid).await.unwrap());
    publisher.stop().await;
}

/// Two commits, the second of which, of two files, lacks its head, and that.
async fn without_its_head(shared: &Shared) -> (Machine, Head) {
    let machine = Machine::new(shared);
    machine.put(machine.root, "f", &[(0, b"one")]).await;
    machine.commit().await.unwrap();
    let before = machine.volume.raw_meta("head").unwrap();
    machine.put(machine.root, "f", &[(0, b"two")]).await;
    machine.put(machine.root, "h", &[(0, b"three")]).await;
    machine.commit().await.unwrap();
    let head: Head = machine.volume.meta("head").unwrap().unwrap();
    machine
        .between_settling_and_head(before, None, &[leaf_cid(b"two")])
        .await;
    (machine, head)
}

/// What was settled is in no other commit: to give it up would be to lose it without a word.
#[tokio::test]
async fn a_settled_commit_outlives_a_node_that_was_emptied_before_it_was_the_head() {
    let shared = Shared::new();
    let (machine, head) = without_its_head(&shared).await;
    machine.tree().await;
    for pin in &shared.blocks.pins().await.unwrap() {
        shared.blocks.unpin(pin).await.unwrap();
    }
    for cid in &shared.blocks.all() {
        shared.blocks.lose(cid);
    }
    let gone = NameError::Missing("k".to_owned());
    machine
        .names
        .set(NameCall::Resolve, Fault::Before(gone), None);
    let publisher = spawn(&machine);
    let answer = timeout(LIMIT, publisher.flush()).await.expect("an end");
    assert_eq!(answer, Ok(()));
    assert!(machine.names.count(NameCall::Publish) > 2, "named again");
    machine.names.clear();
    let now: Head = machine.volume.meta("head").unwrap().unwrap();
    assert_eq!((now.sequence, now.root), (head.sequence, head.root));
    assert!(machine.volume.raw_meta(PENDING).unwrap().is_none());
    let pins = shared.blocks.pins().await.unwrap();
    assert!(pins.contains(&head.root.unwrap().0));
    assert_eq!(second(&shared).await.tree().await, machine.tree().await);
    publisher.stop().await;
}

#[tokio::test]
async fn a_settled_commit_whose_blocks_are_nowhere_is_told_and_holds_nothing_up() {
    let shared = Shared::new();
    let (machine, head) = without_its_head(&shared).await;
    assert!(shared.blocks.lose(&leaf_cid(b"two")));
    // With nothing in the cache.
    let machine = machine.crash(&shared);
    let publisher = spawn(&machine);
    let answer = timeout(LIMIT, publisher.flush()).await.expect("an end");
    assert_eq!(answer, Ok(()));
    let losses = machine.volume.losses(9).unwrap();
    assert_eq!(losses.len(), 1);
    assert_eq!(losses[0].path, "f");
    let now: Head = machine.volume.meta("head").unwrap().unwrap();
    assert_eq!(now.sequence, head.sequence + 1);
    machine.put(machine.root, "g", &[(0, b"more")]).await;
    let answer = timeout(LIMIT, publisher.flush()).await.expect("an end");
    assert_eq!(answer, Ok(()));
    publisher.stop().await;
}

#[tokio::test]
async fn a_flush_ends_when_a_rotten_block_of_a_settled_commit_is_whole_again() {
    let shared = Shared::new();
    let (machine, head) = without_its_head(&shared).await;
    let block = leaf_cid(b"two");
    machine.tree().await;
    shared.blocks.damage(&block, "rot".into());
    let publisher = spawn(&machine);
    let answer = timeout(LIMIT, publisher.flush()).await.expect("an end");
    assert_eq!(answer, Ok(()));
    assert_eq!(shared.blocks.get(&block).await.unwrap(), b"two"[..]);
    let now: Head = machine.volume.meta("head").unwrap().unwrap();
    assert_eq!((now.sequence, now.root), (head.sequence, head.root));
    publisher.stop().await;
}

/// The head lacks `lost` on the node, and nothing of it is cached.
async fn doubted(shared: &Shared, lost: &[&[u8]]) -> (Machine, Head) {
    let (machine, head) = without_its_head(shared).await;
    for bytes in lost {
        assert!(shared.blocks.lose(&leaf_cid(bytes)));
    }
    let machine = machine.crash(shared);
    let done = machine.commit().await.unwrap();
    assert!(!done.made && done.doubted.is_some());
    assert!(!is_idle(&machine.volume));
    (machine, head)
}

async fn give_back(shared: &Shared, bytes: &'static [u8]) {
    let block = chunk::leaf(bytes.into());
    shared.blocks.put_many(&[block]).await.unwrap();
}

#[tokio::test]
async fn what_a_node_has_lost_of_the_head_is_not_forgotten_when_a_further_commit_stumbles() {
    let shared = Shared::new();
    let (machine, _) = doubted(&shared, &[b"two"]).await;
    machine.put(machine.root, "g", &[(0, b"more")]).await;
    machine.store.set(Call::PutMany, busy(), Some(1));
    assert!(machine.commit().await.is_err());
    let machine = machine.crash(&shared);
    for _ in 0..3 {
        let error = machine.commit().await.unwrap_err();
        assert!(error.may_pass(), "{error}");
        assert!(machine.volume.raw_meta(DOUBTED).unwrap().is_some());
    }
    give_back(&shared, b"two").await;
    let publisher = spawn(&machine);
    assert_eq!(timeout(LIMIT, publisher.flush()).await, Ok(Ok(())));
    assert!(is_idle(&machine.volume));
    assert_eq!(second(&shared).await.tree().await, machine.tree().await);
    publisher.stop().await;
}

/// That a node says it has a block proves nothing of one that came back as other bytes.
#[tokio::test]
async fn what_is_rotten_on_the_node_is_told_though_a_further_commit_was_made() {
    let shared = Shared::new();
    let (machine, _) = without_its_head(&shared).await;
    shared.blocks.damage(&leaf_cid(b"two"), "rot".into());
    let machine = machine.crash(&shared);
    machine.put(machine.root, "g", &[(0, b"more")]).await;
    let done = machine.commit().await.unwrap();
    assert!(done.made && done.doubted.is_some());
    let publisher = spawn(&machine);
    assert_eq!(timeout(LIMIT, publisher.flush()).await, Ok(Ok(())));
    let losses = machine.volume.losses(9).unwrap();
    assert_eq!(losses.len(), 1);
    assert_eq!(losses[0].path, "f");
    publisher.stop().await;
}

/// While it cannot be told what the node has.
#[tokio::test]
async fn a_doubted_head_is_no_progress_for_who_waits_and_no_reason_to_publish_sooner() {
    let shared = Shared::new();
    let (machine, _) = doubted(&shared, &[b"two"]).await;
    machine.store.set(Call::Has, busy(), None);
    machine.put(machine.root, "g", &[(0, b"more")]).await;
    let publisher = spawn(&machine);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(publisher.status().progress.commits, 0);
    let asked = || machine.store.count(Call::Has);
    let then = asked();
    flushed_until(&publisher, || asked() > then + 8).await;
    let (then, moved) = (asked(), publisher.moved());
    flushed_until(&publisher, || asked() > then + 2).await;
    assert_eq!(publisher.moved(), moved);
    machine.store.clear();
    assert_eq!(timeout(LIMIT, publisher.flush()).await, Ok(Ok(())));
    assert_eq!(machine.volume.losses(9).unwrap().len(), 1);
    publisher.stop().await;
}

#[tokio::test]
async fn a_flush_of_a_token_that_takes_no_changes_says_what_it_has_not_published() {
    let shared = Shared::new();
    let (machine, _) = doubted(&shared, &[b"two"]).await;
    let closed = crate::fs::Access::ReadOnly("not ours".to_owned());
    machine.volume.set_access(closed);
    let publisher = spawn(&machine);
    let refused = Err(PublishError::Refused("not ours".to_owned()));
    assert_eq!(timeout(LIMIT, publisher.flush()).await, Ok(refused));
    publisher.stop().await;
}

/// A node that has a root pinned already does not walk it again.
#[tokio::test]
async fn a_flush_says_that_a_doubted_head_is_published_only_when_each_block_of_it_is_there() {
    let shared = Shared::new();
    let (machine, head) = doubted(&shared, &[b"two", b"three"]).await;
    give_back(&shared, b"two").await;
    for _ in 0..3 {
        assert!(machine.commit().await.unwrap().doubted.is_some());
    }
    // Nor does a round that has found something missing end it.
    let mut sampler = Sampler::begin(&machine.volume, machine.receipts.clone());
    assert!(sampler.step(&machine.context).await.unwrap() > 0);
    assert_eq!(machine.receipts.whole(), None);
    give_back(&shared, b"three").await;
    let publisher = spawn(&machine);
    assert_eq!(timeout(LIMIT, publisher.flush()).await, Ok(Ok(())));
    let now: Head = machine.volume.meta("head").unwrap().unwrap();
    assert_eq!((now.sequence, now.root), (head.sequence, head.root));
    assert!(is_idle(&machine.volume));
    assert_eq!(publisher.status().last_error, None);
    publisher.stop().await;
}

#[tokio::test]
async fn a_named_commit_that_was_not_settled_comes_again_whatever_the_node_has_lost_of_it() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    machine.put(machine.root, "f", &[(0, b"one")]).await;
    machine.commit().await.unwrap();
    machine.put(machine.root, "f", &[(0, b"two")]).await;
    let lost = NameError::Transient("the answer was lost".to_owned());
    machine
        .names
        .set(NameCall::Publish, Fault::After(lost), Some(1));
    assert!(machine.commit().await.is_err());
    let machine = machine.crash(&shared);
    // A node that is put back to an earlier state has neither the block nor the pin.
    assert!(shared.blocks.lose(&leaf_cid(b"two")));
    for pin in &shared.blocks.pins().await.unwrap() {
        shared.blocks.unpin(pin).await.unwrap();
    }
    machine.commit().await.unwrap();
    assert!(machine.volume.raw_meta(PENDING).unwrap().is_none());
    assert_eq!(second(&shared).await.tree().await, machine.tree().await);
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
    let put = || machine.store.count(Call::PutMany);
    flushed_until(&publisher, || put() > 8).await;
    let (then, moved) = (put(), publisher.moved());
    flushed_until(&publisher, || put() > then + 4).await;
    assert_eq!(publisher.moved(), moved);
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

#[tokio::test]
async fn a_flush_to_another_node_ends_when_that_has_all_that_was_published_and_not_before() {
    let shared = Shared::new();
    let mut machine = Machine::new(&shared);
    for i in 0..50 {
        let name = format!("f{i}");
        let parts: [(u64, &[u8]); 1] = [(0, name.as_bytes())];
        machine.put(machine.root, &name, &parts).await;
    }
    machine.commit().await.unwrap();
    machine.tree().await;
    let head: Head = machine.volume.meta("head").unwrap().unwrap();
    let other = Arc::new(FaultStore::new(Arc::new(MemoryStore::new())));
    machine.context.node.store = Arc::<FaultStore>::clone(&other);
    machine.context.node.label = "another node".to_owned();
    other.set(Call::PutMany, busy(), None);
    let publisher = spawn(&machine);
    assert!(publisher.is_bare() && is_idle(&machine.volume));
    let told = timeout(Duration::from_secs(2), publisher.flush()).await;
    assert!(told.is_err(), "{told:?}");
    let error = publisher.status().last_error.unwrap().to_string();
    assert!(error.contains("lacks what was published"), "{error}");
    publisher.stop().await;
    // A daemon that begins anew before that does not take it for done.
    let publisher = spawn(&machine);
    assert!(publisher.is_bare());
    other.clear();
    timeout(LIMIT, publisher.flush()).await.unwrap().unwrap();
    assert!(!publisher.is_bare());
    assert_eq!(publisher.status().last_error, None);
    publisher.stop().await;
    let root = head.root.unwrap().0;
    assert!(other.all_pinned(&[root]).await.unwrap());
    other.unpin(&root).await.unwrap();
    other.pin(&root, None).await.unwrap();
    // The same node again is believed.
    let again = spawn(&machine);
    assert!(!again.is_bare());
    again.stop().await;
}

/// The name's record as the node has it.
async fn record_of(shared: &Shared, machine: &Machine) -> Vec<u8> {
    let name = machine.context.key.name();
    shared.names.resolve(&name).await.unwrap()
}

/// Waits until the node has another record than this one.
async fn renewed_since(shared: &Shared, machine: &Machine, before: &[u8]) -> Vec<u8> {
    let renewed = async {
        loop {
            let now = record_of(shared, machine).await;
            if now != before {
                return now;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, renewed).await.expect("it is put again")
}

/// What a node does that forgets a name after two days: it keeps that of who was there, asleep for most of it, too.
#[tokio::test]
async fn a_name_is_put_again_at_start_and_every_twelve_hours_and_not_more_often() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    machine.put(machine.root, "f", &[(0, b"one")]).await;
    machine.commit().await.unwrap();
    let told = record_of(&shared, &machine).await;
    let publisher = spawn(&machine);
    let mut last = renewed_since(&shared, &machine, &told).await;
    for _ in 0..2 {
        shared.clock.advance(Duration::from_secs(12 * 3600 - 1));
        let before = machine.names.count(NameCall::Publish);
        // Nothing is due for some turns.
        sleep(Duration::from_secs(1)).await;
        assert_eq!(machine.names.count(NameCall::Publish), before);
        shared.clock.advance(Duration::from_secs(1));
        last = renewed_since(&shared, &machine, &last).await;
    }
    // What fails is tried again.
    let away = Fault::Before(NameError::Transient("away".to_owned()));
    machine.names.set(NameCall::Publish, away, Some(1));
    let before = machine.names.count(NameCall::Publish);
    shared.clock.advance(Duration::from_secs(12 * 3600));
    let failed = async {
        while machine.names.count(NameCall::Publish) == before {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, failed).await.expect("it is due");
    let again = async {
        while record_of(&shared, &machine).await == last {
            shared.clock.advance(Duration::from_secs(1));
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, again).await.expect("it is tried again");
    let cleared = async {
        while publisher.status().last_error.is_some() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, cleared).await.expect("it is told no more");
    publisher.stop().await;
}

/// A machine that has made a commit, and its publisher, which has put the record again: that.
async fn at_work(shared: &Shared) -> (Machine, Publisher, Vec<u8>) {
    let machine = Machine::new(shared);
    machine.put(machine.root, "f", &[(0, b"one")]).await;
    machine.commit().await.unwrap();
    let told = record_of(shared, &machine).await;
    let publisher = spawn(&machine);
    let renewed = renewed_since(shared, &machine, &told).await;
    (machine, publisher, renewed)
}

async fn publish_more(machine: &Machine, publisher: &Publisher) {
    machine.put(machine.root, "f", &[(0, b"two")]).await;
    assert_eq!(timeout(LIMIT, publisher.flush()).await, Ok(Ok(())));
}

#[tokio::test]
async fn a_node_that_takes_a_commits_name_and_loses_it_is_told_again_a_minute_later() {
    let shared = Shared::new();
    let (machine, publisher, before) = at_work(&shared).await;
    publish_more(&machine, &publisher).await;
    let name = machine.context.key.name();
    shared.names.damage(&name, before.clone());
    // While nothing can be read it is looked again.
    let away = Fault::Before(NameError::Transient("away".to_owned()));
    machine.names.set(NameCall::Resolve, away, Some(1));
    let looks = machine.names.count(NameCall::Resolve);
    shared.clock.advance(Duration::from_secs(60));
    let looked = async {
        while machine.names.count(NameCall::Resolve) == looks {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, looked).await.expect("a second look");
    let again = async {
        while record_of(&shared, &machine).await == before {
            shared.clock.advance(Duration::from_secs(1));
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, again).await.expect("it is told again");
    assert_eq!(second(&shared).await.tree().await, machine.tree().await);
    publisher.stop().await;
}

/// Both look at the name, and see nothing of the other; then both name what they have.
#[tokio::test]
async fn of_two_machines_that_flush_at_the_same_moment_one_is_told_that_its_tree_is_not_the_one_that_is_named()
 {
    let shared = Shared::new();
    let (machine, publisher, _) = at_work(&shared).await;
    let other = second(&shared).await;
    other.put(other.root, "theirs", &[(0, b"before")]).await;
    shared.clock.advance(Duration::from_secs(1));
    other.commit().await.unwrap();
    // It goes on from there, and knows since then that there is another one.
    assert_eq!(timeout(LIMIT, publisher.flush()).await, Ok(Ok(())));
    let followed = async {
        while !is_followed(&machine, &other) {
            shared.clock.advance(Duration::from_secs(1));
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, followed)
        .await
        .expect("it goes on from theirs");

    machine.put(machine.root, "f", &[(0, b"two")]).await;
    let commits = || publisher.status().progress.commits;
    let before = commits();
    let meets = async {
        while commits() == before {
            sleep(Duration::from_millis(5)).await;
        }
        publish_beside(&shared, &other).await;
        shared.clock.advance(Duration::from_secs(2));
    };
    let (flushed, ()) = tokio::join!(timeout(LIMIT, publisher.flush()), meets);
    let told = flushed.expect("an end");
    assert!(matches!(told, Err(PublishError::Conflict(_))), "{told:?}");
    // The other one is asked the same, and is right.
    let theirs = spawn(&other);
    let asked = async {
        let flushed = theirs.flush();
        tokio::pin!(flushed);
        loop {
            tokio::select! {
                told = &mut flushed => break told,
                () = sleep(Duration::from_millis(20)) => shared.clock.advance(Duration::from_secs(1)),
            }
        }
    };
    assert_eq!(timeout(LIMIT, asked).await, Ok(Ok(())));
    theirs.stop().await;
    publisher.stop().await;
}

/// As a mount asks for it at each look at the chain.
#[tokio::test]
async fn a_machine_with_nothing_to_publish_shows_another_ones_commit_without_one_of_its_own() {
    let shared = Shared::new();
    let (machine, publisher, _) = at_work(&shared).await;
    assert!(!publisher.status().is_theirs);
    let other = second(&shared).await;
    let publish = async |name: &str| {
        other.put(other.root, name, &[(0, name.as_bytes())]).await;
        shared.clock.advance(Duration::from_secs(1));
        other.commit().await.unwrap();
    };
    let look = async || timeout(LIMIT, publisher.follow()).await.expect("an end");
    publish("one").await;
    look().await;
    assert_eq!(machine.tree().await, other.tree().await);
    assert!(publisher.status().is_theirs);
    let root = |machine: &Machine| standing(&machine.volume).root;
    assert_eq!(publisher.status().root, root(&other));
    // What is unpublished here stays, and nothing is said before it is to be published.
    machine.put(machine.root, "mine", &[(0, b"mine")]).await;
    publish("two").await;
    look().await;
    let tree = machine.tree().await;
    assert!(tree.contains_key("/mine") && !tree.contains_key("/two"));
    assert_eq!(publisher.status().last_error, None);
    publisher.stop().await;
}

#[tokio::test]
async fn a_machine_whose_commit_went_under_says_so_at_its_next_look() {
    let shared = Shared::new();
    let (machine, publisher, _) = at_work(&shared).await;
    let other = second(&shared).await;
    publish_more(&machine, &publisher).await;
    publish_beside(&shared, &other).await;
    timeout(LIMIT, publisher.follow()).await.expect("an end");
    let told = publisher.status().last_error;
    assert!(matches!(told, Some(PublishError::Conflict(_))), "{told:?}");
    publisher.stop().await;
}

/// A clock that counts who looks at it.
struct Counting {
    clock: Arc<ManualClock>,
    looks: AtomicU64,
}

impl Clock for Counting {
    fn wall_ns(&self) -> i64 {
        self.clock.wall_ns()
    }

    fn boottime(&self) -> Duration {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.clock.boottime()
    }

    fn boot_id(&self) -> String {
        self.clock.boot_id()
    }

    fn until(&self, at: Duration) -> BoxFuture<'_, ()> {
        self.clock.until(at)
    }
}

/// Whoever looks again and again has no second without a look.
#[tokio::test]
async fn a_token_that_nobody_uses_is_not_looked_at_again_and_again() {
    let shared = Shared::new();
    let mut machine = Machine::new(&shared);
    machine.put(machine.root, "f", &[(0, b"one")]).await;
    machine.commit().await.unwrap();
    let clock = Arc::new(Counting {
        clock: Arc::clone(&shared.clock),
        looks: AtomicU64::new(0),
    });
    machine.context.clock = Arc::<Counting>::clone(&clock);
    machine.context.node.ahead = true;
    let publisher = spawn(&machine);
    let looks = || clock.looks.load(Ordering::Relaxed);
    let rests = async {
        loop {
            let before = looks();
            sleep(Duration::from_secs(1)).await;
            if looks() == before {
                break;
            }
        }
    };
    timeout(LIMIT, rests).await.expect("a rest");
    // A change calls it.
    publish_more(&machine, &publisher).await;
    publisher.stop().await;
}

/// Where no other machine was seen nobody waits.
#[tokio::test]
async fn a_flush_of_a_machine_that_is_alone_waits_for_no_second_look() {
    let shared = Shared::new();
    let (machine, publisher, _) = at_work(&shared).await;
    publish_more(&machine, &publisher).await;
    publisher.stop().await;
}

/// What a mount does at its start shows that it is there, before it has published anything.
#[tokio::test]
async fn a_machine_that_has_put_the_name_again_is_waited_for_though_it_has_published_nothing() {
    let shared = Shared::new();
    let mut machine = Machine::new(&shared);
    machine.context.node.network = Network::Ipfs;
    machine.put(machine.root, "f", &[(0, b"one")]).await;
    machine.commit().await.unwrap();
    assert!(!were_seen_lately(&machine.context));
    let mut other = second(&shared).await;
    other.context.node.network = Network::Ipfs;
    renew(&other.context).await.unwrap();
    machine.put(machine.root, "f", &[(0, b"two")]).await;
    machine.commit().await.unwrap();
    assert!(were_seen_lately(&machine.context));
    // One that was not seen for two days is there no more.
    shared.clock.advance(Duration::from_secs(48 * 3600));
    assert!(!were_seen_lately(&machine.context));
}

fn is_followed(machine: &Machine, other: &Machine) -> bool {
    let root = |machine: &Machine| {
        let head: Head = machine.volume.meta("head").unwrap().unwrap();
        head.root
    };
    root(machine) == root(other)
}

#[tokio::test]
async fn another_machines_commit_that_met_ours_is_told_a_minute_later() {
    let shared = Shared::new();
    let (machine, publisher, _) = at_work(&shared).await;
    let other = second(&shared).await;
    publish_more(&machine, &publisher).await;
    publish_beside(&shared, &other).await;
    let theirs = record_of(&shared, &machine).await;
    let told = async {
        while !matches!(
            publisher.status().last_error,
            Some(PublishError::Conflict(_))
        ) {
            shared.clock.advance(Duration::from_secs(1));
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, told).await.expect("it is noticed");
    assert_eq!(record_of(&shared, &machine).await, theirs);
    publisher.stop().await;
}
