//! Byte ranges within one chunk: what of it the stage file holds.
//!
//! Invariant: sorted, not empty, not touching each other.

use std::ops::Range;

/// A set of byte offsets within a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    /// The set of the stored `ranges`; what is malformed in them is merged or left out.
    pub(crate) fn from_stored(ranges: &[(u32, u32)]) -> Self {
        let mut set = Self::default();
        for &(start, end) in ranges {
            set.insert(start..end);
        }
        set
    }

    /// As stored.
    pub(crate) fn as_stored(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// Adds `range`.
    pub(crate) fn insert(&mut self, range: Range<u32>) {
        if range.start >= range.end {
            return;
        }
        let from = self.0.partition_point(|&(_, end)| end < range.start);
        let to = self.0.partition_point(|&(start, _)| start <= range.end);
        let touched = self.0.get(from..to).unwrap_or_default();
        let start = touched
            .first()
            .map_or(range.start, |r| r.0.min(range.start));
        let end = touched.last().map_or(range.end, |r| r.1.max(range.end));
        self.0.splice(from..to, [(start, end)]);
    }

    /// Takes out everything from `len` on.
    pub(crate) fn truncate(&mut self, len: u32) {
        self.0.retain(|&(start, _)| start < len);
        if let Some(last) = self.0.last_mut() {
            last.1 = last.1.min(len);
        }
    }

    /// The parts of `range`, in order, each with whether it is in the set.
    pub(crate) fn parts(&self, range: Range<u32>) -> Vec<(Range<u32>, bool)> {
        let mut parts = Vec::new();
        let mut at = range.start;
        let first = self.0.partition_point(|&(_, end)| end <= range.start);
        for &(start, end) in self.0.get(first..).unwrap_or_default() {
            if start >= range.end {
                break;
            }
            if at < start {
                parts.push((at..start, false));
            }
            let stop = end.min(range.end);
            parts.push((at.max(start)..stop, true));
            at = stop;
        }
        if at < range.end {
            parts.push((at..range.end, false));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_staged_byte_is_never_read_from_below(
            steps in prop::collection::vec((0u32..90, 0u32..20, any::<bool>()), 0..30),
        ) {
            let (mut set, mut model) = (Ranges::default(), [false; 128]);
            for (start, len, cut) in steps {
                if cut {
                    set.truncate(start);
                    model[start as usize..].fill(false);
                } else {
                    set.insert(start..start + len);
                    model[start as usize..(start + len) as usize].fill(true);
                }
            }
            let mut seen = Vec::new();
            for (part, inside) in set.parts(0..128) {
                prop_assert!(!part.is_empty());
                seen.extend(part.map(|_| inside));
            }
            prop_assert_eq!(&seen[..], &model[..]);
            prop_assert!(set.as_stored().windows(2).all(|w| w[0].1 < w[1].0));
        }
    }
}
