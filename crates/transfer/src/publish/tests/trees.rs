//! What a second machine sees is what was written.

use super::rig::{CALLER, Machine, Shared, second};
use crate::fs::Kind;
use crate::publish::state::Head;
use crate::store::fault::Call;

const MIB: u64 = 1 << 20;

async fn fill(machine: &Machine) {
    let root = machine.root;
    let dir = machine.dir(root, "dir").await;
    machine.dir(root, "empty").await;
    machine.put(root, "nothing", &[]).await;
    let small = machine.put(dir, "small", &[(0, b"hello")]).await;
    machine
        .put(
            dir,
            "big",
            &[(0, &vec![3; 2_500_000]), (1_000_000, b"middle")],
        )
        .await;
    let sparse = machine.put(dir, "sparse", &[(5 * MIB + 7, b"far")]).await;
    machine.resize(sparse, 9 * MIB + 1);
    let drive = &machine.drive;
    drive.link(small, root, b"hard").unwrap();
    drive.symlink(CALLER, root, b"link", b"dir/small").unwrap();
    drive
        .mknod(CALLER, root, b"pipe", Kind::Fifo, 0o600, 0)
        .unwrap();
    drive
        .mknod(CALLER, root, b"dev", Kind::CharDevice, 0o600, 259)
        .unwrap();
    drive
        .setxattr(CALLER, small, b"user.note", b"value", 0)
        .unwrap();
    machine
        .put(root, "odd \n name\u{1F41D}", &[(0, b"x")])
        .await;
}

#[tokio::test]
async fn what_a_commit_is_charged_leaves_out_files_that_were_unlinked_and_are_open() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    machine.put(machine.root, "kept", &[(0, b"kept")]).await;
    for (name, len) in [("small", 1_000), ("large", 300_000)] {
        let ino = machine.put(machine.root, name, &[(0, &vec![7; len])]).await;
        machine.drive.fsync(ino, false).unwrap();
        machine.drive.open(ino, 2).unwrap();
        machine.drive.unlink(machine.root, name.as_bytes()).unwrap();
    }
    let cut = machine.volume.cut().unwrap();
    assert_eq!(cut.used_bytes().unwrap(), machine.used());
}

#[tokio::test]
async fn a_second_machine_sees_the_whole_tree() {
    let shared = Shared::new();
    let first = Machine::new(&shared);
    fill(&first).await;
    first.commit().await.unwrap();
    let other = second(&shared).await;
    assert_eq!(other.tree().await, first.tree().await);
    assert_eq!(
        other.used(),
        first.used(),
        "the usage is the same to the byte"
    );
}

#[tokio::test]
async fn later_changes_arrive_too_and_nothing_else_changes() {
    let shared = Shared::new();
    let first = Machine::new(&shared);
    fill(&first).await;
    first.commit().await.unwrap();
    let dir = first.drive.lookup(first.root, b"dir").unwrap().ino;
    first
        .put(dir, "big", &[(1_048_570, b"across the border")])
        .await;
    let sparse = first.put(dir, "sparse", &[(MIB, b"in a hole")]).await;
    first.resize(sparse, 6 * MIB + 5);
    first
        .drive
        .rename(first.root, b"hard", dir, b"moved", 0)
        .unwrap();
    first.drive.unlink(first.root, b"nothing").unwrap();
    first.drive.rmdir(first.root, b"empty").unwrap();
    first.commit().await.unwrap();
    let other = second(&shared).await;
    assert_eq!(other.tree().await, first.tree().await);
    assert_eq!(other.used(), first.used());
    // And what was published reads back here, where the stage is empty now.
    let back = first.crash(&shared);
    assert_eq!(back.tree().await, other.tree().await);
}

#[tokio::test]
async fn a_second_machine_goes_on_from_what_it_never_loaded() {
    let shared = Shared::new();
    let first = Machine::new(&shared);
    fill(&first).await;
    first.commit().await.unwrap();
    let before = first.tree().await;
    let other = second(&shared).await;
    other
        .put(other.root, "new", &[(0, b"from the second")])
        .await;
    other.commit().await.unwrap();
    let third = second(&shared).await;
    let mut after = third.tree().await;
    assert!(after.remove("/new").is_some());
    assert_eq!(after, before);
}

