//! Power cuts: at every write and every sync of long random histories, what is found afterwards keeps
//! the promises, whatever the disk made of what was not synced.

mod barriers;
mod beside;
mod commits;
mod content;
mod faults;
mod history;
mod large;
mod log;
mod model;
mod shelf;
mod violation;
mod world;

use super::{dice, text};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use cid::Cid;

use beside::Beside;
use dice::Dice;
use history::History;
use log::{Log, Replay};
use model::{Act, Found, Model, Node, Step, Tree};
use shelf::Shelf;
use violation::{Lost, Violation};
use world::World;

use super::rig::{CALLER, QUOTA};
use crate::cache::Cache;
use crate::clock::{Clock, ManualClock};
use crate::fs::{FsError, Kind, Limits};
use crate::journal::simulated::{Call, Event, Fault, Image, Kept, Left, Power};
use crate::journal::{JournalError, Without};

/// When all histories begin, unix nanoseconds.
const BEGIN_NS: i64 = 1_700_000_000_000_000_000;

/// When the next lives do: later than all that was done before.
const NEXT_NS: i64 = BEGIN_NS + 86_400_000_000_000;

/// A quota that histories meet.
const SMALL_QUOTA: u64 = 1_500_000;

/// So much room is left at most where a volume is to be opened on a disk that others fill, bytes.
const LITTLE: u64 = 8 << 20;

/// Chunks and ranges of so few that files of histories have more.
const SMALL: Limits = Limits {
    chunks: 1,
    ranges: 2,
};

/// The directory of the second user.
const HOME: &str = "home";

/// Who is at work in a history, and on what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// One user.
    Alone,
    /// One user; threads make things durable and commit beside.
    Attended,
    /// Two users, one of whom works while the other one's calls wait for the disk.
    Two,
    /// One user, whose quota is small.
    Tight,
    /// One user, on a disk that others fill now and then.
    Shared,
    /// One user, on a disk that fails once: the history ends there.
    Failing(std::io::ErrorKind),
}

impl Scene {
    /// Each of `seed`s has its own.
    fn of(seed: u64) -> Self {
        match seed % 8 {
            1 | 5 => Self::Attended,
            2 | 6 => Self::Two,
            3 => Self::Tight,
            4 => Self::Failing(std::io::ErrorKind::Other),
            7 if seed % 16 == 7 => Self::Failing(std::io::ErrorKind::StorageFull),
            _ if seed % 16 >= 8 => Self::Shared,
            _ => Self::Alone,
        }
    }

    fn quota(self) -> u64 {
        match self {
            Self::Tight => SMALL_QUOTA,
            _ => QUOTA,
        }
    }
}

/// Half of the histories meet with small files what large ones otherwise do.
fn limits(seed: u64) -> Limits {
    match seed / 16 % 2 {
        0 => Limits::default(),
        _ => SMALL,
    }
}

/// A history: what was on the disk before, and all that happened.
struct Past {
    left: Left,
    /// So much had happened when the volume was open: nothing is promised until then.
    opened: usize,
    before: Model,
    log: Log,
    events: Vec<Event>,
    shelf: Shelf,
    how: (Without, Limits),
    quota: u64,
    /// Others fill the disk, also when it is opened again.
    is_shared: bool,
    /// How often that had to wait for room.
    waited: AtomicUsize,
    tally: Tally,
}

/// How a history is played.
#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    steps: usize,
    /// Cuts at most; `None`: at every moment.
    cuts: Option<usize>,
    scene: Scene,
    how: (Without, Limits),
}

/// How often what was to happen has.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Cuts of the power.
    cuts: usize,
    /// Stage files that the cache took over.
    adopted: usize,
    /// Calls that were refused for want of quota.
    refused: usize,
    /// Calls that were refused for want of room on the disk.
    full: usize,
    /// Lives that could not begin until there was room on the disk.
    waited: usize,
    /// Histories that ended with a disk's error.
    failed: usize,
    /// Steps of a second user while the first one waited for the disk.
    beside: usize,
    /// Commits that were looked at, and files that were built for these.
    commits: usize,
    built: usize,
}

impl Tally {
    fn and(self, more: Self) -> Self {
        Self {
            cuts: self.cuts + more.cuts,
            adopted: self.adopted + more.adopted,
            refused: self.refused + more.refused,
            full: self.full + more.full,
            waited: self.waited + more.waited,
            failed: self.failed + more.failed,
            beside: self.beside + more.beside,
            commits: self.commits + more.commits,
            built: self.built + more.built,
        }
    }
}

