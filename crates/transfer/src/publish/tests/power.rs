//! Power cuts amid commits: at every write, every sync and every call of the node, the next start
//! finishes or gives up what was on its way, and publishes all that was synced, once.

#[path = "../../../../../tests/shared/dice.rs"]
mod dice;
mod judge;
mod life;
mod node;
#[path = "../../../../../tests/shared/pattern.rs"]
mod text;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cid::Cid;

use super::rig::{Machine, token};
use crate::clock::{Clock, ManualClock};
use crate::journal::simulated::{Event, Image, Kept, Left, Power};
use crate::publish::Bootstrap;
use crate::publish::pending::{PENDING, Pending};
use dice::Dice;
use judge::{Books, judge};
use life::{Files, Life, Shown, State, contents};
use node::{Act, Held};

/// When all histories begin, unix nanoseconds.
const BEGIN_NS: i64 = 1_800_000_000_000_000_000;
/// How many times a commit may be tried where the node has lost something.
const TRIES: usize = 4;
/// Longer than old roots stay.
const LONG: Duration = Duration::from_secs(25 * 3600);

/// A life that is over.
struct Past {
    additive: bool,
    now_ns: i64,
    left: Left,
    held: Held,
    events: Vec<Event>,
    acts: Vec<(usize, Act)>,
    states: Vec<State>,
    shown: Shown,
    /// What the node did in the lives before.
    before: Vec<Act>,
    /// What was seen of the charges then.
    charged: BTreeMap<u64, u64>,
    /// The node has lost some of what it took.
    lossy: bool,
}

/// A moment of a life: so much had reached the disks, and so much the node.
#[derive(Clone, Copy, Debug)]
struct Moment {
    events: usize,
    acts: usize,
}

/// What a node does while there is no power here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    /// It keeps all.
    Keeps,
    /// What is not pinned goes.
    Collects,
    /// It loses a block; before the machine has read it again, or later.
    Loses,
    LosesLater,
}

/// What another machine reads that begins from what a node has.
async fn published(held: &Held, now_ns: i64) -> Result<Files, String> {
    let clock = Arc::new(ManualClock::at(now_ns));
    let name = token().name.expect("a name");
    let shared = held.node(clock, &name).await;
    let (power, folder) = (Power::on(Left::default()), tempfile::tempdir());
    let folder = folder.expect("a folder");
    let machine = Machine::on(&shared, folder, power.disk(0), power.disk(1));
    match machine.start().await {
        Ok(Bootstrap::Adopted(_)) => contents(&machine).await,
        other => Err(format!("another machine finds {other:?}")),
    }
}

