//! A machine at work on disks whose power can be cut, and what its user knows of the tree.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::LONG;
use super::dice::Dice;
use super::node::{Held, Watched};
use super::text::pattern;
use crate::chain::{Accounting, TokenInfo};
use crate::clock::ManualClock;
use crate::fault::Fault;
use crate::fs::Volume;
use crate::journal::simulated::{Left, Power};
use crate::names::fault::{Call as NameCall, FaultNames};
use crate::names::{NameError, NameStore};
use crate::publish::Bootstrap;
use crate::publish::allowance;
use crate::publish::naming::renew;
use crate::publish::tests::rig::{Machine, Shared, token};
use crate::store::fault::{Call, FaultStore};
use crate::store::{BlockStore, StoreError};

/// Commits of one history.
const COMMITS: usize = 4;

/// The bytes of each file.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// What the user has made of the tree, and when: so much had reached the disk.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) begun: usize,
    pub(super) synced: usize,
    pub(super) files: Files,
}

/// What was seen of the charges, and when.
pub(super) type Shown = Vec<(usize, Vec<(u64, u64)>)>;

/// A machine at work on disks whose power can be cut, and a node that is watched.
pub(super) struct Life {
    pub(super) power: Arc<Power>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) watched: Arc<Watched>,
    pub(super) shared: Shared,
    pub(super) machine: Machine,
    pub(super) states: Vec<State>,
    pub(super) shown: Arc<Mutex<Shown>>,
}

impl Life {
    /// The machine that finds `left` on its disks and `held` on its node, and whose user knows of `states`.
    pub(super) async fn open(
        left: Left,
        held: &Held,
        now_ns: i64,
        additive: bool,
        states: Vec<State>,
    ) -> Self {
        let clock = Arc::new(ManualClock::at(now_ns));
        let name = token().name.expect("a name");
        let shared = held.node(Arc::clone(&clock), &name).await;
        let power = Power::on(left);
        let folder = tempfile::tempdir().expect("a folder");
        let mut machine = Machine::on(&shared, folder, power.disk(0), power.disk(1));
        let watched = Watched::new(&shared, &power);
        let blocks: Arc<dyn BlockStore> = Arc::<Watched>::clone(&watched);
        let names: Arc<dyn NameStore> = Arc::<Watched>::clone(&watched);
        machine.store = Arc::new(FaultStore::new(blocks));
        machine.names = Arc::new(FaultNames::new(names));
        machine.context.node.store = Arc::<FaultStore>::clone(&machine.store);
        machine.context.node.names = Arc::<FaultNames>::clone(&machine.names);
        if additive {
            let token = TokenInfo {
                accounting: Accounting::Additive,
                uploads_left: Some(50),
                ..token()
            };
            let allowance = allowance(&token, 1, 1_800_000_000, clock.as_ref());
            machine
                .volume
                .set_allowance(&allowance)
                .expect("a disk that works");
        }
        let shown = Arc::<Mutex<Shown>>::default();
        let (volume, seen) = (Arc::downgrade(&machine.volume), Arc::clone(&shown));
        let counting = Arc::downgrade(&power);
        power.set_pause(Some(Arc::new(move || {
            if let (Some(volume), Some(power)) = (volume.upgrade(), counting.upgrade()) {
                show(&seen, &power, &volume);
            }
        })));
        Self {
            power,
            clock,
            watched,
            shared,
            machine,
            states,
            shown,
        }
    }

    pub(super) fn files(&self) -> Files {
        self.states
            .last()
            .map_or_else(Files::new, |state| state.files.clone())
    }

    /// Makes `files` of the tree by `change`, and syncs that.
    async fn change(&mut self, files: Files, change: impl AsyncFnOnce(&Machine)) {
        let begun = self.power.now();
        self.states.push(State {
            begun,
            synced: usize::MAX,
            files,
        });
        change(&self.machine).await;
        self.machine.volume.sync().expect("a disk that works");
        let synced = self.power.now();
        self.states.last_mut().expect("the one above").synced = synced;
    }

    /// Writes `len` bytes that no other file has.
    async fn write(&mut self, dice: &mut Dice, name: &str, at: u64, len: u64) {
        let len = usize::try_from(len).expect("a small file");
        let bytes = pattern(dice.below(u64::MAX), at, len);
        let mut files = self.files();
        let file = files.entry(name.to_owned()).or_default();
        let begin = usize::try_from(at).expect("a small file");
        file.resize(file.len().max(begin + len), 0);
        file[begin..begin + len].copy_from_slice(&bytes);
        let name = name.to_owned();
        self.change(files, async move |machine| {
            machine.put(machine.root, &name, &[(at, &bytes)]).await;
        })
        .await;
    }