/// Plays a history and cuts the power at its moments; gives how often.
///
/// # Errors
/// Which promise was broken.
fn survive(plan: Plan) -> Result<Tally, Violation> {
    let scene = || {
        let past = live(plan)?;
        let cuts = judge(&past, plan)?;
        let waited = past.waited.into_inner();
        Ok(Tally {
            cuts,
            waited,
            ..past.tally
        })
    };
    let result = catch_unwind(AssertUnwindSafe(scene)).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().cloned();
        let what = what.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        let told = format!("panicked: {what:?}");
        Err(Violation::new(Lost::Sense, told))
    });
    result.map_err(|why| why.within(&format!("seed {} ({:?})", plan.seed, plan.scene)))
}

/// Plays a history from an empty disk on.
fn live(plan: Plan) -> Result<Past, Violation> {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Arc::new(Cache::open(&folder.path().join("cache"), 64 << 20).expect("a cache"));
    let clock = Arc::new(ManualClock::at(BEGIN_NS));
    let quota = plan.scene.quota();
    let world = World::open(Left::default(), cache, &clock, plan.how, quota);
    let mut world = world.expect("a volume");
    let opened = world.power.now();
    world.is_shared = plan.scene == Scene::Shared;
    // What is whole and published goes from the stage into the cache.
    world.power.show_in(folder.path().join("shown"));
    let before = Model::of(&world.found(&|_| None).expect("an empty volume"));
    let (shelf, log) = (Mutex::default(), Mutex::default());
    let mut dice = Dice(plan.seed);
    if let Scene::Failing(kind) = plan.scene {
        world
            .power
            .set_fault(Some(fault(kind, 20 + dice.below(250))));
    }
    let mut history = History::new(&world, dice, before.clone(), &log, &shelf, Some(&folder));
    let mut tally = Tally::default();
    let done = match plan.scene {
        Scene::Attended => history.run_attended(plan.steps),
        Scene::Two => run_two(&mut history, plan, &mut tally),
        _ => history.run(plan.steps),
    };
    tally.refused = history.refused;
    tally.full = history.full;
    tally.adopted = world.power.shown();
    tally.failed = usize::from(done.is_err());
    drop(history);
    world.power.set_fault(None);
    match (done, plan.scene) {
        (Ok(()), _) => {}
        (Err(FsError::Disk(_) | FsError::NoRoom | FsError::ReadOnly(_)), Scene::Failing(_)) => {
            // The disk works again, but nobody knows what of it is there: that is told for ever.
            let synced = world.drive.fsync(world.root, false);
            assert_eq!(world.volume.poisoned().is_some(), synced.is_err());
        }
        (Err(error), _) => return Err(Violation::new(Lost::Sense, error.to_string())),
    }
    let shelf = shelf.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.commits = shelf.commits.len();
    tally.built = (shelf.commits.iter())
        .map(|commit| commit.found.bytes.len())
        .sum();
    let past = Past {
        left: Left::default(),
        opened,
        before,
        log: log.into_inner().unwrap_or_else(PoisonError::into_inner),
        events: world.power.events(),
        shelf,
        how: plan.how,
        quota,
        is_shared: plan.scene == Scene::Shared,
        waited: AtomicUsize::default(),
        tally,
    };
    past.judge_commits()?;
    Ok(past)
}

/// Fails once, at the `strike`th call that puts something on the disk.
fn fault(kind: std::io::ErrorKind, strike: u64) -> Fault {
    let mut met = 0;
    Box::new(move |_, _, call| {
        let counts = matches!(
            call,
            Call::Write | Call::SyncData | Call::SyncFolder | Call::Create
        );
        met += u64::from(counts);
        (counts && met == strike).then_some(kind)
    })
}

