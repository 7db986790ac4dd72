//! A large file is settled in steps: the power is cut between them, and others are at work there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cid::Cid;

use super::dice::Dice;
use super::text::pattern;
use super::world::World;
use super::{BEGIN_NS, NEXT_NS};
use crate::cache::Cache;
use crate::clock::ManualClock;
use crate::fs::tests::rig::{CALLER, QUOTA, READ_WRITE, build};
use crate::fs::{FsError, Limits, SetAttr};
use crate::journal::Without;
use crate::journal::simulated::{Image, Kept, Left};
use crate::pack::chunk::CHUNK_SIZE;
use crate::types::{Fh, Ino};

/// Five chunks, in steps of two.
const LEN: usize = 4 * CHUNK_SIZE as usize + 300_000;
const LIMITS: Limits = Limits {
    chunks: 2,
    ranges: 256,
};

type Published = HashMap<Cid, Vec<u8>>;

fn open(left: Left, begin_ns: i64) -> World {
    let clock = Arc::new(ManualClock::at(begin_ns));
    let cache = Arc::new(Cache::in_memory());
    let how = (Without::default(), LIMITS);
    World::open(left, cache, &clock, how, QUOTA).expect("it opens")
}

fn create(world: &World, name: &str) -> (Ino, Fh) {
    let name = name.as_bytes();
    let made = world
        .drive
        .create(CALLER, world.root, name, 0o644, READ_WRITE);
    let (attr, opened) = made.unwrap();
    (attr.ino, opened.fh)
}

fn write(world: &World, (ino, fh): (Ino, Fh), offset: u64, bytes: &[u8]) {
    let written = world.drive.write(ino, fh, offset, bytes, false);
    assert_eq!(written, Ok(bytes.len() as u32));
}

fn resize(world: &World, ino: Ino, size: u64) {
    let size = Some(size);
    let set = SetAttr {
        size,
        ..SetAttr::default()
    };
    world.drive.setattr(ino, None, &set).unwrap();
}

/// All of the file, of which the node has what is `published`.
fn read(world: &World, published: &Published) -> Vec<u8> {
    let attr = world.drive.lookup(world.root, b"image").unwrap();
    let has = |cid: &Cid| published.get(cid).cloned();
    world.read(attr.ino, attr.size, &has).unwrap()
}

/// Publishes all; `act` is done between two steps, with what the node has by then.
fn publish(
    world: &World,
    published: &mut Published,
    act: impl Fn(u64, &Published) + Send + Sync + 'static,
) {
    let mut cut = world.volume.cut().unwrap();
    let changes = cut.changes().unwrap();
    let built = build(published, &cut, &changes).0;
    let (step, known) = (AtomicU64::new(0), published.clone());
    cut.tell_steps(move || act(step.fetch_add(1, Ordering::Relaxed), &known));
    cut.settle(&changes, &built).unwrap();
}

/// What is done between the steps of the settling of a file.
type Act = fn(&World, (Ino, Fh), u64);

/// Nothing; writes; truncations and writes; emptying, and writing anew. The file's own steps are from the first on.
const ACTS: [Act; 4] = [
    |_, _, _| {},
    |world, file, step| {
        if step > 0 {
            write(world, file, step * 700_000, &pattern(10 + step, 0, 50_000));
        }
    },
    |world, file, step| {
        if step > 0 {
            resize(world, file.0, LEN as u64 - step * 600_000);
            write(world, file, 10, &pattern(10 + step, 0, 100));
        }
    },
    |world, file, step| {
        if step == 2 {
            resize(world, file.0, 0);
            write(world, file, 0, &pattern(10, 0, 200_000));
        }
    },
];

/// A content, and the moment at which it was synced.
type Synced = (usize, Vec<u8>);

/// Whether `found` is what was synced last at `moment`, or that on its way to what was synced next.
fn is_kept(found: &[u8], states: &[Synced], moment: usize) -> bool {
    let is_over = states.partition_point(|(when, _)| *when <= moment);
    let before = &states[is_over - 1].1;
    let after = states.get(is_over).map_or(before, |(_, bytes)| bytes);
    let was = |(at, byte): (usize, &u8)| [before, after].map(|then| then.get(at) == Some(byte));
    let is_one = |found: (usize, &u8)| was(found).contains(&true);
    [before.len(), after.len()].contains(&found.len()) && found.iter().enumerate().all(is_one)
}

