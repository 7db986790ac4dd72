//! What is sent before a commit: it is there when the commit comes, and the commit never trusts it too far.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::rig::{Machine, Shared, second};
use crate::fault::Fault;
use crate::publish::{Publisher, Timing};
use crate::store::fault::Call;

/// More than anything here takes on a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);

const CHUNK: usize = 1 << 20;
/// Three whole chunks, and a part of one.
const BIG: usize = 3 * CHUNK + 5000;

/// Bytes of which no two chunks are equal, nor those of two seeds.
fn content(seed: u8) -> Vec<u8> {
    let byte = |i: usize| [seed, (i >> 20) as u8, (i >> 12) as u8, (i >> 4) as u8][i % 4];
    (0..BIG).map(byte).collect()
}

/// A machine whose node is sent to ahead, and a publisher that commits when it is asked to alone.
fn begin(shared: &Shared) -> (Machine, Publisher) {
    let mut machine = Machine::new(shared);
    machine.context.node.ahead = true;
    let never = Duration::from_secs(1 << 30);
    let timing = Timing {
        idle: never,
        most: never,
    };
    let publisher = Publisher::spawn(machine.context.clone(), timing, &Handle::current());
    (machine, publisher)
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, waiting).await.expect(what);
}

async fn flush(publisher: &Publisher) {
    let answer = timeout(LIMIT, publisher.flush()).await;
    assert_eq!(answer.expect("an end"), Ok(()));
}

#[tokio::test]
async fn a_large_file_is_on_the_node_before_its_commit_and_leaves_once() {
    let shared = Shared::new();
    let (machine, publisher) = begin(&shared);
    machine.put(machine.root, "f", &[(0, &content(1))]).await;
    until("three chunks", || shared.blocks.block_count() == 3).await;
    assert_eq!(publisher.status().progress.commits, 0);
    assert!(publisher.status().unpinned_since_s.is_some());
    flush(&publisher).await;
    let (sent, most) = (machine.store.block_bytes(), BIG as u64 + (64 << 10));
    assert!(sent < most, "{sent} bytes for a file of {BIG}");
    assert_eq!(publisher.status().unpinned_since_s, None);
    let other = second(&shared).await;
    assert_eq!(other.tree().await, machine.tree().await);
    publisher.stop().await;
}

#[tokio::test]
async fn what_is_written_over_after_it_was_sent_is_published_as_it_is_then() {
    let shared = Shared::new();
    let (machine, publisher) = begin(&shared);
    machine.put(machine.root, "f", &[(0, &content(1))]).await;
    until("three chunks", || shared.blocks.block_count() == 3).await;
    let whole = content(2);
    let parts = [
        (10, &b"changed"[..]),
        (CHUNK as u64, &whole[CHUNK..2 * CHUNK]),
    ];
    machine.put(machine.root, "f", &parts).await;
    flush(&publisher).await;
    let mut wanted = content(1);
    wanted[10..17].copy_from_slice(b"changed");
    wanted[CHUNK..2 * CHUNK].copy_from_slice(&whole[CHUNK..2 * CHUNK]);
    let other = second(&shared).await;
    let ino = other
        .call(|d| d.lookup(other.root, b"f"))
        .await
        .unwrap()
        .ino;
    let opened = other.drive.open(ino, 0).unwrap();
    let read = other
        .call(|d| d.read(ino, opened.fh, 0, BIG as u32))
        .await
        .unwrap();
    assert!(read == wanted, "another content than was written");
    publisher.stop().await;
}

#[tokio::test]
async fn what_the_node_has_lost_that_was_sent_ahead_is_sent_again() {
    let shared = Shared::new();
    let (machine, publisher) = begin(&shared);
    machine.put(machine.root, "f", &[(0, &content(1))]).await;
    until("three chunks", || shared.blocks.block_count() == 3).await;
    for cid in shared.blocks.all() {
        assert!(shared.blocks.lose(&cid));
    }
    flush(&publisher).await;
    let other = second(&shared).await;
    assert_eq!(other.tree().await, machine.tree().await);
    publisher.stop().await;
}

#[tokio::test]
async fn a_commit_waits_for_no_node_that_hangs_with_what_was_sent_ahead() {
    let shared = Shared::new();
    let (machine, publisher) = begin(&shared);
    machine.store.set(Call::PutMany, Fault::Hang, None);
    machine.put(machine.root, "f", &[(0, &content(1))]).await;
    let requests = |count| machine.store.count(Call::PutMany) >= count;
    until("a request", || requests(1)).await;
    let answering = async {
        // The commit's own comes though the first one has no end.
        until("another request", || requests(2)).await;
        machine.store.clear();
    };
    tokio::join!(flush(&publisher), answering);
    let other = second(&shared).await;
    assert_eq!(other.tree().await, machine.tree().await);
    publisher.stop().await;
}

#[tokio::test]
async fn nothing_is_sent_ahead_for_a_volume_that_is_closed_to_changes() {
    let shared = Shared::new();
    let (machine, publisher) = begin(&shared);
    machine.put(machine.root, "f", &[(0, &content(1))]).await;
    let closed = crate::fs::Access::ReadOnly("not ours".to_owned());
    machine.volume.set_access(closed);
    // What was noted is dropped, not kept for later.
    until("nothing to send", || !machine.volume.has_whole()).await;
    assert_eq!(machine.store.count(Call::PutMany), 0);
    publisher.stop().await;
}
