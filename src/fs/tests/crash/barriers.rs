//! Each barrier that is left out is noticed, by what it is there to keep; with it the same histories
//! keep all promises.

use super::violation::Lost;
use super::{Plan, Scene, all};
use crate::journal::{Barrier, Without};

/// What is lost without a barrier.
fn kept_by(barrier: Barrier) -> &'static [Lost] {
    use Lost::{Books, Bytes, Names, Opening, Reading, Time};
    match barrier {
        Barrier::StageBytes => &[Bytes, Reading],
        Barrier::StageName => &[Reading],
        Barrier::JournalName => &[Names, Opening],
        Barrier::JournalBytes => &[Names, Bytes, Opening],
        Barrier::JournalCommit => &[Names, Bytes, Time],
        Barrier::BytesFirst => &[Bytes, Reading],
        Barrier::RecordsFirst => &[Bytes, Reading, Opening],
        Barrier::RenameSource => &[Bytes],
        Barrier::Rewrite => &[Bytes],
        Barrier::Settle => &[Reading, Bytes, Books],
    }
}

fn plans(barrier: Option<Barrier>, seeds: impl Iterator<Item = u64>) -> Vec<Plan> {
    let plan = |seed: u64| Plan {
        seed,
        steps: 150,
        cuts: Some(150),
        scene: Scene::Alone,
        without: barrier.map_or_else(Without::default, Without::the),
    };
    seeds.map(plan).collect()
}

#[test]
fn each_barrier_that_is_left_out_is_noticed() {
    for barrier in Barrier::ALL {
        // Ends with the first that notices.
        let noticed = all(&plans(Some(barrier), 1_000..1_200));
        let (plan, violation) = *noticed.expect_err(&format!("without {barrier:?}"));
        assert!(
            kept_by(barrier).contains(&violation.lost),
            "without {barrier:?} it is something else that is lost: {violation}"
        );
        // The same with all of them.
        let well = all(&plans(None, std::iter::once(plan.seed)));
        assert!(
            well.is_ok(),
            "{}",
            well.err().map_or_else(String::new, |e| e.1.to_string())
        );
    }
}
