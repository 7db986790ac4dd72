//! The suite that every block store must pass.
//!
//! Invariant: each case uses its own blocks, so that it also runs on a store with other content,
//! repeatedly. A failing case panics.

use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;

use super::{Block, BlockStore, BlockStoreExt, Lookup, MAX_BLOCK_BYTES, StoreError};
use pxfs_format::cid::{leaf_cid, node_cid};
use pxfs_format::dagpb::foreign::node_of;

/// Runs every case on `store`.
pub async fn passes(store: Arc<dyn BlockStore>) {
    let store = &*store;
    blocks_come_back(store).await;
    leaves_come_back_together(store).await;
    missing_blocks_are_missing(store).await;
    wrong_blocks_are_refused(store).await;
    blocks_may_be_put_again(store).await;
    a_batch_is_there_as_a_whole(store).await;
    pins_need_the_whole_tree(store).await;
    pins_are_listed_until_released(store).await;
    pins_move_to_a_changed_tree(store).await;
    a_pin_does_not_trust_what_is_not_pinned(store).await;
}

/// A unique leaf of `length` bytes.
#[must_use]
pub fn unique_leaf(length: usize) -> Block {
    let mut data = vec![0; length.max(16)];
    getrandom::fill(&mut data).expect("the system gives random bytes");
    let data = Bytes::from(data);
    Block {
        cid: leaf_cid(&data),
        data,
    }
}

/// A node with links to `children`.
#[must_use]
pub fn node(children: &[Cid]) -> Block {
    let data = Bytes::from(node_of(children));
    Block {
        cid: node_cid(&data),
        data,
    }
}

/// A tree of three levels: root, `width` nodes, `width` leaves each. Root last.
#[must_use]
pub fn unique_tree(width: usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut nodes = Vec::new();
    for _ in 0..width {
        let leaves: Vec<Block> = (0..width).map(|_| unique_leaf(16)).collect();
        nodes.push(node(&leaves.iter().map(|b| b.cid).collect::<Vec<_>>()));
        blocks.extend(leaves);
    }
    let root = node(&nodes.iter().map(|b| b.cid).collect::<Vec<_>>());
    blocks.extend(nodes);
    blocks.push(root);
    blocks
}

async fn blocks_come_back(store: &dyn BlockStore) {
    let leaf = unique_leaf(100);
    let blocks = [
        unique_leaf(MAX_BLOCK_BYTES),
        node(&[leaf.cid]),
        leaf,
        Block {
            cid: leaf_cid(b""),
            data: Bytes::new(),
        },
    ];
    store.put_many(&blocks).await.expect("blocks are taken");
    for block in &blocks {
        assert_eq!(store.get(&block.cid).await, Ok(block.data.clone()));
        let unverified = store.lookup(&block.cid, Lookup::Unverified).await;
        assert_eq!(unverified, Ok(block.data.clone()));
        assert_eq!(store.has(&block.cid).await, Ok(true));
    }
    assert_eq!(store.put_many(&[]).await, Ok(()), "nothing is taken too");
}

async fn leaves_come_back_together(store: &dyn BlockStore) {
    let sizes = [100, MAX_BLOCK_BYTES, 16, 5000];
    let mut leaves: Vec<Block> = sizes.iter().map(|size| unique_leaf(*size)).collect();
    store.put_many(&leaves).await.expect("blocks are taken");
    // One of them twice.
    leaves.push(leaves[2].clone());
    let named = |leaf: &Block| (leaf.cid, leaf.data.len() as u64);
    let mut wanted: Vec<(Cid, u64)> = leaves.iter().map(named).collect();
    let data: Vec<Bytes> = leaves.iter().map(|leaf| leaf.data.clone()).collect();
    assert_eq!(store.get_leaves(&wanted).await, Ok(data));
    assert_eq!(store.get_leaves(&[]).await, Ok(Vec::new()));
    // A missing one is not skipped.
    wanted.insert(1, named(&unique_leaf(100)));
    assert!(store.get_leaves(&wanted).await.is_err());
}

async fn missing_blocks_are_missing(store: &dyn BlockStore) {
    for cid in [unique_leaf(16).cid, node(&[unique_leaf(16).cid]).cid] {
        assert_eq!(store.get(&cid).await, Err(StoreError::Missing(cid)));
        let unverified = store.lookup(&cid, Lookup::Unverified).await;
        assert_eq!(unverified, Err(StoreError::Missing(cid)));
        assert_eq!(store.has(&cid).await, Ok(false));
        assert_eq!(store.pin(&cid, None).await, Err(StoreError::Missing(cid)));
    }
}

async fn wrong_blocks_are_refused(store: &dyn BlockStore) {
    let (good, other) = (unique_leaf(100), unique_leaf(100));
    let wrong = Block {
        cid: good.cid,
        data: other.data,
    };
    let refused = store.put_many(&[unique_leaf(10), wrong]).await;
    assert!(matches!(refused, Err(StoreError::Corrupt(cid, _)) if cid == good.cid));
    assert_eq!(store.has(&good.cid).await, Ok(false));

    let data = Bytes::from(vec![7; MAX_BLOCK_BYTES + 1]);
    let too_big = Block {
        cid: leaf_cid(&data),
        data,
    };
    let refused = store.put_many(&[too_big]).await;
    assert!(matches!(refused, Err(StoreError::Permanent(_))));

    // CIDv1 dag-pb: nodes of one network collect it although pinned.
    let node = node(&[good.cid]);
    let other_form = Block {
        cid: node.cid.into_v1().expect("CIDv0 has a CIDv1"),
        data: node.data,
    };
    let refused = store.put_many(&[other_form]).await;
    assert!(matches!(refused, Err(StoreError::Permanent(_))));
}

