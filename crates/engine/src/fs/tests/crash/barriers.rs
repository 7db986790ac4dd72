//! Each barrier that is left out is noticed, by what it is there to keep; with it the same histories
//! keep all promises.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::violation::Lost;
use super::{Plan, Scene, all};
use crate::fs::Limits;
use crate::journal::{Barrier, Without};

/// What is lost without a barrier.
fn kept_by(barrier: Barrier) -> &'static [Lost] {
    use Lost::{Books, Bytes, Names, Opening, Reading, Time};
    match barrier {
        Barrier::StageBytes => &[Bytes, Reading],
        Barrier::StageName => &[Reading],
        Barrier::LogName => &[Opening],
        Barrier::JournalName => &[Names, Opening],
        Barrier::JournalBytes => &[Names, Bytes, Opening],
        Barrier::LogBytes => &[Names, Bytes, Opening],
        Barrier::JournalCommit => &[Names, Bytes, Time],
        Barrier::BytesFirst => &[Bytes, Reading],
        Barrier::RecordsFirst => &[Bytes, Reading, Opening],
        Barrier::RenameSource => &[Bytes],
        Barrier::Rewrite => &[Bytes],
        Barrier::Settle => &[Reading, Bytes, Books],
        Barrier::BackgroundCommit => &[Names, Bytes, Time],
        Barrier::Keep => &[Names],
        Barrier::RecoveryCut => &[Books],
        Barrier::FirstRecords => &[Names],
        // A cut of the power leaves none of what it is for: `fs/tests/killed.rs` notices it.
        Barrier::RecoveryBytes => &[],
    }
}

fn plans(barrier: Option<Barrier>, seeds: impl Iterator<Item = u64>) -> Vec<Plan> {
    let plan = |seed: u64| Plan {
        seed,
        steps: 150,
        cuts: Some(150),
        scene: Scene::Alone,
        how: (
            barrier.map_or_else(Without::default, Without::the),
            Limits::default(),
        ),
    };
    seeds.map(plan).collect()
}

