//! What the node has lost, and somebody else may have who tells no names: a gateway.

use std::sync::Arc;
use std::time::Duration;

use super::damage::{assert_whole, losses, sample, unmarked};
use super::rig::{Machine, Shared};
use crate::fault::Fault;
use crate::pack::cid::leaf_cid;
use crate::store::fault::{Call, FaultStore};
use crate::store::memory::MemoryStore;
use crate::store::{Block, BlockStoreExt, StoreError};

fn content(i: usize) -> Block {
    let data = format!("content {i}").into_bytes();
    Block {
        cid: leaf_cid(&data),
        data: data.into(),
    }
}

/// A machine that has published `count` files, all of which the node has lost, with an empty cache; and who has them.
async fn lost(count: usize) -> (Shared, Machine, Arc<FaultStore>) {
    let mut shared = Shared::new();
    let elsewhere = Arc::new(FaultStore::new(Arc::new(MemoryStore::new())));
    shared.elsewhere = Some(Arc::clone(&elsewhere));
    let machine = Machine::new(&shared);
    let blocks: Vec<Block> = (0..count).map(content).collect();
    for (i, block) in blocks.iter().enumerate() {
        let name = format!("f{i}");
        machine.put(machine.root, &name, &[(0, &block.data)]).await;
    }
    machine.commit().await.unwrap();
    elsewhere.put_many(&blocks).await.unwrap();
    for block in &blocks {
        assert!(shared.blocks.lose(&block.cid));
    }
    let machine = machine.crash(&shared);
    (shared, machine, elsewhere)
}

#[tokio::test]
async fn what_only_a_gateway_has_is_put_onto_the_node_again() {
    let (shared, machine, _) = lost(20).await;
    sample(&machine, 3).await;
    assert!(losses(&machine).is_empty());
    machine.put(machine.root, "new", &[(0, b"new")]).await;
    machine.commit().await.unwrap();
    assert_whole(&shared, &machine).await;
}

#[tokio::test]
async fn what_somebody_may_have_who_does_not_answer_is_published_as_damaged_after_an_hour_until_he_does()
 {
    let (shared, machine, elsewhere) = lost(20).await;
    let away = StoreError::Transient("504".to_owned());
    elsewhere.set(Call::Get, Fault::Before(away), None);
    sample(&machine, 3).await;
    machine.put(machine.root, "new", &[(0, b"new")]).await;
    machine.commit().await.unwrap();
    assert_eq!(unmarked(&machine), 20);
    shared.clock.advance(Duration::from_secs(3601));
    machine.commit().await.unwrap();
    assert_eq!(unmarked(&machine), 0);
    assert_whole(&shared, &machine).await;
    // It answers again: all is whole without anybody's doing.
    elsewhere.clear();
    sample(&machine, 1).await;
    machine.commit().await.unwrap();
    assert!(losses(&machine).is_empty());
    assert_whole(&shared, &machine).await;
}

#[tokio::test]
async fn who_does_not_answer_is_not_asked_for_each_block_of_a_great_loss() {
    let (_, machine, elsewhere) = lost(300).await;
    let away = StoreError::Transient("504".to_owned());
    elsewhere.set(Call::Get, Fault::Before(away), None);
    elsewhere.reset_counts();
    sample(&machine, 20).await;
    assert_eq!(machine.volume.losses(400).unwrap().len(), 300);
    machine.put(machine.root, "new", &[(0, b"new")]).await;
    let _ = machine.commit().await;
    let asked = elsewhere.count(Call::Get);
    assert!(asked < 40, "{asked} times");
}
