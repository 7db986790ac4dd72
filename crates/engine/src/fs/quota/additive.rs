//! What additive accounting (`px-v1`, `px-v2`) adds to a quota: usage on chain only grows, each commit is
//! charged what it sends, and costs an upload unit.
//!
//! Invariant: what was accepted since the last commit is reserved at what a commit sends of it (all of a
//! chunk, where any of it changed), so free bytes never promise what a commit could not pay for. Called by
//! `quota`, which answers as if all of it were its own.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use super::{Claim, Quota};
use crate::fs::FsError;
use crate::pack::chunk::CHUNK_SIZE;
use crate::types::Ino;

/// Units that growth leaves: one, so that a commit of deletes can still be made.
const HELD_UNITS: u64 = 1;

/// Commits and reservations that the allowance does not hold.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// Charges that are not in a final block: sequence of the commit, bytes.
    charges: Vec<(u64, u64)>,
    /// Blocks that charges are in.
    mined: BTreeMap<u64, u64>,
    /// Reserved since the last cut, and for the commit that is on its way.
    taken_bytes: u64,
    cut_bytes: u64,
    /// Chunks that are reserved since the last cut.
    chunks: HashSet<(Ino, u64)>,
    /// How often it was cut.
    cuts: u64,
}

/// What one operation has taken, so that it can be given back.
#[derive(Debug, Default)]
pub(in crate::fs) struct Taken {
    used_delta: i64,
    kept_delta: i64,
    bytes: u64,
    /// Chunks that it was the first to reserve, and the bytes of each.
    chunks: Vec<(Ino, u64, u64)>,
    /// How often the volume had been cut before.
    cuts: u64,
}

impl Taken {
    /// Whether there is nothing to give back.
    pub(in crate::fs) fn is_nothing(&self) -> bool {
        (self.used_delta, self.kept_delta, self.bytes) == (0, 0, 0) && self.chunks.is_empty()
    }

    /// What was used and kept is given back already.
    pub(in crate::fs) fn forget_used(&mut self) {
        (self.used_delta, self.kept_delta) = (0, 0);
    }

    /// What is kept moved by `delta`.
    pub(in crate::fs) fn note_kept(&mut self, delta: i64) {
        self.kept_delta = self.kept_delta.saturating_add(delta);
    }

    /// The charge moved by `delta`.
    pub(in crate::fs) fn note(&mut self, delta: i64) {
        self.used_delta = self.used_delta.saturating_add(delta);
        self.bytes = self.bytes.saturating_add(u64::try_from(delta).unwrap_or(0));
    }
}

impl Quota {
    /// Whether usage on chain only grows.
    #[must_use]
    pub fn is_additive(&self) -> bool {
        self.allowance
            .as_ref()
            .is_some_and(|allowance| allowance.additive)
    }

    /// Upload units that are left when all commits so far are charged; `None` where there are none.
    #[must_use]
    pub fn units_left(&self) -> Option<u64> {
        let left = self.allowance.as_ref()?.uploads_left?;
        Some(left.saturating_sub(self.unreported().count() as u64))
    }

    /// Upload units that the chain was seen with; `None` where there are none.
    #[must_use]
    pub fn units_on_chain(&self) -> Option<u64> {
        self.allowance.as_ref()?.uploads_left
    }

    /// Bytes that a commit may be charged now.
    #[must_use]
    pub fn chargeable_bytes(&self) -> u64 {
        let used = self
            .allowance
            .as_ref()
            .map_or(0, |allowance| allowance.usage_on_chain_bytes);
        let unreported: u64 = self.unreported().fold(0, u64::saturating_add);
        self.size_bytes()
            .saturating_sub(used)
            .saturating_sub(unreported)
    }

    /// Charges that the chain did not have in the block of the allowance, in bytes.
    fn unreported(&self) -> impl Iterator<Item = u64> {
        let seen = self.allowance.as_ref().map_or(0, |seen| seen.seen.block);
        let unsettled = &self.unsettled;
        let charges = unsettled.charges.iter().filter(move |(sequence, _)| {
            let block = unsettled.mined.get(sequence);
            block.is_none_or(|block| *block > seen)
        });
        charges.map(|(_, bytes)| *bytes)
    }

    pub(super) fn additive_free_bytes(&self) -> u64 {
        let unsettled = &self.unsettled;
        self.chargeable_bytes()
            .saturating_sub(unsettled.taken_bytes)
            .saturating_sub(unsettled.cut_bytes)
            .saturating_sub(self.kept_bytes)
    }