    /// Something random is done to the tree.
    pub(super) async fn act(&mut self, dice: &mut Dice) {
        let mut files = self.files();
        let names: Vec<String> = files.keys().cloned().collect();
        let known = dice.pick(&names);
        let fresh = format!("n{}", dice.below(12));
        match (dice.below(8), known) {
            (0, Some(name)) => {
                files.remove(&name);
                let remove = async move |machine: &Machine| {
                    let removed = machine.drive.unlink(machine.root, name.as_bytes());
                    removed.expect("a name that is there");
                };
                self.change(files, remove).await;
            }
            (1, Some(name)) if name != fresh => {
                let file = files.remove(&name).expect("a name that is there");
                files.insert(fresh.clone(), file);
                let rename = async move |machine: &Machine| {
                    let (from, to) = (name.as_bytes(), fresh.as_bytes());
                    let renamed = machine
                        .drive
                        .rename(machine.root, from, machine.root, to, 0);
                    renamed.expect("a name that is there");
                };
                self.change(files, rename).await;
            }
            (2 | 3, Some(name)) => {
                let end = files[&name].len() as u64;
                let at = dice.below(end + 1);
                let len = 1 + dice.below(30_000);
                self.write(dice, &name, at, len).await;
            }
            _ => {
                let len = match dice.below(12) {
                    0 => 1_200_000,
                    1..4 => 100_000 + dice.below(50_000),
                    4..7 => 20_000,
                    _ => 1 + dice.below(900),
                };
                self.write(dice, &fresh, 0, len).await;
            }
        }
    }

    /// The next try of a commit fails, or one of those after it.
    fn fail_one(&self, dice: &mut Dice) {
        let broken = || "the line broke".to_owned();
        let after = dice.below(2) == 0;
        let busy = match after {
            true => Fault::After(StoreError::Transient(broken())),
            false => Fault::Before(StoreError::Transient(broken())),
        };
        let silent = match after {
            true => Fault::After(NameError::Transient(broken())),
            false => Fault::Before(NameError::Transient(broken())),
        };
        let (store, names) = (&self.machine.store, &self.machine.names);
        match dice.below(5) {
            0 => store.set(Call::PutMany, busy, Some(1)),
            1 => store.set(Call::Pin, busy, Some(1)),
            2 => store.set(Call::Get, busy, Some(1)),
            _ => names.set(NameCall::Publish, silent, Some(1)),
        }
    }

    /// Changes, commits, tries that fail, renewals, time.
    pub(super) async fn run(&mut self, dice: &mut Dice) {
        let begun = self.machine.start().await;
        assert_eq!(begun, Ok(Bootstrap::New));
        for commit in 0..COMMITS {
            for _ in 0..=dice.below(3) {
                self.act(dice).await;
            }
            if commit > 0 && dice.below(2) == 0 {
                self.fail_one(dice);
                let _ = self.machine.commit().await;
                self.machine.store.clear();
                self.machine.names.clear();
                if dice.below(2) == 0 {
                    self.act(dice).await;
                }
            }
            let done = self.machine.commit().await;
            assert!(done.is_ok(), "{done:?}");
            if dice.below(3) == 0 {
                self.clock.advance(LONG);
            }
            if dice.below(3) == 0 {
                renew(&self.machine.context)
                    .await
                    .expect("a node that answers");
            }
        }
    }

    /// What is seen of the charges now, is noted.
    pub(super) fn show(&self) {
        show(&self.shown, &self.power, &self.machine.volume);
    }

    /// What is in the tree, as the user reads it.
    ///
    /// # Errors
    /// Something of it is not there.
    pub(super) async fn read(&self) -> Result<Files, String> {
        contents(&self.machine).await
    }
}

/// Whoever asks sees these charges now: from here on they may be on chain.
fn show(shown: &Mutex<Shown>, power: &Power, volume: &Volume) {
    let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
    shown.push((power.now(), volume.charges()));
}

/// The files of a machine.
///
/// # Errors
/// Some of them cannot be read.
pub(super) async fn contents(machine: &Machine) -> Result<Files, String> {
    let tree = machine.try_tree().await.map_err(|e| e.to_string())?;
    let name = |path: String| path.trim_start_matches('/').to_owned();
    let files = tree.into_iter();
    Ok(files
        .map(|(path, seen)| (name(path), seen.content))
        .collect())
}
