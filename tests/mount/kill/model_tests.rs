//! The checker notices what it is for.

use super::content::{Change, Content};
use super::model::{Covered, Entries, File, Found, Operation, Step, Worker, together};
use crate::samples::pattern;

fn text(path: &str) -> String {
    path.to_owned()
}

/// Operations acknowledged one after the other from `begin` on.
fn acked(begin: u64, steps: &[Step]) -> Vec<Operation> {
    steps
        .iter()
        .zip(0u64..)
        .map(|(step, n)| Operation {
            step: step.clone(),
            begun: begin + 2 * n,
            acked: Some(begin + 2 * n + 1),
        })
        .collect()
}

fn write(text: u64, offset: u64, len: u64) -> Change {
    Change::Write { text, offset, len }
}

/// `a` made, written (10,000 bytes, of them 5,000 synced), `b` made, `a` renamed to `c`.
fn sample() -> Worker {
    let mut a = File::new();
    a.contents[0].changes = vec![write(1, 0, 5_000), write(2, 5_000, 5_000)];
    a.contents[0].cover(1);
    a.contents[0].sync_acked = true;
    Worker {
        base: Entries::new(),
        files: vec![a, File::new()],
        operations: acked(
            0,
            &[
                Step::Create(text("a"), 0),
                Step::Sync,
                Step::Create(text("b"), 1),
                Step::Rename(text("a"), text("c")),
            ],
        ),
    }
}

/// The bytes of `a`, all of them.
fn whole_a() -> Vec<u8> {
    [pattern(1, 0, 5_000), pattern(2, 5_000, 5_000)].concat()
}

fn found(entries: &[(&str, Option<Vec<u8>>)]) -> Found {
    entries
        .iter()
        .map(|(path, bytes)| (text(path), bytes.clone()))
        .collect()
}

#[test]
fn every_prefix_behind_the_sync_is_accepted() {
    let a = || Some(whole_a());
    let lens = |found: &Found| -> Vec<usize> {
        let prefixes = sample().recover(found).expect("explained");
        prefixes.iter().map(|prefix| prefix.len).collect()
    };
    assert_eq!(lens(&found(&[("a", a())])), [2]);
    assert_eq!(lens(&found(&[("a", a()), ("b", Some(vec![]))])), [3]);
    assert_eq!(lens(&found(&[("c", a()), ("b", Some(vec![]))])), [4]);
}

#[test]
fn a_lost_name_or_a_hole_in_the_order_is_noticed() {
    let a = || Some(whole_a());
    // The synced file is gone.
    sample()
        .recover(&found(&[]))
        .expect_err("a synced create was lost");
    // The rename without the create before it.
    sample()
        .recover(&found(&[("c", a())]))
        .expect_err("an earlier operation was lost");
    // A name that never was.
    sample()
        .recover(&found(&[("a", a()), ("x", None)]))
        .expect_err("an invented name");
}

#[test]
fn synced_bytes_that_are_missing_or_wrong_are_noticed() {
    let check = |bytes: Vec<u8>| sample().recover(&found(&[("a", Some(bytes))]));
    let whole = whole_a;
    check(pattern(1, 0, 5_000)).expect("just what was synced");
    check(pattern(1, 0, 4_999)).expect_err("a synced byte was lost");
    check([whole(), vec![0]].concat()).expect_err("longer than ever written");
    check(pattern(7, 0, 10_000)).expect_err("another file's bytes");
    let mut zeroed = whole();
    zeroed[8192..].fill(0);
    check(zeroed.clone()).expect("bytes after the sync may be missing");
    zeroed[4_999] = 0;
    check(zeroed).expect_err("a synced byte is zero");
    let mut torn = whole();
    torn[6_000..8192].fill(0);
    check(torn.clone()).expect_err("a part of a block");
    torn.copy_from_slice(&whole());
    torn[5_000..8_192].fill(0);
    check(torn).expect("from where a write began");
    let mut garbage = whole();
    garbage[9_000] ^= 0x55;
    check(garbage).expect_err("garbage after the synced bytes");
}

/// What is wrong with `bytes` as a file of 20,000 synced bytes, which then went through `changes`.
fn fault_after(changes: &[Change], synced: usize, bytes: &[u8]) -> Option<String> {
    let content = Content {
        changes: changes.to_vec(),
        synced,
        ..Content::known(&pattern(1, 0, 20_000))
    };
    let file = File {
        contents: vec![content],
        ..File::default()
    };
    file.fault(bytes)
}

/// `bytes` with those of `text` over them.
fn over(mut bytes: Vec<u8>, text: u64, offset: usize, len: usize) -> Vec<u8> {
    bytes[offset..offset + len].copy_from_slice(&pattern(text, offset as u64, len));
    bytes
}