impl Past {
    /// What has been of `life`, which began with `left` on the disks and `held` on the node.
    fn of(life: &Life, left: Left, held: Held, additive: bool, now_ns: i64) -> Self {
        life.show();
        let shown = life.shown.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            additive,
            now_ns,
            left,
            held,
            events: life.power.events(),
            acts: life.watched.acts(),
            states: life.states.clone(),
            shown: shown.clone(),
            before: Vec::new(),
            charged: BTreeMap::new(),
            lossy: false,
        }
    }

    /// What the node has at a moment.
    fn held(&self, acts: usize) -> Held {
        let mut held = self.held.clone();
        self.acts[..acts].iter().for_each(|(_, act)| held.play(act));
        held
    }

    /// All that the node has done by a moment, in this life and those before.
    fn acts(&self, acts: usize) -> Vec<Act> {
        let of_this = self.acts[..acts].iter().map(|(_, act)| act.clone());
        self.before.iter().cloned().chain(of_this).collect()
    }

    /// The moments in which so much had reached the disks.
    fn moments(&self, events: usize) -> impl Iterator<Item = Moment> + use<> {
        let until = |bound: usize| self.acts.partition_point(|(when, _)| *when < bound);
        let (from, to) = (until(events), until(events + 1));
        (from..=to).map(move |acts| Moment { events, acts })
    }

    /// What may have been charged by a moment: all that was seen.
    fn charged(&self, events: usize) -> BTreeMap<u64, u64> {
        let mut charged = self.charged.clone();
        for (when, shown) in &self.shown {
            if *when <= events {
                charged.extend(shown.iter().copied());
            }
        }
        charged
    }

    /// The states that may be found after a cut.
    fn possible(&self, events: usize) -> &[State] {
        let synced = self.states.iter().rposition(|state| state.synced <= events);
        let begun = self.states.partition_point(|state| state.begun < events);
        let from = synced.unwrap_or(0);
        &self.states[from..begun.max(from + 1).min(self.states.len())]
    }

    /// What is wrong with files that were found after a cut.
    fn fault(&self, events: usize, found: &Files) -> Option<String> {
        let possible = self.possible(events);
        let first = &possible.first()?.files;
        let is_known = |name: &&String| {
            possible
                .iter()
                .all(|state| state.files.get(*name) == first.get(*name))
        };
        let lost = first
            .keys()
            .filter(is_known)
            .find(|name| found.get(*name) != first.get(*name));
        if let Some(lost) = lost {
            return Some(format!("{lost} is not what was synced"));
        }
        let is_there =
            |name: &&String| possible.iter().any(|state| state.files.contains_key(*name));
        let more = found.keys().find(|name| !is_there(name))?;
        Some(format!("{more} was removed, or never there"))
    }

    /// Cuts the power in a moment, and goes on with what is left.
    async fn cut(&self, at: Moment, image: &Image, dice: &mut Dice) -> Result<Past, String> {
        let sector = if dice.below(2) == 0 { 512 } else { 4096 };
        let kept = match dice.below(4) {
            0 => Kept::None,
            1 => Kept::All,
            _ => Kept::Some,
        };
        let left = image.cut(kept, sector, &mut |bound| dice.below(bound));
        let mut held = self.held(at.acts);
        let meanwhile = match dice.below(6) {
            0 | 1 => Meanwhile::Collects,
            2 => Meanwhile::Loses,
            3 => Meanwhile::LosesLater,
            _ => Meanwhile::Keeps,
        };
        if meanwhile == Meanwhile::Collects {
            held.collect();
        }
        let later = if dice.below(2) == 0 {
            LONG
        } else {
            Duration::from_secs(3)
        };
        let now_ns = self.now_ns + i64::try_from(later.as_nanos()).expect("some days");
        let known = self.possible(at.events).to_vec();
        let mut life = Life::open(left.clone(), &held, now_ns, self.additive, known).await;
        let told = |why: String| format!("{kept:?}, {sector}, {meanwhile:?}: {why}");
        let begun = life.machine.start().await;
        match begun {
            Ok(Bootstrap::New | Bootstrap::Current) => {}
            // The document may be what is lost.
            Err(error) if self.lossy && error.may_pass() => {}
            other => return Err(told(format!("the next start finds {other:?}"))),
        }
        let mut lossy = self.lossy;
        if meanwhile == Meanwhile::Loses {
            lossy |= lose(&mut held, &life, dice).await;
        }
        let mut found = None;
        if !lossy {
            let files = life.read().await.map_err(told)?;
            if let Some(fault) = self.fault(at.events, &files) {
                return Err(told(fault));
            }
            life.states = vec![State {
                begun: 0,
                synced: 0,
                files: files.clone(),
            }];
            found = Some(files);
        }
        if meanwhile == Meanwhile::LosesLater {
            lossy |= lose(&mut held, &life, dice).await;
        }
        // What was begun goes on; more may have come by then.
        if dice.below(3) > 0 && found.is_some() {
            life.act(dice).await;
        }
        let mut done = life.machine.commit().await;
        for _ in 0..TRIES {
            match &done {
                Err(error) if lossy && error.may_pass() => done = life.machine.commit().await,
                _ => break,
            }
        }
        match &done {
            Ok(_) => {}
            Err(error) if lossy && error.may_pass() => {}
            Err(error) => return Err(told(format!("the next commit: {error}"))),
        }
        let expected = found.map(|_| life.files());
        let books = Books::of(&life.machine.volume);
        let read = match lossy {
            true => None,
            false => Some(
                life.read()
                    .await
                    .map_err(|why| told(format!("after the commit: {why}")))?,
            ),
        };
        let (before, charged) = (self.acts(at.acts), self.charged(at.events));
        let now = Past {
            before,
            charged,
            lossy,
            ..Self::of(&life, left, held, self.additive, now_ns)
        };
        let (acts, held) = (now.acts(now.acts.len()), now.held(now.acts.len()));
        judge(&acts, &held, &books, &now.charged, (self.additive, lossy)).map_err(told)?;
        if let Some(read) = read {
            if expected.as_ref() != Some(&read) {
                return Err(told(
                    "what was there before the commit is not there after it".to_owned(),
                ));
            }
            // What nobody pins may go at any time.
            let mut held = held;
            held.collect();
            let named = published(&held, now_ns)
                .await
                .map_err(|why| told(format!("another machine: {why}")))?;
            if named != read {
                return Err(told("the name points at other files".to_owned()));
            }
        }
        Ok(now)
    }
}

/// The node loses a block, most often one of what is on its way; whether it had any.
async fn lose(held: &mut Held, life: &Life, dice: &mut Dice) -> bool {
    let pending: Option<Pending> = life
        .machine
        .volume
        .meta(PENDING)
        .expect("a journal that can be read");
    let sample = pending.map_or_else(Vec::new, |pending| pending.sample);
    let sample: Vec<Cid> = sample
        .iter()
        .map(|cid| cid.0)
        .filter(|cid| held.blocks.contains_key(cid))
        .collect();
    let all: Vec<Cid> = held.blocks.keys().copied().collect();
    let lost = match dice.below(4) {
        0 => dice.pick(&all),
        _ => dice.pick(&sample),
    };
    let Some(lost) = lost else { return false };
    held.lose(lost);
    life.shared.blocks.lose(&lost)
}

