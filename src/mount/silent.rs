//! Contents that a node has just kept somebody waiting for in vain.
//!
//! The kernel reads ahead of a program; where that is answered with an error it asks once more for the very page. The
//! program would wait for both, twice as long as any call may take. So what has just timed out is
//! answered at once when it is asked for again. Called by [`super::miss`] alone.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::fs::Want;

/// For how long: the kernel asks within milliseconds; who comes later may find the node well.
const KEPT: Duration = Duration::from_secs(1);

/// Ranges that are kept at most, the last ones.
const MOST: usize = 64;

/// What has just timed out.
#[derive(Default)]
pub(super) struct Silent {
    ranges: Mutex<VecDeque<(Want, Instant)>>,
}

impl Silent {
    /// `want` was waited for until the deadline of who asked.
    pub(super) fn note(&self, want: &Want) {
        if let Want::Content { .. } = want {
            let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
            ranges.push_back((want.clone(), Instant::now()));
            while ranges.len() > MOST {
                ranges.pop_front();
            }
        }
    }

    /// Whether a part of `want`, which is asked for at `arrived`, was waited for until a moment before.
    pub(super) fn has(&self, want: &Want, arrived: Instant) -> bool {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        ranges.retain(|(_, noted)| arrived.saturating_duration_since(*noted) < KEPT);
        ranges
            .iter()
            .any(|(silent, noted)| *noted <= arrived && meet(silent, want))
    }
}

/// Whether both are ranges of one content that have bytes in common.
fn meet(one: &Want, other: &Want) -> bool {
    let range = |want: &Want| match *want {
        Want::Content {
            slot,
            cid,
            offset,
            len,
            ..
        } => Some(((slot, cid), offset..offset.saturating_add(len))),
        Want::Directory { .. } => None,
    };
    match (range(one), range(other)) {
        (Some((of, first)), Some((other, second))) => {
            of == other && first.start < second.end && second.start < first.end
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::cid::leaf_cid;
    use crate::types::Ino;

    fn content(name: &[u8], offset: u64, len: u64) -> Want {
        Want::Content {
            slot: 1,
            ino: Ino(2),
            cid: leaf_cid(name),
            size: 1 << 30,
            offset,
            len,
        }
    }

    #[test]
    fn what_has_just_timed_out_is_known_where_it_is_asked_for_again_and_not_for_long() {
        let silent = Silent::default();
        let before = Instant::now();
        silent.note(&content(b"a", 4096, 8192));
        let now = Instant::now();
        for (want, known) in [
            (content(b"a", 4096, 4096), true),
            (content(b"a", 0, 4097), true),
            (content(b"a", 0, 4096), false),
            (content(b"a", 12_288, 4096), false),
            (content(b"b", 4096, 4096), false),
        ] {
            assert_eq!(silent.has(&want, now), known, "{want:?}");
        }
        // Who was asking already waits for its own deadline.
        let want = content(b"a", 4096, 4096);
        assert!(!silent.has(&want, before - Duration::from_millis(1)));
        assert!(!silent.has(&want, now + KEPT));
    }
}