#[test]
fn each_barrier_that_is_left_out_is_noticed() {
    let noticed_here = |barrier: &Barrier| !kept_by(*barrier).is_empty();
    for barrier in Barrier::ALL.into_iter().filter(noticed_here) {
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

/// How the calls that make something durable are written.
const SYNCS: [&str; 13] = [
    "sync_data()",
    "sync_data(self)",
    "sync_all()",
    "sync_folder(",
    "fs::syncfs(",
    "sync_journal()",
    "sync_patiently()",
    "journal.sync()",
    "stage.sync(",
    "(Work::Log, self.patience, |",
    "(Work::Log, None)",
    "self.commit(None)",
    "self.write(state)",
];

/// What shows that the syncs of a file of `src/` are there.
enum Held {
    /// These, left out in turn.
    By(&'static [Barrier]),
    /// These, and nothing what is left; why.
    Partly(&'static [Barrier], &'static str),
    /// Cuts of the power of a simulated folder, where each kind of them is left out in turn: the file of that test, and
    /// its name.
    Cut(&'static str, &'static str),
    /// Nothing here, and why.
    Not(&'static str),
}

const REAL: &str = "made on real files, and no test cuts the power below them";

/// Each file with syncs: how many, and what holds them.
const HELD: [(&str, usize, Held); 29] = {
    use Barrier as B;
    use Held::{By, Cut, Not, Partly};
    [
        ("chain/embedded/log.rs", 4, Not(REAL)),
        ("chain/oracle.rs", 1, Not(REAL)),
        ("chain/outbox/shelf.rs", 2, Not(REAL)),
        ("chain/wallet.rs", 2, Not(REAL)),
        (
            "cli/umount.rs",
            2,
            Not("it asks the mount to sync, which is held by `fs/durable.rs`"),
        ),
        // Two are the syncs themselves, which the simulated folder hears of. One is made again right behind it, where
        // folders are made in the one that is opened; and one is for what lies beside the program.
        (
            "base/durable.rs",
            5,
            Cut(
                "storage/store/embedded/tests.rs",
                "power_loss_undoes_no_confirmed_store_pin_or_unpin",
            ),
        ),
        // `fsync`, the background, a cut.
        (
            "engine/fs/durable.rs",
            3,
            By(&[B::JournalCommit, B::BackgroundCommit]),
        ),
        // Two make the order wrong on purpose.
        ("engine/fs/save.rs", 3, By(&[B::StageBytes, B::BytesFirst])),
        (
            "engine/fs/follow.rs",
            1,
            Not(
                "nothing here is unpublished then: what a cut takes is on the node, and taken over again",
            ),
        ),
        (
            "engine/fs/load.rs",
            1,
            Not("as that of `fs/follow.rs`: a root that is not durable is adopted again"),
        ),
        ("engine/fs/recover.rs", 1, By(&[B::FirstRecords])),
        ("engine/fs/report.rs", 1, By(&[B::JournalCommit])),
        ("engine/fs/settle.rs", 1, By(&[B::Settle])),
        ("engine/fs/volume.rs", 1, By(&[B::Keep])),
        (
            "engine/journal/disk.rs",
            4,
            Not("they are what the simulated disk stands for"),
        ),
        ("engine/journal/file.rs", 1, By(&[B::JournalBytes])),
        ("engine/journal/log.rs", 1, By(&[B::JournalName])),
        (
            "engine/journal/log/commit.rs",
            7,
            Partly(
                &[B::JournalCommit, B::BackgroundCommit],
                "`snapshot`, `drain` and `rest` promise nobody anything: what a cut has seen is durable before it \
                 gets a name (`Keep`), who waits for `drain` looks himself how far it is durable, and what has \
                 rested is in the log too; what a start takes over is in the log until the table has it",
            ),
        ),
        (
            "engine/journal/stage.rs",
            5,
            Partly(
                &[B::StageBytes, B::StageName, B::RecoveryBytes],
                "one is made ahead, and promises nobody anything",
            ),
        ),
        (
            "engine/journal/wal.rs",
            3,
            Partly(
                &[B::LogBytes, B::LogName],
                "a new log is empty: there is nothing of it but its name",
            ),
        ),
        (
            "storage/names/embedded.rs",
            1,
            Cut(
                "storage/names/embedded.rs",
                "a_power_cut_takes_no_record_that_was_answered_as_published",
            ),
        ),
        ("archive/new_file.rs", 2, Not(REAL)),
        ("tokens/copy.rs", 2, Not(REAL)),
        ("run/demo.rs", 1, Not(REAL)),
        ("context/unpaid.rs", 2, Not(REAL)),
        ("tokens/salvage.rs", 2, Not(REAL)),
        ("tokens/save.rs", 1, Not(REAL)),
        ("context/state_dir.rs", 5, Not(REAL)),
        (
            "storage/store/embedded/folder.rs",
            3,
            Cut(
                "storage/store/embedded/tests.rs",
                "power_loss_undoes_no_confirmed_store_pin_or_unpin",
            ),
        ),
    ]
};

/// The syncs of a file: not those of its tests, of comments, and where one is defined.
fn syncs(text: &str) -> usize {
    let code = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or(text);
    let calls = code
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//") && !line.contains("fn sync"));
    calls
        .map(|line| SYNCS.iter().filter(|sync| line.contains(*sync)).count())
        .sum()
}

/// The folders of sources: `src/`, and that of each crate below it under the crate's name.
fn folders() -> Vec<(String, PathBuf)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let crates = std::fs::read_dir(top.join("crates")).expect("the crates");
    let mut folders = vec![(String::new(), top.join("src"))];
    folders.extend(crates.map(|entry| {
        let entry = entry.expect("an entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        (format!("{name}/"), entry.path().join("src"))
    }));
    folders
}

/// Calls `each` with the name and the text of each source that is no test.
fn each_source(folder: &Path, name: &str, each: &mut dyn FnMut(String, &str)) {
    for entry in std::fs::read_dir(folder).expect("the sources") {
        let entry = entry.expect("an entry");
        let own = entry.file_name().to_string_lossy().into_owned();
        let is_test = own.starts_with("tests") || own.starts_with("simulated");
        if is_test {
            continue;
        }
        let path = format!("{name}{own}");
        if entry.path().is_dir() {
            each_source(&entry.path(), &format!("{path}/"), each);
        } else {
            let text = std::fs::read_to_string(entry.path()).expect("a source");
            each(path, &text);
        }
    }
}

#[test]
fn no_sync_is_without_a_barrier_or_a_reason() {
    let (mut found, mut asked) = (BTreeMap::new(), HashSet::new());
    let folders = folders();
    let mut note = |path: String, text: &str| {
        let syncs = syncs(text);
        if syncs > 0 {
            found.insert(path, syncs);
        }
        let is_asked = |barrier: &Barrier| text.contains(&format!("lacks(Barrier::{barrier:?})"));
        asked.extend(
            Barrier::ALL
                .into_iter()
                .filter(is_asked)
                .map(|b| format!("{b:?}")),
        );
    };
    for (name, folder) in &folders {
        each_source(folder, name, &mut note);
    }
    let held = HELD
        .iter()
        .map(|(file, syncs, _)| ((*file).to_owned(), *syncs));
    let held: BTreeMap<String, usize> = held.filter(|(_, syncs)| *syncs > 0).collect();
    assert_eq!(found, held, "found in the sources, and held by the table");
    for barrier in Barrier::ALL {
        assert!(
            asked.contains(&format!("{barrier:?}")),
            "{barrier:?} leaves nothing out"
        );
    }
    for (file, _, held) in &HELD {
        let (barriers, why) = match held {
            Held::By(barriers) => (*barriers, None),
            Held::Partly(barriers, why) => (*barriers, Some(*why)),
            Held::Not(why) => (&[][..], Some(*why)),
            Held::Cut(path, test) => {
                let source = folders.iter().rev().find_map(|(name, folder)| {
                    path.strip_prefix(name.as_str())
                        .map(|rest| folder.join(rest))
                });
                let source = source.expect("a folder");
                let text = std::fs::read_to_string(source).expect("a source");
                assert!(text.contains(&format!("fn {test}()")), "{path}: {test}");
                continue;
            }
        };
        // By a barrier that leaves something out, or for a reason.
        assert!(!barriers.is_empty() || why.is_some(), "{file}");
        assert!(why.is_none_or(|why| !why.is_empty()), "{file}");
    }
}
