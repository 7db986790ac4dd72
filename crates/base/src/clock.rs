//! Time as an argument: wall clock, boot clock, and which boot this is.
//!
//! Invariant: nothing else in the crate asks the operating system for the time of a promise
//! (deadlines, times of inodes); sleeping and benchmarking are no promises.

mod until;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use rustix::time::{ClockId, clock_gettime};
use until::Moves;

/// Where time comes from.
pub trait Clock: Send + Sync {
    /// Wall time in nanoseconds since 1970-01-01 UTC; may jump.
    fn wall_ns(&self) -> i64;
    /// Wall time in whole seconds since 1970-01-01 UTC; 0 if the clock stands before that.
    fn wall_s(&self) -> u64 {
        u64::try_from(self.wall_ns() / 1_000_000_000).unwrap_or(0)
    }
    /// Time since boot including sleep (`CLOCK_BOOTTIME`); never goes back within a boot.
    fn boottime(&self) -> Duration;
    /// Identifies the boot that [`Clock::boottime`] counts from (`/proc/sys/kernel/random/boot_id`).
    fn boot_id(&self) -> String;
    /// Returns when [`Clock::boottime`] is at `at`, and wakes nobody before.
    fn until(&self, at: Duration) -> BoxFuture<'_, ()>;
}

/// The machine's clocks.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ns(&self) -> i64 {
        let now = clock_gettime(ClockId::Realtime);
        now.tv_sec
            .saturating_mul(1_000_000_000)
            .saturating_add(now.tv_nsec)
    }

    fn boottime(&self) -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        Duration::new(
            u64::try_from(now.tv_sec).unwrap_or(0),
            u32::try_from(now.tv_nsec).unwrap_or(0),
        )
    }

    fn boot_id(&self) -> String {
        // One process lives in one boot, and a write asks for this each time.
        static BOOT_ID: OnceLock<String> = OnceLock::new();
        BOOT_ID
            .get_or_init(|| {
                std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
                    .map(|id| id.trim().to_owned())
                    .unwrap_or_default()
            })
            .clone()
    }

    fn until(&self, at: Duration) -> BoxFuture<'_, ()> {
        Box::pin(until::boottime(at))
    }
}

/// A clock that stands still until it is moved: the twin of [`SystemClock`] for tests.
#[derive(Debug, Default)]
pub struct ManualClock {
    wall_ns: AtomicI64,
    boot_ns: AtomicU64,
    moves: Moves,
}

impl ManualClock {
    /// A clock at `wall_ns`, just booted.
    #[must_use]
    pub fn at(wall_ns: i64) -> Self {
        Self {
            wall_ns: AtomicI64::new(wall_ns),
            boot_ns: AtomicU64::new(0),
            moves: Moves::default(),
        }
    }

    /// Lets `step` pass on both clocks.
    pub fn advance(&self, step: Duration) {
        let ns = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX);
        self.boot_ns.fetch_add(ns, Ordering::SeqCst);
        self.wall_ns
            .fetch_add(i64::try_from(ns).unwrap_or(i64::MAX), Ordering::SeqCst);
        self.moves.note();
    }

    /// Sets the wall clock, as somebody who corrects it does.
    pub fn set_wall(&self, wall_ns: i64) {
        self.wall_ns.store(wall_ns, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall_ns(&self) -> i64 {
        self.wall_ns.load(Ordering::SeqCst)
    }

    fn boottime(&self) -> Duration {
        Duration::from_nanos(self.boot_ns.load(Ordering::SeqCst))
    }

    fn boot_id(&self) -> String {
        "manual".to_owned()
    }

    fn until(&self, at: Duration) -> BoxFuture<'_, ()> {
        Box::pin(self.moves.until(move || self.boottime() >= at))
    }
}
