//! Commits that are interrupted, refused or overtaken.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;

use super::rig::{Machine, Shared, second};
use crate::clock::Clock;
use crate::fault::Fault;
use crate::names::fault::Call as NameCall;
use crate::names::record::{BTNS_SEQUENCE, Record};
use crate::names::{NameError, NameStore};
use crate::pack::cid::{self as form, leaf_cid};
use crate::publish::head::resolve;
use crate::publish::naming::{is_named, renew};
use crate::publish::pending::PENDING;
use crate::publish::receipt::Receipts;
use crate::publish::state::Head;
use crate::publish::{Bootstrap, PublishError};
use crate::store::fault::Call;
use crate::store::hook::Hook;
use crate::store::{Block, BlockStore, BlockStoreExt, StoreError};

fn head_of(machine: &Machine) -> Head {
    machine.volume.meta("head").unwrap().unwrap()
}

fn busy() -> Fault<StoreError> {
    Fault::Before(StoreError::Transient("busy".to_owned()))
}

#[tokio::test]
async fn whatever_call_fails_nothing_is_lost_and_the_next_try_ends_it() {
    for call in [Call::PutMany, Call::Pin, Call::Pins, Call::Get] {
        for after in [false, true] {
            let shared = Shared::new();
            let machine = Machine::new(&shared);
            machine
                .put(machine.root, "f", &[(0, &vec![9; 1_500_000])])
                .await;
            let error = StoreError::Transient("busy".to_owned());
            let fault = if after {
                Fault::After(error)
            } else {
                Fault::Before(error)
            };
            machine.store.set(call, fault, Some(1));
            assert!(machine.commit().await.is_err(), "{call:?}");
            let machine = machine.crash(&shared);
            assert_eq!(machine.tree().await.len(), 1);
            machine.commit().await.unwrap();
            machine.commit().await.unwrap();
            let other = second(&shared).await;
            assert_eq!(other.tree().await, machine.tree().await);
        }
    }
}

#[tokio::test]
async fn one_sequence_never_names_two_roots() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    machine.put(machine.root, "f", &[(0, b"one")]).await;
    machine.commit().await.unwrap();
    let sequence = async |machine: &Machine| {
        let named = resolve(&machine.context).await;
        named.unwrap().unwrap().usage.sequence
    };
    assert_eq!(sequence(&machine).await, 1);
    machine.put(machine.root, "f", &[(0, b"two")]).await;
    machine.store.set(Call::Pin, busy(), Some(1));
    assert!(machine.commit().await.is_err());
    // More is written before the interrupted commit is finished: that is the commit after it.
    let machine = machine.crash(&shared);
    machine.put(machine.root, "g", &[(0, b"three")]).await;
    machine.commit().await.unwrap();
    assert_eq!(sequence(&machine).await, 3);
    let other = second(&shared).await;
    assert_eq!(other.tree().await, machine.tree().await);
}

/// BTFS nodes take the record that ends later, and refuse any other without a word.
#[tokio::test]
async fn a_btns_record_ends_later_than_the_one_before_whatever_the_clock_says() {
    let shared = Shared::new();
    let mut machine = Machine::new(&shared);
    let name = machine.context.key.name();
    let day_ns = 86_400_000_000_000;
    let begin_ns = shared.clock.wall_ns();
    let mut last: Option<Record> = None;
    for (commit, wall_ns) in [
        begin_ns,
        begin_ns,
        begin_ns - day_ns,
        begin_ns + 30 * day_ns,
    ]
    .into_iter()
    .enumerate()
    {
        shared.clock.set_wall(wall_ns);
        machine
            .put(machine.root, &format!("f{commit}"), &[(0, b"x")])
            .await;
        machine.commit().await.unwrap();
        renew(&machine.context).await.unwrap();
        let bytes = shared.names.resolve(&name).await.unwrap();
        let record = Record::verify(&name, &bytes).unwrap();
        assert_eq!(record.sequence, BTNS_SEQUENCE);
        if let Some(last) = &last {
            assert!(record.replaces(last), "{record:?} after {last:?}");
        }
        last = Some(record);
        machine = machine.crash(&shared);
    }
}

#[tokio::test]
async fn two_machines_never_silently_lose_either_ones_tree() {
    let shared = Shared::new();
    let first = Machine::new(&shared);
    first.put(first.root, "base", &[(0, b"base")]).await;
    first.commit().await.unwrap();
    let other = second(&shared).await;
    first.put(first.root, "mine", &[(0, b"mine")]).await;
    other.put(other.root, "theirs", &[(0, b"theirs")]).await;
    first.commit().await.unwrap();
    assert!(matches!(
        other.commit().await,
        Err(PublishError::Conflict(_))
    ));
    assert!(other.tree().await.contains_key("/theirs"));
    assert!(matches!(
        other.start().await,
        Err(PublishError::Conflict(_))
    ));
    let third = second(&shared).await;
    assert!(third.tree().await.contains_key("/mine"));
}

