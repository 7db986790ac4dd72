//! The holes of a file: runs of chunks that were never written and read as zeros.
//!
//! Invariant: runs are sorted, not empty, do not touch each other, and end by 2^43.
//! They are never walked chunk by chunk. Called by `fs` (which keeps them as files change), the
//! charge and `file`.

use std::ops::Range;

use super::PackError;
use super::chunk::{self, CHUNK_SIZE};

/// Runs that an entry may hold. Who would pass it turns the smallest runs into data
/// ([`Holes::limit`]), which costs their charge.
pub const MAX_RUNS: usize = 4096;

/// One more than the greatest chunk index of any file.
const MAX_CHUNK: u64 = 1 << 43;

/// A set of chunk indices, kept as runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Holes {
    runs: Vec<Range<u64>>,
}

impl Holes {
    /// No holes.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// All chunks of a file of `size` bytes that was never written; none when `size` is 0.
    #[must_use]
    pub fn all(size: u64) -> Self {
        let mut holes = Self::default();
        if size > 0 {
            holes.insert(0..chunk::count(size));
        }
        holes
    }

    /// The runs, sorted.
    #[must_use]
    pub fn runs(&self) -> &[Range<u64>] {
        &self.runs
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether chunk `index` is one.
    #[must_use]
    pub fn contains(&self, index: u64) -> bool {
        self.covers(&(index..index.saturating_add(1)))
    }

    /// Whether every chunk of `range` is one.
    #[must_use]
    pub fn covers(&self, range: &Range<u64>) -> bool {
        let at = self.runs.partition_point(|run| run.end <= range.start);
        range.is_empty()
            || self
                .runs
                .get(at)
                .is_some_and(|run| run.start <= range.start && range.end <= run.end)
    }

    /// Whether any chunk of `range` is one.
    #[must_use]
    pub fn touches(&self, range: &Range<u64>) -> bool {
        let at = self.runs.partition_point(|run| run.end <= range.start);
        !range.is_empty() && self.runs.get(at).is_some_and(|run| run.start < range.end)
    }

    /// Adds the chunks of `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        let (mut start, mut end) = (range.start, range.end.min(MAX_CHUNK));
        if start >= end {
            return;
        }
        let from = self.runs.partition_point(|run| run.end < start);
        let to = self.runs.partition_point(|run| run.start <= end);
        for run in self.runs.get(from..to).unwrap_or_default() {
            start = start.min(run.start);
            end = end.max(run.end);
        }
        self.runs.splice(from..to, std::iter::once(start..end));
    }

    /// Takes the chunks of `range` out: they were written, or cut off.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let from = self.runs.partition_point(|run| run.end <= range.start);
        let to = self.runs.partition_point(|run| run.start < range.end);
        let touched = self.runs.get(from..to).unwrap_or_default();
        let mut kept = Vec::new();
        if let Some(first) = touched.first().filter(|run| run.start < range.start) {
            kept.push(first.start..range.start);
        }
        if let Some(last) = touched.last().filter(|run| run.end > range.end) {
            kept.push(range.end..last.end);
        }
        self.runs.splice(from..to, kept);
    }

    /// Takes out every chunk from `count` on.
    pub fn truncate(&mut self, count: u64) {
        self.remove(count..u64::MAX);
    }

    /// The chunks that are holes here and not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        for run in &other.runs {
            rest.remove(run.clone());
        }
        rest
    }

    /// Number of chunks.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }

    /// Number of chunks that lie wholly inside a file of `size` bytes: what the charge counts. A
    /// shorter last chunk is charged as data even where it is a hole.
    #[must_use]
    pub fn whole(&self, size: u64) -> u64 {
        let mut whole = self.clone();
        whole.truncate(size / CHUNK_SIZE);
        whole.count()
    }

    /// Turns the smallest runs into data until at most [`MAX_RUNS`] are left; gives the runs that
    /// are data now, sorted. To be called after each change, before the charge is computed.
    pub fn limit(&mut self) -> Vec<Range<u64>> {
        let excess = self.runs.len().saturating_sub(MAX_RUNS);
        if excess == 0 {
            return Vec::new();
        }
        let mut order: Vec<Range<u64>> = self.runs.clone();
        order.sort_by_key(|run| (run.end - run.start, run.start));
        order.truncate(excess);
        order.sort_by_key(|run| run.start);
        for run in &order {
            self.remove(run.clone());
        }
        order
    }

    /// Checks the runs against the file they belong to and the limits of an entry.
    pub(super) fn check(&self, size: u64) -> Result<(), PackError> {
        if self.runs.len() > MAX_RUNS {
            return Err(PackError::Limit(format!("{MAX_RUNS} runs of holes a file")));
        }
        let end = self.runs.last().map_or(0, |run| run.end);
        if end > 0 && (size == 0 || end > chunk::count(size)) {
            return Err(PackError::Contradiction(
                "a hole lies beyond the end of its file".into(),
            ));
        }
        Ok(())
    }
}

impl FromIterator<Range<u64>> for Holes {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut holes = Self::default();
        for range in ranges {
            holes.insert(range);
        }
        holes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn holes(ranges: &[Range<u64>]) -> Holes {
        ranges.iter().cloned().collect()
    }

    #[test]
    fn touching_runs_become_one() {
        assert_eq!(
            holes(&[0..2, 4..6, 2..4]).runs(),
            std::slice::from_ref(&(0..6))
        );
        let mut one = holes(std::slice::from_ref(&(0..10)));
        one.remove(3..5);
        assert_eq!(one.runs(), &[0..3, 5..10]);
    }

    #[test]
    fn a_short_last_chunk_is_charged_as_data() {
        assert_eq!(Holes::all(CHUNK_SIZE * 4 + 1).count(), 5);
        assert_eq!(Holes::all(CHUNK_SIZE * 4 + 1).whole(CHUNK_SIZE * 4 + 1), 4);
        assert_eq!(Holes::all(CHUNK_SIZE * 4).whole(CHUNK_SIZE * 4), 4);
        assert!(Holes::all(0).is_empty());
    }

    #[test]
    fn no_file_passes_the_limit_of_runs() {
        let mut many: Holes = (0..MAX_RUNS as u64 + 2)
            .map(|i| i * 9..i * 9 + 2 + i % 2)
            .collect();
        let filled = many.limit();
        assert_eq!(filled, vec![0..2, 18..20]);
        assert_eq!(many.runs().len(), MAX_RUNS);
        assert!(many.limit().is_empty());
    }

    proptest! {
        #[test]
        fn runs_are_the_set_that_they_say(
            steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..12), 0..40),
            probe in (0u64..70, 0u64..10),
        ) {
            let (mut runs, mut set) = (Holes::none(), BTreeSet::new());
            for (insert, start, length) in steps {
                let range = start..start + length;
                if insert {
                    runs.insert(range.clone());
                    set.extend(range);
                } else {
                    runs.remove(range.clone());
                    set.retain(|i| !range.contains(i));
                }
            }
            prop_assert_eq!(runs.count(), set.len() as u64);
            prop_assert!(runs.runs().windows(2).all(|w| w[0].end < w[1].start));
            let flat: Vec<u64> = runs.runs().iter().cloned().flatten().collect();
            prop_assert!(flat.iter().eq(set.iter()));
            let range = probe.0..probe.0 + probe.1;
            prop_assert_eq!(runs.covers(&range), range.clone().all(|i| set.contains(&i)));
            prop_assert_eq!(runs.touches(&range), range.clone().any(|i| set.contains(&i)));
        }
    }
}
