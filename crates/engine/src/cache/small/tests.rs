//! What the store of small contents keeps, and what changed files cost it.

use super::generation::Slot;
use super::*;
use crate::pack::cid::leaf_cid;

fn content(number: u64) -> (Key, Vec<u8>) {
    let bytes = number.to_be_bytes().repeat(100);
    (Key::of(&leaf_cid(&bytes)).unwrap(), bytes)
}

#[test]
fn a_slot_keeps_its_bytes_on_disk() {
    let slot = Slot {
        tag: 0x0102_0304_0506_0708,
        offset: 0x0a0b_0c0d,
        len: 1 << 20,
    };
    let bytes = slot.encode();
    assert_eq!(
        bytes,
        [
            1, 2, 3, 4, 5, 6, 7, 8, 0, 0x01, 0x41, 0x61, 0x81, 0xb0, 0, 0
        ]
    );
    assert_eq!(Slot::decode(&bytes), Some(slot));
    assert_eq!(Slot::decode(&[0; 16]), None);
    assert_eq!(Slot::decode(&[0xff; 16]), None);
}

#[test]
fn small_contents_are_still_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let small = Small::open(dir.path(), 64 << 20).unwrap();
    for number in 0..1000 {
        let (key, bytes) = content(number);
        assert!(small.put(key, &bytes));
    }
    drop(small);
    let small = Small::open(dir.path(), 64 << 20).unwrap();
    for number in 0..1000 {
        let (key, bytes) = content(number);
        assert_eq!(small.get(key).unwrap(), bytes, "{number}");
    }
    assert_eq!(small.get(content(1000).0), None);
}

#[test]
fn the_share_of_small_contents_is_never_passed_and_recent_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let share = 1 << 20;
    let small = Small::open(dir.path(), share).unwrap();
    let (hot, hot_bytes) = content(0);
    small.put(hot, &hot_bytes);
    for number in 1..5000 {
        let (key, bytes) = content(number);
        assert!(small.put(key, &bytes));
        assert!(small.bytes() <= share, "{} at {number}", small.bytes());
        assert_eq!(small.get(hot).unwrap(), hot_bytes, "lost at {number}");
        assert_eq!(small.get(key).unwrap(), bytes);
    }
    assert_eq!(small.get(content(1).0), None);
    let on_disk: u64 = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(on_disk <= share, "{on_disk}");
}

#[test]
fn changed_files_cost_a_miss_and_never_wrong_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let small = Small::open(dir.path(), 4 << 20).unwrap();
    for number in 0..200 {
        let (key, bytes) = content(number);
        small.put(key, &bytes);
    }
    drop(small);
    for (name, step) in [("1.log", 911), ("1.index", 53)] {
        let path = dir.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        for at in (0..bytes.len()).step_by(step) {
            bytes[at] ^= 0x55;
        }
        std::fs::write(&path, bytes).unwrap();
    }
    let small = Small::open(dir.path(), 4 << 20).unwrap();
    let mut lost = 0;
    for number in 0..200 {
        let (key, bytes) = content(number);
        match small.get(key) {
            Some(found) => assert_eq!(found, bytes),
            None => lost += 1,
        }
        // And the place can be used again.
        assert!(small.put(key, &bytes));
        assert_eq!(small.get(key).unwrap(), bytes);
    }
    assert!(lost > 0, "nothing was changed");
}

#[test]
fn deleted_files_give_their_room_back_and_the_cache_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("small");
    let small = Small::open(&root, 4 << 20).unwrap();
    let (key, bytes) = content(7);
    small.put(key, &bytes);
    std::fs::remove_dir_all(&root).unwrap();
    small.look_now();
    assert_eq!(small.bytes(), 0);
    assert_eq!(small.get(key), None);
    assert!(small.put(key, &bytes));
    assert_eq!(small.get(key).unwrap(), bytes);
    assert!(root.read_dir().unwrap().count() > 0);
}
