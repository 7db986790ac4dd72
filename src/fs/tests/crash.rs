//! Power cuts: at every write and every sync of long random histories, what is found afterwards keeps
//! the promises, whatever the disk made of what was not synced.

mod content;
#[path = "../../../tests/shared/dice.rs"]
mod dice;
mod faults;
mod history;
mod model;
mod shelf;
#[path = "../../../tests/shared/pattern.rs"]
mod text;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cid::Cid;

use dice::Dice;
use history::History;
use model::{Found, Model, Op};
use shelf::Shelf;
use world::World;

use crate::cache::Cache;
use crate::clock::ManualClock;
use crate::journal::simulated::{Event, Image, Kept, Left};
use crate::journal::{Barrier, Without};

/// When all histories begin, and the next lives, unix nanoseconds.
const BEGIN_NS: i64 = 1_700_000_000_000_000_000;

/// A history: what was on the disk before, and all that happened.
struct Past {
    left: Left,
    before: Model,
    ops: Vec<Op>,
    events: Vec<Event>,
    shelf: Shelf,
    without: Without,
}

/// How a scene is played.
#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    steps: usize,
    /// At most so many cuts.
    cuts: usize,
    /// Whether threads make things durable and commit beside the user.
    attended: bool,
    without: Without,
}

/// Plays a history and cuts the power at its moments; gives how often.
///
/// # Errors
/// Which promise was broken.
fn survive(plan: Plan) -> Result<usize, String> {
    let seed = plan.seed;
    let told = |why: String| format!("seed {seed}: {why}");
    let scene = || {
        let past = live(plan);
        judge(&past, plan)
    };
    match catch_unwind(AssertUnwindSafe(scene)) {
        Ok(result) => result.map_err(told),
        Err(panic) => {
            let what = panic.downcast_ref::<String>().cloned();
            let what = what.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            Err(told(format!("panicked: {what:?}")))
        }
    }
}

/// Plays a history from an empty disk on.
fn live(plan: Plan) -> Past {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Arc::new(Cache::open(&folder.path().join("cache"), 64 << 20).expect("a cache"));
    let clock = Arc::new(ManualClock::at(BEGIN_NS));
    let world = World::open(Left::default(), cache, &clock, plan.without).expect("a volume");
    let before = Model::of(&world.found(&|_| None).expect("an empty volume"));
    let shelf = Mutex::default();
    let dice = Dice(plan.seed);
    let mut history = History::new(&world, dice, before.clone(), &shelf, Some(&folder));
    match plan.attended {
        true => history.run_attended(plan.steps),
        false => history.run(plan.steps),
    }
    let ops = std::mem::take(&mut history.ops);
    drop(history);
    Past {
        left: Left::default(),
        before,
        ops,
        events: world.power.events(),
        shelf: shelf.into_inner().unwrap_or_else(PoisonError::into_inner),
        without: plan.without,
    }
}

/// Cuts the power in moments of a history; all of them, or as many as are planned.
fn judge(past: &Past, plan: Plan) -> Result<usize, String> {
    let mut dice = Dice(!plan.seed);
    let moments = past.events.len() as u64 + 1;
    let (mut image, mut model) = (Image::of(&past.left), past.before.clone());
    let (mut next, mut begun, mut cuts) = (0, false, 0);
    for moment in 0..=past.events.len() {
        if let Some(last) = moment.checked_sub(1) {
            image.play(&past.events[last]);
        }
        while let Some(op) = past.ops.get(next) {
            if op.acked > moment && (begun || op.begun >= moment) {
                break;
            }
            if !begun {
                model.begin(op);
            }
            begun = op.acked > moment;
            if !begun {
                model.acknowledge(op);
                next += 1;
            }
        }
        if dice.below(moments) < plan.cuts as u64 {
            let now = Moment {
                past,
                model: &model,
                moment,
            };
            let cut = now.cut(&image, &mut dice);
            cuts += cut.map_err(|why| format!("{}: {why}", past.told(moment, next)))?;
        }
    }
    Ok(cuts)
}

impl Past {
    /// The last that happened before a moment, and the calls.
    fn told(&self, moment: usize, next: usize) -> String {
        let mut told = format!("cut {moment} of {}", self.events.len());
        for event in &self.events[moment.saturating_sub(12)..moment] {
            told += &format!("\n  {}", short(event));
        }
        for op in &self.ops[next.saturating_sub(40)..self.ops.len().min(next + 1)] {
            told += &format!("\n  {} to {}: {:?}", op.begun, op.acked, op.act);
        }
        told
    }
}

fn short(event: &Event) -> String {
    match event {
        Event::Write(file, offset, data) => format!("Write({file}, {offset}, {})", data.len()),
        other => format!("{other:?}"),
    }
}