/// Plays a history of two users, the second of whom works in a directory of its own.
fn run_two(first: &mut History<'_>, plan: Plan, tally: &mut Tally) -> Result<(), FsError> {
    let (world, log, shelf) = (first.world, first.log, first.shelf);
    let attr = world
        .drive
        .mkdir(CALLER, world.root, HOME.as_bytes(), 0o755)?;
    let home = Node {
        kind: Kind::Directory,
        mode: attr.mode,
        owner: (attr.uid, attr.gid),
        rdev: attr.rdev,
        target: Vec::new(),
        xattrs: Default::default(),
        mtime_ns: attr.mtime_ns,
        ctime_ns: attr.ctime_ns,
    };
    let place = (world.root.0, HOME.to_owned());
    let step = Step::Make(place, attr.ino.0, Box::new(home.clone()));
    let made = Act::Names(step);
    log.lock().unwrap_or_else(PoisonError::into_inner).note(
        made,
        world.clock.wall_ns(),
        &world.power,
    );
    let known = Found {
        tree: Tree {
            nodes: [(attr.ino.0, home)].into(),
            ..Tree::default()
        },
        ..Found::default()
    };
    let dice = Dice(plan.seed.wrapping_mul(31));
    let second = History::new(world, dice, Model::of(&known), log, shelf, None);
    let mut second = second.in_home(attr.ino.0);
    let (go, asked) = sync_channel(1);
    let (tell, went) = channel();
    std::thread::scope(|scope| {
        let working = scope.spawn(move || -> Result<usize, FsError> {
            let mut steps = 0;
            while asked.recv().is_ok() {
                second.one()?;
                steps += 1;
                // The first one may have gone.
                let _ = tell.send(());
            }
            Ok(steps)
        });
        let beside = Arc::new(Beside::new(go, went));
        let pausing = Arc::clone(&beside);
        world
            .power
            .set_pause(Some(Arc::new(move || pausing.pause())));
        first.beside = Some(beside);
        let done = catch_unwind(AssertUnwindSafe(|| first.run(plan.steps)));
        world.power.set_pause(None);
        first.beside = None;
        let second = working.join().expect("the second user does not panic");
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        tally.beside = second?;
        Ok(())
    })
}

/// Cuts the power in moments of a history; all of them, or as many as are planned.
fn judge(past: &Past, plan: Plan) -> Result<usize, Violation> {
    let mut dice = Dice(!plan.seed);
    let moments = past.events.len() as u64 + 1;
    let mut image = Image::of(&past.left);
    let mut replay = Replay::of(&past.log, &past.before);
    let mut cuts = 0;
    for moment in 0..=past.events.len() {
        if let Some(last) = moment.checked_sub(1) {
            image.play(&past.events[last]);
        }
        replay.until(moment);
        if plan
            .cuts
            .is_none_or(|cuts| dice.below(moments) < cuts as u64)
        {
            let now = Moment {
                past,
                model: &replay.model,
                moment,
            };
            let cut = now.cut(&image, &mut dice);
            cuts += cut.map_err(|why| why.within(&past.told(moment)))?;
        }
    }
    Ok(cuts)
}

