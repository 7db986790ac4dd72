//! The checker notices what it is for.

use super::content::{Attributes, Change, Content, Seen, Time};
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

/// A file of one name as it is found after it was changed here.
fn seen(ino: u64, bytes: Vec<u8>) -> Seen {
    Seen {
        bytes,
        mtime_ns: Time::MOVED_NS + 1,
        ino,
        links: 1,
        ..Seen::default()
    }
}

fn found(entries: &[(&str, Option<Vec<u8>>)]) -> Found {
    let files = entries.iter().zip(1..);
    files
        .map(|((path, bytes), ino)| (text(path), bytes.clone().map(|bytes| seen(ino, bytes))))
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
fn overwritten_bytes_are_found_old_or_new_block_by_block() {
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
fn a_truncated_and_rewritten_file_is_found_old_or_new() {
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

#[test]
fn bytes_that_were_punched_out_are_zero_by_blocks_and_no_others() {
    let old = || pattern(1, 0, 20_000);
    let changes = [Change::Punch {
        offset: 3_000,
        len: 10_000,
    }];
    let check = |synced: usize, bytes: &[u8]| fault_after(&changes, synced, bytes);
    let zeroed = |from: usize, to: usize| {
        let mut bytes = old();
        bytes[from..to].fill(0);
        bytes
    };
    assert_eq!(check(0, &old()), None);
    assert_eq!(check(0, &zeroed(3_000, 13_000)), None);
    assert_eq!(check(0, &zeroed(4_096, 8_192)), None);
    check(0, &zeroed(4_096, 8_000)).expect("a part of a block");
    check(0, &zeroed(3_000, 13_001)).expect("a byte behind it");
    check(0, &old()[..13_000]).expect("a length that it never had");
    assert_eq!(check(1, &zeroed(3_000, 13_000)), None);
    check(1, &old()).expect("a synced hole was lost");
}

#[test]
fn another_name_is_of_the_same_file_which_counts_it() {
    let mut worker = sample();
    worker.operations.truncate(2);
    let link = [Step::Link(text("a"), text("b")), Step::Sync];
    worker.operations.extend(acked(50, &link));
    let check = |one: Seen, other: Seen| {
        let found = Found::from([(text("a"), Some(one)), (text("b"), Some(other))]);
        worker.recover(&found)
    };
    let both = |ino: u64, links: u64| Seen {
        links,
        ..seen(ino, whole_a())
    };
    let prefixes = check(both(1, 2), both(1, 2)).expect("one file");
    check(both(1, 2), both(2, 2)).expect_err("a copy");
    check(both(1, 1), both(1, 1)).expect_err("a link that is not counted");
    worker
        .recover(&found(&[("a", Some(whole_a()))]))
        .expect_err("a synced link was lost");
    // Later lives know it as one file, too.
    let seen = Found::from([(text("a"), Some(both(1, 2))), (text("b"), Some(both(1, 2)))]);
    let mut next = worker.clone();
    next.adopt(&prefixes[0], &seen);
    assert_eq!(next.base["a"], next.base["b"]);
    next.recover(&seen).expect("unchanged");
    let apart = found(&[("a", Some(whole_a())), ("b", Some(whole_a()))]);
    next.recover(&apart).expect_err("two files");
}

#[test]
fn files_that_were_exchanged_are_whole_where_their_new_names_are() {
    let mut worker = sample();
    worker.files[1].contents[0].changes = vec![write(5, 0, 9_000)];
    worker.operations.truncate(3);
    let of = |file: usize, changes: usize| Covered {
        file,
        content: 0,
        changes,
    };
    let exchange = Step::Exchange(text("a"), text("b"), [of(0, 2), of(1, 1)]);
    worker.operations.extend(acked(50, &[exchange]));
    let b = || pattern(5, 0, 9_000);
    let check = |a: Vec<u8>, b: Vec<u8>| worker.recover(&found(&[("a", Some(a)), ("b", Some(b))]));
    check(b(), whole_a()).expect("exchanged");
    check(whole_a(), b()).expect("not yet");
    check(whole_a(), vec![]).expect("not yet, and not all of it");
    check(b(), pattern(1, 0, 5_000)).expect_err("exchanged, and one in part");
    check(vec![], whole_a()).expect_err("exchanged, and one empty");
    check(whole_a(), whole_a()).expect_err("one of them twice");
}

#[test]
fn attributes_that_were_synced_are_there_and_others_in_order() {
    let mut worker = sample();
    worker.operations.truncate(2);
    let steps = [
        Step::Mode(0, 0o644),
        Step::Sync,
        Step::Colour(0, Some(9)),
        Step::Mode(0, 0o755),
    ];
    worker.operations.extend(acked(50, &steps));
    let check = |mode: u32, colour: Option<u64>| {
        let file = Seen {
            attributes: Attributes { mode, colour },
            ..seen(1, whole_a())
        };
        worker.recover(&Found::from([(text("a"), Some(file))]))
    };
    check(0o600, None).expect_err("a synced mode was lost");
    check(0o644, None).expect("just what was synced");
    check(0o644, Some(9)).expect("one more");
    check(0o755, Some(9)).expect("all");
    check(0o755, None).expect_err("the later without the earlier one");
    check(0o644, Some(8)).expect_err("another value");
}

#[test]
fn a_modification_time_that_was_synced_stays_until_the_file_is_changed() {
    let mut worker = sample();
    worker.operations.truncate(2);
    let check = |worker: &Worker, mtime_ns: i64| {
        let file = Seen {
            mtime_ns,
            ..seen(1, whole_a())
        };
        worker.recover(&Found::from([(text("a"), Some(file))]))
    };
    let now = Time::MOVED_NS + 5;
    worker.files[0].times.push(Time::Set(7));
    check(&worker, now).expect("not yet");
    check(&worker, 7).expect("set");
    check(&worker, 8).expect_err("another time");
    worker.files[0].past_times = 1;
    check(&worker, now).expect_err("a synced time was lost");
    worker.files[0].times.push(Time::Moved);
    check(&worker, now).expect("changed since");
    check(&worker, 7).expect("not yet changed");
}
