//! The model test through a real mount: the calls of programs, the kernel's caches and commits in
//! between, held against the reference of `tests/model`. Sequences share a mount, one after another.

#[path = "../model/mod.rs"]
#[allow(dead_code, unused_imports)] // what the core alone needs
mod reference;

mod system;

use reference::run;
use system::{Calm, Mount, Pace, Restless};

/// Sequences of each of the two mounts. `PXFS_MODEL_MOUNT_SEQUENCES` says otherwise.
const SEQUENCES: u32 = 250;

#[track_caller]
fn run_on<P: Pace>(seed: u64) {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|value| value.parse().expect(name))
    };
    let sequences = number("PXFS_MODEL_MOUNT_SEQUENCES").map_or(SEQUENCES, |n: u64| n as u32);
    let seed = number("PXFS_MODEL_SEED").unwrap_or(1) * 1000 + seed;
    let result = run::<Mount<P>>(sequences, seed);
    system::unmount();
    if let Err(failure) = result {
        panic!("{failure:?}");
    }
}

#[test]
fn every_call_on_a_mount_answers_as_the_reference_does() {
    run_on::<Calm>(1);
}

#[test]
fn every_call_answers_as_the_reference_does_while_commits_run() {
    run_on::<Restless>(2);
}