    /// Refuses growth where no unit is left for it.
    pub(super) fn check_units(&self) -> Result<(), FsError> {
        match self.units_left() {
            Some(left) if left <= HELD_UNITS => Err(FsError::Quota),
            _ => Ok(()),
        }
    }

    pub(super) fn take(&mut self, bytes: u64) {
        if self.is_additive() {
            let taken = &mut self.unsettled.taken_bytes;
            *taken = taken.saturating_add(bytes);
        }
    }

    pub(super) fn untake(&mut self, bytes: u64) {
        let taken = &mut self.unsettled.taken_bytes;
        *taken = taken.saturating_sub(bytes);
    }

    /// Reserves the chunks that a change of `range` touches, of a file of `size` bytes: what they hold is sent
    /// once more.
    ///
    /// # Errors
    /// [`FsError::Quota`] when they do not fit: nothing is reserved.
    pub(in crate::fs) fn rewrite(
        &mut self,
        taken: &mut Taken,
        ino: Ino,
        range: &Range<u64>,
        size: u64,
        claim: Claim,
    ) -> Result<(), FsError> {
        if !self.is_additive() || range.is_empty() {
            return Ok(());
        }
        let chunks = range.start / CHUNK_SIZE..range.end.div_ceil(CHUNK_SIZE);
        let fresh: Vec<(Ino, u64, u64)> = chunks
            .filter(|index| !self.unsettled.chunks.contains(&(ino, *index)))
            .map(|index| {
                let start = index * CHUNK_SIZE;
                (ino, index, size.saturating_sub(start).min(CHUNK_SIZE))
            })
            .collect();
        let bytes = fresh.iter().map(|(_, _, bytes)| bytes).sum();
        if bytes > self.room_for(claim) {
            return Err(FsError::Quota);
        }
        self.take(bytes);
        let chunks = fresh.iter().map(|(ino, index, _)| (*ino, *index));
        self.unsettled.chunks.extend(chunks);
        taken.chunks.extend(fresh);
        Ok(())
    }

    /// An operation begins to take.
    pub(in crate::fs) fn begin_taking(&self) -> Taken {
        Taken {
            cuts: self.unsettled.cuts,
            ..Taken::default()
        }
    }

    /// The write that [`Quota::rewrite`] reserved chunks for ends at `end`: those behind it are free again.
    pub(in crate::fs) fn end_rewrite(&mut self, taken: &mut Taken, end: u64) {
        let behind = |chunk: &mut (Ino, u64, u64)| chunk.1 * CHUNK_SIZE >= end;
        let chunks = taken.chunks.extract_if(.., behind).collect();
        self.release(0, chunks, taken.cuts);
    }

    /// An operation is made. Where a commit was cut meanwhile it may have come too late for that, so what it took is
    /// reserved for the next.
    pub(in crate::fs) fn keep(&mut self, taken: &Taken) {
        if taken.cuts == self.unsettled.cuts {
            return;
        }
        self.take(taken.bytes);
        for (ino, index, bytes) in &taken.chunks {
            if self.unsettled.chunks.insert((*ino, *index)) {
                self.take(*bytes);
            }
        }
    }

    /// Gives back what an operation took that was not made.
    pub(in crate::fs) fn give_back(&mut self, taken: &Taken) {
        self.used_bytes = self.used_bytes.saturating_add_signed(-taken.used_delta);
        self.kept_bytes = self.kept_bytes.saturating_add_signed(-taken.kept_delta);
        self.release(taken.bytes, taken.chunks.clone(), taken.cuts);
    }

    /// What was cut meanwhile is reserved until the commit ends.
    fn release(&mut self, bytes: u64, chunks: Vec<(Ino, u64, u64)>, cuts: u64) {
        if cuts != self.unsettled.cuts {
            return;
        }
        self.untake(bytes);
        for (ino, index, bytes) in chunks {
            self.unsettled.chunks.remove(&(ino, index));
            self.untake(bytes);
        }
    }

    /// What an earlier run has accepted and not published.
    pub(in crate::fs) fn take_again(&mut self, bytes: u64) {
        self.take(bytes);
    }

