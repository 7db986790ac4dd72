//! An open volume, and the threads that make it durable: a volume has some from its first change
//! until all is durable, none while idle.
//!
//! Invariant: a volume's folder is opened once at a time. A change is durable within the promised
//! time even if the system gives its volume no thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::Builder;
use std::time::{Duration, Instant};

use anyhow::Context;
use pxfs_base::lock;

use crate::fs::Volume;
use crate::types::TokenId;

/// Volumes with their own threads; one thread serves the others in turn.
const MOST: usize = 64;
/// The pause between its rounds, and before asking again for a refused thread.
const TURN: Duration = Duration::from_secs(1);

/// Gives threads to a mount's changed volumes.
pub(crate) struct Flushers {
    desk: Arc<Desk>,
}

#[derive(Default)]
struct Desk {
    calls: Mutex<Calls>,
    changed: Condvar,
}

#[derive(Default)]
struct Calls {
    waiting: VecDeque<Arc<Post>>,
    running: usize,
    ended: bool,
}

/// A volume's flushing state.
struct Post {
    token: TokenId,
    volume: Weak<Volume>,
    desk: Arc<Desk>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No thread works on it.
    Free,
    /// One does.
    Busy,
    /// No more will.
    Ended,
}

impl Flushers {
    /// # Errors
    /// The system has no more threads.
    pub(crate) fn begin() -> anyhow::Result<Self> {
        let desk = Arc::<Desk>::default();
        let served = Arc::clone(&desk);
        let thread = Builder::new().name("keepers".to_owned());
        thread.spawn(move || served.serve()).context("no threads")?;
        Ok(Self { desk })
    }
}

impl Drop for Flushers {
    fn drop(&mut self) {
        lock(&self.desk.calls).ended = true;
        self.desk.changed.notify_all();
    }
}

impl Desk {
    fn call(&self, post: Arc<Post>) {
        lock(&self.calls).waiting.push_back(post);
        self.changed.notify_all();
    }

