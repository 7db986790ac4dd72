//! Walks over trees in memory: right answers at the right cost.

use std::collections::HashMap;

use super::*;
use crate::store::links::links;
use pxfs_format::cid::{leaf_cid, node_cid};
use pxfs_format::dagpb::foreign::node_of;

/// Blocks by CID, counting a walk's reads.
#[derive(Default)]
struct Tree {
    blocks: HashMap<Cid, Vec<u8>>,
    nodes_read: usize,
    leaves_asked: usize,
}

impl Tree {
    fn leaf(&mut self, n: usize) -> Cid {
        let data = n.to_le_bytes().to_vec();
        let cid = leaf_cid(&data);
        self.blocks.insert(cid, data);
        cid
    }

    fn node(&mut self, children: &[Cid]) -> Cid {
        let data = node_of(children);
        let cid = node_cid(&data);
        self.blocks.insert(cid, data);
        cid
    }

    /// A balanced tree of this fanout over the leaves with these numbers.
    fn build(&mut self, leaves: &[usize], fanout: usize) -> Cid {
        let mut level: Vec<Cid> = leaves.iter().map(|n| self.leaf(*n)).collect();
        while level.len() > 1 {
            level = level.chunks(fanout).map(|c| self.node(c)).collect();
        }
        level[0]
    }

    fn cost(&mut self, root: &Cid, whole: Option<&Cid>) -> usize {
        (self.nodes_read, self.leaves_asked) = (0, 0);
        check_whole(root, whole, self).unwrap();
        self.nodes_read + self.leaves_asked
    }
}

impl Source for Tree {
    fn links(&mut self, node: &Cid) -> Result<Vec<Cid>, StoreError> {
        self.nodes_read += 1;
        let data = self.blocks.get(node).ok_or(StoreError::Missing(*node))?;
        links(node, data)
    }

    fn has_leaf(&mut self, leaf: &Cid) -> Result<bool, StoreError> {
        self.leaves_asked += 1;
        Ok(self.blocks.contains_key(leaf))
    }
}

#[test]
fn a_missing_block_anywhere_stops_a_pin() {
    let mut tree = Tree::default();
    let root = tree.build(&(0..100).collect::<Vec<_>>(), 5);
    assert_eq!(check_whole(&root, None, &mut tree), Ok(()));
    let all: Vec<Cid> = tree.blocks.keys().copied().collect();
    for lost in all {
        let data = tree.blocks.remove(&lost).unwrap();
        assert_eq!(
            check_whole(&root, None, &mut tree),
            Err(StoreError::Missing(lost))
        );
        tree.blocks.insert(lost, data);
    }
}

#[test]
fn a_missing_block_of_the_difference_stops_a_pin_that_moves() {
    let mut tree = Tree::default();
    let old: Vec<usize> = (0..10_000).collect();
    let mut new = old.clone();
    new[5_000] = 77_777;
    let (from, before) = (tree.build(&old, 10), tree.blocks.clone());
    let root = tree.build(&new, 10);
    let changed: Vec<Cid> = tree
        .blocks
        .keys()
        .filter(|c| !before.contains_key(*c))
        .copied()
        .collect();
    assert_eq!(changed.len(), 5);
    for lost in changed {
        let data = tree.blocks.remove(&lost).unwrap();
        assert_eq!(
            check_whole(&root, Some(&from), &mut tree),
            Err(StoreError::Missing(lost))
        );
        tree.blocks.insert(lost, data);
    }
}

#[test]
fn moving_a_pin_costs_the_difference_not_the_volume() {
    let mut tree = Tree::default();
    let old: Vec<usize> = (0..100_000).collect();
    let from = tree.build(&old, 100);
    assert!(tree.cost(&from, None) > 100_000);
    assert_eq!(tree.cost(&from, Some(&from)), 0);

    // One replaced leaf: its path in both trees, and the leaf.
    let mut new = old.clone();
    new[54_321] = 777_777;
    let root = tree.build(&new, 100);
    assert!(tree.cost(&root, Some(&from)) <= 8);
}

#[test]
fn a_tree_that_changed_its_height_still_costs_the_difference() {
    let mut tree = Tree::default();
    let pages: Vec<Cid> = (0..1_000)
        .map(|p| tree.build(&(p * 50..p * 50 + 50).collect::<Vec<_>>(), 50))
        .collect();
    let changed = {
        let mut leaves: Vec<usize> = (500 * 50..500 * 50 + 50).collect();
        leaves[7] = 999_999;
        tree.build(&leaves, 50)
    };
    let mut pages_after = pages.clone();
    pages_after[500] = changed;
    let flat = tree.node(&pages);
    let halves: Vec<Cid> = pages_after.chunks(500).map(|c| tree.node(c)).collect();
    let high = tree.node(&halves);
    let (low_root, high_root) = (tree.node(&[flat]), tree.node(&[high]));

    assert!(tree.cost(&high_root, Some(&low_root)) <= 12, "grown");
    assert!(tree.cost(&low_root, Some(&high_root)) <= 12, "shrunk");
}

#[test]
fn an_old_root_that_lost_a_node_covers_nothing_below_it() {
    let mut tree = Tree::default();
    let old: Vec<usize> = (0..1_000).collect();
    let from = tree.build(&old, 10);
    let mut new = old.clone();
    new[999] = 5_555;
    let root = tree.build(&new, 10);
    tree.blocks.remove(&from);
    assert_eq!(check_whole(&root, Some(&from), &mut tree), Ok(()));
    let lost = leaf_cid(&3_usize.to_le_bytes());
    tree.blocks.remove(&lost);
    assert_eq!(
        check_whole(&root, Some(&from), &mut tree),
        Err(StoreError::Missing(lost))
    );
}

#[test]
fn a_pin_holds_its_whole_tree_or_reports_it_missing() {
    let mut tree = Tree::default();
    let root = tree.build(&(0..100).collect::<Vec<_>>(), 5);
    let lost_leaf = leaf_cid(&50_usize.to_le_bytes());
    tree.blocks.remove(&lost_leaf);
    let mut held = HashSet::new();
    hold(&root, &mut held, &mut tree).unwrap();
    assert_eq!(held.len(), tree.blocks.len() + 1);
    assert!(tree.blocks.keys().all(|c| held.contains(&key(c).unwrap())));

    let node = links(&root, &tree.blocks[&root]).unwrap()[0];
    tree.blocks.remove(&node);
    assert_eq!(
        hold(&root, &mut HashSet::new(), &mut tree),
        Err(StoreError::Missing(node))
    );
}

#[test]
fn a_leaf_with_a_nodes_bytes_does_not_replace_it() {
    let mut tree = Tree::default();
    let child = tree.leaf(1);
    let data = node_of(&[child]);
    let (node, copy) = (node_cid(&data), leaf_cid(&data));
    tree.blocks.insert(copy, data);
    let root = tree.node(&[copy, node]);
    assert_eq!(
        check_whole(&root, None, &mut tree),
        Err(StoreError::Missing(node))
    );
}