    /// A commit is cut: what changes from here on is paid for by the next one.
    pub(in crate::fs) fn begin_cut(&mut self) {
        let unsettled = &mut self.unsettled;
        unsettled.cut_bytes = unsettled.cut_bytes.saturating_add(unsettled.taken_bytes);
        unsettled.taken_bytes = 0;
        unsettled.chunks.clear();
        unsettled.cuts += 1;
    }

    /// The commit is made (or there was none to make), and these charges are not known to be final.
    pub(in crate::fs) fn end_cut(&mut self, charges: Vec<(u64, u64)>) {
        self.unsettled.cut_bytes = 0;
        self.unsettled.charges = charges;
    }

    /// Charges that are not known to be final.
    pub(in crate::fs) fn charges(&self) -> &[(u64, u64)] {
        &self.unsettled.charges
    }

    /// These charges are not known to be final.
    pub(in crate::fs) fn set_charges(&mut self, charges: Vec<(u64, u64)>) {
        self.unsettled.charges = charges;
    }

    /// Where charges are mined: block by sequence.
    pub(in crate::fs) fn set_mined(&mut self, mined: BTreeMap<u64, u64>) {
        self.unsettled.mined = mined;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::allowance;
    use super::*;
    use crate::clock::ManualClock;

    const GIB: u64 = 1 << 30;

    fn additive(units: u64) -> Quota {
        let clock = ManualClock::at(0);
        let allowance = super::super::Allowance {
            additive: true,
            uploads_left: Some(units),
            usage_on_chain_bytes: GIB / 2,
            ..allowance(&clock, GIB)
        };
        Quota::new(Some(allowance), 0)
    }

    #[test]
    fn what_was_deleted_stays_paid_for_until_the_contract_says_otherwise() {
        let mut quota = additive(9);
        assert_eq!(quota.free_bytes(), GIB / 2);
        quota.grow(1 << 20).unwrap();
        quota.adjust(-(1 << 20));
        assert_eq!(quota.free_bytes(), GIB / 2 - (1 << 20));
        assert_eq!(quota.used_bytes(), 0);
        quota.begin_cut();
        assert_eq!(quota.free_bytes(), GIB / 2 - (1 << 20));
        quota.end_cut(vec![(1, 4096)]);
        assert_eq!(quota.free_bytes(), GIB / 2 - 4096);
    }

    #[test]
    fn a_chunk_rewritten_many_times_is_charged_once_per_commit() {
        let mut quota = additive(9);
        let size = 3 * CHUNK_SIZE / 2;
        let before = quota.free_bytes();
        for _ in 0..5 {
            quota
                .rewrite(
                    &mut Taken::default(),
                    Ino(2),
                    &(10..10 + CHUNK_SIZE),
                    size,
                    Claim::Ordinary,
                )
                .unwrap();
        }
        assert_eq!(before - quota.free_bytes(), size);
        quota.begin_cut();
        quota
            .rewrite(
                &mut Taken::default(),
                Ino(2),
                &(10..11),
                size,
                Claim::Ordinary,
            )
            .unwrap();
        assert_eq!(before - quota.free_bytes(), size + CHUNK_SIZE);
        assert_eq!(
            quota.rewrite(
                &mut Taken::default(),
                Ino(3),
                &(0..GIB),
                GIB,
                Claim::Ordinary
            ),
            Err(FsError::Quota),
            "it does not fit"
        );
    }

    #[test]
    fn a_charge_counts_once_whether_the_chain_has_it_or_not() {
        let mut quota = additive(9);
        quota.set_charges(vec![(1, 4096), (2, 8192)]);
        assert_eq!(
            (quota.units_left(), quota.chargeable_bytes()),
            (Some(7), GIB / 2 - 12288)
        );
        // The allowance was seen in block 7, and holds what was mined by then.
        quota.set_mined(BTreeMap::from([(1, 7), (2, 8)]));
        assert_eq!(
            (quota.units_left(), quota.chargeable_bytes()),
            (Some(8), GIB / 2 - 8192)
        );
        // A reorganisation took it back.
        quota.set_mined(BTreeMap::new());
        assert_eq!(quota.units_left(), Some(7));
    }

    #[test]
    fn growth_leaves_one_unit_for_deletes() {
        let clock = ManualClock::at(0);
        assert_eq!(additive(2).check_write(&clock), Ok(()));
        for units in [0, 1] {
            let mut quota = additive(units);
            assert_eq!(quota.check_write(&clock), Err(FsError::Quota));
            assert_eq!(quota.check_change(), Ok(()), "deleting goes on");
        }
    }
}