impl Past {
    /// The last that happened before a moment, and the calls.
    fn told(&self, moment: usize) -> String {
        let mut told = format!("cut {moment} of {}", self.events.len());
        for event in &self.events[moment.saturating_sub(12)..moment] {
            told += &format!("\n  {}", short(event));
        }
        told + &self.log.told(moment) + "\n"
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
    fn cut(&self, image: &Image, dice: &mut Dice) -> Result<usize, Violation> {
        let (left, block) = any_left(image, dice);
        let free = (self.past.is_shared && dice.below(2) == 0).then(|| dice.below(LITTLE));
        let (world, found) = self.recover(left.clone(), block, free)?;
        let mut cuts = 1;
        if dice.below(4) == 0 {
            // Once more while it recovers.
            let events = world.power.events();
            let mut again = Image::of(&left);
            let moments = dice.below(events.len() as u64 + 1) as usize;
            events[..moments].iter().for_each(|event| again.play(event));
            let (left, other) = any_left(&again, dice);
            let again = self.recover(left, block.min(other), None);
            again.map_err(|why| why.within("after a cut while recovering"))?;
            cuts += 1;
        }
        if dice.below(4) == 0 {
            cuts += self
                .go_on(&world, &left, &found, dice)
                .map_err(|why| why.within("in its next life"))?;
        }
        Ok(cuts)
    }

    /// Opens what is left, and checks it. Where there is room for `free` bytes only, that may have to wait
    /// for more.
    fn recover(
        &self,
        left: Left,
        block: u64,
        free: Option<u64>,
    ) -> Result<(World, Found), Violation> {
        let clock = Arc::new(ManualClock::at(NEXT_NS));
        let power = Power::on(left);
        let open = || {
            let cache = Arc::new(Cache::in_memory());
            let power = Arc::clone(&power);
            World::on(power, cache, &clock, self.past.how, self.past.quota)
        };
        power.leave_room(free);
        let mut opened = open();
        power.leave_room(None);
        if let (Err(JournalError::NoRoom), true) = (&opened, free.is_some()) {
            self.past.waited.fetch_add(1, Ordering::Relaxed);
            opened = open();
        }
        let world = opened.map_err(|why| Violation::new(Lost::Opening, why.to_string()))?;
        let has = |cid: &Cid| self.past.shelf.get(cid, self.moment);
        let found = world.found(&has);
        let found = found.map_err(|why| Violation::new(Lost::Reading, why))?;
        if self.moment >= self.past.opened {
            self.model.check(&found, block)?;
        } else if !found.tree.entries.is_empty() {
            let told = format!("in a new volume: {:?}", found.tree);
            return Err(Violation::new(Lost::Names, told));
        }
        let books = world.audit();
        books.map_err(|why| Violation::new(Lost::Books, why))?;
        Ok((world, found))
    }

    /// Goes on working with what was found, until the next cut.
    fn go_on(
        &self,
        world: &World,
        left: &Left,
        found: &Found,
        dice: &mut Dice,
    ) -> Result<usize, Violation> {
        let before = self.model.known_again(found);
        let shelf = Mutex::new(self.past.shelf.as_of(self.moment));
        let log = Mutex::default();
        let seed = dice.below(u64::MAX);
        let mut history = History::new(world, Dice(seed), before.clone(), &log, &shelf, None);
        let done = history.run(4).and_then(|()| history.sync_one());
        done.map_err(|error| {
            let lost = match error {
                FsError::Damaged(_) => Lost::Reading,
                _ => Lost::Sense,
            };
            Violation::new(lost, error.to_string())
        })?;
        drop(history);
        let past = Past {
            left: left.clone(),
            opened: 0,
            before,
            log: log.into_inner().unwrap_or_else(PoisonError::into_inner),
            events: world.power.events(),
            shelf: shelf.into_inner().unwrap_or_else(PoisonError::into_inner),
            how: self.past.how,
            quota: self.past.quota,
            is_shared: false,
            waited: AtomicUsize::default(),
            tally: Tally::default(),
        };
        past.judge_commits()?;
        let mut replay = Replay::of(&past.log, &past.before);
        replay.until(past.events.len());
        let mut image = Image::of(&past.left);
        past.events.iter().for_each(|event| image.play(event));
        let (left, block) = any_left(&image, dice);
        let moment = Moment {
            past: &past,
            model: &replay.model,
            moment: past.events.len(),
        };
        moment.recover(left, block, None)?;
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

/// Plays `plans` on all cores until one fails.
fn all(plans: &[Plan]) -> Result<Tally, Box<(Plan, Violation)>> {
    let next = AtomicUsize::new(0);
    let sum = Mutex::new(Ok(Tally::default()));
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = survive(*plan);
                    if result.is_err() {
                        next.store(plans.len(), Ordering::Relaxed);
                    }
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    match (&mut *sum, result) {
                        (Ok(tally), Ok(more)) => *tally = tally.and(more),
                        (Ok(_), Err(why)) => *sum = Err(Box::new((*plan, why))),
                        (Err(_), _) => {}
                    }
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A number of the environment.
fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}: {value}")))
}

/// Plays histories of these seeds, and cuts the power at every moment of each; where threads work beside,
/// which write ten times as much, at `cuts` of them.
#[track_caller]
fn play(seeds: std::ops::Range<u64>, cuts: Option<usize>) -> Tally {
    let plan = |seed: u64| {
        let scene = Scene::of(seed);
        Plan {
            seed,
            steps: 120,
            cuts: cuts.filter(|_| scene == Scene::Attended),
            scene,
            how: (Without::default(), limits(seed)),
        }
    };
    let plans: Vec<Plan> = seeds.map(plan).collect();
    all(&plans).unwrap_or_else(|failure| panic!("{}", failure.1))
}

/// The power is cut after every write and every sync of each history; where threads work beside, after
/// 300 of some thousands. `PXFS_CRASH_SEEDS`, which `tests/run nightly` sets, says how many histories
/// there are, and then no moment of any is left out. `PXFS_CRASH_SEED` repeats one of these.
#[test]
fn ten_thousand_power_cuts_lose_nothing_that_was_promised() {
    if let Some(seed) = number("PXFS_CRASH_SEED") {
        play(seed..seed + 1, None);
        return;
    }
    let first = number("PXFS_MODEL_SEED").unwrap_or(0) * 10_000;
    if let Some(seeds) = number("PXFS_CRASH_SEEDS") {
        println!("{:?}", play(first..first + seeds, None));
        return;
    }
    let tally = play(0..32, Some(300));
    println!("{tally:?}");
    assert!(tally.cuts >= 10_000, "{tally:?}");
    // What some of the histories are for has happened.
    assert!(tally.adopted > 0 && tally.refused > 0, "{tally:?}");
    assert!(tally.failed > 0 && tally.beside > 0, "{tally:?}");
    assert!(tally.full > 0 && tally.waited > 0, "{tally:?}");
    assert!(tally.built > 100, "{tally:?}");
}