/// Settles a file over what was published of it before, syncing between the steps, and cuts the power at each
/// moment of that. Gives how many of them had it settled in part.
fn survive(act: Act, dice: &mut Dice) -> usize {
    let world = Arc::new(open(Left::default(), BEGIN_NS));
    let file = create(&world, "image");
    let mut published = Published::new();
    write(&world, file, 0, &pattern(1, 0, LEN));
    publish(&world, &mut published, |_, _| {});
    let first: Vec<Cid> = published.keys().copied().collect();
    write(&world, file, 0, &pattern(2, 0, LEN));
    world.drive.sync().unwrap();
    let begun = world.power.now();
    let states = Arc::new(Mutex::new(vec![(begun, pattern(2, 0, LEN))]));
    let (at_work, seen) = (Arc::clone(&world), Arc::clone(&states));
    publish(&world, &mut published, move |step, known| {
        act(&at_work, file, step);
        at_work.drive.fsync(file.0, false).unwrap();
        let synced = (at_work.power.now(), read(&at_work, known));
        seen.lock().unwrap().push(synced);
    });
    world.drive.sync().unwrap();
    let events = world.power.events();
    let mut states = std::mem::take(&mut *states.lock().unwrap());
    states.push((events.len(), read(&world, &published)));
    let mut image = Image::of(&Left::default());
    events[..begun].iter().for_each(|event| image.play(event));
    let mut in_part = 0;
    for moment in begun..=events.len() {
        if moment > begun {
            image.play(&events[moment - 1]);
        }
        let told = || format!("moment {moment} of {begun}..{}", events.len());
        let kept = [Kept::None, Kept::Some][dice.below(2) as usize];
        let left = image.cut(kept, 4096, &mut |bound| dice.below(bound));
        let world = open(left.clone(), NEXT_NS);
        world.audit().unwrap();
        let found = read(&world, &published);
        assert!(is_kept(&found, &states, moment), "{}", told());
        // The next commit has just that, and when it is settled nothing is needed here.
        let mut published = published.clone();
        let cut = world.volume.cut().unwrap();
        let changes = cut.changes().unwrap();
        let (built, contents) = build(&mut published, &cut, &changes);
        let ino = Ino(file.0.0 & Ino::MAX.0);
        let base = cut.file(ino).unwrap().base.map(|(base, _)| base.cid);
        let is_second = base.is_some_and(|cid| !first.contains(&cid));
        in_part += usize::from(is_second && contents.contains_key(&ino));
        assert!(
            contents.values().all(|content| *content == found),
            "{}",
            told()
        );
        cut.settle(&changes, &built).unwrap();
        drop(cut);
        world.drive.sync().unwrap();
        assert_eq!(world.power.disk(1).list().unwrap(), [""; 0], "{}", told());
        let mut image = Image::of(&left);
        world
            .power
            .events()
            .iter()
            .for_each(|event| image.play(event));
        let world = open(image.cut(Kept::None, 512, &mut |_| 0), NEXT_NS);
        assert!(read(&world, &published) == found, "{}", told());
        world.audit().unwrap();
    }
    in_part
}

#[test]
fn power_loss_while_a_large_file_settles_loses_none_of_it() {
    let mut dice = Dice(7);
    for (act, nth) in ACTS.into_iter().zip(0..) {
        let in_part = survive(act, &mut dice);
        assert!(in_part > 0, "act {nth}: no cut came between two steps");
    }
}

#[test]
fn unlinking_a_file_while_it_settles_keeps_it_readable_if_open() {
    let world = Arc::new(open(Left::default(), BEGIN_NS));
    let file = create(&world, "image");
    let whole = pattern(2, 0, LEN);
    write(&world, file, 0, &whole);
    let at_work = Arc::clone(&world);
    publish(&world, &mut Published::new(), move |step, _| {
        if step == 0 {
            at_work.drive.unlink(at_work.root, b"image").unwrap();
            write(&at_work, file, 0, &whole[..1]);
        }
    });
    // No commit that comes has it, so no node does.
    let read = world.drive.read(file.0, file.1, 0, LEN as u32);
    assert!(read == Ok(pattern(2, 0, LEN)));
}

#[test]
fn a_large_file_stays_readable_while_it_settles_despite_new_writes() {
    for writes in [false, true] {
        let world = Arc::new(open(Left::default(), BEGIN_NS));
        let (file, copy) = (create(&world, "image"), create(&world, "copy"));
        let whole = pattern(2, 0, LEN);
        write(&world, file, 0, &whole);
        let mut published = Published::new();
        let (at_work, steps) = (Arc::clone(&world), Arc::new(AtomicU64::new(0)));
        let (known, own) = (whole.clone(), Arc::clone(&steps));
        publish(&world, &mut published, move |step, _| {
            own.fetch_add(1, Ordering::Relaxed);
            let drive = &at_work.drive;
            if !writes {
                let read = drive.read(file.0, file.1, 0, LEN as u32);
                assert!(read.as_ref() == Ok(&known), "step {step}: {:?}", read.err());
            } else if step == 2 {
                // The copy takes over what is published by now; then the file is written to where that lies.
                let copied = drive.copy_file_range((file.1, 0), (copy.1, 0), CHUNK_SIZE, false);
                assert_eq!(copied, Ok(CHUNK_SIZE as u32));
                write(&at_work, file, 5, &[0xee; 100]);
                match drive.read(copy.0, copy.1, 0, CHUNK_SIZE as u32) {
                    Err(FsError::NotLocal(_)) => {}
                    read => assert!(read.unwrap() == known[..CHUNK_SIZE as usize]),
                }
            }
        });
        let steps = steps.load(Ordering::Relaxed);
        assert!(steps > 3, "{steps} steps");
    }
}