    /// Gives a thread to each waiting volume, until the mount ends.
    fn serve(&self) {
        let mut refused = Instant::now().checked_sub(TURN);
        let mut calls = lock(&self.calls);
        loop {
            if calls.ended {
                return;
            }
            if calls.waiting.is_empty() {
                calls = self
                    .changed
                    .wait(calls)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let may_ask = refused.is_none_or(|at| at.elapsed() >= TURN);
            if calls.running < MOST && may_ask {
                let Some(post) = calls.waiting.pop_front() else {
                    continue;
                };
                calls.running += 1;
                drop(calls);
                let given = post.begin();
                calls = lock(&self.calls);
                if !given {
                    calls.running -= 1;
                    calls.waiting.push_front(post);
                    refused = Some(Instant::now());
                }
                continue;
            }
            // Nobody else serves these in time.
            let begun = Instant::now();
            let waiting = calls.waiting.clone();
            drop(calls);
            waiting.iter().for_each(|post| post.work(Volume::keep_once));
            calls = lock(&self.calls);
            calls
                .waiting
                .retain(|post| *lock(&post.state) != State::Ended);
            let left = |calls: &Calls| {
                let is_free = calls.running < MOST && refused.is_none_or(|at| at.elapsed() >= TURN);
                (!is_free && !calls.ended).then(|| TURN.saturating_sub(begun.elapsed()))
            };
            while let Some(left) = left(&calls).filter(|left| !left.is_zero()) {
                (calls, _) = self
                    .changed
                    .wait_timeout(calls, left)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn note_ended(&self) {
        lock(&self.calls).running -= 1;
        self.changed.notify_all();
    }
}

impl Post {
    /// Flushes the volume on its own thread; false if the system has none.
    fn begin(self: &Arc<Self>) -> bool {
        let post = Arc::clone(self);
        let thread = Builder::new().name(format!("durable-{}", self.token));
        let spawned = thread.spawn(move || {
            post.work(Volume::keep_durable);
            post.desk.note_ended();
        });
        if let Err(error) = &spawned {
            tracing::warn!(%error, "no thread can be made: local state is made durable in turn");
        }
        spawned.is_ok()
    }

    /// Does `work` after the present worker, which may have missed what it is for.
    fn work(&self, work: impl FnOnce(&Volume)) {
        let mut state = self.idle();
        if *state == State::Ended {
            return;
        }
        *state = State::Busy;
        drop(state);
        let _free = Free(self);
        // Not held beyond this, so that it may be opened again.
        if let Some(volume) = self.volume.upgrade() {
            work(&volume);
        }
    }

    fn idle(&self) -> MutexGuard<'_, State> {
        let state = lock(&self.state);
        let idle = self
            .changed
            .wait_while(state, |state| *state == State::Busy);
        idle.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when nobody works on it, and nobody will.
    fn end(&self) {
        *self.idle() = State::Ended;
    }
}

/// Frees the volume when dropped, also after a panic.
struct Free<'a>(&'a Post);

impl Drop for Free<'_> {
    fn drop(&mut self) {
        *lock(&self.0.state) = State::Free;
        self.0.changed.notify_all();
    }
}

pub(crate) struct Flusher {
    volume: Arc<Volume>,
    post: Arc<Post>,
    /// Serialises charging: reading, requesting, settling and forgetting, because what another has
    /// settled meanwhile would be requested again.
    pub(crate) charging: Arc<tokio::sync::Mutex<()>>,
}

impl Flusher {
    /// Flushes `volume` from now on.
    pub(crate) fn start(keepers: &Flushers, volume: &Arc<Volume>) -> Arc<Self> {
        let post = Arc::new(Post {
            token: volume.key().token.token,
            volume: Arc::downgrade(volume),
            desk: Arc::clone(&keepers.desk),
            state: Mutex::new(State::Free),
            changed: Condvar::new(),
        });
        let called = Arc::downgrade(&post);
        volume.on_change(move || {
            if let Some(post) = called.upgrade() {
                Arc::clone(&post.desk).call(post);
            }
        });
        Arc::new(Self {
            volume: Arc::clone(volume),
            post,
            charging: Arc::default(),
        })
    }

    /// Ends it; everything acknowledged is durable afterwards. Blocks on the disk.
    pub(crate) fn stop(&self) {
        if let Err(error) = self.volume.sync() {
            let token = self.post.token;
            tracing::error!(%error, %token, "local state is not durable");
        }
        self.abandon();
    }

    /// Ends it as it is.
    pub(crate) fn abandon(&self) {
        self.volume.stop();
        self.post.end();
        self.volume.end_keeping();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::clock::SystemClock;
    use crate::fs::{Allowance, Caller, ChainTime, Drive, Limits, VolumeOptions};
    use crate::journal::{MemoryDisk, Without};
    use crate::types::{Ino, TokenKey, VolumeKey};

    const CALLER: Caller = Caller {
        uid: 0,
        gid: 0,
        umask: 0,
    };

    /// A token's directory on its own drive, with its flusher.
    fn token(keepers: &Flushers, cache: &Arc<Cache>, id: u64) -> (Drive, Ino, Arc<Flusher>) {
        let options = VolumeOptions {
            key: VolumeKey {
                token: TokenKey {
                    chain_id: 31337,
                    contract: alloy::primitives::Address::default(),
                    token: TokenId::from(id),
                },
                epoch: 1,
            },
            journal_cache_bytes: 1 << 20,
            owner: (0, 0),
            without: Without::default(),
            limits: Limits::default(),
        };
        let disk = || Arc::new(MemoryDisk::default());
        let clock = Arc::new(SystemClock);
        let volume = Volume::open(disk(), disk(), Arc::clone(cache), clock, &options).unwrap();
        let allowance = Allowance {
            size_bytes: 1 << 30,
            usage_on_chain_bytes: 0,
            additive: false,
            uploads_left: None,
            last_sync_s: 1_000,
            sync_window_s: 1 << 40,
            seen: ChainTime {
                block: 1,
                timestamp_s: 1_000,
                boottime_ns: 0,
                boot_id: String::new(),
                wall_ns: 0,
            },
            others_bytes: 0,
        };
        volume.set_allowance(&allowance).unwrap();
        let keeper = Flusher::start(keepers, &volume);
        let drive = Drive::new((0, 0), 0);
        drive.attach("1", 1, volume).unwrap();
        let root = drive.lookup(Ino::ROOT, b"1").unwrap().ino;
        (drive, root, keeper)
    }

    fn threads() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let comm = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default()
        };
        tasks
            .map(comm)
            .filter(|name| name.starts_with("durable-77"))
            .count()
    }

    fn comes(is_so: impl Fn() -> bool) -> bool {
        let begun = Instant::now();
        while !is_so() && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(5));
        }
        is_so()
    }

    #[test]
    fn an_idle_token_uses_no_threads() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Arc::new(Cache::open(folder.path(), 1 << 20).unwrap());
        let keepers = Flushers::begin().unwrap();
        let tokens: Vec<_> = (77_000..77_000 + MOST as u64 + 8)
            .map(|id| token(&keepers, &cache, id))
            .collect();
        // More than have their own threads at a time.
        assert!(comes(|| tokens
            .iter()
            .all(|(.., keeper)| keeper.volume.is_kept())));
        assert!(comes(|| threads() == 0), "idle tokens keep threads");
        for (drive, root, _) in &tokens {
            drive.mkdir(CALLER, *root, b"folder", 0o755).unwrap();
        }
        assert!(tokens.iter().any(|(.., keeper)| !keeper.volume.is_kept()));
        // Nobody asks for it.
        assert!(comes(|| tokens
            .iter()
            .all(|(.., keeper)| keeper.volume.is_durable())));
        for (.., keeper) in &tokens {
            keeper.stop();
            assert!(keeper.volume.is_kept());
        }
        assert!(comes(|| threads() == 0));
    }
}
