//! A node has lost much that is nowhere else: it is told, and everything else is published soon.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::timeout;

use super::damage::{again, assert_whole, many, mute, published, read, sample, unmarked};
use super::rig::{Machine, Shared, second};
use crate::fault::Fault;
use crate::pack::cid::leaf_cid;
use crate::publish::heal::{PATIENCE, heal};
use crate::publish::sample::Sampler;
use crate::publish::sample::task::{Signs, turn};
use crate::store::BlockStoreExt;
use crate::store::fault::Call;
use crate::types::Ino;

/// Far beyond what anything here may take.
const BOUND: Duration = Duration::from_secs(30);

#[tokio::test]
async fn after_a_great_loss_the_second_try_publishes_all_else_and_few_blocks_are_searched_for() {
    let shared = Shared::new();
    let (mut machine, blocks) = many(&shared, 600).await;
    let node = mute(&mut machine, HashSet::new());
    machine.put(machine.root, "new", &[(0, b"new")]).await;
    // As the publisher does: nobody waits for more than some of them at first.
    let _ = machine.commit().await;
    assert_eq!(unmarked(&machine), 344);
    machine.receipts.note_end(false);
    let moved = machine.receipts.moved();
    machine.commit().await.unwrap();
    assert_eq!(unmarked(&machine), 0);
    assert!(machine.receipts.moved() >= moved + 344, "who waits sees it");
    assert_whole(&shared, &machine).await;
    // Each search of a network takes seconds.
    let asked = node.asked.lock().unwrap();
    let searched = blocks.iter().filter(|cid| asked.contains(cid)).count();
    assert!(searched < 50, "{searched} searches");
}

#[tokio::test]
async fn files_below_a_directory_whose_page_is_lost_with_them_are_told_and_all_else_is_published() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    let names: Vec<String> = (0..300).map(|i| format!("f{i}")).collect();
    for name in &names {
        machine
            .put(machine.root, name, &[(0, name.as_bytes())])
            .await;
    }
    machine.commit().await.unwrap();
    assert!(shared.blocks.lose(&published(&machine, Ino::ROOT)));
    let (lost, kept) = names.split_at(280);
    for name in lost {
        assert!(shared.blocks.lose(&leaf_cid(name.as_bytes())));
    }
    // Nothing of it is in the cache, or known to be lost.
    let machine = machine.crash(&shared);
    machine.put(machine.root, "new", &[(0, b"new")]).await;
    let mut sampler = Sampler::begin(&machine.volume, machine.receipts.clone());
    let (signs, mut tries) = (Signs::default(), 1);
    while let Err(error) = machine.commit().await {
        tries += 1;
        assert!(tries < 6, "{error}");
        // As the publisher does after a try that missed blocks.
        machine.receipts.note_end(false);
        sampler.sweep();
        while sampler.is_sweeping() {
            turn(&machine.context, &mut sampler, &signs).await;
        }
    }
    assert_eq!(machine.volume.losses(usize::MAX).unwrap().len(), lost.len());
    assert_whole(&shared, &machine).await;
    let other = second(&shared).await;
    assert_eq!(read(&other, "new", 0, 10).await.unwrap(), b"new");
    for name in kept {
        let wanted = name.as_bytes();
        assert_eq!(read(&other, name, 0, 10).await.unwrap(), wanted);
    }
}

/// As a node without peers does, or one far away from who would know.
#[tokio::test]
async fn a_node_that_searches_its_network_for_ever_holds_no_commit_up() {
    let shared = Shared::new();
    let (mut machine, blocks) = many(&shared, 40).await;
    let node = mute(&mut machine, blocks.into_iter().collect());
    machine.put(machine.root, "new", &[(0, b"new")]).await;
    let commits = async { while machine.commit().await.is_err() {} };
    tokio::time::timeout(PATIENCE * 3, commits).await.unwrap();
    assert_eq!(unmarked(&machine), 0);
    let asked = node.asked.lock().unwrap().len();
    assert!(asked <= 20, "{asked} searches");
    assert_whole(&shared, &machine).await;
}

#[tokio::test]
async fn what_the_network_of_the_node_has_is_found_there_and_not_told_as_lost() {
    let shared = Shared::new();
    let (machine, _) = many(&shared, 100).await;
    shared.blocks.put_many(&again(100)).await.unwrap();
    // The node itself has none of it.
    machine.store.set(Call::Has, Fault::Drop, None);
    heal(&machine.context, &machine.receipts, PATIENCE)
        .await
        .unwrap();
    assert!(machine.volume.losses(1).unwrap().is_empty());
}

#[tokio::test]
async fn lost_directories_whose_names_are_here_are_made_again_and_hold_no_commit_up() {
    let shared = Shared::new();
    let (machine, _) = many(&shared, 0).await;
    let mut dirs = Vec::new();
    for i in 0..20 {
        let dir = machine.dir(machine.root, &format!("d{i}")).await;
        // The page of one without entries is put again.
        machine.put(dir, &format!("f{i}"), &[(0, b"bytes")]).await;
        dirs.push(dir);
    }
    machine.commit().await.unwrap();
    // Its entries are here, and no page of it.
    let machine = machine.crash(&shared);
    for dir in dirs {
        let inner = Ino(dir.0 & Ino::MAX.0);
        let cut = machine.volume.cut().unwrap();
        let page = cut.published_tree(inner).unwrap().unwrap().root.cid;
        shared.blocks.lose(&page);
        let lost = crate::fs::LostBlock {
            cid: page,
            chunk: None,
            why: "gone".to_owned(),
        };
        machine.volume.note_lost(inner, &page, &lost);
    }
    assert_eq!(unmarked(&machine), 20);
    machine.receipts.note_end(false);
    let moved = machine.receipts.moved();
    let healed = heal(&machine.context, &machine.receipts, PATIENCE);
    let healed = timeout(BOUND, healed).await;
    healed
        .expect("they come again, and are not looked at for ever")
        .unwrap();
    assert_eq!(machine.receipts.moved(), moved);
    assert_eq!(unmarked(&machine), 0);
    let _ = timeout(BOUND, machine.commit()).await.expect("it ends");
    timeout(BOUND, machine.commit())
        .await
        .expect("it ends")
        .unwrap();
    assert_eq!(unmarked(&machine), 0);
    assert_whole(&shared, &machine).await;
}

#[tokio::test]
async fn an_inode_table_without_entries_that_is_lost_is_made_again_by_who_has_never_read_it() {
    let shared = Shared::new();
    let (machine, _) = many(&shared, 1).await;
    let table = machine.volume.cut().unwrap().table().unwrap().unwrap();
    assert!(shared.blocks.lose(&table.root.cid));
    machine.put(machine.root, "new", &[(0, b"new")]).await;
    sample(&machine, 3).await;
    machine.commit().await.unwrap();
    assert_whole(&shared, &machine).await;
}
