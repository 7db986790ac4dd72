//! The checker notices what it is for.

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

/// `a` made, written (10,000 bytes, of them 5,000 synced), `b` made, `a` renamed to `c`.
fn sample() -> Worker {
    let mut a = File::new(1);
    a.contents[0].written = 10_000;
    a.contents[0].synced = 5_000;
    a.contents[0].sync_acked = true;
    Worker {
        base: Entries::new(),
        files: vec![a, File::new(2)],
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

fn found(entries: &[(&str, Option<Vec<u8>>)]) -> Found {
    entries
        .iter()
        .map(|(path, bytes)| (text(path), bytes.clone()))
        .collect()
}

#[test]
fn every_prefix_behind_the_sync_is_accepted() {
    let a = || Some(pattern(1, 0, 10_000));
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
    let a = || Some(pattern(1, 0, 10_000));
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
    check(pattern(1, 0, 5_000)).expect("just what was synced");
    check(pattern(1, 0, 4_999)).expect_err("a synced byte was lost");
    check(pattern(1, 0, 10_001)).expect_err("longer than ever written");
    check(pattern(7, 0, 10_000)).expect_err("another file's bytes");
    let mut zeroed = pattern(1, 0, 10_000);
    zeroed[8192..].fill(0);
    check(zeroed.clone()).expect("bytes after the sync may be missing");
    zeroed[4_999] = 0;
    check(zeroed).expect_err("a synced byte is zero");
    let mut garbage = pattern(1, 0, 10_000);
    garbage[9_000] ^= 0x55;
    check(garbage).expect_err("garbage after the synced bytes");
}

#[test]
fn a_file_that_was_emptied_and_rewritten_is_the_old_or_the_new_one() {
    let mut worker = sample();
    worker.operations.truncate(2);
    let file = &mut worker.files[0];
    file.contents[0].synced = 10_000;
    file.contents.extend(File::new(3).contents);
    file.contents[1].written = 8_000;
    let check = |worker: &Worker, bytes: Vec<u8>| worker.recover(&found(&[("a", Some(bytes))]));
    check(&worker, pattern(1, 0, 10_000)).expect("the old one");
    check(&worker, pattern(3, 0, 8_000)).expect("the new one");
    let mut mixed = pattern(1, 0, 8_000);
    mixed[..4096].copy_from_slice(&pattern(3, 0, 4096));
    check(&worker, mixed).expect_err("some of each");
    worker.files[0].contents[1].synced = 8_000;
    worker.files[0].contents[1].sync_acked = true;
    check(&worker, pattern(1, 0, 10_000)).expect_err("the new one was synced");
}

#[test]
fn a_replaced_file_is_the_old_or_the_whole_new_one() {
    let mut worker = sample();
    worker.files[1].contents[0].written = 9_000;
    let covered = Covered {
        file: 1,
        content: 0,
        len: 9_000,
    };
    worker.operations.truncate(3);
    worker
        .operations
        .extend(acked(50, &[Step::Replace(text("b"), text("a"), covered)]));
    let check = |bytes: Vec<u8>| worker.recover(&found(&[("a", Some(bytes))]));
    check(pattern(2, 0, 9_000)).expect("the new one");
    check(pattern(2, 0, 8_999)).expect_err("a part of the new one");
    check(vec![]).expect_err("nothing");
    let before = found(&[("a", Some(pattern(1, 0, 10_000))), ("b", Some(vec![]))]);
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
    let seen = found(&[("a", Some(pattern(1, 0, 6_000)))]);
    let prefixes = worker.recover(&seen).expect("explained");
    assert!(worker.adopt(&prefixes[0], &seen).is_empty());
    worker.recover(&seen).expect("unchanged");
    let shorter = found(&[("a", Some(pattern(1, 0, 5_999)))]);
    worker
        .recover(&shorter)
        .expect_err("what survived one crash must survive the next");
}