#[tokio::test]
async fn writing_during_a_commit_disturbs_neither() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    let ino = machine
        .put(machine.root, "f", &[(0, &vec![1; 3 << 20])])
        .await;
    let cut = machine.volume.cut().unwrap();
    machine
        .put(machine.root, "f", &[(10, b"later"), (2 * MIB, b"later")])
        .await;
    let changes = cut.changes().unwrap();
    let file = cut
        .file(crate::types::Ino(ino.0 & crate::types::Ino::MAX.0))
        .unwrap();
    for index in 0..3 {
        assert_eq!(
            cut.read_chunk(&file, index, None).unwrap(),
            vec![1; 1 << 20]
        );
    }
    assert_eq!(changes.files.len(), 1);
    drop(cut);
    machine.commit().await.unwrap();
    let other = second(&shared).await;
    assert_eq!(other.tree().await, machine.tree().await);
}

#[tokio::test]
async fn a_touched_file_costs_the_same_in_a_large_directory() {
    let mut cost = Vec::new();
    for count in [500, 20_000] {
        let shared = Shared::new();
        let machine = Machine::new(&shared);
        for i in 0..count {
            let name = format!("file-{i:06}");
            let made =
                machine
                    .drive
                    .mknod(CALLER, machine.root, name.as_bytes(), Kind::File, 0o644, 0);
            made.unwrap();
        }
        machine.commit().await.unwrap();
        machine
            .put(machine.root, "file-000123", &[(0, b"touched")])
            .await;
        machine.store.reset_counts();
        machine.commit().await.unwrap();
        cost.push(machine.store.block_count() + machine.store.count(Call::Get));
    }
    assert!(cost[1] <= cost[0] + 4, "blocks put and read: {cost:?}");
}

#[tokio::test]
async fn an_unchanged_tree_is_not_published_again() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    fill(&machine).await;
    assert!(machine.commit().await.unwrap().made);
    let head: Head = machine.volume.meta("head").unwrap().unwrap();
    assert!(!machine.commit().await.unwrap().made);
    assert_eq!(machine.volume.meta::<Head>("head").unwrap().unwrap(), head);
    assert!(machine.volume.activity().is_none());
}

#[tokio::test]
async fn sixteen_tebibytes_of_hole_cost_a_handful_of_blocks() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    let ino = machine
        .put(machine.root, "sparse", &[(100_000, b"near")])
        .await;
    machine.resize(ino, 1 << 44);
    machine.store.reset_counts();
    machine.commit().await.unwrap();
    assert!(
        machine.store.block_count() < 40,
        "{} blocks",
        machine.store.block_count()
    );
    machine
        .put(machine.root, "sparse", &[((1 << 43) - 9, b"far")])
        .await;
    machine.commit().await.unwrap();
    let other = second(&shared).await;
    let attr = other
        .call(|drive| drive.lookup(other.root, b"sparse"))
        .await
        .unwrap();
    assert_eq!(attr.size, 1 << 44);
    assert_eq!(other.used(), machine.used());
}

#[tokio::test]
async fn a_commit_of_one_small_closed_file_asks_the_node_for_few_things() {
    let shared = Shared::new();
    let machine = Machine::new(&shared);
    fill(&machine).await;
    machine.commit().await.unwrap();
    machine.put(machine.root, "small", &[(0, b"text")]).await;
    machine.store.reset_counts();
    machine.commit().await.unwrap();
    let calls = Call::ALL.map(|call| (call, machine.store.count(call)));
    let expected = [
        (Call::PutMany, 1),
        (Call::Get, 3),
        (Call::Has, 0),
        (Call::Pin, 2),
        (Call::Unpin, 0),
        (Call::Pins, 1),
    ];
    assert_eq!((calls, machine.store.block_count()), (expected, 4));
}
