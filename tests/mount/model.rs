//! The model test through a real mount: the calls of programs, the kernel's caches and commits in
//! between, held against the reference of `tests/model`. Some mounts at a time; the sequences of each come one
//! after another.

#[path = "../model/mod.rs"]
#[allow(dead_code, unused_imports)] // what the core alone needs
mod reference;

mod system;

use std::time::{Duration, Instant};

use reference::run;
use system::{Busy, Calm, Mount, Pace, Restless, Tight};

/// Sequences of all paces together. `PXFS_MODEL_MOUNT_SEQUENCES` says otherwise.
const SEQUENCES: u64 = 10_000;
/// How many of a thousand there are of each of the two paces at which flushes, restarts and moves come between.
const DISTURBED: u64 = 25;
/// Of those beside which commits run and the cache is lost.
const BUSY: u64 = 700;
/// Of such that meet the quota.
const TIGHT: u64 = 250;
/// Mounts of a pace at a time: a sequence waits most of its time, for disks and for a daemon that starts.
const MOUNTS: u32 = 4;
/// So many commits have to run beside the calls on each mount, where they can be counted.
const COMMITS: u64 = 50;
/// They have not come at all by then.
const HANGS: Duration = Duration::from_secs(1800);

fn number(name: &str) -> Option<u64> {
    let said = std::env::var(name).ok();
    said.map(|value| value.parse().expect(name))
}

fn all_sequences() -> u64 {
    number("PXFS_MODEL_MOUNT_SEQUENCES").unwrap_or(SEQUENCES)
}

#[track_caller]
fn run_on<P: Pace>(seed: u64, of_thousand: u64) {
    let sequences = (all_sequences() * of_thousand / 1000).max(1) as u32;
    let seed = number("PXFS_MODEL_SEED").unwrap_or(1) * 1000 + seed;
    let run_one = |mount: u32| {
        let (begun, mut seed) = (Instant::now(), seed + 10 * u64::from(mount));
        let result = loop {
            let result = run::<Mount<P>>(sequences.div_ceil(MOUNTS), seed);
            // Where commits are slow, or the calls fast, more sequences run until enough commits came beside them.
            if result.is_err() || !P::COMMITS_BESIDE || system::commits() >= COMMITS {
                break result;
            }
            assert!(begun.elapsed() < HANGS, "{} commits", system::commits());
            seed += 1_000_000;
        };
        system::unmount();
        result
    };
    let failures: Vec<_> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..MOUNTS)
            .map(|mount| scope.spawn(move || run_one(mount)))
            .collect();
        runs.into_iter()
            .filter_map(|run| run.join().expect("a run").err())
            .collect()
    });
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn every_call_on_a_mount_answers_as_the_reference_does() {
    run_on::<Calm>(1, DISTURBED);
}

#[test]
fn random_calls_match_the_model_during_commits_and_cache_loss() {
    run_on::<Busy>(3, BUSY);
}

#[test]
fn full_quota_refusals_match_the_model_during_commits() {
    run_on::<Tight>(4, TIGHT);
    // Of a few sequences none may meet it.
    let are_few = all_sequences() < SEQUENCES;
    assert!(are_few || system::refused() > 0, "the quota was never met");
}

#[test]
fn every_call_matches_the_model_across_commits_and_restarts() {
    run_on::<Restless>(2, DISTURBED);
}