/// A moment of a history.
struct Moment<'a> {
    past: &'a Past,
    model: &'a Model,
    moment: usize,
}

impl Moment<'_> {
    /// Cuts the power, and looks at what is found when there is power again.
    fn cut(&self, image: &Image, dice: &mut Dice) -> Result<usize, String> {
        let (left, block) = any_left(image, dice);
        let (world, found) = self.recover(left.clone(), block)?;
        let mut cuts = 1;
        if dice.below(4) == 0 {
            // Once more while it recovers.
            let events = world.power.events();
            let mut again = Image::of(&left);
            let moments = dice.below(events.len() as u64 + 1) as usize;
            events[..moments].iter().for_each(|event| again.play(event));
            let (left, other) = any_left(&again, dice);
            let again = self.recover(left, block.min(other));
            again.map_err(|why| format!("after a cut while recovering: {why}"))?;
            cuts += 1;
        }
        if dice.below(4) == 0 {
            cuts += self
                .go_on(&world, &left, &found, dice)
                .map_err(|why| format!("in its next life: {why}"))?;
        }
        Ok(cuts)
    }

    /// Opens what is left, and checks it.
    fn recover(&self, left: Left, block: u64) -> Result<(World, Found), String> {
        let cache = Arc::new(Cache::in_memory());
        let clock = Arc::new(ManualClock::at(BEGIN_NS));
        let world = World::open(left, cache, &clock, self.past.without)
            .map_err(|why| format!("it does not open: {why}"))?;
        world.audit()?;
        let has = |cid: &Cid| self.past.shelf.get(cid, self.moment);
        let found = world.found(&has)?;
        self.model.check(&found, block)?;
        Ok((world, found))
    }

    /// Goes on working with what was found, until the next cut.
    fn go_on(
        &self,
        world: &World,
        left: &Left,
        found: &Found,
        dice: &mut Dice,
    ) -> Result<usize, String> {
        let before = self.model.known_again(found);
        let shelf = Mutex::new(self.past.shelf.as_of(self.moment));
        let seed = dice.below(u64::MAX);
        let mut history = History::new(world, Dice(seed), before.clone(), &shelf, None);
        history.run(4);
        history.sync_one();
        let ops = std::mem::take(&mut history.ops);
        drop(history);
        let past = Past {
            left: left.clone(),
            before,
            ops,
            events: world.power.events(),
            shelf: shelf.into_inner().unwrap_or_else(PoisonError::into_inner),
            without: self.past.without,
        };
        let mut model = past.before.clone();
        for op in &past.ops {
            model.begin(op);
            model.acknowledge(op);
        }
        let mut image = Image::of(&past.left);
        past.events.iter().for_each(|event| image.play(event));
        let (left, block) = any_left(&image, dice);
        let moment = Moment {
            past: &past,
            model: &model,
            moment: past.events.len(),
        };
        moment.recover(left, block)?;
        Ok(1)
    }
}

/// What some cut leaves, and how many bytes the disk wrote whole.
fn any_left(image: &Image, dice: &mut Dice) -> (Left, u64) {
    let kept = match dice.below(8) {
        0 | 1 => Kept::None,
        2 => Kept::All,
        _ => Kept::Some,
    };
    let sector = if dice.below(2) == 0 { 512 } else { 4096 };
    let left = image.cut(kept, sector, &mut |bound| dice.below(bound));
    (left, sector as u64)
}

/// Plays `plans` on all cores until one fails; gives the number of cuts.
fn all(plans: Vec<Plan>) -> Result<usize, String> {
    let (next, cuts) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failure = Mutex::new(None);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match survive(*plan) {
                        Ok(more) => drop(cuts.fetch_add(more, Ordering::Relaxed)),
                        Err(why) => {
                            let mut failure =
                                failure.lock().unwrap_or_else(PoisonError::into_inner);
                            failure.get_or_insert(why);
                            next.store(plans.len(), Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(cuts.into_inner()), Err)
}

#[test]
fn ten_thousand_power_cuts_lose_nothing_that_was_promised() {
    let plan = |seed: u64| Plan {
        seed,
        steps: 120,
        cuts: 200,
        attended: seed % 4 == 3,
        without: Without::default(),
    };
    match all((0..40).map(plan).collect()) {
        Ok(cuts) => assert!(cuts >= 10_000, "only {cuts} cuts"),
        Err(why) => panic!("{why}"),
    }
}

#[test]
fn each_barrier_that_is_left_out_is_noticed() {
    for barrier in Barrier::ALL {
        let plan = |seed: u64| Plan {
            seed,
            steps: 150,
            cuts: 150,
            attended: false,
            without: Without::the(barrier),
        };
        // Ends with the first that notices.
        let noticed = all((1_000..1_200).map(plan).collect());
        assert!(noticed.is_err(), "without {barrier:?} nothing is noticed");
    }
}