#[test]
fn bytes_written_over_synced_ones_are_there_by_blocks_or_not_and_nothing_else_is() {
    let old = || pattern(1, 0, 20_000);
    let changes = [write(2, 3_000, 10_000)];
    let check = |synced: usize, bytes: &[u8]| fault_after(&changes, synced, bytes);
    assert_eq!(check(0, &old()), None);
    assert_eq!(check(0, &over(old(), 2, 3_000, 10_000)), None);
    // One of its blocks alone.
    assert_eq!(check(0, &over(old(), 2, 4_096, 4_096)), None);
    check(0, &over(old(), 2, 4_096, 4_000)).expect("a part of a block");
    check(0, &over(old(), 3, 4_096, 4_096)).expect("bytes of another write");
    check(0, &over(old(), 2, 13_000, 1)).expect("a byte behind it");
    let mut zero = old();
    zero[4_096..8_192].fill(0);
    check(0, &zero).expect("zeros where something was synced");
    // It was synced too.
    assert_eq!(check(1, &over(old(), 2, 3_000, 10_000)), None);
    check(1, &old()).expect("a synced write was lost");
}

#[test]
fn what_was_cut_off_and_is_there_again_is_zero() {
    let old = || pattern(1, 0, 20_000);
    let changes = [Change::Resize(9_000), Change::Resize(16_000)];
    let check = |synced: usize, bytes: &[u8]| fault_after(&changes, synced, bytes);
    let mut again = old();
    again.truncate(16_000);
    again[9_000..].fill(0);
    for len in [20_000, 9_000] {
        assert_eq!(check(0, &old()[..len]), None, "{len}");
    }
    assert_eq!(check(0, &again), None);
    check(0, &old()[..12_000]).expect("a length that it never had");
    assert_eq!(check(2, &again), None);
    check(2, &old()[..16_000]).expect("bytes that were cut off");
    check(2, &old()[..9_000]).expect("a synced length was lost");
}

#[test]
fn a_file_that_was_emptied_and_rewritten_is_the_old_or_the_new_one() {
    let mut worker = sample();
    worker.operations.truncate(2);
    let file = &mut worker.files[0];
    file.contents[0].cover(2);
    file.contents.push(Content {
        changes: vec![write(3, 0, 8_000)],
        whole: Some(1),
        ..Content::default()
    });
    let check = |worker: &Worker, bytes: Vec<u8>| worker.recover(&found(&[("a", Some(bytes))]));
    check(&worker, whole_a()).expect("the old one");
    check(&worker, pattern(3, 0, 8_000)).expect("the new one");
    let mut mixed = whole_a();
    mixed[..4096].copy_from_slice(&pattern(3, 0, 4096));
    check(&worker, mixed).expect_err("some of each");
    check(&worker, vec![]).expect_err("neither");
    check(&worker, pattern(3, 0, 7_999)).expect_err("a part of the new one");
    // Nobody has closed it yet.
    worker.files[0].contents[1].whole = None;
    check(&worker, whole_a()).expect("the old one");
    check(&worker, pattern(3, 0, 8_000)).expect_err("the new one, which is not over");
    // It took its time.
    worker.files[0].contents[1].whole = Some(0);
    check(&worker, vec![]).expect("the new one, as far as it had come");
    worker.files[0].contents[1].cover(1);
    worker.files[0].contents[1].sync_acked = true;
    check(&worker, whole_a()).expect_err("the new one was synced");
}

#[test]
fn a_replaced_file_is_the_old_or_the_whole_new_one() {
    let mut worker = sample();
    worker.files[1].contents[0].changes = vec![write(5, 0, 9_000)];
    let covered = Covered {
        file: 1,
        content: 0,
        changes: 1,
    };
    worker.operations.truncate(3);
    worker
        .operations
        .extend(acked(50, &[Step::Replace(text("b"), text("a"), covered)]));
    let check = |bytes: Vec<u8>| worker.recover(&found(&[("a", Some(bytes))]));
    check(pattern(5, 0, 9_000)).expect("the new one");
    check(pattern(5, 0, 8_999)).expect_err("a part of the new one");
    check(vec![]).expect_err("nothing");
    let before = found(&[("a", Some(whole_a())), ("b", Some(vec![]))]);
    worker
        .recover(&before)
        .expect("the old one, and the new one under its old name");
}

#[test]
fn an_operation_that_another_thread_saw_happen_may_not_be_missing() {
    let early = Worker {
        operations: acked(0, &[Step::Mkdir(text("d"))]),
        ..Worker::default()
    };
    let late = Worker {
        operations: acked(100, &[Step::Mkdir(text("e"))]),
        ..Worker::default()
    };
    let judge = |early_found: &Found, late_found: &Found| {
        let ones = early.recover(early_found).expect("explained");
        let others = late.recover(late_found).expect("explained");
        together(&[(&early, &ones), (&late, &others)])
    };
    let (d, e, none) = (found(&[("d", None)]), found(&[("e", None)]), found(&[]));
    judge(&d, &e).expect("both");
    judge(&d, &none).expect("the later one is missing");
    judge(&none, &none).expect("both are missing");
    judge(&none, &e).expect_err("only the earlier one is missing");
}

#[test]
fn what_was_found_is_the_base_of_the_next_run() {
    let mut worker = sample();
    let survived = whole_a()[..6_000].to_vec();
    let seen = found(&[("a", Some(survived.clone()))]);
    let prefixes = worker.recover(&seen).expect("explained");
    worker.adopt(&prefixes[0], &seen);
    worker.recover(&seen).expect("unchanged");
    let shorter = found(&[("a", Some(survived[..5_999].to_vec()))]);
    worker
        .recover(&shorter)
        .expect_err("what survived one crash must survive the next");
}