#[tokio::test]
async fn taking_over_publishes_this_tree_and_keeps_the_other_ones_blocks() {
    let shared = Shared::new();
    let first = Machine::new(&shared);
    first.put(first.root, "base", &[(0, b"base")]).await;
    first.commit().await.unwrap();
    let other = second(&shared).await;
    first.put(first.root, "mine", &[(0, b"mine")]).await;
    other.put(other.root, "theirs", &[(0, b"theirs")]).await;
    first.commit().await.unwrap();
    let theirs = head_of(&first).root.unwrap().0;
    let Err(PublishError::Conflict(why)) = other.commit().await else {
        panic!("no conflict");
    };
    // The way out is told, and what it is about.
    for word in ["--take-over", "--give-way", &theirs.to_string()] {
        assert!(why.contains(word), "{word}: {why}");
    }
    // Nothing is published before somebody asks for it, and a crash loses nothing of it.
    other.volume.sync().unwrap();
    let other = other.crash(&shared);
    assert!(other.start().await.is_err());
    assert_eq!(other.take_over().await.unwrap(), Bootstrap::Current);
    let other = other.crash(&shared);
    assert_eq!(other.start().await.unwrap(), Bootstrap::Current);
    other.commit().await.unwrap();
    let third = second(&shared).await;
    assert_eq!(third.tree().await, other.tree().await);
    assert!(third.tree().await.contains_key("/theirs"));
    assert!(!third.tree().await.contains_key("/mine"));
    assert!(shared.blocks.pins().await.unwrap().contains(&theirs));
    // The machine that lost sees it, and goes on from there.
    assert_eq!(first.start().await.unwrap(), Bootstrap::Behind);
}

#[tokio::test]
async fn taking_over_with_nothing_unpublished_still_puts_this_tree_in_place() {
    let shared = Shared::new();
    let first = Machine::new(&shared);
    first.put(first.root, "base", &[(0, b"base")]).await;
    first.commit().await.unwrap();
    let other = second(&shared).await;
    // Both published in one moment, and the record of `first` was overtaken.
    other.put(other.root, "theirs", &[(0, b"theirs")]).await;
    other.commit().await.unwrap();
    first.put(first.root, "mine", &[(0, b"mine")]).await;
    first.names.set(
        NameCall::Resolve,
        Fault::Before(NameError::Missing("k".into())),
        Some(2),
    );
    let _ = first.commit().await;
    let named = first.start().await;
    assert!(matches!(named, Err(PublishError::Conflict(_))), "{named:?}");
    assert_eq!(first.take_over().await.unwrap(), Bootstrap::Current);
    first.commit().await.unwrap();
    let third = second(&shared).await;
    assert_eq!(third.tree().await, first.tree().await);
    assert!(third.tree().await.contains_key("/mine"));
}

#[tokio::test]
async fn a_machine_with_nothing_unpublished_takes_over_what_another_did() {
    let shared = Shared::new();
    let first = Machine::new(&shared);
    first.put(first.root, "base", &[(0, b"base")]).await;
    first.commit().await.unwrap();
    let other = second(&shared).await;
    other.put(other.root, "theirs", &[(0, b"theirs")]).await;
    other.commit().await.unwrap();
    let first = first.crash(&shared);
    assert_eq!(first.start().await.unwrap(), Bootstrap::Behind);
}

#[tokio::test]
async fn lost_blocks_are_sent_again_from_here_or_told() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    machine.put(machine.root, "f", &[(0, b"content")]).await;
    machine.store.set(Call::Pin, busy(), Some(1));
    assert!(machine.commit().await.is_err());
    // The node forgets what was not pinned before the commit is taken up.
    shared.blocks.lose(&crate::pack::cid::leaf_cid(b"content"));
    machine.commit().await.unwrap();
    let other = second(&shared).await;
    assert_eq!(other.tree().await, machine.tree().await);
}

