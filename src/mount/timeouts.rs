//! Remembers contents that have just timed out.
//!
//! If readahead fails, the kernel asks once more for the very page in the same thread, so the
//! program would wait twice its deadline. So a repeat by the same thread fails at once; others may
//! find the node well.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use pxfs_base::lock;
use tokio::time::Instant;

use crate::fs::Want;

/// The kernel repeats within milliseconds; a program that retries later is let through.
const KEPT: Duration = Duration::from_secs(1);

/// The most ranges remembered.
const MOST: usize = 64;

/// What has just timed out.
#[derive(Default)]
pub(super) struct Timeouts {
    ranges: Mutex<VecDeque<Kept>>,
}

struct Kept {
    /// The kernel's thread number of the caller.
    thread: u32,
    want: Want,
    noted: Instant,
}

impl Timeouts {
    /// `thread` waited for `want` until its deadline.
    pub(super) fn note(&self, thread: u32, want: &Want) {
        if let Want::Content { .. } = want {
            let (want, noted) = (want.clone(), Instant::now());
            let mut ranges = lock(&self.ranges);
            ranges.push_back(Kept {
                thread,
                want,
                noted,
            });
            while ranges.len() > MOST {
                ranges.pop_front();
            }
        }
    }

    /// Whether `thread`, asking for `want` at `arrived`, has just waited for a part of it.
    pub(super) fn has(&self, thread: u32, want: &Want, arrived: Instant) -> bool {
        let mut ranges = lock(&self.ranges);
        ranges.retain(|kept| arrived.saturating_duration_since(kept.noted) < KEPT);
        ranges
            .iter()
            .any(|kept| kept.thread == thread && kept.noted <= arrived && meet(&kept.want, want))
    }
}

/// Whether both are ranges of one content with common bytes.
fn meet(one: &Want, other: &Want) -> bool {
    let range = |want: &Want| match *want {
        Want::Content {
            slot,
            cid,
            offset,
            len,
            ..
        } => Some(((slot, cid), offset..offset.saturating_add(len))),
        Want::Directory { .. } | Want::Volume { .. } => None,
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
    fn a_recent_timeout_is_remembered_briefly_for_the_same_data() {
        let timeouts = Timeouts::default();
        let before = Instant::now();
        timeouts.note(1, &content(b"a", 4096, 8192));
        let now = Instant::now();
        for (want, known) in [
            (content(b"a", 4096, 4096), true),
            (content(b"a", 0, 4097), true),
            (content(b"a", 0, 4096), false),
            (content(b"a", 12_288, 4096), false),
            (content(b"b", 4096, 4096), false),
        ] {
            assert_eq!(timeouts.has(1, &want, now), known, "{want:?}");
        }
        let want = content(b"a", 4096, 4096);
        assert!(
            !timeouts.has(2, &want, now),
            "another thread was not waiting"
        );
        // A caller that was waiting already keeps its own deadline.
        assert!(!timeouts.has(1, &want, before - Duration::from_millis(1)));
        assert!(!timeouts.has(1, &want, now + KEPT));
    }
}