/// How often the power was cut, and what came of it.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    cuts: usize,
    /// Of these so many amid what the next life did.
    again: usize,
    /// So many after which the node had lost something.
    lossy: usize,
    /// Names that the histories were published under.
    named: usize,
}

impl Tally {
    fn and(self, more: Self) -> Self {
        Self {
            cuts: self.cuts + more.cuts,
            again: self.again + more.again,
            lossy: self.lossy + more.lossy,
            named: self.named + more.named,
        }
    }
}

/// Plays a history, and cuts the power in each moment of it.
async fn survive(seed: u64) -> Result<Tally, String> {
    let mut dice = Dice(seed);
    let additive = seed % 4 != 3;
    let empty = State {
        begun: 0,
        synced: 0,
        files: Files::new(),
    };
    let (left, held) = (Left::default(), Held::default());
    let mut life = Life::open(left, &held, BEGIN_NS, additive, vec![empty]).await;
    life.run(&mut dice).await;
    let now_ns = life.clock.wall_ns();
    let past = Past::of(&life, Left::default(), held, additive, now_ns);
    let mut tally = Tally {
        named: named_states(&past).await?,
        ..Tally::default()
    };
    let mut image = Image::of(&past.left);
    for events in 0..=past.events.len() {
        if let Some(last) = events.checked_sub(1) {
            image.play(&past.events[last]);
        }
        for at in past.moments(events) {
            let told = |why: String| {
                format!(
                    "seed {seed}, {at:?} of {} and {}: {why}",
                    past.events.len(),
                    past.acts.len()
                )
            };
            let next = past.cut(at, &image, &mut dice).await.map_err(told)?;
            tally.cuts += 1;
            tally.lossy += usize::from(next.lossy);
            // Once more amid what the next life did.
            if dice.below(3) == 0 {
                let events = dice.below(next.events.len() as u64 + 1) as usize;
                let moments: Vec<Moment> = next.moments(events).collect();
                let later = dice.pick(&moments).expect("a moment");
                let mut again = Image::of(&next.left);
                next.events[..events]
                    .iter()
                    .for_each(|event| again.play(event));
                let cut = next.cut(later, &again, &mut dice).await;
                cut.map_err(|why| told(format!("and again at {later:?}: {why}")))?;
                tally.cuts += 1;
                tally.again += 1;
            }
        }
    }
    Ok(tally)
}

/// Whether each root that was named holds just what the tree held in one moment, not before the last one; how
/// many there were.
async fn named_states(past: &Past) -> Result<usize, String> {
    let mut least = 0;
    let mut count = 0;
    for (number, (when, act)) in past.acts.iter().enumerate() {
        if !matches!(act, Act::Name(_)) {
            continue;
        }
        let files = published(&past.held(number + 1), past.now_ns).await?;
        let until = past.states.partition_point(|state| state.begun < *when);
        let is = |state: &State| state.files == files;
        let found = past.states[..until].iter().rposition(is);
        match found {
            Some(found) if found >= least => least = found,
            _ => {
                return Err(format!(
                    "name {count} points at files that were never there so, or are older"
                ));
            }
        }
        count += 1;
    }
    Ok(count)
}

/// A number of the environment.
fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}: {value}")))
}

/// Plays histories of these seeds, on all cores, until one fails.
fn play(seeds: Range<u64>) -> Result<Tally, String> {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().expect("a runtime");
        let mut sum = Tally::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return Ok(sum);
            }
            let played = runtime.block_on(survive(seed));
            let tally = played.inspect_err(|_| next.store(seeds.end, Ordering::Relaxed))?;
            sum = sum.and(tally);
        }
    };
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let working: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let worked = working.into_iter().map(|one| one.join().expect("no panic"));
        let tallies: Result<Vec<Tally>, String> = worked.collect();
        Ok(tallies?.into_iter().fold(Tally::default(), Tally::and))
    })
}

/// `PXFS_COMMIT_SEEDS`, which `tests/run nightly` sets, says how many histories there are. What the writer, the
/// header and the samples are is drawn anew each time.
#[test]
fn a_power_cut_amid_a_commit_loses_nothing_names_nothing_twice_and_charges_all_once() {
    let first = number("PXFS_MODEL_SEED").unwrap_or(0) * 10_000;
    let seeds = number("PXFS_COMMIT_SEEDS").unwrap_or(4);
    let tally = play(first..first + seeds).unwrap_or_else(|why| panic!("{why}"));
    println!("{tally:?}");
    let least = usize::try_from(seeds).expect("a small number");
    assert!(
        tally.cuts >= 100 * least && tally.again >= 30 * least,
        "{tally:?}"
    );
    // What each is for has happened.
    assert!(tally.named >= 2 * least && tally.lossy > 0, "{tally:?}");
}