#[tokio::test]
async fn blocks_that_rot_before_a_commit_is_finished_are_sent_again() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    machine.put(machine.root, "f", &[(0, b"content")]).await;
    machine.store.set(Call::Pin, busy(), Some(1));
    assert!(machine.commit().await.is_err());
    for cid in shared.blocks.all() {
        if form::kind(&cid) == Ok(form::Kind::Node) {
            shared.blocks.damage(&cid, "rot".into());
        }
    }
    machine.commit().await.unwrap();
    let other = second(&shared).await;
    assert_eq!(other.tree().await, machine.tree().await);
}

/// A node that pins without looking, and tells what it pinned.
struct Careless {
    inner: Arc<dyn BlockStore>,
    pinned: Mutex<Vec<Cid>>,
    /// Acknowledges large blocks, and does not keep them.
    loses: bool,
    /// From the first pin on nodes come back with other bytes.
    rots: bool,
}

impl Careless {
    fn before(machine: &mut Machine, loses: bool, rots: bool) {
        let node = &mut machine.context.node;
        node.store = Arc::new(Self {
            inner: Arc::clone(&node.store),
            pinned: Mutex::default(),
            loses,
            rots,
        });
    }
}

#[async_trait]
impl Hook for Careless {
    fn inner(&self) -> &dyn BlockStore {
        self.inner.as_ref()
    }

    async fn put_many(&self, blocks: &[Block]) -> Result<(), StoreError> {
        let is_kept = |block: &&Block| !self.loses || block.data.len() < 100_000;
        let kept: Vec<Block> = blocks.iter().filter(is_kept).cloned().collect();
        self.inner.put_many(&kept).await
    }

    async fn get(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        let bytes = self.inner.get(cid).await?;
        let is_node = form::kind(cid) == Ok(form::Kind::Node);
        if self.rots && is_node && !self.pinned.lock().unwrap().is_empty() {
            return Ok([&bytes[..], b"rot"].concat().into());
        }
        Ok(bytes)
    }

    async fn pin(&self, root: &Cid, _: Option<&Cid>) -> Result<(), StoreError> {
        self.pinned.lock().unwrap().push(*root);
        Ok(())
    }

    async fn pins(&self) -> Result<Vec<Cid>, StoreError> {
        Ok(self.pinned.lock().unwrap().clone())
    }
}

#[tokio::test]
async fn nothing_is_named_that_the_node_does_not_give_back() {
    for (loses, rots) in [(true, false), (false, true)] {
        let shared = Shared::new();
        let mut machine = Machine::new(&shared);
        machine
            .put(machine.root, "f", &[(0, &vec![9; 1_500_000])])
            .await;
        let honest = Arc::clone(&machine.context.node.store);
        Careless::before(&mut machine, loses, rots);
        let refused = machine.commit().await;
        assert!(
            matches!(refused, Err(PublishError::Unverified(_))),
            "{refused:?}"
        );
        let name = machine.context.key.name();
        let named = shared.names.resolve(&name).await;
        assert!(matches!(named, Err(NameError::Missing(_))), "{named:?}");
        // What was lost is sent again.
        machine.context.node.store = honest;
        machine.commit().await.unwrap();
        let other = second(&shared).await;
        assert_eq!(other.tree().await, machine.tree().await);
    }
}

/// A node that tells how far its pins are.
struct Telling {
    inner: Arc<dyn BlockStore>,
    receipts: Receipts,
    /// What a commit had moved by then.
    pulses: Mutex<Vec<u64>>,
}

#[async_trait]
impl Hook for Telling {
    fn inner(&self) -> &dyn BlockStore {
        self.inner.as_ref()
    }

    async fn pin_with(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        moves: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError> {
        for _ in 0..3 {
            moves();
            self.pulses.lock().unwrap().push(self.receipts.pulse());
        }
        self.inner.pin(root, from).await
    }
}

/// A commit that stands still is given up after ten minutes, and the pin of a great volume takes longer.
#[tokio::test]
async fn a_commit_moves_for_as_long_as_the_node_comes_on_with_its_pin() {
    let mut machine = Machine::new(&Shared::new());
    machine.put(machine.root, "f", &[(0, b"f")]).await;
    let node = Arc::new(Telling {
        inner: Arc::clone(&machine.context.node.store),
        receipts: machine.receipts.clone(),
        pulses: Mutex::default(),
    });
    machine.context.node.store = Arc::<Telling>::clone(&node);
    machine.commit().await.unwrap();
    let pulses = node.pulses.lock().unwrap();
    assert!(!pulses.is_empty());
    assert!(pulses.windows(2).all(|two| two[0] < two[1]), "{pulses:?}");
}

#[tokio::test]
async fn a_crash_right_after_naming_is_no_conflict_with_oneself() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    for round in 0..2_u8 {
        machine.put(machine.root, "f", &[(0, &[round; 100])]).await;
        let lost = NameError::Transient("the answer was lost".to_owned());
        machine
            .names
            .set(NameCall::Publish, Fault::After(lost), Some(1));
        assert!(machine.commit().await.is_err());
        assert_eq!(machine.start().await.unwrap(), Bootstrap::Current);
        machine.commit().await.unwrap();
        let other = second(&shared).await;
        assert_eq!(other.tree().await, machine.tree().await);
    }
}

