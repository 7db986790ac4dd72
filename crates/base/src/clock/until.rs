//! Waiting for a moment of a clock.
//!
//! Invariant: nothing wakes up before the moment but a clock that was moved by hand; a machine that slept past the moment
//! goes on at once. Called by `clock`.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::{Clock, SystemClock};

/// The runtime's own timers stand still while the machine sleeps: they are good for so long.
const SHORT: Duration = Duration::from_secs(60);

/// Returns when the time since boot, sleep included, is `at`.
pub(super) async fn boottime(at: Duration) {
    loop {
        let left = at.saturating_sub(SystemClock.boottime());
        if left.is_zero() {
            return;
        }
        let alarm = match left > SHORT {
            true => alarm(at).ok(),
            false => None,
        };
        match alarm {
            Some(alarm) => drop(alarm.readable().await),
            // Also where the process has no descriptors left.
            None => sleep(left.min(SHORT)).await,
        }
    }
}

/// A descriptor that can be read from when the time since boot is `at`.
#[allow(
    deprecated,
    reason = "sound here: the descriptor is owned, and closed with what watches it"
)]
fn alarm(at: Duration) -> std::io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let alarm = timerfd_create(TimerfdClockId::Boottime, flags)?;
    let once = Itimerspec {
        it_interval: Timespec::default(),
        it_value: Timespec {
            tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: at.subsec_nanos().into(),
        },
    };
    timerfd_settime(&alarm, TimerfdTimerFlags::ABSTIME, &once)?;
    AsyncFd::new(alarm)
}

/// Tells that a clock was moved by hand.
#[derive(Debug, Default)]
pub(super) struct Moves(Notify);

impl Moves {
    pub(super) fn note(&self) {
        self.0.notify_waiters();
    }

    /// Returns when `is_there` after a move, or is so already.
    pub(super) async fn until(&self, is_there: impl Fn() -> bool) {
        loop {
            let moved = self.0.notified();
            tokio::pin!(moved);
            // From here on a move is noticed.
            moved.as_mut().enable();
            if is_there() {
                return;
            }
            moved.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn waiting_for_a_deadline_works_whether_near_past_or_far() {
        let now = SystemClock.boottime();
        boottime(now).await;
        let soon = now + Duration::from_millis(30);
        boottime(soon).await;
        assert!(SystemClock.boottime() >= soon);
        let far = boottime(now + 1000 * SHORT);
        let waited = timeout(Duration::from_millis(20), far).await;
        assert!(waited.is_err());
        // What is used for that goes off at its moment.
        let soon = SystemClock.boottime() + Duration::from_millis(30);
        let alarm = alarm(soon).unwrap();
        drop(alarm.readable().await.unwrap());
        assert!(SystemClock.boottime() >= soon);
    }
}
