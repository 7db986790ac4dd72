//! A file that is pinned for itself, and loses blocks: the pin is its owner's, and says nothing of what is there.

use std::time::Duration;

use cid::Cid;

use super::damage::{CHUNK, assert_whole, content, leaf, losses, lost, read, sample};
use super::rig::{Machine, Shared, second};
use crate::store::BlockStoreExt;

/// As [`lost`], and somebody has shared the file before: its CID.
async fn lost_and_shared(shared: &Shared) -> (Machine, Cid) {
    let (machine, _) = lost(shared).await;
    let cid = losses(&machine)[0].of;
    shared.blocks.put_many(&[leaf(1, 1)]).await.unwrap();
    shared.blocks.pin(&cid, None).await.unwrap();
    assert!(shared.blocks.lose(&leaf(1, 1).cid));
    (machine, cid)
}

async fn commit_change(machine: &Machine, round: u8) {
    machine.put(machine.root, "new", &[(0, &[round])]).await;
    machine.commit().await.unwrap();
}

#[tokio::test]
async fn a_share_stays_pinned_when_a_lost_block_of_its_file_has_come_back() {
    let shared = Shared::new();
    let (machine, cid) = lost_and_shared(&shared).await;
    commit_change(&machine, 0).await;
    assert!(losses(&machine)[0].marked);
    shared.blocks.put_many(&[leaf(1, 1)]).await.unwrap();
    sample(&machine, 1).await;
    for round in 1..4 {
        commit_change(&machine, round).await;
        assert!(losses(&machine).is_empty());
        shared.clock.advance(Duration::from_secs(90_000));
    }
    assert!(shared.blocks.all_pinned(&[cid]).await.unwrap());
}

#[tokio::test]
async fn a_file_that_is_shared_is_not_taken_for_whole_by_its_pin() {
    let shared = Shared::new();
    let (machine, _) = lost_and_shared(&shared).await;
    assert!(shared.blocks.lose(&leaf(1, 2).cid));
    commit_change(&machine, 0).await;
    shared.blocks.put_many(&[leaf(1, 1)]).await.unwrap();
    sample(&machine, 1).await;
    commit_change(&machine, 1).await;
    assert_eq!(losses(&machine)[0].block, leaf(1, 2).cid);
    assert_whole(&shared, &machine).await;
    shared.blocks.put_many(&[leaf(1, 2)]).await.unwrap();
    sample(&machine, 1).await;
    commit_change(&machine, 2).await;
    assert!(losses(&machine).is_empty());
    assert_whole(&shared, &machine).await;
    let other = second(&shared).await;
    assert_eq!(read(&other, "f", 0, 3 * CHUNK).await.unwrap(), content(1));
}
