//! The model test of the core: random operations on a [`Drive`](crate::fs::Drive), held against the
//! reference of `tests/model`, with commits, restarts and a cache that loses everything between them.

use super::core::Core;
use super::reference::{Access, Allocation, Call, Event, Failure, How, System, replay, run};
use super::rig::QUOTA;

/// Sequences of all threads together, unless `PXFS_MODEL_SEQUENCES` says otherwise: `tests/run` does.
const SEQUENCES: u32 = 400;

/// Threads that share them. More than there are cores: a cut waits some milliseconds for whoever is rewriting a file.
const THREADS: u32 = 16;

/// A number from the environment.
fn from_environment(name: &str, otherwise: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(otherwise, |value| value.parse().expect(name))
}

/// Runs random sequences side by side; the same ones each time and everywhere, unless `PXFS_MODEL_SEED` says
/// otherwise.
fn run_side_by_side<T: System>(sequences: u32) -> Result<(), Box<Failure>> {
    let seed = from_environment("PXFS_MODEL_SEED", 1);
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..THREADS)
            .map(|part| {
                let own = sequences / THREADS + u32::from(part < sequences % THREADS);
                let seed = seed * 1000 + u64::from(part);
                scope.spawn(move || run::<T>(own, seed))
            })
            .collect();
        parts
            .into_iter()
            .try_for_each(|part| part.join().expect("a thread"))
    })
}

#[test]
fn every_call_answers_as_the_reference_does_whatever_came_before() {
    let sequences = from_environment("PXFS_MODEL_SEQUENCES", u64::from(SEQUENCES)) as u32;
    if let Err(failure) = run_side_by_side::<Core>(sequences) {
        panic!("{failure:?}");
    }
}

#[test]
fn a_file_costs_the_same_whether_or_not_first_published_empty() {
    let how = How {
        create: true,
        ..How::default()
    };
    let calls = vec![
        Call::Open {
            at: 0,
            path: vec![0],
            access: Access::Both,
            how,
        },
        Call::Event(Event::Cut),
        Call::Event(Event::Settle),
        Call::Resize { at: 0, size: 1 },
        Call::Resize {
            at: 0,
            size: 3 << 20,
        },
    ];
    replay::<Core>(QUOTA, calls);
}

#[test]
fn a_sparse_file_can_be_cut_shorter_at_a_full_quota() {
    let how = How {
        create: true,
        ..How::default()
    };
    let calls = vec![
        Call::Open {
            at: 0,
            path: vec![0],
            access: Access::Both,
            how,
        },
        Call::Write {
            at: 0,
            offset: 0,
            len: 1,
            text: 0,
        },
        Call::Allocate {
            at: 0,
            offset: 3 << 20,
            len: 1,
            how: Allocation::Grow,
        },
        Call::Resize {
            at: 0,
            size: (3 << 20) - 1,
        },
    ];
    replay::<Core>(3 << 20, calls);
}
