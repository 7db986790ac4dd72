//! Growing pauses between tries.

use std::time::Duration;

/// Pauses that double from `first` to `cap`, until [`Backoff::reset`].
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// Begins with `first`, or with `cap` if that is shorter.
    #[must_use]
    pub fn new(first: Duration, cap: Duration) -> Self {
        let first = first.min(cap);
        Self {
            first,
            cap,
            next: first,
        }
    }

    /// The pause before the next try.
    #[must_use = "whoever does not wait needs no back-off"]
    pub fn pause(&mut self) -> Duration {
        self.pause_within(self.cap)
    }

    /// The same, with `cap` in place of the own one: later pauses grow from there.
    #[must_use = "whoever does not wait needs no back-off"]
    pub fn pause_within(&mut self, cap: Duration) -> Duration {
        let pause = self.next.min(cap);
        self.next = pause.saturating_mul(2).min(cap);
        pause
    }

    /// The pause after so many failures in a row; none after no failure.
    #[must_use]
    pub fn after(&self, failures: u32) -> Duration {
        match failures {
            0 => Duration::ZERO,
            _ => {
                let factor = 1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
                self.first.saturating_mul(factor).min(self.cap)
            }
        }
    }

    /// Begins again, because a try succeeded.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Between half of `pause` and all of it, so that many clients do not come back at once.
#[must_use]
pub fn jittered(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(0);
    let half = pause / 2;
    half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn pauses_double_up_to_the_cap_and_begin_again() {
        let mut backoff = Backoff::new(s(1), s(5));
        let pauses: Vec<_> = (0..5).map(|_| backoff.pause()).collect();
        assert_eq!(pauses, [s(1), s(2), s(4), s(5), s(5)]);
        backoff.reset();
        assert_eq!((backoff.pause(), backoff.pause()), (s(1), s(2)));
        assert_eq!((backoff.pause_within(s(3)), backoff.pause()), (s(3), s(3)));
        assert_eq!(backoff.pause(), s(5));
        assert_eq!(Backoff::new(s(9), s(5)).pause(), s(5));
    }

    #[test]
    fn many_failures_pause_no_longer_than_the_cap() {
        let backoff = Backoff::new(s(1), s(5));
        let pauses = [0, 1, 2, 3, 4, 33, u32::MAX].map(|failures| backoff.after(failures));
        assert_eq!(pauses, [s(0), s(1), s(2), s(4), s(5), s(5), s(5)]);
    }

    #[test]
    fn jitter_spreads_pauses_over_their_upper_half() {
        let pauses: Vec<_> = (0..64).map(|_| jittered(s(8))).collect();
        assert!(pauses.iter().all(|p| (s(4)..=s(8)).contains(p)));
        assert!(pauses.iter().any(|p| *p != pauses[0]));
    }
}