async fn blocks_may_be_put_again(store: &dyn BlockStore) {
    let (a, b) = (unique_leaf(50), unique_leaf(50));
    store.put_many(std::slice::from_ref(&a)).await.expect("put");
    let again = [a.clone(), b.clone(), b.clone(), a.clone()];
    store.put_many(&again).await.expect("put again");
    for block in [a, b] {
        assert_eq!(store.get(&block.cid).await, Ok(block.data));
    }
}

async fn a_batch_is_there_as_a_whole(store: &dyn BlockStore) {
    let batches: Vec<Vec<Block>> = (0..4)
        .map(|_| (0..50).map(|i| unique_leaf(16 + i * 100)).collect())
        .collect();
    let puts = batches.iter().map(|batch| store.put_many(batch));
    futures::future::try_join_all(puts)
        .await
        .expect("batches at the same time");
    for block in batches.into_iter().flatten() {
        assert_eq!(store.get(&block.cid).await, Ok(block.data));
    }
}

async fn pins_need_the_whole_tree(store: &dyn BlockStore) {
    let tree = unique_tree(3);
    let root = tree[tree.len() - 1].cid;
    // Everything but one leaf.
    store.put_many(&tree[1..]).await.expect("put");
    let lost = StoreError::Missing(tree[0].cid);
    assert_eq!(store.pin(&root, None).await, Err(lost));
    assert!(!store.pins().await.expect("pins").contains(&root));
    store.put_many(&tree[..1]).await.expect("put");
    assert_eq!(store.pin(&root, None).await, Ok(()));
    assert_eq!(store.pin(&root, None).await, Ok(()), "again");
    store.unpin(&root).await.expect("unpin");
}

async fn pins_are_listed_until_released(store: &dyn BlockStore) {
    let (leaf, tree) = (unique_leaf(16), unique_tree(2));
    let root = tree[tree.len() - 1].cid;
    store.put_many(&tree).await.expect("put");
    store
        .put_many(std::slice::from_ref(&leaf))
        .await
        .expect("put");
    assert_eq!(store.unpin(&root).await, Ok(()), "not pinned yet");
    for cid in [leaf.cid, root] {
        store.pin(&cid, None).await.expect("pin");
        assert!(store.pins().await.expect("pins").contains(&cid));
    }
    let pins = store.pins().await.expect("pins");
    assert!(!pins.contains(&tree[0].cid), "only roots are listed");
    assert_eq!(store.all_pinned(&[leaf.cid, root]).await, Ok(true));
    for below in [[leaf.cid, tree[0].cid], [tree[0].cid, leaf.cid]] {
        assert_eq!(store.all_pinned(&below).await, Ok(false));
    }
    store.unpin(&root).await.expect("unpin");
    let pins = store.pins().await.expect("pins");
    assert!(!pins.contains(&root) && pins.contains(&leaf.cid));
    store.unpin(&leaf.cid).await.expect("unpin");
}

async fn pins_move_to_a_changed_tree(store: &dyn BlockStore) {
    let tree = unique_tree(3);
    let from = &tree[tree.len() - 1];
    store.put_many(&tree).await.expect("put");
    store.pin(&from.cid, None).await.expect("pin");

    let (leaf, kept) = (unique_leaf(16), &tree[9..11]);
    let page = node(&[leaf.cid]);
    let root = node(&[kept[0].cid, page.cid, kept[1].cid]);
    store
        .put_many(&[root.clone(), page])
        .await
        .expect("put, without the leaf");
    let lost = StoreError::Missing(leaf.cid);
    assert_eq!(store.pin(&root.cid, Some(&from.cid)).await, Err(lost));
    store.put_many(&[leaf]).await.expect("put");
    assert_eq!(store.pin(&root.cid, Some(&from.cid)).await, Ok(()));
    let pins = store.pins().await.expect("pins");
    assert!(pins.contains(&root.cid) && pins.contains(&from.cid));
    store.unpin(&from.cid).await.expect("unpin");
    store.unpin(&root.cid).await.expect("unpin");
}

async fn a_pin_does_not_trust_what_is_not_pinned(store: &dyn BlockStore) {
    let tree = unique_tree(2);
    let from = tree[tree.len() - 1].cid;
    // The tree of `from` was never whole.
    store.put_many(&tree[1..]).await.expect("put");
    let root = node(&[from]);
    store
        .put_many(std::slice::from_ref(&root))
        .await
        .expect("put");
    let lost = StoreError::Missing(tree[0].cid);
    assert_eq!(store.pin(&root.cid, Some(&from)).await, Err(lost));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fault::FaultStore;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn the_twin_in_memory_passes() {
        passes(Arc::new(MemoryStore::new())).await;
    }

    #[tokio::test]
    async fn every_wrapper_passes() {
        let inner = || Arc::new(MemoryStore::new());
        passes(Arc::new(FaultStore::new(inner()))).await;
    }

    #[tokio::test]
    #[should_panic(expected = "Missing")]
    async fn a_store_that_forgets_does_not_pass() {
        let store = FaultStore::new(Arc::new(MemoryStore::new()));
        let call = crate::store::fault::Call::PutMany;
        store.set(call, crate::fault::Fault::Drop, None);
        passes(Arc::new(store)).await;
    }
}
