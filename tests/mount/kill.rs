//! kill -9 of the daemon at any moment: what was synced is there, the rest is a prefix, in order, of
//! what was acknowledged, and no file has bytes that are not its own.

mod bytes;
mod content;
mod databases;
mod load;
mod mapping;
mod model;
#[cfg(test)]
mod model_tests;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use crate::harness::Machine;

use load::{Counters, Dice, Load, read_folder};
use model::{Worker, together};

/// Threads that work at once.
const THREADS: usize = 3;
/// Moments of death in each of two tests, unless `PXFS_KILLS` says otherwise: `tests/run nightly` does.
const KILLS: u32 = 50;

/// A machine under load, and what each thread knows of its folder.
struct Scene {
    machine: Machine,
    workers: Vec<Worker>,
    counters: Counters,
    dice: Dice,
    /// Length of the largest file that was found after a crash.
    largest: usize,
    /// Contents in the cache that were deleted while the daemon worked, before it was killed.
    forgotten: usize,
}

impl Scene {
    /// A fresh drive with a folder for each thread. Commits run all the time.
    fn new(seed: u64) -> Self {
        let machine = Machine::demo_with(&["--commit-idle", "50ms", "--commit-max", "200ms"]);
        for thread in 0..THREADS {
            fs::create_dir(machine.dir().join(thread.to_string())).expect("mkdir");
        }
        machine.flush();
        Self {
            machine,
            workers: vec![Worker::default(); THREADS],
            counters: Counters::default(),
            dice: Dice(seed),
            largest: 0,
            forgotten: 0,
        }
    }

    /// Works, dies at a random moment, comes back, and judges what is found.
    fn live_and_die(&mut self) -> Result<(), String> {
        let life = Duration::from_millis(50 + self.dice.below(500));
        // The cache may go at any moment, and nothing may depend on it: while the daemon works, too.
        let forgets = self.dice.below(4) == 0;
        let forgets_after = forgets.then(|| life.mul_f64(self.dice.below(100) as f64 / 100.0));
        self.work_for(life, forgets_after);
        if self.dice.below(4) == 0 {
            drop(fs::remove_dir_all(self.machine.cache()));
        }
        self.machine.start();
        self.judge()
    }

    /// Runs all threads for `life`, then kills the daemon under them. After `forgets_after` of it the cache goes.
    fn work_for(&mut self, life: Duration, forgets_after: Option<Duration>) {
        let dir = self.machine.dir();
        let counters = &self.counters;
        let mut loads: Vec<Load<'_>> = Vec::new();
        for (thread, worker) in self.workers.drain(..).enumerate() {
            loads.push(Load {
                folder: dir.join(thread.to_string()),
                entries: worker.entries(),
                worker,
                dice: Dice(self.dice.below(u64::MAX)),
                counters,
            });
        }
        let (ended, any_ended) = mpsc::channel();
        std::thread::scope(|scope| {
            for load in &mut loads {
                let ended = ended.clone();
                scope.spawn(move || {
                    drop(ended.send(load.run()));
                });
            }
            // A thread ends before the crash only when a call failed without one.
            let until = |time| any_ended.recv_timeout(time).ok();
            let early = match forgets_after {
                None => until(life),
                Some(after) => until(after).or_else(|| {
                    self.forgotten += delete_cache(&self.machine.cache());
                    until(life.saturating_sub(after))
                }),
            };
            let alive = self.machine.is_running();
            self.machine.kill();
            assert!(
                early.is_none() && alive,
                "failed before the kill (alive: {alive}): {early:?}"
            );
        });
        self.workers = loads.into_iter().map(|load| load.worker).collect();
    }

    /// Holds what is on the drive against what the threads know, and makes it their new beginning.
    fn judge(&mut self) -> Result<(), String> {
        let dir = self.machine.dir();
        let mut judged = Vec::new();
        for (thread, worker) in self.workers.iter().enumerate() {
            let found = read_folder(&dir.join(thread.to_string()))
                .map_err(|why| format!("reading: {why}"))?;
            let prefixes = worker
                .recover(&found)
                .map_err(|why| format!("thread {thread}: {why}"))?;
            judged.push((found, prefixes));
        }
        let both: Vec<_> = self
            .workers
            .iter()
            .zip(&judged)
            .map(|(worker, (_, prefixes))| (worker, prefixes.as_slice()))
            .collect();
        together(&both)?;
        for (worker, (found, prefixes)) in self.workers.iter_mut().zip(judged) {
            worker.adopt(prefixes.last().ok_or("no prefix")?, &found);
            let sizes = found.values().flatten().map(|seen| seen.bytes.len());
            self.largest = self.largest.max(sizes.max().unwrap_or(0));
        }
        Ok(())
    }
}

/// Deletes all that is below `folder`, in which somebody is at work; how many contents of files there were.
fn delete_cache(folder: &Path) -> usize {
    // What is not there any more somebody else has deleted.
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let delete = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => delete_cache(&entry.path()),
        _ => {
            let name = entry.file_name();
            let is_content = [&b"bafk"[..], b"Qm"]
                .iter()
                .any(|kind| name.as_bytes().starts_with(kind));
            usize::from(fs::remove_file(entry.path()).is_ok() && is_content)
        }
    };
    let contents = entries.map(delete).sum();
    // Where something was made meanwhile, the folder stays.
    let _ = fs::remove_dir(folder);
    contents
}

/// How often a daemon dies.
fn kills() -> u32 {
    let said = std::env::var("PXFS_KILLS").ok();
    said.map_or(KILLS, |kills| {
        kills.parse().expect("PXFS_KILLS is a number")
    })
}

/// Lives and dies; at the end everything is published and still right.
fn survive(seed: u64) {
    let kills = kills();
    let mut scene = Scene::new(seed);
    // Small files alone would leave out stage files, chunks and the spool, and a cache in which nothing is may well
    // go; where little is done in a life, more follow.
    let is_enough = |scene: &Scene| scene.largest > 1 << 20 && scene.forgotten > 0;
    for life in 0..10 * kills {
        if life >= kills && is_enough(&scene) {
            break;
        }
        if let Err(why) = scene.live_and_die() {
            panic!("seed {seed}, death {life}: {why}");
        }
        if life >= kills && scene.forgotten == 0 {
            // On a machine where no commit ends within a life nothing is in the cache.
            scene.machine.flush_at_last();
        }
    }
    assert!(
        is_enough(&scene),
        "{} bytes, {} contents forgotten",
        scene.largest,
        scene.forgotten
    );
    scene.machine.flush();
    scene.machine.restart();
    scene
        .judge()
        .unwrap_or_else(|why| panic!("seed {seed}, after the last flush: {why}"));
}

#[test]
fn crashes_lose_nothing_that_was_synced() {
    survive(1);
}

#[test]
fn other_crashes_lose_nothing_that_was_synced() {
    survive(2);
}

#[test]
fn the_checker_notices_a_journal_that_skips_a_write() {
    let mut scene = Scene::new(3);
    scene.machine.set_env("PXFS_TEST_WITHOUT", "JournalCommit");
    scene.machine.restart();
    let noticed = (0..40).find_map(|_| scene.live_and_die().err());
    assert!(
        noticed.is_some(),
        "40 crashes with a journal that forgets, and nothing was noticed"
    );
}