#[tokio::test]
async fn a_flush_waits_for_a_file_that_is_being_saved() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    let ino = machine
        .put(machine.root, "big", &[(0, &vec![1; 200_000])])
        .await;
    machine.drive.fsync(ino, false).unwrap();
    machine.put(machine.root, "big", &[(0, b"later")]).await;
    machine.volume.sync().unwrap();
    machine.commit().await.unwrap();
    assert!(machine.volume.activity().is_none());
    let other = second(&shared).await;
    assert_eq!(other.tree().await, machine.tree().await);
}

/// What the second look after a commit relies on.
#[tokio::test]
async fn a_name_that_a_node_has_lost_or_taken_back_is_noticed() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    assert_eq!(
        is_named(&machine.context).await,
        Ok(true),
        "nothing was told"
    );
    machine.put(machine.root, "f", &[(0, b"one")]).await;
    machine.commit().await.unwrap();
    assert_eq!(is_named(&machine.context).await, Ok(true));
    machine.names.set(NameCall::Resolve, Fault::Drop, Some(1));
    assert_eq!(is_named(&machine.context).await, Ok(false));
    // Another machine's commit has met ours.
    let other = second(&shared).await;
    other.put(other.root, "g", &[(0, b"two")]).await;
    other.commit().await.unwrap();
    assert_eq!(is_named(&machine.context).await, Ok(false));
    assert_eq!(is_named(&other.context).await, Ok(true));
    let away = NameError::Transient("away".into());
    machine
        .names
        .set(NameCall::Resolve, Fault::Before(away), Some(1));
    assert!(is_named(&machine.context).await.is_err());
}

/// A kill in the middle of a great commit is followed by the rest of it.
#[tokio::test]
async fn what_a_node_took_before_a_restart_is_not_sent_again() {
    let shared = Shared::new();
    let mut machine = Machine::new(&shared);
    for n in 0..400_u32 {
        let bytes = n.to_be_bytes().repeat(50);
        machine
            .put(machine.root, &format!("f{n}"), &[(0, &bytes)])
            .await;
    }
    machine.store.set(Call::Pin, busy(), Some(1));
    assert!(machine.commit().await.is_err());
    assert!(machine.store.block_count() > 400);
    machine = machine.crash(&shared);
    machine.put(machine.root, "more", &[(0, b"more")]).await;
    machine.commit().await.unwrap();
    let sent = machine.store.block_count();
    assert!(sent < 20, "{sent} blocks");
    let other = second(&shared).await;
    assert_eq!(other.tree().await, machine.tree().await);

    // Another node has none of it, and what was lost is no receipt.
    let names = |machine: &Machine| Receipts::of(&machine.volume, "node").has(&leaf_cid(b"more"));
    assert!(names(&machine));
    machine.receipts.forget();
    assert!(!names(&machine));
    machine.receipts.note([leaf_cid(b"more")].into_iter());
    assert!(names(&machine));
    let elsewhere = Receipts::of(&machine.volume, "another");
    assert!(!elsewhere.has(&leaf_cid(b"more")) && !names(&machine));
}

/// Nothing of a commit whose blocks did not all leave is ever named, and the next one is whole.
#[tokio::test]
async fn a_node_that_goes_while_the_last_blocks_leave_is_no_conflict_and_loses_nothing() {
    let shared = Shared::new();
    let mut machine = Machine::new(&shared);
    for (round, after) in [(0_u8, false), (1, true), (2, false)] {
        machine
            .put(machine.root, "f", &[(0, &vec![round; 200_000])])
            .await;
        let lost = StoreError::Transient("reset".to_owned());
        let fault = match after {
            true => Fault::After(lost),
            false => Fault::Before(lost),
        };
        machine.store.set(Call::PutMany, fault, Some(1));
        assert!(machine.commit().await.is_err());
        if round == 2 {
            machine = machine.crash(&shared);
        }
        machine.commit().await.unwrap();
        assert!(machine.volume.raw_meta(PENDING).unwrap().is_none());
        let other = second(&shared).await;
        assert_eq!(other.tree().await, machine.tree().await);
    }
}
